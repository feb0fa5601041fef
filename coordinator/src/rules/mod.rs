//! The rules that a block is held to before it is executed: its header against its parent's, its
//! ommers against its ancestors, its size. Also what a builder needs to fill a header in.
//!
//! Pure: no state, no clock, no I/O. What can be told from the block alone is
//! `Block::check_body`'s and comes first, what only execution tells is the validator's
//! (`verify_header`), and whether a transaction is legal in its fork is the engine's. Seals of
//! proof of work are not checked, and neither is whether a timestamp lies in the future.

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

/// The largest encoding of a block from Osaka on (EIP-7934): 10 MiB less 2 MiB for what the
/// consensus layer adds.
pub const MAX_ENCODED_BLOCK: usize = (10 << 20) - (2 << 20);

/// What a block follows.
#[derive(Debug, Clone, Copy)]
pub struct Parentage<'a> {
    /// The total difficulty of the chain up to and with the parent. It decides on the Merge.
    pub total_difficulty: U256,
    /// The newest first: the parent, then its parent, and so on; [`MAX_ANCESTORS`] of them, or as
    /// many as there are.
    pub ancestors: &'a [Arc<Ancestor>],
}

/// Checks a block against what it follows. `encoded_len` is the length of its RLP encoding.
///
/// # Errors
/// [`Rejection::Block`] with the first rule that is broken.
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

/// The header's value must be the one that the rule gives.
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
