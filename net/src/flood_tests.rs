//! Floods of HTTP/2 frames that cost their sender nothing: each ends with its connection, or is read no faster than it
//! is answered. The client is written by hand, because no library sends such frames.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::serve::{Bound, Health};

/// The time within which a server must answer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(30);

/// More than the buffers of both ends of a connection hold.
const FAR_TOO_MUCH: usize = 256 << 20;

// Types of frames, and an error code (RFC 9113, sections 6 and 7).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call of the health service, without compression (RFC 7541).
fn call() -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let path = text("/grpc.health.v1.Health/Watch");
    let (kind, te) = (text("application/grpc"), [text("te"), text("trailers")].concat());
    [&[0x83, 0x86, 0x01][..], &text("a"), &[0x04], &path, &[0x0f, 0x10], &kind, &[0x00], &te].concat()
}

/// A client that sends whatever it is given.
struct Client(TcpStream);

impl Client {
    async fn of(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        Self(stream)
    }

    /// Sends as much as the server takes until it has closed the connection. The rest does not matter.
    async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.0.write_all(bytes)).await;
    }

    /// Why the server ends the connection: the code in its last frame.
    async fn farewell(&mut self) -> Option<u32> {
        let mut code = None;
        loop {
            let mut head = [0; 9];
            // The server may reset a connection with bytes that it has not read.
            let Ok(read) = timeout(PATIENCE, self.0.read_exact(&mut head)).await else {
                panic!("the server leaves the connection open")
            };
            if read.is_err() {
                return code;
            }
            let [a, b, c, kind, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            if self.0.read_exact(&mut payload).await.is_err() {
                return code;
            }
            if kind == GOAWAY {
                code = payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap()));
                return code;
            }
        }
    }
}

/// Lets a scenario meet a server, and checks that the server then still answers others.
async fn attacked(attack: impl AsyncFnOnce(SocketAddr)) {
    let socket = Bound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (address, stop) = (socket.address(), CancellationToken::new());
    let server = tokio::spawn(socket.serve(Routes::default(), Health::new(), stop.clone()));
    attack(address).await;
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut honest = HealthClient::new(channel);
    let asked = honest.check(HealthCheckRequest { service: String::new() });
    assert_eq!(timeout(PATIENCE, asked).await.unwrap().unwrap().get_ref().status, 1);
    stop.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_flood_of_calls_that_are_taken_back_ends_the_connection() {
    attacked(async |address| {
        let mut client = Client::of(address).await;
        let taken_back = |stream: u32| {
            let opened = frame(HEADERS, END_HEADERS, stream, &call());
            [opened, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        };
        client.send(&(0..10_000).flat_map(|number| taken_back(2 * number + 1)).collect::<Vec<_>>()).await;
        assert_eq!(client.farewell().await, Some(ENHANCE_YOUR_CALM));
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_streams_with_errors_ends_the_connection() {
    attacked(async |address| {
        let mut client = Client::of(address).await;
        // No window may grow by nothing: the server resets the stream.
        let wrong = |stream: u32| {
            let opened = frame(HEADERS, END_HEADERS, stream, &call());
            [opened, frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes())].concat()
        };
        client.send(&(0..10_000).flat_map(|number| wrong(2 * number + 1)).collect::<Vec<_>>()).await;
        assert!(client.farewell().await.is_some());
    })
    .await;
}

#[tokio::test]
async fn headers_without_an_end_end_the_connection() {
    attacked(async |address| {
        let mut client = Client::of(address).await;
        let begin = frame(HEADERS, 0, 1, &call());
        // Literal fields of 10 bytes each, none of which is kept for later.
        let fields = [0x00, 0x03, b'x', b'-', b'y', 0x04, b'n', b'o', b'n', b'e'].repeat(1_000);
        let more = frame(CONTINUATION, 0, 1, &fields);
        client.send(&[begin, more.repeat(1_000)].concat()).await;
        assert!(client.farewell().await.is_some());
    })
    .await;
}

#[tokio::test]
async fn pings_are_read_no_faster_than_their_answers_are() {
    attacked(async |address| {
        let mut client = Client::of(address).await;
        let pings = frame(PING, 0, 0, &[7; 8]).repeat(10_000);
        let mut sent = 0;
        // The answers are not read. So the server stops reading, and the client cannot write any more.
        while timeout(Duration::from_secs(1), client.0.write_all(&pings)).await.is_ok_and(|sent| sent.is_ok())
        {
            sent += pings.len();
            assert!(sent < FAR_TOO_MUCH, "the server reads on");
        }
    })
    .await;
}
