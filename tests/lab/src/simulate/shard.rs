//! A model shard around the real session: its slots, its replica and its calls.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use alloy_primitives::U256;
use common::endpoint::PeerError;
use common::id::{AssignmentId, Epoch, Gas, Incarnation, ShardId, SlotIndex, StateRef, TxIndex};
use common::message::{Refusal, SlotProgress, StateSummary, SubmitResult};
use common::work::{WorkFailure, WorkOutput};
use executor_shard::session::{Accepted, Session, SessionConfig};
use net::backoff::BackoffPolicy;

use super::chain::{Block, HEAVY_GAS, Piece, USUAL_GAS, address, numbers, state, summary_of};
use super::check::TrueDeath;
use super::message::{Answer, Call, ToCoordinator, ToShard};
use super::network::Way;
use super::random::join;
use super::world::{CALL_LIMIT, Happening, World};

/// What a slot runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    pub(super) assignment: AssignmentId,
    token: u64,
    cancelled: bool,
    began: Duration,
    /// The time that each of its transactions takes.
    each: Duration,
    /// The transaction at which it stands still, and for how long.
    still: (u8, Duration),
}

impl Running {
    /// The transaction that it runs at `now`, and since when.
    fn at(&self, now: Duration) -> (u8, Duration) {
        let last = Piece::of(&self.assignment.work).count.saturating_sub(1);
        let (place, lasts) = self.still;
        let mut began = self.began;
        for transaction in 0..last {
            let ends = began + self.each + if transaction == place { lasts } else { Duration::ZERO };
            if ends > now {
                return (transaction, began);
            }
            began = ends;
        }
        (last, began)
    }
}

/// A shard's process, over its incarnations.
pub(super) struct Process {
    pub(super) shard: ShardId,
    pub(super) slots: u16,
    /// The index of its network line.
    pub(super) line: usize,
    pub(super) alive: bool,
    pub(super) incarnation: u64,
    pub(super) frozen_until: Duration,
    pub(super) slow_until: Duration,
    pub(super) slowness: u64,
    /// The number of coming results that are wrong; the next two count damaged ones and panics.
    pub(super) wrong: u64,
    pub(super) corrupt: u64,
    pub(super) panics: u64,
    /// The number of coming assignments that never end.
    pub(super) hangs: u64,
    /// How long coming assignments stand still before they go on.
    pub(super) stalls: Vec<Duration>,
    pub(super) diverged: bool,
    /// It is an impostor, which starts only once.
    pub(super) is_impostor: bool,
    pub(super) session: Option<Session>,
    pub(super) replica: Option<StateRef>,
    pub(super) queue: VecDeque<AssignmentId>,
    pub(super) running: Vec<Option<Running>>,
    /// What threads that have lost their slots still run.
    detached: Vec<Running>,
    done: Vec<u64>,
    pub(super) calls: BTreeMap<u64, Call>,
    pub(super) next_call: u64,
    pub(super) wake_at: Option<Duration>,
    /// The newest epoch that it has registered under.
    registered: Option<Epoch>,
}

impl Process {
    pub(super) fn new(shard: ShardId, slots: u16, line: usize) -> Self {
        Self {
            shard,
            slots,
            line,
            alive: false,
            incarnation: 0,
            frozen_until: Duration::ZERO,
            slow_until: Duration::ZERO,
            slowness: 1,
            wrong: 0,
            corrupt: 0,
            panics: 0,
            hangs: 0,
            stalls: Vec::new(),
            diverged: false,
            is_impostor: false,
            session: None,
            replica: None,
            queue: VecDeque::new(),
            running: Vec::new(),
            detached: Vec::new(),
            done: Vec::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            wake_at: None,
            registered: None,
        }
    }

