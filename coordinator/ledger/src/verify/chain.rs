//! Checks the chain's blocks, the journal, and the side blocks.

use std::collections::BTreeMap;

use alloy_consensus::ReceiptEnvelope;
use alloy_consensus::proofs::calculate_receipt_root;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use common::account::{AccountDelta, Delta};
use common::block::{Block, EncodedBlock};
use common::digest::ContentDigest;
use common::id::Height;

use super::super::LedgerError;
use super::super::damaged;
use super::super::nodes::update_from;
use super::super::records::Records;
use super::super::side;
use super::Check;

/// The interval between two progress reports, in blocks.
const STEP: u64 = 64;

/// Decodes a stored block and checks it against its hash.
fn decode(hash: B256, rlp: &[u8]) -> Result<Block, String> {
    let block = EncodedBlock::decode_exact(rlp).map_err(|error| error.to_string())?;
    if block.hash != hash {
        return Err(format!("its bytes have hash {}", block.hash));
    }
    block.check_body().map_err(|error| error.to_string())?;
    Ok(block.into_block())
}

/// Checks that receipts match the header.
fn check_receipts(block: &Block, rlp: &[u8]) -> Result<(), String> {
    let receipts: Vec<ReceiptEnvelope> = alloy_rlp::decode_exact(rlp).map_err(|error| error.to_string())?;
    let root = calculate_receipt_root(&receipts);
    if root == block.header.receipts_root {
        return Ok(());
    }
    Err(format!("they have root {root}, the header says {}", block.header.receipts_root))
}

/// The content digest of the state on which a block was executed, computed from that of the state after
/// it.
fn digest_before(redo: &Delta, undo: &Delta) -> U256 {
    let mut digest = ContentDigest::from_word(redo.digest);
    let before: BTreeMap<Address, &AccountDelta> =
        undo.accounts.iter().map(|account| (account.address, account)).collect();
    for after in &redo.accounts {
        let Some(before) = before.get(&after.address) else { continue };
        digest.account(after.address, after.account.as_ref(), before.account.as_ref());
        let mut slots: BTreeMap<U256, (U256, U256)> = BTreeMap::new();
        for entry in &after.storage {
            slots.entry(entry.slot).or_default().0 = entry.value;
        }
        for entry in &before.storage {
            slots.entry(entry.slot).or_default().1 = entry.value;
        }
        for (slot, (now, then)) in slots {
            digest.slot(after.address, slot, now, then);
        }
    }
    digest.word()
}

fn check_code(code: &[(B256, Bytes)]) -> Result<(), String> {
    match code.iter().find(|(hash, code)| keccak256(code) != *hash) {
        None => Ok(()),
        Some((hash, _)) => Err(format!("the code with hash {hash} is another one")),
    }
}

