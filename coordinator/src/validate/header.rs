//! The header against what execution gave.

use alloy_consensus::proofs::calculate_receipt_root;
use alloy_primitives::B256;
use common::block::Block;
use common::chain_spec::ChainSpec;

use super::{Finished, Rejection};

/// Checks every header field that execution determines: gas, bloom, receipts root (where receipts
/// are complete), blob gas, requests hash, and the state root where it is known.
///
/// # Errors
/// [`Rejection::Header`] with the first field that disagrees.
pub fn verify_header(
    block: &Block,
    spec: &ChainSpec,
    finished: &Finished,
    state_root: Option<B256>,
) -> Result<(), Rejection> {
    let header = &block.header;
    expect("gasUsed", &header.gas_used, &finished.gas_used.0)?;
    if finished.rooted {
        expect("receiptsRoot", &header.receipts_root, &calculate_receipt_root(&finished.receipts))?;
    }
    if header.logs_bloom != finished.bloom {
        return Err(Rejection::Header {
            field: "logsBloom",
            header: short(header.logs_bloom.as_slice()),
            executed: short(finished.bloom.as_slice()),
        });
    }
    let cancun = spec.blob_params(header.timestamp).is_some();
    let blob_gas = cancun.then_some(finished.blob_gas_used.0);
    expect_optional("blobGasUsed", header.blob_gas_used, blob_gas)?;
    let requests = finished.requests.as_ref().map(|requests| requests.requests_hash());
    expect_optional("requestsHash", header.requests_hash, requests)?;
    match state_root {
        Some(root) => expect("stateRoot", &header.state_root, &root),
        None => Ok(()),
    }
}

fn expect<T: PartialEq + std::fmt::Display>(
    field: &'static str,
    header: &T,
    executed: &T,
) -> Result<(), Rejection> {
    if header == executed {
        return Ok(());
    }
    Err(Rejection::Header { field, header: header.to_string(), executed: executed.to_string() })
}

fn expect_optional<T: PartialEq + std::fmt::Display>(
    field: &'static str,
    header: Option<T>,
    executed: Option<T>,
) -> Result<(), Rejection> {
    if header == executed {
        return Ok(());
    }
    let name = |value: Option<T>| value.map_or_else(|| "absent".into(), |value| value.to_string());
    Err(Rejection::Header { field, header: name(header), executed: name(executed) })
}

/// A long value by its digest: a bloom of 256 bytes helps nobody in a message.
fn short(bytes: &[u8]) -> String {
    let digest = alloy_primitives::keccak256(bytes);
    let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    format!("a bloom with {ones} bits and hash {digest}")
}
