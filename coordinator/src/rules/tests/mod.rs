//! One test per rule: a block that keeps all rules, and the rejection when one of them is broken.

#![allow(clippy::unwrap_used)]

use alloy_consensus::Header;
use alloy_consensus::constants::{EMPTY_OMMER_ROOT_HASH, EMPTY_WITHDRAWALS};
use alloy_primitives::{B64, B256, Bytes};
use common::block::{MAX_ANCESTORS, Ommers};

use super::*;
use common::chain_spec::ChainSpec;

mod edges;

/// A chain under construction: every block keeps the rules of its network.
struct Chain {
    spec: ChainSpec,
    total_difficulty: U256,
    /// The ancestors, newest first.
    ancestors: Vec<std::sync::Arc<Ancestor>>,
}

impl Chain {
    /// A chain with a genesis of `network` and a few blocks after it.
    fn of(network: &str) -> Self {
        let spec = ChainSpec::of_network(network).unwrap();
        let mut genesis = Header {
            difficulty: U256::from(1_000_000u64),
            gas_limit: 10_000_000,
            timestamp: 1000,
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            ..Header::default()
        };
        fill(&mut genesis, spec.after(U256::MAX));
        genesis.base_fee_per_gas = genesis.base_fee_per_gas.map(|_| 1_000_000_000);
        let total_difficulty = genesis.difficulty;
        let first = Ancestor { hash: genesis.hash_slow(), header: genesis, ommers: vec![] };
        let mut chain = Self { spec, total_difficulty, ancestors: vec![first.into()] };
        for _ in 0..3 {
            chain.push(chain.next(Vec::new()));
        }
        chain
    }

    fn parent(&self) -> &Header {
        &self.ancestors.first().unwrap().header
    }

    fn parentage(&self) -> Parentage<'_> {
        Parentage { total_difficulty: self.total_difficulty, ancestors: &self.ancestors }
    }

    /// A header on top of `parent` that keeps the rules.
    fn header_on(&self, parent: &Header) -> Header {
        let active = self.spec.after(self.total_difficulty);
        let timestamp = parent.timestamp + 15;
        let mut header = Header {
            parent_hash: parent.hash_slow(),
            number: parent.number + 1,
            timestamp,
            difficulty: next_difficulty(parent, timestamp, active).unwrap(),
            gas_limit: parent.gas_limit,
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            ..Header::default()
        };
        fill(&mut header, active);
        let narrow = |value: u128| u64::try_from(value).unwrap();
        header.base_fee_per_gas = next_base_fee(parent, active).map(narrow);
        header.excess_blob_gas = next_excess_blob_gas(parent, timestamp, &self.spec).map(narrow);
        header
    }

    /// A minimal header that passes the checks up to the difficulty.
    fn header_below(&self) -> Header {
        let parent = self.parent();
        let (parent_hash, timestamp) = (self.ancestors.first().unwrap().hash, parent.timestamp + 15);
        Header { parent_hash, timestamp, gas_limit: parent.gas_limit, ..Header::default() }
    }

    fn next(&self, ommers: Vec<Header>) -> Block {
        let mut header = self.header_on(self.parent());
        header.ommers_hash = alloy_consensus::proofs::calculate_ommers_root(&ommers);
        let withdrawals = header.withdrawals_root.map(|_| vec![]);
        Block::new(header, vec![], Ommers::Headers(ommers), withdrawals)
    }

    fn push(&mut self, block: Block) {
        self.check(&block).unwrap();
        self.total_difficulty += block.header.difficulty;
        let ommers = block.ommers.headers().iter().map(Header::hash_slow).collect();
        self.ancestors.insert(0, Ancestor { hash: block.hash, header: block.header, ommers }.into());
        self.ancestors.truncate(MAX_ANCESTORS);
    }

    fn check(&self, block: &Block) -> Result<(), Rejection> {
        check_block(block, 1000, &self.parentage(), &self.spec)
    }

    /// Checks the next block with this change to its header.
    fn with(&self, change: impl FnOnce(&mut Header)) -> Result<(), Rejection> {
        let mut header = self.header_on(self.parent());
        change(&mut header);
        self.check(&Block::new(header, vec![], Ommers::Headers(vec![]), None))
    }

    /// The field that the rejection names if the next block's header is changed like this.
    fn refused_for(&self, change: impl FnOnce(&mut Header)) -> &'static str {
        match self.with(change) {
            Err(Rejection::Block { field, .. }) => field,
            _ => "nothing",
        }
    }
}

