//! revm's mainnet handler with four changes. The beneficiary's fee is kept as a number. A creation at
//! an address that has storage fails (EIP-7610, which revm leaves to its database). Fees are multiplied
//! in 256 bits. A transaction can be interrupted between its calls.

use std::cell::Cell;

use alloy_primitives::U256;
use revm::context::result::{EVMError, ExecutionResult, HaltReason};
use revm::context::{Block, ContextTr, JournalTr, Transaction};
use revm::context_interface::journaled_state::account::JournaledAccountTr;
use revm::handler::evm::FrameTr;
use revm::handler::{EvmTr, FrameResult, Handler, ItemOrResult, MainnetContext, MainnetEvm};
use revm::interpreter::interpreter_action::FrameInit;
use revm::interpreter::{
    CreateOutcome, FrameInput, Gas, InitialAndFloorGas, InstructionResult, InterpreterResult,
};
use revm::primitives::constants::CALL_STACK_LIMIT;
use revm::primitives::hardfork::SpecId;
use revm::primitives::{Bytes, KECCAK_EMPTY};
use revm::state::EvmState;

use super::charge;
use super::interrupt;
use super::recording::RecordingDb;
use super::view::{StateError, StateView};

/// What the EVM's instructions see of the world.
pub(super) type Host<V> = MainnetContext<RecordingDb<V>>;

/// The EVM of the shards.
pub(super) type ShardEvm<V> = MainnetEvm<Host<V>>;

/// An error outside of the transaction, or one that makes the transaction invalid.
pub(super) type ShardEvmError = EVMError<StateError>;

/// The EVM's result for one transaction.
pub(super) struct Transacted {
    pub(super) result: Result<ExecutionResult<HaltReason>, ShardEvmError>,
    /// The accounts and slots that the transaction loaded, with revm's flags.
    pub(super) state: EvmState,
    /// The fee owed to the beneficiary in wei.
    pub(super) fee: U256,
    /// Whether the beneficiary was loaded, so that its balance in `state` already contains the fee.
    pub(super) is_paid: bool,
}

/// Runs the transaction that is set in the context, and finalizes the journal in every case.
pub(super) fn transact<V: StateView>(evm: &mut ShardEvm<V>) -> Transacted {
    let mut handler =
        ShardHandler { fee: Cell::default(), is_paid: Cell::default(), _view: std::marker::PhantomData };
    let result = handler.run(evm);
    // What has interrupted this transaction must not interrupt the next.
    evm.ctx.error = Ok(());
    let state = evm.ctx.journaled_state.finalize();
    Transacted { result, state, fee: handler.fee.get(), is_paid: handler.is_paid.get() }
}

struct ShardHandler<V> {
    fee: Cell<U256>,
    is_paid: Cell<bool>,
    _view: std::marker::PhantomData<V>,
}

impl<V: StateView> Handler for ShardHandler<V> {
    type Evm = ShardEvm<V>;
    type Error = ShardEvmError;
    type HaltReason = HaltReason;

    /// Like revm's, with the check of EIP-7610 before every creation, and a look at what interrupts a transaction.
    fn run_exec_loop(
        &mut self,
        evm: &mut Self::Evm,
        first_frame_input: FrameInit,
    ) -> Result<FrameResult, Self::Error> {
        if let Some(collision) = storage_collision(evm, &first_frame_input)? {
            return Ok(collision);
        }
        if let ItemOrResult::Result(result) = evm.frame_init(first_frame_input)? {
            return Ok(result);
        }
        loop {
            let ran = evm.frame_run()?;
            let ended = match &ran {
                ItemOrResult::Item(_) => None,
                ItemOrResult::Result(result) => Some(result),
            };
            interrupt::check(evm, ended).map_err(EVMError::Database)?;
            let result = match ran {
                ItemOrResult::Item(init) => match storage_collision(evm, &init)? {
                    Some(collision) => collision,
                    None => match evm.frame_init(init)? {
                        ItemOrResult::Item(_) => continue,
                        ItemOrResult::Result(result) => result,
                    },
                },
                ItemOrResult::Result(result) => result,
            };
            if let Some(result) = evm.frame_return_result(result)? {
                return Ok(result);
            }
        }
    }

