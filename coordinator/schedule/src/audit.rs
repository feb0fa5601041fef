//! Checks of the machine from outside: whether its books are consistent, and in which state an event finds
//! its subject. The simulator uses them; they decide nothing.

use common::id::{AssignmentId, Incarnation, ShardId, SlotIndex, WorkId};

use super::{AssignmentFault, Event, LossCause, Scheduler};

/// The state in which an event finds its shard or its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateClass {
    /// The event is about no shard and no work.
    Nothing,
    /// The scheduler does not know the shard, the round or the work.
    Unknown,
    /// The scheduler knows another incarnation of the shard.
    OtherIncarnation,
    /// The shard holds no known state.
    Unsynced,
    /// The shard is idle and could take work.
    Idle,
    /// The shard holds work.
    Working,
    /// The shard rests after a failure.
    Resting,
    /// The shard takes no new work.
    Draining,
    /// The shard is in quarantine.
    Quarantined,
    /// The shard runs a suspect alone.
    AloneWithSuspect,
    /// The work is open and this assignment is its only one.
    OnlyHolder,
    /// The work is open and other shards hold it too.
    OneHolderOfSeveral,
    /// The work is open and this assignment no longer counts.
    LateForOpenWork,
    /// The work is a suspect.
    SuspectWork,
    /// The work's result is used, and another shard must still verify it.
    Unverified,
    /// The work's result is used, and trusted code verifies it.
    Checking,
    /// The work is done.
    DoneWork,
    /// The assignment is the shard's probation.
    Probation,
    /// The assignment is a control: finished work that a shard does once more to show that the fleet is
    /// healthy.
    ControlWork,
    /// At least one round is open.
    RoundsOpen,
}

/// An event together with the state in which it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Transition {
    /// The kind of event.
    pub event: &'static str,
    /// The state in which it arrives.
    pub state: StateClass,
}

impl Scheduler {
    /// The transition that `event` would make now.
    #[must_use]
    pub fn transition(&self, event: &Event) -> Transition {
        let (event, state) = match event {
            Event::Register { shard, incarnation, .. } => ("register", self.of_shard(*shard, *incarnation)),
            Event::State { shard, incarnation, .. } => ("state", self.of_shard(*shard, *incarnation)),
            Event::Heartbeat { shard, incarnation, .. } => ("heartbeat", self.of_shard(*shard, *incarnation)),
            Event::Lost { shard, incarnation, cause, .. } => {
                let name = match cause {
                    LossCause::Died => "lost: died",
                    LossCause::Silent => "lost: silent",
                    LossCause::Left => "lost: left",
                    LossCause::Superseded => "lost: superseded",
                    LossCause::Unfit => "lost: unfit",
                };
                (name, self.of_shard(*shard, *incarnation))
            }
            Event::Draining { shard, incarnation } => ("draining", self.of_shard(*shard, *incarnation)),
            Event::Admit { .. } => ("admit", self.of_all()),
            Event::Recut { work, .. } => ("recut", self.of_work(work)),
            Event::Abandon { round } => {
                let known = self.rounds.contains_key(round);
                ("abandon", if known { StateClass::RoundsOpen } else { StateClass::Unknown })
            }
            Event::Accepted(assignment) => ("accepted", self.of_assignment(assignment)),
            Event::Failed { assignment, fault, .. } => {
                let name = match fault {
                    AssignmentFault::Busy => "failed: busy",
                    AssignmentFault::WrongState => "failed: wrong state",
                    AssignmentFault::Draining => "failed: draining",
                    AssignmentFault::Failed => "failed: failed",
                    AssignmentFault::Panicked => "failed: panicked",
                    AssignmentFault::Corrupt => "failed: corrupt",
                    AssignmentFault::Hopeless => "failed: hopeless",
                    AssignmentFault::Superseded => "failed: superseded",
                };
                (name, self.of_assignment(assignment))
            }
            Event::Result { assignment, .. } => ("result", self.of_assignment(assignment)),
            Event::Blame { shard, .. } => {
                let incarnation = self.shards.alive.get(shard).map(|known| known.incarnation);
                ("blame", incarnation.map_or(StateClass::Unknown, |known| self.of_shard(*shard, known)))
            }
            Event::Checked { work, .. } => ("checked", self.of_work(work)),
            Event::Tick => ("tick", self.of_all()),
        };
        Transition { event, state }
    }

    fn of_all(&self) -> StateClass {
        if self.rounds.is_empty() { StateClass::Nothing } else { StateClass::RoundsOpen }
    }

