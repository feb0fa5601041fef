//! Records which balances a transaction observes. It wraps the instructions that can observe one: each
//! wrapper records the observation and then calls revm's instruction.
//!
//! If a transaction did not observe a balance, its result is right for other balances too, and the engine can
//! write the credits and debits of that account as additions. Three kinds of instructions observe a balance:
//!
//! - BALANCE and SELFBALANCE return it.
//! - SELFDESTRUCT moves all of it.
//! - CALL, CALLCODE, CREATE and CREATE2 compare it with the amount that they send.
//!
//! A CALL that can pay only shows that the balance is large enough. Whether an account is empty (EIP-161)
//! depends on its balance too: see [`least`].

use alloy_primitives::{Address, KECCAK256_EMPTY, U256};
use common::account::Account;
use common::work::MOST_BALANCE;
use revm::bytecode::opcode::{BALANCE, CALL, CALLCODE, CREATE, CREATE2, SELFBALANCE, SELFDESTRUCT};
use revm::interpreter::instructions::{contract, host};
use revm::interpreter::interpreter::EthInterpreter;
use revm::interpreter::interpreter_types::InputsTr;
use revm::interpreter::{Instruction, InstructionContext, InstructionExecResult};
use revm::state::Account as EvmAccount;

use super::evm::{Host, ShardEvm};
use super::recording::Observed;
use super::view::StateView;

type Call<'a, V> = InstructionContext<'a, Host<V>, EthInterpreter>;

/// The position of the value among the operands of CALL and CALLCODE, from the top of the stack.
const CALL_VALUE: usize = 2;

/// Puts the wrappers of this module into the EVM's instruction table, in place of revm's instructions.
pub(super) fn install<V: StateView>(evm: &mut ShardEvm<V>) {
    let table = evm.instruction.instruction_table_mut();
    let wrapped: [(u8, Instruction<EthInterpreter, Host<V>>); 7] = [
        (BALANCE, Instruction::new(balance::<V>)),
        (SELFBALANCE, Instruction::new(selfbalance::<V>)),
        (SELFDESTRUCT, Instruction::new(selfdestruct::<V>)),
        (CALL, Instruction::new(call::<CALL, V>)),
        (CALLCODE, Instruction::new(call::<CALLCODE, V>)),
        (CREATE, Instruction::new(create::<false, V>)),
        (CREATE2, Instruction::new(create::<true, V>)),
    ];
    for (opcode, instruction) in wrapped {
        if let Some(place) = table.get_mut(usize::from(opcode)) {
            *place = instruction;
        }
    }
}

/// The operand at this position from the top of the stack. Without it the instruction fails by itself.
fn operand<V: StateView>(context: &Call<'_, V>, position: usize) -> Option<U256> {
    context.interpreter.stack.peek(position).ok()
}

fn observe<V: StateView>(context: &mut Call<'_, V>, address: Address, observed: Observed) {
    context.host.journaled_state.database.observe(address, observed);
}

fn balance<V: StateView>(mut context: Call<'_, V>) -> InstructionExecResult {
    if let Some(word) = operand(&context, 0) {
        observe(&mut context, address_of(word), Observed::Exactly);
    }
    host::balance(context)
}

fn selfbalance<V: StateView>(mut context: Call<'_, V>) -> InstructionExecResult {
    let own = context.interpreter.input.target_address();
    observe(&mut context, own, Observed::Exactly);
    host::selfbalance(context)
}

fn selfdestruct<V: StateView>(mut context: Call<'_, V>) -> InstructionExecResult {
    let own = context.interpreter.input.target_address();
    observe(&mut context, own, Observed::Exactly);
    if let Some(word) = operand(&context, 0) {
        observe(&mut context, address_of(word), Observed::Exactly);
    }
    host::selfdestruct(context)
}

fn call<const KIND: u8, V: StateView>(mut context: Call<'_, V>) -> InstructionExecResult {
    if let Some(value) = operand(&context, CALL_VALUE).filter(|value| !value.is_zero()) {
        let own = context.interpreter.input.target_address();
        let journal = &context.host.journaled_state;
        let now = journal.inner.state.get(&own).map(|account| account.info.balance);
        let before = journal.database.balance_read(&own);
        observe(&mut context, own, compared(value, now, before));
        if KIND == CALL && value > MOST_BALANCE && now.is_some_and(|now| now >= value) {
            // Whether it overflows the recipient depends on the recipient's balance.
            context.host.journaled_state.database.observe_all();
        }
    }
    contract::call::<KIND, _, _>(context)
}

fn create<const IS_CREATE2: bool, V: StateView>(mut context: Call<'_, V>) -> InstructionExecResult {
    if operand(&context, 0).is_some_and(|value| !value.is_zero()) {
        let own = context.interpreter.input.target_address();
        observe(&mut context, own, Observed::Exactly);
    }
    contract::create::<IS_CREATE2, _, _>(context)
}

/// The observation that the comparison of a balance with an amount makes, given the balance `now` and `before`
/// the transaction. The difference of the two is the same for every balance before.
fn compared(value: U256, now: Option<U256>, before: Option<U256>) -> Observed {
    let (Some(now), Some(before)) = (now, before) else { return Observed::Exactly };
    if now < value || now > MOST_BALANCE || before > MOST_BALANCE {
        return Observed::Exactly;
    }
    // The sum cannot overflow, and a balance that has grown by more than the amount shows nothing.
    Observed::AtLeast(value.saturating_add(before).saturating_sub(now))
}

