//! Generates a chain that other clients can import: a geth genesis and blocks of correctly signed
//! transactions with correct headers, including the state root.
//!
//! This project's engine executes the blocks without shards. `lab run --sequential` checks the result
//! with alloy-evm's executor.

mod contracts;
mod traffic;

use alloy_consensus::Header;
use alloy_consensus::constants::{EMPTY_OMMER_ROOT_HASH, EMPTY_WITHDRAWALS};
use alloy_consensus::proofs::calculate_transaction_root;
use alloy_consensus::transaction::SignerRecoverable;
use alloy_primitives::{Address, B256, Bytes, keccak256};
use common::block::{Block, EncodedBlock, Ommers};
use common::chain_spec::ActiveSpec;

use coordinator::execute::state_roots;
use coordinator::input::{self, GenesisError};
use coordinator::rules::{self, Fields};
use coordinator::validate::{ValidateError, execute_trusted};
use ledger::{Ledger, LedgerError};

pub use traffic::{
    Envelope, GAS_LIMIT, MAX_ACCOUNTS, MIN_ACCOUNTS, Mix, MixError, Traffic, TrafficError, TrafficOptions,
};

/// The number of seconds between two blocks.
const BLOCK_TIME: u64 = 12;

/// The account that receives the fees.
const BENEFICIARY: Address = Address::repeat_byte(0xfe);

/// Why a chain cannot be generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// Transactions cannot be generated.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// The genesis is not valid.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// The ledger rejects a block.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A generated block does not execute.
    #[error("a generated block does not execute: {0}")]
    Execute(#[from] ValidateError),
    /// No sender can be recovered from a generated signature.
    #[error("a generated signature has no sender: {0}")]
    Signature(String),
}

/// A chain under construction.
#[derive(Debug)]
pub struct ChainBuilder {
    traffic: Traffic,
    genesis: alloy_genesis::Genesis,
    ledger: Ledger,
    head: Header,
    set_up: bool,
}

impl ChainBuilder {
    /// Starts a chain at its genesis.
    ///
    /// # Errors
    /// [`GenerateError`] for invalid options.
    pub fn new(options: TrafficOptions) -> Result<Self, GenerateError> {
        let traffic = Traffic::new(options)?;
        let genesis = traffic.genesis();
        let parts = input::genesis_from_parts(&genesis)?;
        let head = parts.header.clone();
        Ok(Self { traffic, genesis, ledger: Ledger::begin(parts.into())?, head, set_up: false })
    }

    /// Begins each further block with a transaction that calls BLAKE2F with this many rounds, of one gas
    /// each. A core computes about a hundred million rounds per second.
    #[must_use]
    pub fn with_heavy(mut self, rounds: u32) -> Self {
        self.traffic.begin_heavy(rounds);
        self
    }

    /// The content of the genesis file.
    #[must_use]
    pub fn genesis(&self) -> &alloy_genesis::Genesis {
        &self.genesis
    }

    /// Generates the next block. The first deploys the contracts; each further one has up to `txs`
    /// transactions drawn by the mix.
    ///
    /// # Errors
    /// [`GenerateError`] if transactions cannot be generated or do not execute.
    pub fn next_block(&mut self, txs: usize) -> Result<EncodedBlock, GenerateError> {
        let base_fee = self.next_base_fee().unwrap_or_default();
        let transactions = if self.set_up {
            self.traffic.next_block(base_fee, self.head.gas_limit, txs)?
        } else {
            self.set_up = true;
            self.traffic.set_up(base_fee)?
        };
        let mut block = self.draft(transactions);
        let senders: Vec<Address> = block
            .transactions
            .iter()
            .map(|transaction| {
                transaction.recover_signer().map_err(|error| GenerateError::Signature(error.to_string()))
            })
            .collect::<Result<_, _>>()?;
        let tip = self.ledger.head();
        let (view, roots) = (tip.view().clone(), state_roots(&tip));
        let finished = execute_trusted(&block, self.ledger.spec(), &senders, view, roots)?;
        let draft = tip.draft(finished.changes, finished.code)?;
        let header = &mut block.header;
        header.state_root = draft.state_root().unwrap_or_default();
        header.receipts_root = finished.receipts.root();
        header.logs_bloom = finished.receipts.bloom();
        header.gas_used = finished.gas_used.0;
        header.blob_gas_used = header.blob_gas_used.map(|_| finished.blob_gas_used.0);
        header.requests_hash = finished.requests.map(|requests| requests.requests_hash());
        let block: EncodedBlock =
            Block::new(block.header, block.transactions, block.ommers, block.withdrawals).into();
        self.ledger.commit(&tip.seal(draft, &block, &finished.receipts))?;
        self.head = block.header.clone();
        Ok(block)
    }

