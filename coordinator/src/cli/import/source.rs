//! The blocks of chain files, one after another. A separate thread reads and decodes them ahead, so
//! that decoding does not delay execution.
//!
//! It makes only one check: a file that begins with a genesis block must begin with the right one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use alloy_primitives::B256;
use anyhow::Context;
use common::block::EncodedBlock;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use crate::input::{ChainReader, InputError};

/// The maximum number of blocks decoded ahead.
const AHEAD: usize = 16;

/// How often the source checks whether it must stop while a file delivers no data.
const LOOK: Duration = Duration::from_millis(200);

/// A block of the source, decoded, with its position.
struct Decoded {
    block: EncodedBlock,
    file: Arc<Path>,
    /// The number of bytes of all files read up to this block.
    bytes: u64,
}

/// The blocks of chain files.
pub(super) struct Source {
    decoded: Option<Receiver<Result<Decoded, InputError>>>,
    decoder: Option<JoinHandle<()>>,
    /// The files of the two newest blocks, the older first: one is read ahead.
    recent: [(B256, Arc<Path>); 2],
    origin: B256,
    bar: ProgressBar,
    stop: CancellationToken,
    exhausted: bool,
}

/// The total size of the files in bytes; `None` if one of them has no known size. Fails if a file is
/// missing.
pub(super) fn total_bytes(files: &[PathBuf]) -> anyhow::Result<Option<u64>> {
    let mut total = Some(0);
    for file in files {
        let metadata = std::fs::metadata(file)
            .with_context(|| format!("{} cannot be read; check the path", file.display()))?;
        total = total.filter(|_| metadata.is_file()).map(|total: u64| total.saturating_add(metadata.len()));
    }
    Ok(total)
}

impl Source {
    /// Starts to read. `origin` is the hash of the genesis block with which the chain must begin.
    pub(super) fn start(
        files: &[PathBuf],
        origin: B256,
        bar: ProgressBar,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let (sender, decoded) = bounded(AHEAD);
        let files = files.to_vec();
        let decoder = std::thread::Builder::new()
            .name("decoder".into())
            .spawn(move || decode(&files, &sender))
            .context("the decoding thread cannot be started")?;
        let recent = [(); 2].map(|()| (B256::ZERO, Arc::from(Path::new(""))));
        Ok(Self {
            decoded: Some(decoded),
            decoder: Some(decoder),
            recent,
            origin,
            bar,
            stop,
            exhausted: false,
        })
    }

    /// The file of one of the two newest blocks.
    pub(super) fn file_of(&self, hash: &B256) -> &Path {
        let [older, newer] = &self.recent;
        if older.0 == *hash { &older.1 } else { &newer.1 }
    }

    /// Whether the iterator has returned all blocks.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    fn receive(&self) -> Option<Result<Decoded, InputError>> {
        let decoded = self.decoded.as_ref()?;
        loop {
            match decoded.recv_timeout(LOOK) {
                Ok(result) => return Some(result),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if self.stop.is_cancelled() => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Iterator for Source {
    type Item = anyhow::Result<EncodedBlock>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Decoded { block, file, bytes } = match self.receive() {
                Some(Ok(decoded)) => decoded,
                Some(Err(error)) => return Some(Err(error.into())),
                None => {
                    self.exhausted = !self.stop.is_cancelled();
                    return None;
                }
            };
            self.bar.set_position(bytes);
            let [older, newer] = &mut self.recent;
            *older = std::mem::replace(newer, (block.hash, file));
            // An export may begin with the genesis block, which has nothing to execute.
            if block.hash == self.origin {
                continue;
            }
            if block.header.number == 0 {
                return Some(Err(anyhow::anyhow!(
                    "{}: the chain begins with genesis {}, --genesis gives {}: they are not of one chain",
                    self.recent[1].1.display(),
                    block.hash,
                    self.origin
                )));
            }
            return Some(Ok(block));
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // Without a receiver the decoder ends at its next block.
        self.decoded = None;
        // A decoder that waits for a pipe is left behind, because the pipe may never get data.
        if let Some(decoder) = self.decoder.take().filter(|_| !self.stop.is_cancelled())
            && let Err(panic) = decoder.join()
        {
            let reason = common::panic::panic_message(panic.as_ref());
            tracing::error!(reason, "the decoding thread panicked");
        }
    }
}

/// Reads the files until they end, one is malformed, or the receiver is dropped.
fn decode(files: &[PathBuf], out: &Sender<Result<Decoded, InputError>>) {
    let mut before: u64 = 0;
    for path in files {
        let file: Arc<Path> = Arc::from(path.as_path());
        let mut reader = match ChainReader::open(path) {
            Ok(reader) => reader,
            Err(error) => {
                let _ = out.send(Err(error));
                return;
            }
        };
        while let Some(block) = reader.next() {
            let bytes = before.saturating_add(reader.bytes_read());
            let failed = block.is_err();
            let decoded = block.map(|block| Decoded { block, file: Arc::clone(&file), bytes });
            if out.send(decoded).is_err() || failed {
                return;
            }
        }
        before = before.saturating_add(reader.bytes_read());
    }
}
