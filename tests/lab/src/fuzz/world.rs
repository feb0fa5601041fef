//! The pre-state of one seed: senders, contracts, and accounts of every awkward kind.

use std::sync::LazyLock;

use alloy_consensus::crypto::secp256k1;
use alloy_eips::{eip2935, eip4788, eip7002, eip7251};
use alloy_primitives::{Address, B256, Bytes, Signature, U256, keccak256};
use common::account::{Account, AccountRecord, SlotValue};
use engine::MemoryState;
use revm::bytecode::opcode as op;

use super::asm::Asm;
use super::draw::Draw;
use super::fork::{DEPOSIT_CONTRACT, Fork};
use super::mirror::Mirror;
use super::program::{Grammar, Names, SLOTS};
use crate::sequential::CreationRule;

/// The number of accounts that can sign. The first half has funds from the start.
const SIGNERS: usize = 8;

/// An account that can sign. Its key is public and must never hold anything of value.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Signer {
    secret: B256,
    pub(super) address: Address,
}

static ALL_SIGNERS: LazyLock<Vec<Signer>> = LazyLock::new(|| {
    (0u8..)
        .map(|index| keccak256([b"fuzz signer".as_slice(), &[index]].concat()))
        .filter_map(|secret| {
            let key = secret.as_slice().try_into().ok()?;
            Some(Signer { secret, address: Address::from_private_key(&key) })
        })
        .take(SIGNERS)
        .collect()
});

impl Signer {
    /// Signs a hash. With these keys the result is never `None`.
    pub(super) fn sign(&self, hash: B256) -> Option<Signature> {
        secp256k1::sign_message(self.secret, hash).ok()
    }
}

/// The accounts of a seed.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) signers: Vec<Signer>,
    /// The contracts that exist from the start.
    pub(super) contracts: Vec<Address>,
    /// The possible beneficiaries of blocks.
    pub(super) beneficiaries: Vec<Address>,
    /// An account whose balance is just below 2²⁵⁶, so that it can receive only a few wei more.
    pub(super) brimful: Address,
    pub(super) names: Names,
    /// The accounts with their storage.
    pub(super) records: Vec<AccountRecord>,
    pub(super) code: Vec<(B256, Bytes)>,
    /// The addresses that have storage without code or nonce, to which EIP-7610 applies.
    pub(super) rule: CreationRule,
    /// Hashes of ancestors, up to the first block's parent.
    pub(super) ancestors: Vec<(u64, B256)>,
}

impl World {
    /// Draws the accounts, the code and the ancestors that exist before the first block.
    pub(super) fn new(fork: Fork, draw: &mut Draw) -> Self {
        let mut world = Self { signers: ALL_SIGNERS.clone(), brimful: numbered(0xff, 0), ..Self::default() };
        world.names.first_block = draw.pick(&[1u64, 5, 200, 300, 1_000]);
        world.ancestors = (world.names.first_block.saturating_sub(300)..world.names.first_block)
            .map(|number| (number, keccak256(number.to_be_bytes())))
            .collect();
        world.name_accounts(draw);
        world.write_templates(fork, draw);
        world.write_contracts(fork, draw);
        world.fund(draw);
        world.awkward_accounts(draw);
        world.system_contracts(fork, draw);
        world
    }

    /// The state in the engine's form.
    pub(super) fn state(&self) -> MemoryState {
        let mut state = MemoryState::default();
        self.records.iter().for_each(|record| state.insert(record.clone()));
        self.code.iter().for_each(|(hash, code)| state.insert_code(*hash, code.clone()));
        self.ancestors.iter().for_each(|(number, hash)| state.insert_ancestor(*number, *hash));
        state
    }

    /// The state in the form that shares no code with the engine's.
    pub(super) fn mirror(&self) -> Mirror {
        let mut mirror = Mirror::default();
        self.records.iter().for_each(|record| mirror.insert(record));
        mirror.add_code(&self.code);
        self.ancestors.iter().for_each(|(number, hash)| mirror.add_ancestor(*number, *hash));
        mirror
    }

