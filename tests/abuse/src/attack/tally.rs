//! What an attacker did, counted: an attack that does nothing must not look like one that was withstood.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonic::Status;

/// Calls that were answered, calls that were refused, and connections or half-sent messages that were opened.
static ANSWERED: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static OPENED: AtomicU64 = AtomicU64::new(0);

/// The pause between two reports.
const PAUSE: Duration = Duration::from_millis(250);

/// Counts a call.
pub(super) fn answer<T>(answer: Result<T, Status>) -> Option<T> {
    let counter = if answer.is_ok() { &ANSWERED } else { &REFUSED };
    counter.fetch_add(1, Ordering::Relaxed);
    answer.ok()
}

/// Counts a connection, or a call that is not sent to its end.
pub(super) fn opened() {
    OPENED.fetch_add(1, Ordering::Relaxed);
}

/// Prints the counts to standard output until it is closed.
pub(super) fn report() {
    loop {
        std::thread::sleep(PAUSE);
        let [answered, refused, opened] =
            [&ANSWERED, &REFUSED, &OPENED].map(|counter| counter.load(Ordering::Relaxed));
        if writeln!(std::io::stdout(), "{answered} {refused} {opened}").is_err() {
            return;
        }
    }
}

/// The counts of the last line of a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Acts {
    pub(crate) answered: u64,
    pub(crate) refused: u64,
    pub(crate) opened: u64,
}

impl Acts {
    /// The last complete line; zeros if there is none.
    pub(super) fn parse(report: &str) -> Self {
        let line = report.split_inclusive('\n').rfind(|line| line.ends_with('\n')).unwrap_or_default();
        let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap_or_default());
        let mut next = || numbers.next().unwrap_or_default();
        Self { answered: next(), refused: next(), opened: next() }
    }

    pub(crate) fn sum(self) -> u64 {
        self.answered + self.refused + self.opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complete_line_counts() {
        let acts = Acts { answered: 4, refused: 5, opened: 6 };
        assert_eq!(Acts::parse("1 2 3\n4 5 6\n7 8"), acts);
        assert_eq!(Acts::parse("7 8"), Acts::default());
    }
}
