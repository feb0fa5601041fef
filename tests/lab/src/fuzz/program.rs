//! The grammar of generated contracts: statements over expressions, in raw bytecode.
//!
//! Programs read and write the same state as other programs; they need not make sense. The caller
//! provides the addresses and the creation code that a program may use.

use alloy_primitives::{Address, U256};
use revm::bytecode::opcode as op;

use super::asm::{Asm, creation_code};
use super::draw::Draw;
use super::fork::Fork;

/// The addresses and codes that programs may use.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// Addresses of all kinds: contracts, senders, beneficiaries, absent and empty accounts.
    pub(super) addresses: Vec<Address>,
    /// Addresses that have code, or may get some.
    pub(super) callees: Vec<Address>,
    /// The codes that programs and transactions use to create contracts. The factory creates the first.
    pub(super) templates: Vec<Vec<u8>>,
    /// The number of the first block.
    pub(super) first_block: u64,
}

/// Generates programs for one fork.
#[derive(Debug)]
pub(super) struct Grammar<'a> {
    pub(super) fork: Fork,
    pub(super) names: &'a Names,
}

/// The number of slots that programs use: few, so that programs touch the same ones.
pub(super) const SLOTS: u64 = 5;

/// The kinds of statements.
#[derive(Debug, Clone, Copy)]
enum Statement {
    Store,
    StoreTransient,
    Log,
    Call,
    Create,
    Destroy,
    CopyCode,
    When,
    Stop,
    PayBeneficiary,
}

