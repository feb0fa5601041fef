//! Moments from this process's clock and from logs. Both use the machine's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// A moment, as the time since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// The current time.
    ///
    /// # Errors
    /// An error if the machine's clock is set before 1970.
    pub fn now() -> Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
        Ok(Self(since))
    }

    /// The time of a log line such as `PROCESS 2026-01-31T12:00:00.000001Z LEVEL …`; `None` for any other
    /// line.
    #[must_use]
    pub fn of_line(line: &str) -> Option<Self> {
        Self::parse(line.split_whitespace().nth(1)?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let mut date = date.split('-').map(str::parse::<u64>);
        let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
        let (time, micros) = time.split_once('.')?;
        let mut time = time.split(':').map(str::parse::<u64>);
        let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
        if micros.len() != 6 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
            return None;
        }
        let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
        Some(Self(Duration::from_secs(seconds) + Duration::from_micros(micros.parse().ok()?)))
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The days from 1970 to a date of the Gregorian calendar. Years begin in March here, so that a leap
/// year's extra day is its last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year / 4 - year / 100 + year / 400;
    year * 365 + leaps + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_when_it_was_written() {
        let line = "coordinator 2026-11-21T11:46:13.235604Z  INFO serving";
        assert_eq!(Moment::of_line(line), Some(Moment(Duration::from_micros(1_795_261_573_235_604))));
        assert_eq!(Moment::of_line("   0: a backtrace"), None);
    }

    #[test]
    fn days_are_counted_over_leap_years() {
        assert_eq!([days(1970, 1, 1), days(1972, 3, 1), days(2000, 2, 29)], [0, 790, 11_016]);
    }
}
