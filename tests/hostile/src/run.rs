//! Feeds one target: first with its valid inputs and with what was found before, then with mutated ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::guide::Guide;
use crate::measure::{Counter, Finding, execute};
use crate::mutate::mutate;
use crate::target::Target;

/// The most inputs that others are made from: without a guide, and with one.
const POOL: usize = 256;
const GUIDED_POOL: usize = 4_096;

/// The size up to which an accepted input joins the pool: large ones are slow.
const POOL_BYTES: usize = 4_096;

/// How many executions are made between two looks at the clock.
const ROUND: u64 = 1_000;

/// How long a target is fed: until either limit is reached.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The number of mutated inputs.
    pub executions: u64,
    /// The time.
    pub time: Duration,
}

/// What feeding a target has shown.
#[derive(Debug, Clone)]
pub struct Report {
    /// The target's name.
    pub target: &'static str,
    /// The number of executions, with valid inputs too.
    pub executions: u64,
    /// Of those, how many inputs were accepted.
    pub accepted: u64,
    /// The time of all of them.
    pub elapsed: Duration,
    /// The most that one execution allocated, in bytes.
    pub most_allocated: u64,
    /// The most processor time of one execution.
    pub longest: Duration,
    /// How many branches of the instrumented code were taken; `None` if it is not instrumented.
    pub reached: Option<usize>,
    /// The inputs that others were made from, in the end.
    pub pool: Vec<Vec<u8>>,
    /// The first finding, with its input.
    pub found: Option<(Finding, Vec<u8>)>,
}

/// The folder with a target's inputs.
#[must_use]
pub fn corpus_of(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// The inputs in a folder.
fn kept(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(folder) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = folder.flatten().map(|entry| entry.path()).collect();
    // The order of a folder's entries is not certain, and a seed must make the same inputs everywhere.
    paths.sort();
    paths.iter().filter_map(|path| fs::read(path).ok()).collect()
}

/// Feeds a target with inputs drawn with this seed, and first with those in the folder `more`.
#[must_use]
pub fn feed(target: &Target, limits: Limits, seed: u64, more: Option<&Path>, counter: Counter) -> Report {
    let began = Instant::now();
    let mut report = Report {
        target: target.name,
        executions: 0,
        accepted: 0,
        elapsed: Duration::ZERO,
        most_allocated: 0,
        longest: Duration::ZERO,
        reached: None,
        pool: Vec::new(),
        found: None,
    };
    let mut guide = Guide::new();
    let mut pool: Vec<Vec<u8>> = target.valid.iter().cloned().chain(kept(&corpus_of(target.name))).collect();
    pool.extend(more.map(kept).unwrap_or_default());
    for input in &pool {
        guide.begin();
        report.execute(target, input, counter);
        guide.look();
    }
    pool.push(Vec::new());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut made = Vec::new();
    let mut left = limits.executions;
    while report.found.is_none() && left > 0 && began.elapsed() < limits.time {
        let round = left.min(ROUND);
        left -= round;
        for _ in 0..round {
            let pick = |rng: &mut ChaCha8Rng| rng.random_range(0..pool.len());
            let (base, other) = (pick(&mut rng), pick(&mut rng));
            let [base, other] = [base, other].map(|at| pool.get(at).map_or(&[][..], Vec::as_slice));
            mutate(&mut rng, base, other, &mut made);
            guide.begin();
            let accepted = report.execute(target, &made, counter);
            if report.found.is_some() {
                break;
            }
            if guide.is_on() {
                // An input that goes where none has gone before is a good one to go on from.
                if guide.look() && pool.len() < GUIDED_POOL {
                    pool.push(made.clone());
                }
            } else if accepted && made.len() <= POOL_BYTES {
                // An accepted input is another valid one. Of too many, any gives way but those of the target.
                if pool.len() < POOL {
                    pool.push(made.clone());
                } else if let Some(place) = pool.get_mut(rng.random_range(target.valid.len()..POOL)) {
                    place.clone_from(&made);
                }
            }
        }
    }
    report.elapsed = began.elapsed();
    (report.reached, report.pool) = (guide.reached(), pool);
    report
}

impl Report {
    /// Executes the target once; returns whether it accepted the input.
    fn execute(&mut self, target: &Target, input: &[u8], counter: Counter) -> bool {
        self.executions += 1;
        match execute(target, input, counter) {
            Ok(cost) => {
                self.accepted += u64::from(cost.accepted);
                self.most_allocated = self.most_allocated.max(cost.allocated);
                self.longest = self.longest.max(cost.time);
                cost.accepted
            }
            Err(finding) => {
                self.found.get_or_insert((finding, input.to_vec()));
                false
            }
        }
    }
}
