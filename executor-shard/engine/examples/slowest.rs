//! Measures the slowest gas of each fork: how much gas per second a thread burns in the worst transactions
//! that are valid there. `ScheduleLimits::slowest_gas` is set from the output.
//!
//! Each row is one transaction whose contract repeats one expensive operation until its gas is used up. Run
//! it in a release build: `cargo run --release -p engine --example slowest`.

use std::collections::HashMap;
use std::time::Instant;

use alloy_consensus::{SignableTransaction, TxLegacy};
use alloy_evm::EvmEnv;
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, Signature, U256, hex, keccak256};
use common::account::Account;
use engine::{Code, Executor, Overlay, StateError, StateView};
use revm::context::{BlockEnv, CfgEnv};
use revm::primitives::hardfork::SpecId;

/// The gas limit of each transaction, unless a row names another one.
const GAS: u64 = 20_000_000;

/// The contract that burns the gas.
const BURNER: Address = Address::repeat_byte(0xbb);

/// The sender of every transaction.
const SENDER: Address = Address::repeat_byte(0xaa);

/// A state of two accounts; every other address and slot is absent.
#[derive(Debug)]
struct State {
    accounts: HashMap<Address, Account>,
    code: Bytes,
}

impl StateView for State {
    fn account(&self, address: &Address) -> Result<Option<Account>, StateError> {
        Ok(self.accounts.get(address).cloned())
    }

    fn slot(&self, _: &Address, _: &U256) -> Result<U256, StateError> {
        Ok(U256::ZERO)
    }

    fn code(&self, _: &B256) -> Result<Code, StateError> {
        Ok(Code::new(self.code.clone()))
    }

    fn block_hash(&self, _: u64) -> Result<B256, StateError> {
        Ok(B256::ZERO)
    }

    fn any_slot(&self, _: &Address, _: &dyn Fn(&U256) -> bool) -> Result<bool, StateError> {
        Ok(false)
    }
}

/// Code that copies its call data to memory and then repeats `body` forever.
fn repeat(body: &[u8]) -> Bytes {
    // CALLDATACOPY(0, 0, CALLDATASIZE); JUMPDEST; body; JUMP
    let mut code = hex!("366000600037").to_vec();
    let start = u8::try_from(code.len()).unwrap_or(0);
    code.push(0x5b);
    code.extend_from_slice(body);
    code.extend_from_slice(&[0x60, start, 0x56]);
    code.into()
}

/// Code that repeatedly calls a precompile with the whole call data.
fn precompile(address: u8) -> Bytes {
    // CALL(GAS - 65535, address, 0, 0, CALLDATASIZE, 0, 0); POP: before EIP-150 a call that passed all gas
    // failed.
    repeat(&[
        0x60, 0, 0x60, 0, 0x36, 0x60, 0, 0x60, 0, 0x60, address, 0x61, 0xff, 0xff, 0x5a, 0x03, 0xf1, 0x50,
    ])
}

/// Runs one transaction and prints how much gas per second it burned.
fn measure(name: &str, spec: SpecId, code: Bytes, input: Vec<u8>, gas: u64) {
    let account = |code_hash| Account { nonce: 0, balance: U256::from(10).pow(U256::from(30)), code_hash };
    let accounts = HashMap::from([(SENDER, account(KECCAK256_EMPTY)), (BURNER, account(keccak256(&code)))]);
    let state = State { accounts, code };
    let block = BlockEnv { gas_limit: u64::MAX, basefee: 0, ..BlockEnv::default() };
    let env = EvmEnv::new(CfgEnv::new_with_spec(spec), block);
    let tx = TxLegacy { gas_limit: gas, to: BURNER.into(), input: input.into(), ..TxLegacy::default() };
    let tx = tx.into_signed(Signature::new(U256::from(1), U256::from(2), false)).into();
    let mut executor = Executor::new(env, state, Overlay::default());
    let began = Instant::now();
    let outcome = executor.execute(&tx, SENDER);
    let took = began.elapsed();
    let used = match outcome {
        Ok(common::work::TxOutcome::Executed(executed)) => executed.gas_used.0,
        other => {
            println!("{spec:?} {name}: not executed: {other:?}");
            return;
        }
    };
    let rate = used as f64 / took.as_secs_f64() / 1e6;
    println!(
        "{:<18} {name:<44} {:>12} gas in {:>8.3} s: {rate:>9.1} Mgas/s",
        format!("{spec:?}"),
        used,
        took.as_secs_f64()
    );
}

/// MODEXP's input: the three lengths, then numbers whose bits are all ones. If `even`, the modulus ends with
/// a zero byte.
fn modexp(base: usize, exponent: usize, modulus: usize, even: bool) -> Vec<u8> {
    let mut input = Vec::new();
    for length in [base, exponent, modulus] {
        input.extend_from_slice(&U256::from(length).to_be_bytes::<32>());
    }
    input.extend(vec![0xff; base + exponent + modulus]);
    if even && let Some(last) = input.last_mut() {
        *last = 0;
    }
    input
}

/// MODEXP with an exponent that EIP-198 and EIP-2565 count as short: zeros behind a first bit.
fn modexp_sparse(size: usize) -> Vec<u8> {
    let mut input = modexp(size, 32, size, true);
    for byte in input.iter_mut().skip(96 + size).take(31) {
        *byte = 0;
    }
    input
}

