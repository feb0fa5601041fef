//! The members of the fleet as its endpoint must know them: which process each shard is, why others were
//! lost, and which assignments were made. Only the driver changes this; it decides nothing.

use std::collections::{HashMap, HashSet, VecDeque};

use common::endpoint::PeerError;
use common::id::{AssignmentId, Incarnation, ShardId};
use common::token::SessionToken;
use parking_lot::{Mutex, RwLock};

/// The number of lost shards that are remembered.
const LOSSES_REMEMBERED: usize = 256;

/// The number of assignments whose results are expected. A result may arrive long after its work was done
/// elsewhere.
const ASSIGNMENTS_REMEMBERED: usize = 1 << 16;

/// The most shards of a fleet.
pub(super) const MAX_SHARDS: usize = 1024;

/// One process of a shard.
#[derive(Debug, Clone, Copy)]
struct Member {
    incarnation: Incarnation,
    token: SessionToken,
}

/// A process that was lost.
#[derive(Debug)]
struct Loss {
    shard: ShardId,
    member: Member,
    reason: String,
}

/// The newest assignments, oldest first, at most [`ASSIGNMENTS_REMEMBERED`].
#[derive(Debug, Default)]
struct Assigned {
    known: HashSet<AssignmentId>,
    order: VecDeque<AssignmentId>,
}

/// The members of a fleet.
#[derive(Debug, Default)]
pub(super) struct Members {
    alive: RwLock<HashMap<ShardId, Member>>,
    losses: Mutex<VecDeque<Loss>>,
    assigned: Mutex<Assigned>,
}

impl Members {
    /// Checks that the process may be this shard: no other process that is a member, or was until lately, has
    /// the same incarnation. The scheduler decides between processes of different incarnations.
    pub(super) fn may_join(
        &self,
        shard: ShardId,
        incarnation: Incarnation,
        token: &SessionToken,
    ) -> Result<(), PeerError> {
        let alive = self.alive.read();
        if alive.len() >= MAX_SHARDS && !alive.contains_key(&shard) {
            return Err(PeerError::Overloaded(format!(
                "the fleet has {MAX_SHARDS} shards, the most it may have"
            )));
        }
        let losses = self.losses.lock();
        let lost = losses.iter().filter(|loss| loss.shard == shard).map(|loss| &loss.member);
        let mut known = alive.get(&shard).into_iter().chain(lost);
        match known.any(|known| known.incarnation == incarnation && known.token != *token) {
            true => Err(impostor(shard)),
            false => Ok(()),
        }
    }

    /// Adds a shard that the scheduler has admitted.
    pub(super) fn join(&self, shard: ShardId, incarnation: Incarnation, token: SessionToken) {
        self.alive.write().insert(shard, Member { incarnation, token });
    }

    /// Removes a shard that was lost, and remembers why.
    pub(super) fn lose(&self, shard: ShardId, reason: &str) {
        let Some(member) = self.alive.write().remove(&shard) else { return };
        let mut losses = self.losses.lock();
        losses.retain(|known| known.shard != shard);
        losses.push_back(Loss { shard, member, reason: reason.to_owned() });
        if losses.len() > LOSSES_REMEMBERED {
            losses.pop_front();
        }
    }

    /// Remembers that a shard was given this assignment.
    pub(super) fn assign(&self, assignment: AssignmentId) {
        let mut assigned = self.assigned.lock();
        if assigned.known.insert(assignment) {
            assigned.order.push_back(assignment);
        }
        if assigned.order.len() > ASSIGNMENTS_REMEMBERED
            && let Some(oldest) = assigned.order.pop_front()
        {
            assigned.known.remove(&oldest);
        }
    }

    /// Forgets an assignment whose result has come: another one is not even received.
    pub(super) fn answered(&self, assignment: &AssignmentId) {
        self.assigned.lock().known.remove(assignment);
    }

    /// Checks that a shard was given this assignment, and that its result has not come.
    pub(super) fn check_assigned(&self, assignment: &AssignmentId) -> Result<(), PeerError> {
        if self.assigned.lock().known.contains(assignment) {
            return Ok(());
        }
        Err(PeerError::Refused(format!(
            "this coordinator has not made the assignment {assignment}, or has its result"
        )))
    }

    /// Checks that the shard is a member with this incarnation.
    pub(super) fn check_known(&self, shard: ShardId, incarnation: Incarnation) -> Result<(), PeerError> {
        self.member(shard, incarnation).map(|_| ())
    }

