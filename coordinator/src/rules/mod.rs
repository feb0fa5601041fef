//! Rules of a block against its parent.

use alloy_consensus::Header;
use alloy_primitives::B256;

/// A block as those that follow it need to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// Its hash.
    pub hash: B256,
    /// Its header.
    pub header: Header,
    /// The hashes of its ommers.
    pub ommers: Vec<B256>,
}

/// What a block follows.
#[derive(Debug, Clone, Copy)]
pub struct Parentage<'a> {
    /// Of the parent's chain.
    pub total_difficulty: alloy_primitives::U256,
    /// Newest first.
    pub ancestors: &'a [std::sync::Arc<Ancestor>],
}

/// Stand-in until merged.
///
/// # Errors
/// None.
pub fn check_block(_: &common::block::Block, _: &Parentage<'_>, _: &common::chain_spec::ChainSpec) -> Result<(), crate::validate::Rejection> {
    Ok(())
}
