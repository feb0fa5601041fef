//! The latest finished work, so that later results can be compared with the one that counted.

use std::collections::{BTreeMap, VecDeque};

use alloy_primitives::B256;
use common::id::{AssignmentId, RoundId, WorkId};

use super::WorkItem;

/// A piece of work that is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) item: WorkItem,
    pub(super) round: RoundId,
    /// The assignment whose result counted.
    pub(super) first: AssignmentId,
    /// The digest of the right result, if it is known.
    pub(super) digest: Option<B256>,
    /// Whether another shard or trusted code has confirmed the result.
    pub(super) verified: bool,
}

/// The latest finished work; the oldest is dropped first.
#[derive(Debug, Clone, Default)]
pub(super) struct Finished {
    by_id: BTreeMap<WorkId, Done>,
    order: VecDeque<WorkId>,
}

impl Finished {
    /// The work, if it is done and not dropped yet.
    pub(super) fn get(&self, work: &WorkId) -> Option<&Done> {
        self.by_id.get(work)
    }

    /// Some finished work of the round.
    pub(super) fn any_of(&self, round: RoundId) -> Option<(WorkId, Done)> {
        let found = self.by_id.iter().find(|(_, done)| done.round == round);
        found.map(|(work, done)| (*work, *done))
    }

    /// Finished work that needed to be verified and was not.
    pub(super) fn unverified(&self) -> Option<WorkId> {
        let found = self.by_id.iter().find(|(_, done)| done.item.verify && !done.verified);
        found.map(|(work, _)| *work)
    }

    /// Remembers finished work, and the newest `kept` pieces at most.
    pub(super) fn remember(&mut self, work: WorkId, done: Done, kept: usize) {
        if self.by_id.insert(work, done).is_none() {
            self.order.push_back(work);
        }
        while self.order.len() > kept {
            if let Some(oldest) = self.order.pop_front() {
                self.by_id.remove(&oldest);
            }
        }
    }

    /// Notes the digest of the right result, which trusted code has found. Returns whether the work is known.
    pub(super) fn correct(&mut self, work: &WorkId, digest: B256) -> bool {
        let done = self.by_id.get_mut(work);
        done.map(|done| done.digest = Some(digest)).is_some()
    }

    /// Forgets that the work is done, because it must be done again.
    pub(super) fn reopen(&mut self, work: &WorkId) {
        if self.by_id.remove(work).is_some() {
            self.order.retain(|known| known != work);
        }
    }
}
