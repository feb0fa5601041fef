//! The content of a file, unpacked if it is packed. It counts the bytes of the file and of the content.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

use super::InputError;

/// The first bytes of a gzip stream.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The size of one read, in bytes.
const BUFFER_BYTES: usize = 1 << 17;

/// The unpacked content of a file, or of bytes in memory.
pub(super) struct Source<'a> {
    file: PathBuf,
    reader: BufReader<Box<dyn Read + Send + 'a>>,
    packed: bool,
    length: Option<u64>,
    taken: Arc<AtomicU64>,
    delivered: u64,
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("file", &self.file)
            .field("packed", &self.packed)
            .field("delivered", &self.delivered)
            .finish_non_exhaustive()
    }
}

impl Source<'static> {
    /// Opens a file and reads its first bytes.
    pub(super) fn open(path: &Path) -> Result<Self, InputError> {
        let fault = |source| InputError::Io { file: path.into(), source };
        let file = File::open(path).map_err(fault)?;
        let metadata = file.metadata().map_err(fault)?;
        let length = metadata.is_file().then_some(metadata.len());
        Self::new(path, file, length)
    }
}

impl<'a> Source<'a> {
    /// The content of `raw`; errors name it `file`.
    pub(super) fn new(
        file: &Path,
        raw: impl Read + Send + 'a,
        length: Option<u64>,
    ) -> Result<Self, InputError> {
        let taken = Arc::new(AtomicU64::new(0));
        let mut raw = Counted { inner: raw, taken: Arc::clone(&taken) };
        let mut start = Vec::new();
        (&mut raw)
            .take(GZIP_MAGIC.len() as u64)
            .read_to_end(&mut start)
            .map_err(|source| InputError::Io { file: file.into(), source })?;
        let packed = start == GZIP_MAGIC;
        let whole = Cursor::new(start).chain(raw);
        let reader: Box<dyn Read + Send + 'a> =
            if packed { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
        let reader = BufReader::with_capacity(BUFFER_BYTES, reader);
        Ok(Self { file: file.into(), reader, packed, length, taken, delivered: 0 })
    }

    /// Appends the next bytes to `into`: at most `count`, and fewer only at the end of the content. Memory
    /// is allocated only as the bytes arrive.
    pub(super) fn append(&mut self, count: usize, into: &mut Vec<u8>) -> Result<usize, InputError> {
        let before = into.len();
        let result = (&mut self.reader).take(count as u64).read_to_end(into);
        let read = into.len() - before;
        self.delivered += read as u64;
        result.map_err(|error| self.fault(error))?;
        Ok(read)
    }

    /// Reads the whole content, if it has at most `limit` bytes.
    pub(super) fn read_all(mut self, limit: u64) -> Result<Vec<u8>, InputError> {
        let too_large = || InputError::TooLarge { file: self.file.clone(), limit };
        if self.length.is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let count = usize::try_from(limit.saturating_add(1)).map_err(|_| too_large())?;
        let mut content = Vec::new();
        let read = self.append(count, &mut content)?;
        if read >= count {
            return Err(InputError::TooLarge { file: self.file, limit });
        }
        Ok(content)
    }

    /// The file's name for errors.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// The number of bytes read from the file itself, packed or not.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// The size of the file itself in bytes; `None` for a pipe.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// An error of the decoder concerns the content; any other error concerns the file.
    fn fault(&self, source: io::Error) -> InputError {
        let file = self.file.clone();
        if self.packed && source.raw_os_error().is_none() {
            InputError::Gzip { file, unpacked: self.delivered, source }
        } else {
            InputError::Io { file, source }
        }
    }
}

/// Counts the bytes that are read from the file itself.
struct Counted<R> {
    inner: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.taken.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::super::tests::gzip;
    use super::*;

    fn read(bytes: &[u8], limit: u64) -> Result<Vec<u8>, InputError> {
        Source::new(Path::new("f"), bytes, None)?.read_all(limit)
    }

    #[test]
    fn content_of_exactly_the_limit_is_read_and_one_byte_more_is_not() {
        for bytes in [vec![7; 100], gzip(&[7; 100])] {
            assert_eq!(read(&bytes, 100).unwrap(), [7; 100]);
            assert!(matches!(read(&bytes, 99), Err(InputError::TooLarge { limit: 99, .. })));
        }
    }

    #[test]
    fn a_file_longer_than_the_limit_is_refused_before_it_is_read() {
        let source = Source::new(Path::new("f"), [0u8; 8].as_slice(), Some(u64::MAX)).unwrap();
        assert!(matches!(source.read_all(10), Err(InputError::TooLarge { .. })));
    }

    #[test]
    fn a_stream_of_several_gzip_members_is_one_content() {
        let bytes = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(read(&bytes, 100).unwrap(), b"one two");
    }

    #[test]
    fn a_damaged_stream_is_an_error_of_the_content() {
        let mut bytes = gzip(&(0..=255).collect::<Vec<u8>>());
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        assert!(matches!(read(&bytes, 1000), Err(InputError::Gzip { .. })));
    }

    #[test]
    fn every_truncation_of_a_packed_stream_is_an_error() {
        let bytes = gzip(&[1; 1000]);
        for end in 2..bytes.len() {
            assert!(matches!(read(&bytes[..end], 1 << 20), Err(InputError::Gzip { .. })), "{end}");
        }
    }
}
