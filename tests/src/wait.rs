//! Waiting for conditions, with deadlines.
//!
//! A deadline is what a quiet machine needs many times over. What the machine has to spare is measured
//! once, when the first deadline of the process is judged, and every deadline is as much longer.

use std::fs;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// How long the probe of the machine keeps each of its cores at work.
const PROBE: Duration = Duration::from_millis(200);

/// No machine is taken to be slower than by this.
const MOST: f64 = 16.0;

/// Seconds, for deadlines. They are generous: a machine under load makes a test slow, not red.
#[must_use]
pub const fn within(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// How many times longer than on a quiet machine things may take here, at least one: the time that
/// threads which want to work have waited for a core, beside the time that they had one.
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

/// Works for a while. How many times longer that took than it would have on a core of its own, where
/// the system tells (Linux).
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

/// How long this thread has run, and how long it has waited for a core, in nanoseconds.
fn schedule() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The deadline as it is here: longer where the machine has other work.
#[must_use]
pub fn scaled(deadline: Duration) -> Duration {
    deadline.mul_f64(slowness())
}

/// Looks at a condition until it holds. Returns how long that took. The deadline is for a quiet machine;
/// it is longer on a busy one.
///
/// # Errors
/// When it does not hold before the deadline, naming `what` was waited for; or what the condition
/// itself says.
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
