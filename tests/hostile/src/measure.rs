//! One execution of a target: whether it panics, how much it allocates, and the processor time that it takes.

use std::alloc::System;
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use stats_alloc::StatsAlloc;

use crate::target::Target;

/// The allocator that counts, which the binary has as its global one.
pub type Counter = &'static StatsAlloc<System>;

/// The most processor time of one execution.
pub const MOST_TIME: Duration = Duration::from_secs(1);

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What an execution must not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The decoder panicked.
    Panicked(String),
    /// It allocated more than the target's bound for an input of this size.
    Allocated {
        /// All bytes that it allocated, given back or not.
        bytes: u64,
        /// The most that it may allocate.
        bound: u64,
    },
    /// It took longer than [`MOST_TIME`].
    Slow(Duration),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(message) => write!(f, "it panicked: {message}"),
            Self::Allocated { bytes, bound } => write!(f, "it allocated {bytes} bytes, more than {bound}"),
            Self::Slow(time) => write!(f, "it took {time:?} of processor time"),
        }
    }
}

/// What an execution cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Whether the decoder took the input for valid.
    pub accepted: bool,
    /// All bytes that were allocated.
    pub allocated: u64,
    /// The processor time.
    pub time: Duration,
}

/// Keeps the messages of panics instead of printing them.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|panic| LAST_PANIC.set(panic.to_string())));
}

/// Executes a target on these bytes. No other thread may allocate meanwhile.
pub fn execute(target: &Target, bytes: &[u8], counter: Counter) -> Result<Cost, Finding> {
    let (before, began) = (allocated(counter), thread_time());
    let accepted = catch_unwind(AssertUnwindSafe(|| target.decode(bytes)));
    let (time, allocated) = (thread_time().saturating_sub(began), allocated(counter) - before);
    let accepted = accepted.map_err(|_| Finding::Panicked(LAST_PANIC.take()))?;
    let bound = target.most_allocated(bytes.len());
    if allocated > bound {
        return Err(Finding::Allocated { bytes: allocated, bound });
    }
    if time > MOST_TIME {
        return Err(Finding::Slow(time));
    }
    Ok(Cost { accepted, allocated, time })
}

fn allocated(counter: Counter) -> u64 {
    // A buffer that grows counts with its last size only: it is the same memory, or is given back at once.
    counter.stats().bytes_allocated as u64
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}
