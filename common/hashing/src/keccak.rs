//! Keccak-256 of several messages at once: the lanes of a vector register hold the same word of as many states.
//!
//! No kept library does this for the padding that Ethereum uses, on stable Rust and with the instructions of
//! the machine that runs. The permutation is that of the Keccak reference, version 3.0, sections 1.2 and 2.

use alloy_primitives::{B256, keccak256};
use fearless_simd::prelude::*;
use fearless_simd::{Level, Simd, dispatch};

/// The bytes of a message that one permutation absorbs.
const RATE: usize = 136;

/// The same in words.
const RATE_WORDS: usize = RATE / 8;

/// The words of a hash.
const HASH_WORDS: usize = 4;

/// The most lanes of any machine.
const MOST_LANES: usize = 8;

/// The fewest messages that are faster hashed at once than one by one.
const WORTH_LANES: usize = 3;

/// The constants of the rounds.
const ROUNDS: [u64; 24] = [
    0x0000_0000_0000_0001,
    0x0000_0000_0000_8082,
    0x8000_0000_0000_808a,
    0x8000_0000_8000_8000,
    0x0000_0000_0000_808b,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8009,
    0x0000_0000_0000_008a,
    0x0000_0000_0000_0088,
    0x0000_0000_8000_8009,
    0x0000_0000_8000_000a,
    0x0000_0000_8000_808b,
    0x8000_0000_0000_008b,
    0x8000_0000_0000_8089,
    0x8000_0000_0000_8003,
    0x8000_0000_0000_8002,
    0x8000_0000_0000_0080,
    0x0000_0000_0000_800a,
    0x8000_0000_8000_000a,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8080,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8008,
];

/// The Keccak-256 hash of each message, in order. Messages of similar lengths are hashed together.
///
/// Processors with fewer than four lanes hash one by one, as `alloy_primitives::keccak256` does.
#[must_use]
pub fn keccak256_each<M: AsRef<[u8]>>(messages: &[M]) -> Vec<B256> {
    let mut hashed: Vec<Message<'_>> =
        messages.iter().enumerate().map(|(place, bytes)| Message { place, bytes: bytes.as_ref() }).collect();
    hashed.sort_unstable_by_key(Message::last_block);
    let mut hashes = vec![B256::ZERO; messages.len()];
    let mut give = |place: usize, hash| {
        if let Some(slot) = hashes.get_mut(place) {
            *slot = hash;
        }
    };
    dispatch!(Level::new(), simd => hash_all(simd, &hashed, &mut give));
    hashes
}

/// A message, and its place among all.
#[derive(Debug, Clone, Copy)]
struct Message<'m> {
    place: usize,
    bytes: &'m [u8],
}

impl Message<'_> {
    /// The index of the block that contains the padding.
    fn last_block(&self) -> usize {
        self.bytes.len() / RATE
    }

    /// A block of the padded message.
    fn block(&self, index: usize) -> [u8; RATE] {
        let (blocks, rest) = self.bytes.as_chunks::<RATE>();
        if let Some(block) = blocks.get(index) {
            return *block;
        }
        let mut block = [0; RATE];
        if let Some((message, padding)) = block.split_at_mut_checked(rest.len()) {
            message.copy_from_slice(rest);
            padding.iter_mut().take(1).for_each(|byte| *byte = 1);
        }
        block[RATE - 1] |= 0x80;
        block
    }
}

