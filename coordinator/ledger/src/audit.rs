//! Tells damage apart from an invalid block. Execution judges a block on the flat state. If the flat
//! state differs from the trie that the root covers, the ledger is damaged and the block is not at
//! fault.
//!
//! The audit runs only before a rejection: it looks up each value that the block reads in the trie as
//! well.

use alloy_primitives::{Address, B256, U256, keccak256};
use common::account::Account;
use engine::{Code, StateError, StateView};
use parking_lot::Mutex;

use super::nodes::Nodes;
use super::trie::{AccountFields, AccountLeaf, find_account, find_slot};
use super::{LedgerError, Tip};

/// A tip's flat state. It compares every value with the trie before it returns the value.
#[derive(Debug)]
pub struct AuditedView<'t> {
    tip: &'t Tip,
    nodes: &'t Nodes,
    damage: Mutex<Option<LedgerError>>,
}

impl<'t> AuditedView<'t> {
    /// Creates the view; `None` if the ledger does not hold the whole state, so that there is no trie.
    #[must_use]
    pub fn of(tip: &'t Tip) -> Option<Self> {
        Some(Self { tip, nodes: tip.nodes.as_ref()?, damage: Mutex::default() })
    }

    /// The first damage that the view found, if any.
    #[must_use]
    pub fn into_damage(self) -> Option<LedgerError> {
        self.damage.into_inner()
    }

    fn damaged(&self, what: String, reason: String) -> StateError {
        let error = LedgerError::Damaged { what, reason };
        let text = error.to_string();
        self.damage.lock().get_or_insert(error);
        StateError::Storage(text)
    }

    fn leaf(&self, address: &Address) -> Result<Option<AccountLeaf>, StateError> {
        let found = find_account(self.nodes.source(), self.nodes.trie(), &keccak256(address));
        found.map_err(|error| self.damaged(format!("account {address}"), error.to_string()))
    }
}

/// Describes how an account differs from its leaf; `None` if they are equal.
pub(super) fn difference(flat: Option<&Account>, leaf: Option<&AccountFields>) -> Option<String> {
    match (flat, leaf) {
        (None, None) => None,
        (Some(_), None) => Some("the flat state has it, the trie does not".into()),
        (None, Some(_)) => Some("the trie has it, the flat state does not".into()),
        (Some(flat), Some(leaf)) if flat.balance != leaf.balance => {
            Some(format!("its balance is {}, the trie has {}", flat.balance, leaf.balance))
        }
        (Some(flat), Some(leaf)) if flat.nonce != leaf.nonce => {
            Some(format!("its nonce is {}, the trie has {}", flat.nonce, leaf.nonce))
        }
        (Some(flat), Some(leaf)) if flat.code_hash != leaf.code_hash => {
            Some(format!("its code hash is {}, the trie has {}", flat.code_hash, leaf.code_hash))
        }
        _ => None,
    }
}

impl StateView for AuditedView<'_> {
    fn account(&self, address: &Address) -> Result<Option<Account>, StateError> {
        let flat = self.tip.view.account(address)?;
        let leaf = self.leaf(address)?.map(|leaf| leaf.fields);
        match difference(flat.as_ref(), leaf.as_ref()) {
            None => Ok(flat),
            Some(reason) => Err(self.damaged(format!("account {address}"), reason)),
        }
    }

    fn slot(&self, address: &Address, slot: &U256) -> Result<U256, StateError> {
        let flat = self.tip.view.slot(address, slot)?;
        let what = || format!("slot {slot:#x} of account {address}");
        let value = match self.leaf(address)? {
            None => U256::ZERO,
            Some(leaf) => {
                let hashed = keccak256(slot.to_be_bytes::<32>());
                let owner = keccak256(address);
                find_slot(self.nodes.source(), &owner, &leaf.storage, &hashed)
                    .map_err(|error| self.damaged(what(), error.to_string()))?
            }
        };
        if flat == value {
            return Ok(flat);
        }
        Err(self.damaged(what(), format!("it is {flat:#x}, the trie has {value:#x}")))
    }

    fn code(&self, hash: &B256) -> Result<Code, StateError> {
        let code = self.tip.view.code(hash)?;
        let found = keccak256(code.bytes());
        if found == *hash {
            return Ok(code);
        }
        Err(self.damaged(format!("the code with hash {hash}"), format!("its bytes have hash {found}")))
    }

    fn block_hash(&self, number: u64) -> Result<B256, StateError> {
        let flat = self.tip.view.block_hash(number)?;
        let known = self.tip.ancestors.iter().find(|ancestor| ancestor.header.number == number);
        match known.map(|ancestor| ancestor.hash).filter(|hash| *hash != flat) {
            None => Ok(flat),
            Some(hash) => {
                let reason = format!("it is {flat}, the chain has {hash}");
                Err(self.damaged(format!("the hash of block {number}"), reason))
            }
        }
    }

    fn any_slot(&self, address: &Address, counts: &dyn Fn(&U256) -> bool) -> Result<bool, StateError> {
        let flat = self.tip.view.any_slot(address, &|_| true)?;
        let trie = self.leaf(address)?.is_some_and(|leaf| !leaf.storage.is_empty());
        if flat == trie {
            return self.tip.view.any_slot(address, counts);
        }
        let reason =
            if flat { "the flat state has slots, the trie has none" } else { "the flat state has none" };
        Err(self.damaged(format!("the storage of account {address}"), reason.into()))
    }
}
