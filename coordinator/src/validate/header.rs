//! Checks the header against the results of execution.

use alloy_primitives::B256;
use common::block::Block;
use common::chain_spec::ChainSpec;

use super::{Finished, Rejection};

/// Checks every header field that execution determines: gas, bloom, receipts root (if the receipts are
/// complete), blob gas, requests hash, and the state root if it is known.
///
/// # Errors
/// [`Rejection::Header`] with the first field that differs.
pub fn verify_header(
    block: &Block,
    spec: &ChainSpec,
    finished: &Finished,
    state_root: Option<B256>,
) -> Result<(), Rejection> {
    let header = &block.header;
    expect("gasUsed", &header.gas_used, &finished.gas_used.0)?;
    if finished.rooted {
        expect("receiptsRoot", &header.receipts_root, &finished.receipts.root())?;
    }
    let bloom = finished.receipts.bloom();
    if header.logs_bloom != bloom {
        return Err(Rejection::Header {
            field: "logsBloom",
            header: short(header.logs_bloom.as_slice()),
            executed: short(bloom.as_slice()),
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

/// A long value by its digest: a bloom of 256 bytes is useless in a message.
fn short(bytes: &[u8]) -> String {
    let digest = alloy_primitives::keccak256(bytes);
    let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    format!("a bloom with {ones} bits and hash {digest}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_consensus::{Eip658Value, Header, TxType};
    use alloy_eips::eip7685::Requests;
    use alloy_primitives::Bloom;
    use common::block::Ommers;
    use common::id::Gas;
    use common::receipt::Receipts;

    /// An empty block of `network`, and the result of its execution.
    fn case(network: &str) -> (ChainSpec, Block, Finished) {
        let spec = ChainSpec::of_network(network).unwrap();
        let (cancun, prague) = (spec.blob_params(0).is_some(), network == "Prague");
        let finished = Finished {
            receipts: receipts(Bloom::repeat_byte(1)),
            rooted: true,
            gas_used: Gas(7),
            blob_gas_used: Gas(1 << 17),
            requests: prague.then(Requests::default),
            changes: vec![],
            code: vec![],
            reexecuted: 0,
        };
        let header = Header {
            gas_used: 7,
            receipts_root: receipts(Bloom::repeat_byte(1)).root(),
            logs_bloom: Bloom::repeat_byte(1),
            blob_gas_used: cancun.then_some(1 << 17),
            requests_hash: prague.then(|| Requests::default().requests_hash()),
            state_root: B256::repeat_byte(9),
            ..Header::default()
        };
        (spec, Block::new(header, vec![], Ommers::Headers(vec![]), None), finished)
    }

    /// The field that the rejection names if the header is changed like this.
    fn refused_for(network: &str, change: impl FnOnce(&mut Header)) -> &'static str {
        let (spec, mut block, finished) = case(network);
        change(&mut block.header);
        match verify_header(&block, &spec, &finished, Some(B256::repeat_byte(9))) {
            Err(Rejection::Header { field, .. }) => field,
            _ => "nothing",
        }
    }

    #[test]
    fn every_field_that_execution_determines_is_compared() {
        assert_eq!(refused_for("Prague", |_| ()), "nothing");
        assert_eq!(refused_for("Prague", |header| header.gas_used = 8), "gasUsed");
        assert_eq!(refused_for("Prague", |header| header.receipts_root = B256::ZERO), "receiptsRoot");
        assert_eq!(refused_for("Prague", |header| header.logs_bloom = Bloom::ZERO), "logsBloom");
        assert_eq!(refused_for("Prague", |header| header.blob_gas_used = Some(0)), "blobGasUsed");
        assert_eq!(refused_for("Prague", |header| header.blob_gas_used = None), "blobGasUsed");
        assert_eq!(refused_for("Prague", |header| header.requests_hash = Some(B256::ZERO)), "requestsHash");
        assert_eq!(refused_for("Prague", |header| header.requests_hash = None), "requestsHash");
        assert_eq!(refused_for("Prague", |header| header.state_root = B256::ZERO), "stateRoot");
    }

    #[test]
    fn fields_that_the_fork_does_not_have_must_be_absent() {
        assert_eq!(refused_for("Shanghai", |header| header.blob_gas_used = Some(0)), "blobGasUsed");
        assert_eq!(refused_for("Cancun", |header| header.requests_hash = Some(B256::ZERO)), "requestsHash");
    }

    #[test]
    fn receipts_that_lack_state_roots_are_not_compared() {
        let (spec, block, finished) = case("Frontier");
        let mut other = receipts(Bloom::repeat_byte(1));
        push(&mut other, 8, Bloom::ZERO);
        let partial = Finished { rooted: false, receipts: other, ..finished };
        assert_eq!(verify_header(&block, &spec, &partial, None), Ok(()));
        let whole = Finished { rooted: true, ..partial };
        assert!(verify_header(&block, &spec, &whole, None).is_err());
    }

    fn receipts(bloom: Bloom) -> Receipts {
        let mut receipts = Receipts::default();
        push(&mut receipts, 7, bloom);
        receipts
    }

    fn push(receipts: &mut Receipts, gas: u64, bloom: Bloom) {
        receipts.push(TxType::Legacy, &Eip658Value::success(), gas, &[0xc0], &bloom);
    }
}
