//! A list of encodings in one buffer: most are short, and there are many.

/// Encodings, one after another.
#[derive(Debug, Clone, Default)]
pub struct Encodings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Encodings {
    /// Appends what `encode` appends to the buffer. Returns its length in bytes.
    pub fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        let begin = self.bytes.len();
        encode(&mut self.bytes);
        self.ends.push(self.bytes.len());
        self.bytes.len().saturating_sub(begin)
    }

    /// Removes all encodings. The buffer keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// The encodings in order.
    #[must_use]
    pub fn slices(&self) -> Vec<&[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| self.bytes.get(begin..*end).unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_come_back_in_order_and_empty_ones_are_kept() {
        let mut encodings = Encodings::default();
        for text in ["one", "", "three"] {
            let length = encodings.push(|bytes| bytes.extend_from_slice(text.as_bytes()));
            assert_eq!(length, text.len());
        }
        assert_eq!(encodings.slices(), [b"one".as_slice(), b"", b"three"]);
        encodings.clear();
        assert!(encodings.slices().is_empty());
    }
}
