//! The replica: a shard's own copy of the state. Committed deltas move it, a snapshot replaces it, and
//! execution never changes it.
//!
//! A view stays readable while a slot uses it, however far the replica has moved on. Deltas are layers
//! above a shared base, and are folded into the base as soon as no view reads it.

mod filling;
mod stored;
#[cfg(test)]
mod stored_tests;

use std::path::Path;
use std::sync::Arc;

use alloy_primitives::{B256, U256};
use common::account::Delta;
use common::chain_spec::ChainSpec;
use common::id::{StateRef, WorldId};
use common::message::StateSummary;
use engine::replica_view::{Base, ReplicaView};
use parking_lot::{Mutex, RwLock};

use engine::{MemoryState, StateError};

pub use filling::{Filling, SnapshotSum};
pub use stored::StoredError;

use filling::Target;
use stored::Stored;

/// Why the replica rejects a delta.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    /// The delta begins at another state than the replica holds.
    #[error("the replica is at {at:?}, the delta begins at {from}")]
    NotAtBase {
        /// The state that the replica holds.
        at: Option<StateRef>,
        /// The state at which the delta begins.
        from: StateRef,
    },
    /// After the delta the content digest is wrong: the replica has diverged.
    #[error(
        "after the delta to {state} the content digest is {found:#x}, it should be {expected:#x}; the replica must be synced again"
    )]
    Diverged {
        /// The state that the delta should lead to.
        state: StateRef,
        /// The digest of that state.
        expected: U256,
        /// The digest of the replica.
        found: U256,
    },
    /// The base cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A shard's copy of the state.
#[derive(Debug, Default)]
pub struct Replica {
    held: RwLock<Option<Held>>,
    /// A separate lock: heartbeats read the summary and must not wait while a delta is applied.
    summary: Mutex<Option<StateSummary>>,
    /// The database of a replica in a folder; `None` if the state is in memory.
    stored: Option<Arc<Stored>>,
}

#[derive(Debug)]
struct Held {
    summary: StateSummary,
    spec: Arc<ChainSpec>,
    view: ReplicaView,
}

impl Replica {
    /// The state that the replica holds, if any.
    #[must_use]
    pub fn summary(&self) -> Option<StateSummary> {
        *self.summary.lock()
    }

    /// The specification of a chain, if the replica holds a state of it.
    #[must_use]
    pub fn spec(&self, world: WorldId) -> Option<Arc<ChainSpec>> {
        let held = self.held.read();
        held.as_ref().filter(|held| held.summary.state.world == world).map(|held| Arc::clone(&held.spec))
    }

    /// A view of exactly this state, if the replica holds it.
    #[must_use]
    pub fn view(&self, state: StateRef) -> Option<ReplicaView> {
        let held = self.held.read();
        held.as_ref().filter(|held| held.summary.state == state).map(|held| held.view.clone())
    }

    /// Opens the replica in a folder. It holds the state that it stored there last.
    ///
    /// # Errors
    /// [`StoredError`] if the folder cannot be used. A damaged database is not an error: it is deleted.
    pub fn open(folder: &Path) -> Result<Self, StoredError> {
        let (stored, found) = Stored::open(folder)?;
        let replica = Self { stored: Some(Arc::new(stored)), ..Self::default() };
        if let Some(((summary, spec), view)) = found {
            replica.hold(summary, spec, view);
        }
        Ok(replica)
    }

    /// Starts to load a snapshot. A replica in a folder holds no state until the snapshot is complete.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database fails.
    pub fn begin_filling(&self, ancestors: Vec<(u64, B256)>) -> Result<Filling, StateError> {
        let target = match &self.stored {
            None => Target::Memory(MemoryState::default()),
            Some(stored) => {
                self.give_up();
                stored.clear()?;
                Target::Stored(Arc::clone(stored))
            }
        };
        Ok(Filling::new(target, ancestors))
    }

