//! The forks that are fuzzed, as chain specifications with all their rules active from block 0.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use alloy_eips::eip7840::BlobParams;
use alloy_genesis::ChainConfig;
use alloy_primitives::{Address, U256};
use common::chain_spec::{ChainSpec, ChainSpecError};

/// The chain id of fuzzed chains.
pub(super) const CHAIN_ID: u64 = 1337;

/// The contract whose logs are deposits (EIP-6110) on fuzzed chains.
pub(super) const DEPOSIT_CONTRACT: Address = Address::repeat_byte(0xde);

macro_rules! forks {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// A fork. The variants are in chronological order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fork {
            $($(#[$doc])* $name,)+
        }

        impl Fork {
            /// All forks, in chronological order.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The name that `--fork` takes, for example `SpuriousDragon`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

forks! {
    /// The rules with which mainnet began, before any fork.
    Frontier,
    /// DELEGATECALL, creation that fails for want of gas.
    Homestead,
    /// EIP-150: reading state costs more gas, and a caller keeps 1/64 of its gas.
    Tangerine,
    /// EIP-161: empty accounts are cleared.
    SpuriousDragon,
    /// REVERT, STATICCALL, statuses in receipts.
    Byzantium,
    /// CREATE2, EXTCODEHASH, bitwise shifts: Constantinople without its net gas metering (EIP-1283).
    Petersburg,
    /// SELFBALANCE, net gas metering.
    Istanbul,
    /// Access lists (EIP-2930), a higher price of the first access to an account or slot (EIP-2929).
    Berlin,
    /// The base fee; refunds no longer for SELFDESTRUCT.
    London,
    /// The Merge: no block rewards.
    Paris,
    /// Withdrawals (EIP-4895), PUSH0, a limit on the length of initcode.
    Shanghai,
    /// Blobs, transient storage, SELFDESTRUCT only in the creating transaction.
    Cancun,
    /// Set-code transactions, execution requests.
    Prague,
    /// A limit on a transaction's gas.
    Osaka,
}

/// The text does not name a fuzzed fork.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a fork that is fuzzed; give one of {list}", list = Fork::ALL.iter().map(|fork| fork.name()).collect::<Vec<_>>().join(", "))]
pub struct ForkError(String);

impl FromStr for Fork {
    type Err = ForkError;

    fn from_str(text: &str) -> Result<Self, ForkError> {
        let found = Self::ALL.iter().find(|fork| fork.name().eq_ignore_ascii_case(text));
        found.copied().ok_or_else(|| ForkError(text.to_owned()))
    }
}

impl fmt::Display for Fork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Fork {
    /// The chain specification with all forks up to this one active from block 0.
    ///
    /// # Errors
    /// [`ChainSpecError`] if this build rejects the schedule.
    pub fn spec(self) -> Result<ChainSpec, ChainSpecError> {
        let from = |fork: Self| (self >= fork).then_some(0u64);
        ChainSpec::from_config(&ChainConfig {
            chain_id: CHAIN_ID,
            homestead_block: from(Self::Homestead),
            eip150_block: from(Self::Tangerine),
            eip155_block: from(Self::SpuriousDragon),
            eip158_block: from(Self::SpuriousDragon),
            byzantium_block: from(Self::Byzantium),
            constantinople_block: from(Self::Petersburg),
            petersburg_block: from(Self::Petersburg),
            istanbul_block: from(Self::Istanbul),
            muir_glacier_block: from(Self::Istanbul),
            berlin_block: from(Self::Berlin),
            london_block: from(Self::London),
            arrow_glacier_block: from(Self::London),
            gray_glacier_block: from(Self::London),
            terminal_total_difficulty: from(Self::Paris).map(|_| U256::ZERO),
            shanghai_time: from(Self::Shanghai),
            cancun_time: from(Self::Cancun),
            prague_time: from(Self::Prague),
            osaka_time: from(Self::Osaka),
            deposit_contract_address: Some(DEPOSIT_CONTRACT),
            blob_schedule: BTreeMap::from([
                ("cancun".to_owned(), BlobParams::cancun()),
                ("prague".to_owned(), BlobParams::prague()),
                ("osaka".to_owned(), BlobParams::osaka()),
            ]),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_consensus::Header;

    #[test]
    fn every_fork_is_the_newest_in_its_own_schedule() {
        for fork in Fork::ALL {
            let difficulty = U256::from(u8::from(*fork < Fork::Paris));
            let header = Header { number: 9, timestamp: 9, difficulty, ..Default::default() };
            let name = fork.spec().unwrap().fork_name(&header);
            let expected = match fork {
                Fork::Istanbul => "MuirGlacier",
                Fork::London => "GrayGlacier",
                fork => fork.name(),
            };
            assert_eq!(name, expected);
            assert_eq!(fork.name().to_lowercase().parse::<Fork>().unwrap(), *fork);
        }
    }
}
