//! The snapshot service: whole states in chunks, at most two streams at once, each with a permit
//! that it holds to its end. A reader that is slow is given up, one that leaves ends its stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::account::Delta;
use common::endpoint::{PeerError, SnapshotStream};
use common::message::{SnapshotHeader, SnapshotPart, SnapshotRequest, StateSummary};
use engine::replica_view::Base;
use engine::store::Cursor;
use engine::{ANCESTORS_KEPT, StateError};
use executor_shard::replica::SnapshotSum;
use net::bounded::BoundedExecutor;
use net::limits::MAX_MESSAGE_BYTES;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::{FleetError, Shared};
use ledger::{Ledger, LedgerError};

/// Streams at once, at most.
const STREAMS: usize = 2;

/// How long a reader may take for one chunk.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// How long a shard waits for its turn before it is told to come again.
const TURN_WITHIN: Duration = Duration::from_secs(60);

/// About how many bytes one chunk holds.
const CHUNK_BYTES: usize = 1 << 20;

/// The largest delta that travels as one part; a larger one is split.
const MAX_DELTA: usize = MAX_MESSAGE_BYTES / 2;

/// How often a chunk is sent, at most: 16 MiB/s for each stream.
const CHUNK_EVERY: Duration = Duration::from_millis(64);

/// For so many times the time that a chunk took to be cut the stream pauses: on a busy machine it
/// slows down by itself.
const PAUSE: u32 = 3;

/// The service.
#[derive(Debug)]
pub(super) struct Snapshots {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    blocking: BoundedExecutor,
}