impl Grammar<'_> {
    /// The runtime code of a random contract.
    pub(super) fn contract(&self, draw: &mut Draw) -> Vec<u8> {
        let mut asm = Asm::default();
        let count = draw.between(2, 9);
        for _ in 0..count {
            self.statement(&mut asm, draw, 0);
        }
        if draw.one_in(3) {
            asm.push(32u64).push(0u64).op(op::RETURN);
        }
        asm.finish()
    }

    /// A contract that repeatedly creates the first template at the same address. It may call the created
    /// contract with its own argument, which may destroy that contract.
    pub(super) fn factory(&self, draw: &mut Draw) -> Vec<u8> {
        let mut asm = Asm::default();
        let template = self.names.templates.first().cloned().unwrap_or_default();
        asm.data_to_memory(&template);
        // The salt is the lowest bit of the first argument.
        asm.push(1u64).push(0u64).ops(&[op::CALLDATALOAD, op::AND]);
        asm.push(template.len() as u64).push(0u64).ops(&[op::CALLVALUE, op::CREATE2]);
        if !draw.one_in(3) {
            asm.push(0u64).op(op::CALLDATALOAD).push(0u64).op(op::MSTORE);
            asm.push(0u64).push(0u64).push(32u64).push(0u64).push(0u64);
            asm.op(op::DUP1 + 5).push(60_000u64).ops(&[op::CALL, op::POP]);
        }
        asm.push(draw.below(SLOTS)).op(op::SSTORE);
        if draw.one_in(2) {
            asm.push(0u64).op(op::SLOAD).push(1u64).ops(&[op::ADD]).push(0u64).op(op::SSTORE);
        }
        asm.finish()
    }

    /// Creation code. The created contract counts its calls, and destroys itself if the first byte of its
    /// input is odd.
    pub(super) fn template(&self, draw: &mut Draw) -> Vec<u8> {
        let mut child = Asm::default();
        if !draw.one_in(4) {
            child.push(1u64).push(0u64).op(op::CALLDATALOAD).push(0u64).ops(&[op::BYTE, op::AND]);
            let heir = self.address(draw);
            let own = draw.one_in(4);
            child.when(|asm| {
                if own {
                    asm.op(op::ADDRESS)
                } else {
                    asm.push_address(heir)
                };
                asm.op(op::SELFDESTRUCT);
            });
        }
        let slot = draw.below(SLOTS);
        child.push(slot).op(op::SLOAD).push(1u64).op(op::ADD).push(slot).op(op::SSTORE);
        for _ in 0..draw.below(3) {
            self.statement(&mut child, draw, 1);
        }
        let runtime = match draw.below(12) {
            0 => Vec::new(),
            // Rejected from London on (EIP-3541). With 20 bytes it has the form of a delegation.
            1 => [&[0xef, 0x01, 0x00], [0xc0; 19].as_slice()].concat(),
            2 => {
                let target = draw.pick(&self.names.callees);
                [&[0xef, 0x01, 0x00], target.as_slice()].concat()
            }
            _ => child.finish(),
        };
        creation_code(&runtime, |asm| {
            if draw.one_in(2) {
                asm.push(draw.between(1, 9)).push(draw.below(SLOTS)).op(op::SSTORE);
            }
            if draw.one_in(3) {
                self.statement(asm, draw, 1);
            }
            match draw.below(12) {
                0 => self.destroy(asm, draw),
                1 => self.fail(asm, draw),
                _ => {}
            }
        })
    }

    fn address(&self, draw: &mut Draw) -> Address {
        draw.pick(&self.names.addresses)
    }

    /// Pushes an address, sometimes one that is computed at run time.
    fn push_address(&self, asm: &mut Asm, draw: &mut Draw) {
        match draw.below(12) {
            0 => asm.op(op::CALLER),
            1 => asm.op(op::COINBASE),
            2 => asm.op(op::ADDRESS),
            3 => asm.op(op::ORIGIN),
            4 => asm.push(0u64).op(op::CALLDATALOAD),
            _ => asm.push_address(self.address(draw)),
        };
    }

    fn statement(&self, asm: &mut Asm, draw: &mut Draw, depth: u32) {
        use Statement as S;
        let deep = u64::from(depth < 2);
        let choice = draw.weighted(
            &[
                (10, S::Store),
                (u64::from(self.fork >= Fork::Cancun) * 3, S::StoreTransient),
                (3, S::Log),
                (8, S::Call),
                (deep * u64::from(!self.names.templates.is_empty()) * 4, S::Create),
                (2, S::Destroy),
                (1, S::CopyCode),
                (deep * 4, S::When),
                (1, S::Stop),
                (2, S::PayBeneficiary),
            ],
            S::Store,
        );
        match choice {
            S::Store => {
                self.expression(asm, draw, depth);
                asm.push(draw.below(SLOTS)).op(op::SSTORE);
            }
            S::StoreTransient => {
                self.expression(asm, draw, depth);
                asm.push(draw.below(SLOTS)).op(op::TSTORE);
            }
            S::Log => {
                self.expression(asm, draw, depth);
                asm.push(0u64).op(op::MSTORE);
                let topics = draw.below(3) as u8;
                for _ in 0..topics {
                    self.expression(asm, draw, 2);
                }
                asm.push(32u64).push(0u64).op(op::LOG0 + topics);
            }
            S::Call => self.call(asm, draw),
            S::Create => self.create(asm, draw),
            // Usually under a condition, because the program would end too early otherwise.
            S::Destroy => self.maybe(asm, draw, |asm, draw| self.destroy(asm, draw)),
            S::Stop => self.maybe(asm, draw, |asm, draw| self.fail(asm, draw)),
            S::When => self.maybe(asm, draw, |asm, draw| {
                for _ in 0..draw.between(1, 3) {
                    self.statement(asm, draw, depth + 1);
                }
            }),
            S::CopyCode => {
                asm.push(32u64).push(draw.below(8)).push(0u64);
                self.push_address(asm, draw);
                asm.op(op::EXTCODECOPY).push(0u64).op(op::MLOAD);
                asm.push(draw.below(SLOTS)).op(op::SSTORE);
            }
            S::PayBeneficiary => {
                asm.push(0u64).push(0u64).push(0u64).push(0u64).push(draw.below(2)).op(op::COINBASE);
                asm.push(30_000u64).ops(&[op::CALL, op::POP]);
            }
        }
    }

    /// Writes `body` so that it runs in some calls and not in others.
    fn maybe(&self, asm: &mut Asm, draw: &mut Draw, body: impl FnOnce(&mut Asm, &mut Draw)) {
        if draw.one_in(8) {
            return body(asm, draw);
        }
        asm.push(1 << draw.below(3));
        if draw.one_in(3) {
            self.expression(asm, draw, 2);
        } else {
            asm.push(0u64).op(op::CALLDATALOAD);
        }
        asm.op(op::AND).when(|asm| body(asm, draw));
    }

    fn destroy(&self, asm: &mut Asm, draw: &mut Draw) {
        self.push_address(asm, draw);
        asm.op(op::SELFDESTRUCT);
    }

    fn fail(&self, asm: &mut Asm, draw: &mut Draw) {
        match draw.below(4) {
            0 => asm.op(op::INVALID),
            1 => asm.op(op::STOP),
            // Pops below the bottom of the stack.
            2 => asm.ops(&[op::POP; 40]),
            _ => asm.push(draw.below(40)).push(0u64).op(op::REVERT),
        };
    }

    fn call(&self, asm: &mut Asm, draw: &mut Draw) {
        let mut kinds = vec![op::CALL; 5];
        kinds.push(op::CALLCODE);
        if self.fork >= Fork::Homestead {
            kinds.extend([op::DELEGATECALL; 2]);
        }
        if self.fork >= Fork::Byzantium {
            kinds.push(op::STATICCALL);
        }
        let kind = draw.pick(&kinds);
        // The callee gets a small number, sometimes the argument of this call.
        if draw.one_in(3) {
            asm.push(0u64).op(op::CALLDATALOAD);
        } else {
            // Conditions look at the last byte, created contracts at the first.
            asm.push((U256::from(draw.below(4)) << 248) | U256::from(draw.below(8)));
        }
        asm.push(0u64).op(op::MSTORE);
        asm.push(32u64).push(0u64).push(32u64).push(0u64);
        if kind == op::CALL || kind == op::CALLCODE {
            asm.push(if draw.one_in(3) { draw.below(3) } else { 0 });
        }
        if draw.one_in(3) {
            self.push_address(asm, draw);
        } else {
            asm.push_address(draw.pick(&self.names.callees));
        }
        if draw.one_in(6) && self.fork >= Fork::Tangerine {
            asm.op(op::GAS);
        } else {
            asm.push(draw.pick(&[700u64, 5_000, 25_000, 60_000, 90_000]));
        }
        asm.op(kind);
        if draw.one_in(2) {
            asm.push(draw.below(SLOTS)).op(op::SSTORE);
        } else {
            asm.op(op::POP);
        }
    }

    fn create(&self, asm: &mut Asm, draw: &mut Draw) {
        let template = draw.pick(&self.names.templates);
        asm.data_to_memory(&template);
        let again = self.fork >= Fork::Petersburg && !draw.one_in(3);
        if again {
            asm.push(draw.below(2));
        }
        asm.push(template.len() as u64).push(0u64).push(draw.below(2));
        asm.op(if again { op::CREATE2 } else { op::CREATE });
        if draw.one_in(2) {
            // Calls the created contract, so that some are destroyed in the same transaction.
            asm.push(draw.below(2)).push(0u64).op(op::MSTORE8);
            asm.push(0u64).push(0u64).push(32u64).push(0u64).push(0u64);
            asm.op(op::DUP1 + 5).push(50_000u64).ops(&[op::CALL, op::POP]);
        }
        asm.push(draw.below(SLOTS)).op(op::SSTORE);
    }

    /// Writes an expression that leaves one word on the stack.
    fn expression(&self, asm: &mut Asm, draw: &mut Draw, depth: u32) {
        let fork = self.fork;
        match draw.below(20) {
            0 | 1 => asm.push(draw.below(4)),
            2..=4 => asm.push(draw.below(SLOTS)).op(op::SLOAD),
            5 | 6 => {
                self.push_address(asm, draw);
                asm.op(op::BALANCE)
            }
            7 if fork >= Fork::Istanbul => asm.op(op::SELFBALANCE),
            8 if fork >= Fork::Petersburg => {
                self.push_address(asm, draw);
                asm.op(op::EXTCODEHASH)
            }
            9 => {
                self.push_address(asm, draw);
                asm.op(op::EXTCODESIZE)
            }
            10 => self.block_hash(asm, draw),
            11 | 12 => asm.push(draw.below(40)).op(op::CALLDATALOAD),
            13 => asm.op(draw.pick(&[
                op::CALLER,
                op::ORIGIN,
                op::CALLVALUE,
                op::COINBASE,
                op::GASPRICE,
                op::TIMESTAMP,
                op::NUMBER,
                // PREVRANDAO after the Merge.
                op::DIFFICULTY,
                op::GASLIMIT,
            ])),
            14 if fork >= Fork::Cancun => asm.push(draw.below(SLOTS)).op(op::TLOAD),
            15 if fork >= Fork::Cancun => asm.push(draw.below(3)).op(op::BLOBHASH),
            16 if fork >= Fork::Cancun => asm.op(op::BLOBBASEFEE),
            16 if fork >= Fork::London => asm.op(op::BASEFEE),
            17 if fork >= Fork::Byzantium => asm.op(op::RETURNDATASIZE),
            18 if depth < 2 && draw.one_in(4) => asm.op(op::GAS),
            _ if depth < 2 => {
                self.expression(asm, draw, depth + 1);
                self.expression(asm, draw, depth + 1);
                asm.op(draw.pick(&[op::ADD, op::XOR, op::AND]))
            }
            _ => asm.push(draw.below(SLOTS)).op(op::SLOAD),
        };
    }

    /// BLOCKHASH of various numbers: the parent, the oldest visible block, one too old, the block itself.
    fn block_hash<'a>(&self, asm: &'a mut Asm, draw: &mut Draw) -> &'a mut Asm {
        if draw.one_in(3) {
            asm.push(self.names.first_block.saturating_sub(draw.below(260)))
        } else {
            asm.push(draw.pick(&[0u64, 1, 1, 2, 3, 17, 255, 256, 257])).op(op::NUMBER).op(op::SUB)
        }
        .op(op::BLOCKHASH)
    }
}
