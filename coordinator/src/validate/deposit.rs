//! Deposit requests (EIP-6110): the deposit contract's events in a block's receipts.
//!
//! On a private chain the contract's address may hold other code, so an event can have any content. The
//! layout is part of the rules: an event of another layout makes the block invalid.

use alloy_eips::eip6110::MAINNET_DEPOSIT_CONTRACT_ADDRESS;
use alloy_primitives::{B256, Bytes, U256, b256};
use common::chain_spec::ActiveSpec;
use common::id::TxIndex;
use common::receipt::Receipts;

use crate::rules::Rejection;

/// The first topic of an event: the hash of `DepositEvent(bytes,bytes,bytes,bytes,bytes)`.
const DEPOSIT_EVENT: B256 = b256!("649bbc62d0e31342afea4e5cd82d4049e7e1ee912fc0889aa790803be39038c5");

/// The length of an event's data, in bytes.
const EVENT_BYTES: usize = 576;

/// The length of a word of the data, in bytes.
const WORD: usize = 32;

/// The event's fields in order: name, start as the data states it, and length, both in bytes.
const FIELDS: [(&str, usize, usize); 5] = [
    ("pubkey", 160, 48),
    ("withdrawal_credentials", 256, 32),
    ("amount", 320, 8),
    ("signature", 384, 96),
    ("index", 512, 8),
];

/// Collects the deposit requests of a block, one after another.
///
/// # Errors
/// [`Rejection::DepositEvent`] for an event of another layout.
pub fn deposits(active: ActiveSpec<'_>, receipts: &Receipts) -> Result<Bytes, Rejection> {
    let contract = active.deposit_contract_address().unwrap_or(MAINNET_DEPOSIT_CONTRACT_ADDRESS);
    let mut requests = Vec::new();
    let undecodable = |error: alloy_rlp::Error| Rejection::Block {
        field: "receipts",
        reason: format!("the logs of a transaction cannot be decoded: {error}"),
    };
    for (index, logs) in receipts.logs_with(contract, DEPOSIT_EVENT).map_err(undecodable)? {
        for (log, position) in logs.iter().zip(0..) {
            if log.address == contract && log.topics().first() == Some(&DEPOSIT_EVENT) {
                append(&log.data.data, &mut requests).map_err(|reason| Rejection::DepositEvent {
                    index: TxIndex(index),
                    log: position,
                    reason,
                })?;
            }
        }
    }
    Ok(requests.into())
}

/// Appends the fields of one event. The bytes that pad a field to whole words are ignored.
fn append(data: &[u8], requests: &mut Vec<u8>) -> Result<(), String> {
    if data.len() != EVENT_BYTES {
        return Err(format!("it has {} bytes, must have {EVENT_BYTES}", data.len()));
    }
    for (position, (name, offset, _)) in FIELDS.iter().enumerate() {
        expect(data, position * WORD, *offset, &format!("the offset of {name}"))?;
    }
    for (name, offset, length) in FIELDS {
        expect(data, offset, length, &format!("the length of {name}"))?;
        let begin = offset + WORD;
        requests.extend_from_slice(data.get(begin..begin + length).unwrap_or_default());
    }
    Ok(())
}

/// Checks that the word at a position has this value.
fn expect(data: &[u8], position: usize, wanted: usize, what: &str) -> Result<(), String> {
    let word = data.get(position..position + WORD).unwrap_or_default();
    let found = U256::from_be_slice(word);
    if found == U256::from(wanted) { Ok(()) } else { Err(format!("{what} is {found}, must be {wanted}")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    /// An event as the deposit contract emits it. Each field consists of one repeated byte of its own.
    fn event() -> Vec<u8> {
        let mut data = vec![0; EVENT_BYTES];
        for (position, (_, offset, length)) in FIELDS.iter().enumerate() {
            data[position * WORD + 30..][..2].copy_from_slice(&u16::try_from(*offset).unwrap().to_be_bytes());
            data[offset + 31] = u8::try_from(*length).unwrap();
            data[offset + WORD..][..*length].fill(u8::try_from(position + 1).unwrap());
        }
        data
    }

    fn parse(data: &[u8]) -> Result<Vec<u8>, String> {
        let mut requests = Vec::new();
        append(data, &mut requests).map(|()| requests)
    }

    #[test]
    fn an_event_gives_its_five_fields_without_their_padding() {
        let expected = [(1u8, 48), (2, 32), (3, 8), (4, 96), (5, 8)];
        let expected: Vec<u8> = expected.iter().flat_map(|(byte, count)| vec![*byte; *count]).collect();
        assert_eq!(parse(&event()).unwrap(), expected);
    }

    #[test]
    fn padding_may_hold_anything() {
        let mut data = event();
        for (_, offset, length) in FIELDS {
            let begin = offset + WORD + length;
            data[begin..begin.next_multiple_of(WORD)].fill(0xff);
        }
        assert_eq!(parse(&data), parse(&event()));
    }

    #[test]
    fn only_events_of_the_contract_are_deposits() {
        use alloy_consensus::{Eip658Value, Header, TxType};
        use alloy_primitives::{Address, Log};
        use common::chain_spec::ChainSpec;
        use common::receipt::EncodedLogs;
        let spec = ChainSpec::of_network("Prague").unwrap();
        let active = spec.at(&Header::default()).deposit_contract_address();
        let contract = active.unwrap_or(MAINNET_DEPOSIT_CONTRACT_ADDRESS);
        let log = |address: Address, topic: B256| Log::new_unchecked(address, vec![topic], event().into());
        let requests = |logs: &[Log]| {
            let logs = EncodedLogs::new(logs);
            let mut receipts = Receipts::default();
            let status = Eip658Value::Eip658(true);
            receipts.push(TxType::Legacy, &status, 21_000, &logs.list, &logs.bloom().unwrap());
            deposits(spec.at(&Header::default()), &receipts).unwrap().len()
        };
        let (deposit, other) = (log(contract, DEPOSIT_EVENT), log(Address::repeat_byte(1), DEPOSIT_EVENT));
        assert_eq!(requests(std::slice::from_ref(&deposit)), 192);
        // The other event is of another contract, or of another kind.
        assert_eq!(requests(&[deposit.clone(), other.clone()]), 192);
        assert_eq!(requests(&[deposit, log(contract, B256::ZERO)]), 192);
        assert_eq!(requests(&[other, log(contract, B256::ZERO)]), 0);
    }

    #[test]
    fn an_event_of_another_length_is_malformed() {
        for data in [&event()[..EVENT_BYTES - 1], &[event(), vec![0]].concat(), &[]] {
            assert!(parse(data).unwrap_err().contains("must have 576"));
        }
    }

    #[test]
    fn every_offset_and_every_length_is_checked_in_all_its_bytes() {
        let words = (0..FIELDS.len()).map(|position| position * WORD).chain(FIELDS.map(|field| field.1));
        for byte in words.flat_map(|word| word..word + WORD) {
            let mut data = event();
            data[byte] ^= 1;
            assert!(parse(&data).is_err(), "byte {byte}");
        }
    }
}
