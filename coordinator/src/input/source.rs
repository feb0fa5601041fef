//! A file's content, unpacked on the way if it is packed, and counted.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

use super::InputError;

/// What a gzip stream begins with.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// How much is read at once.
const BUFFER_BYTES: usize = 1 << 17;

/// The most that is reserved before bytes have come.
const MAX_RESERVE: usize = 1 << 20;

/// The unpacked content of a file.
pub(super) struct Source {
    file: PathBuf,
    reader: BufReader<Box<dyn Read + Send>>,
    packed: bool,
    taken: Arc<AtomicU64>,
    length: Option<u64>,
    delivered: u64,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("file", &self.file)
            .field("packed", &self.packed)
            .field("delivered", &self.delivered)
            .finish_non_exhaustive()
    }
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, InputError> {
        let fault = |source| InputError::Io { file: path.into(), source };
        let file = File::open(path).map_err(fault)?;
        let metadata = file.metadata().map_err(fault)?;
        let length = metadata.is_file().then_some(metadata.len());
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Counted { inner: file, taken: Arc::clone(&taken) };
        let mut source = Self::new(path, Box::new(counted)).map_err(fault)?;
        source.taken = taken;
        source.length = length;
        Ok(source)
    }

    /// The content of bytes that are already in memory; `name` stands for the file in errors.
    fn of_bytes<'a>(name: &Path, bytes: &'a [u8]) -> (bool, Box<dyn Read + 'a>) {
        let _ = name;
        if bytes.starts_with(&GZIP_MAGIC) {
            (true, Box::new(MultiGzDecoder::new(bytes)))
        } else {
            (false, Box::new(bytes))
        }
    }
}