fn blake2f(rounds: u32) -> Vec<u8> {
    let mut input = rounds.to_be_bytes().to_vec();
    input.extend(vec![0x5a; 208]);
    input.push(1);
    input
}

/// The input for `pairs` pairs of the generators of BN254.
fn pairing(pairs: usize) -> Vec<u8> {
    let pair = hex!(
        "0000000000000000000000000000000000000000000000000000000000000001"
        "0000000000000000000000000000000000000000000000000000000000000002"
        "198e9393920d483a7260bfb731fb5d25f1aa493335a9e71297e485b7aef312c2"
        "1800deef121f1e76426a00665e5c4479674322d4f75edadd46debd5cd992f6ed"
        "090689d0585ff075ec9e99ad690c3395bc4b313370b38ef355acdadcd122975b"
        "12c85ea5db8c6deb4aab71808dcb408fe3d1e7690c43d37b4ce6cc0166fa7daa"
    );
    pair.repeat(pairs)
}

fn ecrecover() -> Vec<u8> {
    hex!(
        "456e9aea5e197a1f1af7a3e85a3212fa4049a3ba34c2289b4c860fc0b0c64ef3"
        "000000000000000000000000000000000000000000000000000000000000001c"
        "9242685bf161793cc25603c231bc2f568eb630ea16aa137d2664ac8038825608"
        "4f8ae3bd7535248d0bd448298cc2e2071e56992d0774dc340c368ae950852ada"
    )
    .to_vec()
}

fn main() {
    use SpecId::{
        BERLIN, BYZANTIUM, CANCUN, FRONTIER, HOMESTEAD, ISTANBUL, LONDON, OSAKA, PRAGUE, TANGERINE,
    };
    measure("BLAKE2F, a million rounds a call", ISTANBUL, precompile(9), blake2f(1_000_000), 1_000_000_000);
    measure("BLAKE2F, 4,294,967,295 rounds", ISTANBUL, precompile(9), blake2f(u32::MAX), 4_400_000_000);
    for spec in [BYZANTIUM, BERLIN, OSAKA] {
        let gas = if spec == OSAKA { 16_000_000 } else { GAS };
        for size in [8, 32, 64, 192, 256, 512, 1024] {
            measure(
                &format!("MODEXP, {size} bytes, odd"),
                spec,
                precompile(5),
                modexp(size, 32, size, false),
                gas,
            );
            measure(
                &format!("MODEXP, {size} bytes, even"),
                spec,
                precompile(5),
                modexp(size, size, size, true),
                gas,
            );
            measure(
                &format!("MODEXP, {size} bytes, sparse exponent"),
                spec,
                precompile(5),
                modexp_sparse(size),
                gas,
            );
        }
    }
    for spec in [FRONTIER, PRAGUE] {
        measure("ECRECOVER", spec, precompile(1), ecrecover(), GAS);
        measure("SHA-256, 1 KiB", spec, precompile(2), vec![7; 1024], GAS);
        measure("RIPEMD-160, 1 KiB", spec, precompile(3), vec![7; 1024], GAS);
    }
    for spec in [BYZANTIUM, ISTANBUL] {
        measure("BN254 pairing, 1 pair", spec, precompile(8), pairing(1), GAS);
        measure("BN254 pairing, 10 pairs", spec, precompile(8), pairing(10), GAS);
        measure(
            "BN254 multiplication",
            spec,
            precompile(7),
            pairing(1).into_iter().take(64).chain([0xff; 32]).collect(),
            GAS,
        );
    }
    // A counter on the stack serves as an address or slot that no code has touched.
    let fresh = |opcode: u8| -> Bytes {
        // PUSH1 1; JUMPDEST; PUSH1 1; ADD; DUP1; opcode; POP; JUMP
        let code = [0x60, 1, 0x5b, 0x60, 1, 0x01, 0x80, opcode, 0x50, 0x60, 2, 0x56];
        Bytes::copy_from_slice(&code)
    };
    for spec in [FRONTIER, TANGERINE, ISTANBUL, BERLIN] {
        measure("EXTCODESIZE of fresh addresses", spec, fresh(0x3b), vec![], GAS / 4);
        measure("BALANCE of fresh addresses", spec, fresh(0x31), vec![], GAS / 4);
        measure("SLOAD of fresh slots", spec, fresh(0x54), vec![], GAS / 4);
    }
    // CREATE with creation code of `size` bytes: each copy is searched for jump targets.
    for (spec, size) in [(HOMESTEAD, 1u32 << 20), (LONDON, 1 << 20), (LONDON, 1 << 22), (LONDON, 1 << 23)] {
        let [a, b, c, d] = size.to_be_bytes();
        // CREATE(0, 0, size); POP
        let body = [0x63, a, b, c, d, 0x60, 0, 0x60, 0, 0xf0, 0x50];
        measure(&format!("CREATE with {size} bytes"), spec, repeat(&body), vec![], 300_000_000);
    }
    measure("KECCAK256 of 1 KiB", CANCUN, repeat(&hex!("61040060002050")), vec![], GAS);
    measure("EXP", FRONTIER, repeat(&hex!("6000196000190a50")), vec![], GAS);
    measure("plain arithmetic", CANCUN, repeat(&hex!("60016002015060036004015060056006010250")), vec![], GAS);
}
