//! The presence of the later header fields: a block must have exactly those that its forks introduced.

use alloy_consensus::Header;
use alloy_hardforks::EthereumHardforks;
use common::chain_spec::ActiveSpec;

use super::broken;
use crate::rules::Rejection;

/// The header fields that forks introduced, and whether a block has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fields {
    /// `baseFeePerGas`: London (EIP-1559).
    pub base_fee: bool,
    /// `withdrawalsRoot`: Shanghai (EIP-4895).
    pub withdrawals: bool,
    /// `blobGasUsed` and `excessBlobGas` (EIP-4844), `parentBeaconBlockRoot` (EIP-4788): Cancun.
    pub blobs_and_beacon_root: bool,
    /// `requestsHash`: Prague (EIP-7685).
    pub requests: bool,
    /// `blockAccessListHash` (EIP-7928) and `slotNumber` (EIP-7843): Amsterdam.
    pub access_list_and_slot: bool,
}

impl Fields {
    /// The fields of a block with this number and timestamp.
    #[must_use]
    pub fn of(number: u64, timestamp: u64, active: ActiveSpec<'_>) -> Self {
        Self {
            base_fee: active.is_london_active_at_block(number),
            withdrawals: active.is_shanghai_active_at_timestamp(timestamp),
            blobs_and_beacon_root: active.is_cancun_active_at_timestamp(timestamp),
            requests: active.is_prague_active_at_timestamp(timestamp),
            access_list_and_slot: active.is_amsterdam_active_at_timestamp(timestamp),
        }
    }

    /// Checks that the header has exactly these fields.
    pub(super) fn check(self, header: &Header) -> Result<(), Rejection> {
        let fields = [
            ("baseFeePerGas", header.base_fee_per_gas.is_some(), self.base_fee),
            ("withdrawalsRoot", header.withdrawals_root.is_some(), self.withdrawals),
            ("blobGasUsed", header.blob_gas_used.is_some(), self.blobs_and_beacon_root),
            ("excessBlobGas", header.excess_blob_gas.is_some(), self.blobs_and_beacon_root),
            ("parentBeaconBlockRoot", header.parent_beacon_block_root.is_some(), self.blobs_and_beacon_root),
            ("requestsHash", header.requests_hash.is_some(), self.requests),
            ("blockAccessListHash", header.block_access_list_hash.is_some(), self.access_list_and_slot),
            ("slotNumber", header.slot_number.is_some(), self.access_list_and_slot),
        ];
        match fields.into_iter().find(|(_, present, wanted)| present != wanted) {
            None => Ok(()),
            Some((field, true, _)) => Err(broken(field, "is present, but the block's fork does not have it")),
            Some((field, false, _)) => Err(broken(field, "is absent, but the block's fork demands it")),
        }
    }
}
