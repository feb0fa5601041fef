//! Drafts blocks: a header drawn from the seed, and transactions. The drafter draws transactions while
//! the baseline executes them, so that nonces and balances are right unless they are wrong on purpose.

use std::ops::ControlFlow;

use alloy_consensus::{Header, Transaction as _};
use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{Address, B256, U256, keccak256};
use common::block::{Block, Ommers, Transaction};
use common::chain_spec::ChainSpec;
use common::id::TxIndex;

use super::compare::{TOO_MANY_BLOBS, Verdict};
use super::coverage::{Coverage, Feature};
use super::draw::Draw;
use super::fork::Fork;
use super::transaction::{Drawn, Stage};
use super::world::{World, numbered};
use crate::sequential::{Look, TransactionSource};
use coordinator::rules::Rejection;
use coordinator::validate::ValidateError;

/// The number of consecutive transactions that may be left out before the block ends.
const PATIENCE: u32 = 5;

/// The transactions drafted for a block.
#[derive(Debug)]
pub(super) struct Draft {
    /// Its transactions, including one that makes the block invalid.
    pub(super) transactions: Vec<Transaction>,
    /// The senders of the transactions.
    pub(super) senders: Vec<Address>,
}

/// Draws the transactions of one block.
#[derive(Debug)]
pub(super) struct Drafter<'a> {
    stage: Stage<'a>,
    draw: Draw,
    draft: Draft,
    /// The wanted number of transactions.
    wanted: usize,
    /// The position of a deliberately invalid transaction.
    spoil_at: Option<usize>,
    /// The number of transactions left out in a row. Once hardly any transaction fits, the block ends.
    left_out: u32,
    /// The number of transactions in the block when one was last left out.
    reached: usize,
    blob_gas: u64,
    max_blob_gas: u64,
    coverage: &'a mut Coverage,
}

impl<'a> Drafter<'a> {
    /// Starts a block with this header.
    pub(super) fn new(
        stage: Stage<'a>,
        spec: &ChainSpec,
        mut draw: Draw,
        coverage: &'a mut Coverage,
    ) -> Self {
        let wanted = match draw.below(100) {
            0..60 => draw.between(2, 8),
            60..85 => draw.between(8, 25),
            85..97 => draw.between(25, 60),
            _ => draw.between(60, 200),
        } as usize;
        let spoil_at = draw.one_in(8).then(|| draw.below(wanted as u64) as usize);
        let blobs = spec.blob_params(stage.header.timestamp);
        Self {
            stage,
            draw,
            draft: Draft { transactions: Vec::with_capacity(wanted), senders: Vec::with_capacity(wanted) },
            wanted,
            spoil_at,
            left_out: 0,
            reached: 0,
            blob_gas: 0,
            max_blob_gas: blobs.map_or(0, |params| params.max_blob_gas_per_block()),
            coverage,
        }
    }

    /// Returns the draft. After a transaction that makes the block invalid, it adds more transactions.
    pub(super) fn finish(mut self, verdict: &Verdict) -> Draft {
        if matches!(verdict, Err(ValidateError::Rejected(Rejection::Transaction { .. }))) {
            for _ in 0..self.draw.below(4) {
                if let Some(Drawn { transaction, sender, .. }) =
                    self.stage.draw(&mut self.draw, &mut |_| None)
                {
                    self.take(transaction, sender);
                }
            }
        }
        self.draft
    }

    fn take(&mut self, transaction: Transaction, sender: Address) {
        self.draft.transactions.push(transaction);
        self.draft.senders.push(sender);
    }

    /// Removes the last transaction from the block.
    fn leave_out(&mut self) {
        self.draft.transactions.pop();
        self.draft.senders.pop();
        self.left_out += 1;
        self.coverage.count(Feature::LeftOut, 1);
    }
}

