//! Waiting for conditions, with deadlines.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Seconds, for deadlines. They are generous: a machine under load makes a test slow, not red.
#[must_use]
pub const fn within(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Looks at a condition until it holds. Returns how long that took.
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
