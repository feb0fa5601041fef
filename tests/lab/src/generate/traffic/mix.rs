//! The weights of the kinds of transactions in the traffic.
//!
//! A mix consists of weights, not percentages: their sum is arbitrary. It does not decide senders and
//! recipients; the traffic does.

use std::{fmt, str::FromStr};

use rand::Rng;

/// The weight of each kind of transaction.
///
/// Written as `transfers=60,erc20=30,amm=10`. A kind that is left out has weight 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Weight of plain transfers of ether.
    pub transfers: u32,
    /// Weight of ERC-20 token transfers.
    pub erc20: u32,
    /// Weight of swaps on the market of two tokens.
    pub amm: u32,
}

/// Why a text, or a set of weights, is not a valid mix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MixError {
    /// A part between commas is not of the form `key=number`.
    #[error("`{0}` is not of the form key=number")]
    NotAPair(String),
    /// The kind of transaction is unknown.
    #[error("`{0}` is no kind of transaction: there are transfers, erc20 and amm")]
    UnknownKey(String),
    /// A kind is given more than once.
    #[error("`{0}` is given more than once")]
    DuplicateKey(String),
    /// A weight is not a whole number from 0 to 4294967295.
    #[error("the weight `{value}` of `{key}` is not a whole number from 0 to 4294967295")]
    NotANumber {
        /// The kind with this weight.
        key: String,
        /// The text given as its weight.
        value: String,
    },
    /// Every weight is 0, so no transaction can be drawn.
    #[error("every weight is 0")]
    AllZero,
}

/// One kind of transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Transfer,
    Erc20,
    Amm,
}

impl Mix {
    /// Rejects a mix in which every weight is 0.
    pub(crate) fn check(&self) -> Result<(), MixError> {
        if self.total() == 0 { Err(MixError::AllZero) } else { Ok(()) }
    }

    /// Whether any kind in the mix calls the contracts.
    pub(crate) fn calls_contracts(&self) -> bool {
        self.erc20 > 0 || self.amm > 0
    }

    /// Draws a kind by the weights; a transfer if all weights are 0.
    pub(crate) fn draw(&self, rng: &mut impl Rng) -> Kind {
        let at = rng.random_range(0..self.total().max(1));
        let transfers = u64::from(self.transfers);
        let erc20 = u64::from(self.erc20);
        if at >= transfers && at < transfers + erc20 {
            Kind::Erc20
        } else if at >= transfers + erc20 && self.amm > 0 {
            Kind::Amm
        } else {
            Kind::Transfer
        }
    }

    fn total(&self) -> u64 {
        u64::from(self.transfers) + u64::from(self.erc20) + u64::from(self.amm)
    }
}

impl Default for Mix {
    fn default() -> Self {
        Self { transfers: 60, erc20: 30, amm: 10 }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transfers={},erc20={},amm={}", self.transfers, self.erc20, self.amm)
    }
}

impl FromStr for Mix {
    type Err = MixError;

    fn from_str(text: &str) -> Result<Self, MixError> {
        let (mut transfers, mut erc20, mut amm) = (None, None, None);
        for part in text.split(',').map(str::trim) {
            let (key, value) = part.split_once('=').ok_or_else(|| MixError::NotAPair(part.to_owned()))?;
            let (key, value) = (key.trim(), value.trim());
            let slot = match key {
                "transfers" => &mut transfers,
                "erc20" => &mut erc20,
                "amm" => &mut amm,
                _ => return Err(MixError::UnknownKey(key.to_owned())),
            };
            let weight: u32 = value
                .parse()
                .map_err(|_| MixError::NotANumber { key: key.to_owned(), value: value.to_owned() })?;
            if slot.replace(weight).is_some() {
                return Err(MixError::DuplicateKey(key.to_owned()));
            }
        }
        let mix =
            Self { transfers: transfers.unwrap_or(0), erc20: erc20.unwrap_or(0), amm: amm.unwrap_or(0) };
        mix.check()?;
        Ok(mix)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn a_full_mix_is_read_and_printed_the_same() {
        let mix: Mix = "transfers=60,erc20=30,amm=10".parse().unwrap();
        assert_eq!(mix, Mix::default());
        assert_eq!(mix.to_string(), "transfers=60,erc20=30,amm=10");
    }

    #[test]
    fn kinds_left_out_have_weight_zero_in_any_order() {
        let mix: Mix = " amm = 3 , transfers=1".parse().unwrap();
        assert_eq!(mix, Mix { transfers: 1, erc20: 0, amm: 3 });
        assert_eq!(mix.to_string().parse::<Mix>().unwrap(), mix);
    }

    #[test]
    fn errors_name_the_part_at_fault() {
        let not_a_number =
            |key: &str, value: &str| MixError::NotANumber { key: key.into(), value: value.into() };
        for (text, error) in [
            ("", MixError::NotAPair(String::new())),
            ("transfers=1,", MixError::NotAPair(String::new())),
            ("transfers", MixError::NotAPair("transfers".into())),
            ("nft=1", MixError::UnknownKey("nft".into())),
            ("amm=1,amm=1", MixError::DuplicateKey("amm".into())),
            ("amm=x", not_a_number("amm", "x")),
            ("erc20=-1", not_a_number("erc20", "-1")),
            ("erc20=4294967296", not_a_number("erc20", "4294967296")),
            ("transfers=0,erc20=0", MixError::AllZero),
        ] {
            assert_eq!(text.parse::<Mix>(), Err(error), "{text}");
        }
    }

    #[test]
    fn draws_follow_the_weights() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mix = Mix { transfers: 1, erc20: 2, amm: 1 };
        let mut counts = [0u32; 3];
        for _ in 0..4000 {
            match mix.draw(&mut rng) {
                Kind::Transfer => counts[0] += 1,
                Kind::Erc20 => counts[1] += 1,
                Kind::Amm => counts[2] += 1,
            }
        }
        assert!((900..1100).contains(&counts[0]), "{counts:?}");
        assert!((1850..2150).contains(&counts[1]), "{counts:?}");
        assert!((900..1100).contains(&counts[2]), "{counts:?}");
    }

    #[test]
    fn a_kind_of_weight_zero_is_never_drawn() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let only = Mix { transfers: 0, erc20: 0, amm: u32::MAX };
        assert!((0..1000).all(|_| only.draw(&mut rng) == Kind::Amm));
    }
}
