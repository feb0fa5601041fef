//! The block log: what `coordinator serve --data-dir` keeps on disk. Committed blocks in order,
//! each durable before it is acknowledged, and the epoch, raised at every start.
//!
//! The state itself is not stored: at start the blocks are executed again from the genesis. So a
//! restart costs time in proportion to the chain, and nothing that was acknowledged is lost.
//!
//! A record is the length of the block's RLP (8 bytes, little-endian), its BLAKE3 digest (32
//! bytes), and the RLP. A record that the log ends in the middle of was never acknowledged, and is
//! cut off. Anything else that does not add up is damage, and leaves the log untouched.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use alloy_primitives::B256;
use common::block::{Block, MAX_BLOCK_BYTES};
use common::codec::payload_digest;
use common::id::Epoch;

/// Length and digest.
const HEAD_BYTES: usize = 40;

/// What the `genesis` file of a data directory begins with.
const FORMAT: &str = "block-log-1";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Something cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Another process holds it.
    #[error("{} is in use by another coordinator; stop it first, or choose another --data-dir", .0.display())]
    Locked(PathBuf),
    /// It belongs to another chain, or another build's format.
    #[error("{} holds {found:?}, this is {expected:?}: another chain or another format; choose another --data-dir", .path.display())]
    Foreign {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What it would have to say.
        expected: String,
    },
    /// A record does not add up, and is not the last.
    #[error("{} is damaged at byte {offset}: {reason}; restore it from a copy", .path.display())]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}

/// An open data directory, held exclusively.
#[derive(Debug)]
pub struct BlockLog {
    path: PathBuf,
    file: File,
    epoch: Epoch,
    /// Held locked for as long as this lives.
    _lock: File,
}

impl BlockLog {
    /// Opens the directory, or makes it, for the chain of this genesis; hands every block in it to
    /// `replay`, in order; raises the epoch.
    ///
    /// # Errors
    /// [`LogError`], or the first error of `replay`. Blocks are left as they are.
    pub fn open<E: From<LogError>>(
        folder: &Path,
        genesis: B256,
        mut replay: impl FnMut(Block) -> Result<(), E>,
    ) -> Result<Self, E> {
        fs::create_dir_all(folder).map_err(at(folder))?;
        let lock = lock(&folder.join("lock"))?;
        check_genesis(&folder.join("genesis"), genesis)?;
        let path = folder.join("blocks.log");
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(at(&path))?;
        let end = read_all(&path, &mut file, &mut replay)?;
        file.set_len(end).and_then(|()| file.sync_all()).map_err(at(&path))?;
        let epoch = raise_epoch(&folder.join("epoch"))?;
        sync_folder(folder)?;
        Ok(Self { path, file, epoch, _lock: lock })
    }

