//! Encoded logs and receipts, as blocks contain them. The executor of a transaction encodes its logs. The
//! validator encodes the receipt once the gas of the transactions before it is known.
//!
//! Logs and bloom of a shard are claims like everything it returns. They count because the receipts
//! root of the header covers both; without that root the receiver must call [`EncodedLogs::is_sound`].

use alloy_consensus::{Eip658Value, ReceiptEnvelope, TxType};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, B256, Bloom, BloomInput, Bytes, Log};
use alloy_rlp::{Decodable, Encodable, Header};
use hashing::ordered_root;
use serde::{Deserialize, Serialize};

/// The length of a bloom filter in bytes.
const BLOOM_BYTES: usize = 256;

/// The RLP encoding of an empty list.
const EMPTY_LIST: [u8; 1] = [0xc0];

/// The logs of one transaction, encoded, with their bloom filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedLogs {
    /// The RLP list of the logs.
    pub list: Bytes,
    /// The bloom filter: see [`EncodedLogs::bloom`].
    pub bloom: Bytes,
}

impl Default for EncodedLogs {
    fn default() -> Self {
        Self { list: Bytes::from_static(&EMPTY_LIST), bloom: Bytes::new() }
    }
}

impl EncodedLogs {
    /// Encodes logs and computes their bloom filter.
    #[must_use]
    pub fn new(logs: &[Log]) -> Self {
        if logs.is_empty() {
            return Self::default();
        }
        let mut list = Vec::new();
        alloy_rlp::encode_list(logs, &mut list);
        let bloom = alloy_primitives::logs_bloom(logs);
        Self { list: list.into(), bloom: compact(&bloom) }
    }

    /// The bloom filter; `None` if its bytes encode none. They are the positions of the bits that are set,
    /// in ascending order, two big-endian bytes each. From 128 bits on they are the filter itself.
    #[must_use]
    pub fn bloom(&self) -> Option<Bloom> {
        if let Ok(filter) = <[u8; BLOOM_BYTES]>::try_from(self.bloom.as_ref()) {
            return Some(Bloom::new(filter));
        }
        let (positions, rest) = self.bloom.as_chunks::<2>();
        if positions.len() >= BLOOM_BYTES / 2 || !rest.is_empty() {
            return None;
        }
        let mut filter = [0; BLOOM_BYTES];
        for position in positions {
            let position = u16::from_be_bytes(*position);
            *filter.get_mut(usize::from(position / 8))? |= 1 << (position % 8);
        }
        Some(Bloom::new(filter))
    }

    /// The logs.
    ///
    /// # Errors
    /// An RLP error if the bytes are not exactly one list of logs.
    pub fn decode(&self) -> alloy_rlp::Result<Vec<Log>> {
        alloy_rlp::decode_exact(&self.list)
    }

    /// Whether the bytes are a list of logs in their only encoding, with the bloom filter of these logs.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.decode().is_ok_and(|logs| Self::new(&logs) == *self)
    }
}

/// The encoding that [`EncodedLogs::bloom`] reads. A transaction with a few logs sets a few bits.
fn compact(bloom: &Bloom) -> Bytes {
    let mut positions = Vec::new();
    for (word, at) in bloom.as_chunks::<8>().0.iter().zip(0_u16..) {
        // Bit 0 of the first byte becomes bit 0 of the word. Most words are zero.
        let mut bits = u64::from_le_bytes(*word);
        while bits != 0 {
            let position = at * 64 + bits.trailing_zeros() as u16;
            positions.extend_from_slice(&position.to_be_bytes());
            bits &= bits - 1;
        }
    }
    if positions.len() >= BLOOM_BYTES { Bytes::copy_from_slice(bloom.as_slice()) } else { positions.into() }
}

/// Where a receipt lies in the bytes of all receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Whether it is typed, so that a list contains it as a string.
    typed: bool,
    /// The begin of its logs. The bloom filter lies before them.
    logs: usize,
    /// Its end, which is the begin of the next.
    end: usize,
}

/// The receipts of a block in order, each in its EIP-2718 encoding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipts {
    bytes: Vec<u8>,
    places: Vec<Place>,
    bloom: Bloom,
}

impl Receipts {
    /// No receipts, with room for those of `count` transactions.
    #[must_use]
    pub fn with_capacity(count: usize) -> Self {
        Self { bytes: Vec::new(), places: Vec::with_capacity(count), bloom: Bloom::ZERO }
    }

