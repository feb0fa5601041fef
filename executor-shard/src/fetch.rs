//! Fetches a whole state from the coordinator: a stream of chunks, checked at the end by the
//! content digest.

use std::time::Duration;

use common::chain_spec::ChainSpec;
use common::endpoint::{CoordinatorEndpoint, PeerError, SnapshotStream};
use common::id::{Incarnation, ShardId, StateRef};
use common::message::{SnapshotChunk, SnapshotHeader, SnapshotPart, SnapshotRequest, StateSummary};
use futures_util::StreamExt;

use crate::engine::MemoryState;

/// How long one part may take; the first waits for a free stream as well.
const PART_WITHIN: Duration = Duration::from_secs(90);

/// A state as it was fetched.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) summary: StateSummary,
    pub(crate) spec: ChainSpec,
    pub(crate) state: MemoryState,
}

/// Fetches `target`.
///
/// # Errors
/// [`PeerError`] when the coordinator does not send it, or what it sends does not add up.
pub(crate) async fn fetch_state(
    coordinator: &dyn CoordinatorEndpoint,
    shard: ShardId,
    incarnation: Incarnation,
    target: StateRef,
) -> Result<Fetched, PeerError> {
    let request = SnapshotRequest { shard, incarnation, state: target };
    let mut parts = coordinator.snapshot(request).await?;
    let Some(SnapshotPart::Header(header)) = next(&mut parts).await? else {
        return Err(PeerError::Protocol("a snapshot begins with its header".into()));
    };
    let SnapshotHeader { summary, spec, ancestors, chunks } = *header;
    let mut state = MemoryState::default();
    for (number, hash) in ancestors {
        state.insert_ancestor(number, hash);
    }
    for _ in 0..chunks {
        let Some(SnapshotPart::Chunk(chunk)) = next(&mut parts).await? else {
            return Err(PeerError::Protocol("the snapshot ended before its last chunk".into()));
        };
        state = tokio::task::spawn_blocking(move || take_up(state, chunk))
            .await
            .map_err(|error| PeerError::Protocol(error.to_string()))?;
    }
    if state.digest() != summary.digest {
        let (found, expected) = (state.digest(), summary.digest);
        return Err(PeerError::Protocol(format!(
            "the snapshot's content digest is {found:#x}, {expected:#x} was announced"
        )));
    }
    Ok(Fetched { summary, spec, state })
}

async fn next(parts: &mut SnapshotStream) -> Result<Option<SnapshotPart>, PeerError> {
    match tokio::time::timeout(PART_WITHIN, parts.next()).await {
        Ok(part) => part.transpose(),
        Err(_) => Err(PeerError::Unreachable(format!("no part of the snapshot within {PART_WITHIN:?}"))),
    }
}

fn take_up(mut state: MemoryState, chunk: SnapshotChunk) -> MemoryState {
    for (hash, code) in chunk.code {
        state.insert_code(hash, code);
    }
    for record in chunk.accounts {
        state.insert(record);
    }
    state
}
