//! The replica: a shard's own copy of the state. Committed deltas move it, a snapshot replaces it,
//! execution never touches it.
//!
//! Views stay readable while a slot uses them, however far the replica has moved on: deltas are
//! layers above a shared base, folded into it as soon as nobody reads it.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use alloy_primitives::map::AddressMap;
use alloy_primitives::{Address, B256, Bytes, U256};
use common::account::{Account, Delta, SlotValue};
use common::chain_spec::ChainSpec;
use common::digest::ContentDigest;
use common::id::{StateRef, WorldId};
use common::message::StateSummary;
use revm::state::Bytecode;

use crate::engine::{MemoryState, Overlay, StateError, StateView};

/// Layers above the base before it is copied to fold them: only a slot that is stuck for as many
/// blocks can bring it there.
const MAX_LAYERS: usize = 64;

/// Why the replica does not move.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    /// The delta begins at another state.
    #[error("the replica is at {at:?}, the delta begins at {from}")]
    NotAtBase {
        /// Where the replica is.
        at: Option<StateRef>,
        /// Where the delta begins.
        from: StateRef,
    },
    /// After the delta the content is not what it should be: the replica has diverged.
    #[error(
        "after the delta to {state} the content digest is {found:#x}, it should be {expected:#x}; the replica must be synced again"
    )]
    Diverged {
        /// The state it should have reached.
        state: StateRef,
        /// The digest it should have.
        expected: U256,
        /// The digest it has.
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
    /// Apart from the rest: heartbeats read it and must not wait while a state is moved.
    summary: Mutex<Option<StateSummary>>,
}

#[derive(Debug)]
struct Held {
    summary: StateSummary,
    spec: Arc<ChainSpec>,
    view: ReplicaView,
}

/// One state, readable for as long as it is held.
#[derive(Debug, Clone)]
pub struct ReplicaView {
    base: Arc<MemoryState>,
    /// Oldest first.
    layers: Vec<Arc<Layer>>,
}

#[derive(Debug)]
struct Layer {
    delta: Arc<Delta>,
    overlay: Overlay,
}

impl Replica {
    /// What is held.
    #[must_use]
    pub fn summary(&self) -> Option<StateSummary> {
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules of a world, if a state of it is held.
    #[must_use]
    pub fn spec(&self, world: WorldId) -> Option<Arc<ChainSpec>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().filter(|held| held.summary.state.world == world).map(|held| Arc::clone(&held.spec))
    }

    /// A view of exactly this state, if it is the one that is held.
    #[must_use]
    pub fn view(&self, state: StateRef) -> Option<ReplicaView> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().filter(|held| held.summary.state == state).map(|held| held.view.clone())
    }

    /// Replaces everything, with another world's state perhaps.
    pub fn replace(&self, summary: StateSummary, spec: ChainSpec, state: MemoryState) {
        let view = ReplicaView { base: Arc::new(state), layers: Vec::new() };
        let new = Some(Held { summary, spec: Arc::new(spec), view });
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *held, new);
        drop(held);
        self.tell(Some(summary));
        // A large state takes its time to be dropped; nobody waits for it.
        drop(old);
    }

    fn tell(&self, summary: Option<StateSummary>) {
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = summary;
    }

    /// Moves by one block.
    ///
    /// # Errors
    /// [`ReplicaError`]; the replica has not moved then, except when it has diverged: then it is
    /// given up, and holds nothing.
    pub fn apply(&self, delta: &Arc<Delta>) -> Result<StateSummary, ReplicaError> {
        let mut guard = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let at = guard.as_ref().map(|held| held.summary.state);
        let Some(held) = guard.as_mut().filter(|held| held.summary.state == delta.from) else {
            return Err(ReplicaError::NotAtBase { at, from: delta.from });
        };
        let digest = held.view.digest_after(held.summary.digest, delta)?;
        if digest != delta.digest {
            *guard = None;
            self.tell(None);
            let (state, expected) = (delta.to, delta.digest);
            return Err(ReplicaError::Diverged { state, expected, found: digest });
        }
        held.view.push(delta);
        held.summary = StateSummary { state: delta.to, digest };
        self.tell(Some(held.summary));
        Ok(held.summary)
    }
}

impl ReplicaView {
    fn push(&mut self, delta: &Arc<Delta>) {
        let mut overlay = Overlay::default();
        for account in &delta.accounts {
            overlay.apply_delta(account);
        }
        overlay.add_code(&delta.code);
        self.layers.push(Arc::new(Layer { delta: Arc::clone(delta), overlay }));
        if self.layers.len() > MAX_LAYERS {
            Arc::make_mut(&mut self.base);
        }
        // Folds only when nobody else reads the base.
        if let Some(base) = Arc::get_mut(&mut self.base) {
            for layer in self.layers.drain(..) {
                for (hash, code) in &layer.delta.code {
                    base.insert_code(*hash, code.clone());
                }
                for account in &layer.delta.accounts {
                    base.apply(account);
                }
                base.insert_ancestor(layer.delta.to.height.0, layer.delta.to.block_hash);
            }
        }
    }

