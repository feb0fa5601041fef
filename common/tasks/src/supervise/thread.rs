//! An OS thread with a name, whose end can be awaited and whose panic is reported.
//!
//! It cannot stop its thread: no thread can be stopped from outside. The body itself must check its
//! channel or token. If the future is dropped, the thread goes on unwatched until it or the process
//! ends.

use std::io;
use std::thread::{Builder, JoinHandle};

use tokio::sync::oneshot;

use super::TaskEnd;
use common::panic::panic_message;

/// The stack size of a thread in bytes, as large as that of a shard's slot: some threads execute
/// blocks.
const STACK: usize = 16 << 20;

/// The error of a task, of any type.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A thread whose end can be awaited. If this value is dropped, the thread goes on unwatched.
#[derive(Debug)]
pub(super) struct WatchedThread {
    handle: JoinHandle<Result<(), BoxError>>,
    ended: oneshot::Receiver<()>,
}

impl WatchedThread {
    /// Starts `body` on a thread named `name`.
    pub(super) fn start<B, E>(name: &str, body: B) -> io::Result<Self>
    where
        B: FnOnce() -> Result<(), E> + Send + 'static,
        E: Into<BoxError>,
    {
        if name.contains('\0') {
            // The standard library would panic on such a name.
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the thread's name contains a NUL"));
        }
        let (alive, ended) = oneshot::channel::<()>();
        let handle = Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
            // Dropped at the very end of the thread, even after a panic: that wakes the waiter in `ended`.
            let _alive = alive;
            body().map_err(Into::into)
        })?;
        Ok(Self { handle, ended })
    }

    /// Waits for the thread's end and returns how it ended.
    pub(super) async fn ended(self) -> TaskEnd {
        // The sender is only ever dropped, so the receiver always gets an error; it signals the end.
        let _ = self.ended.await;
        // The thread has left its body: joining only waits until its thread-locals are dropped.
        match self.handle.join() {
            Ok(result) => TaskEnd::of(result),
            Err(payload) => TaskEnd::Panicked(panic_message(payload.as_ref())),
        }
    }
}
