//! One state that stays readable as long as the view is held: a base and the blocks above it.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};
use common::account::{Account, AccountDelta, Delta, SlotValue};
use common::digest::ContentDigest;

use crate::store::DiskState;
use crate::{Code, MemoryState, Overlay, StateError, StateView};

/// The maximum number of layers above the base. Beyond it the base is copied to fold them in. Only a
/// slot that is stuck for this many blocks can cause that.
const MAX_LAYERS: usize = 64;

/// A whole state, in memory or on disk.
#[derive(Debug, Clone)]
pub enum Base {
    /// In memory. Newer blocks are folded into it when no other view reads it, or into a copy above 64 layers.
    Memory(Arc<MemoryState>),
    /// In an embedded database.
    Disk(Arc<DiskState>),
}

impl Base {
    fn view(&self) -> &dyn StateView {
        match self {
            Self::Memory(state) => state.as_ref(),
            Self::Disk(state) => state.as_ref(),
        }
    }

    fn for_each_slot(&self, address: &Address, visit: &mut dyn FnMut(U256, U256)) -> Result<(), StateError> {
        match self {
            Self::Memory(state) => {
                state.slots(address).for_each(|(slot, value)| visit(*slot, *value));
                Ok(())
            }
            Self::Disk(state) => state.for_each_slot(address, visit),
        }
    }

    fn addresses(&self) -> Result<Vec<Address>, StateError> {
        match self {
            Self::Memory(state) => Ok(state.accounts().map(|(address, _)| *address).collect()),
            Self::Disk(state) => state.addresses(),
        }
    }
}

/// One state that stays readable as long as the view is held.
#[derive(Debug, Clone)]
pub struct ReplicaView {
    base: Base,
    /// The blocks above the base, oldest first.
    layers: Vec<Arc<Layer>>,
    /// The number of oldest layers that the cache of a base on disk includes.
    cached: usize,
}

#[derive(Debug)]
struct Layer {
    delta: Arc<Delta>,
    overlay: Overlay,
}

/// The result of applying a delta, computed beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consequence {
    /// The content digest after the changes.
    pub digest: U256,
    /// The changes that restore the old state.
    pub undo: Vec<AccountDelta>,
}

impl ReplicaView {
    /// A view of a base without layers.
    #[must_use]
    pub fn new(base: Base) -> Self {
        Self { base, layers: Vec::new(), cached: 0 }
    }

    /// The base, without the layers.
    #[must_use]
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The number of blocks above the base, without those that its cache includes.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.layers.len().saturating_sub(self.cached)
    }

    /// Adds a block. If no other view reads a base in memory, the layers are folded into it.
    pub fn push(&mut self, delta: &Arc<Delta>) {
        self.stack(delta);
        let Base::Memory(base) = &mut self.base else { return };
        if self.layers.len() > MAX_LAYERS {
            Arc::make_mut(base);
        }
        if let Some(base) = Arc::get_mut(base) {
            for layer in self.layers.drain(..) {
                for (hash, code) in &layer.delta.code {
                    base.insert_code(*hash, code.clone());
                }
                for account in &layer.delta.accounts {
                    base.apply(account);
                }
                base.set_newest_ancestor(layer.delta.to.height.0, layer.delta.to.block_hash);
            }
        }
    }

    fn stack(&mut self, delta: &Arc<Delta>) {
        let mut overlay = Overlay::default();
        for account in &delta.accounts {
            overlay.apply_delta(account);
        }
        overlay.add_code(&delta.code);
        self.layers.push(Arc::new(Layer { delta: Arc::clone(delta), overlay }));
    }

    /// The state to which `delta` leads. Other holders of this view keep theirs.
    #[must_use]
    pub fn after(&self, delta: &Arc<Delta>) -> Self {
        let mut view = self.clone();
        view.stack(delta);
        view
    }

    /// This state on another base: `base` with the newest `layers` layers of this view on top. The caller
    /// must know that `base` is the state below these layers.
    #[must_use]
    pub fn rebased(&self, base: &Self, layers: usize) -> Self {
        let mut view = base.clone();
        let from = self.layers.len().saturating_sub(layers);
        view.layers.extend(self.layers.iter().skip(from).cloned());
        view
    }

    /// This state as the newest one of its database, whose cache calls it `version`. The database's tables
    /// do not contain the layers yet; its cache does.
    #[must_use]
    pub fn committed(&self, version: u64) -> Self {
        let mut view = self.clone();
        if let Base::Disk(state) = &self.base {
            view.base = Base::Disk(Arc::new(state.below(version)));
            view.cached = view.layers.len();
        }
        view
    }

    /// The layers that are not in the base's cache, newest first.
    fn newer(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().skip(self.cached).rev().map(Arc::as_ref)
    }

    /// The cache of the base, and the layers that it includes, newest first.
    fn cached(&self) -> Option<(&DiskState, impl Iterator<Item = &Layer>)> {
        match &self.base {
            Base::Disk(state) if self.cached > 0 => {
                Some((state, self.layers.iter().take(self.cached).rev().map(Arc::as_ref)))
            }
            _ => None,
        }
    }

    /// The addresses of all accounts, in no particular order.
    ///
    /// # Errors
    /// [`StateError`] if the base cannot be read.
    pub fn addresses(&self) -> Result<Vec<Address>, StateError> {
        let mut changed = alloy_primitives::map::AddressMap::default();
        for layer in &self.layers {
            for delta in &layer.delta.accounts {
                changed.insert(delta.address, delta.account.is_some());
            }
        }
        let mut addresses = self.base.addresses()?;
        addresses.retain(|address| !changed.contains_key(address));
        addresses.extend(changed.iter().filter(|(_, exists)| **exists).map(|(address, _)| *address));
        Ok(addresses)
    }

    /// An account's non-zero slots, in no particular order.
    ///
    /// # Errors
    /// [`StateError`] if the base cannot be read.
    pub fn storage(&self, address: &Address) -> Result<Vec<SlotValue>, StateError> {
        let mut storage = Vec::new();
        self.for_each_slot(address, &mut |slot, value| storage.push(SlotValue { slot, value }))?;
        Ok(storage)
    }

    /// Computes the content digest after `changes` to the state with digest `before`, and the changes that
    /// restore the old state.
    ///
    /// # Errors
    /// [`StateError`] if the state cannot be read.
    pub fn consequence(&self, before: U256, changes: &[AccountDelta]) -> Result<Consequence, StateError> {
        let mut digest = ContentDigest::from_word(before);
        let mut undo = Vec::with_capacity(changes.len());
        for change in changes {
            let address = change.address;
            let account = self.account(&address)?;
            digest.account(address, account.as_ref(), change.account.as_ref());
            let wiped = change.wiped || change.account.is_none();
            let mut storage = Vec::new();
            if wiped {
                self.for_each_slot(&address, &mut |slot, value| {
                    digest.slot(address, slot, value, U256::ZERO);
                    storage.push(SlotValue { slot, value });
                })?;
            }
            for entry in &change.storage {
                let value = if wiped { U256::ZERO } else { self.slot(&address, &entry.slot)? };
                digest.slot(address, entry.slot, value, entry.value);
                if !wiped {
                    storage.push(SlotValue { slot: entry.slot, value });
                }
            }
            storage.sort_unstable();
            // Slots written after a wipe must be removed before the old ones are restored.
            undo.push(AccountDelta { address, account, wiped: wiped || account.is_none(), storage });
        }
        Ok(Consequence { digest: digest.word(), undo })
    }

    /// Visits every non-zero slot of an account.
    fn for_each_slot(&self, address: &Address, visit: &mut dyn FnMut(U256, U256)) -> Result<(), StateError> {
        let mut seen = std::collections::BTreeSet::new();
        for entry in self.layer_entries(address) {
            for (slot, value) in &entry.storage {
                if seen.insert(*slot) && !value.is_zero() {
                    visit(*slot, *value);
                }
            }
            if entry.wiped {
                return Ok(());
            }
        }
        self.base.for_each_slot(address, &mut |slot, value| {
            if !seen.contains(&slot) {
                visit(slot, value);
            }
        })
    }

    fn layer_entries<'a>(&'a self, address: &'a Address) -> impl Iterator<Item = &'a crate::OverlayAccount> {
        self.layers.iter().rev().filter_map(move |layer| layer.overlay.get(address))
    }
}

