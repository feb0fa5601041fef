//! Payloads: values of any size, announced with size and digest and sent in chunks. The receiver checks
//! them before it allocates or decodes.

use std::time::Duration;

use alloy_primitives::B256;
use common::codec::{self, PayloadHasher};
use prost::bytes::Bytes;
use proto::v1::{Assignment, Epoch, PayloadChunk, PayloadHeader};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::status::no_room;
use crate::budget::{BudgetFull, Reservation};
use crate::limits::{CHUNK_BYTES, CHUNK_WITHIN};

/// A complete received payload whose digest is right.
#[derive(Debug)]
pub struct ReceivedPayload {
    /// The data of all chunks, joined.
    pub bytes: Bytes,
    /// The digest of the bytes. The receiver computed it, and it is the announced one.
    pub digest: B256,
    /// The sender's epoch, if the sender stated one.
    pub epoch: Option<Epoch>,
    /// The assignment to which the payload belongs, if the sender stated one.
    pub assignment: Option<Assignment>,
    /// The room that the payload takes, until this is dropped.
    pub room: Option<Reservation>,
}

/// Why a payload is rejected.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The stream broke off.
    #[error("the transfer broke off: {0}")]
    Broken(Box<Status>),
    /// The first chunk carries no header.
    #[error("the first chunk has no header")]
    NoHeader,
    /// The announced size is above the limit.
    #[error("the payload is {size} bytes long, more than the limit of {limit}")]
    TooLarge {
        /// The size that the header announces, in bytes.
        size: u64,
        /// The most bytes that the receiver accepts as one payload here.
        limit: usize,
    },
    /// The number of bytes differs from the announced one.
    #[error("the payload has {got} bytes, {announced} were announced")]
    WrongSize {
        /// The size that the header announces, in bytes.
        announced: u64,
        /// The number of bytes received.
        got: usize,
    },
    /// The digest differs from the announced one.
    #[error("the payload is damaged: its digest differs from the announced one")]
    Damaged {
        /// The assignment to which the payload belongs, if the sender stated one.
        assignment: Option<Assignment>,
    },
    /// The header is refused: its payload is not received.
    #[error("{status}")]
    Unwanted {
        /// The answer that refuses it.
        status: Box<Status>,
        /// Whether the whole payload has been read, so that the stream can be read on.
        whole: bool,
    },
    /// Nothing more of the payload arrived.
    #[error("nothing more of the payload arrived for {0:?}")]
    Stalled(Duration),
    /// There is no room for the payload.
    #[error(transparent)]
    NoRoom(#[from] BudgetFull),
    /// The payload did not arrive in time.
    #[error("the payload did not arrive within {0:?}")]
    TooSlow(Duration),
}

impl PayloadError {
    /// Whether the payload has been read to its end, so that the next one of the stream can be read.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Unwanted { whole: true, .. })
    }
}

impl From<PayloadError> for Status {
    fn from(error: PayloadError) -> Self {
        match error {
            PayloadError::Broken(status) | PayloadError::Unwanted { status, .. } => *status,
            PayloadError::TooLarge { .. } => Status::out_of_range(error.to_string()),
            PayloadError::NoRoom(_) => no_room(error.to_string()),
            _ => Status::data_loss(error.to_string()),
        }
    }
}

/// Splits a payload into chunks.
pub fn chunks(
    bytes: impl Into<Bytes>,
    digest: B256,
    epoch: Option<Epoch>,
    assignment: Option<Assignment>,
) -> impl Iterator<Item = PayloadChunk> + Send + 'static {
    let mut rest: Bytes = bytes.into();
    let size = rest.len() as u64;
    let digest = Bytes::copy_from_slice(digest.as_slice());
    let mut header = Some(PayloadHeader { size, digest, epoch, assignment });
    std::iter::from_fn(move || {
        if rest.is_empty() && header.is_none() {
            return None;
        }
        let data = rest.split_to(rest.len().min(CHUNK_BYTES));
        Some(PayloadChunk { header: header.take(), data })
    })
}

/// The longest time that a payload may take to arrive.
const RECEIVE_WITHIN: Duration = Duration::from_secs(120);

