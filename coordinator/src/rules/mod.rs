//! The rules for a block before its execution: its header against its parent's, its ommers against its
//! ancestors, its size. They also give the values that the builder of a header needs.
//!
//! The rules are pure: no state, no clock, no I/O. Other checks happen elsewhere: `Block::check_body`
//! checks the block by itself and runs first, the validator (`verify_header`) checks the results of
//! execution, and the engine checks whether a transaction is legal in its fork. Seals of proof of work
//! are not checked, and neither is whether a timestamp lies in the future.

mod difficulty;
mod fees;
mod fields;
mod header;
mod ommers;
mod rejection;

use std::fmt::Display;
use std::sync::Arc;

use alloy_hardforks::EthereumHardforks;
use alloy_primitives::U256;
use common::block::{Ancestor, Block};
use common::chain_spec::ChainSpec;

pub use difficulty::next_difficulty;
pub use fees::{next_base_fee, next_excess_blob_gas};
pub use fields::Fields;
pub use ommers::MAX_OMMERS;
pub use rejection::Rejection;

/// The largest encoding of a block from Osaka on, in bytes (EIP-7934): 10 MiB less 2 MiB for the data
/// that the consensus layer adds.
pub const MAX_ENCODED_BLOCK: usize = (10 << 20) - (2 << 20);

/// The chain below a block.
#[derive(Debug, Clone, Copy)]
pub struct Parentage<'a> {
    /// The total difficulty of the chain up to and including the parent. It decides on the Merge.
    pub total_difficulty: U256,
    /// The block's ancestors, newest first: the parent, then its parent, and so on. There are
    /// [`common::block::MAX_ANCESTORS`] of them, or as many as exist.
    pub ancestors: &'a [Arc<Ancestor>],
}

/// Checks a block against its parent and ancestors. `encoded_len` is the length of its RLP encoding in
/// bytes.
///
/// # Errors
/// [`Rejection::Block`] with the first broken rule.
pub fn check_block(
    block: &Block,
    encoded_len: usize,
    parentage: &Parentage<'_>,
    spec: &ChainSpec,
) -> Result<(), Rejection> {
    let header = &block.header;
    let Some(parent) = parentage.ancestors.first() else {
        return Err(broken(
            "parentHash",
            format!("block {} is not known; import it first", header.parent_hash),
        ));
    };
    expect("parentHash", header.parent_hash, parent.hash, "the parent's hash")?;
    let active = spec.after(parentage.total_difficulty);
    header::check_header(header, &parent.header, spec, active)?;
    if active.is_osaka_active_at_timestamp(header.timestamp) && encoded_len > MAX_ENCODED_BLOCK {
        let reason = format!(
            "the block is {encoded_len} bytes long, at most {MAX_ENCODED_BLOCK} are allowed (EIP-7934)"
        );
        return Err(broken("block", reason));
    }
    ommers::check_ommers(block, parentage.ancestors, spec, active)
}

fn broken(field: &'static str, reason: impl Into<String>) -> Rejection {
    Rejection::Block { field, reason: reason.into() }
}

/// Checks that the header's value equals the one that the rule gives.
fn expect<T: PartialEq + Display>(
    field: &'static str,
    header: T,
    wanted: T,
    rule: &'static str,
) -> Result<(), Rejection> {
    if header == wanted {
        return Ok(());
    }
    Err(broken(field, format!("is {header}, must be {wanted} ({rule})")))
}

#[cfg(test)]
mod tests;
