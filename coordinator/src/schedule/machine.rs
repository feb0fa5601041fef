//! The machine itself.

use std::collections::BTreeMap;
use std::time::Duration;

use common::id::{AssignmentId, Attempt, Epoch, Incarnation, RoundId, ShardId, WorkId};

use super::fleet::{Shard, Shards};
use super::{Command, Event, Fault, ScheduleLimits, WorkItem};

/// A piece of work that is not done.
#[derive(Debug, Clone)]
struct Work {
    item: WorkItem,
    round: RoundId,
    tries: u32,
    /// Assignments that may still bring its result, and since when.
    live: Vec<(AssignmentId, Duration)>,
    /// Who had it and lost it, until it is given to another.
    lost_by: Option<AssignmentId>,
    /// Overdue: to be given to another shard as well.
    duplicate: bool,
}

impl Work {
    fn holders(&self) -> Vec<AssignmentId> {
        self.live.iter().map(|(assignment, _)| *assignment).collect()
    }
}

#[derive(Debug, Clone)]
struct Round {
    /// Work in order of preference; done work is taken out.
    open: Vec<WorkId>,
    prefer: Vec<ShardId>,
    /// Since when no shard could take any of its work, if that is so.
    stranded_since: Option<Duration>,
}

/// The scheduler.
#[derive(Debug, Clone)]
pub struct Scheduler {
    epoch: Epoch,
    limits: ScheduleLimits,
    shards: Shards,
    rounds: BTreeMap<RoundId, Round>,
    work: BTreeMap<WorkId, Work>,
    ticked_at: Duration,
    /// Numbers every assignment, so that none is ever mistaken for another.
    attempts: u32,
}

impl Scheduler {
    /// A scheduler without shards or work.
    #[must_use]
    pub fn new(epoch: Epoch, limits: ScheduleLimits, now: Duration) -> Self {
        Self {
            epoch,
            limits,
            shards: Shards::default(),
            rounds: BTreeMap::new(),
            work: BTreeMap::new(),
            ticked_at: now,
            attempts: 0,
        }
    }

