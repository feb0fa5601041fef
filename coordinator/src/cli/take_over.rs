//! `coordinator serve --take-over`: takes over a data directory that another coordinator holds.
//!
//! First it asks the holder to step down: through its service or, if it has none (an import), by
//! SIGTERM. A holder that does not, because it hangs or is cut off, gets SIGKILL. Signals go only to
//! processes that really have the database open, whatever the note beside the database says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alloy_primitives::hex;
use anyhow::{Context as _, bail};
use net::channel;
use net::identity::{Expect, Security};
use net::limits::PeerLimits;
use net::wire::client_channel;
use proto::v1;
use proto::v1::blocks_client::BlocksClient;
use rustix::process::{Pid, Signal, kill_process};

use ledger::{FILE, Holder, LedgerError};

/// The longest time to wait for the holder's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The longest time until a killed process has ended.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// How often the coordinator checks whether the directory is free.
const LOOK: Duration = Duration::from_millis(20);

/// Opens the directory with `open`. If another process holds it, makes that process release it.
/// `patience` is how long the holder may take to step down; `security` is how it is called.
pub(super) async fn take_over<T: Send + 'static>(
    folder: &Path,
    patience: Duration,
    security: &Security,
    open: impl Fn() -> Result<T, LedgerError> + Send + Sync + Clone + 'static,
) -> anyhow::Result<T> {
    if let Some(opened) = try_open(&open).await? {
        return Ok(opened);
    }
    // The note is only a hint.
    let holder = Holder::read(folder).unwrap_or_else(|error| {
        tracing::warn!(%error, "the holder's note cannot be read");
        None
    });
    match ask(holder.as_ref(), security).await {
        Ok(()) => tracing::info!(?patience, "asked the holder of the data directory to step down"),
        Err(error) => {
            tracing::warn!("the holder of the data directory cannot be asked to step down: {error:#}");
            let database = folder.join(FILE);
            // An import, for example, has no service. It ends in good order on SIGTERM.
            match tokio::task::spawn_blocking(move || signal_holders(&database, Signal::TERM)).await? {
                Ok(processes) => {
                    tracing::info!(?processes, ?patience, "sent SIGTERM to the holder: waiting for it")
                }
                Err(error) => tracing::warn!(?patience, "waiting for the holder to end: {error:#}"),
            }
        }
    }
    if let Some(opened) = wait_open(&open, patience).await? {
        return Ok(opened);
    }
    let folder = folder.to_owned();
    let ended =
        match tokio::task::spawn_blocking(move || signal_holders(&folder.join(FILE), Signal::KILL)).await? {
            Ok(ended) => ended,
            // The holder may have ended by itself at the last moment.
            Err(error) => return try_open(&open).await?.ok_or(error),
        };
    tracing::warn!(processes = ?ended, "the holder did not step down: it was ended");
    wait_open(&open, GONE_WITHIN).await?.context(
        "the holder was ended and its lock is still held; is the directory shared with another machine?",
    )
}

