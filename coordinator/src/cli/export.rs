//! `coordinator export` writes the chain of a data directory as RLP. `coordinator unwind` takes it back
//! to an earlier block.
//!
//! Both open the existing ledger, without its genesis file and without shards.

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use alloy_primitives::B256;
use anyhow::{Context, bail};
use clap::Args;
use common::block::{Block, EncodedBlock, Ommers};
use common::id::Height;
use indicatif::{ProgressBar, ProgressStyle};
use tasks::supervise::Exit;

use super::import::head_of;
use crate::input::write_block;
use ledger::{Ledger, LedgerError, LedgerOptions, Replacement};
use tasks::console::{OutputError, print_line, tell};

/// The value of `--out` that means standard output.
const STDOUT: &str = "-";

/// Options of `coordinator export`.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// The folder in which `import` or `serve` keeps the chain
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// The first block; 0 is the genesis block, with which `geth export` begins (default: the block after
    /// it)
    #[arg(long, value_name = "N")]
    pub from: Option<u64>,

    /// The last block (default: the head)
    #[arg(long, value_name = "N")]
    pub to: Option<u64>,

    /// The file to write, which appears only when it is complete; - means standard output
    #[arg(long, value_name = "FILE", default_value = STDOUT)]
    pub out: PathBuf,
}

/// Options of `coordinator unwind`.
#[derive(Debug, Clone, Args)]
pub struct UnwindArgs {
    /// The folder in which `import` or `serve` keeps the chain
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// The block that becomes the head; later blocks are taken back
    #[arg(long, value_name = "N")]
    pub to: u64,
}

/// The range of blocks to write.
struct Range {
    from: u64,
    /// Inclusive; less than `from` if there is nothing to write.
    to: u64,
}

impl Range {
    fn of(args: &ExportArgs, ledger: &Ledger) -> anyhow::Result<Self> {
        let (first, head) = (ledger.origin().height.0, ledger.head().summary().state.height.0);
        let from = args.from.unwrap_or(first.saturating_add(1));
        let to = args.to.unwrap_or(head);
        if from < first {
            bail!("--from {from}: the ledger begins with block {first}");
        }
        if to > head {
            bail!("--to {to}: the chain's head is block {head}");
        }
        let empty = args.from.is_none() && args.to.is_none() && head == first;
        if from > to && !empty {
            bail!("there is no block from {from} to {to}: the chain's head is block {head}");
        }
        Ok(Self { from, to })
    }

    fn count(&self) -> u64 {
        (self.to + 1).saturating_sub(self.from)
    }
}

/// Writes the chain to the file or to standard output.
pub(super) fn export(args: &ExportArgs) -> anyhow::Result<Exit> {
    let ledger = Ledger::open_existing(&args.data_dir, LedgerOptions::default())?;
    let range = Range::of(args, &ledger)?;
    let bar = progress(range.count());
    let bytes = if args.out == Path::new(STDOUT) {
        if io::stdout().is_terminal() {
            bail!("a chain is binary: name a file with --out FILE, or give it to a pipe");
        }
        let mut out = BufWriter::new(io::stdout().lock());
        let written = write_all(&ledger, &range, &mut out, &bar);
        let written = written.and_then(|bytes| Ok(out.flush().map(|()| bytes)?));
        // The ledger does no I/O with pipes, so a broken pipe must be standard output.
        written.map_err(|error| match error.downcast::<io::Error>() {
            Ok(error) => OutputError::from(error).into(),
            Err(error) => error,
        })?
    } else {
        to_file(&ledger, &range, &args.out, &bar)?
    };
    bar.finish_and_clear();
    let (count, to) = (range.count(), range.to);
    tell!("{count} blocks exported, up to block {to}: {bytes} bytes");
    Ok(Exit::Clean)
}

