//! How the latest blocks were executed: their stages, and each try at each piece of work on each shard, with times.
//! It is for people who look at a block afterwards; nothing depends on it.
//!
//! The times of a try are the coordinator's: from the moment it sent the work to the moment it had the answer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use alloy_primitives::B256;
use common::block::Block;
use common::id::{AssignmentId, Incarnation, ShardId, TxIndex, WorkId};
use common::work::{WorkKind, WorkSpec};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Fleet;

/// The number of blocks whose traces are kept.
const BLOCKS: usize = 64;

/// The most tries that are kept of one block. A block has some tens; only one whose work is cut into single
/// transactions has more.
const TRIES: usize = 1_024;

/// The most stages that are kept of one block. A block that is executed once has four.
const STAGES: usize = 64;

/// The process number of the coordinator in a trace. A shard has its id plus one.
const COORDINATOR: u64 = 0;

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its result was used.
    Used,
    /// Another shard's result was there already.
    NotNeeded,
    /// The shard refused the work or failed at it.
    Failed(String),
    /// The shard was lost.
    Lost(String),
}

impl Ended {
    fn name(&self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::NotNeeded => "not needed",
            Self::Failed(_) => "failed",
            Self::Lost(_) => "lost",
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Failed(reason) | Self::Lost(reason) => Some(reason),
            Self::Used | Self::NotNeeded => None,
        }
    }
}

/// One try at a piece of work.
#[derive(Debug, Clone)]
struct Try {
    assignment: AssignmentId,
    kind: &'static str,
    transactions: usize,
    /// The first and the last of them.
    range: Option<(TxIndex, TxIndex)>,
    sent: Duration,
    ended: Option<(Duration, Ended)>,
}

/// One part of a block's execution in the coordinator.
#[derive(Debug, Clone, Copy)]
struct Stage {
    name: &'static str,
    began: Duration,
    ended: Duration,
}

/// How one block was executed.
#[derive(Debug, Clone)]
struct BlockTrace {
    height: u64,
    hash: B256,
    stages: Vec<Stage>,
    tries: Vec<Try>,
    /// The number of tries that are not kept.
    omitted: usize,
}

/// The traces of the latest blocks, the oldest first, and where each open try is.
#[derive(Debug, Default)]
struct Traces {
    blocks: VecDeque<BlockTrace>,
    open: HashMap<AssignmentId, B256>,
}

impl Traces {
    /// The trace of a block, which begins with this if there is none.
    fn block(&mut self, height: u64, hash: B256) -> Option<&mut BlockTrace> {
        let place = self.blocks.iter().rposition(|block| block.hash == hash);
        let place = place.unwrap_or_else(|| {
            if self.blocks.len() >= BLOCKS
                && let Some(oldest) = self.blocks.pop_front()
            {
                self.open.retain(|_, hash| *hash != oldest.hash);
            }
            let (stages, tries) = (Vec::new(), Vec::new());
            self.blocks.push_back(BlockTrace { height, hash, stages, tries, omitted: 0 });
            self.blocks.len() - 1
        });
        self.blocks.get_mut(place)
    }

    fn end(&mut self, now: Duration, assignment: &AssignmentId, ended: Ended) {
        let Some(hash) = self.open.remove(assignment) else { return };
        let block = self.blocks.iter_mut().rev().find(|block| block.hash == hash);
        let tried =
            block.and_then(|block| block.tries.iter_mut().find(|tried| tried.assignment == *assignment));
        if let Some(tried) = tried {
            tried.ended = Some((now, ended));
        }
    }
}

/// The traces of the latest blocks. All times are those since the fleet started.
#[derive(Debug, Default)]
pub(super) struct TraceLog(Mutex<Traces>);

