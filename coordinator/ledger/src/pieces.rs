//! Splits values that may be larger than one record of the database into pieces.
//!
//! The value's own table holds the first piece. A second table holds the others, under the same key and
//! a number. A value of one piece is stored exactly as without pieces.

use super::{LedgerError, damaged};

/// The largest piece, in bytes.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// The largest value, in bytes. It holds the changes of about 120 million storage slots, in both
/// directions.
pub(super) const MAX_VALUE_BYTES: usize = 16 << 30;

/// Splits a value into its first piece and the numbered others.
pub(super) fn cut(bytes: &[u8], piece: usize) -> (&[u8], impl Iterator<Item = (u32, &[u8])>) {
    let (first, rest) = bytes.split_at(bytes.len().min(piece.max(1)));
    (first, (0..).zip(rest.chunks(piece.max(1))))
}

/// Joins the first piece and the others, which must be numbered without a gap.
pub(super) fn join<P: AsRef<[u8]>>(
    what: &str,
    first: &[u8],
    others: impl Iterator<Item = Result<(u32, P), LedgerError>>,
) -> Result<Vec<u8>, LedgerError> {
    let mut bytes = first.to_vec();
    for (expected, piece) in (0_u32..).zip(others) {
        let (number, piece) = piece?;
        if number != expected {
            return Err(damaged(what, format!("piece {expected} of its record is missing")));
        }
        if bytes.len().saturating_add(piece.as_ref().len()) > MAX_VALUE_BYTES {
            return Err(damaged(what, format!("its record is longer than {MAX_VALUE_BYTES} bytes")));
        }
        bytes.extend_from_slice(piece.as_ref());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_value_is_the_same_after_it_was_cut_and_joined() {
        for length in [0, 1, 7, 8, 9, 16, 17, 100] {
            let value: Vec<u8> = (0..length).collect();
            let (first, others) = cut(&value, 8);
            assert!(first.len() <= 8);
            let others: Vec<_> = others.map(Ok).collect();
            assert_eq!(others.len(), (usize::from(length).saturating_sub(8)).div_ceil(8));
            assert_eq!(join("a value", first, others.into_iter()).unwrap(), value);
        }
    }

    #[test]
    fn a_missing_piece_is_damage_and_named() {
        let error = join("block 7", &[1], [Ok((0, [2])), Ok((2, [3]))].into_iter()).unwrap_err();
        assert!(matches!(error, LedgerError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("block 7: piece 1"), "{error}");
    }
}
