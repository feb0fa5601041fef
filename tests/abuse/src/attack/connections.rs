//! Attacks on connections: silent ones, incomplete messages, calls that are given up at once.

use std::convert::Infallible;
use std::future::poll_fn;
use std::time::Duration;

use anyhow::Result;
use http_body_util::StreamBody;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_stream::StreamExt as _;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::codegen::{Bytes, Service as _};
use tonic::transport::Channel;

use super::tally::opened;
use super::{ATTACKER, Target, endpoint, many};

/// Silent connections.
const SILENT: usize = 1_000;

/// Calls that are half sent, and on how many connections.
const HALF_CALLS: usize = 500;
const HALF_CONNECTIONS: usize = 20;

/// Tasks that give up calls.
const RESETTING: usize = 64;

/// A method of the coordinator that everybody may call.
const STATUS: &str = "/shardexec.v1.Blocks/Status";

pub(super) async fn idle(target: &Target) -> Result<()> {
    let address = target.address().to_owned();
    many(SILENT, || {
        let address = address.clone();
        async move {
            if let Ok(mut stream) = connect(&address).await {
                opened();
                // Until the server closes it.
                let _ = stream.read(&mut [0; 16]).await;
            }
        }
    })
    .await
}

async fn connect(address: &str) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((ATTACKER, 0).into())?;
    Ok(socket.connect(address.parse()?).await?)
}

pub(super) async fn half_messages(target: &Target) -> Result<()> {
    let mut channels = Vec::new();
    for _ in 0..HALF_CONNECTIONS {
        channels.push(endpoint(&target.coordinator)?.connect_lazy());
    }
    let next = std::cell::Cell::new(0_usize);
    many(HALF_CALLS, || {
        next.set(next.get() + 1);
        let channel = channels.get(next.get() % HALF_CONNECTIONS).cloned();
        async move {
            if let Some(channel) = channel {
                half_message(channel).await;
            }
        }
    })
    .await
}

/// Sends half of a message of 1 MiB, and waits until the call is answered.
async fn half_message(mut channel: Channel) {
    let length = 1_u32 << 20;
    let mut half = vec![0];
    half.extend(length.to_be_bytes());
    half.resize(half.len() + (1 << 19), 7);
    let frame = Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(half)));
    let frames = tokio_stream::iter([frame]).chain(tokio_stream::pending());
    let request = Request::post(STATUS)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(StreamBody::new(frames)));
    let Ok(request) = request else { return };
    if poll_fn(|context| channel.poll_ready(context)).await.is_ok() {
        opened();
        let _ = channel.call(request).await;
    }
}

pub(super) async fn rapid_reset(target: &Target) -> Result<()> {
    let channel = endpoint(&target.coordinator)?.connect_lazy();
    many(RESETTING, || {
        let mut client = proto::v1::blocks_client::BlocksClient::new(channel.clone());
        async move {
            for _ in 0..1_000 {
                // Dropped after it was sent: the stream is reset.
                let call = client.status(proto::v1::StatusRequest {});
                let _ = tokio::time::timeout(Duration::from_micros(50), call).await;
                opened();
            }
        }
    })
    .await
}