/// Reassembles a payload of at most `limit` bytes within a limited time, and checks its size and
/// digest. `room` counts its bytes.
///
/// # Errors
/// [`PayloadError`] with the reason for the rejection.
pub async fn receive<S>(
    stream: &mut S,
    limit: usize,
    room: Reservation,
) -> Result<ReceivedPayload, PayloadError>
where
    S: Stream<Item = Result<PayloadChunk, Status>> + Unpin,
{
    let whole = async {
        let first = next_chunk(stream).await?.ok_or(PayloadError::NoHeader)?;
        reassemble(first, stream, limit, room).await
    };
    let whole = tokio::time::timeout(RECEIVE_WITHIN, whole).await;
    whole.unwrap_or(Err(PayloadError::TooSlow(RECEIVE_WITHIN)))
}

/// Reassembles the next of several payloads if `admit` wants it by its header; `None` if the stream has ended
/// before it. The time limit begins with the payload.
///
/// # Errors
/// [`PayloadError`] with the reason for the rejection.
pub(super) async fn receive_next<S>(
    stream: &mut S,
    limit: usize,
    room: Reservation,
    admit: impl Fn(&PayloadHeader) -> Result<(), Status>,
) -> Result<Option<ReceivedPayload>, PayloadError>
where
    S: Stream<Item = Result<PayloadChunk, Status>> + Unpin,
{
    let Some(first) = stream.next().await else { return Ok(None) };
    let first = first.map_err(broken)?;
    if let Some(header) = &first.header
        && let Err(status) = admit(header)
    {
        let whole = first.data.len() as u64 == header.size;
        return Err(PayloadError::Unwanted { status: Box::new(status), whole });
    }
    let whole = reassemble(first, stream, limit, room);
    let whole = tokio::time::timeout(RECEIVE_WITHIN, whole).await;
    whole.unwrap_or(Err(PayloadError::TooSlow(RECEIVE_WITHIN))).map(Some)
}

fn broken(status: Status) -> PayloadError {
    PayloadError::Broken(Box::new(status))
}

/// The next chunk of a payload that has begun; `None` if the stream has ended.
async fn next_chunk<S>(stream: &mut S) -> Result<Option<PayloadChunk>, PayloadError>
where
    S: Stream<Item = Result<PayloadChunk, Status>> + Unpin,
{
    match tokio::time::timeout(CHUNK_WITHIN, stream.next()).await {
        Ok(chunk) => chunk.transpose().map_err(broken),
        Err(_) => Err(PayloadError::Stalled(CHUNK_WITHIN)),
    }
}

/// Reassembles a payload whose first chunk has arrived. It takes no chunk of the payload after it.
async fn reassemble<S>(
    first: PayloadChunk,
    stream: &mut S,
    limit: usize,
    mut room: Reservation,
) -> Result<ReceivedPayload, PayloadError>
where
    S: Stream<Item = Result<PayloadChunk, Status>> + Unpin,
{
    let header = first.header.ok_or(PayloadError::NoHeader)?;
    let size = usize::try_from(header.size).unwrap_or(usize::MAX);
    if size > limit {
        return Err(PayloadError::TooLarge { size: header.size, limit });
    }
    let wrong_size = |got| PayloadError::WrongSize { announced: header.size, got };
    room.add(first.data.len()).await?;
    let mut digest = PayloadHasher::default();
    digest.update(&first.data);
    let bytes = if first.data.len() == size {
        first.data
    } else {
        let mut bytes = first.data.to_vec();
        drop(first.data);
        while bytes.len() < size {
            let Some(chunk) = next_chunk(stream).await? else { return Err(wrong_size(bytes.len())) };
            let data = chunk.data;
            // Without this check a peer could send empty chunks for ever.
            if data.is_empty() {
                return Err(wrong_size(bytes.len()));
            }
            if bytes.len() + data.len() > bytes.capacity() {
                grow(&mut bytes, data.len(), size, &mut room).await?;
            }
            digest.update(&data);
            bytes.extend_from_slice(&data);
        }
        bytes.into()
    };
    if bytes.len() != size {
        return Err(wrong_size(bytes.len()));
    }
    let digest = digest.digest();
    if digest.as_slice() != header.digest.as_ref() {
        return Err(PayloadError::Damaged { assignment: header.assignment });
    }
    let (epoch, assignment) = (header.epoch, header.assignment);
    Ok(ReceivedPayload { bytes, digest, epoch, assignment, room: Some(room) })
}