    /// Appends the receipt of the next transaction. `cumulative` is the gas used up to its end.
    pub fn push(&mut self, kind: TxType, status: &Eip658Value, cumulative: u64, logs: &[u8], bloom: &Bloom) {
        let payload_length = status.length() + cumulative.length() + bloom.length() + logs.len();
        let typed = kind != TxType::Legacy;
        if typed {
            self.bytes.push(kind as u8);
        }
        Header { list: true, payload_length }.encode(&mut self.bytes);
        status.encode(&mut self.bytes);
        cumulative.encode(&mut self.bytes);
        bloom.encode(&mut self.bytes);
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(logs);
        self.places.push(Place { typed, logs: begin, end: self.bytes.len() });
        self.bloom |= *bloom;
    }

    /// The number of receipts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The union of the receipts' bloom filters.
    #[must_use]
    pub fn bloom(&self) -> Bloom {
        self.bloom
    }

    /// The EIP-2718 encoding of each receipt.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.places.iter().map(|place| place.end));
        begins.zip(&self.places).map(|(begin, place)| self.bytes.get(begin..place.end).unwrap_or_default())
    }

    /// The root of the trie of these receipts, as a header contains it.
    #[must_use]
    pub fn root(&self) -> B256 {
        ordered_root(&self.iter().collect::<Vec<_>>())
    }

    /// Appends the RLP list of these receipts, as `eth/69` and block stores have it: a typed receipt is a
    /// string in it.
    pub fn encode_list(&self, out: &mut Vec<u8>) {
        let length = |bytes: &[u8], typed: bool| if typed { bytes.length() } else { bytes.len() };
        let payload_length =
            self.iter().zip(&self.places).map(|(bytes, place)| length(bytes, place.typed)).sum();
        let header = Header { list: true, payload_length };
        out.reserve(header.length_with_payload());
        header.encode(out);
        for (bytes, place) in self.iter().zip(&self.places) {
            match place.typed {
                true => bytes.encode(out),
                false => out.extend_from_slice(bytes),
            }
        }
    }

    /// The logs of the receipts whose bloom filters contain this address and this topic, each with the
    /// index of its transaction. Other receipts cannot contain such a log.
    ///
    /// # Errors
    /// An RLP error if such a receipt's logs are not a list of logs.
    pub fn logs_with(&self, address: Address, topic: B256) -> alloy_rlp::Result<Vec<(u32, Vec<Log>)>> {
        let mut wanted = Bloom::from(BloomInput::Raw(address.as_slice()));
        wanted.accrue(BloomInput::Raw(topic.as_slice()));
        let has = |bloom: &Bloom| bloom.contains(&wanted);
        if !has(&self.bloom) {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for (place, index) in self.places.iter().zip(0..) {
            let bloom = place.logs.checked_sub(BLOOM_BYTES).and_then(|at| self.bytes.get(at..place.logs));
            let bloom = bloom.and_then(|bytes| <[u8; BLOOM_BYTES]>::try_from(bytes).ok()).map(Bloom::new);
            if bloom.is_some_and(|bloom| has(&bloom)) {
                let mut logs = self.bytes.get(place.logs..place.end).unwrap_or_default();
                found.push((index, Vec::<Log>::decode(&mut logs)?));
            }
        }
        Ok(found)
    }

    /// The receipts in the library's form.
    ///
    /// # Errors
    /// An error if a receipt's logs are not a list of logs.
    pub fn decode(&self) -> alloy_eips::eip2718::Eip2718Result<Vec<ReceiptEnvelope>> {
        self.iter().map(|mut bytes| ReceiptEnvelope::decode_2718(&mut bytes)).collect()
    }
}

