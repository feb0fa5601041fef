//! Strangers that reach the ports of a coordinator and a shard, and cost it what they can without an identity.
//!
//! | scenario | strangers | expectation |
//! |---|---|---|
//! | a coordinator with few descriptors | more idle connections than it can have | shards join, blocks are verified |
//! | a shard | idle connections | it keeps its place, blocks are verified |
//! | a fleet with certificates | connections that never finish their handshake | the same |
//! | idle connections | – | closed after a while, without a call |
//! | connections that end when they are a second old | – | no shard is lost, blocks are verified |

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shard_tests::{
    Binary, Chain, ChainFile, Coordinator, Process, Scene, Shard, scenario, submit_to, wait_until, within,
};

/// The limit of open files of a process that strangers want to exhaust.
const FEW_FILES: u64 = 256;

/// More connections than such a process can have.
const CROWD: usize = 300;

/// Opens connections and says nothing on them.
fn crowd(address: &str, count: usize) -> Result<Vec<TcpStream>> {
    let address: SocketAddr = address.parse()?;
    let one = |_| TcpStream::connect_timeout(&address, Duration::from_secs(5)).context("a connection");
    (0..count).map(one).collect()
}

/// Whether the other side has closed a connection.
fn is_closed(stream: &mut TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    let mut bytes = [0; 64];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(true),
            // The settings that an HTTP/2 server begins with.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(_) => return Ok(true),
        }
    }
}

#[test]
fn idle_connections_shut_no_peer_out() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let coordinator = Coordinator::start_with_few_files(scene, &chain, &[], FEW_FILES)?;
        let mut strangers = crowd(&coordinator.address, CROWD)?;
        let _shards = Shard::start_all(scene, 2, &coordinator.url())?;
        coordinator.wait_ready(&[1, 2])?;
        strangers.extend(crowd(&coordinator.address, CROWD)?);
        coordinator.submit_all(scene, &chain)?;
        ensure!(coordinator.status()?.ready() == [1, 2]);
        wait_until(within(60), "the idle connections are closed", || {
            let closed = strangers.iter_mut().map(is_closed).collect::<Result<Vec<_>>>()?;
            Ok(closed.into_iter().all(|closed| closed))
        })?;
        Ok(())
    })
}

#[test]
fn idle_connections_to_a_shard_do_not_cost_it_its_place() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let coordinator = Coordinator::start(scene, &chain, &[])?;
        let file = scene.path("shard.address");
        let path = file.to_str().context("not UTF-8")?;
        let url = coordinator.url();
        let line = ["--exit-with-parent", "--shard-id", "1", "--coordinator", &url, "--address-file", path];
        let _shard = Process::start_with_few_files(scene, "shard", Binary::ExecutorShard, line, FEW_FILES)?;
        coordinator.wait_ready(&[1])?;
        let address = std::fs::read_to_string(&file)?;
        let _strangers = crowd(address.trim(), CROWD)?;
        coordinator.submit_all(scene, &chain)?;
        ensure!(coordinator.status()?.ready() == [1]);
        ensure!(!coordinator.process.stderr()?.contains("shard_lost"));
        Ok(())
    })
}

#[test]
fn unfinished_handshakes_shut_no_peer_out() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(2)?;
        let certs = scene.path("certs");
        let dir = certs.to_str().context("not UTF-8")?;
        for line in [
            &["certs", "init", "--dir", dir][..],
            &["certs", "issue", "--dir", dir, "coordinator"],
            &["certs", "issue", "--dir", dir, "client/ci"],
        ] {
            command(scene, line)?;
        }
        let files =
            |name: &str| [format!("{dir}/{name}.pem"), format!("{dir}/{name}.key"), format!("{dir}/ca.pem")];
        let [certificate, key, ca] = files("coordinator");
        let identity = ["--tls-cert", &certificate, "--tls-key", &key, "--tls-ca", &ca];
        let coordinator = Coordinator::start_with_few_files(scene, &chain, &identity, FEW_FILES)?;
        let mut strangers = crowd(&coordinator.address, CROWD)?;
        for stranger in &mut strangers {
            // The beginning of a record of a handshake. The server may have closed the connection already.
            stranger.write_all(&[22, 3, 1, 2, 0]).ok();
        }
        let url = format!("https://{}", coordinator.address);
        let [certificate, key, ca] = files("client-ci");
        let line =
            ["status", "--coordinator", &url, "--tls-cert", &certificate, "--tls-key", &key, "--tls-ca", &ca];
        command(scene, &line)?;
        wait_until(within(60), "the unfinished handshakes are given up", || {
            let closed = strangers.iter_mut().map(is_closed).collect::<Result<Vec<_>>>()?;
            Ok(closed.into_iter().all(|closed| closed))
        })?;
        // What strangers cause does not fill the log.
        let refusals = coordinator.process.stderr()?.matches("a connection was refused").count();
        ensure!((1..=100).contains(&refusals), "{refusals} refusals in the log");
        Ok(())
    })
}

#[test]
fn connections_that_become_old_cost_no_shard() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(300)?;
        let coordinator = Coordinator::start(scene, &chain, &["--connection-age", "1"])?;
        let url = coordinator.url();
        let _shards = Shard::start_all(scene, 2, &url)?;
        coordinator.wait_ready(&[1, 2])?;
        // Each connection is replaced several times meanwhile, and those with open streams are cut.
        let (file, began, mut submitted) = (ChainFile::read(&chain.rlp())?, Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(6) && submitted < file.len() {
            let part = scene.write("part.rlp", file.bytes(submitted..submitted + 5))?;
            let report = submit_to(scene, &url, &part)?.ended(within(60))?.succeeded("submit")?.report()?;
            report.check_verified(5)?;
            submitted += 5;
        }
        ensure!(began.elapsed() > Duration::from_secs(3), "the blocks were too few for this test");
        let status = coordinator.status()?;
        ensure!(status.ready() == [1, 2]);
        // Their heartbeats found a new connection in time.
        let gaps: Vec<u64> = status.shards.iter().map(|shard| shard.longest_gap_ms).collect();
        ensure!(gaps.iter().all(|gap| (1..1_000).contains(gap)), "{gaps:?}");
        let said = coordinator.process.stderr()?;
        ensure!(!said.contains("shard_lost"), "{said}");
        Ok(())
    })
}

/// Runs a command of the coordinator's binary.
fn command(scene: &Scene, line: &[&str]) -> Result<()> {
    let name = line.first().copied().unwrap_or("nothing");
    Process::start(scene, name, Binary::Coordinator, line)?.ended(within(60))?.succeeded(name).map(drop)
}
