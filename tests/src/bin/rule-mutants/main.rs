//! Checks whether a test notices when a rule is left out. It plants every mistake of
//! `tests/mutants/rules` into one copy of the tree, each behind a switch that an environment variable
//! turns on. So the tree is built once, and each mistake costs only the detectors that run until one
//! finds it.
//!
//! The exit code is 0 only if each mistake is either found, or declared redundant and not found.

mod detect;
mod plant;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use detect::{Detectors, Finding};
use table::Mutant;

/// The parts of BlockchainTests, with those about the validity of blocks first.
const KINDS: [&str; 4] = ["InvalidBlocks", "TransitionTests", "ValidBlocks", "GeneralStateTests"];

/// Plants mistakes in the rules that decide whether a block is valid, one at a time, and reports which
/// test finds each.
#[derive(Debug, Parser)]
struct Arguments {
    /// Plant only mistakes whose name or file contains one of these words
    words: Vec<String>,

    /// The number of seeds of the fuzzer's first run
    #[arg(long, value_name = "N", default_value_t = 300)]
    seeds: u64,

    /// The number of seeds of the fuzzer's second run, for mistakes that no detector has found
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    more_seeds: u64,

    /// The folder of an unpacked Ethereum suite (repeatable) [default: the BlockchainTests of
    /// SHARDS_TEST_DATA]
    #[arg(long, value_name = "PATH")]
    suite: Vec<PathBuf>,

    /// Leave out detectors that take longer than this without a mistake
    #[arg(long, value_name = "S")]
    within: Option<f64>,

    /// A further detector: a shell command that fails if it finds a mistake. COORDINATOR is the path of the
    /// binary
    #[arg(long, value_name = "COMMAND")]
    referee: Option<String>,

    /// The repository's folder
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.."))]
    root: PathBuf,

    /// Plant and build, and run the detectors once without any mistake
    #[arg(long)]
    dry: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("rule-mutants: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs the detectors for every mistake. Returns whether each result is as declared.
fn run(arguments: &Arguments) -> Result<bool> {
    let root = arguments.root.canonicalize().context("the repository is not there; give --root")?;
    let mutants = table::read(&root.join("tests/mutants/rules"))?;
    let target = root.join("target/mutants");
    let tree = target.join("rules");
    plant::plant(&root, &tree, &mutants)?;
    let built = plant::build(&tree, &target)?;
    let detectors = Detectors::new(built, arguments, &suites(arguments)?).calibrate()?;
    if arguments.dry {
        return Ok(true);
    }
    let selected: Vec<&Mutant> =
        mutants.iter().filter(|mutant| is_selected(mutant, &arguments.words)).collect();
    ensure!(!selected.is_empty(), "no mistake has one of these words in its name or file");
    println!("| mistake | file | found by | by what |");
    println!("|---|---|---|---|");
    let mut sums = Sums::default();
    for mutant in selected {
        let finding = detectors.find(mutant)?;
        let file = mutant.file.rsplit("src/").next().unwrap_or_default();
        println!("| {} | {file} | {} |", mutant.name, sums.count(mutant, finding.as_ref()));
    }
    println!("\n{}", sums.text());
    Ok(sums.is_good())
}

fn is_selected(mutant: &Mutant, words: &[String]) -> bool {
    let contains = |word: &String| mutant.name.contains(word.as_str()) || mutant.file.contains(word.as_str());
    words.is_empty() || words.iter().any(contains)
}

/// The suites to run; empty if there is no data, about which the library prints a message.
fn suites(arguments: &Arguments) -> Result<Vec<PathBuf>> {
    if arguments.suite.is_empty() {
        let Some(folder) = shard_tests::blockchain_tests()? else { return Ok(Vec::new()) };
        return Ok(KINDS.map(|kind| folder.join(kind)).into());
    }
    if let Some(missing) = arguments.suite.iter().find(|path| !path.exists()) {
        bail!("{} is not there; give --suite a folder of block tests", missing.display());
    }
    Ok(arguments.suite.clone())
}

/// The numbers of mistakes that each kind of detector found.
#[derive(Debug, Default)]
struct Sums {
    found: std::collections::BTreeMap<&'static str, u32>,
    redundant: u32,
    missed: Vec<String>,
    not_redundant: Vec<String>,
}

impl Sums {
    /// Counts a mistake, and returns its cells of the table.
    fn count(&mut self, mutant: &Mutant, finding: Option<&Finding>) -> String {
        match (finding, &mutant.redundant) {
            (Some(finding), redundant) => {
                *self.found.entry(finding.by).or_default() += 1;
                if redundant.is_some() {
                    self.not_redundant.push(mutant.name.clone());
                }
                format!("{} | {}", finding.by, finding.detail)
            }
            (None, Some(reason)) => {
                self.redundant += 1;
                format!("redundant | {reason}")
            }
            (None, None) => {
                self.missed.push(mutant.name.clone());
                "**NOT FOUND** | – ".into()
            }
        }
    }

    fn is_good(&self) -> bool {
        self.missed.is_empty() && self.not_redundant.is_empty()
    }

    fn text(&self) -> String {
        let found: u32 = self.found.values().sum();
        let each: Vec<String> = self.found.iter().map(|(by, count)| format!("{count} by the {by}")).collect();
        let mut text = format!(
            "{found} found ({}), {} redundant, {} not found",
            each.join(", "),
            self.redundant,
            self.missed.len()
        );
        if !self.missed.is_empty() {
            text += &format!("\nnot found: {}", self.missed.join(", "));
        }
        if !self.not_redundant.is_empty() {
            let names = self.not_redundant.join(", ");
            text += &format!("\nfound, but declared to be redundant (mend tests/mutants/rules): {names}");
        }
        text
    }
}