impl TransactionSource for Drafter<'_> {
    fn next(&mut self, look: Look<'_>) -> Result<Option<(&Transaction, Address)>, Rejection> {
        let index = self.draft.transactions.len();
        if index >= self.wanted || self.left_out >= PATIENCE {
            return Ok(None);
        }
        let Some(mut drawn) = self.stage.draw(&mut self.draw, look) else { return Ok(None) };
        if self.spoil_at.is_some_and(|spoil_at| index >= spoil_at)
            && let Some(spoiled) = self.stage.spoil(&mut self.draw, look)
        {
            drawn = spoiled;
        }
        // Transactions whose blobs no longer fit are usually skipped, and rarely kept as a test.
        let left = self.max_blob_gas - self.blob_gas;
        if drawn.transaction.blob_gas_used().is_some_and(|wanted| wanted > left) && !self.draw.one_in(8) {
            let Some(another) = self.stage.draw(&mut self.draw, look) else { return Ok(None) };
            drawn = another;
        }
        let Drawn { transaction, sender, features } = drawn;
        let blob_gas = transaction.blob_gas_used().unwrap_or_default();
        self.take(transaction, sender);
        if blob_gas > left {
            // alloy-evm does not sum the blobs of a block, so this drafter applies the rule (EIP-4844).
            let index = TxIndex(u32::try_from(index).unwrap_or(u32::MAX));
            return Err(Rejection::Transaction { index, reason: TOO_MANY_BLOBS.into() });
        }
        self.blob_gas += blob_gas;
        if index > self.reached {
            (self.reached, self.left_out) = (index, 0);
        }
        features.iter().for_each(|feature| self.coverage.count(*feature, 1));
        let (transactions, senders) = (&self.draft.transactions, &self.draft.senders);
        Ok(transactions.last().zip(senders.last().copied()))
    }

    fn refused(&mut self, index: TxIndex, reason: String) -> ControlFlow<Rejection> {
        if let Some(transaction) = self.draft.transactions.last() {
            self.blob_gas -= transaction.blob_gas_used().unwrap_or_default().min(self.blob_gas);
        }
        // The transaction is invalid on purpose, or a rejection is kept once in a while.
        let meant = self.spoil_at.is_some_and(|spoil_at| self.draft.transactions.len() > spoil_at);
        if meant || self.draw.one_in(200) {
            return ControlFlow::Break(Rejection::Transaction { index, reason });
        }
        self.leave_out();
        ControlFlow::Continue(())
    }
}

/// Draws the header of the block after `parent`, with all fields that execution reads.
pub(super) fn header(fork: Fork, world: &World, parent: (u64, B256), draw: &mut Draw) -> Header {
    let (number, parent_hash) = (parent.0 + 1, parent.1);
    let merged = fork >= Fork::Paris;
    let from = |at: Fork| fork >= at;
    Header {
        number,
        parent_hash,
        timestamp: 1_000_000 + number * 12,
        beneficiary: draw.pick(&world.beneficiaries),
        difficulty: if merged { U256::ZERO } else { U256::from(draw.between(1, 1 << 20)) },
        mix_hash: keccak256(draw.any().to_be_bytes()),
        // Small limits are used up before all transactions fit.
        gas_limit: draw.pick(&[30_000_000u64, 30_000_000, 20_000_000, 3_000_000, 700_000, 200_000]),
        base_fee_per_gas: from(Fork::London).then(|| draw.pick(&[0u64, 1, 7, 1_000_000_000])),
        withdrawals_root: from(Fork::Shanghai).then_some(B256::ZERO),
        blob_gas_used: from(Fork::Cancun).then_some(0),
        excess_blob_gas: from(Fork::Cancun).then(|| draw.pick(&[0u64, 131_072, 10_000_000])),
        parent_beacon_block_root: from(Fork::Cancun).then(|| keccak256(draw.any().to_be_bytes())),
        requests_hash: from(Fork::Prague).then_some(B256::ZERO),
        ..Header::default()
    }
}

/// A block with this header and everything that execution reads, but without transactions.
pub(super) fn shell(fork: Fork, header: Header, world: &World, draw: &mut Draw) -> Block {
    let mut ommers = Vec::new();
    if fork < Fork::Paris && draw.one_in(4) {
        let number = header.number.saturating_sub(draw.between(1, 3));
        ommers.push(Header { number, beneficiary: draw.pick(&world.names.addresses), ..Header::default() });
    }
    let withdrawals = (fork >= Fork::Shanghai).then(|| {
        (0..draw.below(4))
            .map(|index| Withdrawal {
                index,
                validator_index: index,
                address: if draw.one_in(3) {
                    numbered(0xe0, index)
                } else {
                    draw.pick(&world.names.addresses)
                },
                amount: draw.pick(&[0u64, 0, 1, 32]),
            })
            .collect()
    });
    Block::new(header, Vec::new(), Ommers::Headers(ommers), withdrawals)
}