#[inline(always)]
fn hash_all<S: Simd>(simd: S, messages: &[Message<'_>], give: &mut impl FnMut(usize, B256)) {
    let lanes = S::u64s::LEN;
    let at_once = (4..=MOST_LANES).contains(&lanes);
    for group in messages.chunks(lanes.max(1)) {
        if at_once && group.len() >= WORTH_LANES {
            hash_group(simd, group, give);
        } else {
            for message in group {
                give(message.place, keccak256(message.bytes));
            }
        }
    }
}

/// Hashes one message in each lane. The states of lanes whose messages have ended are permuted on, and not used.
#[inline(always)]
fn hash_group<S: Simd>(simd: S, messages: &[Message<'_>], give: &mut impl FnMut(usize, B256)) {
    let mut state = [S::u64s::splat(simd, 0); 25];
    let mut words = [[0_u64; MOST_LANES]; RATE_WORDS];
    let last = messages.iter().map(Message::last_block).max().unwrap_or_default();
    for index in 0..=last {
        for (lane, message) in
            messages.iter().enumerate().filter(|(_, message)| index <= message.last_block())
        {
            let block = message.block(index);
            for (word, bytes) in words.iter_mut().zip(block.as_chunks::<8>().0) {
                if let Some(word) = word.get_mut(lane) {
                    *word = u64::from_le_bytes(*bytes);
                }
            }
        }
        for (state, words) in state.iter_mut().zip(&words) {
            let (words, _) = words.split_at(S::u64s::LEN);
            *state ^= S::u64s::from_slice(simd, words);
        }
        state = permuted(simd, state);
        for (lane, message) in
            messages.iter().enumerate().filter(|(_, message)| index == message.last_block())
        {
            let mut hash = B256::ZERO;
            for (bytes, state) in hash.as_chunks_mut::<8>().0.iter_mut().zip(state.iter().take(HASH_WORDS)) {
                *bytes = state.as_slice().get(lane).copied().unwrap_or_default().to_le_bytes();
            }
            give(message.place, hash);
        }
    }
}

#[inline(always)]
fn permuted<S: Simd>(simd: S, mut state: [S::u64s; 25]) -> [S::u64s; 25] {
    for constant in ROUNDS {
        state = round(simd, state, constant);
    }
    state
}

#[inline(always)]
fn rotated<S: Simd>(word: S::u64s, by: u32) -> S::u64s {
    if by == 0 { word } else { (word << by) | (word >> (64 - by)) }
}

/// What theta adds to each word of a column.
#[inline(always)]
fn parities<S: Simd>(a: &[S::u64s; 25]) -> [S::u64s; 5] {
    let c = [
        a[0] ^ a[5] ^ a[10] ^ a[15] ^ a[20],
        a[1] ^ a[6] ^ a[11] ^ a[16] ^ a[21],
        a[2] ^ a[7] ^ a[12] ^ a[17] ^ a[22],
        a[3] ^ a[8] ^ a[13] ^ a[18] ^ a[23],
        a[4] ^ a[9] ^ a[14] ^ a[19] ^ a[24],
    ];
    [
        c[4] ^ rotated::<S>(c[1], 1),
        c[0] ^ rotated::<S>(c[2], 1),
        c[1] ^ rotated::<S>(c[3], 1),
        c[2] ^ rotated::<S>(c[4], 1),
        c[3] ^ rotated::<S>(c[0], 1),
    ]
}

/// One round of the permutation: theta; rho and pi; chi and iota. Word `x + 5 * y` is at column x, row y.
#[inline(always)]
fn round<S: Simd>(simd: S, a: [S::u64s; 25], constant: u64) -> [S::u64s; 25] {
    let d = parities::<S>(&a);
    let moved = |word: S::u64s, parity: S::u64s, by: u32| rotated::<S>(word ^ parity, by);
    let b = [
        moved(a[0], d[0], 0),
        moved(a[6], d[1], 44),
        moved(a[12], d[2], 43),
        moved(a[18], d[3], 21),
        moved(a[24], d[4], 14),
        moved(a[3], d[3], 28),
        moved(a[9], d[4], 20),
        moved(a[10], d[0], 3),
        moved(a[16], d[1], 45),
        moved(a[22], d[2], 61),
        moved(a[1], d[1], 1),
        moved(a[7], d[2], 6),
        moved(a[13], d[3], 25),
        moved(a[19], d[4], 8),
        moved(a[20], d[0], 18),
        moved(a[4], d[4], 27),
        moved(a[5], d[0], 36),
        moved(a[11], d[1], 10),
        moved(a[17], d[2], 15),
        moved(a[23], d[3], 56),
        moved(a[2], d[2], 62),
        moved(a[8], d[3], 55),
        moved(a[14], d[4], 39),
        moved(a[15], d[0], 41),
        moved(a[21], d[1], 2),
    ];
    let mixed = |x: S::u64s, y: S::u64s, z: S::u64s| x ^ (!y & z);
    [
        mixed(b[0], b[1], b[2]) ^ S::u64s::splat(simd, constant),
        mixed(b[1], b[2], b[3]),
        mixed(b[2], b[3], b[4]),
        mixed(b[3], b[4], b[0]),
        mixed(b[4], b[0], b[1]),
        mixed(b[5], b[6], b[7]),
        mixed(b[6], b[7], b[8]),
        mixed(b[7], b[8], b[9]),
        mixed(b[8], b[9], b[5]),
        mixed(b[9], b[5], b[6]),
        mixed(b[10], b[11], b[12]),
        mixed(b[11], b[12], b[13]),
        mixed(b[12], b[13], b[14]),
        mixed(b[13], b[14], b[10]),
        mixed(b[14], b[10], b[11]),
        mixed(b[15], b[16], b[17]),
        mixed(b[16], b[17], b[18]),
        mixed(b[17], b[18], b[19]),
        mixed(b[18], b[19], b[15]),
        mixed(b[19], b[15], b[16]),
        mixed(b[20], b[21], b[22]),
        mixed(b[21], b[22], b[23]),
        mixed(b[22], b[23], b[24]),
        mixed(b[23], b[24], b[20]),
        mixed(b[24], b[20], b[21]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one_by_one<M: AsRef<[u8]>>(messages: &[M]) -> Vec<B256> {
        messages.iter().map(keccak256).collect()
    }

    #[test]
    fn every_length_around_the_borders_of_blocks_is_hashed_right_in_every_lane() {
        let messages: Vec<Vec<u8>> =
            (0..600_usize).map(|length| (0..length).map(|at| (at * 31 + length) as u8).collect()).collect();
        for start in 0..9 {
            let messages: Vec<_> = messages.iter().skip(start).collect();
            assert_eq!(keccak256_each(&messages), one_by_one(&messages));
        }
    }

    #[test]
    fn no_message_and_few_messages_are_hashed() {
        for count in 0..20_u8 {
            let messages: Vec<[u8; 32]> = (0..count).map(|byte| [byte; 32]).collect();
            assert_eq!(keccak256_each(&messages), one_by_one(&messages));
        }
    }

    /// Vectors that the machine which runs this test may lack are computed word by word.
    #[test]
    fn the_permutation_does_not_depend_on_the_machine() {
        let messages: Vec<Vec<u8>> = (0..64_usize).map(|length| vec![7; length * 9]).collect();
        let hashed: Vec<Message<'_>> =
            messages.iter().enumerate().map(|(place, bytes)| Message { place, bytes }).collect();
        let expected = one_by_one(&messages);
        let mut given = 0;
        let mut check = |place: usize, hash| {
            given += 1;
            assert_eq!(Some(&hash), expected.get(place));
        };
        let level = Level::baseline();
        for group in hashed.chunks(2) {
            dispatch!(level, simd => hash_group(simd, group, &mut check));
        }
        assert_eq!(given, messages.len());
    }

    proptest! {
        #[test]
        fn hashes_are_those_of_the_library(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1000), 0..70)
        ) {
            prop_assert_eq!(keccak256_each(&messages), one_by_one(&messages));
        }
    }
}
