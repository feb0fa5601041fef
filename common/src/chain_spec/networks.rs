//! The networks of the test suites: a name, such as `Cancun` or `BerlinToLondonAt5`, and the chain
//! specification that it stands for.
//!
//! A plain name activates every fork up to its own at block 0. A transition activates the forks of its
//! first name at block 0, and those up to its second name at a block, a timestamp or a total
//! difficulty. Names are case-insensitive, since the suites differ in case.

use std::collections::BTreeMap;

use super::{Activation, ChainSpec, Schedule};
use alloy_eips::eip6110::MAINNET_DEPOSIT_CONTRACT_ADDRESS;
use alloy_eips::eip7594::MAX_BLOBS_PER_TX_FUSAKA;
use alloy_eips::eip7840::{BLOB_BASE_COST, BlobParams};
use alloy_hardforks::EthereumHardfork as Fork;
use alloy_primitives::U256;

/// The forks in their order, without the DAO fork, each with its names in lower case.
const FORKS: [(Fork, &[&str]); 25] = [
    (Fork::Frontier, &["frontier"]),
    (Fork::Homestead, &["homestead"]),
    (Fork::Tangerine, &["eip150", "tangerinewhistle"]),
    (Fork::SpuriousDragon, &["eip158", "spuriousdragon"]),
    (Fork::Byzantium, &["byzantium"]),
    (Fork::Constantinople, &["constantinople"]),
    (Fork::Petersburg, &["constantinoplefix", "petersburg"]),
    (Fork::Istanbul, &["istanbul"]),
    (Fork::MuirGlacier, &["muirglacier"]),
    (Fork::Berlin, &["berlin"]),
    (Fork::London, &["london"]),
    (Fork::ArrowGlacier, &["arrowglacier"]),
    (Fork::GrayGlacier, &["grayglacier"]),
    (Fork::Paris, &["merge", "paris"]),
    (Fork::Shanghai, &["shanghai"]),
    (Fork::Cancun, &["cancun"]),
    (Fork::Prague, &["prague"]),
    (Fork::Osaka, &["osaka"]),
    (Fork::Bpo1, &["bpo1"]),
    (Fork::Bpo2, &["bpo2"]),
    (Fork::Bpo3, &["bpo3"]),
    (Fork::Bpo4, &["bpo4"]),
    (Fork::Bpo5, &["bpo5"]),
    (Fork::Amsterdam, &["amsterdam"]),
    (Fork::Bogota, &["bogota"]),
];

/// The first fork that is scheduled by timestamp.
const FIRST_TIMED: Fork = Fork::Shanghai;

/// When a transition happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Block(u64),
    Time(u64),
    Difficulty(U256),
}

/// The settings that a test case states beside the name of its network.
#[derive(Debug, Clone, Default)]
pub struct NetworkConfig {
    /// The chain id; 1 if the case states none.
    pub chain_id: Option<u64>,
    /// Blob parameters by the fork's name.
    pub blobs: BTreeMap<String, StatedBlobs>,
}

/// Blob parameters that a case states for one fork (EIP-7840).
#[derive(Debug, Clone, Copy)]
pub struct StatedBlobs {
    /// The target number of blobs in a block.
    pub target: u64,
    /// The maximum number of blobs in a block.
    pub max: u64,
    /// The base fee's update fraction: the greater it is, the slower the fee moves.
    pub update_fraction: u64,
}

/// Builds the specification of a network, with the settings that a test case states.
///
/// # Errors
/// The reason why cases of this network cannot run.
pub fn chain_spec(network: &str, config: &NetworkConfig) -> Result<ChainSpec, String> {
    let name = network.to_lowercase();
    let (mut forks, terminal_total_difficulty) = match parse(&name) {
        Some((from, None)) => (from_the_beginning(from), None),
        Some((from, Some((to, when)))) => transition(from, to, when)
            .ok_or_else(|| format!("network {network}: its forks cannot begin in this way"))?,
        None if name == "homesteadtodaoat5" => {
            let mut forks = from_the_beginning(1);
            forks.push((Fork::Dao, Activation::Block(5)));
            (forks, None)
        }
        None => return Err(format!("network {network} is not known")),
    };
    let has = |fork: Fork| forks.iter().any(|(candidate, _)| *candidate == fork);
    if has(Fork::Amsterdam) {
        return Err(
            "Amsterdam's block access lists (EIP-7928) are not built, so its headers cannot be verified"
                .into(),
        );
    }
    let terminal_total_difficulty =
        terminal_total_difficulty.or_else(|| has(Fork::Paris).then_some(U256::ZERO));
    forks.sort_by_key(|(fork, _)| FORKS.iter().position(|(candidate, _)| candidate == fork));
    ChainSpec::from_schedule(Schedule {
        chain_id: config.chain_id.unwrap_or(1),
        terminal_total_difficulty,
        blobs: blobs(&forks, &config.blobs),
        forks,
        deposit_contract: Some(MAINNET_DEPOSIT_CONTRACT_ADDRESS),
    })
    .map_err(|error| format!("network {network}: {error}"))
}

