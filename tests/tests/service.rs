//! What processes tell the service manager that has started them (`sd_notify(3)`).
//!
//! | scenario | expectation |
//! |---|---|
//! | a coordinator, and a shard without one, start | ready |
//! | the manager wants signs of life | they come, and not while the process is frozen |
//! | SIGTERM | stopping, then the end |

use std::os::unix::net::UnixDatagram;

use anyhow::{Context, Result, ensure};
use shard_tests::{Binary, Chain, Process, Scene, Signal, scenario, within};
use tempfile::TempDir;

/// The time after which the manager would take a process without signs of life for dead.
const WATCHDOG_MS: u64 = 600;

/// A service manager that only listens. Its socket has a folder of its own: the path of a socket may have only about
/// 100 bytes, and the scenario's folder may lie deeper.
struct Manager {
    socket: UnixDatagram,
    _folder: TempDir,
}

impl Manager {
    /// A manager, and a process that it has started.
    fn starts(scene: &Scene, name: &str, binary: Binary, line: &[&str]) -> Result<(Self, Process)> {
        let folder = tempfile::Builder::new().prefix("notify-").tempdir_in("/tmp")?;
        let path = folder.path().join("socket");
        let socket = UnixDatagram::bind(&path)?;
        let (path, watchdog) = (path.to_str().context("not UTF-8")?, (WATCHDOG_MS * 1000).to_string());
        let environment = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", &watchdog)];
        Ok((Self { socket, _folder: folder }, Process::start_with(scene, name, binary, line, &environment)?))
    }

    /// The next message; `None` if there is none within this time.
    fn hears(&self, millis: u64) -> Result<Option<String>> {
        self.socket.set_read_timeout(Some(std::time::Duration::from_millis(millis)))?;
        let mut bytes = [0; 256];
        match self.socket.recv(&mut bytes) {
            Ok(length) => Ok(Some(String::from_utf8(bytes.get(..length).unwrap_or_default().to_vec())?)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the message. No other than signs of life may come before it.
    fn waits_for(&self, wanted: &str) -> Result<()> {
        loop {
            let said = self.hears(30_000)?.with_context(|| format!("the process never says {wanted}"))?;
            match said.trim_end() {
                said if said == wanted => return Ok(()),
                said => ensure!(said == "WATCHDOG=1", "{said:?} comes before {wanted}"),
            }
        }
    }
}

fn lives_and_ends(manager: &Manager, mut process: Process) -> Result<()> {
    manager.waits_for("READY=1")?;
    for _ in 0..3 {
        let sign = manager.hears(30_000)?;
        ensure!(sign.as_deref().map(str::trim_end) == Some("WATCHDOG=1"), "{sign:?}");
    }
    process.signal(Signal::Stop)?;
    // What was sent before is still read.
    let mut signs = 0;
    while manager.hears(2 * WATCHDOG_MS)?.is_some() {
        signs += 1;
        ensure!(signs < 10, "a frozen process shows signs of life");
    }
    process.signal(Signal::Continue)?;
    manager.waits_for("WATCHDOG=1")?;
    process.signal(Signal::Term)?;
    manager.waits_for("STOPPING=1")?;
    process.ended(within(30))?.succeeded("the end")?;
    Ok(())
}

#[test]
fn a_coordinator_tells_its_manager_how_it_is() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(1)?;
        let genesis = chain.genesis();
        let line = ["serve", "--genesis", genesis.to_str().context("not UTF-8")?, "--listen", "127.0.0.1:0"];
        let (manager, process) = Manager::starts(scene, "coordinator", Binary::Coordinator, &line)?;
        lives_and_ends(&manager, process)
    })
}

#[test]
fn a_shard_tells_its_manager_how_it_is() -> Result<()> {
    scenario(|scene| {
        let line = ["--shard-id", "1", "--coordinator", "http://127.0.0.1:9", "--listen", "127.0.0.1:0"];
        let (manager, process) = Manager::starts(scene, "shard", Binary::ExecutorShard, &line)?;
        lives_and_ends(&manager, process)
    })
}
