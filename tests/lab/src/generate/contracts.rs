//! The contracts of the generated chain: their code, and the encoding of calls to them.
//!
//! The code comes from `tests/lab/contracts`, which contains the Solidity sources and the way they were
//! compiled. The few kinds of calls are encoded by hand; this is not an ABI library, and it decodes
//! nothing.

use alloy_primitives::{Address, B256, Bytes, U256, hex, keccak256};

/// Creation code of `Token.sol`, without constructor arguments.
const TOKEN_HEX: &str = include_str!("../../contracts/Token.hex");
/// Creation code of `Pair.sol`, without constructor arguments.
const PAIR_HEX: &str = include_str!("../../contracts/Pair.hex");

/// `transfer(address,uint256)`
const TRANSFER: [u8; 4] = [0xa9, 0x05, 0x9c, 0xbb];
/// `approve(address,uint256)`
const APPROVE: [u8; 4] = [0x09, 0x5e, 0xa7, 0xb3];
/// `addLiquidity(uint256,uint256,uint256)`
const ADD_LIQUIDITY: [u8; 4] = [0x42, 0x2f, 0x10, 0x43];
/// `swap(address,uint256,uint256,address)`
const SWAP: [u8; 4] = [0xf3, 0xe6, 0xea, 0x8a];

/// The storage slot of the mapping `balanceOf` in `Token.sol`.
const BALANCES: U256 = U256::ZERO;

/// The length of an ABI word, in bytes.
const WORD: usize = 32;

/// Creation code of a token with its constructor arguments
/// (`string name, string symbol, uint256 supply`).
pub(crate) fn token_creation(name: &str, symbol: &str, supply: U256) -> Result<Bytes, hex::FromHexError> {
    let name = string(name);
    let symbol = string(symbol);
    let head = 3 * WORD;
    let mut code = hex::decode(TOKEN_HEX.trim())?;
    push(&mut code, U256::from(head));
    push(&mut code, U256::from(head + name.len()));
    push(&mut code, supply);
    code.extend_from_slice(&name);
    code.extend_from_slice(&symbol);
    Ok(code.into())
}

/// Creation code of a pair with its constructor arguments
/// (`address token0, address token1`).
pub(crate) fn pair_creation(token0: Address, token1: Address) -> Result<Bytes, hex::FromHexError> {
    let mut code = hex::decode(PAIR_HEX.trim())?;
    push(&mut code, word(token0));
    push(&mut code, word(token1));
    Ok(code.into())
}

/// Call data of `Token.transfer`.
pub(crate) fn transfer(to: Address, amount: U256) -> Bytes {
    call(TRANSFER, &[word(to), amount])
}

/// Call data of `Token.approve`.
pub(crate) fn approve(spender: Address, amount: U256) -> Bytes {
    call(APPROVE, &[word(spender), amount])
}

/// Call data of `Pair.addLiquidity`.
pub(crate) fn add_liquidity(amount0: U256, amount1: U256, min_shares: U256) -> Bytes {
    call(ADD_LIQUIDITY, &[amount0, amount1, min_shares])
}

/// Call data of `Pair.swap`.
pub(crate) fn swap(token_in: Address, amount_in: U256, min_out: U256, to: Address) -> Bytes {
    call(SWAP, &[word(token_in), amount_in, min_out, word(to)])
}

/// The storage key of the balance of `holder` in a token.
pub(crate) fn balance_key(holder: Address) -> B256 {
    let mut preimage = Vec::with_capacity(2 * WORD);
    push(&mut preimage, word(holder));
    push(&mut preimage, BALANCES);
    keccak256(preimage)
}

fn call(selector: [u8; 4], arguments: &[U256]) -> Bytes {
    let mut data = Vec::with_capacity(selector.len() + arguments.len() * WORD);
    data.extend_from_slice(&selector);
    for argument in arguments {
        push(&mut data, *argument);
    }
    data.into()
}

fn push(data: &mut Vec<u8>, value: U256) {
    data.extend_from_slice(&value.to_be_bytes::<WORD>());
}

fn word(address: Address) -> U256 {
    address.into_word().into()
}

/// The tail of a dynamic string: its length, then its bytes padded to whole words.
fn string(text: &str) -> Vec<u8> {
    let mut tail = Vec::new();
    push(&mut tail, U256::from(text.len()));
    tail.extend_from_slice(text.as_bytes());
    tail.resize(tail.len().next_multiple_of(WORD), 0);
    tail
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn every_selector_is_the_hash_of_its_signature() {
        for (selector, signature) in [
            (TRANSFER, "transfer(address,uint256)"),
            (APPROVE, "approve(address,uint256)"),
            (ADD_LIQUIDITY, "addLiquidity(uint256,uint256,uint256)"),
            (SWAP, "swap(address,uint256,uint256,address)"),
        ] {
            assert_eq!(selector, keccak256(signature)[..4], "{signature}");
        }
    }

    #[test]
    fn a_call_is_its_selector_and_its_words() {
        let to = Address::repeat_byte(0x11);
        let data = transfer(to, U256::from(7));
        assert_eq!(data.len(), 4 + 64);
        assert_eq!(data[..4], TRANSFER);
        assert_eq!(data[4..16], [0; 12]);
        assert_eq!(data[16..36], to[..]);
        assert_eq!(U256::from_be_slice(&data[36..]), U256::from(7));
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
        let at = |offset: usize| U256::from_be_slice(&arguments[offset..offset + WORD]);
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
