//! The snapshot service: whole states in chunks, at most two streams at once, each with a permit
//! that it holds to its end. A reader that is slow is given up, one that leaves ends its stream.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes};
use common::account::{AccountRecord, SlotValue};
use common::endpoint::{PeerError, SnapshotStream};
use common::message::{SnapshotChunk, SnapshotHeader, SnapshotPart, SnapshotRequest};
use executor_shard::engine::{StateError, StateView};
use executor_shard::replica::ReplicaView;
use net::bounded::BoundedExecutor;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::{FleetError, Shared};
use crate::ledger::Ledger;

/// Streams at once, at most.
const STREAMS: usize = 2;

/// How long a reader may take for one chunk.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// How long a shard waits for its turn before it is told to come again.
const TURN_WITHIN: Duration = Duration::from_secs(60);

/// About how many bytes one chunk holds.
const CHUNK_BYTES: usize = 1 << 20;

/// What a slot takes in a chunk.
const SLOT_BYTES: usize = 66;

/// What an account takes in a chunk, without its slots.
const ACCOUNT_BYTES: usize = 110;

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

    /// Streams the state that was asked for, or the newest if that one is gone.
    pub(super) async fn stream(&self, request: SnapshotRequest) -> Result<SnapshotStream, PeerError> {
        let ledger =
            self.shared.ledger().ok_or_else(|| PeerError::Unreachable("there is no state yet".into()))?;
        let (parts, stream) = mpsc::channel(1);
        let (permits, blocking) = (Arc::clone(&self.permits), self.blocking.clone());
        let name = format!("snapshot-{}", request.shard);
        self.shared.supervisor.spawn_job(name, async move {
            // The permit is held to the stream's end.
            let turn = tokio::time::timeout(TURN_WITHIN, permits.acquire_owned()).await;
            let Ok(Ok(_permit)) = turn else {
                let busy = PeerError::Overloaded(format!("{STREAMS} snapshots are being streamed already"));
                send(&parts, Err(busy)).await;
                return Ok::<(), FleetError>(());
            };
            if let Err(error) = send_all(&ledger, &blocking, &parts).await {
                send(&parts, Err(error)).await;
            }
            Ok(())
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

/// What one chunk holds.
#[derive(Debug)]
enum Piece {
    Code(Vec<(B256, Bytes)>),
    Accounts(Vec<Address>),
    /// Part of one account's storage.
    Storage(Address, Vec<SlotValue>),
}

/// A state, cut into chunks.
#[derive(Debug)]
struct Cut {
    view: ReplicaView,
    chunks: Vec<Piece>,
}

impl Cut {
    fn new(view: ReplicaView) -> Self {
        let mut chunks = Vec::new();
        let (mut code, mut size) = (Vec::new(), 0);
        for (hash, bytes) in view.all_code() {
            size += bytes.len() + 40;
            code.push((hash, bytes));
            if size >= CHUNK_BYTES {
                chunks.push(Piece::Code(std::mem::take(&mut code)));
                size = 0;
            }
        }
        chunks.push(Piece::Code(code));
        let (mut accounts, mut size) = (Vec::new(), 0);
        for address in view.addresses() {
            let storage = view.storage(&address);
            let slots = storage.len();
            if slots * SLOT_BYTES > CHUNK_BYTES {
                let parts = storage.chunks(CHUNK_BYTES / SLOT_BYTES);
                chunks.extend(parts.map(|part| Piece::Storage(address, part.to_vec())));
                continue;
            }
            size += ACCOUNT_BYTES + slots * SLOT_BYTES;
            accounts.push(address);
            if size >= CHUNK_BYTES {
                chunks.push(Piece::Accounts(std::mem::take(&mut accounts)));
                size = 0;
            }
        }
        chunks.push(Piece::Accounts(accounts));
        Self { view, chunks }
    }

    fn fill(view: &ReplicaView, piece: Piece) -> Result<SnapshotChunk, StateError> {
        let mut chunk = SnapshotChunk::default();
        match piece {
            Piece::Code(code) => chunk.code = code,
            Piece::Accounts(addresses) => {
                for address in addresses {
                    let storage = view.storage(&address);
                    let account = view.account(&address)?.unwrap_or_default();
                    chunk.accounts.push(AccountRecord { address, account, storage });
                }
            }
            Piece::Storage(address, storage) => {
                let account = view.account(&address)?.unwrap_or_default();
                chunk.accounts.push(AccountRecord { address, account, storage });
            }
        }
        Ok(chunk)
    }
}

/// Sends the ledger's newest state, until the end or the reader's.
async fn send_all(
    ledger: &Ledger,
    blocking: &BoundedExecutor,
    parts: &mpsc::Sender<Result<SnapshotPart, PeerError>>,
) -> Result<(), PeerError> {
    let (summary, view) = ledger.head_view().map_err(|error| PeerError::Unreachable(error.to_string()))?;
    let Cut { view, chunks } = blocking.run(move || Cut::new(view)).await?;
    let header = SnapshotHeader {
        summary,
        spec: ledger.spec().as_ref().clone(),
        ancestors: view.all_ancestors(),
        chunks: chunks.len() as u64,
    };
    if !send(parts, Ok(SnapshotPart::Header(Box::new(header)))).await {
        return Ok(());
    }
    for piece in chunks {
        let view = view.clone();
        let filled = blocking.run(move || Cut::fill(&view, piece)).await?;
        let chunk = filled.map_err(|error| PeerError::Protocol(error.to_string()))?;
        if !send(parts, Ok(SnapshotPart::Chunk(chunk))).await {
            return Ok(());
        }
    }
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
