//! A small assembler for the EVM, just enough to write generated programs as bytes.
//!
//! It knows no types and does not check the stack: generated programs are meant to fail at times.

use alloy_primitives::{Address, U256};
use revm::bytecode::opcode as op;

/// Two bytes of code that are filled in later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gap(usize);

/// Bytecode under construction, with the data that will follow it.
#[derive(Debug, Clone, Default)]
pub(super) struct Asm {
    bytes: Vec<u8>,
    /// Data to append after the code, each with the gaps that need its offset.
    data: Vec<(Vec<Gap>, Vec<u8>)>,
}

impl Asm {
    /// Appends one opcode. The caller appends the bytes that a PUSH needs.
    pub(super) fn op(&mut self, opcode: u8) -> &mut Self {
        self.bytes.push(opcode);
        self
    }

    /// Appends bytes unchanged: opcodes, or the bytes that a PUSH needs.
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

    /// Pushes an address with PUSH20, which keeps its leading zeros.
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