    /// Replaces the whole state by a snapshot, possibly of another chain.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database fails.
    pub fn finish_filling(
        &self,
        summary: StateSummary,
        spec: ChainSpec,
        filling: Filling,
    ) -> Result<(), StateError> {
        let view = match filling.target {
            Target::Memory(mut state) => {
                for (number, hash) in filling.ancestors {
                    state.insert_ancestor(number, hash);
                }
                ReplicaView::new(Base::Memory(Arc::new(state)))
            }
            Target::Stored(stored) => stored.filled(&summary, &spec, &filling.ancestors)?,
        };
        self.hold(summary, spec, view);
        Ok(())
    }

    /// Replaces the whole state by one in memory, possibly of another chain.
    pub fn replace(&self, summary: StateSummary, spec: ChainSpec, state: MemoryState) {
        self.hold(summary, spec, ReplicaView::new(Base::Memory(Arc::new(state))));
    }

    fn hold(&self, summary: StateSummary, spec: ChainSpec, view: ReplicaView) {
        let new = Some(Held { summary, spec: Arc::new(spec), view });
        let mut held = self.held.write();
        let old = std::mem::replace(&mut *held, new);
        drop(held);
        self.tell(Some(summary));
        // Dropping a large state takes time, so it happens outside of the lock.
        drop(old);
    }

    fn give_up(&self) {
        let old = self.held.write().take();
        self.tell(None);
        drop(old);
    }

    fn tell(&self, summary: Option<StateSummary>) {
        *self.summary.lock() = summary;
    }

