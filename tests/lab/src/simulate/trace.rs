//! The lines of a trace: events and commands in few words.

use common::id::{AssignmentId, WorkId};

use super::chain::Piece;
use schedule::{Command, Event};

fn work_name(work: &WorkId) -> String {
    let piece = Piece::of(work);
    let kind = if piece.execute { "execute" } else { "recover" };
    format!("{kind} {}:{}+{}", piece.block, piece.first, piece.count)
}

fn name(assignment: &AssignmentId) -> String {
    let AssignmentId { work, shard, incarnation, attempt, epoch } = assignment;
    format!("{} #{attempt} at {shard}/{incarnation} under {epoch}", work_name(work))
}

pub(super) fn event_line(event: &Event) -> String {
    match event {
        Event::Accepted(assignment) => format!("accepted {}", name(assignment)),
        Event::Failed { assignment, fault, reason } => format!("{fault:?} {}: {reason}", name(assignment)),
        Event::Result { assignment, .. } => format!("result {}", name(assignment)),
        Event::Lost { shard, incarnation, cause, .. } => format!("lost {shard}/{incarnation}: {cause:?}"),
        Event::Admit { round, work, .. } => {
            let work: Vec<String> = work.iter().map(|item| work_name(&item.id)).collect();
            format!("admit round {round}: {}", work.join(", "))
        }
        Event::Recut { round, work, parts } => {
            format!("recut {} of round {round} into {}", work_name(work), parts.len())
        }
        Event::Checked { work, .. } => format!("checked {}", work_name(work)),
        Event::State { shard, state, .. } => {
            format!("shard {shard} is at {:?}", state.map(|state| state.height.0))
        }
        other => format!("{other:?}"),
    }
}

pub(super) fn command_line(command: &Command) -> String {
    match command {
        Command::Dispatch(assignment) => format!("dispatch {}", name(assignment)),
        Command::Cancel(assignment) => format!("cancel {}", name(assignment)),
        Command::Use(assignment) => format!("use {}", name(assignment)),
        Command::Ignore(assignment) => format!("ignore {}", name(assignment)),
        Command::Check { work, first, .. } => format!("check {}, done by {}", work_name(work), first.shard),
        Command::Disagreement { first, second, .. } => {
            format!("disagreement: {} against {}", name(first), name(second))
        }
        Command::Reassigned { work, from, .. } => format!("{} is taken from {from}", work_name(work)),
        Command::Recut { work, .. } => format!("cut {}", work_name(work)),
        Command::Convict { work, .. } => format!("convict {}", work_name(work)),
        other => format!("{other:?}"),
    }
}
