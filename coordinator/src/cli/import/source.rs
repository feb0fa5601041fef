//! The blocks of chain files one after another, read and decoded ahead on a thread of its own, so
//! that decoding does not stand in the way of execution.
//!
//! It checks nothing but that a file that begins with a genesis begins with the right one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use alloy_primitives::B256;
use anyhow::Context;
use common::block::Block;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use crate::input::{ChainReader, InputError};

/// Blocks that are decoded ahead, at most.
const AHEAD: usize = 16;

/// Between two looks whether it is to stop, while a file gives nothing.
const LOOK: Duration = Duration::from_millis(200);

/// A decoded block.
struct Decoded {
    block: Block,
    file: Arc<Path>,
    /// Bytes of all files that were read up to here.
    bytes: u64,
}

/// The blocks of chain files.
pub(super) struct Source {
    decoded: Option<Receiver<Result<Decoded, InputError>>>,
    decoder: Option<JoinHandle<()>>,
    /// Where the newest block is from.
    file: Arc<Path>,
    origin: B256,
    bar: ProgressBar,
    stop: CancellationToken,
    exhausted: bool,
}

/// How many bytes the files have together, where each has an end. Says so if one is missing.
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
    /// Begins to read. `origin` is the genesis that the chain is to begin with.
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
        let file = Arc::from(Path::new(""));
        Ok(Self { decoded: Some(decoded), decoder: Some(decoder), file, origin, bar, stop, exhausted: false })
    }

    /// The file of the newest block.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Whether all blocks have been handed out.
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
    type Item = anyhow::Result<Block>;

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
            self.file = file;
            // An export may begin with the genesis block, which there is nothing to execute of.
            if block.hash == self.origin {
                continue;
            }
            if block.header.number == 0 {
                return Some(Err(anyhow::anyhow!(
                    "{}: the chain begins with genesis {}, --genesis gives {}: they are not of one chain",
                    self.file.display(),
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
        // Without a receiver the decoder ends with its next block.
        self.decoded = None;
        // One that waits for a pipe is left behind: nobody may ever write to it.
        if let Some(decoder) = self.decoder.take().filter(|_| !self.stop.is_cancelled())
            && let Err(panic) = decoder.join()
        {
            let reason = common::panic::panic_message(panic.as_ref());
            tracing::error!(reason, "the decoding thread panicked");
        }
    }
}

/// Reads the files until they end, one is wrong, or nobody wants more.
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