    /// Like revm's, in 256 bits.
    fn validate_against_state_and_deduct_caller(
        &self,
        evm: &mut Self::Evm,
        _init_and_floor_gas: &mut InitialAndFloorGas,
    ) -> Result<(), Self::Error> {
        charge::charge_sender(&mut evm.ctx)
    }

    /// Like revm's, in 256 bits.
    fn reimburse_caller(
        &self,
        evm: &mut Self::Evm,
        exec_result: &mut <<Self::Evm as EvmTr>::Frame as FrameTr>::FrameResult,
    ) -> Result<(), Self::Error> {
        charge::reimburse_sender(&mut evm.ctx, exec_result.gas()).map_err(EVMError::Database)
    }

    /// Keeps the fee as a number. If the transaction itself has loaded the beneficiary, the fee is also added
    /// like any other credit.
    fn reward_beneficiary(
        &self,
        evm: &mut Self::Evm,
        exec_result: &mut <<Self::Evm as EvmTr>::Frame as FrameTr>::FrameResult,
    ) -> Result<(), Self::Error> {
        let gas = exec_result.gas();
        let beneficiary = evm.ctx.block.beneficiary();
        let basefee = u128::from(evm.ctx.block.basefee());
        let price = evm.ctx.tx.effective_gas_price(basefee);
        // From London on the base fee is burnt (EIP-1559).
        let price = if evm.ctx.cfg.spec().is_enabled_in(SpecId::LONDON) {
            price.saturating_sub(basefee)
        } else {
            price
        };
        let used = gas.used().saturating_sub(gas.reservoir());
        let fee = U256::from(price) * U256::from(used);
        self.fee.set(fee);
        self.is_paid.set(evm.ctx.journaled_state.inner.state.contains_key(&beneficiary));
        if self.is_paid.get() {
            evm.ctx.journal_mut().load_account_mut(beneficiary)?.incr_balance(fee);
        }
        Ok(())
    }
}

/// The check of EIP-7610: a creation fails if its address has storage, as it does if the address has
/// code or a nonce (which revm checks). revm still makes all its checks that precede the collision.
fn storage_collision<V: StateView>(
    evm: &mut ShardEvm<V>,
    init: &FrameInit,
) -> Result<Option<FrameResult>, ShardEvmError> {
    let FrameInput::Create(inputs) = &init.frame_input else { return Ok(None) };
    if init.depth > CALL_STACK_LIMIT as usize {
        return Ok(None);
    }
    let journal = evm.ctx.journal_mut();
    let caller = journal.load_account(inputs.caller())?;
    let (balance, nonce) = (caller.data.info.balance, caller.data.info.nonce);
    if balance < inputs.value() || nonce == u64::MAX {
        return Ok(None);
    }
    let address = inputs.created_address(nonce);
    // Read without loading it: loading would warm the account, which only the creation itself may do.
    let known = journal.inner.state.get(&address).map(|account| account.info.clone());
    let target = match known {
        Some(info) => Some(info),
        None => revm::Database::basic(&mut journal.database, address).map_err(EVMError::Database)?,
    };
    let bare = target.is_some_and(|info| info.nonce == 0 && info.code_hash == KECCAK_EMPTY);
    if !bare || !journal.database.has_storage(address).map_err(EVMError::Database)? {
        return Ok(None);
    }
    journal.load_account_mut(inputs.caller())?.data.bump_nonce();
    journal.load_account(address)?;
    let gas = Gas::new_with_regular_gas_and_reservoir(inputs.gas_limit(), inputs.reservoir());
    let result = InterpreterResult { result: InstructionResult::CreateCollision, gas, output: Bytes::new() };
    let charged_create_state_gas = inputs.charged_create_state_gas();
    Ok(Some(FrameResult::Create(CreateOutcome { result, address: None, charged_create_state_gas })))
}
