//! Fetches a state from the coordinator into the replica: the deltas that are missing, or a whole
//! state in chunks, checked at the end by its content digest.

use std::sync::Arc;
use std::time::Duration;

use common::account::Delta;
use common::endpoint::{CoordinatorEndpoint, PeerError, SnapshotStream};
use common::id::{Incarnation, ShardId, StateRef};
use common::message::{SnapshotHeader, SnapshotPart, SnapshotRequest, StateSummary};
use futures_util::StreamExt;
use net::bounded::BoundedExecutor;

use crate::replica::Replica;
use engine::StateError;

/// How long one part may take; the first waits for a free stream as well.
const PART_WITHIN: Duration = Duration::from_secs(90);

/// Brings the replica to `target`, or to what the coordinator has instead; answers where it is then.
///
/// # Errors
/// [`PeerError`] when the coordinator does not send it, or what it sends does not add up.
pub(crate) async fn fetch_state(
    coordinator: &dyn CoordinatorEndpoint,
    replica: &Arc<Replica>,
    blocking: &BoundedExecutor,
    (shard, incarnation): (ShardId, Incarnation),
    target: StateRef,
) -> Result<StateSummary, PeerError> {
    let request = SnapshotRequest { shard, incarnation, state: target, held: replica.summary() };
    let mut parts = coordinator.snapshot(request).await?;
    let mut begun: Option<Delta> = None;
    loop {
        match next(&mut parts).await? {
            SnapshotPart::DeltaPart(part) => begun = Some(joined(begun.take(), part)?),
            SnapshotPart::Delta(last) => {
                let delta = Arc::new(joined(begun.take(), last)?);
                let replica = Arc::clone(replica);
                let applied = blocking.run(move || replica.apply(&delta)).await?;
                applied.map_err(|error| PeerError::Protocol(error.to_string()))?;
            }
            SnapshotPart::Header(header) => {
                return whole_state(parts, replica, blocking, *header).await;
            }
            SnapshotPart::End => {
                let held = replica.summary();
                return held.ok_or_else(|| PeerError::Protocol("the coordinator sent nothing".into()));
            }
            SnapshotPart::Chunk(_) => {
                return Err(PeerError::Protocol("a snapshot begins with its header".into()));
            }
        }
    }
}

/// A delta, or the first parts of one, with the part that has come.
fn joined(begun: Option<Delta>, part: Arc<Delta>) -> Result<Delta, PeerError> {
    let part = Arc::unwrap_or_clone(part);
    let Some(mut delta) = begun else { return Ok(part) };
    if delta.append(part) {
        return Ok(delta);
    }
    Err(PeerError::Protocol("parts of different deltas follow each other".into()))
}

async fn whole_state(
    mut parts: SnapshotStream,
    replica: &Arc<Replica>,
    blocking: &BoundedExecutor,
    header: SnapshotHeader,
) -> Result<StateSummary, PeerError> {
    let failed = |error: StateError| PeerError::Protocol(error.to_string());
    let SnapshotHeader { summary, spec, ancestors } = header;
    let filled = Arc::clone(replica);
    let mut filling = blocking.run(move || filled.begin_filling(ancestors)).await?.map_err(failed)?;
    loop {
        let chunk = match next(&mut parts).await? {
            SnapshotPart::Chunk(chunk) => chunk,
            SnapshotPart::End => break,
            SnapshotPart::Header(_) | SnapshotPart::Delta(_) | SnapshotPart::DeltaPart(_) => {
                return Err(PeerError::Protocol("a snapshot has chunks and an end".into()));
            }
        };
        let taken = blocking.run(move || filling.take(chunk).map(|()| filling)).await?;
        filling = taken.map_err(failed)?;
    }
    if filling.digest() != summary.digest {
        let (found, expected) = (filling.digest(), summary.digest);
        return Err(PeerError::Protocol(format!(
            "the snapshot's content digest is {found:#x}, {expected:#x} was announced"
        )));
    }
    let replica = Arc::clone(replica);
    let held = blocking.run(move || replica.finish_filling(summary, spec, filling)).await?;
    held.map(|()| summary).map_err(failed)
}

async fn next(parts: &mut SnapshotStream) -> Result<SnapshotPart, PeerError> {
    match tokio::time::timeout(PART_WITHIN, parts.next()).await {
        Ok(part) => part
            .transpose()?
            .ok_or_else(|| PeerError::Protocol("the stream of the state ended before its end".into())),
        Err(_) => Err(PeerError::Unreachable(format!("no part of the state within {PART_WITHIN:?}"))),
    }
}