/// Adds the fields of the header's forks, without their values.
fn fill(header: &mut Header, active: common::chain_spec::ActiveSpec<'_>) {
    let fields = Fields::of(header.number, header.timestamp, active);
    header.base_fee_per_gas = fields.base_fee.then_some(0);
    header.withdrawals_root = fields.withdrawals.then_some(EMPTY_WITHDRAWALS);
    header.blob_gas_used = fields.blobs_and_beacon_root.then_some(0);
    header.excess_blob_gas = fields.blobs_and_beacon_root.then_some(0);
    header.parent_beacon_block_root = fields.blobs_and_beacon_root.then_some(B256::ZERO);
    header.requests_hash = fields.requests.then_some(B256::ZERO);
}

#[test]
fn blocks_that_keep_the_rules_pass_on_every_fork() {
    let networks = "Frontier Homestead EIP150 EIP158 Byzantium ConstantinopleFix Istanbul MuirGlacier Berlin London \
        ArrowGlacier GrayGlacier Paris Shanghai Cancun Prague Osaka BPO1 BPO2 EIP158ToByzantiumAt5";
    for network in networks.split_whitespace() {
        let mut chain = Chain::of(network);
        for _ in 0..4 {
            chain.push(chain.next(Vec::new()));
        }
    }
}

#[test]
fn a_block_without_a_known_parent_is_refused() {
    let chain = Chain::of("Cancun");
    let lonely = Parentage { total_difficulty: U256::ZERO, ancestors: &[] };
    assert!(check_block(&chain.next(vec![]), 1000, &lonely, &chain.spec).is_err());
    assert_eq!(chain.refused_for(|header| header.parent_hash = B256::ZERO), "parentHash");
}

#[test]
fn number_and_timestamp_follow_the_parents() {
    let chain = Chain::of("Cancun");
    let parent = chain.parent().timestamp;
    assert_eq!(chain.refused_for(|header| header.number += 1), "number");
    assert_eq!(chain.refused_for(|header| header.timestamp = parent), "timestamp");
    assert_eq!(chain.with(|header| header.timestamp = parent + 1), Ok(()));
}

#[test]
fn the_gas_limit_moves_by_less_than_a_1024th() {
    let chain = Chain::of("Istanbul");
    let step = 10_000_000 / 1024;
    assert_eq!(chain.with(|header| header.gas_limit += step - 1), Ok(()));
    assert_eq!(chain.refused_for(|header| header.gas_limit += step), "gasLimit");
    assert_eq!(chain.refused_for(|header| header.gas_limit -= step), "gasLimit");
    assert_eq!(chain.refused_for(|header| header.gas_limit = 4999), "gasLimit");
    assert_eq!(chain.refused_for(|header| header.gas_limit = 1 << 63), "gasLimit");
}

#[test]
fn london_begins_with_twice_the_gas_limit_and_a_fixed_base_fee() {
    let mut chain = Chain::of("BerlinToLondonAt5");
    chain.push(chain.next(vec![]));
    assert_eq!(chain.refused_for(|_| ()), "gasLimit");
    assert_eq!(chain.with(|header| header.gas_limit *= 2), Ok(()));
    let poor = |header: &mut Header| {
        header.gas_limit *= 2;
        header.base_fee_per_gas = Some(999_999_999);
    };
    assert_eq!(chain.refused_for(poor), "baseFeePerGas");
}

#[test]
fn gas_used_stays_within_the_limit() {
    assert_eq!(Chain::of("Cancun").refused_for(|header| header.gas_used = 10_000_001), "gasUsed");
}

#[test]
fn extra_data_has_at_most_32_bytes() {
    let chain = Chain::of("Frontier");
    assert_eq!(chain.with(|header| header.extra_data = Bytes::from(vec![0; 32])), Ok(()));
    assert_eq!(chain.refused_for(|header| header.extra_data = Bytes::from(vec![0; 33])), "extraData");
}

