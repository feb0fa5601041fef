//! Fetches a state from the coordinator into the replica: the missing deltas, or a whole state in
//! chunks. The content digest checks the state at the end.

use std::sync::Arc;
use std::time::Duration;

use common::account::Delta;
use common::endpoint::{CoordinatorEndpoint, PeerError, SnapshotStream};
use common::id::{Incarnation, ShardId, StateRef};
use common::message::{SnapshotHeader, SnapshotPart, SnapshotRequest, StateSummary};
use futures_util::StreamExt;

use crate::change::Change;
use crate::replica::Replica;
use engine::StateError;

/// The longest time for one part. The first part also waits for a free stream.
const PART_WITHIN: Duration = Duration::from_secs(90);

/// Brings the replica to `target`, or to the state that the coordinator has instead. Returns the state
/// reached.
///
/// # Errors
/// [`PeerError`] if the coordinator does not send the state, or sends an inconsistent one.
pub(crate) async fn fetch_state(
    coordinator: &dyn CoordinatorEndpoint,
    replica: &Arc<Replica>,
    change: &Change,
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
                let applied = change.run(move || replica.apply(&delta)).await?;
                applied.map_err(|error| PeerError::Protocol(error.to_string()))?;
            }
            SnapshotPart::Header(header) => {
                return whole_state(parts, replica, change, *header).await;
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

/// Joins the parts of a delta: the first parts, if any, and the part that has just arrived.
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
    change: &Change,
    header: SnapshotHeader,
) -> Result<StateSummary, PeerError> {
    let failed = |error: StateError| PeerError::Protocol(error.to_string());
    let SnapshotHeader { summary, spec, ancestors } = header;
    let filled = Arc::clone(replica);
    let mut filling = change.run(move || filled.begin_filling(ancestors)).await?.map_err(failed)?;
    loop {
        let chunk = match next(&mut parts).await? {
            SnapshotPart::Chunk(chunk) => chunk,
            SnapshotPart::End => break,
            SnapshotPart::Header(_) | SnapshotPart::Delta(_) | SnapshotPart::DeltaPart(_) => {
                return Err(PeerError::Protocol("a snapshot has chunks and an end".into()));
            }
        };
        let taken = change.run(move || filling.take(chunk).map(|()| filling)).await?;
        filling = taken.map_err(failed)?;
    }
    if filling.digest() != summary.digest {
        let (found, expected) = (filling.digest(), summary.digest);
        return Err(PeerError::Protocol(format!(
            "the snapshot's content digest is {found:#x}, {expected:#x} was announced"
        )));
    }
    let replica = Arc::clone(replica);
    let held = change.run(move || replica.finish_filling(summary, spec, filling)).await?;
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