    /// The rules at the head. In these chains the genesis decides the Merge, so the head's difficulty is
    /// enough.
    fn active(&self) -> ActiveSpec<'_> {
        self.ledger.spec().after(self.head.difficulty)
    }

    fn next_base_fee(&self) -> Option<u64> {
        rules::next_base_fee(&self.head, self.active()).and_then(|fee| fee.try_into().ok())
    }

    /// The block before its execution, with the header fields of its fork.
    fn draft(&self, transactions: Vec<Envelope>) -> Block {
        let (parent, active, spec) = (&self.head, self.active(), self.ledger.spec());
        let (number, timestamp) = (parent.number + 1, parent.timestamp + BLOCK_TIME);
        let fields = Fields::of(number, timestamp, active);
        let header = Header {
            parent_hash: self.ledger.head().summary().state.block_hash,
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            beneficiary: BENEFICIARY,
            transactions_root: calculate_transaction_root(&transactions),
            difficulty: rules::next_difficulty(parent, timestamp, active).unwrap_or_default(),
            number,
            gas_limit: parent.gas_limit,
            timestamp,
            extra_data: Bytes::from_static(b"generated"),
            mix_hash: seeded(b"randao", number),
            base_fee_per_gas: self.next_base_fee(),
            withdrawals_root: fields.withdrawals.then_some(EMPTY_WITHDRAWALS),
            blob_gas_used: fields.blobs_and_beacon_root.then_some(0),
            excess_blob_gas: rules::next_excess_blob_gas(parent, timestamp, spec)
                .and_then(|gas| gas.try_into().ok()),
            parent_beacon_block_root: fields.blobs_and_beacon_root.then(|| seeded(b"beacon", number)),
            ..Header::default()
        };
        let withdrawals = fields.withdrawals.then(Vec::new);
        Block::new(header, transactions, Ommers::Headers(Vec::new()), withdrawals)
    }
}

/// A hash that looks random and is the same in each run.
fn seeded(domain: &[u8], number: u64) -> B256 {
    keccak256([domain, &number.to_be_bytes()].concat())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sequential::execute_sequentially;
    use coordinator::rules::{Parentage, check_block};
    use coordinator::validate::verify_header;

    fn options() -> TrafficOptions {
        TrafficOptions { seed: 7, mix: Mix::default(), accounts: 40, chain_id: 1337, gas_limit: GAS_LIMIT }
    }

    #[test]
    fn generated_blocks_verify_with_the_independent_executor() {
        let mut builder = ChainBuilder::new(options()).unwrap();
        for _ in 0..3 {
            let tip = builder.ledger.head();
            let block = builder.next_block(60).unwrap();
            assert!(!block.transactions.is_empty());
            block.check_body().unwrap();
            let parentage =
                Parentage { total_difficulty: tip.total_difficulty(), ancestors: tip.ancestors() };
            check_block(&block, block.rlp().len(), &parentage, builder.ledger.spec()).unwrap();
            let finished = execute_sequentially(&block, builder.ledger.spec(), tip.view()).unwrap();
            verify_header(&block, builder.ledger.spec(), &finished, None).unwrap();
        }
    }

    #[test]
    fn equal_seeds_give_equal_chains() {
        let hashes = |options: TrafficOptions| {
            let mut builder = ChainBuilder::new(options).unwrap();
            (0..2).map(|_| builder.next_block(20).unwrap().hash).collect::<Vec<_>>()
        };
        assert_eq!(hashes(options()), hashes(options()));
        assert_ne!(hashes(options()), hashes(TrafficOptions { seed: 8, ..options() }));
    }
}
