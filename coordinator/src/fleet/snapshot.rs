//! The snapshot service: streams whole states in chunks, or the deltas that lead to one. At most two streams
//! of each kind run at once, each with a permit that it holds to its end. A shard has one stream: a newer
//! request ends the one before. The service gives up a slow reader; a reader that leaves ends its stream.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::account::Delta;
use common::endpoint::{PeerError, SnapshotStream};
use common::id::ShardId;
use common::message::{SnapshotHeader, SnapshotPart, SnapshotRequest, StateSummary};
use engine::store::Cursor;
use engine::{ANCESTORS_KEPT, StateError};
use executor_shard::replica::SnapshotSum;
use net::bounded::BoundedExecutor;
use net::limits::MAX_MESSAGE_BYTES;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{FleetError, Shared, Version, World};

/// The most streams at once.
const STREAMS: usize = 2;

/// The longest that a reader may take for one chunk.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// How long a shard waits for its turn before the service asks it to retry later.
const TURN_WITHIN: Duration = Duration::from_secs(60);

/// The approximate size of a chunk, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// The largest delta that is sent as one part, in bytes; a larger one is split.
const MAX_DELTA: usize = MAX_MESSAGE_BYTES / 2;

/// The shortest time between two chunks: it limits each stream to 16 MiB/s.
const CHUNK_EVERY: Duration = Duration::from_millis(64);

/// The pause after a chunk, in multiples of the time that it took to cut the chunk: on a busy machine the
/// stream slows down by itself.
const PAUSE: u32 = 3;

/// The source of the snapshots and deltas that shards fetch.
#[derive(Debug)]
pub(super) struct Snapshots {
    shared: Arc<Shared>,
    /// For streams of whole states.
    permits: Arc<Semaphore>,
    /// For streams of deltas, which are read into memory before they are sent.
    delta_permits: Arc<Semaphore>,
    blocking: BoundedExecutor,
    /// Ends the stream of each shard that has one.
    running: Mutex<HashMap<ShardId, CancellationToken>>,
}

