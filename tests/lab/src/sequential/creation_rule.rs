//! EIP-7610 for the baseline. alloy-evm lacks the rule that a creation at an address with storage
//! fails, so an inspector adds it for states that have such addresses.
//!
//! It is independent of the engine's version, and knows the addresses beforehand: an account with
//! storage and neither code nor nonce can only exist from the start. Such an account that also has a
//! balance never changes, because no transaction can ever spend the balance. The database cannot answer
//! the question: once such an account has received ether, revm's `State` assumes that it has no
//! storage.

use alloy_primitives::map::AddressSet;
use alloy_primitives::{Address, Bytes, KECCAK256_EMPTY};
use revm::Inspector;
use revm::context::{ContextTr, JournalTr};
use revm::context_interface::journaled_state::account::JournaledAccountTr;
use revm::interpreter::{CreateInputs, CreateOutcome, Gas, InstructionResult, InterpreterResult};
use revm::primitives::constants::CALL_STACK_LIMIT;

/// The addresses that have storage and a balance, and neither code nor nonce. If there are none, the
/// baseline is unmodified alloy-evm.
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
        // revm still makes all its checks that precede the collision.
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