impl Check<'_> {
    /// Checks what is kept of a block whose bytes are right: its number, receipts and record. `expected`
    /// are the total difficulty and the count of blocks up to it.
    fn block_record(
        &mut self,
        records: &Records<'_>,
        block: &Block,
        number: u64,
        expected: (U256, u64),
    ) -> Result<(), LedgerError> {
        let hash = block.hash;
        let place = format!("block {number} ({hash})");
        if block.header.number != number {
            self.report.add(&place, format!("its header has number {}", block.header.number));
        }
        match records.receipts(&hash)? {
            None => self.report.add(format!("receipts of {place}"), "they are missing"),
            Some(receipts) => {
                if let Err(reason) = check_receipts(block, &receipts) {
                    self.report.add(format!("receipts of {place}"), reason);
                }
            }
        }
        match records.info(&hash)? {
            Some(info)
                if (info.number, info.total_difficulty.0, info.blocks)
                    == (number, expected.0, expected.1) => {}
            _ => self.report.add(format!("record of {place}"), "it is not that of its place in the chain"),
        }
        Ok(())
    }

    /// Checks the chain from the head back to the origin: each block's bytes, body, receipts and record.
    pub(super) fn blocks(&mut self) -> Result<(), LedgerError> {
        let transaction = self.ledger.reading()?;
        let records = Records(&transaction);
        let (head, identity) = (records.head()?, records.identity()?);
        let origin = identity.origin.state;
        let at = head.summary.state;
        let total = at.height.0.saturating_sub(origin.height.0);
        let (mut hash, mut number) = (at.block_hash, at.height.0);
        let mut expected = (head.total_difficulty.0, head.blocks);
        while number > origin.height.0 {
            let done = at.height.0 - number;
            if done.is_multiple_of(STEP) {
                (self.progress)("blocks", done, total);
            }
            let place = format!("block {number} ({hash})");
            match self.ledger.hash_at(Height(number))? {
                Some(listed) if listed == hash => {}
                other => {
                    self.report.add(&place, format!("the state names {other:?} as the block of this number"))
                }
            }
            let Some(rlp) = records.block(&hash)? else {
                return Err(damaged(&place, "it is missing, and what is before it cannot be checked"));
            };
            let block = match decode(hash, &rlp) {
                Ok(block) => block,
                Err(reason) => {
                    self.report.add(&place, reason);
                    // The parent is known all the same, if the list of hashes is right.
                    let below = self.ledger.hash_at(Height(number - 1))?;
                    hash = below.ok_or_else(|| damaged(&place, "what is before it is not known"))?;
                    number -= 1;
                    expected =
                        records.info(&hash)?.map_or(expected, |info| (info.total_difficulty.0, info.blocks));
                    continue;
                }
            };
            self.block_record(&records, &block, number, expected)?;
            self.report.counts.blocks += 1;
            expected = (expected.0.saturating_sub(block.header.difficulty), expected.1.saturating_sub(1));
            hash = block.header.parent_hash;
            number -= 1;
        }
        if hash != origin.block_hash {
            self.report
                .add("chain", format!("it leads to {hash} and not to its origin {}", origin.block_hash));
        }
        let header = self.ledger.origin_header()?;
        let difficulty = header.as_ref().map_or(U256::ZERO, |header| header.difficulty);
        if expected != (difficulty, 0) {
            self.report.add("head", "its total difficulty or count of blocks is not that of the chain");
        }
        if header.is_some_and(|header| header.hash_slow() != origin.block_hash) {
            self.report.add("origin", "its header is not the one that its hash covers");
        }
        Ok(())
    }

    /// Checks the journal: the way back from the head and forward again must lead through the state roots
    /// of the headers.
    pub(super) fn journal(&mut self) -> Result<(), LedgerError> {
        let transaction = self.ledger.reading()?;
        let records = Records(&transaction);
        let head = self.ledger.head();
        let Some(above) = &head.nodes else { return Ok(()) };
        // What the tables do not hold yet is in memory.
        let numbers = records.journaled()?;
        let (mut trie, mut state) = (above.trie().clone(), head.summary.state);
        let mut digest = head.summary.digest;
        let mut step = |accounts: &[AccountDelta]| -> Result<B256, LedgerError> {
            trie = update_from(above.source(), &trie, accounts, 0)?.trie;
            Ok(trie.root())
        };
        let total = numbers.len() as u64 * 2;
        let mut ways = Vec::new();
        for (done, number) in (0..).zip(numbers.iter().rev().copied()) {
            (self.progress)("journal", done, total);
            let place = format!("the journal's entry of block {number}");
            let Some(entry) = records.journal(number)? else { continue };
            let (undo, redo) = (&entry.undo, &entry.redo);
            if undo.from != state || redo.to != state || redo.from != undo.to {
                return Err(damaged(&place, "it does not lead on from the block above"));
            }
            let expected = self.root_after(&records, redo)?;
            let root = step(&undo.accounts)?;
            if root != expected {
                let reason = format!("taking it back leads to state root {root}, the header says {expected}");
                return Err(damaged(&place, reason));
            }
            if let Err(reason) = check_code(&redo.code) {
                self.report.add(&place, reason);
            }
            if redo.digest != digest || undo.digest != digest_before(redo, undo) {
                self.report.add(&place, "its content digests are not those of the states");
            }
            (state, digest) = (undo.to, undo.digest);
            ways.push(number);
            self.report.counts.journal += 1;
        }
        for (done, number) in (0..).zip(ways.iter().rev().copied()) {
            (self.progress)("journal", ways.len() as u64 + done, total);
            let Some(entry) = records.journal(number)? else { continue };
            let block = records.block(&entry.redo.to.block_hash)?.unwrap_or_default();
            let expected = Block::decode(&mut block.as_slice())?.header.state_root;
            let root = step(&entry.redo.accounts)?;
            if root != expected {
                let reason = format!("it leads to state root {root}, the header says {expected}");
                return Err(damaged(&format!("the journal's entry of block {number}"), reason));
            }
        }
        Ok(())
    }

    /// The state root of the block at which a delta begins.
    fn root_after(&self, records: &Records<'_>, delta: &Delta) -> Result<B256, LedgerError> {
        let hash = delta.from.block_hash;
        let header = match records.block(&hash)? {
            Some(rlp) => Some(Block::decode(&mut rlp.as_slice())?.header),
            None if hash == self.ledger.origin().block_hash => self.ledger.origin_header()?,
            None => None,
        };
        let missing = || damaged(&format!("block {hash}"), "it is missing");
        header.map(|header| header.state_root).ok_or_else(missing)
    }

    /// Checks the side blocks: bytes, body, receipts, and whether the stored changes belong to the
    /// block.
    pub(super) fn side_blocks(&mut self) -> Result<(), LedgerError> {
        let transaction = self.ledger.reading()?;
        let hashes: Vec<B256> = self.ledger.side_index().hashes().collect();
        let total = hashes.len() as u64;
        for (done, hash) in (0..).zip(hashes) {
            (self.progress)("side blocks", done, total);
            let place = format!("side block {hash}");
            let kept = match side::read(&transaction, &hash) {
                Ok(Some(kept)) => kept,
                Ok(None) => {
                    self.report.add(place, "it is missing");
                    continue;
                }
                Err(LedgerError::Damaged { what, reason }) => {
                    self.report.add(what, reason);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let checked = decode(hash, &kept.rlp).and_then(|block| {
                check_receipts(&block, &kept.receipts)?;
                check_code(&kept.delta.code)?;
                let (from, to) = (kept.delta.from.block_hash, kept.delta.to.block_hash);
                if (from, to) != (block.header.parent_hash, hash) {
                    return Err("its changes are those of another block".to_owned());
                }
                Ok(())
            });
            if let Err(reason) = checked {
                self.report.add(place, reason);
            }
            self.report.counts.side_blocks += 1;
        }
        Ok(())
    }
}