    /// Checks that the process with this token is the shard.
    pub(super) fn check_caller(
        &self,
        token: &SessionToken,
        shard: ShardId,
        incarnation: Incarnation,
    ) -> Result<(), PeerError> {
        match self.member(shard, incarnation)?.token == *token {
            true => Ok(()),
            false => Err(impostor(shard)),
        }
    }

    fn member(&self, shard: ShardId, incarnation: Incarnation) -> Result<Member, PeerError> {
        match self.alive.read().get(&shard) {
            Some(member) if member.incarnation == incarnation => Ok(*member),
            Some(_) => {
                Err(PeerError::Refused(format!("another process has taken the place of shard {shard}")))
            }
            None => {
                let losses = self.losses.lock();
                let found =
                    losses.iter().find(|loss| loss.shard == shard && loss.member.incarnation == incarnation);
                let why = found.map_or_else(String::new, |loss| format!(": it was lost ({})", loss.reason));
                Err(PeerError::NotRegistered(format!("shard {shard} is not part of the fleet{why}")))
            }
        }
    }
}

fn impostor(shard: ShardId) -> PeerError {
    PeerError::Refused(format!("the caller is not the process that has registered as shard {shard}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_primitives::B256;
    use common::id::{Attempt, Epoch, WorkId};

    const SHARD: ShardId = ShardId(3);
    const RUN: Incarnation = Incarnation(9);

    fn refused(answer: Result<(), PeerError>) -> bool {
        matches!(answer, Err(PeerError::Refused(_)))
    }

    #[test]
    fn only_the_process_that_registered_speaks_for_a_shard() {
        let (members, own, other) = (Members::default(), SessionToken::fresh(), SessionToken::fresh());
        assert!(matches!(members.check_caller(&own, SHARD, RUN), Err(PeerError::NotRegistered(_))));
        members.may_join(SHARD, RUN, &own).unwrap();
        members.join(SHARD, RUN, own);
        assert_eq!(members.check_caller(&own, SHARD, RUN), Ok(()));
        assert!(refused(members.check_caller(&other, SHARD, RUN)));
        assert!(refused(members.check_caller(&own, SHARD, Incarnation(8))));
        assert_eq!(members.may_join(SHARD, RUN, &own), Ok(()), "it may register again");
        assert!(refused(members.may_join(SHARD, RUN, &other)));
    }

    #[test]
    fn only_the_process_that_was_lost_returns_in_its_place() {
        let (members, own, other) = (Members::default(), SessionToken::fresh(), SessionToken::fresh());
        members.join(SHARD, RUN, own);
        members.lose(SHARD, "silent");
        let error = members.check_caller(&own, SHARD, RUN).unwrap_err();
        assert!(error.to_string().contains("silent"), "{error}");
        assert!(refused(members.may_join(SHARD, RUN, &other)));
        assert_eq!(members.may_join(SHARD, RUN, &own), Ok(()));
        assert_eq!(members.may_join(SHARD, Incarnation(10), &other), Ok(()), "a restart has a new token");
    }

    #[test]
    fn a_fleet_has_a_largest_size() {
        let (members, token) = (Members::default(), SessionToken::fresh());
        for shard in 0..u32::try_from(MAX_SHARDS).unwrap() {
            members.join(ShardId(shard), RUN, token);
        }
        assert!(matches!(members.may_join(ShardId(5000), RUN, &token), Err(PeerError::Overloaded(_))));
        assert_eq!(members.may_join(ShardId(5), RUN, &token), Ok(()));
    }

    #[test]
    fn only_assignments_that_were_made_have_results_and_the_oldest_are_forgotten() {
        let members = Members::default();
        let assignment = |attempt| AssignmentId {
            work: WorkId(B256::ZERO),
            shard: SHARD,
            incarnation: RUN,
            attempt: Attempt(attempt),
            epoch: Epoch { number: 1, instance: 1 },
        };
        assert!(refused(members.check_assigned(&assignment(1))));
        members.assign(assignment(1));
        assert_eq!(members.check_assigned(&assignment(1)), Ok(()));
        for attempt in 2..=1 + u32::try_from(ASSIGNMENTS_REMEMBERED).unwrap() {
            members.assign(assignment(attempt));
        }
        assert!(refused(members.check_assigned(&assignment(1))));
        assert_eq!(members.check_assigned(&assignment(2)), Ok(()));
        members.answered(&assignment(2));
        assert!(refused(members.check_assigned(&assignment(2))), "its result has come");
    }
}
