//! JSON with errors that name the field, and the few JSON types of Ethereum's files that the libraries
//! lack.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use alloy_primitives::U256;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::error::Category;

use super::{InputError, InputPosition};

/// The remedy for a field that is wrong by itself.
pub(super) const CORRECT_IT: &str = "correct the file or fetch it again";

/// An error in a field.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FieldError {
    /// The field's path; empty if the error concerns the whole value.
    pub(super) field: String,
    /// The fault in the field.
    pub(super) reason: String,
    /// The advice that follows the fault in the message.
    pub(super) remedy: &'static str,
}

impl FieldError {
    pub(super) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into(), remedy: CORRECT_IT }
    }

    pub(super) fn at(self, file: &Path, place: InputPosition) -> InputError {
        let Self { field, reason, remedy } = self;
        InputError::Field { file: file.into(), place, field, reason, remedy }
    }

    /// The library reports a missing field at the path of its parent.
    fn from_error(path: &serde_path_to_error::Path, reason: &str) -> Self {
        let mut field = if path.iter().len() == 0 { String::new() } else { path.to_string() };
        let missing = reason.strip_prefix("missing field `").and_then(|rest| rest.split_once('`'));
        if let Some((name, position)) = missing {
            if !field.is_empty() {
                field.push('.');
            }
            field.push_str(name);
            return Self::new(field, format!("missing{position}"));
        }
        Self::new(field, reason)
    }
}

/// The bytes without the byte order mark that some editors write.
pub(super) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Decodes a whole file.
pub(super) fn from_bytes<T: DeserializeOwned>(file: &Path, bytes: &[u8]) -> Result<T, InputError> {
    let mut deserializer = serde_json::Deserializer::from_slice(without_mark(bytes));
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().clone();
        let source = error.into_inner();
        match source.classify() {
            Category::Data => {
                FieldError::from_error(&path, &source.to_string()).at(file, InputPosition::default())
            }
            Category::Io | Category::Syntax | Category::Eof => InputError::Json { file: file.into(), source },
        }
    })?;
    deserializer.end().map_err(|source| InputError::Json { file: file.into(), source })?;
    Ok(value)
}

/// Decodes one part of a file.
pub(super) fn from_value<'de, T: Deserialize<'de>>(value: &'de Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().clone();
        FieldError::from_error(&path, &error.into_inner().to_string())
    })
}

/// The entries of an object, in ascending order of their keys. No key may occur twice.
#[derive(Debug)]
pub(super) struct Entries<K, V>(pub(super) Vec<(K, V)>);

impl<K, V> Default for Entries<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, K, V> Deserialize<'de> for Entries<K, V>
where
    K: Deserialize<'de> + Ord + fmt::Display,
    V: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<K, V>(PhantomData<(K, V)>);

impl<'de, K, V> Visitor<'de> for EntriesVisitor<K, V>
where
    K: Deserialize<'de> + Ord + fmt::Display,
    V: Deserialize<'de>,
{
    type Value = Entries<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries: Vec<(K, V)> = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        let twice = entries.iter().zip(entries.iter().skip(1)).find(|((one, _), (next, _))| one == next);
        if let Some(((key, _), _)) = twice {
            return Err(A::Error::custom(format!("{key} is there twice")));
        }
        Ok(Entries(entries))
    }
}

/// A storage slot or value: a quantity (`0x2a`), or 32 bytes with or without leading zeros. Without
/// `0x` only the full length is accepted, because a shorter text might be decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Word(pub(super) U256);

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor {
            expected: "a hexadecimal number of at most 32 bytes, as a string that begins with 0x",
            parse: |text| {
                let digits = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
                    Some(digits) => digits,
                    None if text.len() == 64 => text,
                    None => return None,
                };
                let hexadecimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                let value = if hexadecimal { U256::from_str_radix(digits, 16).ok() } else { None };
                value.map(Word)
            },
        })
    }
}

/// A block number as the key of an object: `0x10` or `16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(pub(super) u64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor {
            expected: "a block number, hexadecimal with 0x or decimal",
            parse: |text| {
                let (digits, radix) = match text.strip_prefix("0x") {
                    Some(digits) => (digits, 16),
                    None => (text, 10),
                };
                // The parser of the standard library would accept a sign.
                let signed = digits.starts_with(['+', '-']);
                if signed { None } else { u64::from_str_radix(digits, radix).ok().map(Number) }
            },
        })
    }
}

struct TextVisitor<T> {
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn word(text: &str) -> Result<Word, FieldError> {
        from_value(&json!(text))
    }

    #[test]
    fn words_are_short_or_full_hexadecimal() {
        let full = format!("{:064x}", 42);
        for text in ["0x2a", "0x2A", "0x0002a", &format!("0x{full}"), &full] {
            assert_eq!(word(text).unwrap(), Word(U256::from(42)), "{text}");
        }
        assert_eq!(word(&format!("0x{}", "f".repeat(64))).unwrap(), Word(U256::MAX));
    }

    #[test]
    fn what_is_no_word_is_refused() {
        let long = format!("0x1{}", "0".repeat(64));
        for text in ["", "0x", "2a", "10", "0xg", "0x-1", "0x_1", "-1", &long] {
            assert!(word(text).is_err(), "{text}");
        }
        assert!(from_value::<Word>(&json!(7)).is_err());
    }

    #[test]
    fn block_numbers_are_hexadecimal_or_decimal() {
        let number = |text: &str| from_value::<Number>(&json!(text)).map(|number| number.0);
        assert_eq!(number("0x10").unwrap(), 16);
        assert_eq!(number("16").unwrap(), 16);
        for text in ["", "0x", "+1", "-1", "0x+1", "1f", "18446744073709551616"] {
            assert!(number(text).is_err(), "{text}");
        }
    }

    #[test]
    fn entries_are_sorted_and_none_is_there_twice() {
        let entries = |text: &str| from_bytes::<Entries<Word, Word>>(Path::new("f"), text.as_bytes());
        let sorted = entries(r#"{"0x2": "0x1", "0x1": "0x0"}"#).unwrap();
        assert_eq!(sorted.0.iter().map(|(key, _)| key.0.to::<u64>()).collect::<Vec<_>>(), [1, 2]);
        let error = entries(r#"{"0x2": "0x1", "0x02": "0x0"}"#).unwrap_err().to_string();
        assert!(error.contains("0x2 is there twice"), "{error}");
    }

    #[test]
    fn content_after_the_end_is_an_error() {
        let error = from_bytes::<Value>(Path::new("f"), b"{} {}").unwrap_err();
        assert!(matches!(error, InputError::Json { .. }), "{error}");
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let deep = "[".repeat(1 << 20);
        let error = from_bytes::<Value>(Path::new("f"), deep.as_bytes()).unwrap_err();
        assert!(matches!(error, InputError::Json { .. }), "{error}");
    }
}
