//! The detectors: commands that fail if a mistake is planted, the cheap ones first.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Arguments;
use crate::plant::{Built, SWITCH};
use crate::table::Mutant;

/// The exit code of `timeout` when the time is over.
const TIMED_OUT: i32 = 124;

/// The time limit of a detector, as a multiple of its time without a mistake.
const PATIENCE: u32 = 10;

/// The time added to that limit.
const LEAST: Duration = Duration::from_secs(60);

/// The modules whose unit tests run first.
const NEAR: [&str; 5] = ["rules::", "validate::", "engine::", "sub_block::", "block::"];

/// The detector that found a mistake, and where.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    /// The kind of detector.
    pub(crate) by: &'static str,
    /// The name of the failed test, or the number of cases until the failure.
    pub(crate) detail: String,
}

/// A command that succeeds without a mistake, and fails if it finds one.
#[derive(Debug, Clone)]
struct Detector {
    by: &'static str,
    line: Vec<String>,
    /// Extracts a short description from a failed run's output (standard output, standard error).
    read: fn(&str, &str) -> String,
    /// The time it took without a mistake.
    usual: Duration,
}

/// All detectors, in the order in which they run.
#[derive(Debug)]
pub(crate) struct Detectors {
    list: Vec<Detector>,
    coordinator: PathBuf,
    tree: PathBuf,
    /// Detectors that take longer than this are left out.
    most: Duration,
}

/// The result of a run.
enum Ran {
    Passed,
    Failed(String),
    TimedOut,
}

impl Detectors {
    /// Creates the detectors from the binaries that were built.
    pub(crate) fn new(built: Built, arguments: &Arguments, suites: &[PathBuf]) -> Self {
        let Built { tests, coordinator, lab, tree } = built;
        let mut list = Vec::new();
        let mut add = |by, line: Vec<String>, read| {
            list.push(Detector { by, line, read, usual: Duration::ZERO });
        };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let program = lab.display().to_string();
        for (_, path) in &tests {
            add("unit tests", [words(&[&path.display().to_string()]), words(&NEAR)].concat(), failed_tests);
        }
        let fuzz = |seed: u64, seeds: u64| {
            let (seed, seeds) = (seed.to_string(), seeds.to_string());
            words(&[&program, "fuzz", "--json", "--seed", &seed, "--seeds", &seeds])
        };
        add("fuzzer", fuzz(1, arguments.seeds), fuzz_report);
        for suite in suites {
            let line =
                words(&[&program, "blocktest", &suite.display().to_string(), "--json", "--in-process"]);
            add("suite", line, suite_report);
        }
        if let Some(command) = &arguments.referee {
            add("referee", words(&["sh", "-c", command]), referee_report);
        }
        for (name, path) in &tests {
            let by = if name == "consensus" { "consensus tests" } else { "unit tests" };
            add(by, words(&[&path.display().to_string()]), failed_tests);
        }
        if arguments.more_seeds > arguments.seeds {
            add("fuzzer", fuzz(1 + arguments.seeds, arguments.more_seeds - arguments.seeds), fuzz_report);
        }
        let most = arguments.within.map_or(Duration::MAX, Duration::from_secs_f64);
        Self { list, coordinator, tree, most }
    }

    /// Runs all detectors without a mistake. They must pass, and their times determine their time limits.
    pub(crate) fn calibrate(mut self) -> Result<Self> {
        let mut list = std::mem::take(&mut self.list);
        for detector in &mut list {
            let began = Instant::now();
            let line = detector.line.join(" ");
            let ran = self.run(detector, None, Duration::from_secs(1800))?;
            ensure!(matches!(ran, Ran::Passed), "this fails without any mistake: {line}");
            detector.usual = began.elapsed();
            eprintln!("{:>7.1} s  {line}", detector.usual.as_secs_f64());
        }
        list.retain(|detector| detector.usual <= self.most);
        Ok(Self { list, ..self })
    }

    /// The first detector that finds a mistake, if any does.
    pub(crate) fn find(&self, mutant: &Mutant) -> Result<Option<Finding>> {
        for detector in &self.list {
            let by = detector.by;
            match self.run(detector, Some(mutant), detector.usual * PATIENCE + LEAST)? {
                Ran::Passed => {}
                Ran::Failed(detail) => return Ok(Some(Finding { by, detail })),
                Ran::TimedOut => return Ok(Some(Finding { by, detail: "it does not end".into() })),
            }
        }
        Ok(None)
    }

    fn run(&self, detector: &Detector, mutant: Option<&Mutant>, limit: Duration) -> Result<Ran> {
        let mut command = Command::new("timeout");
        command.args(["--kill-after", "5", &limit.as_secs().to_string()]).args(&detector.line);
        command.current_dir(&self.tree).env("COORDINATOR", &self.coordinator).env_remove(SWITCH);
        if let Some(mutant) = mutant {
            command.env(SWITCH, mutant.number.to_string());
        }
        let output = command.output().context("timeout (of coreutils) cannot be started")?;
        if output.status.success() {
            return Ok(Ran::Passed);
        }
        if output.status.code() == Some(TIMED_OUT) {
            return Ok(Ran::TimedOut);
        }
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok(Ran::Failed((detector.read)(&out, &err)))
    }
}

/// The name of the first failed test, and the number of further ones.
fn failed_tests(out: &str, _: &str) -> String {
    let failed: Vec<&str> = out
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.split_once(" ... FAILED").map(|(name, _)| name))
        .collect();
    match failed.as_slice() {
        [] => "the tests end early".into(),
        [one] => format!("`{one}`"),
        [one, more @ ..] => format!("`{one}` and {} more", more.len()),
    }
}

/// The number of seeds until the failure, and the difference found.
fn fuzz_report(out: &str, err: &str) -> String {
    let report: Value =
        out.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let seeds = report.get("seeds").and_then(Value::as_u64);
    match (seeds, report.pointer("/difference/field").and_then(Value::as_str)) {
        (Some(seeds), Some(field)) => format!("{seeds} seeds: {field}"),
        _ => format!("it ends early: {}", err.lines().next_back().unwrap_or_default()),
    }
}

/// The number of failed cases.
fn suite_report(out: &str, err: &str) -> String {
    let cases = || out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let failed = cases().filter_map(|case| case.get("failed")?.as_u64()).next_back();
    let first = cases().find(|case| case.get("result").and_then(Value::as_str) == Some("fail"));
    let first = first.and_then(|case| Some(case.get("case")?.as_str()?.to_owned()));
    match (failed, first) {
        (Some(failed), Some(name)) => format!("{failed} cases, `{name}`"),
        (Some(failed), None) => format!("{failed} cases"),
        _ => format!("it ends early: {}", err.lines().next_back().unwrap_or_default()),
    }
}

fn referee_report(out: &str, err: &str) -> String {
    out.lines().chain(err.lines()).next_back().unwrap_or("it fails").to_owned()
}