impl Snapshots {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            permits: Arc::new(Semaphore::new(STREAMS)),
            blocking: BoundedExecutor::new("snapshots", STREAMS),
        }
    }

    /// Streams the deltas that are missing, or the newest state as a whole.
    pub(super) async fn stream(&self, request: SnapshotRequest) -> Result<SnapshotStream, PeerError> {
        let ledger =
            self.shared.ledger().ok_or_else(|| PeerError::Unreachable("there is no state yet".into()))?;
        let (parts, stream) = mpsc::channel(1);
        let (permits, blocking) = (Arc::clone(&self.permits), self.blocking.clone());
        let name = format!("snapshot-{}", request.shard);
        let shared = Arc::clone(&self.shared);
        self.shared.supervisor.spawn_job(name, async move {
            match send_deltas(&shared, &ledger, &blocking, request.held, &parts).await {
                Ok(Sent::NotKnown) => {}
                Ok(Sent::All) => return Ok::<(), FleetError>(()),
                Err(error) => {
                    send(&parts, Err(error)).await;
                    return Ok(());
                }
            }
            // The permit is held to the stream's end.
            let turn = tokio::time::timeout(TURN_WITHIN, permits.acquire_owned()).await;
            let Ok(Ok(_permit)) = turn else {
                let busy = PeerError::Overloaded(format!("{STREAMS} snapshots are being streamed already"));
                send(&parts, Err(busy)).await;
                return Ok(());
            };
            match send_all(&ledger, &blocking, &parts).await {
                Ok(()) => {}
                Err(Unsent::Peer(error)) => {
                    send(&parts, Err(error)).await;
                }
                Err(Unsent::Damaged(error)) => {
                    send(&parts, Err(PeerError::Unreachable(error.to_string()))).await;
                    shared.give_up(error.to_string());
                }
            }
            Ok(())
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

/// Whether deltas lead on from what a shard holds.
enum Sent {
    All,
    NotKnown,
}

/// Sends what leads on from the state that a shard holds to where shards are to be.
async fn send_deltas(
    shared: &Shared,
    ledger: &Arc<Ledger>,
    blocking: &BoundedExecutor,
    held: Option<StateSummary>,
    parts: &mpsc::Sender<Result<SnapshotPart, PeerError>>,
) -> Result<Sent, PeerError> {
    let Some(held) = held else { return Ok(Sent::NotKnown) };
    let head = ledger.head().summary();
    // The right name and the wrong content: no delta mends that.
    if held.state == head.state && held.digest != head.digest {
        return Ok(Sent::NotKnown);
    }
    let reader = Arc::clone(ledger);
    let found = blocking.run(move || reader.deltas_from(held.state)).await?;
    let found = found.map_err(|error| PeerError::Unreachable(error.to_string()))?;
    let route = shared.route.lock().clone();
    let mut way = found.unwrap_or_default();
    let end = way.last().map_or(held.state, |last| last.to);
    let on = route.iter().position(|delta| delta.from == end);
    way.extend(on.and_then(|on| route.get(on..)).into_iter().flatten().cloned());
    if way.is_empty() && held.state != head.state {
        return Ok(Sent::NotKnown);
    }
    for delta in way {
        if !send_delta(parts, delta).await {
            return Ok(Sent::All);
        }
    }
    send(parts, Ok(SnapshotPart::End)).await;
    Ok(Sent::All)
}

/// Sends a delta, in parts if it is large. False if the reader did not take it.
async fn send_delta(parts: &mpsc::Sender<Result<SnapshotPart, PeerError>>, delta: Arc<Delta>) -> bool {
    if delta.weight() <= MAX_DELTA {
        return send(parts, Ok(SnapshotPart::Delta(delta))).await;
    }
    let mut pieces = delta.split(MAX_DELTA).into_iter().map(Arc::new).peekable();
    while let Some(piece) = pieces.next() {
        let part = if pieces.peek().is_some() { SnapshotPart::DeltaPart } else { SnapshotPart::Delta };
        if !send(parts, Ok(part(piece))).await {
            return false;
        }
    }
    true
}

/// Why a whole state was not sent.
enum Unsent {
    Peer(PeerError),
    /// What the ledger holds is not what it should be: no reader can ever take it.
    Damaged(LedgerError),
}

impl From<PeerError> for Unsent {
    fn from(error: PeerError) -> Self {
        Self::Peer(error)
    }
}

/// Sends the ledger's newest state, until the end or the reader's. What is sent is summed up here too: a
/// reader that finds another digest could not say whose fault it is.
async fn send_all(
    ledger: &Ledger,
    blocking: &BoundedExecutor,
    parts: &mpsc::Sender<Result<SnapshotPart, PeerError>>,
) -> Result<(), Unsent> {
    let tip = ledger.head();
    let Base::Disk(state) = tip.view().base() else {
        return Err(PeerError::Unreachable("the ledger's state cannot be streamed".into()).into());
    };
    let unreadable = |error: StateError| PeerError::Unreachable(error.to_string());
    let reader = Arc::clone(state);
    let ancestors = blocking.run(move || reader.ancestors(ANCESTORS_KEPT)).await?.map_err(unreadable)?;
    let header = SnapshotHeader { summary: tip.summary(), spec: ledger.spec().as_ref().clone(), ancestors };
    if !send(parts, Ok(SnapshotPart::Header(Box::new(header)))).await {
        return Ok(());
    }
    let mut sum = SnapshotSum::default();
    let mut cursor = Some(Cursor::START);
    while let Some(from) = cursor {
        let began = Instant::now();
        let reader = Arc::clone(state);
        let cut = move || {
            let (chunk, next) = reader.chunk(from, CHUNK_BYTES)?;
            sum.add(&chunk);
            Ok((chunk, next, sum))
        };
        let (chunk, next, so_far) = blocking.run(cut).await?.map_err(unreadable)?;
        sum = so_far;
        let cutting = began.elapsed();
        if !send(parts, Ok(SnapshotPart::Chunk(chunk))).await {
            return Ok(());
        }
        cursor = next;
        if cursor.is_some() {
            // The stream leaves the machine to those who execute blocks for most of the time.
            tokio::time::sleep(CHUNK_EVERY.saturating_sub(began.elapsed()).max(cutting * PAUSE)).await;
        }
    }
    let (found, expected) = (sum.digest(), tip.summary().digest);
    if found != expected {
        let what = format!("the state after block {}", tip.summary().state.height);
        let reason = format!(
            "its content digest is {found:#x}, it should be {expected:#x}; `coordinator verify` names what is wrong"
        );
        return Err(Unsent::Damaged(LedgerError::Damaged { what, reason }));
    }
    send(parts, Ok(SnapshotPart::End)).await;
    Ok(())
}

/// Whether the reader took the part in time.
async fn send(
    parts: &mpsc::Sender<Result<SnapshotPart, PeerError>>,
    part: Result<SnapshotPart, PeerError>,
) -> bool {
    match tokio::time::timeout(READ_WITHIN, parts.send(part)).await {
        Ok(sent) => sent.is_ok(),
        Err(_) => {
            tracing::warn!("a snapshot's reader is too slow and was given up");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use alloy_primitives::{Address, B256, U256};
    use common::account::{AccountDelta, SlotValue};
    use common::id::{Height, StateRef, WorldId};

    use super::*;

    #[tokio::test]
    async fn a_delta_larger_than_a_message_is_sent_in_parts_that_join_to_it() {
        let state = StateRef { world: WorldId::default(), height: Height(1), block_hash: B256::ZERO };
        let slot = |slot: usize| SlotValue { slot: U256::from(slot), value: U256::from(1) };
        let storage: Vec<SlotValue> = (0..3 * MAX_DELTA / 66).map(slot).collect();
        let account = AccountDelta { address: Address::ZERO, account: None, wiped: true, storage };
        let (accounts, code) = (vec![account], Vec::new());
        let delta = Arc::new(Delta { from: state, to: state, accounts, code, digest: U256::from(1) });
        let (parts, mut received) = mpsc::channel(1);
        let sent = Arc::clone(&delta);
        let sender = tokio::spawn(async move { send_delta(&parts, sent).await });
        let mut joined: Option<Delta> = None;
        let mut ended = false;
        while let Some(part) = received.recv().await {
            assert!(!ended, "a part follows the last one");
            let part = match part.unwrap() {
                SnapshotPart::DeltaPart(part) => part,
                SnapshotPart::Delta(last) => {
                    ended = true;
                    last
                }
                other => panic!("{other:?}"),
            };
            assert!(part.weight() <= MAX_DELTA);
            let part = Arc::unwrap_or_clone(part);
            match &mut joined {
                Some(begun) => assert!(begun.append(part)),
                None => joined = Some(part),
            }
        }
        assert!(ended && sender.await.unwrap());
        assert_eq!(joined, Some(delta.as_ref().clone()));
    }
}
