//! Ends a child process together with the process that started it, however the parent ends.
//!
//! The parent gives the child a pipe as stdin, keeps the writing end open and never writes. When the
//! parent ends, even by SIGKILL, the system closes the pipe and the child sees the end of file. So no
//! child is orphaned, and no code relies on a process id that may belong to another process by now.
//!
//! For the parent: start the child with [`PARENT_PIPE_FLAG`] and `stdin(Stdio::piped())`, then take
//! `child.stdin` out and keep it. `Child::wait` closes a stdin that it still finds in the child, which
//! asks the child to stop. Dropping the stdin is also the gentle way to stop a child without a signal.
//!
//! Deliberately not here: starting and watching children. This module does not end the process either:
//! the child's `main` decides how to react to the loss of its parent.

use std::future::pending;
use std::io::{self, ErrorKind, Read};

use tokio_util::sync::CancellationToken;

use crate::supervise::{Signals, StopReason};

/// The flag that makes a process stop when its stdin ends.
pub const PARENT_PIPE_FLAG: &str = "--exit-with-parent";

/// Waits for the end of stdin.
///
/// A thread of its own reads stdin instead of tokio's stdin: a runtime that is dropped waits for its
/// blocking reads, and so would hang while the parent lives. The thread belongs to no runtime and no
/// supervisor. It ends with stdin or with the process, and it does not delay the exit of the process.
#[derive(Debug)]
pub struct ParentWatch {
    /// `None` if there is no parent to watch.
    ended: Option<CancellationToken>,
}

impl ParentWatch {
    /// Starts to watch stdin. From now on stdin belongs to the watch: it discards all input, and any other
    /// reader in this process waits for ever. If stdin is not a pipe from a parent but, say, `/dev/null`,
    /// the parent counts as ended at once.
    ///
    /// # Errors
    /// An error if the thread cannot be started.
    pub fn start() -> io::Result<Self> {
        Self::watch(|| io::stdin().lock())
    }

    /// Watches nothing, for a process without a parent of ours.
    #[must_use]
    pub const fn none() -> Self {
        Self { ended: None }
    }

    /// Watches stdin if `wanted` is set, which is the value of [`PARENT_PIPE_FLAG`].
    ///
    /// # Errors
    /// An error if the thread cannot be started.
    pub fn start_if(wanted: bool) -> io::Result<Self> {
        if wanted { Self::start() } else { Ok(Self::none()) }
    }

    /// Resolves when stdin has ended or failed, at once if that happened before. Cancel safe.
    pub async fn gone(&self) {
        match &self.ended {
            Some(ended) => ended.cancelled().await,
            None => pending().await,
        }
    }

    fn watch<R: Read>(open: impl FnOnce() -> R + Send + 'static) -> io::Result<Self> {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let handle = std::thread::Builder::new().name("parent-watch".to_owned()).spawn(move || {
            // Cancels the token at the end of the thread, even after a panic.
            let _guard = guard;
            read_to_end(open());
        })?;
        // Detached on purpose, see above. The token reports the thread's end.
        drop(handle);
        Ok(Self { ended: Some(ended) })
    }
}

/// Resolves when a signal asks to stop or the parent has ended: the usual argument of
/// `Supervisor::run_until_stopped`. Cancel safe. For the drain use the signals alone: a parent that has
/// ended would cut the drain short at once.
pub async fn stop_asked(signals: &mut Signals, parent: &ParentWatch) -> StopReason {
    tokio::select! {
        biased;
        reason = signals.next() => reason,
        () = parent.gone() => StopReason::ParentGone,
    }
}

/// Reads and discards all input until the end of file or an error.
fn read_to_end(mut input: impl Read) {
    let mut discarded = [0_u8; 256];
    loop {
        match input.read(&mut discarded) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use super::*;

    const CHILD: &str = "LAUNCH_TEST_CHILD";

    /// Not a test: the child process of the test below.
    #[test]
    fn child_process() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let reason = runtime.block_on(async {
            let mut signals = Signals::new().unwrap();
            let parent = ParentWatch::start_if(true).unwrap();
            println!("watching");
            stop_asked(&mut signals, &parent).await
        });
        assert_eq!(reason, StopReason::ParentGone);
    }

    fn start_child(stdin: Stdio) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let path = module_path!().split_once("::").unwrap().1;
        command.args(["--exact", &format!("{path}::child_process"), "--nocapture"]);
        command.env(CHILD, "1").stdin(stdin).stdout(Stdio::piped());
        command
    }

    #[test]
    fn a_child_ends_when_its_parents_end_of_the_pipe_closes() {
        let mut child = start_child(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("watching")));
        pipe.write_all(b"ignored").unwrap();
        assert!(child.try_wait().unwrap().is_none());
        drop(pipe);
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn without_a_pipe_the_parent_counts_as_gone_at_once() {
        assert!(start_child(Stdio::null()).status().unwrap().success());
    }

    #[tokio::test]
    async fn the_end_of_the_pipe_is_seen_any_number_of_times() {
        let (reader, mut writer) = io::pipe().unwrap();
        let parent = ParentWatch::watch(move || reader).unwrap();
        writer.write_all(&[7; 1000]).unwrap();
        assert!(!parent.ended.as_ref().unwrap().is_cancelled());
        drop(writer);
        parent.gone().await;
        parent.gone().await;
    }

    #[tokio::test]
    async fn a_reader_that_fails_or_panics_counts_as_the_parents_end() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        ParentWatch::watch(|| Failing).unwrap().gone().await;
        ParentWatch::watch(|| -> Failing { panic!("on purpose") }).unwrap().gone().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_without_a_parent_of_ours_waits_for_ever() {
        let limit = std::time::Duration::from_secs(1_000_000);
        assert!(tokio::time::timeout(limit, ParentWatch::none().gone()).await.is_err());
    }
}