/// Makes room for `more` bytes. The buffer grows with the received bytes, not with the announced size; what it
/// could hold is counted, not only what it holds.
async fn grow(
    bytes: &mut Vec<u8>,
    more: usize,
    size: usize,
    room: &mut Reservation,
) -> Result<(), PayloadError> {
    let capacity = (2 * bytes.len()).min(size).max(bytes.len() + more);
    room.add(capacity - bytes.len()).await?;
    bytes.reserve_exact(capacity - bytes.len());
    Ok(())
}

/// Decodes a payload whose digest was checked when it arrived.
pub(super) fn decode<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Status> {
    codec::decode(what, bytes, codec::MAX_PAYLOAD_BYTES)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use common::codec::payload_digest;

    use super::*;
    use crate::budget::Budget;
    use crate::identity::Account;

    fn room(bytes: usize) -> Reservation {
        Budget::new("payloads", 2 * bytes).open(Account::Address([127, 0, 0, 1].into()))
    }

    fn of(bytes: Vec<u8>) -> impl Iterator<Item = PayloadChunk> {
        let digest = payload_digest(&bytes);
        chunks(bytes, digest, None, None)
    }

    async fn round_trip(bytes: Vec<u8>, limit: usize) -> Result<ReceivedPayload, PayloadError> {
        let mut stream = tokio_stream::iter(of(bytes).map(Ok));
        receive(&mut stream, limit, room(limit)).await
    }

    #[tokio::test]
    async fn payloads_of_every_size_survive() {
        for size in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let bytes = vec![7; size];
            assert_eq!(round_trip(bytes.clone(), 4 * CHUNK_BYTES).await.unwrap().bytes, bytes, "{size}");
        }
    }

    #[tokio::test]
    async fn a_payload_over_the_limit_is_refused_by_its_announcement() {
        assert!(matches!(round_trip(vec![1; 100], 99).await, Err(PayloadError::TooLarge { size: 100, .. })));
    }

    #[tokio::test]
    async fn a_truncated_payload_is_refused() {
        let mut stream = tokio_stream::iter(of(vec![7; 2 * CHUNK_BYTES]).take(1).map(Ok));
        let error = receive(&mut stream, 4 * CHUNK_BYTES, room(4 * CHUNK_BYTES)).await.unwrap_err();
        assert!(matches!(error, PayloadError::WrongSize { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_damaged_payload_is_refused() {
        let damaged = of(vec![7; 100]).map(|mut chunk| {
            chunk.data = Bytes::from(vec![8; 100]);
            Ok(chunk)
        });
        let error = receive(&mut tokio_stream::iter(damaged), 1000, room(1000)).await.unwrap_err();
        assert!(matches!(error, PayloadError::Damaged { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_payload_is_kept_only_where_there_is_room() {
        let bytes = vec![7; 3 * CHUNK_BYTES];
        let budget = Budget::new("payloads", 4 * CHUNK_BYTES);
        let open = || budget.open(Account::Address([127, 0, 0, 1].into()));
        let error = receive(&mut tokio_stream::iter(of(bytes).map(Ok)), 4 * CHUNK_BYTES, open()).await;
        assert!(matches!(error, Err(PayloadError::NoRoom(_))), "{error:?}");
        let small = vec![7; 2 * CHUNK_BYTES];
        let taken =
            receive(&mut tokio_stream::iter(of(small.clone()).map(Ok)), 4 * CHUNK_BYTES, open()).await;
        let second =
            receive(&mut tokio_stream::iter(of(small.clone()).map(Ok)), 4 * CHUNK_BYTES, open()).await;
        assert!(matches!(second, Err(PayloadError::NoRoom(_))), "the first one is not handled yet");
        drop(taken.unwrap());
        receive(&mut tokio_stream::iter(of(small).map(Ok)), 4 * CHUNK_BYTES, open()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_payload_that_stands_still_is_dropped() {
        let begun = of(vec![7; 2 * CHUNK_BYTES]).take(1).map(Ok);
        let mut stream = tokio_stream::iter(begun).chain(futures_util::stream::pending());
        let error = receive(&mut stream, 4 * CHUNK_BYTES, room(4 * CHUNK_BYTES)).await.unwrap_err();
        assert!(matches!(error, PayloadError::Stalled(CHUNK_WITHIN)), "{error}");
    }
}
