//! Every limit of the wire, with its default. [`PeerLimits::checked`] rejects contradictions.

use std::time::Duration;

/// The largest size of a gRPC message, in bytes, in either direction. Larger payloads travel in chunks.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// The amount of data in one chunk of a payload, in bytes.
pub const CHUNK_BYTES: usize = 1 << 20;

/// The largest message that a shard and its coordinator accept of each other, in bytes: a chunk and its
/// header. Only parts of a snapshot are larger.
pub const MAX_CALL_BYTES: usize = CHUNK_BYTES + (16 << 10);

/// The largest payload that is reassembled from chunks, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = common::codec::MAX_PAYLOAD_BYTES;

/// The largest result of one piece of work, in bytes.
pub const MAX_RESULT_BYTES: usize = 128 << 20;

/// The most bytes of blocks from clients that are being received or decoded.
pub const BLOCKS_IN_FLIGHT: usize = 256 << 20;

/// The most bytes of results from shards that are being received or decoded.
pub const RESULTS_IN_FLIGHT: usize = 512 << 20;

/// The most bytes of work and deltas that a shard is receiving or decoding.
pub const COMMANDS_IN_FLIGHT: usize = 1 << 30;

/// Payloads larger than this, in bytes, are decoded on a blocking thread, not on a worker of the runtime.
pub const DECODE_INLINE_BYTES: usize = 256 << 10;

/// The maximum number of large payloads that are decoded at once.
pub const DECODE_AT_ONCE: usize = 4;

/// The longest time from one chunk of a payload to the next.
pub const CHUNK_WITHIN: Duration = Duration::from_secs(10);

/// Timeouts and liveness limits of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// The longest time to establish a connection.
    pub connect: Duration,
    /// The longest time to wait for the answer to a small command.
    pub call: Duration,
    /// The longest time that a transfer (block, delta, result) may take.
    pub transfer: Duration,
    /// The longest time in which a shard fetches a state. The shard itself limits the time of each part, and pings show
    /// whether it lives, so this limit only has to be longer than any state takes.
    pub sync: Duration,
    /// The interval between pings, and between heartbeats.
    pub beat: Duration,
    /// The silence after which a peer counts as lost.
    pub lost_after: Duration,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            call: Duration::from_secs(5),
            transfer: Duration::from_secs(120),
            sync: Duration::from_secs(6 * 3_600),
            beat: Duration::from_millis(100),
            lost_after: Duration::from_secs(1),
        }
    }
}

/// Why limits are rejected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LimitsError {
    /// A limit is zero.
    #[error("{0} must be more than zero")]
    Zero(&'static str),
    /// `lost_after` is shorter than three beats: a peer would be given up between two beats.
    #[error("the lost limit ({lost_after:?}) must be at least three times the heartbeat interval ({beat:?})")]
    LostTooSoon {
        /// The silence after which a peer counts as lost.
        lost_after: Duration,
        /// The interval between heartbeats. Three of them must fit into `lost_after`.
        beat: Duration,
    },
}

impl PeerLimits {
    /// Returns the limits if none is zero and they do not contradict each other.
    ///
    /// # Errors
    /// [`LimitsError`] with the name of the wrong limit.
    pub fn checked(self) -> Result<Self, LimitsError> {
        for (name, value) in [
            ("the connect timeout", self.connect),
            ("the call timeout", self.call),
            ("the transfer timeout", self.transfer),
            ("the sync timeout", self.sync),
            ("the heartbeat interval", self.beat),
        ] {
            if value.is_zero() {
                return Err(LimitsError::Zero(name));
            }
        }
        if self.lost_after < self.beat * 3 {
            return Err(LimitsError::LostTooSoon { lost_after: self.lost_after, beat: self.beat });
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense() {
        assert!(PeerLimits::default().checked().is_ok());
    }

    #[test]
    fn a_peer_is_not_given_up_between_two_beats() {
        let limits = PeerLimits { lost_after: Duration::from_millis(150), ..Default::default() };
        assert!(matches!(limits.checked(), Err(LimitsError::LostTooSoon { .. })));
    }
}