#[test]
fn the_dao_forks_first_ten_blocks_say_so() {
    let mut chain = Chain::of("HomesteadToDaoAt5");
    chain.push(chain.next(vec![]));
    let mark = |header: &mut Header| header.extra_data = Bytes::from_static(b"dao-hard-fork");
    for _ in 5..15 {
        assert_eq!(chain.refused_for(|_| ()), "extraData");
        let mut header = chain.header_on(chain.parent());
        mark(&mut header);
        chain.push(Block::new(header, vec![], Ommers::Headers(vec![]), None));
    }
    assert_eq!(chain.with(|_| ()), Ok(()));
}

#[test]
fn later_fields_are_there_if_and_only_if_their_fork_is() {
    for (network, before, change, field) in [
        ("London", "Berlin", (|header| header.base_fee_per_gas = None) as fn(&mut Header), "baseFeePerGas"),
        ("Shanghai", "Paris", |header| header.withdrawals_root = None, "withdrawalsRoot"),
        ("Cancun", "Shanghai", |header| header.blob_gas_used = None, "blobGasUsed"),
        ("Cancun", "Shanghai", |header| header.parent_beacon_block_root = None, "parentBeaconBlockRoot"),
        ("Prague", "Cancun", |header| header.requests_hash = None, "requestsHash"),
    ] {
        assert_eq!(Chain::of(network).refused_for(change), field);
        let later = Chain::of(network);
        let header = later.header_on(later.parent());
        let add = |earlier: &mut Header| {
            earlier.base_fee_per_gas = header.base_fee_per_gas;
            earlier.withdrawals_root = header.withdrawals_root;
            earlier.blob_gas_used = header.blob_gas_used;
            earlier.excess_blob_gas = header.excess_blob_gas;
            earlier.parent_beacon_block_root = header.parent_beacon_block_root;
            earlier.requests_hash = header.requests_hash;
        };
        assert_ne!(Chain::of(before).refused_for(add), "nothing", "{before}");
    }
}

#[test]
fn the_base_fee_is_the_one_of_the_parents_gas() {
    assert_eq!(Chain::of("Cancun").refused_for(|header| header.base_fee_per_gas = Some(1)), "baseFeePerGas");
}

#[test]
fn blob_gas_is_whole_blobs_within_the_limit_and_its_excess_is_inherited() {
    let chain = Chain::of("Cancun");
    let blob = 1 << 17;
    assert_eq!(chain.with(|header| header.blob_gas_used = Some(6 * blob)), Ok(()));
    assert_eq!(chain.refused_for(|header| header.blob_gas_used = Some(7 * blob)), "blobGasUsed");
    assert_eq!(chain.refused_for(|header| header.blob_gas_used = Some(blob - 1)), "blobGasUsed");
    assert_eq!(chain.refused_for(|header| header.excess_blob_gas = Some(blob)), "excessBlobGas");
}

#[test]
fn after_the_merge_nothing_is_left_of_the_seal() {
    let chain = Chain::of("Paris");
    assert_eq!(chain.refused_for(|header| header.difficulty = U256::from(1)), "difficulty");
    assert_eq!(chain.refused_for(|header| header.nonce = B64::repeat_byte(1)), "nonce");
    assert_eq!(chain.refused_for(|header| header.ommers_hash = B256::ZERO), "sha3Uncles");
}

#[test]
fn the_merge_comes_with_the_total_difficulty_and_not_with_the_blocks_word() {
    let mut chain = Chain::of("ArrowGlacierToParisAtDiffC0000");
    // There are three blocks after a genesis with a difficulty of a million, so the total is reached.
    assert!(chain.total_difficulty > U256::from(0xc0000));
    assert_eq!(chain.with(|_| ()), Ok(()));
    assert_eq!(chain.refused_for(|header| header.difficulty = U256::from(131_072)), "difficulty");
    chain.total_difficulty = U256::from(0xbffff);
    assert_eq!(chain.refused_for(|header| header.difficulty = U256::ZERO), "difficulty");
}

#[test]
fn osaka_limits_the_blocks_encoding() {
    for (network, refused) in [("Prague", false), ("Osaka", true)] {
        let chain = Chain::of(network);
        let checked =
            check_block(&chain.next(vec![]), MAX_ENCODED_BLOCK + 1, &chain.parentage(), &chain.spec);
        assert_eq!(checked.is_err(), refused, "{network}");
    }
}