    fn of_shard(&self, shard: ShardId, incarnation: Incarnation) -> StateClass {
        let Some(known) = self.shards.alive.get(&shard) else { return StateClass::Unknown };
        match known {
            known if known.incarnation != incarnation => StateClass::OtherIncarnation,
            _ if self.strikes.is_quarantined(shard) => StateClass::Quarantined,
            known if known.draining => StateClass::Draining,
            known if known.alone_with.is_some() => StateClass::AloneWithSuspect,
            known if known.state.is_none() => StateClass::Unsynced,
            known if known.rests_until > self.ticked_at => StateClass::Resting,
            known if known.outstanding.is_empty() => StateClass::Idle,
            _ => StateClass::Working,
        }
    }

    fn of_work(&self, work: &WorkId) -> StateClass {
        match self.work.get(work) {
            Some(known) if known.is_suspect() => StateClass::SuspectWork,
            Some(known) if known.is_checked() => StateClass::Checking,
            Some(known) if known.first().is_some() => StateClass::Unverified,
            Some(_) => StateClass::LateForOpenWork,
            None if self.done.get(work).is_some() => StateClass::DoneWork,
            None => StateClass::Unknown,
        }
    }

    fn of_assignment(&self, assignment: &AssignmentId) -> StateClass {
        if self.strikes.is_probation(assignment) {
            return StateClass::Probation;
        }
        if self.control.is_some_and(|control| control.assignment == *assignment) {
            return StateClass::ControlWork;
        }
        match self.work.get(&assignment.work) {
            Some(work) if !work.is_suspect() && work.holds(assignment) => {
                if work.live().len() == 1 {
                    StateClass::OnlyHolder
                } else {
                    StateClass::OneHolderOfSeveral
                }
            }
            _ => self.of_work(&assignment.work),
        }
    }

    /// The retired slots: they stand still and get no work.
    pub fn retired_slots(&self) -> impl Iterator<Item = (ShardId, Incarnation, SlotIndex)> + '_ {
        self.shards
            .alive
            .iter()
            .flat_map(|(shard, known)| known.retired.iter().map(|slot| (*shard, known.incarnation, *slot)))
    }

    /// Checks that the machine's books are consistent.
    ///
    /// # Errors
    /// A description of the inconsistency.
    pub fn audit(&self) -> Result<(), String> {
        for (id, round) in &self.rounds {
            if round.is_done() {
                return Err(format!("round {id} is open and has no work"));
            }
            if let Some(lost) = round.open().iter().find(|work| !self.work.contains_key(work)) {
                return Err(format!("work {lost} of round {id} is forgotten"));
            }
        }
        for (id, work) in &self.work {
            let round = self.rounds.get(&work.round());
            if round.is_none_or(|round| !round.open().contains(id)) {
                return Err(format!("work {id} belongs to no open round"));
            }
            if self.done.get(id).is_some() {
                return Err(format!("work {id} is open, and an earlier round's result of it still counts"));
            }
            for live in work.live() {
                let AssignmentId { shard, incarnation, .. } = live.assignment;
                let holder = self.shards.alive.get(&shard).filter(|known| known.incarnation == incarnation);
                if holder.is_none_or(|known| !known.outstanding.contains_key(&live.assignment)) {
                    return Err(format!("{} is in flight at a shard that does not hold it", live.assignment));
                }
            }
            if work.tries() > self.limits.max_attempts {
                return Err(format!("work {id} was tried {} times", work.tries()));
            }
            let Some(first) = work.first() else { continue };
            if !work.item().verify {
                return Err(format!("work {id} has its result, need not be verified, and is open"));
            }
            if work.live().iter().any(|live| live.assignment.shard == first.assignment.shard) {
                return Err(format!("work {id} would be verified by the shard that did it"));
            }
            if first.checking && work.is_assigned() {
                return Err(format!("work {id} is in flight although trusted code has it"));
            }
        }
        if let Some(id) = self.done.unverified() {
            return Err(format!("work {id} had to be verified and is done with one shard's result only"));
        }
        for (id, shard) in &self.shards.alive {
            for held in shard.outstanding.keys() {
                let side =
                    matches!(self.of_assignment(held), StateClass::Probation | StateClass::ControlWork);
                if !side && !self.is_outstanding(held) {
                    return Err(format!("shard {id} holds {held}, which belongs to no open work"));
                }
            }
            let bound = (self.limits.depth * usize::from(shard.slots)).max(1);
            if shard.outstanding.len() > bound {
                return Err(format!(
                    "shard {id} holds {} assignments, {bound} at most",
                    shard.outstanding.len()
                ));
            }
        }
        Ok(())
    }
}
