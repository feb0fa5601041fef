//! A turn: the handling of one event.

use std::time::Duration;

use super::Command;

/// The time at which the scheduler handles an event, and the commands that it has ordered so far.
///
/// The time does not change within a turn, and commands are carried out in the order in which they were
/// ordered.
#[derive(Debug)]
pub(super) struct Turn {
    now: Duration,
    commands: Vec<Command>,
}

impl Turn {
    /// A turn at `now` without commands.
    pub(super) fn new(now: Duration) -> Self {
        Self { now, commands: Vec::new() }
    }

    /// The time of the event.
    pub(super) fn now(&self) -> Duration {
        self.now
    }

    /// Adds a command for the driver.
    pub(super) fn order(&mut self, command: Command) {
        self.commands.push(command);
    }

    /// Ends the turn. The driver must carry out the commands in this order.
    pub(super) fn into_commands(self) -> Vec<Command> {
        self.commands
    }
}
