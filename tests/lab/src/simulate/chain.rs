//! The chain of a history. Its transactions have numbers as results, so that the sequential result is known
//! beforehand. The model knows no EVM.

use alloy_primitives::{Address, B256, U256};
use common::id::{Height, StateRef, WorkId, WorldId};
use common::message::StateSummary;
use common::work::{WorkFailure, WorkOutput};

use super::random::{Random, join};
use schedule::intake::Candidate;
use schedule::{WorkClass, WorkItem};

/// A block's place in the order of submission.
pub(super) type BlockNumber = usize;

/// The gas limits of a heavy transaction and of any other.
pub(super) const HEAVY_GAS: u64 = 4_000_000;
pub(super) const USUAL_GAS: u64 = 1_000;

/// A block of the model. Its transactions have no content: their results follow from its seed.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) transactions: u8,
    /// The block is invalid, because its header does not fit its content: the coordinator must reject it.
    pub(super) invalid: bool,
    /// The transaction that ends the process that runs it, if any.
    pub(super) killer: Option<u8>,
    /// The transaction that runs for seconds, if any.
    pub(super) heavy: Option<u8>,
    /// The parent; `None` if the block follows the origin.
    pub(super) parent: Option<BlockNumber>,
    /// The weight that it adds to its branch.
    pub(super) weight: u64,
    seed: u64,
}

/// A piece of work, decoded from its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece {
    pub(super) block: BlockNumber,
    /// The height of the state that it starts from.
    pub(super) base: u64,
    /// Whether transactions are executed; if not, only their senders are recovered.
    pub(super) execute: bool,
    pub(super) first: u8,
    pub(super) count: u8,
}

impl Piece {
    pub(super) fn id(&self, base_digest: u64) -> WorkId {
        let mut bytes = [0u8; 32];
        let parts = [self.block as u64, self.base, base_digest].map(u64::to_be_bytes).concat();
        let kind = [u8::from(self.execute), self.first, self.count];
        for (to, from) in bytes.iter_mut().zip(kind.into_iter().chain(parts)) {
            *to = from;
        }
        WorkId(B256::from(bytes))
    }

    pub(super) fn of(id: &WorkId) -> Self {
        let byte = |at: usize| id.0.get(at).copied().unwrap_or(0);
        let number = |at: usize| (at..at + 8).fold(0u64, |sum, at| (sum << 8) | u64::from(byte(at)));
        Self {
            execute: byte(0) != 0,
            first: byte(1),
            count: byte(2),
            block: usize::try_from(number(3)).unwrap_or(0),
            base: number(11),
        }
    }

    pub(super) fn base_digest(id: &WorkId) -> u64 {
        let byte = |at: usize| u64::from(id.0.get(at).copied().unwrap_or(0));
        (19..27).fold(0u64, |sum, at| (sum << 8) | byte(at))
    }

    pub(super) fn contains(&self, transaction: u8) -> bool {
        (self.first..self.first + self.count).contains(&transaction)
    }

    /// The piece, as far as the scheduler must know it. `heavy` is the block's heavy transaction.
    pub(super) fn item(&self, base_digest: u64, heavy: Option<u8>) -> WorkItem {
        let heaviest = if heavy.is_some_and(|heavy| self.contains(heavy)) { HEAVY_GAS } else { USUAL_GAS };
        WorkItem {
            id: self.id(base_digest),
            base: self.execute.then(|| state(self.base, base_digest)),
            class: if self.execute { WorkClass::Execute } else { WorkClass::Recover },
            cost: u64::from(self.count),
            heaviest: if self.execute { heaviest } else { 0 },
            transactions: u32::from(self.count),
            verify: false,
        }
    }
}

/// The name of the state with this height and digest.
pub(super) fn state(height: u64, digest: u64) -> StateRef {
    let mut hash = [0u8; 32];
    for (to, from) in hash.iter_mut().zip(digest.to_be_bytes()) {
        *to = from;
    }
    StateRef { world: WorldId::default(), height: Height(height), block_hash: B256::from(hash) }
}

/// The summary of a state; the state's name stands for its content here.
pub(super) fn summary_of(state: StateRef) -> StateSummary {
    StateSummary { state, digest: U256::from_be_bytes(state.block_hash.0) }
}

