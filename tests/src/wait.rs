//! Waits for conditions, with deadlines.
//!
//! A deadline is many times the need of a quiet machine. The spare capacity of the machine is measured
//! once, when the process first needs it, and every deadline grows accordingly.

use std::fs;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The pause between two checks of a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// How long the probe keeps each core of the machine busy.
const PROBE: Duration = Duration::from_millis(200);

/// The greatest factor by which deadlines grow.
const MOST: f64 = 16.0;

/// A deadline in seconds. Deadlines are generous: a busy machine must make a test slow, not fail it.
#[must_use]
pub const fn within(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The factor by which work may take longer here than on a quiet machine, at least one. It relates the
/// time that busy threads wait for a core to the time that they run.
#[must_use]
pub fn slowness() -> f64 {
    static MEASURED: OnceLock<f64> = OnceLock::new();
    *MEASURED.get_or_init(|| {
        let cores = thread::available_parallelism().map_or(2, usize::from);
        let probes: Vec<_> = (0..cores).map(|_| thread::spawn(probe)).collect();
        let found = probes.into_iter().filter_map(|probe| probe.join().ok().flatten());
        let slowness = found.fold(1.0, f64::max).min(MOST);
        if slowness > 1.5 {
            println!("this machine has other work: deadlines are {slowness:.1} times as long");
        }
        slowness
    })
}

/// Keeps a core busy for a while. Returns how many times longer that took than on a core of its own;
/// `None` if the system does not report it (only Linux does).
fn probe() -> Option<f64> {
    let before = schedule()?;
    let began = Instant::now();
    let mut sum = 0u64;
    while began.elapsed() < PROBE {
        for number in 0..10_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(number));
        }
    }
    let after = schedule()?;
    let (ran, waited) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    (ran > 0).then(|| 1.0 + waited as f64 / ran as f64)
}

/// The time that this thread has run, and the time that it has waited for a core, in nanoseconds.
fn schedule() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The deadline for this machine: longer if the machine has other work.
#[must_use]
pub fn scaled(deadline: Duration) -> Duration {
    deadline.mul_f64(slowness())
}

/// Checks a condition until it holds. Returns the time that it took. The deadline is for a quiet
/// machine, and is longer on a busy one.
///
/// # Errors
/// An error that names `what` if the condition does not hold before the deadline, or the condition's
/// own error.
pub fn wait_until(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let began = Instant::now();
    let deadline = scaled(deadline);
    loop {
        if condition()? {
            return Ok(began.elapsed());
        }
        if began.elapsed() > deadline {
            bail!("waited {:.1} s in vain until {what}", deadline.as_secs_f64());
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_noticed() {
        assert!((1.0..=MOST).contains(&slowness()));
    }
}
