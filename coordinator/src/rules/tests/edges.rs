//! The edges of the rules: the last legal value, and the first illegal one.

use super::*;

/// A chain whose parent is changed but keeps its hash, because the rules find the parent by its hash.
fn with_parent(network: &str, change: impl FnOnce(&mut Header)) -> Chain {
    let mut chain = Chain::of(network);
    change(&mut std::sync::Arc::make_mut(chain.ancestors.first_mut().unwrap()).header);
    chain
}

impl Chain {
    /// The field that the rejection names if a header with this change follows the changed parent. All
    /// other fields keep the rules.
    fn follows(&self, change: impl FnOnce(&mut Header)) -> &'static str {
        let mut header = self.header_on(self.parent());
        header.parent_hash = self.ancestors.first().unwrap().hash;
        change(&mut header);
        match self.check(&Block::new(header, vec![], Ommers::Headers(vec![]), None)) {
            Err(Rejection::Block { field, .. }) => field,
            _ => "nothing",
        }
    }
}

#[test]
fn the_gas_limit_has_a_least_and_a_most_however_small_the_step() {
    let low = with_parent("Istanbul", |parent| parent.gas_limit = 5002);
    assert_eq!(low.follows(|header| header.gas_limit = 5000), "nothing");
    assert_eq!(low.follows(|header| header.gas_limit = 4999), "gasLimit");
    let most = (1 << 63) - 1;
    let high = with_parent("Istanbul", |parent| parent.gas_limit = most - 1);
    assert_eq!(high.follows(|header| header.gas_limit = most), "nothing");
    assert_eq!(high.follows(|header| header.gas_limit = most + 1), "gasLimit");
}

#[test]
fn a_block_may_use_all_of_its_gas() {
    let chain = Chain::of("Cancun");
    assert_eq!(chain.with(|header| header.gas_used = header.gas_limit), Ok(()));
}

#[test]
fn only_londons_first_block_doubles_the_gas_limit() {
    let mut chain = Chain::of("BerlinToLondonAt5");
    chain.push(chain.next(vec![]));
    let mut first = chain.header_on(chain.parent());
    first.gas_limit *= 2;
    chain.push(Block::new(first, vec![], Ommers::Headers(vec![]), None));
    assert_eq!(chain.with(|_| ()), Ok(()));
    assert_eq!(chain.refused_for(|header| header.gas_limit *= 2), "gasLimit");
}

#[test]
fn a_base_fee_from_before_london_does_not_count() {
    // Only a genesis can have one: every other header of that time is rejected for it.
    let chain = with_parent("BerlinToLondonAt5", |parent| {
        parent.number = 4;
        parent.base_fee_per_gas = Some(7);
    });
    let double = |header: &mut Header| header.gas_limit *= 2;
    assert_eq!(chain.header_on(chain.parent()).base_fee_per_gas, Some(1_000_000_000));
    assert_eq!(chain.follows(double), "nothing");
}

#[test]
fn the_largest_encoding_of_osaka_is_legal() {
    let chain = Chain::of("Osaka");
    let check = |length| check_block(&chain.next(vec![]), length, &chain.parentage(), &chain.spec);
    assert_eq!(check(MAX_ENCODED_BLOCK), Ok(()));
    assert!(check(MAX_ENCODED_BLOCK + 1).is_err());
}

#[test]
fn every_later_field_is_refused_before_its_fork_and_demanded_from_it_on() {
    type Change = fn(&mut Header);
    let fields: [(&str, &str, &str, Change, Change); 6] = [
        (
            "baseFeePerGas",
            "Berlin",
            "London",
            |h| h.base_fee_per_gas = Some(7),
            |h| h.base_fee_per_gas = None,
        ),
        (
            "withdrawalsRoot",
            "Paris",
            "Shanghai",
            |h| h.withdrawals_root = Some(EMPTY_WITHDRAWALS),
            |h| h.withdrawals_root = None,
        ),
        ("blobGasUsed", "Shanghai", "Cancun", |h| h.blob_gas_used = Some(0), |h| h.blob_gas_used = None),
        (
            "excessBlobGas",
            "Shanghai",
            "Cancun",
            |h| h.excess_blob_gas = Some(0),
            |h| h.excess_blob_gas = None,
        ),
        (
            "parentBeaconBlockRoot",
            "Shanghai",
            "Cancun",
            |h| h.parent_beacon_block_root = Some(B256::ZERO),
            |h| h.parent_beacon_block_root = None,
        ),
        (
            "requestsHash",
            "Cancun",
            "Prague",
            |h| h.requests_hash = Some(B256::ZERO),
            |h| h.requests_hash = None,
        ),
    ];
    for (field, before, from, set, clear) in fields {
        assert_eq!(Chain::of(before).refused_for(set), field, "{before}");
        assert_eq!(Chain::of(from).refused_for(clear), field, "{from}");
    }
}

