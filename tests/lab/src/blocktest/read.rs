//! Reads one file of a suite into its cases.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::model::Case;

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// The entry under one name of a file.
#[derive(Debug)]
pub enum Entry {
    /// A case to run.
    Case(Box<Case>),
    /// Another kind of entry, with its description.
    Skip(String),
    /// A case that cannot be read, with the reason.
    Broken(String),
}

/// Why a whole file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be opened or read.
    #[error("{file}: {source}", file = file.display())]
    Io {
        /// The path of the file that could not be read.
        file: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The file is larger than the limit.
    #[error("{file} has {size} bytes, more than the limit of {MAX_FILE_BYTES}; split it", file = file.display())]
    TooLarge {
        /// The path of the file, whose content was not read.
        file: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The file is not JSON.
    #[error("{file} is not JSON: {source}; fetch it again", file = file.display())]
    Json {
        /// The path of the file that could not be parsed.
        file: PathBuf,
        /// The parser's error and its position.
        source: serde_json::Error,
    },
}

/// Reads a file. Returns its cases by name.
///
/// # Errors
/// [`FileError`] if the file cannot be read or is not JSON.
pub fn read_file(file: &Path) -> Result<Vec<(String, Entry)>, FileError> {
    let io = |source| FileError::Io { file: file.into(), source };
    let size = fs::metadata(file).map_err(io)?.len();
    if size > MAX_FILE_BYTES {
        return Err(FileError::TooLarge { file: file.into(), size });
    }
    let content = fs::read(file).map_err(io)?;
    if let Ok(cases) = serde_json::from_slice::<BTreeMap<String, Case>>(&content) {
        return Ok(cases.into_iter().map(|(name, case)| (name, classify(case))).collect());
    }
    // A part of the file does not match the format: parse it again, more slowly, to find the entry.
    let value: Value =
        serde_json::from_slice(&content).map_err(|source| FileError::Json { file: file.into(), source })?;
    Ok(one_by_one(value))
}

fn one_by_one(value: Value) -> Vec<(String, Entry)> {
    let not_cases = || vec![(String::new(), Entry::Skip("the file holds no block tests".into()))];
    let Value::Object(entries) = value else { return not_cases() };
    if !entries.values().any(|entry| entry.get("blocks").is_some_and(Value::is_array)) {
        return not_cases();
    }
    entries
        .into_iter()
        .map(|(name, value)| {
            let entry = match serde_path_to_error::deserialize::<_, Case>(value) {
                Ok(case) => classify(case),
                Err(error) => Entry::Broken(format!("{}: {}", error.path(), error.inner())),
            };
            (name, entry)
        })
        .collect()
}

fn classify(case: Case) -> Entry {
    if case.engine_new_payloads.is_some() {
        return Entry::Skip("a test of the engine API, not of blocks".into());
    }
    if case.blocks.is_none() || case.network.is_none() {
        return Entry::Skip("not a block test: it has no blocks or no network".into());
    }
    Entry::Case(Box::new(case))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    fn read(json: &str) -> Result<Vec<(String, Entry)>, FileError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("case.json");
        fs::write(&path, json).unwrap();
        read_file(&path)
    }

    #[test]
    fn a_file_of_another_kind_is_skipped() {
        for json in [r#"{"root_hash": "0x00", "test_cases": []}"#, "[1, 2]", r#"{"a": {"post": {}}}"#] {
            let entries = read(json).unwrap();
            assert!(matches!(entries[0].1, Entry::Skip(_)), "{json}");
        }
    }

    #[test]
    fn a_broken_case_does_not_hide_its_neighbours() {
        let good = r#"{"network": "Cancun", "blocks": []}"#;
        let bad = r#"{"network": "Cancun", "blocks": [{"rlp": "0xzz"}]}"#;
        let entries = read(&format!(r#"{{"bad": {bad}, "good": {good}}}"#)).unwrap();
        let Entry::Broken(reason) = &entries[0].1 else { panic!("{entries:?}") };
        assert!(reason.contains("blocks[0].rlp"), "{reason}");
        assert!(matches!(entries[1].1, Entry::Case(_)));
    }

    #[test]
    fn what_is_no_json_is_an_error_that_names_the_file() {
        assert!(read("{").unwrap_err().to_string().contains("case.json"));
    }
}