    pub(super) fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }

    pub(super) fn drain(&mut self) {
        if let Some(session) = &mut self.session {
            session.drain();
        }
    }

    /// The state that the process reports: a diverged replica has another digest.
    pub(super) fn summary(&self) -> Option<StateSummary> {
        let held = summary_of(self.replica?);
        let digest = if self.diverged { held.digest.wrapping_add(U256::ONE) } else { held.digest };
        Some(StateSummary { digest, ..held })
    }

    /// The number of threads that have lost their slots and still work.
    pub(super) fn detached_count(&self) -> usize {
        self.detached.len()
    }

    pub(super) fn detach(&mut self, stuck: Vec<Running>) {
        self.detached.extend(stuck);
    }

    fn held(&self) -> Vec<AssignmentId> {
        let running = self.running.iter().flatten().chain(&self.detached).map(|running| running.assignment);
        running.chain(self.queue.iter().copied()).collect()
    }

    pub(super) fn progress(&self, blocks: &[Block], now: Duration) -> Vec<SlotProgress> {
        let slots = (0..).zip(self.running.iter().zip(&self.done));
        slots
            .map(|(slot, (running, done))| {
                let piece = running.map(|running| (running, Piece::of(&running.assignment.work)));
                let at = piece.map(|(running, piece)| (running, piece, running.at(now).0));
                let index = |(running, piece, at): (Running, Piece, u8)| {
                    (running.assignment, TxIndex(u32::from(piece.first + at)))
                };
                let gas = at.map_or(0, |(_, piece, at)| gas_of(blocks, &piece, at));
                SlotProgress {
                    slot: SlotIndex(slot),
                    transactions: *done + at.map_or(0, |(_, _, at)| u64::from(at)),
                    current: at.map(index),
                    gas: Gas(gas),
                }
            })
            .collect()
    }

    /// What a slot runs, and for how long it has stood there.
    pub(super) fn standing(&self, slot: SlotIndex, now: Duration) -> Option<(Piece, u8, Duration)> {
        let running = self.running.get(usize::from(slot.0)).copied().flatten()?;
        let (at, since) = running.at(now);
        Some((Piece::of(&running.assignment.work), at, now.saturating_sub(since)))
    }
}

/// The gas limit of one transaction of a piece.
pub(super) fn gas_of(blocks: &[Block], piece: &Piece, at: u8) -> u64 {
    let heavy = blocks.get(piece.block).and_then(|block| block.heavy);
    match (piece.execute, heavy == Some(piece.first + at)) {
        (false, _) => 0,
        (true, true) => HEAVY_GAS,
        (true, false) => USUAL_GAS,
    }
}

impl World {
    pub(super) fn start_shard(&mut self, index: usize) {
        self.incarnations += 1;
        let (incarnation, now) = (self.incarnations, self.now);
        let Some(process) = self.processes.get_mut(index).filter(|process| !process.alive) else { return };
        let slots = usize::from(process.slots);
        *process = Process {
            alive: true,
            incarnation,
            is_impostor: process.is_impostor,
            running: vec![None; slots],
            done: vec![0; slots],
            ..Process::new(process.shard, process.slots, process.line)
        };
        process.session = Some(Session::new(
            SessionConfig {
                shard: process.shard,
                incarnation: Incarnation(incarnation),
                queue_limit: 4 * slots + 2,
                parallel_sends: slots + 1,
                lost_after: Duration::from_millis(300),
                backoff: BackoffPolicy::default(),
            },
            now,
        ));
        let shard = process.shard;
        self.trace(|| format!("shard {shard} starts, incarnation {incarnation}"));
        self.drive(index);
    }

    /// Ends a shard's process as SIGKILL does, and starts it again after the pause `back_after`, if given.
    pub(super) fn kill_shard(&mut self, index: usize, back_after: Option<Duration>) {
        let now = self.now;
        let Some(process) = self.processes.get(index).filter(|process| process.alive) else { return };
        let (shard, incarnation, held) = (process.shard, process.incarnation(), process.held());
        let held = held.into_iter().map(|assignment| assignment.work).collect();
        self.check.deaths.push(TrueDeath { at: now, shard, incarnation, held });
        self.trace(|| format!("shard {shard} is killed"));
        self.stop_shard(index, back_after);
    }

