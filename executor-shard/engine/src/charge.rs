//! The charge of a transaction's sender, in 256 bits.
//!
//! revm multiplies gas by its price in 128 bits: a product that does not fit makes the transaction
//! invalid, or is cut off. On a chain whose balances exceed 2¹²⁸ wei such a transaction can be valid.
//! If all products fit, this module calls revm's own functions.

use alloy_primitives::U256;
use revm::Database;
use revm::context::result::{EVMError, InvalidTransaction};
use revm::context::{Block, ContextTr, JournalTr, Transaction, TxEnv};
use revm::context_interface::journaled_state::account::JournaledAccountTr;
use revm::handler::pre_execution::{
    validate_account_nonce_and_code_with_components, validate_against_state_and_deduct_caller,
};
use revm::handler::{MainnetContext, post_execution};
use revm::interpreter::Gas;

type ChargeError<DB> = EVMError<<DB as Database>::Error>;

/// The most that a transaction may take from its sender, in wei: gas and blobs at their highest price,
/// plus the value. `None` if that exceeds 2²⁵⁶, which no balance can pay.
pub(super) fn most_spent(tx: &TxEnv) -> Option<U256> {
    let gas = U256::from(tx.gas_limit()).checked_mul(U256::from(tx.max_fee_per_gas()))?;
    let blobs = U256::from(tx.total_blob_gas()).checked_mul(U256::from(tx.max_fee_per_blob_gas()))?;
    gas.checked_add(blobs)?.checked_add(tx.value())
}

/// Whether every product of the transaction fits into revm's 128 bits.
fn fits(tx: &TxEnv) -> bool {
    let gas = u128::from(tx.gas_limit()).checked_mul(tx.max_fee_per_gas());
    let blobs = u128::from(tx.total_blob_gas()).checked_mul(tx.max_fee_per_blob_gas());
    gas.is_some() && blobs.is_some()
}

/// Checks the sender and deducts the most that the transaction may cost at the price it pays.
pub(super) fn charge_sender<DB: Database>(ctx: &mut MainnetContext<DB>) -> Result<(), ChargeError<DB>> {
    if fits(&ctx.tx) {
        return validate_against_state_and_deduct_caller(ctx);
    }
    let (block, tx, cfg, journal, _, _) = ctx.all_mut();
    let mut sender = journal.load_account_with_code_mut(tx.caller())?.data;
    validate_account_nonce_and_code_with_components(&sender.account().info, tx, cfg)?;
    let balance = *sender.balance();
    let most = most_spent(tx).unwrap_or(U256::MAX);
    let price = tx.effective_gas_price(u128::from(block.basefee()));
    let blob_price = block.blob_gasprice().unwrap_or_default();
    let cost = U256::from(tx.gas_limit()).saturating_mul(U256::from(price));
    let cost = cost.saturating_add(U256::from(tx.total_blob_gas()).saturating_mul(U256::from(blob_price)));
    let Some(left) = balance.checked_sub(cost).filter(|_| most_spent(tx).is_some() && most <= balance) else {
        let lack = InvalidTransaction::LackOfFundForMaxFee { fee: most.into(), balance: balance.into() };
        return Err(lack.into());
    };
    sender.set_balance(left);
    if tx.kind().is_call() {
        sender.bump_nonce();
    }
    Ok(())
}

/// Returns the price of the unused gas to the sender.
pub(super) fn reimburse_sender<DB: Database>(
    ctx: &mut MainnetContext<DB>,
    gas: &Gas,
) -> Result<(), DB::Error> {
    if fits(&ctx.tx) {
        return post_execution::reimburse_caller(ctx, gas, U256::ZERO);
    }
    let price = ctx.tx.effective_gas_price(u128::from(ctx.block.basefee()));
    let refunded = u64::try_from(gas.refunded()).unwrap_or_default();
    let unused = gas.remaining().saturating_add(gas.reservoir()).saturating_add(refunded);
    let sender = ctx.tx.caller();
    let amount = U256::from(price).saturating_mul(U256::from(unused));
    ctx.journal_mut().load_account_mut(sender)?.incr_balance(amount);
    Ok(())
}