fn difficulty(network: &str, number: u64, ommers: bool, elapsed: u64) -> U256 {
    let spec = ChainSpec::of_network(network).unwrap();
    let parent = Header {
        number: number - 1,
        timestamp: 1000,
        difficulty: U256::from(2_048_000_000u64),
        ommers_hash: if ommers { B256::ZERO } else { EMPTY_OMMER_ROOT_HASH },
        ..Header::default()
    };
    next_difficulty(&parent, 1000 + elapsed, spec.after(U256::ZERO)).unwrap()
}

#[test]
fn difficulty_moves_as_each_fork_says() {
    let of = |steps: i64| U256::from(2_048_000_000i64 + steps * 1_000_000);
    assert_eq!(difficulty("Frontier", 9, false, 12), of(1));
    assert_eq!(difficulty("Frontier", 9, false, 13), of(-1));
    assert_eq!(difficulty("Homestead", 9, false, 9), of(1));
    assert_eq!(difficulty("Homestead", 9, false, 19), of(0));
    assert_eq!(difficulty("Homestead", 9, false, 100_000), of(-99));
    assert_eq!(difficulty("Byzantium", 9, false, 8), of(1));
    assert_eq!(difficulty("Byzantium", 9, true, 8), of(2));
    assert_eq!(difficulty("Byzantium", 9, true, 26), of(0));
    assert_eq!(difficulty("Byzantium", 9, false, u64::MAX - 1000), of(-99));
}

#[test]
fn the_bomb_is_delayed_by_forks() {
    let bomb = |network, number| difficulty(network, number, false, 9) - difficulty(network, 9, false, 9);
    assert_eq!(bomb("Homestead", 199_999), U256::ZERO);
    assert_eq!(bomb("Homestead", 1_200_000), U256::from(1u64 << 10));
    for (network, delay) in [
        ("Byzantium", 3_000_000),
        ("ConstantinopleFix", 5_000_000),
        ("Istanbul", 5_000_000),
        ("MuirGlacier", 9_000_000),
        ("Berlin", 9_000_000),
        ("London", 9_700_000),
        ("ArrowGlacier", 10_700_000),
        ("GrayGlacier", 11_400_000),
    ] {
        assert_eq!(bomb(network, delay + 1_199_999), U256::from(1u64 << 9), "{network}");
        assert_eq!(bomb(network, delay + 1_200_000), U256::from(1u64 << 10), "{network}");
    }
}

#[test]
fn a_difficulty_that_no_header_can_hold_is_refused_and_not_cut_off() {
    let mut chain = Chain::of("Frontier");
    let parent = std::sync::Arc::make_mut(chain.ancestors.first_mut().unwrap());
    // The bomb alone: it exceeds 2^256 at about block 25,800,000.
    parent.header.number = 26_000_000;
    let next = Header { difficulty: U256::MAX, number: 26_000_001, ..chain.header_below() };
    let refused = chain.check(&Block::new(next, vec![], Ommers::Headers(vec![]), None)).unwrap_err();
    assert!(refused.to_string().contains("difficulty: would have to be 2^256 or more"), "{refused}");
}

#[test]
fn a_mainnet_block_has_the_difficulty_that_is_computed() {
    // Blocks 1 and 2 of mainnet.
    let parent = Header {
        number: 1,
        timestamp: 1_438_269_988,
        difficulty: U256::from(17_171_480_576u64),
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        ..Header::default()
    };
    let spec = ChainSpec::mainnet();
    let second = next_difficulty(&parent, 1_438_270_017, spec.after(U256::ZERO));
    assert_eq!(second, Some(U256::from(17_163_096_064u64)));
}

