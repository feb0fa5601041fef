//! The events of a run, printed as they happen: one line per event on standard error.

use indicatif::ProgressBar;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::fleet::{EventKind, FleetEvent};
use tasks::console::tell;

/// Prints events until `stop`. `all` includes the minor events.
pub(super) async fn tell(
    mut events: broadcast::Receiver<FleetEvent>,
    bar: ProgressBar,
    all: bool,
    stop: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            event = events.recv() => event,
        };
        match event {
            Ok(event) if all || is_loud(event.kind) => {
                bar.suspend(|| tell!("{}", line(&event)));
            }
            Ok(_) => {}
            Err(RecvError::Lagged(missed)) => bar.suspend(|| tell!("({missed} events are not shown)")),
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

fn is_loud(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::ShardLost
            | EventKind::PlannedKill
            | EventKind::Waiting
            | EventKind::ShardDoubted
            | EventKind::BlockPostponed
            | EventKind::Alarm
            | EventKind::BlockRefused
    )
}

/// One event as a line.
fn line(event: &FleetEvent) -> String {
    let seconds = event.at.as_secs_f64();
    let shard = event.shard.map_or_else(String::new, |shard| format!(" shard {shard}"));
    let block = event.block.map_or_else(String::new, |block| format!(" block {block}"));
    let what = match event.kind {
        EventKind::ShardJoined => "joined",
        EventKind::ShardSynced => "holds the state after",
        EventKind::ShardLost => "LOST:",
        EventKind::ShardDraining => "drains:",
        EventKind::ShardLeft => "left:",
        EventKind::SlotReturned => "works again:",
        EventKind::ShardDoubted => "is doubted:",
        EventKind::ShardCleared => "is cleared:",
        EventKind::PlannedKill => "is sent SIGKILL:",
        EventKind::Reassigned => "had work that is reassigned:",
        EventKind::BlockCommitted => "verified:",
        EventKind::SideBlockKept => "side block:",
        EventKind::BlockRefused => "refused:",
        EventKind::BlockPostponed => "postponed:",
        EventKind::BlockParked => "PARKED:",
        EventKind::Waiting => "WAITING:",
        EventKind::Alarm => "ALARM:",
    };
    format!("[{seconds:9.4} s]{block}{shard} {what} {}", event.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::id::ShardId;
    use std::time::Duration;

    #[test]
    fn an_event_reads_like_a_sentence() {
        let event = FleetEvent {
            at: Duration::from_millis(1234),
            kind: EventKind::ShardLost,
            shard: Some(ShardId(1)),
            block: None,
            text: "the ping stream ended".into(),
        };
        assert_eq!(line(&event), "[   1.2340 s] shard 1 LOST: the ping stream ended");
    }
}
