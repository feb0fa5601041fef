//! A small assembler for the EVM, just enough to write generated programs as bytes.
//!
//! It knows no types and does not check the stack: generated programs are meant to fail at times.

use alloy_primitives::{Address, U256};

/// The opcodes that programs use, by their names in the Yellow Paper.
#[allow(missing_docs)]
pub(super) mod op {
    pub(crate) const STOP: u8 = 0x00;
    pub(crate) const ADD: u8 = 0x01;
    pub(crate) const ISZERO: u8 = 0x15;
    pub(crate) const AND: u8 = 0x16;
    pub(crate) const XOR: u8 = 0x18;
    pub(crate) const BYTE: u8 = 0x1a;
    pub(crate) const ADDRESS: u8 = 0x30;
    pub(crate) const BALANCE: u8 = 0x31;
    pub(crate) const ORIGIN: u8 = 0x32;
    pub(crate) const CALLER: u8 = 0x33;
    pub(crate) const CALLVALUE: u8 = 0x34;
    pub(crate) const CALLDATALOAD: u8 = 0x35;
    pub(crate) const CODECOPY: u8 = 0x39;
    pub(crate) const GASPRICE: u8 = 0x3a;
    pub(crate) const EXTCODESIZE: u8 = 0x3b;
    pub(crate) const EXTCODECOPY: u8 = 0x3c;
    pub(crate) const RETURNDATASIZE: u8 = 0x3d;
    pub(crate) const EXTCODEHASH: u8 = 0x3f;
    pub(crate) const BLOCKHASH: u8 = 0x40;
    pub(crate) const COINBASE: u8 = 0x41;
    pub(crate) const TIMESTAMP: u8 = 0x42;
    pub(crate) const NUMBER: u8 = 0x43;
    pub(crate) const PREVRANDAO: u8 = 0x44;
    pub(crate) const GASLIMIT: u8 = 0x45;
    pub(crate) const SELFBALANCE: u8 = 0x47;
    pub(crate) const BASEFEE: u8 = 0x48;
    pub(crate) const BLOBHASH: u8 = 0x49;
    pub(crate) const BLOBBASEFEE: u8 = 0x4a;
    pub(crate) const POP: u8 = 0x50;
    pub(crate) const MLOAD: u8 = 0x51;
    pub(crate) const MSTORE: u8 = 0x52;
    pub(crate) const SLOAD: u8 = 0x54;
    pub(crate) const SSTORE: u8 = 0x55;
    pub(crate) const JUMPI: u8 = 0x57;
    pub(crate) const GAS: u8 = 0x5a;
    pub(crate) const JUMPDEST: u8 = 0x5b;
    pub(crate) const TLOAD: u8 = 0x5c;
    pub(crate) const TSTORE: u8 = 0x5d;
    pub(crate) const PUSH1: u8 = 0x60;
    pub(crate) const PUSH2: u8 = 0x61;
    pub(crate) const PUSH20: u8 = 0x73;
    pub(crate) const DUP1: u8 = 0x80;
    pub(crate) const LOG0: u8 = 0xa0;
    pub(crate) const CREATE: u8 = 0xf0;
    pub(crate) const CALL: u8 = 0xf1;
    pub(crate) const CALLCODE: u8 = 0xf2;
    pub(crate) const RETURN: u8 = 0xf3;
    pub(crate) const DELEGATECALL: u8 = 0xf4;
    pub(crate) const CREATE2: u8 = 0xf5;
    pub(crate) const STATICCALL: u8 = 0xfa;
    pub(crate) const REVERT: u8 = 0xfd;
    pub(crate) const INVALID: u8 = 0xfe;
    pub(crate) const SELFDESTRUCT: u8 = 0xff;
}

/// Two bytes of code that are filled in later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gap(usize);

/// Code under construction.
#[derive(Debug, Clone, Default)]
pub(super) struct Asm {
    bytes: Vec<u8>,
    /// Data to append after the code, each with the gaps that need its offset.
    data: Vec<(Vec<Gap>, Vec<u8>)>,
}