impl<'r> FromIterator<&'r ReceiptEnvelope> for Receipts {
    fn from_iter<I: IntoIterator<Item = &'r ReceiptEnvelope>>(receipts: I) -> Self {
        let mut all = Self::default();
        for receipt in receipts {
            let mut logs = Vec::new();
            alloy_rlp::encode_list(receipt.logs(), &mut logs);
            let status = receipt.as_receipt().map_or(Eip658Value::success(), |receipt| receipt.status);
            let cumulative = receipt.cumulative_gas_used();
            all.push(receipt.tx_type(), &status, cumulative, &logs, receipt.logs_bloom());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_consensus::proofs::calculate_receipt_root;
    use alloy_consensus::{Receipt, TxReceipt as _};
    use proptest::prelude::*;

    fn log(seed: u8, topics: usize, data: usize) -> Log {
        let topics = (0..topics).map(|topic| B256::repeat_byte(seed.wrapping_add(topic as u8))).collect();
        Log::new_unchecked(Address::repeat_byte(seed), topics, vec![seed; data].into())
    }

    fn kind(number: u8) -> TxType {
        [TxType::Legacy, TxType::Eip2930, TxType::Eip1559, TxType::Eip4844, TxType::Eip7702]
            [usize::from(number) % 5]
    }

    fn status(number: u8) -> Eip658Value {
        match number % 3 {
            0 => Eip658Value::PostState(B256::repeat_byte(number)),
            other => Eip658Value::Eip658(other == 1),
        }
    }

    type Drawn = (u8, u8, u64, Vec<(u8, usize, usize)>);

    fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
        let logs = prop::collection::vec((any::<u8>(), 0usize..5, 0usize..70), 0..4);
        prop::collection::vec((any::<u8>(), any::<u8>(), any::<u64>(), logs), 0..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        // Law: encoding, root, list and bloom are those of the library.
        #[test]
        fn the_library_encodes_the_same(receipts in drawn()) {
            let mut ours = Receipts::default();
            let mut theirs = Vec::new();
            for (number, state, gas, logs) in receipts {
                let logs: Vec<Log> = logs.into_iter().map(|(seed, topics, data)| log(seed, topics, data)).collect();
                let encoded = EncodedLogs::new(&logs);
                prop_assert!(encoded.is_sound());
                prop_assert_eq!(encoded.decode().unwrap(), logs.clone());
                ours.push(kind(number), &status(state), gas, &encoded.list, &encoded.bloom().unwrap());
                let receipt = Receipt { status: status(state), cumulative_gas_used: gas, logs };
                theirs.push(ReceiptEnvelope::from_typed(kind(number), receipt.with_bloom()));
            }
            prop_assert_eq!(ours.decode().unwrap(), theirs.clone());
            prop_assert_eq!(ours.root(), calculate_receipt_root(&theirs));
            prop_assert_eq!(&ours, &theirs.iter().collect::<Receipts>());
            let (mut our_list, mut their_list) = (Vec::new(), Vec::new());
            ours.encode_list(&mut our_list);
            alloy_rlp::encode_list(&theirs, &mut their_list);
            prop_assert_eq!(our_list, their_list);
            let bloom = theirs.iter().fold(Bloom::ZERO, |bloom, receipt| bloom | receipt.bloom());
            prop_assert_eq!(ours.bloom(), bloom);
        }
    }

    #[test]
    fn logs_are_found_by_address_and_topic() {
        let mut receipts = Receipts::default();
        for seed in [1u8, 9, 1] {
            let encoded = EncodedLogs::new(&[log(seed, 2, 3)]);
            let bloom = encoded.bloom().unwrap();
            receipts.push(TxType::Eip1559, &Eip658Value::success(), 7, &encoded.list, &bloom);
        }
        let found = receipts.logs_with(Address::repeat_byte(1), B256::repeat_byte(2)).unwrap();
        assert_eq!(found, [(0, vec![log(1, 2, 3)]), (2, vec![log(1, 2, 3)])]);
        assert_eq!(receipts.logs_with(Address::repeat_byte(2), B256::repeat_byte(2)).unwrap(), []);
    }

    #[test]
    fn a_filter_of_many_bits_travels_whole_and_one_of_few_as_positions() {
        let topics = |count: u8| (0..count).map(|seed| log(seed, 4, 0)).collect::<Vec<_>>();
        let (few, many) = (EncodedLogs::new(&topics(1)), EncodedLogs::new(&topics(60)));
        assert!(few.bloom.len() <= 30, "five inputs set at most 15 bits");
        assert_eq!(many.bloom.len(), BLOOM_BYTES);
        assert_eq!(few.bloom().unwrap(), alloy_primitives::logs_bloom(&topics(1)));
        assert_eq!(many.bloom().unwrap(), alloy_primitives::logs_bloom(&topics(60)));
        for bits in [126_u16, 127, 128, 129] {
            let mut filter = Bloom::ZERO;
            for bit in 0..bits {
                filter.0[usize::from(bit / 8)] |= 1 << (bit % 8);
            }
            assert_eq!(EncodedLogs { bloom: compact(&filter), ..few.clone() }.bloom(), Some(filter));
        }
    }

    #[test]
    fn damaged_logs_are_not_sound() {
        let sound = EncodedLogs::new(&[log(1, 2, 3)]);
        let other = EncodedLogs::new(&[log(2, 2, 3)]);
        assert!(EncodedLogs::default().is_sound());
        assert!(!EncodedLogs { bloom: other.bloom, ..sound.clone() }.is_sound());
        assert!(!EncodedLogs { bloom: Bytes::from_static(&[1]), ..sound.clone() }.is_sound());
        for bytes in [&[1][..], &[0, 1, 2], &[0x08, 0], &[0; 255], &[0; 258]] {
            assert_eq!(EncodedLogs { bloom: Bytes::copy_from_slice(bytes), ..sound.clone() }.bloom(), None);
        }
        let cut = sound.list.slice(..sound.list.len() - 1);
        assert!(!EncodedLogs { list: cut, ..sound }.is_sound());
    }
}