    /// When [`Event::Tick`] has something to do, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Duration {
        let tick = self.ticked_at + self.limits.tick;
        let rests = self.shards.alive.values().map(|shard| shard.rests_until);
        rests.filter(|until| *until > self.ticked_at).fold(tick, Duration::min)
    }

    /// Assignments that a shard holds.
    #[must_use]
    pub fn outstanding(&self, shard: ShardId) -> usize {
        self.shards.alive.get(&shard).map_or(0, |known| known.outstanding.len())
    }

    /// Whether an assignment may still bring the result of open work.
    #[must_use]
    pub fn is_outstanding(&self, assignment: &AssignmentId) -> bool {
        self.work
            .get(&assignment.work)
            .is_some_and(|work| work.live.iter().any(|(live, _)| live == assignment))
    }

    /// Takes an event and says what follows from it.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Register { shard, incarnation, slots } => {
                self.register(now, shard, incarnation, slots, &mut commands);
            }
            Event::State { shard, incarnation, state } => {
                if let Some(known) = self.shards.get_mut(shard, incarnation) {
                    known.state = state;
                }
            }
            Event::Heartbeat { shard, incarnation, progress } => {
                if let Some(known) = self.shards.get_mut(shard, incarnation) {
                    if known.progress.0 != progress {
                        known.progress = (progress, now);
                    }
                    known.heard_at = known.heard_at.max(now);
                }
            }
            Event::Lost { shard, incarnation, reason } => {
                self.lose(shard, incarnation, reason, &mut commands);
            }
            Event::Draining { shard, incarnation } => {
                if let Some(known) = self.shards.get_mut(shard, incarnation) {
                    known.draining = true;
                }
            }
            Event::Admit { round, work, prefer } => self.admit(round, work, prefer, &mut commands),
            Event::Abandon { round } => self.abandon(round, &mut commands),
            Event::Accepted(_) => {}
            Event::Failed { assignment, fault, reason } => {
                self.failed(now, assignment, fault, reason, &mut commands);
            }
            Event::Result(assignment) => self.result(assignment, &mut commands),
            Event::Tick => self.tick(now, &mut commands),
        }
        self.dispatch(now, &mut commands);
        commands
    }

    /// A newcomer with a living shard's id is refused. The same life may register again (it has not
    /// heard from the coordinator for a while, which may be the coordinator's own absence): it goes
    /// on with what it holds.
    fn register(
        &mut self,
        now: Duration,
        shard: ShardId,
        incarnation: Incarnation,
        slots: u16,
        commands: &mut Vec<Command>,
    ) {
        if let Some(known) = self.shards.alive.get_mut(&shard) {
            if known.incarnation != incarnation {
                commands.push(Command::Turned(shard));
                return;
            }
            known.heard_at = known.heard_at.max(now);
            commands.push(Command::Admitted(shard));
            return;
        }
        let joined = Shard {
            incarnation,
            slots: slots.max(1),
            state: None,
            draining: false,
            heard_at: now,
            progress: (0, now),
            rests_until: now,
            outstanding: Default::default(),
        };
        self.shards.alive.insert(shard, joined);
        commands.push(Command::Admitted(shard));
        commands.push(Command::Sync(shard));
    }

    /// The one path by which a shard is lost.
    fn lose(
        &mut self,
        shard: ShardId,
        incarnation: Incarnation,
        reason: String,
        commands: &mut Vec<Command>,
    ) {
        if self.shards.get_mut(shard, incarnation).is_none() {
            return;
        }
        let Some(known) = self.shards.alive.remove(&shard) else { return };
        commands.push(Command::Evict { shard, incarnation, reason });
        for assignment in known.outstanding {
            self.release(&assignment);
        }
    }

    /// The one path by which work becomes open again: its assignment came to nothing.
    fn release(&mut self, assignment: &AssignmentId) {
        if let Some(work) = self.work.get_mut(&assignment.work)
            && let Some(position) = work.live.iter().position(|(live, _)| live == assignment)
        {
            work.live.swap_remove(position);
            if work.live.is_empty() {
                work.lost_by = Some(*assignment);
            }
        }
    }

    fn admit(
        &mut self,
        round: RoundId,
        items: Vec<WorkItem>,
        prefer: Vec<ShardId>,
        commands: &mut Vec<Command>,
    ) {
        if items.is_empty() {
            commands.push(Command::Finish(round));
            return;
        }
        let open = items.iter().map(|item| item.id).collect();
        for item in items {
            let work = Work { item, round, tries: 0, live: Vec::new(), lost_by: None, duplicate: false };
            self.work.insert(item.id, work);
        }
        self.rounds.insert(round, Round { open, prefer, stranded_since: None });
    }

    fn abandon(&mut self, round: RoundId, commands: &mut Vec<Command>) {
        let Some(round) = self.rounds.remove(&round) else { return };
        for id in round.open {
            let Some(work) = self.work.remove(&id) else { continue };
            for assignment in work.holders() {
                self.forget(&assignment);
                commands.push(Command::Cancel(assignment));
            }
        }
    }

    /// The shard no longer holds the assignment.
    fn forget(&mut self, assignment: &AssignmentId) {
        if let Some(shard) = self.shards.get_mut(assignment.shard, assignment.incarnation) {
            shard.outstanding.remove(assignment);
        }
    }

    fn failed(
        &mut self,
        now: Duration,
        assignment: AssignmentId,
        fault: Fault,
        reason: String,
        commands: &mut Vec<Command>,
    ) {
        self.forget(&assignment);
        if !self.is_outstanding(&assignment) {
            return;
        }
        self.release(&assignment);
        let AssignmentId { shard, incarnation, work: id, .. } = assignment;
        let rest = now + self.limits.refused_pause;
        match fault {
            Fault::Busy => {
                if let Some(known) = self.shards.get_mut(shard, incarnation) {
                    known.rests_until = rest;
                }
                // It was never begun: that is no try.
                if let Some(work) = self.work.get_mut(&id) {
                    work.tries = work.tries.saturating_sub(1);
                    work.lost_by = None;
                }
            }
            Fault::WrongState => {
                if let Some(known) = self.shards.get_mut(shard, incarnation) {
                    known.state = None;
                    commands.push(Command::Sync(shard));
                }
            }
            Fault::Draining => {
                if let Some(known) = self.shards.get_mut(shard, incarnation) {
                    known.draining = true;
                }
            }
            Fault::Failed => {
                if let Some(known) = self.shards.get_mut(shard, incarnation) {
                    known.rests_until = rest;
                }
            }
            Fault::Superseded => self.lose(shard, incarnation, reason.clone(), commands),
        }
        let spent = self.work.get(&id).is_some_and(|work| work.tries >= self.limits.max_attempts);
        if spent {
            let attempts = self.limits.max_attempts;
            self.give_up(id, format!("{attempts} attempts failed, the last: {reason}"), commands);
        }
    }

    /// The round that the work belongs to cannot be done by shards.
    fn give_up(&mut self, id: WorkId, reason: String, commands: &mut Vec<Command>) {
        let Some(round) = self.work.get(&id).map(|work| work.round) else { return };
        self.abandon(round, commands);
        commands.push(Command::Fail { round, stranded: false, reason });
    }

    /// The first sound result for a piece of work counts, whoever it is from.
    fn result(&mut self, assignment: AssignmentId, commands: &mut Vec<Command>) {
        self.forget(&assignment);
        // A later epoch's work is not this coordinator's, whatever its id.
        let ours = assignment.epoch <= self.epoch;
        let Some(work) = ours.then(|| self.work.remove(&assignment.work)).flatten() else {
            commands.push(Command::Ignore(assignment));
            return;
        };
        commands.push(Command::Use(assignment));
        for other in work.holders().into_iter().filter(|other| *other != assignment) {
            self.forget(&other);
            commands.push(Command::Cancel(other));
        }
        if let Some(round) = self.rounds.get_mut(&work.round) {
            round.open.retain(|id| *id != assignment.work);
            if round.open.is_empty() {
                self.rounds.remove(&work.round);
                commands.push(Command::Finish(work.round));
            }
        }
    }

    fn tick(&mut self, now: Duration, commands: &mut Vec<Command>) {
        let gap = now.saturating_sub(self.ticked_at);
        self.ticked_at = now;
        // A gap in the driver's own ticks is the coordinator's absence, nobody else's.
        if gap > self.limits.tick * 3 {
            for shard in self.shards.alive.values_mut() {
                shard.heard_at = (shard.heard_at + gap.saturating_sub(self.limits.tick)).min(now);
            }
            for round in self.rounds.values_mut() {
                round.stranded_since = round.stranded_since.map(|since| (since + gap).min(now));
            }
            for work in self.work.values_mut() {
                for (_, since) in &mut work.live {
                    *since = (*since + gap).min(now);
                }
            }
        }
        self.overdue(now, commands);
        let silent: Vec<(ShardId, Incarnation, Duration)> = self
            .shards
            .alive
            .iter()
            .map(|(id, shard)| (*id, shard.incarnation, now.saturating_sub(shard.heard_at)))
            .filter(|(_, _, silence)| *silence > self.limits.lost_after)
            .collect();
        for (shard, incarnation, silence) in silent {
            self.lose(shard, incarnation, format!("no heartbeat for {} ms", silence.as_millis()), commands);
        }
        let stranded: Vec<RoundId> = self
            .rounds
            .iter()
            .filter(|(_, round)| {
                round
                    .stranded_since
                    .is_some_and(|since| now.saturating_sub(since) > self.limits.no_shard_wait)
            })
            .map(|(id, _)| *id)
            .collect();
        for round in stranded {
            self.abandon(round, commands);
            let waited = self.limits.no_shard_wait;
            commands.push(Command::Fail {
                round,
                stranded: true,
                reason: format!(
                    "no shard could take its work for {waited:?}; start one, or look why none joins"
                ),
            });
        }
    }

    /// The overdue rule: a slow slot or a lost message costs a second try elsewhere, not the block.
    fn overdue(&mut self, now: Duration, commands: &mut Vec<Command>) {
        let limit = self.limits.overdue_after;
        let mut given_up = Vec::new();
        for work in self.work.values_mut() {
            for (assignment, since) in &work.live {
                let age = now.saturating_sub(*since);
                work.duplicate |= age > limit && work.live.len() == 1;
                let shard = self.shards.alive.get(&assignment.shard);
                let stands_still = shard.is_none_or(|shard| now.saturating_sub(shard.progress.1) > limit);
                if age > limit * 3 && stands_still {
                    given_up.push(*assignment);
                }
            }
        }
        for assignment in given_up {
            self.forget(&assignment);
            self.release(&assignment);
            commands.push(Command::Cancel(assignment));
        }
    }

    /// Gives open work to shards that can take it.
    fn dispatch(&mut self, now: Duration, commands: &mut Vec<Command>) {
        for round in self.rounds.values_mut() {
            let mut waits = false;
            for id in &round.open {
                let wanted = |work: &&mut Work| work.live.is_empty() || work.duplicate;
                let Some(work) = self.work.get_mut(id).filter(wanted) else { continue };
                let (base, holders) = (work.item.base, work.holders());
                let lost_by = work.lost_by.map(|lost| lost.shard);
                let depth = self.limits.depth;
                let chosen = self.shards.choose(base, depth, now, &round.prefer, &holders, lost_by);
                let Some((shard, known)) =
                    chosen.and_then(|shard| Some((shard, self.shards.alive.get_mut(&shard)?)))
                else {
                    if work.duplicate {
                        continue;
                    }
                    waits = true;
                    // Work of one round has one base: what one cannot get, the next cannot either.
                    break;
                };
                work.tries += 1;
                work.duplicate = false;
                self.attempts = self.attempts.wrapping_add(1);
                let assignment = AssignmentId {
                    work: *id,
                    shard,
                    incarnation: known.incarnation,
                    attempt: Attempt(self.attempts),
                    epoch: self.epoch,
                };
                known.outstanding.insert(assignment);
                let from = work.lost_by.take().or_else(|| holders.first().copied());
                work.live.push((assignment, now));
                if let Some(from) =
                    from.filter(|from| (from.shard, from.incarnation) != (shard, known.incarnation))
                {
                    commands.push(Command::Reassigned { work: *id, round: work.round, from: from.shard });
                }
                commands.push(Command::Dispatch(assignment));
            }
            // Stranded is a round that waits while nothing of it is under way.
            let moving =
                round.open.iter().any(|id| self.work.get(id).is_some_and(|work| !work.live.is_empty()));
            round.stranded_since = if waits && !moving { round.stranded_since.or(Some(now)) } else { None };
        }
    }
}
