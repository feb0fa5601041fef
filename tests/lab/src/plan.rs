//! How a test has a block cut: as in production, or with speculation that is wrong on purpose.

use std::fmt;
use std::str::FromStr;

use schedule::planner::Plan;

/// A plan of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabPlan {
    /// A plan of production.
    Honest(Plan),
    /// Transactions scattered as by `random:SEED`, and executed on a base state that is wrong in places,
    /// which the seed chooses. Validation must notice all of it.
    Poison(u64),
}

/// The text names no plan, or its seed is not a 64-bit number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a plan: auto, one, each, random:SEED or poison:SEED are")]
pub struct LabPlanError(String);

impl LabPlan {
    /// How the block is cut.
    #[must_use]
    pub const fn cut(self) -> Plan {
        match self {
            Self::Honest(plan) => plan,
            Self::Poison(seed) => Plan::Random(seed),
        }
    }

    /// The seed of the wrong places, if there are any.
    #[must_use]
    pub const fn poison(self) -> Option<u64> {
        match self {
            Self::Honest(_) => None,
            Self::Poison(seed) => Some(seed),
        }
    }
}

impl FromStr for LabPlan {
    type Err = LabPlanError;

    fn from_str(text: &str) -> Result<Self, LabPlanError> {
        let error = || LabPlanError(text.to_owned());
        match text.strip_prefix("poison:") {
            Some(seed) => seed.parse().map(Self::Poison).map_err(|_| error()),
            None => text.parse().map(Self::Honest).map_err(|_| error()),
        }
    }
}

impl fmt::Display for LabPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Honest(plan) => plan.fmt(f),
            Self::Poison(seed) => write!(f, "poison:{seed}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn plans_are_read_as_they_are_written() {
        for text in ["auto", "one", "each", "random:7", "poison:12"] {
            assert_eq!(text.parse::<LabPlan>().unwrap().to_string(), text);
        }
        for text in ["", "poison", "poison:", "poison:x", "random"] {
            let error = text.parse::<LabPlan>().unwrap_err();
            assert!(error.to_string().contains("poison:SEED"), "{error}");
        }
    }
}
