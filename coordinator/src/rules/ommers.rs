//! Checks a block's ommers against its ancestors (Yellow Paper, section 11.1).

use std::sync::Arc;

use alloy_primitives::B256;
use common::block::{Ancestor, Block, MAX_ANCESTORS, Ommers};
use common::chain_spec::{ActiveSpec, ChainSpec};

use super::broken;
use super::header::check_header;
use crate::rules::Rejection;

/// The maximum number of ommers in a block.
pub const MAX_OMMERS: usize = 2;

/// Checks the ommers: each is a valid header whose parent is a recent ancestor other than the block's
/// own parent, and no recent block has included it before.
///
/// If only the ommers' hashes are known, checks nothing but their number.
pub(super) fn check_ommers(
    block: &Block,
    ancestors: &[Arc<Ancestor>],
    spec: &ChainSpec,
    active: ActiveSpec<'_>,
) -> Result<(), Rejection> {
    let count = block.ommers.len();
    if count > MAX_OMMERS {
        return Err(broken("uncles", format!("there are {count}, at most {MAX_OMMERS} are allowed")));
    }
    let Ommers::Headers(headers) = &block.ommers else { return Ok(()) };
    let ancestors = ancestors.get(..MAX_ANCESTORS).unwrap_or(ancestors);
    let mut included: Vec<B256> =
        ancestors.iter().flat_map(|ancestor| ancestor.ommers.iter().copied()).collect();
    for header in headers {
        let hash = header.hash_slow();
        let refuse = |reason: &str| Err(broken("uncles", format!("{hash} {reason}")));
        if included.contains(&hash) {
            return refuse("is included for the second time");
        }
        if ancestors.iter().any(|ancestor| ancestor.hash == hash) {
            return refuse("is an ancestor of the block");
        }
        let mut earlier = ancestors.iter().skip(1);
        let Some(parent) = earlier.find(|ancestor| ancestor.hash == header.parent_hash) else {
            return refuse("does not descend from the block's second to seventh ancestor");
        };
        check_header(header, &parent.header, spec, active).map_err(|rejection| match rejection {
            Rejection::Block { field, reason } => broken("uncles", format!("{hash}: {field} {reason}")),
            other => other,
        })?;
        included.push(hash);
    }
    Ok(())
}