    fn name_accounts(&mut self, draw: &mut Draw) {
        self.contracts = (0..draw.between(3, 6)).map(|n| numbered(0xc0, n)).collect();
        let names = &mut self.names;
        names.addresses.extend(self.signers.iter().map(|signer| signer.address));
        names.addresses.extend(&self.contracts);
        // Absent (ab) and empty (e0) accounts, and precompiles: the identity, RIPEMD-160 and others.
        for address in [numbered(0xab, 0), numbered(0xab, 1), numbered(0xe0, 0), numbered(0xe0, 1)] {
            names.addresses.extend([address, address]);
        }
        for precompile in [1, 2, 3, 3, 4, 6, 9, 10] {
            names.addresses.push(precompiled(precompile));
        }
        self.beneficiaries = vec![
            numbered(0xbe, 0),
            numbered(0xbe, 0),
            numbered(0xbe, 1),
            numbered(0xe0, 0),
            numbered(0xab, 0),
            precompiled(3),
        ];
        names.addresses.extend([numbered(0xbe, 0), numbered(0xbe, 1)]);
        names.callees.clone_from(&self.contracts);
    }

    /// Adds creation codes, and the addresses of the contracts that they will create.
    fn write_templates(&mut self, fork: Fork, draw: &mut Draw) {
        let templates: Vec<Vec<u8>> = {
            let grammar = Grammar { fork, names: &self.names };
            (0..3).map(|_| grammar.template(draw)).collect()
        };
        let at = |creator: &Address, salt: u8, template: &[u8]| {
            creator.create2(B256::with_last_byte(salt), keccak256(template))
        };
        let mut created = Vec::new();
        for template in &templates {
            created.extend(self.contracts.iter().map(|creator| at(creator, draw.below(2) as u8, template)));
        }
        // Programs may use only a few of them, so that they use the same ones. The factory's is always
        // included.
        created.sort_unstable();
        created.dedup();
        draw.shuffle(&mut created);
        let factory = self.contracts.first().zip(templates.first());
        let own = factory.map(|(factory, template)| [0, 1].map(|salt| at(factory, salt, template)));
        let own = own.into_iter().flatten().collect::<Vec<_>>();
        created.retain(|address| !own.contains(address));
        created.truncate(3);
        created.splice(0..0, own);
        created.extend(self.contracts.iter().take(2).map(|contract| contract.create(draw.between(0, 2))));
        created.extend(self.signers.iter().take(2).map(|signer| signer.address.create(draw.below(4))));
        self.beneficiaries.extend(created.iter().take(3));
        self.beneficiaries.extend(self.contracts.iter().take(2));
        self.beneficiaries.extend(self.signers.iter().map(|signer| signer.address).take(5));
        self.names.addresses.extend(&created);
        self.names.callees.extend(&created);
        self.names.templates = templates;
    }

    fn write_contracts(&mut self, fork: Fork, draw: &mut Draw) {
        for (position, address) in self.contracts.clone().into_iter().enumerate() {
            let code = {
                let grammar = Grammar { fork, names: &self.names };
                if position == 0 && fork >= Fork::Petersburg {
                    grammar.factory(draw)
                } else {
                    grammar.contract(draw)
                }
            };
            let storage = (0..SLOTS)
                .filter(|_| draw.one_in(2))
                .map(|slot| SlotValue { slot: U256::from(slot), value: U256::from(slot + 1) })
                .collect();
            let balance = draw.pick(&[0u64, 1, 5, 1_000_000]);
            self.add_contract(address, balance, code.into(), storage);
        }
    }

    fn add_contract(&mut self, address: Address, balance: u64, code: Bytes, storage: Vec<SlotValue>) {
        let code_hash = keccak256(&code);
        self.code.push((code_hash, code));
        let account = Account { balance: U256::from(balance), nonce: 1, code_hash };
        self.records.push(AccountRecord { address, account, storage });
    }

    fn add_account(&mut self, address: Address, balance: u128, nonce: u64, storage: Vec<SlotValue>) {
        let account = Account { balance: U256::from(balance), nonce, ..Account::default() };
        self.records.push(AccountRecord { address, account, storage });
    }

    /// Funds the accounts: the first half of the signers is rich, and one other has just enough for a
    /// little.
    fn fund(&mut self, draw: &mut Draw) {
        for (position, signer) in self.signers.clone().into_iter().enumerate() {
            if position < SIGNERS / 2 {
                self.add_account(signer.address, 1 << 80, draw.pick(&[0u64, 0, 1, 7]), vec![]);
            } else if position == SIGNERS / 2 {
                self.add_account(signer.address, 3_000_000_000_000_000, 0, vec![]);
            }
        }
    }