impl TraceLog {
    /// A shard is sent a piece of work of this block.
    pub(super) fn sent(
        &self,
        now: Duration,
        (height, hash): (u64, B256),
        assignment: AssignmentId,
        spec: &WorkSpec,
    ) {
        let mut traces = self.0.lock();
        let Some(block) = traces.block(height, hash) else { return };
        if block.tries.len() >= TRIES {
            block.omitted += 1;
            return;
        }
        let kind = match spec.kind {
            WorkKind::Recover => "recover",
            WorkKind::Execute { .. } => "execute",
        };
        block.tries.push(Try {
            assignment,
            kind,
            transactions: spec.indices.len(),
            range: spec.indices.first().copied().zip(spec.indices.last().copied()),
            sent: now,
            ended: None,
        });
        traces.open.insert(assignment, hash);
    }

    /// A try has ended. The first end counts.
    pub(super) fn ended(&self, now: Duration, assignment: &AssignmentId, ended: Ended) {
        self.0.lock().end(now, assignment, ended);
    }

    /// A shard is lost, and with it the tries that it had.
    pub(super) fn lost(&self, now: Duration, shard: ShardId, incarnation: Incarnation, reason: &str) {
        let mut traces = self.0.lock();
        let of_it =
            |assignment: &&AssignmentId| (assignment.shard, assignment.incarnation) == (shard, incarnation);
        let lost: Vec<AssignmentId> = traces.open.keys().filter(of_it).copied().collect();
        for assignment in lost {
            traces.end(now, &assignment, Ended::Lost(reason.to_owned()));
        }
    }

    /// A stage of a block has ended in the coordinator.
    pub(super) fn stage(
        &self,
        (height, hash): (u64, B256),
        name: &'static str,
        began: Duration,
        ended: Duration,
    ) {
        if let Some(block) = self.0.lock().block(height, hash) {
            // A block that is tried again and again has its latest stages.
            if block.stages.len() >= STAGES {
                block.stages.remove(0);
            }
            block.stages.push(Stage { name, began, ended });
        }
    }

    /// The blocks that `wanted` picks as a trace in the *Trace Event Format* of Chrome, which Perfetto opens.
    /// `None` if there is none. Its times count from `began_unix_ms`, in milliseconds since 1970.
    fn chrome(&self, began_unix_ms: u64, wanted: impl Fn(&BlockTrace) -> bool) -> Option<Value> {
        // A copy: the driver waits for the lock with every result.
        let blocks: Vec<BlockTrace> =
            self.0.lock().blocks.iter().filter(|block| wanted(block)).cloned().collect();
        let row = |block: &BlockTrace| json!({ "block": block.height, "hash": block.hash, "omitted_tries": block.omitted });
        let rows: Vec<Value> = blocks.iter().map(row).collect();
        (!blocks.is_empty()).then(|| {
            json!({
                "displayTimeUnit": "ms", "traceEvents": events(&blocks), "otherData": { "blocks": rows, "began_unix_ms": began_unix_ms },
            })
        })
    }
}

impl Fleet {
    /// Notes that a stage of this block has just ended in the coordinator.
    pub fn trace_stage(&self, block: &Block, name: &'static str, began: Instant) {
        let began = began.saturating_duration_since(self.shared.started);
        self.shared.trace.stage((block.header.number, block.hash), name, began, self.shared.now());
    }

    /// How the blocks with this number were executed, in the *Trace Event Format* of Chrome: the stages in the
    /// coordinator, and each try at each piece of work on the shards. `None` if it is not among the latest blocks.
    #[must_use]
    pub fn trace(&self, height: u64) -> Option<Value> {
        self.trace_of(|block| block.height == height)
    }

    /// The same of all of the latest blocks, at most 64.
    #[must_use]
    pub fn trace_all(&self) -> Option<Value> {
        self.trace_of(|_| true)
    }