impl Asm {
    /// Appends one opcode.
    pub(super) fn op(&mut self, opcode: u8) -> &mut Self {
        self.bytes.push(opcode);
        self
    }

    /// Appends several opcodes.
    pub(super) fn ops(&mut self, opcodes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(opcodes);
        self
    }

    /// Pushes a number with as few bytes as possible.
    pub(super) fn push(&mut self, number: impl TryInto<U256>) -> &mut Self {
        let number: U256 = number.try_into().unwrap_or_default();
        let bytes = number.to_be_bytes_trimmed_vec();
        let bytes = if bytes.is_empty() { vec![0] } else { bytes };
        let width = u8::try_from(bytes.len() - 1).unwrap_or(31);
        self.op(op::PUSH1 + width).ops(&bytes)
    }

    /// Pushes an address.
    pub(super) fn push_address(&mut self, address: Address) -> &mut Self {
        self.op(op::PUSH20).ops(address.as_slice())
    }

    /// Pushes a two-byte number that is filled in later.
    fn push_gap(&mut self) -> Gap {
        self.op(op::PUSH2);
        let gap = Gap(self.bytes.len());
        self.ops(&[0, 0]);
        gap
    }

    fn fill(&mut self, gap: Gap, value: usize) {
        let value = u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes();
        if let Some(place) = self.bytes.get_mut(gap.0..gap.0 + 2) {
            place.copy_from_slice(&value);
        }
    }

    /// Runs the code of `body` only if the word on the stack is not zero.
    pub(super) fn when(&mut self, body: impl FnOnce(&mut Self)) {
        self.op(op::ISZERO);
        let gap = self.push_gap();
        self.op(op::JUMPI);
        body(self);
        let target = self.bytes.len();
        self.op(op::JUMPDEST);
        self.fill(gap, target);
    }

    /// Copies data from behind the code to memory address 0.
    pub(super) fn data_to_memory(&mut self, data: &[u8]) {
        self.push(data.len() as u64);
        let gap = self.push_gap();
        self.push(0u64).op(op::CODECOPY);
        match self.data.iter_mut().find(|(_, known)| known == data) {
            Some((gaps, _)) => gaps.push(gap),
            None => self.data.push((vec![gap], data.to_vec())),
        }
    }

    /// Appends the data, fills the gaps, and returns the bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        for (gaps, data) in std::mem::take(&mut self.data) {
            let offset = self.bytes.len();
            for gap in gaps {
                self.fill(gap, offset);
            }
            self.ops(&data);
        }
        self.bytes
    }
}

/// Creation code that runs the code of `before` and returns `runtime`.
pub(super) fn creation_code(runtime: &[u8], before: impl FnOnce(&mut Asm)) -> Vec<u8> {
    let mut asm = Asm::default();
    before(&mut asm);
    asm.data_to_memory(runtime);
    asm.push(runtime.len() as u64).push(0u64).op(op::RETURN);
    asm.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_as_few_bytes_as_they_need() {
        let mut asm = Asm::default();
        asm.push(0u64).push(255u64).push(256u64);
        assert_eq!(asm.finish(), [0x60, 0, 0x60, 255, 0x61, 1, 0]);
    }

    #[test]
    fn data_stands_behind_the_code_and_jumps_land_on_their_targets() {
        let code = creation_code(&[0xaa, 0xbb], |asm| {
            asm.push(1u64).when(|asm| {
                asm.op(op::STOP);
            });
        });
        // PUSH1 1 ISZERO PUSH2 0008 JUMPI STOP JUMPDEST, then the copy and the return.
        assert_eq!(code.get(..9), Some([0x60, 1, 0x15, 0x61, 0, 8, 0x57, 0, 0x5b].as_slice()));
        assert_eq!(code.get(code.len() - 2..), Some([0xaa, 0xbb].as_slice()));
    }
}