#[test]
fn fields_of_amsterdam_are_refused() {
    let chain = Chain::of("Osaka");
    let list = |header: &mut Header| header.block_access_list_hash = Some(B256::ZERO);
    assert_eq!(chain.refused_for(list), "blockAccessListHash");
    assert_eq!(chain.refused_for(|header| header.slot_number = Some(1)), "slotNumber");
}

/// The difficulty of the block that follows this parent after `elapsed` seconds.
fn difficulty_after(network: &str, parent: Header, elapsed: u64) -> U256 {
    let spec = ChainSpec::of_network(network).unwrap();
    let header = Header { timestamp: 1000, ommers_hash: EMPTY_OMMER_ROOT_HASH, ..parent };
    next_difficulty(&header, 1000 + elapsed, spec.after(U256::ZERO)).unwrap()
}

#[test]
fn difficulty_does_not_fall_below_its_minimum_and_the_bomb_comes_on_top() {
    let minimum = U256::from(131_072);
    let parent = Header { number: 7, difficulty: minimum, ..Header::default() };
    assert_eq!(difficulty_after("Frontier", parent.clone(), 1000), minimum);
    let bombed = Header { number: 1_199_999, ..parent };
    assert_eq!(difficulty_after("Homestead", bombed, 1000), minimum + U256::from(1 << 10));
}

#[test]
fn a_fork_holds_from_its_own_block_on() {
    // Byzantium's first block: its parent has an ommer, which counts from here on (EIP-100).
    let spec = ChainSpec::of_network("EIP158ToByzantiumAt5").unwrap();
    let parent = |number: u64| Header {
        number,
        timestamp: 1000,
        difficulty: U256::from(2_048_000_000u64),
        ommers_hash: B256::ZERO,
        ..Header::default()
    };
    let next =
        |number: u64| -> U256 { next_difficulty(&parent(number - 1), 1008, spec.after(U256::ZERO)).unwrap() };
    assert_eq!(next(4), U256::from(2_049_000_000u64));
    assert_eq!(next(5), U256::from(2_050_000_000u64));
}

#[test]
fn the_bomb_is_delayed_from_byzantiums_own_block_on() {
    let spec = ChainSpec::mainnet();
    let next = |number: u64| {
        let difficulty = U256::from(2_048_000_000u64);
        let ommers_hash = EMPTY_OMMER_ROOT_HASH;
        let parent =
            Header { number: number - 1, timestamp: 1000, difficulty, ommers_hash, ..Header::default() };
        let next: U256 = next_difficulty(&parent, 1008, spec.after(U256::ZERO)).unwrap();
        next - U256::from(2_049_000_000u64)
    };
    assert_eq!(next(4_369_999), U256::from(1u64 << 41));
    assert_eq!(next(4_370_000), U256::from(1u64 << 11));
}

#[test]
fn more_ancestors_than_ommers_may_look_back_to_do_not_help() {
    let mut chain = Chain::of("Byzantium");
    let oldest = chain.ancestors.last().unwrap().clone();
    while chain.ancestors.len() < MAX_ANCESTORS {
        chain.push(chain.next(vec![]));
    }
    chain.push(chain.next(vec![]));
    // Eight of them, while only seven count.
    chain.ancestors.push(oldest.clone());
    let ommer = Header { beneficiary: [7; 20].into(), ..chain.header_on(&oldest.header) };
    let refused = chain.check(&chain.next(vec![ommer])).unwrap_err().to_string();
    assert!(refused.contains("does not descend"), "{refused}");
}

#[test]
fn a_chain_that_refuses_the_dao_fork_refuses_its_mark_in_ten_blocks() {
    let mut chain = Chain::of("Homestead");
    let config = r#"{"chainId": 1, "homesteadBlock": 0, "daoForkBlock": 5, "daoForkSupport": false}"#;
    chain.spec = ChainSpec::from_config(&serde_json::from_str(config).unwrap()).unwrap();
    let mark = |header: &mut Header| header.extra_data = Bytes::from_static(b"dao-hard-fork");
    assert_eq!(chain.with(mark), Ok(()));
    chain.push(chain.next(vec![]));
    for number in 5..15 {
        assert_eq!(chain.refused_for(mark), "extraData", "{number}");
        chain.push(chain.next(vec![]));
    }
    assert_eq!(chain.with(mark), Ok(()));
}
