//! Consensus rules, each as a block that every plan and the sequential baseline must judge alike, and
//! as the rule says: numbers and outcomes here are those of the EIPs and of EELS, worked out by hand.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod baseline;
mod delegation;
mod large_numbers;
mod stage;
mod system_contracts;