    fn trace_of(&self, wanted: impl Fn(&BlockTrace) -> bool) -> Option<Value> {
        let began = SystemTime::now().checked_sub(self.shared.now())?;
        let began = began.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis();
        self.shared.trace.chrome(u64::try_from(began).ok()?, wanted)
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn events(blocks: &[BlockTrace]) -> Vec<Value> {
    let mut events = vec![process(COORDINATOR, "coordinator")];
    for block in blocks {
        for Stage { name, began, ended } in &block.stages {
            events.push(json!({
                "name": name, "cat": "stage", "ph": "X", "pid": COORDINATOR, "tid": 1, "ts": micros(*began),
                "dur": micros(ended.saturating_sub(*began)), "args": { "block": block.height },
            }));
        }
    }
    let mut tries: Vec<(u64, &Try)> =
        blocks.iter().flat_map(|block| block.tries.iter().map(|tried| (block.height, tried))).collect();
    tries.sort_by_key(|(_, tried)| tried.sent);
    let mut lanes: BTreeMap<ShardId, Lanes> = BTreeMap::new();
    let mut last: HashMap<WorkId, (u64, u64, Duration)> = HashMap::new();
    for (height, tried) in tries {
        let shard = tried.assignment.shard;
        if !lanes.contains_key(&shard) {
            events.push(process(pid(shard), &format!("shard {shard}")));
        }
        let until = tried.ended.as_ref().map_or(tried.sent, |(at, _)| *at);
        let lane = lanes.entry(shard).or_default().take(tried.sent, until);
        events.push(event(height, tried, lane));
        if let Some(before) = last.insert(tried.assignment.work, (pid(shard), lane, until)) {
            events.extend(arrow(tried, before, (pid(shard), lane)));
        }
    }
    events
}

fn event(height: u64, tried: &Try, lane: u64) -> Value {
    let assignment = &tried.assignment;
    let (until, ended) = match &tried.ended {
        Some((at, ended)) => (*at, Some(ended)),
        None => (tried.sent, None),
    };
    let outcome = ended.map_or("open", Ended::name);
    let range = tried.range.map(|(first, last)| format!(" {first} to {last}"));
    json!({
        "name": format!("{}{}", tried.kind, range.unwrap_or_default()), "cat": outcome, "ph": "X",
        "pid": pid(assignment.shard), "tid": lane, "ts": micros(tried.sent),
        "dur": micros(until.saturating_sub(tried.sent)),
        "args": {
            "block": height, "work": assignment.work.to_string(), "transactions": tried.transactions,
            "shard": assignment.shard.0, "incarnation": assignment.incarnation.0,
            "attempt": assignment.attempt.0, "outcome": outcome, "reason": ended.and_then(Ended::reason),
        },
    })
}

/// An arrow from one try at a piece of work to the next.
fn arrow(tried: &Try, (pid, tid, at): (u64, u64, Duration), to: (u64, u64)) -> [Value; 2] {
    let id = tried.assignment.to_string();
    let from = micros(at.min(tried.sent));
    [
        json!({ "name": "reassigned", "cat": "reassigned", "ph": "s", "id": id, "pid": pid, "tid": tid, "ts": from }),
        json!({
            "name": "reassigned", "cat": "reassigned", "ph": "f", "bp": "e", "id": id, "pid": to.0, "tid": to.1,
            "ts": micros(tried.sent),
        }),
    ]
}

fn pid(shard: ShardId) -> u64 {
    u64::from(shard.0) + 1
}

fn process(pid: u64, name: &str) -> Value {
    json!({ "name": "process_name", "ph": "M", "pid": pid, "args": { "name": name } })
}

/// The rows of one shard in which tries are drawn: tries that overlap are in different rows.
#[derive(Debug, Default)]
struct Lanes(Vec<Duration>);

impl Lanes {
    /// The first row that is free from `from` on; it is taken until `until`. Rows count from 1.
    fn take(&mut self, from: Duration, until: Duration) -> u64 {
        match self.0.iter().position(|busy_until| *busy_until <= from) {
            Some(place) => {
                if let Some(row) = self.0.get_mut(place) {
                    *row = until;
                }
                place as u64 + 1
            }
            None => {
                self.0.push(until);
                self.0.len() as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use common::id::{Attempt, Epoch, Height, StateRef, WorldId};

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn assignment(work: u8, shard: u32, attempt: u32) -> AssignmentId {
        let incarnation = Incarnation(u64::from(shard));
        let work = WorkId(B256::repeat_byte(work));
        AssignmentId {
            work,
            shard: ShardId(shard),
            incarnation,
            attempt: Attempt(attempt),
            epoch: Epoch::first(),
        }
    }

    fn spec(first: u32) -> WorkSpec {
        let indices = vec![TxIndex(first), TxIndex(first + 1)];
        let base = StateRef { world: WorldId(B256::ZERO), height: Height(0), block_hash: B256::ZERO };
        WorkSpec {
            base,
            header: Default::default(),
            kind: WorkKind::Recover,
            indices,
            transactions: Vec::new(),
        }
    }

    fn of_block(log: &TraceLog, height: u64) -> Option<Value> {
        log.chrome(1, |block| block.height == height)
    }

    const BLOCK: (u64, B256) = (7, B256::repeat_byte(7));

    fn of_phase<'a>(trace: &'a Value, phase: &str) -> Vec<&'a Value> {
        trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == phase).collect()
    }

    #[test]
    fn a_lost_shard_is_drawn_with_an_arrow_to_the_shard_that_did_its_work() {
        let log = TraceLog::default();
        log.stage(BLOCK, "recover", ms(1), ms(4));
        log.sent(ms(1), BLOCK, assignment(1, 1, 1), &spec(0));
        log.sent(ms(1), BLOCK, assignment(2, 1, 2), &spec(2));
        log.ended(ms(2), &assignment(2, 1, 2), Ended::Used);
        log.lost(ms(3), ShardId(1), Incarnation(1), "killed");
        log.sent(ms(3), BLOCK, assignment(1, 2, 3), &spec(0));
        log.ended(ms(4), &assignment(1, 2, 3), Ended::Used);
        log.ended(ms(9), &assignment(1, 1, 1), Ended::Used);
        let trace = of_block(&log, 7).unwrap();
        let tries = of_phase(&trace, "X");
        assert_eq!(tries.len(), 4, "a stage and three tries: {trace:#}");
        assert_eq!(
            (&tries[1]["args"]["outcome"], &tries[1]["args"]["reason"]),
            (&json!("lost"), &json!("killed"))
        );
        assert_ne!(tries[1]["tid"], tries[2]["tid"], "work that a shard has at once is in two rows");
        let (from, to) = (of_phase(&trace, "s"), of_phase(&trace, "f"));
        assert_eq!((from.len(), to.len()), (1, 1));
        assert_eq!((from[0]["pid"].as_u64(), to[0]["pid"].as_u64()), (Some(2), Some(3)));
        assert_eq!(from[0]["ts"], 3_000.0);
    }

    #[test]
    fn the_oldest_blocks_and_the_last_tries_are_forgotten() {
        let log = TraceLog::default();
        for height in 0..100_u64 {
            let block = (height, B256::with_last_byte(height as u8));
            log.sent(ms(height), block, assignment(height as u8, 1, 1), &spec(0));
        }
        assert!(of_block(&log, 0).is_none() && of_block(&log, 99).is_some());
        for attempt in 0..2_000 {
            log.sent(ms(100), BLOCK, assignment(1, 1, 10 + attempt), &spec(0));
        }
        let trace = of_block(&log, 7).unwrap();
        assert_eq!(of_phase(&trace, "X").len(), TRIES);
        assert_eq!(trace["otherData"]["blocks"][0]["omitted_tries"], 2_000 - TRIES);
        assert!(log.0.lock().open.len() <= TRIES + BLOCKS, "open tries are bounded with their blocks");
    }
}