impl ChainSpec {
    /// The specification of one of the suites' networks, with chain id 1.
    ///
    /// # Errors
    /// A message if the network is unknown.
    pub fn of_network(network: &str) -> Result<Self, String> {
        chain_spec(network, &NetworkConfig::default())
    }
}

/// A name's position among the forks.
fn position(name: &str) -> Option<usize> {
    FORKS.iter().position(|(_, names)| names.contains(&name))
}

/// Splits a name into one fork, or into two forks and the moment of the transition.
fn parse(name: &str) -> Option<(usize, Option<(usize, When)>)> {
    if let Some(fork) = position(name) {
        return Some((fork, None));
    }
    // No fork's name contains either word.
    let (from, rest) = name.split_once("to")?;
    let (to, when) = rest.split_once("at")?;
    let when = if let Some(time) = when.strip_prefix("time") {
        let (digits, unit) = time.strip_suffix('k').map_or((time, 1), |digits| (digits, 1000));
        When::Time(digits.parse::<u64>().ok()?.checked_mul(unit)?)
    } else if let Some(difficulty) = when.strip_prefix("diff") {
        When::Difficulty(U256::from_str_radix(difficulty, 16).ok()?)
    } else {
        When::Block(when.parse().ok()?)
    };
    Some((position(from)?, Some((position(to)?, when))))
}

/// Every fork up to `last`, active from the beginning.
fn from_the_beginning(last: usize) -> Vec<(Fork, Activation)> {
    let timed =
        |fork| FORKS.iter().skip_while(|(first, _)| *first != FIRST_TIMED).any(|(other, _)| *other == fork);
    FORKS
        .iter()
        .take(last + 1)
        .map(|(fork, _)| (*fork, if timed(*fork) { Activation::Time(0) } else { Activation::Block(0) }))
        .collect()
}

type Forks = Vec<(Fork, Activation)>;

/// Every fork up to `from` at the beginning and those up to `to` later, with the total difficulty of
/// the Merge if that decides.
fn transition(from: usize, to: usize, when: When) -> Option<(Forks, Option<U256>)> {
    let mut forks = from_the_beginning(to);
    if to <= from {
        return None;
    }
    let mut terminal = None;
    for (fork, activation) in forks.iter_mut().skip(from + 1) {
        *activation = match (*activation, when) {
            (Activation::Time(_), When::Time(time)) => Activation::Time(time),
            (Activation::Block(_), When::Difficulty(difficulty)) if *fork == Fork::Paris => {
                terminal = Some(difficulty);
                Activation::Merge
            }
            // The difficulty decides the Merge. The forks before the Merge only delay the bomb, so they start
            // at block 0.
            (Activation::Block(_), When::Difficulty(_)) => Activation::Block(0),
            (Activation::Block(_), When::Block(number)) if *fork != Fork::Paris => Activation::Block(number),
            _ => return None,
        };
    }
    Some((forks, terminal))
}

/// The blob parameters of every fork that has its own; the case's parameters take precedence.
fn blobs(forks: &Forks, stated: &BTreeMap<String, StatedBlobs>) -> Vec<(u64, BlobParams)> {
    let mut blobs: Vec<(u64, BlobParams)> = Vec::new();
    for (fork, activation) in forks {
        let Activation::Time(from) = activation else { continue };
        let names = FORKS.iter().find(|(candidate, _)| candidate == fork).map_or(&[][..], |(_, names)| names);
        let entry = stated.iter().find(|(name, _)| names.contains(&name.to_lowercase().as_str()));
        let usual = match fork {
            Fork::Cancun => Some(BlobParams::cancun()),
            Fork::Prague => Some(BlobParams::prague()),
            Fork::Osaka => Some(BlobParams::osaka()),
            Fork::Bpo1 => Some(BlobParams::bpo1()),
            Fork::Bpo2 => Some(BlobParams::bpo2()),
            _ => None,
        };
        let params = match entry {
            Some((_, entry)) => Some(stated_params(entry, usual.or(blobs.last().map(|(_, params)| *params)))),
            None => usual,
        };
        blobs.extend(params.map(|params| (*from, params)));
    }
    blobs
}