    /// The term of this start.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Appends a block; when this returns it is durable.
    ///
    /// # Errors
    /// [`LogError::Io`]: the block must not be acknowledged then.
    pub fn append(&mut self, block: &Block) -> Result<(), LogError> {
        let mut payload = Vec::new();
        block.encode(&mut payload);
        let mut record = Vec::with_capacity(HEAD_BYTES + payload.len());
        record.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        record.extend_from_slice(payload_digest(&payload).as_slice());
        record.extend_from_slice(&payload);
        let written = self.file.write_all(&record).and_then(|()| self.file.sync_data());
        written.map_err(at(&self.path))
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> LogError + use<> {
    let path = path.to_owned();
    move |source| LogError::Io { path, source }
}

fn lock(path: &Path) -> Result<File, LogError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(at(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::Locked(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(LogError::Io { path: path.to_owned(), source }),
    }
}

/// Writes a small file so that it is either the old one or the new one.
fn replace(path: &Path, text: &str) -> Result<(), LogError> {
    let part = path.with_extension("part");
    let mut file = File::create(&part).map_err(at(&part))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(at(&part))?;
    fs::rename(&part, path).map_err(at(path))
}

fn sync_folder(folder: &Path) -> Result<(), LogError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

fn check_genesis(path: &Path, genesis: B256) -> Result<(), LogError> {
    let expected = format!("{FORMAT} {genesis}\n");
    match fs::read_to_string(path) {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => {
            let found = found.chars().take(100).collect::<String>().trim_end().to_owned();
            let expected = expected.trim_end().to_owned();
            Err(LogError::Foreign { path: path.to_owned(), found, expected })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => replace(path, &expected),
        Err(source) => Err(LogError::Io { path: path.to_owned(), source }),
    }
}

/// The next epoch: above the stored one, and above that of a coordinator without a data directory
/// that started earlier.
fn raise_epoch(path: &Path) -> Result<Epoch, LogError> {
    let stored = match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(|_| LogError::Damaged {
            path: path.to_owned(),
            offset: 0,
            reason: "it is not a number".into(),
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(source) => return Err(LogError::Io { path: path.to_owned(), source }),
    };
    let mut epoch = Epoch::first();
    epoch.number = epoch.number.max(u64::saturating_add(stored, 1));
    replace(path, &format!("{}\n", epoch.number))?;
    Ok(epoch)
}

/// Reads every whole record; returns where the last one ends.
fn read_all<E: From<LogError>>(
    path: &Path,
    file: &mut File,
    replay: &mut impl FnMut(Block) -> Result<(), E>,
) -> Result<u64, E> {
    let total = file.seek(SeekFrom::End(0)).map_err(at(path))?;
    file.seek(SeekFrom::Start(0)).map_err(at(path))?;
    let mut reader = BufReader::new(&mut *file);
    let mut offset = 0;
    loop {
        let damaged =
            |reason: &str| LogError::Damaged { path: path.to_owned(), offset, reason: reason.into() };
        if total - offset < HEAD_BYTES as u64 {
            break;
        }
        let (mut length, mut digest) = ([0; 8], [0; 32]);
        reader.read_exact(&mut length).map_err(at(path))?;
        reader.read_exact(&mut digest).map_err(at(path))?;
        let length = u64::from_le_bytes(length);
        let end = offset + HEAD_BYTES as u64 + length.min(total);
        if end > total {
            break;
        }
        if length > 2 * MAX_BLOCK_BYTES as u64 {
            return Err(damaged("a record is longer than any block").into());
        }
        let mut payload = vec![0; usize::try_from(length).unwrap_or_default()];
        reader.read_exact(&mut payload).map_err(at(path))?;
        if payload_digest(&payload).0 != digest {
            if end == total {
                break;
            }
            return Err(damaged("a record's digest does not fit").into());
        }
        let mut bytes = payload.as_slice();
        let block = Block::decode(&mut bytes).map_err(|error| damaged(&error.to_string()))?;
        replay(block)?;
        offset = end;
    }
    if offset < total {
        tracing::warn!(log = %path.display(), bytes = total - offset, "cut off a block that was never acknowledged");
    }
    Ok(offset)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_consensus::Header;
    use common::block::Ommers;

    fn block(number: u64) -> Block {
        Block::new(Header { number, ..Default::default() }, vec![], Ommers::Headers(vec![]), None)
    }

    fn open(folder: &Path, genesis: B256) -> Result<(BlockLog, Vec<u64>), LogError> {
        let mut numbers = Vec::new();
        let log = BlockLog::open(folder, genesis, |block| {
            numbers.push(block.header.number);
            Ok::<(), LogError>(())
        })?;
        Ok((log, numbers))
    }

    /// A folder with three blocks.
    fn filled() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, numbers) = open(folder.path(), B256::ZERO).unwrap();
        assert!(numbers.is_empty());
        for number in 1..=3 {
            log.append(&block(number)).unwrap();
        }
        folder
    }

    #[test]
    fn blocks_and_a_higher_epoch_come_back() {
        let folder = filled();
        let (first, numbers) = open(folder.path(), B256::ZERO).unwrap();
        assert_eq!(numbers, [1, 2, 3]);
        let epoch = first.epoch();
        drop(first);
        assert!(open(folder.path(), B256::ZERO).unwrap().0.epoch() > epoch);
    }

    #[test]
    fn two_coordinators_cannot_hold_one_folder() {
        let folder = filled();
        let _first = open(folder.path(), B256::ZERO).unwrap();
        assert!(matches!(open(folder.path(), B256::ZERO), Err(LogError::Locked(_))));
    }

    #[test]
    fn a_torn_end_at_any_byte_loses_only_what_was_not_acknowledged() {
        let folder = filled();
        let path = folder.path().join("blocks.log");
        let whole = fs::read(&path).unwrap();
        let record = whole.len() / 3;
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let (_, numbers) = open(folder.path(), B256::ZERO).unwrap();
            assert_eq!(numbers.len(), length / record, "{length} bytes");
            assert_eq!(fs::metadata(&path).unwrap().len() as usize, length / record * record);
        }
    }

    #[test]
    fn damage_in_the_middle_is_named_and_left_alone() {
        let folder = filled();
        let path = folder.path().join("blocks.log");
        let mut bytes = fs::read(&path).unwrap();
        bytes[HEAD_BYTES + 5] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(open(folder.path(), B256::ZERO), Err(LogError::Damaged { offset: 0, .. })));
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn another_chains_folder_is_refused() {
        let folder = filled();
        assert!(matches!(open(folder.path(), B256::repeat_byte(1)), Err(LogError::Foreign { .. })));
    }
}