    /// Adds empty accounts that exist, and accounts at addresses of future creations.
    fn awkward_accounts(&mut self, draw: &mut Draw) {
        for empty in [numbered(0xe0, 0), numbered(0xe0, 1), numbered(0xe0, 2), precompiled(3)] {
            if draw.one_in(2) {
                self.add_account(empty, 0, 0, vec![]);
            }
        }
        if draw.one_in(4) {
            self.add_account(numbered(0xbe, 1), 5, 0, vec![]);
        }
        if draw.one_in(3) {
            // A delegation from Prague on, ordinary code before.
            let target = draw.pick(&self.contracts);
            let code = [&[0xef, 0x01, 0x00], target.as_slice()].concat();
            let address = numbered(0xef, 0);
            self.add_contract(address, 3, code.into(), vec![]);
            self.names.addresses.push(address);
            self.names.callees.push(address);
        }
        let balance = U256::MAX - U256::from(draw.pick(&[0u64, 1, 3, 2_000]));
        let account = Account { balance, ..Account::default() };
        self.records.push(AccountRecord { address: self.brimful, account, storage: vec![] });
        let created: Vec<Address> =
            self.names.callees.iter().filter(|address| !self.contracts.contains(address)).copied().collect();
        for address in created {
            let slot = SlotValue { slot: U256::from(draw.below(SLOTS)), value: U256::from(7) };
            match draw.below(16) {
                0 => self.add_account(address, 5, 0, vec![]),
                1 => self.add_account(address, 0, 1, vec![]),
                2 => self.add_account(address, 0, 0, vec![]),
                3 | 4 => {
                    // EIP-7610: see `CreationRule` for why it has a balance.
                    self.rule.add(address);
                    self.add_account(address, 1, 0, vec![slot]);
                }
                _ => {}
            }
        }
    }

    fn system_contracts(&mut self, fork: Fork, draw: &mut Draw) {
        if draw.one_in(5) {
            return;
        }
        if fork >= Fork::Cancun {
            self.add_contract(eip4788::BEACON_ROOTS_ADDRESS, 0, eip4788::BEACON_ROOTS_CODE.clone(), vec![]);
        }
        if fork < Fork::Prague {
            return;
        }
        let history = eip2935::HISTORY_STORAGE_CODE.clone();
        self.add_contract(eip2935::HISTORY_STORAGE_ADDRESS, 0, history, vec![]);
        let withdrawals = eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_CODE.clone();
        self.add_contract(eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, 0, withdrawals, vec![]);
        let consolidations = eip7251::CONSOLIDATION_REQUEST_PREDEPLOY_CODE.clone();
        self.add_contract(eip7251::CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, 0, consolidations, vec![]);
        self.add_contract(DEPOSIT_CONTRACT, 0, deposit_code(draw).into(), vec![]);
        self.names.addresses.push(eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS);
        self.names.callees.push(DEPOSIT_CONTRACT);
    }
}

/// An address of a family of addresses.
pub(super) fn numbered(family: u8, number: u64) -> Address {
    let mut address = Address::repeat_byte(family);
    if let Some(last) = address.0.last_mut() {
        *last = number as u8;
    }
    address
}

fn precompiled(number: u8) -> Address {
    Address::with_last_byte(number)
}

/// A contract that logs a deposit if the first byte of its input is even (EIP-6110). Sometimes the
/// deposit is malformed, which makes the block invalid.
fn deposit_code(draw: &mut Draw) -> Vec<u8> {
    let parts: [(usize, u8); 5] = [(48, 1), (32, 2), (8, 3), (96, 4), (8, 5)];
    let mut heads: Vec<u8> = Vec::new();
    let mut tails: Vec<u8> = Vec::new();
    for (length, byte) in parts {
        heads.extend(U256::from(parts.len() * 32 + tails.len()).to_be_bytes::<32>());
        tails.extend(U256::from(length).to_be_bytes::<32>());
        tails.extend(vec![byte; length]);
        tails.extend(vec![0; length.next_multiple_of(32) - length]);
    }
    let mut data = [heads, tails].concat();
    if draw.one_in(10) {
        data.truncate(100);
    }
    let topic = keccak256("DepositEvent(bytes,bytes,bytes,bytes,bytes)");
    let mut asm = Asm::default();
    asm.push(1u64).push(0u64).op(op::CALLDATALOAD).push(0u64).ops(&[op::BYTE, op::AND, op::ISZERO]);
    asm.when(|asm| {
        asm.data_to_memory(&data);
        asm.push(U256::from_be_bytes(topic.0)).push(data.len() as u64).push(0u64).op(op::LOG0 + 1);
    });
    asm.op(op::STOP);
    asm.finish()
}