#[test]
fn an_ommer_is_a_new_child_of_an_earlier_ancestor() {
    let mut chain = Chain::of("Byzantium");
    let grandparent = chain.ancestors.get(1).unwrap().header.clone();
    let ommer = Header { beneficiary: [7; 20].into(), ..chain.header_on(&grandparent) };
    let refused =
        |chain: &Chain, ommers: Vec<Header>| chain.check(&chain.next(ommers)).map_err(|e| e.to_string());
    assert_eq!(refused(&chain, vec![ommer.clone()]), Ok(()));
    let twice = refused(&chain, vec![ommer.clone(), ommer.clone()]).unwrap_err();
    assert!(twice.contains("second time"), "{twice}");
    let parent = refused(&chain, vec![chain.parent().clone()]).unwrap_err();
    assert!(parent.contains("is an ancestor"), "{parent}");
    let sibling = Header { beneficiary: [7; 20].into(), ..chain.header_on(chain.parent()) };
    let sibling = refused(&chain, vec![sibling]).unwrap_err();
    assert!(sibling.contains("does not descend"), "{sibling}");
    let wrong = Header { gas_limit: 4999, ..ommer.clone() };
    let wrong = refused(&chain, vec![wrong]).unwrap_err();
    assert!(wrong.contains("gasLimit"), "{wrong}");
    chain.push(chain.next(vec![ommer.clone()]));
    let again = refused(&chain, vec![ommer]).unwrap_err();
    assert!(again.contains("second time"), "{again}");
}

#[test]
fn a_block_has_at_most_two_ommers() {
    let chain = Chain::of("Byzantium");
    let grandparent = chain.ancestors.get(1).unwrap().header.clone();
    let ommer = |byte| Header { beneficiary: [byte; 20].into(), ..chain.header_on(&grandparent) };
    assert_eq!(chain.check(&chain.next(vec![ommer(1), ommer(2)])), Ok(()));
    assert!(chain.check(&chain.next(vec![ommer(1), ommer(2), ommer(3)])).is_err());
}

#[test]
fn ommers_older_than_six_generations_are_refused() {
    let mut chain = Chain::of("Byzantium");
    while chain.ancestors.len() < MAX_ANCESTORS {
        chain.push(chain.next(vec![]));
    }
    let oldest = chain.ancestors.last().unwrap().header.clone();
    let ommer = Header { beneficiary: [7; 20].into(), ..chain.header_on(&oldest) };
    assert_eq!(chain.check(&chain.next(vec![ommer.clone()])), Ok(()));
    chain.push(chain.next(vec![]));
    assert!(chain.check(&chain.next(vec![ommer])).is_err());
}

/// The base fee after London's first two blocks, from a genesis with this base fee and gas use.
fn base_fee_after(base_fee: u64, gas_used: u64, gas_limit: u64) -> u128 {
    let spec = ChainSpec::of_network("London").unwrap();
    let parent = Header { base_fee_per_gas: Some(base_fee), gas_used, gas_limit, ..Header::default() };
    next_base_fee(&parent, spec.after(U256::ZERO)).unwrap()
}

#[test]
fn a_base_fee_beyond_64_bits_is_refused_and_not_wrapped() {
    // One eighth more than the greatest number of 64 bits.
    let most = u128::from(u64::MAX);
    assert_eq!(base_fee_after(u64::MAX, 30_000_000, 30_000_000), most + most / 8);
    let mut chain = Chain::of("London");
    let parent = std::sync::Arc::make_mut(chain.ancestors.first_mut().unwrap());
    parent.header.base_fee_per_gas = Some(u64::MAX);
    parent.header.gas_used = parent.header.gas_limit;
    let wrapped = u64::try_from((most + most / 8) & most).unwrap();
    let next = Header { number: 4, base_fee_per_gas: Some(wrapped), ..chain.header_below() };
    let difficulty = next_difficulty(chain.parent(), next.timestamp, chain.spec.after(U256::ZERO)).unwrap();
    let next = Header { difficulty, ..next };
    let refused = chain.check(&Block::new(next, vec![], Ommers::Headers(vec![]), None)).unwrap_err();
    assert!(refused.to_string().contains("must be 20752587082923245566"), "{refused}");
}

#[test]
fn base_fees_are_those_of_alloy_where_its_64_bits_hold_them() {
    use alloy_eips::eip1559::{BaseFeeParams, calc_next_block_base_fee};
    for base_fee in [0, 1, 7, 8, 1_000_000_000, 1 << 60] {
        for gas_used in [0, 1, 14_999_999, 15_000_000, 15_000_001, 29_999_999, 30_000_000] {
            let expected =
                calc_next_block_base_fee(gas_used, 30_000_000, base_fee, BaseFeeParams::ethereum());
            assert_eq!(base_fee_after(base_fee, gas_used, 30_000_000), u128::from(expected));
        }
    }
}

