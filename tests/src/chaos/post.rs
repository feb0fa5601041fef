//! The place of one process: it may be empty, and each process started there has a new port.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::artefacts::Binary;
use crate::process::{Process, Signal};
use crate::scene::Scene;
use crate::wait::{scaled, within};

/// The longest time until a process serves, in seconds. A ledger that was not closed is repaired first.
const SERVES_WITHIN: u64 = 60;

/// The longest time until a process ends once it is asked to, in seconds.
const ENDS_WITHIN: u64 = 30;

/// The place of one process.
#[derive(Debug, Default)]
pub(super) struct Post {
    process: Option<Process>,
    /// The file to which the process writes its address.
    file: PathBuf,
    address: Option<SocketAddr>,
    /// The deadline by which the process must serve, or must have ended.
    due: Option<Instant>,
}

/// An event at a place.
#[derive(Debug)]
pub(super) enum News {
    /// The process has neither begun to serve nor ended since the last check, or the place is empty.
    None,
    /// The process has begun to serve.
    Serves,
    /// The process has ended, by itself or because it was asked to.
    Ended(Box<Process>, ExitStatus),
}

impl Post {
    /// Starts a process that writes its address to a file.
    pub(super) fn start(
        &mut self,
        scene: &Scene,
        name: &str,
        binary: Binary,
        mut line: Vec<OsString>,
    ) -> Result<&Process> {
        self.file = scene.path(&scene.fresh_name(&format!("{name}.address")));
        line.push("--address-file".into());
        line.push(self.file.clone().into());
        self.address = None;
        self.due = Some(Instant::now() + scaled(within(SERVES_WITHIN)));
        Ok(self.process.insert(Process::start(scene, name, binary, line)?))
    }

    /// The process's address, once it serves.
    pub(super) const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Checks the process for events.
    pub(super) fn look(&mut self) -> Result<News> {
        let Some(process) = &mut self.process else { return Ok(News::None) };
        if let Some(status) = process.exited()? {
            self.address = None;
            let ended = self.process.take();
            return Ok(ended.map_or(News::None, |process| News::Ended(Box::new(process), status)));
        }
        let late = self.due.is_some_and(|due| due < Instant::now());
        ensure!(!late, "{} neither serves nor ends", process.name());
        if self.address.is_none() {
            let text = fs::read_to_string(&self.file).unwrap_or_default();
            self.address = text.strip_suffix('\n').and_then(|address| address.parse().ok());
            if self.address.is_some() {
                self.due = None;
                return Ok(News::Serves);
            }
        }
        Ok(News::None)
    }

    /// Removes the process from its place. The caller kills it once no proxy leads to it any more.
    pub(super) fn vacate(&mut self) -> Option<Process> {
        self.address = None;
        self.process.take()
    }

    /// Sends the process a signal, if there is a process.
    pub(super) fn signal(&mut self, signal: Signal) -> Result<()> {
        if signal == Signal::Term {
            self.due = Some(Instant::now() + scaled(within(ENDS_WITHIN)));
        }
        self.process.as_mut().map_or(Ok(()), |process| process.signal(signal))
    }
}