/// A slot's value in the first layer that knows it.
fn slot_in<'l>(
    mut newest_first: impl Iterator<Item = &'l Layer>,
    address: &Address,
    slot: &U256,
) -> Option<U256> {
    newest_first.find_map(|layer| {
        let entry = layer.overlay.get(address)?;
        entry.storage.get(slot).copied().or(entry.wiped.then_some(U256::ZERO))
    })
}

fn account_in<'l>(
    mut newest_first: impl Iterator<Item = &'l Layer>,
    address: &Address,
) -> Option<Option<Account>> {
    newest_first.find_map(|layer| Some(layer.overlay.get(address)?.account))
}

fn code_in<'l>(mut newest_first: impl Iterator<Item = &'l Layer>, hash: &B256) -> Option<Code> {
    newest_first.find_map(|layer| layer.overlay.code(hash).cloned())
}

impl StateView for ReplicaView {
    fn account(&self, address: &Address) -> Result<Option<Account>, StateError> {
        if let Some(account) = account_in(self.newer(), address) {
            return Ok(account);
        }
        if let Some((state, layers)) = self.cached() {
            if let Some(account) = state.cached_account(address) {
                return Ok(account);
            }
            if let Some(account) = account_in(layers, address) {
                state.fill_account(address, account);
                return Ok(account);
            }
        }
        self.base.view().account(address)
    }

    fn slot(&self, address: &Address, slot: &U256) -> Result<U256, StateError> {
        if let Some(value) = slot_in(self.newer(), address, slot) {
            return Ok(value);
        }
        if let Some((state, layers)) = self.cached() {
            if let Some(value) = state.cached_slot(address, slot) {
                return Ok(value);
            }
            if let Some(value) = slot_in(layers, address, slot) {
                state.fill_slot(address, slot, value);
                return Ok(value);
            }
        }
        self.base.view().slot(address, slot)
    }

    fn code(&self, hash: &B256) -> Result<Code, StateError> {
        if let Some(code) = code_in(self.newer(), hash) {
            return Ok(code);
        }
        if let Some((state, layers)) = self.cached()
            && let Some(code) = state.cached_code(hash).or_else(|| code_in(layers, hash))
        {
            return Ok(code);
        }
        self.base.view().code(hash)
    }

    fn block_hash(&self, number: u64) -> Result<B256, StateError> {
        for layer in self.layers.iter().rev() {
            let Delta { from, to, .. } = layer.delta.as_ref();
            if number == to.height.0 {
                return Ok(to.block_hash);
            }
            // A block that was taken back is not an ancestor.
            if number > to.height.0 && number <= from.height.0 {
                return Ok(B256::ZERO);
            }
        }
        self.base.view().block_hash(number)
    }

    fn any_slot(&self, address: &Address, counts: &dyn Fn(&U256) -> bool) -> Result<bool, StateError> {
        if self.layers.is_empty() {
            return self.base.view().any_slot(address, counts);
        }
        let mut found = false;
        self.for_each_slot(address, &mut |slot, _| found |= counts(&slot))?;
        Ok(found)
    }
}
