//! The state view: the interface through which the engine reads a state.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};
use common::account::Account;

use super::code::Code;

/// Why a state view cannot answer. The holder of the state is broken, not the transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// An account names code that the holder does not have.
    #[error("code {0} is missing from the state; the holder must be synced again")]
    MissingCode(B256),
    /// A source of the state sent code under a hash that is not the code's.
    #[error(
        "the code of {expected} has the hash {found}; its source is damaged, so run `coordinator verify` there"
    )]
    WrongCode {
        /// The hash by which accounts name the code.
        expected: B256,
        /// The Keccak-256 hash of the bytes that came.
        found: B256,
    },
    /// The database failed or is damaged.
    #[error("the state's database fails: {0}; if it is damaged, move it away and import or sync again")]
    Storage(String),
    /// revm reported an error that the transaction did not cause.
    #[error("the EVM stopped: {0}")]
    Evm(String),
    /// The transaction was stopped because its result is no longer wanted.
    #[error("the transaction was stopped: its result is no longer wanted")]
    Stopped,
    /// The transaction needs more EVM memory than [`MAX_MEMORY`](crate::MAX_MEMORY).
    #[error(
        "a transaction needs more than {} bytes of EVM memory, which no execution here has",
        crate::MAX_MEMORY
    )]
    Memory,
}

impl revm::database_interface::DBErrorMarker for StateError {}

/// Read access to one state. The answers do not change while a view is held.
pub trait StateView: std::fmt::Debug {
    /// An account; `None` if it does not exist.
    ///
    /// # Errors
    /// [`StateError`] if the holder is broken.
    fn account(&self, address: &Address) -> Result<Option<Account>, StateError>;

    /// A storage slot; zero if absent.
    ///
    /// # Errors
    /// [`StateError`] if the holder is broken.
    fn slot(&self, address: &Address, slot: &U256) -> Result<U256, StateError>;

    /// Code by its hash.
    ///
    /// # Errors
    /// [`StateError::MissingCode`] if the holder does not have the code.
    fn code(&self, hash: &B256) -> Result<Code, StateError>;

    /// The hash of an ancestor; zero if it is not among the 256 that BLOCKHASH sees.
    ///
    /// # Errors
    /// [`StateError`] if the holder is broken.
    fn block_hash(&self, number: u64) -> Result<B256, StateError>;

    /// Whether any non-zero slot of `address` satisfies `counts`. EIP-7610 asks whether an account has
    /// storage; layers above exclude the slots that they have cleared.
    ///
    /// # Errors
    /// [`StateError`] if the holder is broken.
    fn any_slot(&self, address: &Address, counts: &dyn Fn(&U256) -> bool) -> Result<bool, StateError>;
}

macro_rules! delegate {
    ($($generics:tt)*) => {
        $($generics)* {
            fn account(&self, address: &Address) -> Result<Option<Account>, StateError> {
                (**self).account(address)
            }

            fn slot(&self, address: &Address, slot: &U256) -> Result<U256, StateError> {
                (**self).slot(address, slot)
            }

            fn code(&self, hash: &B256) -> Result<Code, StateError> {
                (**self).code(hash)
            }

            fn block_hash(&self, number: u64) -> Result<B256, StateError> {
                (**self).block_hash(number)
            }

            fn any_slot(&self, address: &Address, counts: &dyn Fn(&U256) -> bool) -> Result<bool, StateError> {
                (**self).any_slot(address, counts)
            }
        }
    };
}

delegate!(impl<V: StateView + ?Sized> StateView for &V);
delegate!(impl<V: StateView + ?Sized> StateView for Arc<V>);
delegate!(impl<V: StateView + ?Sized> StateView for Box<V>);
