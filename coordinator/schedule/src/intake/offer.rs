//! What a client offers to the intake, and the answers.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;

use super::Sequence;

/// Who submits a block: the name of a role, or an address where there are no roles.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client(Arc<str>);

impl From<&str> for Client {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// What is known of a block's ancestors when a client submits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lineage {
    /// It follows the head.
    Chain,
    /// It follows another block that was executed.
    Side,
    /// Its parent is not known.
    Orphan,
}

/// What the intake knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The hash of its header, by which the intake identifies the block.
    pub hash: B256,
    /// The hash of its parent. The block waits until the parent has ended.
    pub parent: B256,
    /// Its size in bytes.
    pub bytes: usize,
}

/// The answer to a block that a client offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// The block is new: the caller must journal it under this number, then confirm it.
    Fresh(Sequence),
    /// The block was accepted before and has not ended.
    Open,
    /// The block is parked.
    Parked,
}

/// The intake has no room for the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Too many blocks wait.
    #[error("{open} blocks of {bytes} bytes are waiting already; try again in a moment")]
    Open {
        /// The number of open blocks.
        open: usize,
        /// The total size of the open blocks, in bytes.
        bytes: usize,
    },
    /// Too many blocks wait, some of them for one that is parked.
    #[error(
        "{open} blocks are waiting already, {behind} of them for a parked one; see `coordinator parked list`"
    )]
    BehindParked {
        /// The number of open blocks.
        open: usize,
        /// The number of them that wait for a parked block.
        behind: usize,
    },
    /// Too many blocks wait, some of them for parents that no client has submitted.
    #[error(
        "{open} blocks are waiting already, {behind} of them because block {parent} was not submitted; submit that one first"
    )]
    BehindOrphan {
        /// The number of open blocks.
        open: usize,
        /// The number of them that are orphans, or wait for one.
        behind: usize,
        /// The missing parent of one of the orphans.
        parent: B256,
    },
    /// The client has its share of the intake.
    #[error("{open} of the waiting blocks, with {bytes} bytes, are of this client; try again in a moment")]
    Share {
        /// The number of the client's open blocks.
        open: usize,
        /// The total size of the client's open blocks, in bytes.
        bytes: usize,
    },
    /// Too many orphans, and blocks behind them, wait.
    #[error(
        "its parent {parent} is not known or waits for an unknown block, and {orphans} such blocks wait already; submit the missing blocks first"
    )]
    Orphans {
        /// The parent of the offered block. It is not known, or waits for an unknown block itself.
        parent: B256,
        /// The number of orphans, and of blocks that wait behind one.
        orphans: usize,
    },
    /// The client has submitted too many side blocks.
    #[error("this client has submitted as many side blocks as it may; try again in {} s", again.as_secs().max(1))]
    SideBlocks {
        /// The time until it may submit one more.
        again: Duration,
    },
    /// Too many blocks are parked.
    #[error("{parked} blocks are parked; retry or discard some, see `coordinator parked list`")]
    Parked {
        /// The number of parked blocks.
        parked: usize,
    },
}

impl Full {
    /// The time after which the block may be offered again.
    #[must_use]
    pub fn again(&self) -> Duration {
        match self {
            Self::SideBlocks { again } => *again,
            _ => Duration::from_secs(1),
        }
    }
}
