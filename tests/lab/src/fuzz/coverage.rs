//! The features that the fuzzer has reached. They show whether the grammar reaches every feature.

use std::collections::BTreeMap;

use alloy_primitives::map::AddressSet;
use common::account::AccountWrite;
use common::work::{Effects, Executed, ReadSet, TxOutcome};
use engine::Code;
use revm::primitives::hardfork::SpecId;

macro_rules! features {
    ($($(#[doc = $text:literal])+ $name:ident),+ $(,)?) => {
        /// A property or an effect of a fuzzed transaction.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Feature {
            $($(#[doc = $text])+ $name,)+
        }

        impl Feature {
            /// All features, in the order in which the summary lists them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The feature's description in a summary.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => concat!($($text),+).trim_ascii(),)+ }
            }

            /// The name of the variant, which is the feature's key in the JSON summary.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

features! {
    /// transfers of ether without input
    Transfers,
    /// transactions that create a contract
    CreationTransactions,
    /// transactions without a tip
    ZeroFee,
    /// transactions with an access list type
    AccessLists,
    /// blob transactions
    Blobs,
    /// set-code transactions
    SetCode,
    /// transactions left out of their block because they would have been invalid
    LeftOut,
    /// transfers whose senders hold what they spend, but not the most that they may spend
    Uncovered,
    /// transactions with really recovered signatures
    Recovered,
    /// results that failed or reverted
    Failures,
    /// results merged as plain transfers
    MergedTransfers,
    /// changes of accounts of which the balance was not observed
    AddedBalances,
    /// accounts created
    Creations,
    /// accounts created that had been deleted before in the same chain
    Recreations,
    /// accounts deleted, by SELFDESTRUCT or as empty
    Deletions,
    /// deletions of the block's beneficiary
    BeneficiaryDeletions,
    /// results that had loaded the beneficiary
    BeneficiaryLoads,
    /// delegations written (EIP-7702)
    Delegations,
    /// ancestor hashes read
    BlockHashes,
    /// creations that met storage at their address (EIP-7610)
    StorageCollisions,
    /// absent accounts read
    AbsentReads,
    /// empty accounts read
    EmptyReads,
    /// speculative results that were invalid transactions
    InvalidGuesses,
    /// blocks with execution requests
    Requests,
}

/// The counts of the features.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    counts: BTreeMap<Feature, u64>,
    deleted: AddressSet,
}

impl Coverage {
    /// Adds `times` to the count of a feature.
    pub fn count(&mut self, feature: Feature, times: u64) {
        *self.counts.entry(feature).or_default() += times;
    }

    /// The count of a feature.
    #[must_use]
    pub fn of(&self, feature: Feature) -> u64 {
        self.counts.get(&feature).copied().unwrap_or_default()
    }

    /// Adds another coverage's counts.
    pub fn add(&mut self, other: &Self) {
        other.counts.iter().for_each(|(feature, times)| self.count(*feature, *times));
    }

    /// Counts the features of a speculative result.
    pub(super) fn see(&mut self, outcome: &TxOutcome, beneficiary: alloy_primitives::Address) {
        let executed = match outcome {
            TxOutcome::Executed(executed) => executed,
            TxOutcome::Invalid { reads, .. } => {
                self.count(Feature::InvalidGuesses, 1);
                return self.see_reads(reads);
            }
        };
        let Executed { success, fee, effects, .. } = &**executed;
        self.count(Feature::Failures, u64::from(!success));
        self.count(Feature::BeneficiaryLoads, u64::from(fee.is_none()));
        let (reads, writes) = match effects {
            Effects::Transfer(_) => return self.count(Feature::MergedTransfers, 1),
            Effects::Exact { reads, writes } => (reads, writes),
        };
        self.see_reads(reads);
        for (address, write) in &writes.accounts {
            match write {
                AccountWrite::Create { .. } => {
                    self.count(Feature::Creations, 1);
                    let again = self.deleted.contains(address);
                    self.count(Feature::Recreations, u64::from(again));
                }
                AccountWrite::Delete => {
                    self.deleted.insert(*address);
                    self.count(Feature::Deletions, 1);
                    self.count(Feature::BeneficiaryDeletions, u64::from(*address == beneficiary));
                }
                AccountWrite::Add { .. } => self.count(Feature::AddedBalances, 1),
                AccountWrite::Update { .. } => {}
            }
        }
        let delegations =
            writes.code.iter().filter(|(_, code)| Code::new(code.clone()).under(SpecId::PRAGUE).is_eip7702());
        self.count(Feature::Delegations, delegations.count() as u64);
    }

    fn see_reads(&mut self, reads: &ReadSet) {
        self.count(Feature::BlockHashes, reads.block_hashes.len() as u64);
        for entry in &reads.accounts {
            self.count(Feature::StorageCollisions, u64::from(entry.has_storage == Some(true)));
            self.count(Feature::AbsentReads, u64::from(entry.account == Some(None)));
            let empty = matches!(&entry.account, Some(Some(account)) if account.is_empty());
            self.count(Feature::EmptyReads, u64::from(empty));
        }
    }
}
