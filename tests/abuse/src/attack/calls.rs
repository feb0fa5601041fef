//! Attacks with calls that a client or a shard may make: too many, too large, not read.

use std::time::Duration;

use anyhow::Result;
use proto::v1::blocks_client::BlocksClient;
use proto::v1::{PayloadChunk, PayloadHeader, SnapshotRequest, StatusRequest, WatchRequest};
use tokio_stream::StreamExt as _;

use super::forged::impostor;
use super::tally::{answer, opened};
use super::{Target, endpoint, many};

/// Blocks that are half sent.
const HALF_BLOCKS: usize = 128;

/// The size that each announces, and the chunks of 1 MiB that are sent of it.
const ANNOUNCED: u64 = 15 << 20;
const SENT: usize = 14;

/// Clients that ask for the status without end, each on a connection of its own, and how long one of them waits that
/// is refused.
const GREEDY: usize = 1_000;
const GREEDY_PAUSE: Duration = Duration::from_millis(10);

/// The time between the first calls of two of them: a server closes the oldest of too many silent connections.
const GREEDY_STEP: Duration = Duration::from_millis(1);

/// Streams that are not read.
const EVENTS: usize = 1_000;
const SNAPSHOTS: usize = 150;

/// How long a stream that is not read is kept.
const KEPT: Duration = Duration::from_secs(60);

pub(super) async fn half_blocks(target: &Target) -> Result<()> {
    let endpoint = endpoint(&target.coordinator)?;
    many(HALF_BLOCKS, || {
        let mut client = BlocksClient::new(endpoint.connect_lazy());
        async move {
            let header =
                PayloadHeader { size: ANNOUNCED, digest: vec![7; 32].into(), epoch: None, assignment: None };
            let data = vec![0_u8; 1 << 20];
            let chunks = (0..SENT).map(move |place| PayloadChunk {
                header: (place == 0).then(|| header.clone()),
                data: data.clone().into(),
            });
            opened();
            let _ = client.submit_block(tokio_stream::iter(chunks).chain(tokio_stream::pending())).await;
        }
    })
    .await
}

pub(super) async fn greedy_status(target: &Target) -> Result<()> {
    let endpoint = endpoint(&target.coordinator)?;
    let next = std::cell::Cell::new(0);
    many(GREEDY, || {
        let mut client = BlocksClient::new(endpoint.connect_lazy());
        next.set(next.get() + 1);
        let begins = GREEDY_STEP * next.get();
        async move {
            tokio::time::sleep(begins).await;
            loop {
                if answer(client.status(StatusRequest {}).await).is_none() {
                    tokio::time::sleep(GREEDY_PAUSE).await;
                }
            }
        }
    })
    .await
}

pub(super) async fn unread_events(target: &Target) -> Result<()> {
    let endpoint = endpoint(&target.coordinator)?;
    many(EVENTS, || {
        let mut client = BlocksClient::new(endpoint.connect_lazy());
        async move {
            if let Some(stream) = answer(client.watch(WatchRequest {}).await) {
                tokio::time::sleep(KEPT).await;
                drop(stream);
            }
        }
    })
    .await
}

pub(super) async fn unread_snapshots(target: &Target) -> Result<()> {
    let channel = endpoint(&target.coordinator)?.connect_lazy();
    let shards = target.shards.clone();
    let next = std::cell::Cell::new(0_usize);
    many(SNAPSHOTS, || {
        let mut client = impostor(channel.clone());
        next.set(next.get() + 1);
        let shard = shards.get(next.get() % shards.len().max(1)).cloned();
        async move {
            let Some(shard) = shard else { return };
            let request =
                SnapshotRequest { shard: shard.id, incarnation: shard.incarnation, state: None, held: None };
            if let Some(stream) = answer(client.snapshot(request).await) {
                tokio::time::sleep(KEPT).await;
                drop(stream);
            }
        }
    })
    .await
}
