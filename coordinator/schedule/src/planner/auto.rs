//! The automatic plan: transactions expected to conflict go together in index order, and the
//! groups are balanced over sub-blocks of similar cost, several per slot.
//!
//! Same sender is one group (a nonce chain). Transactions that share a [key](super::keys) go together too,
//! those of rare keys first, and so do a contract's callers, as long as the group does not grow past a
//! slot's share: beyond that, parallelism is worth more than a few transactions executed again.

use alloy_consensus::Transaction as _;
use alloy_primitives::Address;
use alloy_primitives::map::{AddressMap, HashMap};
use common::block::Transaction;
use common::id::TxIndex;

use super::SubBlock;
use super::keys::shared_keys;

/// The most sub-blocks per slot: a faster slot takes more, and the loss of one costs little.
const PER_SLOT: u64 = 4;

/// The least gas that makes a further sub-block for a slot worth sending. Sending a sub-block and its result
/// costs both sides about 0.1 ms. Transfers with this much gas take about 1 ms.
const WORTH_SENDING: u64 = 1_500_000;

/// The least gas that makes a sub-block worth sending at all.
const LEAST_GAS: u64 = 200_000;

/// The expected cost of a transaction with this gas limit, in gas. Senders set limits freely, as an upper
/// bound: a limit counts in full up to a typical call's cost, and a quarter of the rest counts.
#[must_use]
pub fn cost(limit: u64) -> u64 {
    /// The limit up to which the whole gas limit counts.
    const TYPICAL: u64 = 150_000;
    if limit <= TYPICAL { limit } else { TYPICAL + (limit - TYPICAL) / 4 }
}

pub(super) fn sub_blocks(transactions: &[Transaction], senders: &[Address], slots: usize) -> Vec<SubBlock> {
    let costs: Vec<u64> = transactions.iter().map(|transaction| cost(transaction.gas_limit())).collect();
    let total: u64 = costs.iter().sum();
    let share = (total / slots as u64).max(LEAST_GAS);
    let mut groups = Groups::new(&costs);
    let mut by_sender: AddressMap<usize> = HashMap::default();
    for (index, sender) in senders.iter().enumerate() {
        let first = *by_sender.entry(*sender).or_insert(index);
        groups.join(first, index, u64::MAX);
    }
    for sharers in shared_keys(transactions, senders) {
        for pair in sharers.windows(2) {
            if let [left, right] = pair {
                groups.join(*left, *right, share);
            }
        }
    }
    let mut by_contract: AddressMap<usize> = HashMap::default();
    for (index, transaction) in transactions.iter().enumerate() {
        let Some(to) = transaction.to().filter(|_| !transaction.input().is_empty()) else { continue };
        let first = *by_contract.entry(to).or_insert(index);
        groups.join(first, index, share);
    }
    let per_slot = (share / WORTH_SENDING).clamp(1, PER_SLOT);
    pack(groups.collect(), (share / per_slot).max(LEAST_GAS))
}

/// Puts groups into sub-blocks of about `target` gas. Groups come in order of their first
/// transaction, so that early transactions are validated while later ones execute.
fn pack(groups: Vec<(u64, Vec<TxIndex>)>, target: u64) -> Vec<SubBlock> {
    let mut sub_blocks: Vec<(u64, SubBlock)> = Vec::new();
    let mut open: Option<(u64, SubBlock)> = None;
    for (cost, group) in groups {
        if cost >= target {
            sub_blocks.push((cost, group));
            continue;
        }
        let (gas, indices) = open.get_or_insert_with(Default::default);
        *gas += cost;
        indices.extend(group);
        if *gas >= target {
            sub_blocks.extend(open.take());
        }
    }
    sub_blocks.extend(open);
    for (_, indices) in &mut sub_blocks {
        indices.sort_unstable();
    }
    // The most expensive first: one that starts late ends late.
    sub_blocks.sort_by(|(left, _), (right, _)| right.cmp(left));
    sub_blocks.into_iter().map(|(_, indices)| indices).collect()
}

/// Disjoint groups of transactions with their cost (union-find).
struct Groups {
    parent: Vec<usize>,
    cost: Vec<u64>,
}

impl Groups {
    fn new(costs: &[u64]) -> Self {
        Self { parent: (0..costs.len()).collect(), cost: costs.to_vec() }
    }

    fn root(&mut self, mut index: usize) -> usize {
        while let Some(&parent) = self.parent.get(index)
            && parent != index
        {
            // Halves the path on the way.
            let grandparent = self.parent.get(parent).copied().unwrap_or(parent);
            if let Some(place) = self.parent.get_mut(index) {
                *place = grandparent;
            }
            index = grandparent;
        }
        index
    }

    /// Joins two groups unless together they cost more than `most`.
    fn join(&mut self, left: usize, right: usize, most: u64) {
        let (left, right) = (self.root(left), self.root(right));
        if left == right {
            return;
        }
        let of = |index: usize| self.cost.get(index).copied().unwrap_or(0);
        let together = of(left).saturating_add(of(right));
        if together > most {
            return;
        }
        let (into, from) = (left.min(right), left.max(right));
        if let (Some(parent), Some(cost)) = (self.parent.get_mut(from), self.cost.get_mut(into)) {
            *parent = into;
            *cost = together;
        }
    }

    /// The groups with their cost, in order of their first transaction.
    fn collect(mut self) -> Vec<(u64, Vec<TxIndex>)> {
        let mut groups: Vec<(u64, Vec<TxIndex>)> = Vec::new();
        let mut places: HashMap<usize, usize> = HashMap::default();
        for index in 0..self.parent.len() {
            let root = self.root(index);
            let place = *places.entry(root).or_insert_with(|| {
                groups.push((self.cost.get(root).copied().unwrap_or(0), Vec::new()));
                groups.len() - 1
            });
            if let (Some((_, group)), Ok(index)) = (groups.get_mut(place), u32::try_from(index)) {
                group.push(TxIndex(index));
            }
        }
        groups
    }
}
