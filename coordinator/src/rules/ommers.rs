//! A block's ommers against its ancestors (Yellow Paper, section 11.1).

use std::sync::Arc;

use alloy_primitives::B256;
use common::block::{Ancestor, Block, MAX_ANCESTORS, Ommers};
use common::chain_spec::{ActiveSpec, ChainSpec};

use super::broken;
use super::header::check_header;
use crate::rules::Rejection;

/// The most ommers that a block can include.
pub const MAX_OMMERS: usize = 2;

/// Each ommer is a valid header whose parent is among the last ancestors but is not the block's
/// own parent, and it is included for the first time.
///
/// Where only hashes are known nothing but their number is checked.
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