    /// Ends the process; coordinators that are connected to it notice soon, unless the line is cut.
    pub(super) fn stop_shard(&mut self, index: usize, back_after: Option<Duration>) {
        let Some(process) = self.processes.get_mut(index).filter(|process| process.alive) else { return };
        process.alive = false;
        process.session = None;
        let (shard, incarnation) = (process.shard, process.incarnation());
        let line = process.line;
        self.trace(|| format!("shard {shard} ends, incarnation {incarnation}"));
        self.break_links(shard, incarnation, line, true);
        if let Some(pause) = back_after {
            self.after(pause, Happening::ShardStart(index));
        }
    }

    /// Lets coordinators notice a broken connection, unless nothing reaches them.
    pub(super) fn break_links(&mut self, shard: ShardId, incarnation: Incarnation, line: usize, died: bool) {
        if self.lines.get(line).is_some_and(|line| line.is_cut(Way::FromShard, self.now)) {
            return;
        }
        for coordinator in 0..self.coordinators.len() {
            let delay = self.micros(100, 5_000);
            self.after(delay, Happening::LinkBroken { coordinator, shard, incarnation, died });
        }
    }

    pub(super) fn at_shard(&mut self, happening: Happening) {
        let (index, incarnation) = match &happening {
            Happening::ShardWake { process, incarnation }
            | Happening::SlotDone { process, incarnation, .. }
            | Happening::CallLost { process, incarnation, .. }
            | Happening::Answered { process, incarnation, .. } => (*process, Some(*incarnation)),
            Happening::ToShard { process, .. } => (*process, None),
            _ => return,
        };
        let now = self.now;
        let Some(process) = self.processes.get(index) else { return };
        if !process.alive || incarnation.is_some_and(|incarnation| incarnation != process.incarnation) {
            if let Happening::ToShard { from, packet, .. } = happening {
                self.no_process_there(from, index, packet);
            }
            return;
        }
        if process.frozen_until > now {
            let thaw = process.frozen_until;
            if let Happening::ToShard { from, packet: ToShard::Execute(assignment), .. } = &happening {
                let lost = Happening::CommandLost { coordinator: *from, assignment: *assignment };
                self.after(CALL_LIMIT, lost);
            }
            self.at(thaw, happening);
            return;
        }
        self.take_at_shard(index, happening);
        self.drive(index);
    }

    fn take_at_shard(&mut self, index: usize, happening: Happening) {
        let random = self.random.next();
        let now = self.now;
        match happening {
            Happening::SlotDone { slot, token, .. } => self.slot_done(index, slot, token),
            Happening::CallLost { call, .. } => {
                self.answered(index, call, Answer::Refused, random);
            }
            Happening::Answered { call, answer, .. } => self.answered(index, call, *answer, random),
            Happening::ToShard { from, packet, .. } => self.command(index, from, packet),
            Happening::ShardWake { .. } => {
                if let Some(process) = self.processes.get_mut(index)
                    && process.wake_at.is_some_and(|at| at <= now)
                {
                    process.wake_at = None;
                }
            }
            _ => {}
        }
    }