#[test]
fn a_parent_whose_target_is_no_gas_keeps_the_base_fee() {
    for (gas_limit, gas_used) in [(0, 0), (1, 0), (1, 1)] {
        assert_eq!(base_fee_after(1_000, gas_used, gas_limit), 1_000);
    }
}

#[test]
fn excess_blob_gas_is_that_of_alloy_where_its_64_bits_hold_it() {
    for network in ["Cancun", "Prague", "Osaka", "BPO1", "BPO2"] {
        let spec = ChainSpec::of_network(network).unwrap();
        let params = spec.blob_params(0).unwrap();
        for excess in [0, 1 << 17, 3 << 17, 100 << 17, 400 << 17] {
            // With a base fee of 16 wei the reserve price of EIP-7918 is the lowest price of blobs.
            let parents = [
                (0, 7),
                (3, 7),
                (6, 1 << 40),
                (9, 7),
                (9, 15),
                (9, 16),
                (9, 17),
                (9, 1 << 50),
                (21, 1 << 30),
            ];
            for (blobs, base_fee) in parents {
                let used = blobs << 17;
                let parent = Header {
                    excess_blob_gas: Some(excess),
                    blob_gas_used: Some(used),
                    base_fee_per_gas: Some(base_fee),
                    ..Header::default()
                };
                let expected = params.next_block_excess_blob_gas_osaka(excess, used, base_fee);
                let found = next_excess_blob_gas(&parent, 0, &spec);
                assert_eq!(found, Some(u128::from(expected)), "{network} {excess} {blobs} {base_fee}");
            }
        }
    }
}

#[test]
fn excess_blob_gas_beyond_64_bits_is_not_wrapped() {
    let spec = ChainSpec::of_network("Cancun").unwrap();
    let parent =
        Header { excess_blob_gas: Some(u64::MAX), blob_gas_used: Some(1 << 20), ..Header::default() };
    let expected = u128::from(u64::MAX) + (1 << 20) - (3 << 17);
    assert_eq!(next_excess_blob_gas(&parent, 0, &spec), Some(expected));
}

#[test]
fn blob_gas_dearer_than_128_bits_is_refused() {
    let mut chain = Chain::of("Cancun");
    // The price grows by a factor of e for every 3,338,477 gas: with 90 such amounts it exceeds 2^128.
    let excess = 90 * 3_338_477;
    std::sync::Arc::make_mut(chain.ancestors.first_mut().unwrap()).header.excess_blob_gas = Some(excess);
    let refused =
        chain.with(|header| header.parent_hash = chain.ancestors.first().unwrap().hash).unwrap_err();
    assert!(refused.to_string().contains("2^128 wei or more"), "{refused}");
}

#[test]
fn a_chain_that_refuses_the_dao_fork_refuses_the_first_ten_blocks_that_carry_its_mark() {
    use alloy_hardforks::EthereumHardfork as Fork;
    use common::chain_spec::{Activation, Schedule};
    let refused = |number: u64| {
        let mut chain = Chain::of("Homestead");
        let forks = vec![(Fork::Homestead, Activation::Block(0)), (Fork::Dao, Activation::Refused(10))];
        let schedule = Schedule {
            chain_id: 1,
            terminal_total_difficulty: None,
            forks,
            blobs: vec![],
            deposit_contract: None,
        };
        chain.spec = ChainSpec::from_schedule(schedule).unwrap();
        let parent = std::sync::Arc::make_mut(chain.ancestors.first_mut().unwrap());
        parent.header.number = number - 1;
        parent.hash = parent.header.hash_slow();
        assert_eq!(chain.with(|header| header.extra_data = Bytes::from_static(b"another")), Ok(()));
        chain.refused_for(|header| header.extra_data = Bytes::from_static(b"dao-hard-fork"))
    };
    assert_eq!([9, 10, 19, 20].map(refused), ["nothing", "extraData", "extraData", "nothing"]);
}