    /// The state that `delta` leads to, without moving whoever holds this one.
    #[must_use]
    pub fn after(&self, delta: &Arc<Delta>) -> Self {
        let mut view = self.clone();
        view.push(delta);
        view
    }

    /// The addresses of all accounts, in no particular order.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        let mut changed = AddressMap::default();
        for layer in &self.layers {
            for delta in &layer.delta.accounts {
                changed.insert(delta.address, delta.account.is_some());
            }
        }
        let kept = self
            .base
            .accounts()
            .map(|(address, _)| *address)
            .filter(|address| !changed.contains_key(address));
        let mut addresses: Vec<Address> = kept.collect();
        addresses.extend(changed.iter().filter(|(_, exists)| **exists).map(|(address, _)| *address));
        addresses
    }

    /// An account's non-zero slots, in no particular order.
    #[must_use]
    pub fn storage(&self, address: &Address) -> Vec<SlotValue> {
        let mut storage = Vec::new();
        self.for_each_slot(address, |slot, value| storage.push(SlotValue { slot, value }));
        storage
    }

    /// All code, by hash.
    #[must_use]
    pub fn all_code(&self) -> Vec<(B256, Bytes)> {
        let mut code: Vec<(B256, Bytes)> =
            self.base.code_entries().map(|(hash, code)| (*hash, code.original_bytes())).collect();
        code.extend(self.layers.iter().flat_map(|layer| layer.delta.code.iter().cloned()));
        code
    }

    /// The ancestors that BLOCKHASH sees, by number.
    #[must_use]
    pub fn all_ancestors(&self) -> Vec<(u64, B256)> {
        let mut ancestors: Vec<(u64, B256)> = self.base.ancestors().collect();
        ancestors
            .extend(self.layers.iter().map(|layer| (layer.delta.to.height.0, layer.delta.to.block_hash)));
        ancestors
    }

    /// The content digest that applying `delta` leads to.
    ///
    /// # Errors
    /// [`StateError`] when the state cannot be read.
    pub fn digest_after(&self, before: U256, delta: &Delta) -> Result<U256, StateError> {
        let mut digest = ContentDigest::from_word(before);
        for change in &delta.accounts {
            let address = change.address;
            digest.account(address, self.account(&address)?.as_ref(), change.account.as_ref());
            let wiped = change.wiped || change.account.is_none();
            if wiped {
                self.for_each_slot(&address, |slot, value| digest.slot(address, slot, value, U256::ZERO));
            }
            for entry in &change.storage {
                let was = if wiped { U256::ZERO } else { self.slot(&address, &entry.slot)? };
                digest.slot(address, entry.slot, was, entry.value);
            }
        }
        Ok(digest.word())
    }

    /// Every non-zero slot of an account.
    fn for_each_slot(&self, address: &Address, mut visit: impl FnMut(U256, U256)) {
        let mut seen = std::collections::BTreeSet::new();
        for layer in self.layers.iter().rev() {
            let Some(entry) = layer.overlay.get(address) else { continue };
            for (slot, value) in &entry.storage {
                if seen.insert(*slot) && !value.is_zero() {
                    visit(*slot, *value);
                }
            }
            if entry.wiped {
                return;
            }
        }
        for (slot, value) in self.base.slots(address) {
            if !seen.contains(slot) {
                visit(*slot, *value);
            }
        }
    }

    fn layer_entries<'a>(
        &'a self,
        address: &'a Address,
    ) -> impl Iterator<Item = &'a crate::engine::OverlayAccount> {
        self.layers.iter().rev().filter_map(move |layer| layer.overlay.get(address))
    }
}

impl StateView for ReplicaView {
    fn account(&self, address: &Address) -> Result<Option<Account>, StateError> {
        match self.layer_entries(address).next() {
            Some(entry) => Ok(entry.account),
            None => self.base.account(address),
        }
    }

    fn slot(&self, address: &Address, slot: &U256) -> Result<U256, StateError> {
        for entry in self.layer_entries(address) {
            if let Some(value) = entry.storage.get(slot) {
                return Ok(*value);
            }
            if entry.wiped {
                return Ok(U256::ZERO);
            }
        }
        self.base.slot(address, slot)
    }

    fn code(&self, hash: &B256) -> Result<Bytecode, StateError> {
        match self.layers.iter().find_map(|layer| layer.overlay.code(hash)) {
            Some(code) => Ok(code.clone()),
            None => self.base.code(hash),
        }
    }

    fn block_hash(&self, number: u64) -> Result<B256, StateError> {
        match self.layers.iter().find(|layer| layer.delta.to.height.0 == number) {
            Some(layer) => Ok(layer.delta.to.block_hash),
            None => self.base.block_hash(number),
        }
    }

    fn any_slot(&self, address: &Address, counts: &dyn Fn(&U256) -> bool) -> Result<bool, StateError> {
        if self.layers.is_empty() {
            return self.base.any_slot(address, counts);
        }
        let mut found = false;
        self.for_each_slot(address, |slot, _| found |= counts(&slot));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use common::account::{AccountDelta, AccountRecord};
    use common::id::Height;

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
        // One replica is read all the time (layers pile up), the other never (all is folded).
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
            assert!(!one.layers.is_empty() && other.layers.is_empty());
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