/// Writes the file. It gets its name only when it is complete and durable.
fn to_file(ledger: &Ledger, range: &Range, path: &Path, bar: &ProgressBar) -> anyhow::Result<u64> {
    let named = || format!("{} cannot be written", path.display());
    let mut out = Replacement::create(path).with_context(named)?;
    let bytes = write_all(ledger, range, &mut out, bar)?;
    out.commit().with_context(named)?;
    Ok(bytes)
}

fn write_all(ledger: &Ledger, range: &Range, out: &mut impl Write, bar: &ProgressBar) -> anyhow::Result<u64> {
    let mut bytes = 0;
    let mut parent = match range.from.checked_sub(1) {
        Some(below) => ledger.hash_at(Height(below))?,
        None => None,
    };
    for number in range.from..=range.to {
        let rlp = block_rlp(ledger, Height(number), parent)?;
        parent = ledger.hash_at(Height(number))?;
        bytes += rlp.len() as u64;
        out.write_all(&rlp).context("the chain cannot be written")?;
        bar.inc(1);
    }
    Ok(bytes)
}

/// Checks that the bytes encode the block with this hash, and that it follows `parent`.
fn check(height: Height, hash: B256, parent: Option<B256>, rlp: &[u8]) -> Result<(), LedgerError> {
    let damaged = |reason: String| LedgerError::Damaged { what: format!("block {height} ({hash})"), reason };
    let block = EncodedBlock::decode_exact(rlp).map_err(|error| damaged(error.to_string()))?;
    if block.hash != hash {
        return Err(damaged(format!("its bytes have hash {}", block.hash)));
    }
    block.check_body().map_err(|error| damaged(error.to_string()))?;
    match parent.filter(|parent| *parent != block.header.parent_hash) {
        None => Ok(()),
        Some(parent) => {
            Err(damaged(format!("its parent is {}, block {parent} is before it", block.header.parent_hash)))
        }
    }
}

/// The RLP of a block, checked against its hash. The ledger stores only the header of its first block,
/// which has no body.
fn block_rlp(ledger: &Ledger, height: Height, parent: Option<B256>) -> anyhow::Result<Vec<u8>> {
    let hash =
        ledger.hash_at(height)?.with_context(|| format!("the ledger has no hash of block {height}"))?;
    if let Some(rlp) = ledger.block_rlp(&hash)? {
        check(height, hash, parent, &rlp)?;
        return Ok(rlp);
    }
    let header = ledger
        .origin_header()?
        .filter(|_| height == ledger.origin().height)
        .with_context(|| format!("the ledger does not hold block {height}"))?;
    let withdrawals = header.withdrawals_root.map(|_| Vec::new());
    let mut rlp = Vec::new();
    let block = Block::new(header, Vec::new(), Ommers::Headers(Vec::new()), withdrawals);
    write_block(&mut rlp, &block.into())?;
    Ok(rlp)
}

fn progress(blocks: u64) -> ProgressBar {
    let bar = ProgressBar::new(blocks);
    match ProgressStyle::with_template("{bar:30} {pos}/{len} blocks, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Takes blocks back until the block `--to` is the head.
pub(super) fn unwind(args: &UnwindArgs) -> anyhow::Result<Exit> {
    let ledger = Ledger::open_existing(&args.data_dir, LedgerOptions::default())?;
    let (head, first) = (ledger.head().summary().state.height, ledger.origin().height);
    let to = Height(args.to);
    if to > head || to < first {
        bail!("--to {to}: the chain goes from block {first} to block {head}");
    }
    let hash = ledger.hash_at(to)?.with_context(|| format!("the ledger has no hash of block {to}"))?;
    let tip = ledger.tip_at(to, hash)?.with_context(|| format!("the ledger does not hold block {to}"))?;
    ledger.unwind(&tip)?;
    let (number, hash, root) = head_of(&ledger);
    print_line(format_args!("head {number} {hash}"))?;
    if let Some(root) = root {
        print_line(format_args!("state root {root}"))?;
    }
    tell!("{} blocks taken back", head.0 - to.0);
    Ok(Exit::Clean)
}