    /// Moves the replica by one block.
    ///
    /// # Errors
    /// [`ReplicaError`]. The replica then holds its old state. But if it has diverged or its database
    /// failed, it drops its state and holds none.
    pub fn apply(&self, delta: &Arc<Delta>) -> Result<StateSummary, ReplicaError> {
        let mut guard = self.held.write();
        let at = guard.as_ref().map(|held| held.summary.state);
        let Some(held) = guard.as_mut().filter(|held| held.summary.state == delta.from) else {
            return Err(ReplicaError::NotAtBase { at, from: delta.from });
        };
        let consequence = || held.view.consequence(held.summary.digest, &delta.accounts);
        let consequence = match &self.stored {
            None => consequence(),
            Some(stored) => stored.guarded(consequence),
        };
        let digest = match consequence {
            Ok(consequence) => consequence.digest,
            Err(error) => {
                *guard = None;
                self.tell(None);
                return Err(error.into());
            }
        };
        if digest != delta.digest {
            *guard = None;
            self.tell(None);
            let (state, expected) = (delta.to, delta.digest);
            return Err(ReplicaError::Diverged { state, expected, found: digest });
        }
        let summary = StateSummary { state: delta.to, digest };
        match &self.stored {
            None => held.view.push(delta),
            Some(stored) => match stored.apply(delta, &summary, &held.spec) {
                Ok(view) => held.view = view,
                // The content of the database is now unknown.
                Err(error) => {
                    *guard = None;
                    self.tell(None);
                    return Err(error.into());
                }
            },
        }
        held.summary = summary;
        self.tell(Some(held.summary));
        Ok(held.summary)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_primitives::Address;
    use common::account::{Account, AccountDelta, AccountRecord, SlotValue};
    use common::id::Height;
    use engine::StateView;

    const ADDRESS: Address = Address::repeat_byte(3);

    fn state_ref(height: u64) -> StateRef {
        let block_hash = B256::repeat_byte(u8::try_from(height).unwrap());
        StateRef { world: WorldId::default(), height: Height(height), block_hash }
    }

    fn slot(slot: u64, value: u64) -> SlotValue {
        SlotValue { slot: U256::from(slot), value: U256::from(value) }
    }

    /// A replica at height 1 with one account of two slots.
    fn replica() -> (Replica, MemoryState) {
        let mut state = MemoryState::default();
        let storage = vec![slot(1, 10), slot(2, 20)];
        state.insert(AccountRecord { address: ADDRESS, account: Account::default(), storage });
        let replica = Replica::default();
        let summary = StateSummary { state: state_ref(1), digest: state.digest() };
        replica.replace(summary, ChainSpec::mainnet(), state.clone());
        (replica, state)
    }

    /// The delta from `height` that makes `change`, with its digest taken from `shadow`.
    fn delta(shadow: &mut MemoryState, height: u64, change: AccountDelta) -> Arc<Delta> {
        shadow.apply(&change);
        Arc::new(Delta {
            from: state_ref(height),
            to: state_ref(height + 1),
            accounts: vec![change],
            code: vec![],
            digest: shadow.digest(),
        })
    }

    fn update(storage: Vec<SlotValue>, wiped: bool) -> AccountDelta {
        AccountDelta { address: ADDRESS, account: Some(Account::default()), wiped, storage }
    }

    #[test]
    fn a_held_view_does_not_move_with_the_replica() {
        let (replica, mut shadow) = replica();
        let old = replica.view(state_ref(1)).unwrap();
        replica.apply(&delta(&mut shadow, 1, update(vec![slot(1, 11)], false))).unwrap();
        let new = replica.view(state_ref(2)).unwrap();
        assert_eq!(old.slot(&ADDRESS, &U256::from(1)).unwrap(), U256::from(10));
        assert_eq!(new.slot(&ADDRESS, &U256::from(1)).unwrap(), U256::from(11));
        assert!(replica.view(state_ref(1)).is_none());
    }

    #[test]
    fn layers_and_folded_states_agree() {
        // One replica is read all the time (its layers pile up), the other never (its layers are folded).
        let (layered, mut shadow) = replica();
        let (folded, _) = replica();
        let changes = [
            update(vec![slot(1, 0), slot(3, 30)], false),
            update(vec![slot(4, 40)], true),
            AccountDelta { address: ADDRESS, account: None, wiped: true, storage: vec![] },
            update(vec![slot(2, 2)], false),
        ];
        let mut held = Vec::new();
        for (change, height) in changes.into_iter().zip(1..) {
            held.push(layered.view(state_ref(height)).unwrap());
            let delta = delta(&mut shadow, height, change);
            assert_eq!(layered.apply(&delta).unwrap(), folded.apply(&delta).unwrap());
            let (one, other) =
                (layered.view(state_ref(height + 1)).unwrap(), folded.view(state_ref(height + 1)).unwrap());
            assert!(one.depth() > 0 && other.depth() == 0);
            for index in 0..6 {
                let index = U256::from(index);
                assert_eq!(one.slot(&ADDRESS, &index).unwrap(), other.slot(&ADDRESS, &index).unwrap());
            }
            let any = |view: &ReplicaView| view.any_slot(&ADDRESS, &|_| true).unwrap();
            assert_eq!(any(&one), any(&other));
            assert_eq!(one.block_hash(height + 1).unwrap(), other.block_hash(height + 1).unwrap());
        }
    }

    #[test]
    fn a_delta_from_elsewhere_is_refused() {
        let (replica, mut shadow) = replica();
        let delta = delta(&mut shadow, 5, update(vec![], false));
        assert!(matches!(replica.apply(&delta), Err(ReplicaError::NotAtBase { .. })));
        assert_eq!(replica.summary().unwrap().state, state_ref(1));
    }

    #[test]
    fn a_replica_that_diverges_is_given_up() {
        let (replica, mut shadow) = replica();
        let mut wrong = (*delta(&mut shadow, 1, update(vec![slot(1, 11)], false))).clone();
        wrong.digest += U256::from(1);
        assert!(matches!(replica.apply(&Arc::new(wrong)), Err(ReplicaError::Diverged { .. })));
        assert_eq!(replica.summary(), None);
    }
}
