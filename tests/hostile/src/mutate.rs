//! Makes an input from valid ones: bits flip, parts vanish, repeat, or come from another input, and numbers become
//! the ones that break arithmetic.

use rand::Rng;

/// The longest input that is made, in bytes. Most are as long as what they were made from.
pub const MAX_BYTES: usize = 1 << 16;

/// The most changes to one input.
const MAX_CHANGES: u32 = 8;

/// One in this many inputs is a nest: openings without an end, which must not overflow a stack.
const NEST_EVERY: u32 = 2_000;

/// Bytes that open something in JSON, RLP, protobuf and BCS.
const OPENINGS: [&[u8]; 6] = [b"[", b"{\"a\":", &[0xf8, 0xff], &[0xc1], &[0x0a], &[0x01]];

/// Numbers at the edges of their types.
const EDGES: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Makes an input from `base`, with parts of `other`, into `made`.
pub fn mutate(rng: &mut impl Rng, base: &[u8], other: &[u8], made: &mut Vec<u8>) {
    made.clear();
    if rng.random_ratio(1, NEST_EVERY) {
        return nest(rng, base, made);
    }
    made.extend_from_slice(base);
    for _ in 0..rng.random_range(1..=MAX_CHANGES) {
        change(rng, other, made);
    }
    made.truncate(MAX_BYTES);
}

fn nest(rng: &mut impl Rng, base: &[u8], made: &mut Vec<u8>) {
    let place = rng.random_range(0..=base.len());
    made.extend_from_slice(base.get(..place).unwrap_or_default());
    let opening = OPENINGS.get(rng.random_range(0..OPENINGS.len())).copied().unwrap_or_default();
    while made.len() + opening.len() <= MAX_BYTES {
        made.extend_from_slice(opening);
    }
}

fn change(rng: &mut impl Rng, other: &[u8], made: &mut Vec<u8>) {
    let at = rng.random_range(0..=made.len());
    let length = |rng: &mut _, most: usize| Rng::random_range(rng, 0..=most.min(64));
    match rng.random_range(0..10) {
        0 => flip(rng, made),
        1 => {
            if let Some(byte) = made.get_mut(at) {
                *byte = rng.random();
            }
        }
        2 => made.truncate(at),
        3 => {
            let end = at + length(rng, made.len() - at);
            made.drain(at..end);
        }
        4 => {
            let end = at + length(rng, made.len() - at);
            let part = made.get(at..end).unwrap_or_default().to_vec();
            insert(made, at, &part);
        }
        5 => {
            let bytes: Vec<u8> = (0..length(rng, 16)).map(|_| rng.random()).collect();
            insert(made, at, &bytes);
        }
        6 => {
            let from = rng.random_range(0..=other.len());
            let end = from + length(rng, other.len() - from);
            insert(made, at, other.get(from..end).unwrap_or_default());
        }
        7 => overwrite(made, at, &number(rng)),
        8 => insert(made, at, &number(rng)),
        _ => flip(rng, made),
    }
}

fn flip(rng: &mut impl Rng, made: &mut [u8]) {
    if made.is_empty() {
        return;
    }
    let at = rng.random_range(0..made.len());
    if let Some(byte) = made.get_mut(at) {
        *byte ^= 1 << rng.random_range(0..8);
    }
}

fn insert(made: &mut Vec<u8>, at: usize, part: &[u8]) {
    let at = at.min(made.len());
    made.splice(at..at, part.iter().copied());
}

fn overwrite(made: &mut [u8], at: usize, part: &[u8]) {
    for (place, byte) in made.iter_mut().skip(at).zip(part) {
        *place = *byte;
    }
}

/// A number at an edge, in one of the forms in which formats write numbers.
fn number(rng: &mut impl Rng) -> Vec<u8> {
    let edge = EDGES.get(rng.random_range(0..EDGES.len())).copied().unwrap_or_default();
    match rng.random_range(0..6) {
        0 => edge.to_le_bytes().to_vec(),
        1 => edge.to_be_bytes().to_vec(),
        2 => (edge as u32).to_le_bytes().to_vec(),
        3 => edge.to_string().into_bytes(),
        4 => format!("{edge:#x}").into_bytes(),
        _ => varint(edge),
    }
}

/// The variable-length form of protobuf and of BCS's lengths.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn numbers_are_written_as_protobuf_writes_them() {
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(300), [0xac, 0x02]);
        assert_eq!(varint(u64::MAX).len(), 10);
    }

    #[test]
    fn a_seed_makes_the_same_inputs_and_they_differ() {
        let inputs = |seed| -> Vec<Vec<u8>> {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut made = Vec::new();
            let mut make = || {
                mutate(&mut rng, b"a valid input", b"another", &mut made);
                made.clone()
            };
            (0..1_000).map(|_| make()).collect()
        };
        let first = inputs(1);
        assert_eq!(first, inputs(1));
        assert_ne!(first, inputs(2));
        let different: std::collections::BTreeSet<_> = first.iter().collect();
        assert!(different.len() > 500);
        assert!(first.iter().all(|input| input.len() <= MAX_BYTES));
    }
}
