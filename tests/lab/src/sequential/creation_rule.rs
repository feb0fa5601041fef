//! EIP-7610 for the baseline: alloy-evm does not have the rule that creation onto an address with
//! storage fails, so an inspector adds it where a state has such addresses.
//!
//! It is written apart from the engine's own, and knows the addresses beforehand: accounts that have
//! storage and neither code nor nonce can only be there from the beginning. Those that also have a
//! balance stay as they are, because nothing can ever spend it. The database cannot be asked: once
//! such an account has received something, revm's `State` takes it to have no storage.

use alloy_primitives::map::AddressSet;
use alloy_primitives::{Address, Bytes, KECCAK256_EMPTY};
use revm::Inspector;
use revm::context::{ContextTr, JournalTr};
use revm::context_interface::journaled_state::account::JournaledAccountTr;
use revm::interpreter::{CreateInputs, CreateOutcome, Gas, InstructionResult, InterpreterResult};
use revm::primitives::constants::CALL_STACK_LIMIT;

/// The addresses that have storage and a balance, and neither code nor nonce. Without any, the
/// baseline is alloy-evm as it is.
#[derive(Debug, Clone, Default)]
pub struct CreationRule {
    bare: AddressSet,
}

impl CreationRule {
    /// Adds an address that has storage and a balance.
    pub fn add(&mut self, address: Address) {
        self.bare.insert(address);
    }

    /// Whether there are no such addresses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bare.is_empty()
    }
}

impl<C: ContextTr> Inspector<C> for CreationRule {
    fn create(&mut self, context: &mut C, inputs: &mut CreateInputs) -> Option<CreateOutcome> {
        let journal = context.journal_mut();
        if journal.depth() > CALL_STACK_LIMIT as usize {
            return None;
        }
        // What revm checks before the collision stays with revm.
        let caller = journal.load_account(inputs.caller()).ok()?;
        let (balance, nonce) = (caller.data.info.balance, caller.data.info.nonce);
        if balance < inputs.value() || nonce == u64::MAX {
            return None;
        }
        let address = inputs.created_address(nonce);
        if !self.bare.contains(&address) {
            return None;
        }
        let target = journal.load_account(address).ok()?;
        if target.data.info.nonce != 0 || target.data.info.code_hash != KECCAK256_EMPTY {
            return None;
        }
        journal.load_account_mut(inputs.caller()).ok()?.data.bump_nonce();
        let result = InterpreterResult {
            result: InstructionResult::CreateCollision,
            gas: Gas::new(inputs.gas_limit()),
            output: Bytes::new(),
        };
        Some(CreateOutcome::new(result, None))
    }
}
