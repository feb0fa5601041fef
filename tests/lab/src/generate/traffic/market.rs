//! The generator's record of the tokens and of the pair: their addresses, the holders' balances, and
//! the reserves.
//!
//! It repeats the arithmetic of the contracts. So every transfer moves tokens that the sender has, and
//! every swap meets its bound. It records only the holders; other recipients never spend their tokens.

use alloy_primitives::{Address, U256};

use super::TrafficError;

/// One of the two tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    First,
    Second,
}

impl Side {
    /// The token that a swap gives for this one.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// One value for each of the two tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Both<T> {
    pub(crate) first: T,
    pub(crate) second: T,
}

impl<T: Copy> Both<T> {
    /// The value for one of the tokens.
    pub(crate) fn get(&self, side: Side) -> T {
        match side {
            Side::First => self.first,
            Side::Second => self.second,
        }
    }

    fn get_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::First => &mut self.first,
            Side::Second => &mut self.second,
        }
    }
}

/// The tokens, the pair, and the balances.
#[derive(Debug, Clone)]
pub(crate) struct Market {
    tokens: Both<Address>,
    pair: Address,
    reserves: Both<U256>,
    /// By index of the account; only the first accounts are holders.
    balances: Vec<Both<U256>>,
}

impl Market {
    /// The market after the set-up: `holders` accounts with a `stake` each.
    pub(crate) fn new(
        tokens: Both<Address>,
        pair: Address,
        reserves: Both<U256>,
        holders: usize,
        stake: Both<U256>,
    ) -> Self {
        Self { tokens, pair, reserves, balances: vec![stake; holders] }
    }

    /// The address of a token.
    pub(crate) fn token(&self, side: Side) -> Address {
        self.tokens.get(side)
    }

    /// The address of the pair.
    pub(crate) fn pair(&self) -> Address {
        self.pair
    }

    /// The number of accounts that hold tokens to spend.
    pub(crate) fn holders(&self) -> usize {
        self.balances.len()
    }

    /// A holder's balance of a token.
    pub(crate) fn balance(&self, holder: usize, side: Side) -> Result<U256, TrafficError> {
        let balances = self.balances.get(holder);
        Ok(balances.ok_or(TrafficError::NoSuchAccount { index: holder })?.get(side))
    }

    /// The amount that the pair pays for `amount_in` of the token `side`, like `outputFor` of `Pair.sol`.
    pub(crate) fn quote(&self, side: Side, amount_in: U256) -> U256 {
        let counted = amount_in.saturating_mul(U256::from(997));
        let below = self.reserves.get(side).saturating_mul(U256::from(1000)).saturating_add(counted);
        let above = counted.saturating_mul(self.reserves.get(side.other()));
        above.checked_div(below).unwrap_or(U256::ZERO)
    }

    /// Records a transfer from a holder to an account, or to an address outside (`None`).
    pub(crate) fn transferred(&mut self, side: Side, from: usize, to: Option<usize>, amount: U256) {
        self.take(from, side, amount);
        if let Some(to) = to {
            self.give(to, side, amount);
        }
    }

    /// Records a swap of a holder.
    pub(crate) fn swapped(&mut self, side: Side, holder: usize, amount_in: U256) {
        let amount_out = self.quote(side, amount_in);
        self.take(holder, side, amount_in);
        self.give(holder, side.other(), amount_out);
        let reserve_in = self.reserves.get_mut(side);
        *reserve_in = reserve_in.saturating_add(amount_in);
        let reserve_out = self.reserves.get_mut(side.other());
        *reserve_out = reserve_out.saturating_sub(amount_out);
    }

    fn take(&mut self, holder: usize, side: Side, amount: U256) {
        if let Some(balances) = self.balances.get_mut(holder) {
            let balance = balances.get_mut(side);
            *balance = balance.saturating_sub(amount);
        }
    }

    fn give(&mut self, holder: usize, side: Side, amount: U256) {
        if let Some(balances) = self.balances.get_mut(holder) {
            let balance = balances.get_mut(side);
            *balance = balance.saturating_add(amount);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn market(reserve: u64, stake: u64) -> Market {
        let both = |value| Both { first: U256::from(value), second: U256::from(value) };
        let tokens = Both { first: Address::repeat_byte(1), second: Address::repeat_byte(2) };
        Market::new(tokens, Address::repeat_byte(3), both(reserve), 2, both(stake))
    }

    #[test]
    fn a_quote_takes_the_fee_and_the_slope_into_account() {
        let market = market(1_000_000, 0);
        // 997 * 1000 * 1_000_000 / (1_000_000 * 1000 + 997 * 1000)
        assert_eq!(market.quote(Side::First, U256::from(1000)), U256::from(996));
        assert_eq!(market.quote(Side::First, U256::ZERO), U256::ZERO);
    }

    #[test]
    fn an_empty_pair_pays_nothing() {
        assert_eq!(market(0, 0).quote(Side::Second, U256::from(5)), U256::ZERO);
        assert_eq!(market(0, 0).quote(Side::Second, U256::ZERO), U256::ZERO);
    }

    #[test]
    fn a_swap_moves_tokens_between_holder_and_reserves() {
        let mut market = market(1_000_000, 5000);
        market.swapped(Side::Second, 1, U256::from(1000));
        assert_eq!(market.balance(1, Side::Second).unwrap(), U256::from(4000));
        assert_eq!(market.balance(1, Side::First).unwrap(), U256::from(5996));
        let reserves = Both { first: U256::from(999_004), second: U256::from(1_001_000) };
        assert_eq!(market.reserves, reserves);
    }

    #[test]
    fn a_transfer_credits_holders_only() {
        let mut market = market(1, 100);
        market.transferred(Side::First, 0, Some(1), U256::from(10));
        market.transferred(Side::First, 0, Some(77), U256::from(10));
        market.transferred(Side::First, 0, None, U256::from(10));
        assert_eq!(market.balance(0, Side::First).unwrap(), U256::from(70));
        assert_eq!(market.balance(1, Side::First).unwrap(), U256::from(110));
        assert!(market.balance(77, Side::First).is_err());
    }
}