    fn answered(&mut self, index: usize, call: u64, answer: Answer, random: u64) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(index) else { return };
        let Some(kind) = process.calls.remove(&call) else { return };
        let Some(session) = &mut process.session else { return };
        let unreachable = || PeerError::Unreachable("no answer".into());
        match (kind, answer) {
            (Call::Register, Answer::Registered(answer)) => {
                if let Ok(registered) = &answer {
                    process.registered = process.registered.max(Some(registered.epoch));
                }
                session.registered(answer, now, random);
            }
            (Call::Beat, Answer::Beat(answer)) => session.heartbeat_done(answer, now, random),
            (Call::Submit(entry), Answer::Submitted(answer)) => session.submitted(entry, answer, now, random),
            (Call::Register, _) => session.registered(Err(unreachable()), now, random),
            (Call::Beat, _) => session.heartbeat_done(Err(unreachable()), now, random),
            (Call::Submit(entry), _) => session.submitted(entry, Err(unreachable()), now, random),
        }
    }

    /// Handles a command that has arrived.
    fn command(&mut self, index: usize, from_coordinator: usize, packet: ToShard) {
        let Some(process) = self.processes.get_mut(index) else { return };
        let Some(session) = &mut process.session else { return };
        let (shard, incarnation, at) = (process.shard, Incarnation(process.incarnation), process.replica);
        match packet {
            ToShard::Execute(assignment) => {
                let answer = self.accept(index, assignment);
                self.obeyed(index, from_coordinator, ToCoordinator::Executed { assignment, answer });
            }
            ToShard::Cancel(assignment) => {
                let waiting = process.queue.len();
                process.queue.retain(|queued| *queued != assignment);
                if process.queue.len() < waiting {
                    session.dropped(assignment);
                }
                let running = process.running.iter_mut().flatten();
                for running in
                    running.chain(&mut process.detached).filter(|running| running.assignment == assignment)
                {
                    running.cancelled = true;
                }
            }
            ToShard::Sync { epoch, incarnation: wanted, target } => {
                let answer = match session.check_epoch(epoch) {
                    Ok(()) if wanted == incarnation => {
                        process.replica = Some(target);
                        process.diverged = false;
                        process.summary().ok_or_else(String::new)
                    }
                    Ok(()) => Err("another incarnation".to_owned()),
                    Err(refusal) => Err(refusal.to_string()),
                };
                self.obeyed(index, from_coordinator, ToCoordinator::Synced { shard, incarnation, answer });
            }
            ToShard::Advance { epoch, incarnation: wanted, from, target } => {
                let answer = match session.check_epoch(epoch) {
                    Ok(()) if wanted == incarnation && process.replica == Some(from) => {
                        // A replica that has diverged stays so.
                        process.replica = Some(target);
                        process.summary().ok_or_else(String::new)
                    }
                    Ok(()) => Err("not at the delta's base".to_owned()),
                    Err(refusal) => Err(refusal.to_string()),
                };
                self.obeyed(index, from_coordinator, ToCoordinator::Synced { shard, incarnation, answer });
            }
            ToShard::Drain { incarnation: wanted } if wanted == incarnation => session.drain(),
            ToShard::Drain { .. } => {}
        }
        self.trace(|| format!("shard {shard} was at {at:?}"));
    }

    fn accept(&mut self, index: usize, assignment: AssignmentId) -> Result<(), PeerError> {
        let now = self.now;
        let Some(process) = self.processes.get_mut(index) else { return Ok(()) };
        let Some(session) = &mut process.session else { return Ok(()) };
        session.check_epoch(assignment.epoch).map_err(PeerError::Command)?;
        let piece = Piece::of(&assignment.work);
        let wanted = state(piece.base, Piece::base_digest(&assignment.work));
        if piece.execute && process.replica != Some(wanted) {
            return Err(PeerError::Command(Refusal::NotAtBase { at: process.replica, wanted }));
        }
        if session.accept(assignment).map_err(PeerError::Command)? == Accepted::Already {
            return Ok(());
        }
        process.queue.push_back(assignment);
        if process.registered.is_some_and(|epoch| assignment.epoch < epoch) {
            self.check
                .fail(now, format!("a command of epoch {} was obeyed under a newer one", assignment.epoch));
        }
        if (assignment.shard, assignment.incarnation) != (process.shard, Incarnation(process.incarnation)) {
            self.check.fail(now, "a command for another incarnation was obeyed");
        }
        self.begin_work(index);
        Ok(())
    }

    /// Lets idle slots take work from the queue.
    pub(super) fn begin_work(&mut self, index: usize) {
        loop {
            let Some(process) = self.processes.get_mut(index).filter(|process| process.alive) else { return };
            let Some(slot) = process.running.iter().position(Option::is_none) else { return };
            let Some(assignment) = process.queue.pop_front() else { return };
            let piece = Piece::of(&assignment.work);
            let slowness = if process.slow_until > self.now { process.slowness } else { 1 };
            let hangs = process.hangs > 0;
            process.hangs = process.hangs.saturating_sub(1);
            let token = self.random.next();
            let stall = if hangs { None } else { process.stalls.pop() };
            let incarnation = process.incarnation;
            let killer = self.blocks.get(piece.block).and_then(|block| block.killer);
            let heavy = self.blocks.get(piece.block).and_then(|block| block.heavy);
            let each = if piece.execute { 1_200 } else { 300 };
            let each = self.random.between(each / 2, each * 2) * slowness;
            let micros = each * u64::from(piece.count);
            let still = match (hangs, stall, heavy.filter(|heavy| piece.execute && piece.contains(*heavy))) {
                (true, ..) => (0, Duration::from_secs(3600)),
                (_, Some(lasts), _) => (0, lasts),
                (_, _, Some(heavy)) => (heavy - piece.first, self.micros(500_000, 3_500_000)),
                _ => (0, Duration::ZERO),
            };
            let running = Running {
                assignment,
                token,
                cancelled: false,
                began: self.now,
                each: Duration::from_micros(each),
                still,
            };
            if let Some(place) = self.processes.get_mut(index).and_then(|known| known.running.get_mut(slot)) {
                *place = Some(running);
            }
            if piece.execute && killer.is_some_and(|killer| piece.contains(killer)) {
                // The process dies on the way; the end of this slot matches no running assignment.
                let when = Duration::from_micros(self.random.between(1, micros.max(2)));
                self.after(when, Happening::SlotDone { process: index, incarnation, slot, token: 0 });
                continue;
            }
            let lasts = still.1 + Duration::from_micros(micros);
            self.after(lasts, Happening::SlotDone { process: index, incarnation, slot, token });
        }
    }

    fn slot_done(&mut self, index: usize, slot: usize, token: u64) {
        if token == 0 {
            let back = self.micros(20_000, 150_000);
            self.kill_shard(index, Some(back));
            return;
        }
        let now = self.now;
        let salt = self.random.next();
        let Some(process) = self.processes.get_mut(index) else { return };
        let Some(place) = process.running.get_mut(slot) else { return };
        let present = place.take_if(|running| running.token == token);
        let detached = process.detached.iter().position(|running| running.token == token);
        let Some(running) = present.or_else(|| detached.map(|place| process.detached.swap_remove(place)))
        else {
            return;
        };
        let piece = Piece::of(&running.assignment.work);
        if let Some(done) = process.done.get_mut(slot).filter(|_| present.is_some()) {
            *done += u64::from(piece.count);
        }
        let base = Piece::base_digest(&running.assignment.work);
        // Two replicas that have diverged differ from each other too.
        let other = join(base, 666 + u64::from(process.shard.0));
        let base = if process.diverged && piece.execute { other } else { base };
        let mut outcome = match self.blocks.get(piece.block) {
            Some(block) => Ok(block.output(&piece, base)),
            None => Err(WorkFailure::BaseGone),
        };
        let Some(session) = &mut process.session else { return };
        if process.panics > 0 {
            process.panics -= 1;
            outcome = Err(WorkFailure::WorkerPanicked { message: "simulated".into(), at: None });
        } else if process.wrong > 0 {
            process.wrong -= 1;
            let mut wrong: Vec<u64> = numbers(&outcome);
            if let Some(first) = wrong.first_mut() {
                *first = salt;
            }
            outcome =
                Ok(WorkOutput::Recovered(wrong.into_iter().map(|number| Ok(address(number))).collect()));
        }
        if running.cancelled {
            session.dropped(running.assignment);
        } else {
            session.finished(SubmitResult { assignment: running.assignment, outcome, digest: None }, now);
        }
        self.begin_work(index);
    }
}
