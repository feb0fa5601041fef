//! Conversion between gRPC status codes and the errors of the endpoint traits.

use std::error::Error as _;
use std::time::Duration;

use common::endpoint::PeerError;
use proto::v1;
use tonic::{Code, Status};

use super::convert::explanation;
use crate::channel::root_cause;

/// Why a call has failed, in words: the peer's message, or the innermost cause of a broken connection.
#[must_use]
pub fn reason(status: &Status) -> String {
    match status.source() {
        // The transport's own message hides the cause.
        Some(cause) => root_cause(cause),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}

/// The metadata key under which a refusal says when to call again, in milliseconds (gRPC A6, *Pushback*).
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// How long a caller should wait after a refusal because there was no room.
const ROOM_WITHIN: Duration = Duration::from_secs(1);

/// Refuses a call because a limit is reached. The caller may repeat the call after this time.
#[must_use]
pub fn exhausted(text: impl Into<String>, again_after: Duration) -> Status {
    let mut status = Status::resource_exhausted(text);
    status.metadata_mut().insert(PUSHBACK, milliseconds(again_after).into());
    status
}

/// At least one: a fraction of a millisecond must not become a pause of none.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Refuses a call because there is no room for it. The caller may repeat the call after [`ROOM_WITHIN`].
pub(crate) fn no_room(text: impl Into<String>) -> Status {
    exhausted(text, ROOM_WITHIN)
}

/// Converts a status to the caller's error.
#[must_use]
pub fn from_status(status: &Status) -> PeerError {
    // What a peer says must not fill or forge the log of this side.
    let text = explanation(&reason(status));
    match status.code() {
        // The transport also reports `Internal` and `DataLoss` for a broken connection.
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss => PeerError::Unreachable(text),
        Code::ResourceExhausted => PeerError::Overloaded(text),
        Code::FailedPrecondition => PeerError::NotRegistered(text),
        _ => PeerError::Refused(text),
    }
}

/// Converts an endpoint's error to a status.
#[must_use]
pub fn to_status(error: &PeerError) -> Status {
    let code = match error {
        PeerError::Unreachable(_) => Code::Unavailable,
        PeerError::Overloaded(_) => Code::ResourceExhausted,
        PeerError::NotRegistered(_) => Code::FailedPrecondition,
        PeerError::Refused(_) | PeerError::Command(_) => Code::InvalidArgument,
        PeerError::Protocol(_) => Code::InvalidArgument,
    };
    let text = match error {
        PeerError::Unreachable(text)
        | PeerError::Overloaded(text)
        | PeerError::NotRegistered(text)
        | PeerError::Refused(text)
        | PeerError::Protocol(text) => text.clone(),
        PeerError::Command(refusal) => refusal.to_string(),
    };
    match code {
        Code::ResourceExhausted => no_room(text),
        code => Status::new(code, text),
    }
}

/// Converts an endpoint's error to the failure of one of several calls on a stream.
pub(super) fn to_failure(status: &Status) -> v1::Failure {
    v1::Failure { code: i32::from(status.code()).unsigned_abs(), message: status.message().to_owned() }
}

/// Converts such a failure to the caller's error.
pub(super) fn from_failure(failure: v1::Failure) -> PeerError {
    let code = Code::from_i32(i32::try_from(failure.code).unwrap_or_default());
    from_status(&Status::new(code, failure.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_means_the_same_on_both_sides() {
        for error in [
            PeerError::Unreachable("a".into()),
            PeerError::Overloaded("b".into()),
            PeerError::NotRegistered("c".into()),
            PeerError::Refused("d".into()),
        ] {
            assert_eq!(from_status(&to_status(&error)), error);
            assert_eq!(from_failure(to_failure(&to_status(&error))), error);
        }
    }

    #[test]
    fn what_a_peer_says_is_short_and_on_one_line() {
        let said = format!("a\n2026-01-01 ERROR forged {}", "x".repeat(1 << 20));
        let PeerError::Refused(text) = from_status(&Status::invalid_argument(said)) else {
            unreachable!("another error")
        };
        assert!(text.len() <= 1 << 10 && !text.contains('\n'), "{} bytes", text.len());
    }
}
