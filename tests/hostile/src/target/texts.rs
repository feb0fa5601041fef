//! Texts of the command line.

use std::str::FromStr;

use coordinator::execute::VerifyFraction;
use coordinator::import::ReorgLimit;
use executor_shard::fault::PlannedFault;
use lab::generate::Mix;
use lab::plan::LabPlan;
use net::identity::{Identity, Role};
use schedule::NoShards;
use schedule::planner::Plan;
use tasks::telemetry::LogFilter;

use super::Target;

/// Whether the text is one of this type.
fn is<T: FromStr>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

pub(super) fn targets() -> Vec<Target> {
    let valid = [
        "auto",
        "one",
        "each",
        "random:7",
        "poison:7",
        "0.25",
        "any",
        "none",
        "64",
        "hang@3",
        "corrupt@30+",
        "slow:4@1",
        "transfers=60,erc20=30,amm=10",
        "client/ci",
        "shard/3",
        "spiffe://testnet/operator/ann",
        "wait",
        "local",
        "info",
        "debug,coordinator=trace",
    ];
    let valid = valid.map(|text| text.as_bytes().to_vec()).to_vec();
    let read = |bytes: &[u8]| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        // Each of them reads it: a text may be several things.
        [
            is::<Plan>(text),
            is::<LabPlan>(text),
            is::<VerifyFraction>(text),
            is::<ReorgLimit>(text),
            is::<PlannedFault>(text),
            is::<Mix>(text),
            is::<Role>(text),
            is::<Identity>(text),
            is::<NoShards>(text),
            is::<LogFilter>(text),
        ]
        .contains(&true)
    };
    // The filter of the log compiles regular expressions.
    vec![Target::of("text", valid, read).bounded(1 << 20, 4 << 10)]
}
