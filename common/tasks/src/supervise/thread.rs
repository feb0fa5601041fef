//! An OS thread with a name, whose end can be awaited and whose panic is not lost.
//!
//! It cannot stop its thread: nothing can. A thread that is asked to stop must look at its channel
//! or token by itself. If the future is dropped, the thread goes on unwatched until it ends or the
//! process does.

use std::io;
use std::thread::{Builder, JoinHandle};

use tokio::sync::oneshot;

use super::End;
use common::panic::panic_message;

/// The stack of a thread, as large as that of a shard's slot: blocks are executed on some.
const STACK: usize = 16 << 20;

/// The error of a task, of whatever type.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A running thread.
#[derive(Debug)]
pub(super) struct WatchedThread {
    handle: JoinHandle<Result<(), BoxError>>,
    ended: oneshot::Receiver<()>,
}

impl WatchedThread {
    /// Starts `body` on a thread called `name`.
    pub(super) fn start<B, E>(name: &str, body: B) -> io::Result<Self>
    where
        B: FnOnce() -> Result<(), E> + Send + 'static,
        E: Into<BoxError>,
    {
        if name.contains('\0') {
            // The standard library would panic.
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the thread's name contains a NUL"));
        }
        let (alive, ended) = oneshot::channel::<()>();
        let handle = Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
            // Dropped at the very end, also by a panic: that wakes whoever awaits the end.
            let _alive = alive;
            body().map_err(Into::into)
        })?;
        Ok(Self { handle, ended })
    }

    /// Waits for the thread's end and tells how it came.
    pub(super) async fn ended(self) -> End {
        // The sender only ever is dropped, so the error is the news.
        let _ = self.ended.await;
        // The thread has left its body: joining waits only while its thread-locals are dropped.
        match self.handle.join() {
            Ok(result) => End::of(result),
            Err(payload) => End::Panicked(panic_message(payload.as_ref())),
        }
    }
}
