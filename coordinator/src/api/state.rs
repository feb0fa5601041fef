//! What the desk knows of accepted blocks and of the clients that wait for them. It reads no ledger and keeps
//! nothing beyond its bounds.

use std::collections::{HashMap, HashSet, VecDeque};

use alloy_primitives::B256;
use common::block::CheckedBlock;
use tokio::sync::oneshot;

use super::outcome::BlockOutcome;
use ledger::Parked;
use schedule::intake::Intake;

/// The number of blocks whose outcomes are remembered, so that a repeated submission gets an answer.
const REMEMBERED: usize = 4096;

/// The desk's data about blocks and clients.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) intake: Intake,
    pub(super) blocks: HashMap<B256, CheckedBlock>,
    pub(super) parked: HashMap<B256, Parked>,
    pub(super) waiters: HashMap<B256, Vec<oneshot::Sender<BlockOutcome>>>,
    /// Blocks that could not be executed and for which no client waits any more.
    pub(super) quiet: HashSet<B256>,
    pub(super) remembered: HashMap<B256, BlockOutcome>,
    order: VecDeque<B256>,
    /// Blocks that were rejected as invalid, with the reason, so that their descendants are rejected too.
    pub(super) invalid: HashMap<B256, String>,
    invalid_order: VecDeque<B256>,
}

impl State {
    /// The data of a desk with this intake.
    pub(super) fn new(intake: Intake) -> Self {
        Self { intake, ..Self::default() }
    }

    /// Sends the outcome to every client that waits for the block.
    pub(super) fn tell(&mut self, outcome: &BlockOutcome) {
        for waiter in self.waiters.remove(&outcome.hash).unwrap_or_default() {
            // The client may have stopped waiting.
            let _ = waiter.send(outcome.clone());
        }
    }

    pub(super) fn forget(&mut self, hash: &B256) {
        self.blocks.remove(hash);
        self.parked.remove(hash);
        self.quiet.remove(hash);
    }

    pub(super) fn remember(&mut self, outcome: BlockOutcome) {
        self.order.push_back(outcome.hash);
        self.remembered.insert(outcome.hash, outcome);
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.remembered.remove(&oldest);
            }
        }
    }

    pub(super) fn remember_invalid(&mut self, hash: B256, reason: String) {
        if self.invalid.insert(hash, reason).is_none() {
            self.invalid_order.push_back(hash);
        }
        while self.invalid_order.len() > REMEMBERED {
            if let Some(oldest) = self.invalid_order.pop_front() {
                self.invalid.remove(&oldest);
            }
        }
    }

    /// The reason why an accepted block waits for an operator, if it does.
    pub(super) fn held_up(&self, hash: &B256) -> Option<String> {
        if let Some(parked) = self.parked.get(hash) {
            return Some(format!("it is parked: {}", parked.reason));
        }
        let behind = self.parked.keys().find(|parked| self.intake.descendants(parked).contains(hash))?;
        Some(format!("it is accepted, and waits for block {behind}, which is parked"))
    }
}
