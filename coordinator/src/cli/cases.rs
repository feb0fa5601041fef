//! The inputs of a run as a sequence of blocks, each with the ledger on which it is executed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use common::block::{Block, BlockError, CheckedBlock, EncodedBlock};
use common::chain_spec::ChainSpec;
use common::id::Height;

use crate::input::{ChainReader, InputKind, PrestateCase, detect, read_genesis, read_prestate};
use ledger::{Ledger, Origin};
use tasks::console::tell_as_program;

/// A block to execute.
#[derive(Debug)]
pub(super) struct Case {
    /// The file that contains it.
    pub(super) file: PathBuf,
    /// The block with its encoding, as it was read.
    pub(super) block: Arc<EncodedBlock>,
    /// The block with its content checked, or why it contradicts itself.
    pub(super) checked: Result<CheckedBlock, BlockError>,
    /// The ledger on which it is executed.
    pub(super) ledger: Arc<Ledger>,
    /// The time for reading, decoding and checking it.
    pub(super) load: Duration,
}

impl Case {
    fn new(file: PathBuf, block: EncodedBlock, ledger: Arc<Ledger>, began: Instant) -> Self {
        let block = Arc::new(block);
        let checked = CheckedBlock::new(Arc::clone(&block));
        Self { file, block, checked, ledger, load: began.elapsed() }
    }
}

/// A block that could not be read, with the reason.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) file: PathBuf,
    pub(super) error: anyhow::Error,
}

/// The opened inputs of a run.
pub(super) struct Cases {
    inputs: std::vec::IntoIter<(PathBuf, InputKind)>,
    chain: Option<(PathBuf, ChainReader, Arc<Ledger>)>,
    genesis: Option<Arc<Ledger>>,
}

impl std::fmt::Debug for Cases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cases").finish_non_exhaustive()
    }
}

impl Cases {
    /// Opens every input before the first block is executed.
    pub(super) fn open(inputs: &[PathBuf], genesis: Option<&Path>) -> anyhow::Result<Self> {
        if inputs.is_empty() {
            bail!("there are no input files; name {{block, prestate}} JSON files or RLP chain files");
        }
        let mut kinds = Vec::new();
        for input in inputs {
            let kind = detect(input)?;
            if kind == InputKind::Chain && genesis.is_none() {
                bail!("{} is a chain file: name its genesis with --genesis FILE", input.display());
            }
            kinds.push((input.clone(), kind));
        }
        if let Some(genesis) = genesis {
            tell_if_unused(genesis, &kinds);
        }
        let genesis = genesis.map(genesis_ledger).transpose()?;
        Ok(Self { inputs: kinds.into_iter(), chain: None, genesis })
    }

    /// The number of blocks; `None` if an input is a chain file, whose length is unknown.
    pub(super) fn known_count(&self) -> Option<u64> {
        let inputs = self.inputs.as_slice();
        let all_single = inputs.iter().all(|(_, kind)| *kind == InputKind::Prestate);
        all_single.then_some(inputs.len() as u64)
    }

    /// Whether the next block, if there is one, comes from the same chain file.
    pub(super) fn is_in_chain(&self) -> bool {
        self.chain.is_some()
    }

    /// The next block, or the reason why it cannot be read. After an unreadable block of a chain the rest
    /// of that chain is skipped.
    pub(super) fn next(&mut self) -> Option<Result<Case, Unreadable>> {
        loop {
            let began = Instant::now();
            if let Some((file, reader, ledger)) = &mut self.chain {
                let (file, ledger) = (file.clone(), Arc::clone(ledger));
                match reader.next() {
                    // An export begins with the genesis block, which has nothing to execute.
                    Some(Ok(block)) if block.hash == ledger.origin().block_hash => {}
                    Some(Ok(block)) if block.header.number == 0 => {
                        self.chain = None;
                        let error = anyhow::anyhow!(
                            "the chain begins with genesis {}, --genesis gives {}: they are not of one chain",
                            block.hash,
                            ledger.origin().block_hash
                        );
                        return Some(Err(Unreadable { file, error }));
                    }
                    Some(Ok(block)) => {
                        return Some(Ok(Case::new(file, block, ledger, began)));
                    }
                    Some(Err(error)) => {
                        self.chain = None;
                        return Some(Err(Unreadable { file, error: error.into() }));
                    }
                    None => self.chain = None,
                }
            }
            let (file, kind) = self.inputs.next()?;
            match kind {
                InputKind::Chain => match (ChainReader::open(&file), &self.genesis) {
                    (Ok(reader), Some(ledger)) => self.chain = Some((file, reader, Arc::clone(ledger))),
                    (Ok(_), None) => {
                        let error = anyhow::anyhow!("{}: a chain file needs --genesis", file.display());
                        return Some(Err(Unreadable { file, error }));
                    }
                    (Err(error), _) => return Some(Err(Unreadable { file, error: error.into() })),
                },
                InputKind::Prestate => {
                    let case = prestate_ledger(&file);
                    return Some(match case {
                        Ok((block, ledger)) => Ok(Case::new(file, block.into(), Arc::new(ledger), began)),
                        Err(error) => Err(Unreadable { file, error }),
                    });
                }
            }
        }
    }
}

/// Tells the user that the genesis file has no effect on JSON pre-states.
fn tell_if_unused(genesis: &Path, inputs: &[(PathBuf, InputKind)]) {
    let mut unaffected = inputs.iter().filter(|(_, kind)| *kind == InputKind::Prestate);
    let Some((first, _)) = unaffected.next() else { return };
    let more = match unaffected.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    tell_as_program!(
        "--genesis {} has no effect on {}{more}: a JSON pre-state is executed under mainnet's rules, on the state that it contains",
        genesis.display(),
        first.display()
    );
}

/// Creates the ledger of a genesis file.
pub(super) fn genesis_ledger(path: &Path) -> anyhow::Result<Arc<Ledger>> {
    Ok(Arc::new(Ledger::begin(read_genesis(path)?.into())?))
}

fn prestate_ledger(path: &Path) -> anyhow::Result<(Block, Ledger)> {
    let PrestateCase { block, accounts, code, mut ancestors } = read_prestate(path)?;
    let parent = block.header.number.checked_sub(1).context("a genesis block cannot be executed")?;
    // The block contains its parent's hash, whether the file lists it or not.
    if ancestors.iter().all(|(number, _)| *number != parent) {
        ancestors.push((parent, block.header.parent_hash));
    }
    let origin = Origin {
        spec: ChainSpec::mainnet(),
        height: Height(parent),
        block_hash: block.header.parent_hash,
        header: None,
        accounts,
        code,
        ancestors,
        complete: false,
    };
    let ledger = Ledger::begin(origin)?;
    Ok((block, ledger))
}
