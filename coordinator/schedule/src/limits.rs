//! The scheduler's bounds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What happens to a round that no shard can take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NoShards {
    /// It waits up to the limit, then fails.
    #[default]
    Wait,
    /// It waits up to the limit, then the coordinator executes the block itself.
    Local,
    /// It fails at once.
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

/// No such policy.
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
    /// Assignments outstanding per slot: one being done and one waiting hide the round trip.
    pub depth: usize,
    /// Tries at one piece of work before its round is given up.
    pub max_attempts: u32,
    /// Silence after which a shard is lost.
    pub lost_after: Duration,
    /// How long a shard that refused is left alone; doubled with each failure in a row.
    pub refused_pause: Duration,
    /// The longest such pause.
    pub longest_pause: Duration,
    /// What happens to a round that no shard can take.
    pub when_no_shards: NoShards,
    /// How long a round waits with no shard that could take its work.
    pub no_shard_wait: Duration,
    /// How often the driver ticks; a longer gap is the coordinator's own absence.
    pub tick: Duration,
    /// An assignment is overdue after so many times the median of its kind, scaled by its cost.
    pub overdue_factor: u32,
    /// It is never overdue earlier.
    pub overdue_floor: Duration,
    /// It is overdue at the latest then, and before there is a median.
    pub overdue_after: Duration,
    /// How long a slot may stand still beside what its transaction's gas allows. After that the shard
    /// gets a strike, and after twice as long the slot is retired.
    pub stuck_floor: Duration,
    /// Gas per second that every valid transaction burns, as measured in the slowest one: while its gas
    /// may last at this rate, a slot that stands still is not stuck. Never zero.
    pub slowest_gas: u64,
    /// Gas per second of heavy transactions as a rule. Work with a transaction that takes longer than
    /// `overdue_after` at this rate is overdue after that time. Never zero.
    pub heavy_gas: u64,
    /// Strikes that put a shard into quarantine.
    pub max_strikes: u32,
    /// One strike is forgotten in this time.
    pub strike_decay: Duration,
    /// The first quarantine; doubled whenever a probation fails.
    pub quarantine: Duration,
    /// The longest quarantine.
    pub longest_quarantine: Duration,
    /// Losses of several shards within this time blame no transaction.
    pub blame_window: Duration,
    /// Finished work that is remembered, to compare second results with the first.
    pub done_kept: usize,
}

/// No transaction's gas allows more time than this.
const LONGEST_TRANSACTION: Duration = Duration::from_secs(24 * 3600);

impl ScheduleLimits {
    /// How long a transaction with this gas limit may take.
    #[must_use]
    pub fn longest(&self, gas: u64) -> Duration {
        at_rate(gas, self.slowest_gas)
    }

    /// How long a heavy transaction with this gas limit takes as a rule; nothing if it is not heavy.
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