fn address_of(word: U256) -> Address {
    Address::from_word(word.into())
}

/// The least balance for which the transaction has the same result; `None` if it must have the balance that
/// was read. `spent` is the most that the transaction itself may take from the account: `Some` only for its
/// sender.
pub(super) fn least(
    account: &Account,
    after: &EvmAccount,
    observed: Option<Observed>,
    spent: Option<U256>,
) -> Option<U256> {
    let Some(Observed::AtLeast(mut least)) = observed.or(Some(Observed::AtLeast(U256::ZERO))) else {
        return None;
    };
    if account.nonce == 0 && account.code_hash == KECCAK256_EMPTY {
        // Without a balance the account would be empty, which has a price and may delete it.
        least = least.max(U256::from(1));
    }
    least = least.max(spent.unwrap_or_default());
    // A sender's nonce grows by one. Otherwise only creations and authorisations change nonces.
    let nonce = account.nonce.checked_add(u64::from(spent.is_some()))?;
    let same = !after.is_created()
        && !after.is_selfdestructed()
        && !after.info.is_empty()
        && after.info.nonce == nonce
        && after.info.code_hash == account.code_hash;
    let bounded = account.balance <= MOST_BALANCE && after.info.balance <= MOST_BALANCE;
    (same && bounded && account.balance >= least).then_some(least)
}

#[cfg(test)]
mod tests {
    use super::super::recording::account_info;
    use super::*;
    use alloy_primitives::B256;

    fn wei(amount: u64) -> U256 {
        U256::from(amount)
    }

    #[test]
    fn a_payment_shows_that_the_balance_before_was_enough() {
        let shown = |value, now, before| compared(wei(value), Some(wei(now)), Some(wei(before)));
        assert_eq!(shown(5, 10, 10), Observed::AtLeast(wei(5)));
        assert_eq!(shown(5, 7, 10), Observed::AtLeast(wei(8)), "3 were spent before");
        assert_eq!(shown(5, 12, 10), Observed::AtLeast(wei(3)), "2 were received before");
        assert_eq!(shown(5, 20, 10), Observed::AtLeast(wei(0)));
        assert_eq!(shown(5, 5, 5), Observed::AtLeast(wei(5)));
        assert_eq!(shown(5, 4, 4), Observed::Exactly, "it cannot be paid");
        assert_eq!(compared(wei(1), Some(MOST_BALANCE + wei(1)), Some(wei(1))), Observed::Exactly);
        assert_eq!(compared(wei(1), Some(wei(1)), Some(MOST_BALANCE + wei(1))), Observed::Exactly);
        assert_eq!(compared(wei(1), Some(wei(1)), None), Observed::Exactly);
    }

    #[test]
    fn the_larger_of_two_bounds_counts_and_an_exact_observation_outweighs_both() {
        let least = |amount| Observed::AtLeast(wei(amount));
        assert_eq!(least(3).and(least(5)), least(5));
        assert_eq!(least(5).and(least(3)), least(5));
        assert_eq!(least(3).and(Observed::Exactly), Observed::Exactly);
        assert_eq!(Observed::Exactly.and(least(3)), Observed::Exactly);
    }

    #[test]
    fn only_an_account_that_stays_what_it_is_may_have_another_balance() {
        let contract = Account { balance: wei(5), nonce: 1, code_hash: B256::repeat_byte(7) };
        let after = |account: &Account, change: &dyn Fn(&mut EvmAccount)| {
            let mut after = EvmAccount::from(account_info(account));
            change(&mut after);
            after
        };
        let of = |account: &Account, change: &dyn Fn(&mut EvmAccount)| {
            least(account, &after(account, change), None, None)
        };
        let same = |_: &mut EvmAccount| {};
        assert_eq!(of(&contract, &same), Some(wei(0)));
        assert_eq!(of(&contract, &|after| after.info.balance = wei(9)), Some(wei(0)));
        assert_eq!(of(&contract, &|after| after.mark_created()), None);
        assert_eq!(of(&contract, &|after| after.mark_selfdestruct()), None);
        assert_eq!(of(&contract, &|after| after.info.nonce = 2), None);
        assert_eq!(of(&contract, &|after| after.info.code_hash = B256::ZERO), None);
        assert_eq!(of(&contract, &|after| after.info.balance = MOST_BALANCE), Some(wei(0)));
        assert_eq!(of(&contract, &|after| after.info.balance = MOST_BALANCE + wei(1)), None);
        let rich = Account { balance: MOST_BALANCE + wei(1), ..contract };
        assert_eq!(of(&rich, &|after| after.info.balance = wei(1)), None);

        let bare = Account { balance: wei(5), ..Account::default() };
        assert_eq!(of(&bare, &same), Some(wei(1)));
        assert_eq!(of(&bare, &|after| after.info.balance = wei(0)), None);

        let sent = |after: &mut EvmAccount| after.info.nonce += 1;
        let by_sender = |spent: u64| least(&bare, &after(&bare, &sent), None, Some(wei(spent)));
        assert_eq!((by_sender(4), by_sender(5), by_sender(6)), (Some(wei(4)), Some(wei(5)), None));
        assert_eq!(least(&bare, &after(&bare, &same), None, Some(wei(4))), None, "its nonce must grow");

        let observed = |observed| least(&contract, &after(&contract, &same), Some(observed), None);
        assert_eq!(observed(Observed::Exactly), None);
        assert_eq!(observed(Observed::AtLeast(wei(3))), Some(wei(3)));
    }
}
