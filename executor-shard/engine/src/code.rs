//! Code: the bytes in a state, and their meaning for the EVM under a fork.
//!
//! A state does not know its fork, and it outlives forks. So it holds [`Code`], and each execution asks
//! for the form that its own fork gives to the bytes ([`Code::under`]).

use alloy_primitives::Bytes;
use revm::bytecode::eip7702::{EIP7702_BYTECODE_LEN, EIP7702_MAGIC_BYTES, EIP7702_VERSION};
use revm::primitives::hardfork::SpecId;
use revm::state::Bytecode;

/// Code as states hold it: analysed as ordinary code, whatever the bytes are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Code(Bytecode);

impl Code {
    /// Analyses the bytes as ordinary code.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self(Bytecode::new_legacy(bytes))
    }

    /// The bytes as the state stores them, without the padding that the analysis adds.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.0.original_bytes()
    }

    /// The form that the EVM runs under `spec`.
    ///
    /// From Prague on, `0xef0100 ‖ address` delegates to that address (EIP-7702), even if it was deployed
    /// before. Earlier forks know no delegation: there the same bytes are ordinary code that begins with an
    /// invalid opcode. All other bytes are ordinary code under every fork.
    #[must_use]
    pub fn under(&self, spec: SpecId) -> Bytecode {
        if spec.is_enabled_in(SpecId::PRAGUE)
            && is_delegation(self.0.original_byte_slice())
            && let Ok(delegation) = Bytecode::new_eip7702_raw(self.bytes())
        {
            return delegation;
        }
        self.0.clone()
    }
}

/// Whether the bytes have the form of a delegation.
fn is_delegation(bytes: &[u8]) -> bool {
    bytes.len() == EIP7702_BYTECODE_LEN
        && bytes.strip_prefix(EIP7702_MAGIC_BYTES).and_then(<[u8]>::first) == Some(&EIP7702_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::Address;

    const TARGET: Address = Address::repeat_byte(7);

    fn delegation() -> Bytes {
        [&[0xef, 0x01, 0x00], TARGET.as_slice()].concat().into()
    }

    #[test]
    fn bytes_of_a_delegation_delegate_from_prague_on_and_are_ordinary_code_before() {
        let code = Code::new(delegation());
        assert_eq!(code.under(SpecId::CANCUN).eip7702_address(), None);
        assert!(code.under(SpecId::FRONTIER).is_legacy());
        assert_eq!(code.under(SpecId::PRAGUE).eip7702_address(), Some(TARGET));
        assert_eq!(code.under(SpecId::OSAKA).eip7702_address(), Some(TARGET));
    }

    #[test]
    fn the_bytes_and_their_hash_are_the_same_under_every_fork() {
        let code = Code::new(delegation());
        for spec in [SpecId::BERLIN, SpecId::PRAGUE] {
            assert_eq!(code.under(spec).original_bytes(), delegation());
            assert_eq!(code.under(spec).hash_slow(), alloy_primitives::keccak256(delegation()));
        }
        assert_eq!(code.bytes(), delegation());
    }

    #[test]
    fn bytes_of_another_length_or_version_are_ordinary_code_under_every_fork() {
        let (short, long) = (delegation().slice(..22), [delegation().as_ref(), &[0]].concat().into());
        let version = [&[0xef, 0x01, 0x01], TARGET.as_slice()].concat().into();
        for bytes in
            [short, long, version, Bytes::from_static(&[0xef, 0x01]), Bytes::from_static(&[0xef, 0x00])]
        {
            let code = Code::new(bytes.clone()).under(SpecId::OSAKA);
            assert!(code.is_legacy(), "{bytes}");
            assert_eq!(code.original_bytes(), bytes);
        }
    }
}
