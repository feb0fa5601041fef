//! The scheduler's bounds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What the scheduler does with a round that no shard can take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NoShards {
    /// The round waits up to the limit, then fails.
    #[default]
    Wait,
    /// The round waits up to the limit, then the coordinator executes the block itself. It never does so if
    /// work of the block may kill its process: then the round fails.
    Local,
    /// The round fails at once.
    Fail,
}

impl fmt::Display for NoShards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wait => "wait",
            Self::Local => "local",
            Self::Fail => "fail",
        })
    }
}

/// The text is not the name of a policy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of wait, local, fail")]
pub struct UnknownPolicy(String);

impl FromStr for NoShards {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "wait" => Ok(Self::Wait),
            "local" => Ok(Self::Local),
            "fail" => Ok(Self::Fail),
            other => Err(UnknownPolicy(other.to_owned())),
        }
    }
}

/// Bounds of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleLimits {
    /// The most assignments outstanding per slot. With two, one runs while the other waits, which hides the
    /// round trip.
    pub depth: usize,
    /// The most tries at one piece of work before the scheduler gives up its round.
    pub max_attempts: u32,
    /// The silence after which a shard counts as lost.
    pub lost_after: Duration,
    /// How long a shard rests after a refusal; the pause doubles with each failure in a row.
    pub refused_pause: Duration,
    /// The longest pause after a refusal.
    pub longest_pause: Duration,
    /// What the scheduler does with a round that no shard can take.
    pub when_no_shards: NoShards,
    /// How long a round waits while no shard can take its work.
    pub no_shard_wait: Duration,
    /// How often the driver ticks. A gap of more than three ticks counts as the coordinator's own absence.
    pub tick: Duration,
    /// An assignment is overdue after this multiple of its kind's median, scaled by its cost.
    pub overdue_factor: u32,
    /// The shortest time after which an assignment is overdue.
    pub overdue_floor: Duration,
    /// The longest time after which an assignment is overdue; it also applies while there is no median.
    pub overdue_after: Duration,
    /// How long a slot may stand still beyond what its transaction's gas allows. After that the shard gets a
    /// strike; after twice the whole time the scheduler retires the slot.
    pub stuck_floor: Duration,
    /// The gas per second that every valid transaction burns at least, measured on the slowest one. A slot
    /// that stands still is not stuck while its gas may last at this rate. Never zero.
    pub slowest_gas: u64,
    /// The gas per second that heavy transactions usually burn. Work whose heaviest transaction takes longer
    /// than `overdue_after` at this rate is overdue only after that longer time. Never zero.
    pub heavy_gas: u64,
    /// The number of strikes that puts a shard into quarantine.
    pub max_strikes: u32,
    /// The time after which the scheduler forgets one strike.
    pub strike_decay: Duration,
    /// The length of the first quarantine; it doubles with each further one until the shard passes its
    /// probation.
    pub quarantine: Duration,
    /// The length that a quarantine never exceeds, however often it has doubled.
    pub longest_quarantine: Duration,
    /// If several shards are lost within this time, their losses blame no transaction.
    pub blame_window: Duration,
    /// The number of finished pieces of work that the scheduler remembers, to compare second results with the
    /// first.
    pub done_kept: usize,
}

/// The most time that a gas limit can allow a transaction.
const LONGEST_TRANSACTION: Duration = Duration::from_secs(24 * 3600);

impl ScheduleLimits {
    /// How long a transaction with this gas limit may take at `slowest_gas`.
    #[must_use]
    pub fn longest(&self, gas: u64) -> Duration {
        at_rate(gas, self.slowest_gas)
    }

    /// How long a heavy transaction with this gas limit usually takes; zero if it is not heavy.
    pub(super) fn heavy(&self, gas: u64) -> Duration {
        let usual = at_rate(gas, self.heavy_gas);
        if usual > self.overdue_after { usual } else { Duration::ZERO }
    }
}

fn at_rate(gas: u64, rate: u64) -> Duration {
    let millis = u128::from(gas) * 1000 / u128::from(rate.max(1));
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)).min(LONGEST_TRANSACTION)
}

impl Default for ScheduleLimits {
    fn default() -> Self {
        Self {
            depth: 2,
            max_attempts: 8,
            lost_after: Duration::from_secs(1),
            refused_pause: Duration::from_millis(5),
            longest_pause: Duration::from_secs(1),
            when_no_shards: NoShards::Wait,
            no_shard_wait: Duration::from_secs(30),
            tick: Duration::from_millis(100),
            overdue_factor: 4,
            overdue_floor: Duration::from_millis(25),
            overdue_after: Duration::from_secs(5),
            stuck_floor: Duration::from_secs(1),
            // The slowest that `cargo run --release --example slowest` found, on a machine with 2.5
            // threads at work on each core: 2.3 Mgas/s for CREATE with 8 MiB of code before Shanghai,
            // 13 for EXTCODESIZE on Frontier, 33 to 40 for ECRECOVER, MODEXP and pairings.
            slowest_gas: 2_000_000,
            // BLAKE2F, the one precompile that runs for minutes in one call: 107 to 113 Mgas/s there.
            heavy_gas: 50_000_000,
            max_strikes: 3,
            strike_decay: Duration::from_secs(60),
            quarantine: Duration::from_secs(30),
            longest_quarantine: Duration::from_secs(600),
            blame_window: Duration::from_millis(250),
            done_kept: 1024,
        }
    }
}