async fn try_open<T: Send + 'static>(
    open: &(impl Fn() -> Result<T, LedgerError> + Send + Clone + 'static),
) -> anyhow::Result<Option<T>> {
    let open = open.clone();
    match tokio::task::spawn_blocking(open).await? {
        Ok(opened) => Ok(Some(opened)),
        Err(LedgerError::Locked(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn wait_open<T: Send + 'static>(
    open: &(impl Fn() -> Result<T, LedgerError> + Send + Clone + 'static),
    limit: Duration,
) -> anyhow::Result<Option<T>> {
    let began = Instant::now();
    while began.elapsed() < limit {
        if let Some(opened) = try_open(open).await? {
            return Ok(Some(opened));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(None)
}

/// Asks the holder to step down.
async fn ask(holder: Option<&Holder>, security: &Security) -> anyhow::Result<()> {
    let holder = holder.context("there is no note of who it is")?;
    if holder.address.is_empty() {
        bail!("it serves no clients");
    }
    let secret = hex::decode(&holder.secret)?.into();
    let asked = async {
        let limits = PeerLimits::default();
        let channel = channel::connect(&holder.address, &limits, security, Expect::Coordinator).await?;
        BlocksClient::new(client_channel(channel, security))
            .step_down(v1::StepDownRequest { secret })
            .await?;
        anyhow::Ok(())
    };
    tokio::time::timeout(ANSWER_WITHIN, asked).await.context("it does not answer")?
}

/// Sends a signal to the processes that hold the database's lock. Returns their ids.
fn signal_holders(database: &Path, signal: Signal) -> anyhow::Result<Vec<u32>> {
    let holders = holders_of(database)?;
    if holders.is_empty() {
        bail!(
            "no process on this machine that may be looked at holds the lock of {}; stop its holder by hand",
            database.display()
        );
    }
    for pid in &holders {
        let process = i32::try_from(*pid).ok().and_then(Pid::from_raw).context("not a process id")?;
        kill_process(process, signal).with_context(|| format!("process {pid} cannot be signalled"))?;
    }
    Ok(holders)
}

/// The processes that hold an exclusive lock on a file with this inode number, on any device.
fn lockers_of(inode: u64) -> anyhow::Result<BTreeSet<u32>> {
    let locks = fs::read_to_string("/proc/locks").context("locks can only be found through /proc")?;
    // "1: FLOCK  ADVISORY  WRITE 9612 fe:00:5685796 0 EOF"; "->" marks one that waits.
    let locker = |line: &str| {
        let mut fields = line.split_whitespace().skip(3);
        let (mode, pid, place) = (fields.next()?, fields.next()?, fields.next()?);
        let found = mode == "WRITE" && place.rsplit(':').next()?.parse() == Ok(inode);
        if found { pid.parse().ok() } else { None }
    };
    Ok(locks.lines().filter(|line| !line.contains("->")).filter_map(locker).collect())
}

/// The other processes on this machine that have a file open and hold its lock. A process that only reads the
/// file is none of them.
fn holders_of(file: &Path) -> anyhow::Result<Vec<u32>> {
    let wanted = fs::metadata(file).with_context(|| file.display().to_string())?;
    let lockers = lockers_of(wanted.ino())?;
    let has_it = |folder: PathBuf| {
        let open = fs::read_dir(folder).ok()?;
        // A process whose files cannot be listed belongs to another user.
        let mut found = open.flatten().filter_map(|entry| fs::metadata(entry.path()).ok());
        found.find(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
    };
    let processes = fs::read_dir("/proc").context("processes can only be found through /proc")?;
    let ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = ids.filter(|pid| *pid != std::process::id() && lockers.contains(pid));
    Ok(others.filter(|pid| has_it(PathBuf::from(format!("/proc/{pid}/fd"))).is_some()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_process_that_holds_a_lock_is_found_and_ended_and_a_reader_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("held");
        fs::write(&file, "").unwrap();
        assert!(signal_holders(&file, Signal::KILL).is_err(), "no process has it");
        let held = fs::File::open(&file).unwrap();
        assert_eq!(holders_of(&file).unwrap(), Vec::<u32>::new(), "this process is not looked at");
        let mut reader = Command::new("sleep").arg("60").stdin(Stdio::from(held)).spawn().unwrap();
        assert!(signal_holders(&file, Signal::KILL).is_err(), "a reader holds no lock");
        let locker = ["--no-fork", "--exclusive", file.to_str().unwrap(), "sleep", "60"];
        let mut locker = Command::new("flock").args(locker).spawn().unwrap();
        let began = Instant::now();
        while holders_of(&file).unwrap().is_empty() && began.elapsed() < Duration::from_secs(30) {
            std::thread::yield_now();
        }
        assert_eq!(signal_holders(&file, Signal::KILL).unwrap(), vec![locker.id()]);
        assert!(!locker.wait().unwrap().success());
        assert!(reader.try_wait().unwrap().is_none(), "the reader goes on");
        reader.kill().unwrap();
        reader.wait().unwrap();
    }
}
