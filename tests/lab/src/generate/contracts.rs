//! The contracts of the generated chain: their code, and the encoding of calls to them.
//!
//! The code comes from `tests/lab/contracts`, which contains the Solidity sources and the way they were
//! compiled.

use alloy_primitives::{Address, B256, Bytes, U256, hex, keccak256};
use alloy_sol_types::{SolCall, SolConstructor, SolValue};

/// Creation code of `Token.sol`, without constructor arguments.
const TOKEN_HEX: &str = include_str!("../../contracts/Token.hex");
/// Creation code of `Pair.sol`, without constructor arguments.
const PAIR_HEX: &str = include_str!("../../contracts/Pair.hex");

/// The parts of the contracts' interfaces that the generated chain uses.
mod interface {
    #![allow(missing_docs, unreachable_pub)]

    alloy_sol_types::sol! {
        contract Token {
            constructor(string name, string symbol, uint256 supply);
            function transfer(address to, uint256 value);
            function approve(address spender, uint256 value);
        }

        contract Pair {
            constructor(address token0, address token1);
            function addLiquidity(uint256 amount0, uint256 amount1, uint256 minShares);
            function swap(address tokenIn, uint256 amountIn, uint256 minOut, address to);
        }
    }
}

use interface::{Pair, Token};

/// The storage slot of the mapping `balanceOf` in `Token.sol`.
const BALANCES: U256 = U256::ZERO;

/// Creation code of a token with its constructor arguments.
pub(crate) fn token_creation(name: &str, symbol: &str, supply: U256) -> Result<Bytes, hex::FromHexError> {
    let (name, symbol) = (name.to_owned(), symbol.to_owned());
    creation(TOKEN_HEX, &Token::constructorCall { name, symbol, supply })
}

/// Creation code of a pair with its constructor arguments.
pub(crate) fn pair_creation(token0: Address, token1: Address) -> Result<Bytes, hex::FromHexError> {
    creation(PAIR_HEX, &Pair::constructorCall { token0, token1 })
}

fn creation(code: &str, arguments: &impl SolConstructor) -> Result<Bytes, hex::FromHexError> {
    let mut code = hex::decode(code.trim())?;
    code.extend_from_slice(&arguments.abi_encode());
    Ok(code.into())
}

/// Call data of `Token.transfer`.
pub(crate) fn transfer(to: Address, value: U256) -> Bytes {
    Token::transferCall { to, value }.abi_encode().into()
}

/// Call data of `Token.approve`.
pub(crate) fn approve(spender: Address, value: U256) -> Bytes {
    Token::approveCall { spender, value }.abi_encode().into()
}

/// Call data of `Pair.addLiquidity`.
pub(crate) fn add_liquidity(amount0: U256, amount1: U256, min_shares: U256) -> Bytes {
    Pair::addLiquidityCall { amount0, amount1, minShares: min_shares }.abi_encode().into()
}

/// Call data of `Pair.swap`.
pub(crate) fn swap(token_in: Address, amount_in: U256, min_out: U256, to: Address) -> Bytes {
    Pair::swapCall { tokenIn: token_in, amountIn: amount_in, minOut: min_out, to }.abi_encode().into()
}

/// The storage key of the balance of `holder` in a token.
pub(crate) fn balance_key(holder: Address) -> B256 {
    keccak256((holder, BALANCES).abi_encode())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn calls_are_encoded_as_the_compiled_contracts_expect() {
        let to = Address::repeat_byte(0x11);
        let data = transfer(to, U256::from(7));
        assert_eq!(data.len(), 4 + 64);
        // The selectors of ERC-20, which the compiled code has.
        assert_eq!(data[..4], [0xa9, 0x05, 0x9c, 0xbb]);
        assert_eq!(data[4..16], [0; 12]);
        assert_eq!(data[16..36], to[..]);
        assert_eq!(U256::from_be_slice(&data[36..]), U256::from(7));
        assert_eq!(approve(to, U256::ZERO)[..4], [0x09, 0x5e, 0xa7, 0xb3]);
        assert_eq!(add_liquidity(U256::ZERO, U256::ZERO, U256::ZERO)[..4], [0x42, 0x2f, 0x10, 0x43]);
        assert_eq!(swap(to, U256::ZERO, U256::ZERO, to)[..4], [0xf3, 0xe6, 0xea, 0x8a]);
    }

    #[test]
    fn the_compiled_code_fits_what_the_chain_allows() {
        let token = token_creation("Name", "N", U256::from(1)).unwrap();
        let pair = pair_creation(Address::ZERO, Address::ZERO).unwrap();
        for code in [token, pair] {
            // EIP-3860 bounds creation code at twice the bound of deployed code.
            assert!(code.len() > 1000 && code.len() < 2 * 24_576);
        }
    }

    #[test]
    fn strings_of_the_token_constructor_are_where_the_head_says() {
        let code = token_creation("A name of more than thirty-two bytes", "SYM", U256::from(9));
        let code = code.unwrap();
        let arguments = &code[hex::decode(TOKEN_HEX.trim()).unwrap().len()..];
        let at = |offset: usize| U256::from_be_slice(&arguments[offset..offset + 32]);
        let (name, symbol) = (at(0).to::<usize>(), at(32).to::<usize>());
        assert_eq!(at(64), U256::from(9));
        assert_eq!(at(name), U256::from(36));
        assert_eq!(&arguments[name + 32..name + 68], b"A name of more than thirty-two bytes");
        assert_eq!(at(symbol), U256::from(3));
        assert_eq!(&arguments[symbol + 32..symbol + 35], b"SYM");
        assert_eq!(arguments.len(), symbol + 64);
    }

    #[test]
    fn the_balance_key_is_the_hash_of_holder_and_slot() {
        let mut preimage = [0u8; 64];
        preimage[12..32].copy_from_slice(&[0x22; 20]);
        assert_eq!(balance_key(Address::repeat_byte(0x22)), keccak256(preimage));
    }
}