impl Snapshots {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            permits: Arc::new(Semaphore::new(STREAMS)),
            delta_permits: Arc::new(Semaphore::new(STREAMS)),
            running: Mutex::default(),
            blocking: BoundedExecutor::new("snapshots", STREAMS),
        }
    }

    /// Streams the missing deltas, or the newest state as a whole.
    pub(super) async fn stream(&self, request: SnapshotRequest) -> Result<SnapshotStream, PeerError> {
        let world =
            self.shared.world().ok_or_else(|| PeerError::Unreachable("there is no state yet".into()))?;
        let (parts, stream) = mpsc::channel(1);
        let permits = [Arc::clone(&self.delta_permits), Arc::clone(&self.permits)];
        let blocking = self.blocking.clone();
        let name = format!("snapshot-{}", request.shard);
        let shared = Arc::clone(&self.shared);
        let replaced = self.replace(request.shard);
        self.shared.supervisor.spawn_job(name, async move {
            let _over = replaced.clone().drop_guard();
            let whole = async {
                match send_state(&shared, &world, &blocking, permits, request.held, &parts).await {
                    Ok(()) => {}
                    Err(Unsent::Peer(error)) => {
                        send(&parts, Err(error)).await;
                    }
                    Err(Unsent::Damaged(error)) => {
                        send(&parts, Err(PeerError::Unreachable(error.clone()))).await;
                        shared.give_up(error);
                    }
                }
            };
            tokio::select! {
                () = whole => {}
                () = replaced.cancelled() => {}
            }
            Ok::<(), FleetError>(())
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }

    /// Ends the shard's stream, if it has one; returns what ends the next one.
    fn replace(&self, shard: ShardId) -> CancellationToken {
        let next = CancellationToken::new();
        let mut running = self.running.lock();
        // A stream that has ended has cancelled its own token.
        running.retain(|_, stream| !stream.is_cancelled());
        if let Some(former) = running.insert(shard, next.clone()) {
            former.cancel();
        }
        next
    }
}

/// Waits for a permit of either kind of stream.
async fn turn(permits: Arc<Semaphore>) -> Result<OwnedSemaphorePermit, PeerError> {
    match tokio::time::timeout(TURN_WITHIN, permits.acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(PeerError::Overloaded(format!("{STREAMS} snapshots are being streamed already"))),
    }
}

/// Sends the missing deltas or, where they are not known, the whole state. `[deltas, states]` are the permits.
async fn send_state(
    shared: &Shared,
    world: &Arc<dyn World>,
    blocking: &BoundedExecutor,
    [deltas, states]: [Arc<Semaphore>; 2],
    held: Option<StateSummary>,
    parts: &mpsc::Sender<Result<SnapshotPart, PeerError>>,
) -> Result<(), Unsent> {
    if held.is_some() {
        let _permit = turn(deltas).await?;
        if let Sent::All = send_deltas(shared, world, blocking, held, parts).await? {
            return Ok(());
        }
    }
    let _permit = turn(states).await?;
    send_all(world, blocking, parts).await
}

/// Whether deltas lead on from the state that a shard holds.
enum Sent {
    All,
    NotKnown,
}

/// Sends the deltas from the state that a shard holds to the state that shards must hold.
async fn send_deltas(
    shared: &Shared,
    world: &Arc<dyn World>,
    blocking: &BoundedExecutor,
    held: Option<StateSummary>,
    parts: &mpsc::Sender<Result<SnapshotPart, PeerError>>,
) -> Result<Sent, PeerError> {
    let Some(held) = held else { return Ok(Sent::NotKnown) };
    let head = world.newest();
    // The right name with the wrong content: no delta repairs that.
    if held.state == head.state && held.digest != head.digest {
        return Ok(Sent::NotKnown);
    }
    let reader = Arc::clone(world);
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

/// Sends a delta, in parts if it is large. Returns false if the reader did not take it.
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
    /// The world holds damaged data: no reader can ever accept it.
    Damaged(String),
}

impl From<PeerError> for Unsent {
    fn from(error: PeerError) -> Self {
        Self::Peer(error)
    }
}

/// Sends the world's newest state, until its end or until the reader leaves. It also computes the digest of
/// what it sends, because a reader that finds another digest could not tell who is at fault.
async fn send_all(
    world: &Arc<dyn World>,
    blocking: &BoundedExecutor,
    parts: &mpsc::Sender<Result<SnapshotPart, PeerError>>,
) -> Result<(), Unsent> {
    let reader = Arc::clone(world);
    let version = blocking.run(move || reader.snapshot()).await?;
    let version = version.map_err(|error| PeerError::Unreachable(error.to_string()))?;
    let Some(Version { summary, state }) = version else {
        return Err(PeerError::Unreachable("the state cannot be streamed".into()).into());
    };
    let unreadable = |error: StateError| PeerError::Unreachable(error.to_string());
    let reader = Arc::clone(&state);
    let ancestors = blocking.run(move || reader.ancestors(ANCESTORS_KEPT)).await?.map_err(unreadable)?;
    let header = SnapshotHeader { summary, spec: world.spec().as_ref().clone(), ancestors };
    if !send(parts, Ok(SnapshotPart::Header(Box::new(header)))).await {
        return Ok(());
    }
    let mut sum = SnapshotSum::default();
    let mut cursor = Some(Cursor::START);
    while let Some(from) = cursor {
        let began = Instant::now();
        let reader = Arc::clone(&state);
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
            // The stream leaves the machine to block execution for most of the time.
            tokio::time::sleep(CHUNK_EVERY.saturating_sub(began.elapsed()).max(cutting * PAUSE)).await;
        }
    }
    let (found, expected) = (sum.digest(), summary.digest);
    if found != expected {
        let height = summary.state.height;
        return Err(Unsent::Damaged(format!(
            "the ledger is damaged: the state after block {height}: its content digest is {found:#x}, it should be \
             {expected:#x}; `coordinator verify` names what is wrong; move it away and import the chain again"
        )));
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