/// Draws the blocks of a history. In two of three histories some of them are on branches.
pub(super) fn draw(random: &mut Random) -> Vec<Block> {
    let branches = !random.one_in(3);
    let count = random.between(3, if branches { 6 } else { 5 }) as usize;
    (0..count)
        .map(|number| {
            let before = number.checked_sub(1);
            let elsewhere = branches && random.one_in(3);
            // Any earlier block, or the origin.
            let parent = if elsewhere { random.index(number + 1).checked_sub(1) } else { before };
            Block::draw(random, parent)
        })
        .collect()
}

impl Block {
    fn draw(random: &mut Random, parent: Option<BlockNumber>) -> Self {
        let transactions = random.between(3, 10) as u8;
        let killer = random.one_in(25).then(|| random.between(0, u64::from(transactions) - 1) as u8);
        let heavy = random.one_in(10).then(|| random.between(0, u64::from(transactions) - 1) as u8);
        let weight = random.between(1, 3);
        let (invalid, seed) = (random.one_in(12), random.next());
        Self { transactions, invalid, killer, heavy, parent, weight, seed }
    }

    /// Cuts the block into at most `pieces` pieces of similar size.
    pub(super) fn cut(&self, number: BlockNumber, base: u64, execute: bool, pieces: u8) -> Vec<Piece> {
        let size = self.transactions.div_ceil(pieces.max(1)).max(1);
        (0..self.transactions)
            .step_by(usize::from(size))
            .map(|first| {
                let count = size.min(self.transactions - first);
                Piece { block: number, base, execute, first, count }
            })
            .collect()
    }

    /// The result of one transaction on a state.
    fn result(&self, transaction: u8, execute: bool, base: u64) -> u64 {
        let base = if execute { base } else { 0 };
        join(join(self.seed, u64::from(transaction)), base ^ u64::from(execute))
    }

    /// The results of a piece on a state, encoded as work output.
    pub(super) fn output(&self, piece: &Piece, base: u64) -> WorkOutput {
        let results = (piece.first..piece.first + piece.count)
            .map(|transaction| Ok(address(self.result(transaction, piece.execute, base))));
        WorkOutput::Recovered(results.collect())
    }

    /// The state after the block, by sequential execution.
    pub(super) fn after(&self, base: u64) -> u64 {
        (0..self.transactions)
            .fold(base, |state, transaction| join(state, self.result(transaction, true, base)))
    }
}

/// The state that follows from results; `None` if one is missing.
pub(super) fn fold(base: u64, results: &[Option<u64>]) -> Option<u64> {
    results.iter().try_fold(base, |state, result| Some(join(state, (*result)?)))
}

/// Encodes a number as an address, which work output can carry.
pub(super) fn address(number: u64) -> Address {
    let mut bytes = [0u8; 20];
    for (to, from) in bytes.iter_mut().zip(number.to_be_bytes()) {
        *to = from;
    }
    Address::from(bytes)
}

/// The hash of a block, made from its number. It is never zero, which stands for the origin.
pub(super) fn block_hash(block: BlockNumber) -> B256 {
    state(0, block as u64 + 1).block_hash
}

/// A block as the intake knows it.
pub(super) fn candidate(number: BlockNumber, blocks: &[Block]) -> Candidate {
    let parent = blocks.get(number).and_then(|block| block.parent);
    Candidate { hash: block_hash(number), parent: parent.map(block_hash).unwrap_or_default(), bytes: 1 }
}

/// Decodes the numbers of a result.
pub(super) fn numbers(output: &Result<WorkOutput, WorkFailure>) -> Vec<u64> {
    let Ok(WorkOutput::Recovered(results)) = output else { return Vec::new() };
    let number =
        |address: &Address| address.iter().take(8).fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
    results.iter().filter_map(|result| result.as_ref().ok()).map(number).collect()
}

/// The digest of a result.
pub(super) fn digest(numbers: &[u64]) -> B256 {
    let number = numbers.iter().fold(1, |sum, number| join(sum, *number));
    state(0, number).block_hash
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pieces_id_tells_all_about_it() {
        let piece = Piece { block: 3, base: 77, execute: true, first: 2, count: 5 };
        let id = piece.id(0xfeed_beef_1234_5678);
        assert_eq!((Piece::of(&id), Piece::base_digest(&id)), (piece, 0xfeed_beef_1234_5678));
    }

    #[test]
    fn results_of_all_pieces_make_the_sequential_state() {
        let mut random = Random::new(5);
        let block = Block::draw(&mut random, None);
        let mut results = Vec::new();
        for piece in block.cut(0, 4, true, 3) {
            results.extend(numbers(&Ok(block.output(&piece, 99))).into_iter().map(Some));
        }
        assert_eq!(fold(99, &results), Some(block.after(99)));
    }
}