fn stated_params(entry: &StatedBlobs, usual: Option<BlobParams>) -> BlobParams {
    let StatedBlobs { target, max, update_fraction } = *entry;
    let like = usual.unwrap_or_else(BlobParams::osaka);
    // From Osaka on each transaction has a limit of its own (EIP-7594).
    let max_blobs_per_tx = if like.blob_base_cost == BLOB_BASE_COST { MAX_BLOBS_PER_TX_FUSAKA } else { max };
    BlobParams {
        target_blob_count: target,
        max_blob_count: max,
        update_fraction: update_fraction.into(),
        max_blobs_per_tx,
        ..like
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_consensus::Header;
    use alloy_hardforks::EthereumHardforks;

    fn fork_at(network: &str, number: u64, timestamp: u64, difficulty: u64) -> &'static str {
        let spec = ChainSpec::of_network(network).unwrap();
        spec.fork_name(&Header {
            number,
            timestamp,
            difficulty: U256::from(difficulty),
            ..Default::default()
        })
    }

    #[test]
    fn every_name_of_the_suites_is_known() {
        let names = "Frontier Homestead EIP150 EIP158 Byzantium Constantinople ConstantinopleFix Istanbul MuirGlacier Berlin London \
            ArrowGlacier GrayGlacier Merge Paris Shanghai Cancun Prague Osaka BPO1 BPO2 BPO3 BPO4 BPO5 \
            FrontierToHomesteadAt5 HomesteadToDaoAt5 HomesteadToEIP150At5 EIP158ToByzantiumAt5 \
            ByzantiumToConstantinopleAt5 ByzantiumToConstantinopleFixAt5 ConstantinopleFixToIstanbulAt5 IstanbulToBerlinAt5 BerlinToLondonAt5 \
            ArrowGlacierToParisAtDiffC0000 ArrowGlacierToMergeAtDiffC0000 ParisToShanghaiAtTime15k \
            ShanghaiToCancunAtTime15k CancunToPragueAtTime15k PragueToOsakaAtTime15k OsakaToBPO1AtTime15k \
            BPO1ToBPO2AtTime15k BPO2ToBPO3AtTime15k BPO3ToBPO4AtTime15k";
        for name in names.split_whitespace() {
            ChainSpec::of_network(name).unwrap();
        }
    }

    #[test]
    fn a_plain_network_has_its_fork_from_the_beginning() {
        assert_eq!(fork_at("EIP158", 0, 0, 1), "SpuriousDragon");
        assert_eq!(fork_at("London", 1, 0, 1), "London");
        assert_eq!(fork_at("merge", 1, 0, 0), "Paris");
        assert_eq!(fork_at("Osaka", 1, 0, 0), "Osaka");
    }

    #[test]
    fn transitions_happen_where_their_names_say() {
        assert_eq!(fork_at("EIP158ToByzantiumAt5", 4, 0, 1), "SpuriousDragon");
        assert_eq!(fork_at("EIP158ToByzantiumAt5", 5, 0, 1), "Byzantium");
        assert_eq!(fork_at("HomesteadToDaoAt5", 5, 0, 1), "Dao");
        assert_eq!(fork_at("ShanghaiToCancunAtTime15k", 1, 14_999, 0), "Shanghai");
        assert_eq!(fork_at("ShanghaiToCancunAtTime15k", 1, 15_000, 0), "Cancun");
        let spec = ChainSpec::of_network("ArrowGlacierToParisAtDiffC0000").unwrap();
        assert!(!spec.after(U256::from(0xbffff)).is_paris_active_at_block(3));
        assert!(spec.after(U256::from(0xc0000)).is_paris_active_at_block(3));
    }

    #[test]
    fn what_cannot_be_run_is_told_with_its_reason() {
        assert!(ChainSpec::of_network("Atlantis").unwrap_err().contains("not known"));
        assert!(ChainSpec::of_network("CancunToLondonAt5").unwrap_err().contains("cannot begin"));
    }

    #[test]
    fn a_stated_blob_schedule_replaces_the_usual_one() {
        let stated = StatedBlobs { target: 9, max: 14, update_fraction: 0x0086_c73b };
        let config = NetworkConfig { chain_id: Some(7), blobs: BTreeMap::from([("BPO1".into(), stated)]) };
        let spec = chain_spec("OsakaToBPO1AtTime15k", &config).unwrap();
        assert_eq!(spec.chain_id, 7);
        assert_eq!(spec.blob_params(14_999).unwrap().max_blob_count, 9);
        let later = spec.blob_params(15_000).unwrap();
        assert_eq!((later.target_blob_count, later.max_blob_count, later.max_blobs_per_tx), (9, 14, 6));
    }
}
