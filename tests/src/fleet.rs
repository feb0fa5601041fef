//! A coordinator that serves, its shards, and its clients.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::artefacts::Binary;
use crate::chain::Chain;
use crate::moment::Moment;
use crate::process::Process;
use crate::report::Report;
use crate::scene::Scene;
use crate::wait::{wait_until, within};

/// The longest time until a process serves, a shard joins, or a client gets an answer.
const SOON: Duration = within(20);

/// The longest time for a client's command that does not wait for blocks.
const ANSWERED_WITHIN: Duration = within(60);

/// The words in the log line of a shard whose planned fault occurs. Only `poison` logs none.
const PLANNED_FAULT: &str = "a planned fault";

/// A running `coordinator serve`.
#[derive(Debug)]
pub struct Coordinator {
    /// The coordinator's process. Dropping it kills the coordinator.
    pub process: Process,
    /// The address on which it serves.
    pub address: String,
}

/// An `executor-shard` that was started for a coordinator.
#[derive(Debug)]
pub struct Shard {
    /// The shard's process. Dropping it kills the shard.
    pub process: Process,
    /// The id that the process was started with (`--shard-id`).
    pub id: u32,
}

/// The output of `coordinator status --json`.
#[derive(Debug, Clone)]
pub struct Status {
    /// The height of the last committed block, or of the origin if none was committed.
    pub head: u64,
    /// The hash of the block at that height, in hexadecimal with `0x`.
    pub head_hash: String,
    /// The number of accepted blocks that have neither ended nor been parked.
    pub accepted: u64,
    /// The number of blocks that wait for an operator.
    pub parked: u64,
    /// The state root after the head, if it is known.
    pub state_root: Option<String>,
    /// The shards of the fleet.
    pub shards: Vec<ShardState>,
}

/// The status of one shard.
#[derive(Debug, Clone)]
pub struct ShardState {
    /// The id that the shard's process was started with (`--shard-id`).
    pub shard: u32,
    /// The random number of the shard's process. It changes when the shard is restarted.
    pub incarnation: u64,
    /// `ready`, `syncing`, `draining` or `quarantined`.
    pub state: String,
    /// Whether it is in quarantine.
    pub quarantined: bool,
    /// The height of the state that its replica holds.
    pub height: u64,
    /// The number of its slots.
    pub slots: u64,
    /// The number of its results that were used.
    pub results: u64,
    /// The longest time without a heartbeat since it joined, in milliseconds.
    pub longest_gap_ms: u64,
}

/// Converts texts to arguments.
fn arguments<const N: usize>(texts: [&str; N]) -> Vec<OsString> {
    texts.into_iter().map(OsString::from).collect()
}

impl Coordinator {
    /// Starts a coordinator on a free port and waits until it serves.
    ///
    /// # Errors
    /// An error if it does not.
    pub fn start(scene: &Scene, chain: &Chain, more: &[&str]) -> Result<Self> {
        Self::start_at(scene, chain, "127.0.0.1:0", more)
    }

    /// Starts a coordinator at an address and waits until it serves.
    ///
    /// # Errors
    /// An error if it does not.
    pub fn start_at(scene: &Scene, chain: &Chain, listen: &str, more: &[&str]) -> Result<Self> {
        let file = scene.path(&scene.fresh_name("coordinator.address"));
        let mut process = Self::spawn(scene, chain, listen, &file, more)?;
        let address = bound_address(&mut process, &file)?;
        Ok(Self { process, address })
    }

    /// Starts a coordinator that serves clients and operators at addresses of their own. Returns their URLs too.
    ///
    /// # Errors
    /// An error if it does not serve.
    pub fn start_apart(scene: &Scene, chain: &Chain) -> Result<(Self, [String; 2])> {
        let file = scene.path(&scene.fresh_name("coordinator.address"));
        let own = ["--listen-clients", "127.0.0.1:0", "--listen-operators", "127.0.0.1:0"];
        let mut process = Self::spawn(scene, chain, "127.0.0.1:0", &file, &own)?;
        let address = bound_address(&mut process, &file)?;
        let text = fs::read_to_string(&file)?;
        let named = |name: &str| {
            let address = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            address.map(|address| format!("http://{address}")).with_context(|| format!("no {name}: {text}"))
        };
        let others = [named("clients")?, named("operators")?];
        Ok((Self { process, address }, others))
    }

    /// Starts a coordinator that logs every assignment and block, and waits until it serves.
    ///
    /// # Errors
    /// An error if it does not.
    pub fn start_telling(scene: &Scene, chain: &Chain, listen: &str, more: &[&str]) -> Result<Self> {
        let file = scene.path(&scene.fresh_name("coordinator.address"));
        let line = serve_line(chain, listen, &file, more);
        let told = [("SHARDS_LOG", "info,coordinator::fleet=debug")];
        let mut process = Process::start_with(scene, "coordinator", Binary::Coordinator, line, &told)?;
        let address = bound_address(&mut process, &file)?;
        Ok(Self { process, address })
    }

    /// Starts a coordinator whose files can have at most `blocks` blocks of 512 bytes, and waits until it
    /// serves.
    ///
    /// # Errors
    /// An error if it does not.
    pub fn start_limited(scene: &Scene, chain: &Chain, more: &[&str], blocks: u64) -> Result<Self> {
        let file = scene.path(&scene.fresh_name("coordinator.address"));
        let line = serve_line(chain, "127.0.0.1:0", &file, more);
        let mut process = Process::start_limited(scene, "coordinator", Binary::Coordinator, line, blocks)?;
        let address = bound_address(&mut process, &file)?;
        Ok(Self { process, address })
    }

    /// Starts a coordinator that can have at most `files` files and connections open, and waits until it serves.
    ///
    /// # Errors
    /// An error if it does not.
    pub fn start_with_few_files(scene: &Scene, chain: &Chain, more: &[&str], files: u64) -> Result<Self> {
        let file = scene.path(&scene.fresh_name("coordinator.address"));
        let line = serve_line(chain, "127.0.0.1:0", &file, more);
        let mut process =
            Process::start_with_few_files(scene, "coordinator", Binary::Coordinator, line, files)?;
        let address = bound_address(&mut process, &file)?;
        Ok(Self { process, address })
    }

    /// Starts a coordinator and does not wait.
    ///
    /// # Errors
    /// An error if the process cannot be started.
    pub fn spawn(
        scene: &Scene,
        chain: &Chain,
        listen: &str,
        address_file: &Path,
        more: &[&str],
    ) -> Result<Process> {
        let line = serve_line(chain, listen, address_file, more);
        Process::start(scene, "coordinator", Binary::Coordinator, line)
    }

    /// The coordinator's URL for clients and shards.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Runs a client's command against the coordinator to its end. Returns its standard output.
    ///
    /// # Errors
    /// An error with the command's output if it fails.
    pub fn ask(&self, command: &[&str], more: &[&str]) -> Result<String> {
        ask(&self.url(), command, more)
    }

    /// Asks the coordinator for its status.
    ///
    /// # Errors
    /// An error if it does not answer.
    pub fn status(&self) -> Result<Status> {
        Status::of(&self.url())
    }

    /// Has every block of a chain file journaled, without waiting for results.
    ///
    /// # Errors
    /// An error if a block is not accepted.
    pub fn accept_all(&self, chain: &Chain) -> Result<()> {
        let file = chain.rlp();
        let file = file.to_str().context("the chain's path is not UTF-8")?;
        self.ask(&["submit", "--no-wait"], &[file]).map(drop)
    }

    /// Waits until the fleet's status satisfies a condition.
    ///
    /// # Errors
    /// An error with the last status if the condition does not hold within the deadline.
    pub fn wait_status(
        &self,
        deadline: Duration,
        what: &str,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Duration> {
        let mut last = None;
        let waited = wait_until(deadline, what, || {
            let status = self.status()?;
            let done = wanted(&status);
            last = Some(status);
            Ok(done)
        });
        waited.with_context(|| format!("the last status was {last:?}"))
    }

    /// Waits until exactly these shards are in the fleet and hold the current state.
    ///
    /// # Errors
    /// An error if that takes too long.
    pub fn wait_ready(&self, shards: &[u32]) -> Result<Duration> {
        let what = format!("the fleet is shards {shards:?}, all ready");
        self.wait_status(SOON, &what, |status| {
            status.ready() == shards && status.shards.len() == shards.len()
        })
    }

    /// Starts to submit a chain file.
    ///
    /// # Errors
    /// An error if the client cannot be started.
    pub fn begin_submit(&self, scene: &Scene, chain: &Chain) -> Result<Process> {
        submit_to(scene, &self.url(), &chain.rlp())
    }

    /// Submits a chain, and checks that every block is verified and that the head is its last block.
    ///
    /// # Errors
    /// An error if one of these checks fails.
    pub fn submit_all(&self, scene: &Scene, chain: &Chain) -> Result<Report> {
        let mut client = self.begin_submit(scene, chain)?;
        self.check_submitted(chain, &mut client)
    }

    /// Waits for a client that submits a chain, and checks that every block was verified and that the head
    /// is its last block.
    ///
    /// # Errors
    /// An error if one of these checks fails.
    pub fn check_submitted(&self, chain: &Chain, client: &mut Process) -> Result<Report> {
        let code = client.exit_code(within(60))?;
        let report = Report::parse(&client.stdout()?)?;
        report.check_verified(chain.blocks()).with_context(|| format!("submit ended with {code}"))?;
        ensure!(code == 0, "submit ended with {code} although all blocks verified");
        let status = self.status()?;
        ensure!(status.head == chain.blocks() as u64, "the head is {}", status.head);
        let last = report.column("hash")?.pop().map(|(_, hash)| hash);
        ensure!(last.as_deref() == Some(status.head_hash.as_str()), "the head is {}", status.head_hash);
        Ok(report)
    }
}

/// Runs a client's command to its end. Returns its standard output.
fn ask(url: &str, command: &[&str], more: &[&str]) -> Result<String> {
    let mut client = Command::new(Binary::Coordinator.path()?)
        .args(command)
        .args(["--coordinator", url])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Its output is short, so it fits into the pipe until the command ends.
    let ended =
        wait_until(ANSWERED_WITHIN, &format!("{command:?} ends"), || Ok(client.try_wait()?.is_some()));
    if ended.is_err() {
        let _ = client.kill();
    }
    let output = client.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ended.with_context(|| format!("it has said: {said}"))?;
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn serve_line(chain: &Chain, listen: &str, address_file: &Path, more: &[&str]) -> Vec<OsString> {
    let mut line = arguments(["serve", "--exit-with-parent", "--listen", listen, "--genesis"]);
    line.push(chain.genesis().into());
    line.push("--address-file".into());
    line.push(address_file.into());
    line.extend(more.iter().map(OsString::from));
    line
}

/// Starts to submit a chain file to a URL. The client does not wait for a coordinator that is away.
///
/// # Errors
/// An error if the client cannot be started.
pub fn submit_to(scene: &Scene, url: &str, file: &Path) -> Result<Process> {
    submit_with(scene, url, file, &["--json", "--retry-for", "0"])
}

/// Starts to submit a chain file to a URL, with these options.
///
/// # Errors
/// An error if the client cannot be started.
pub fn submit_with(scene: &Scene, url: &str, file: &Path, options: &[&str]) -> Result<Process> {
    let mut line = arguments(["submit", "--coordinator", url]);
    line.extend(options.iter().map(OsString::from));
    line.push(file.into());
    Process::start(scene, "submit", Binary::Coordinator, line)
}

impl Shard {
    /// Starts a shard for the coordinator at `url` and does not wait.
    ///
    /// # Errors
    /// An error if the process cannot be started.
    pub fn start(scene: &Scene, id: u32, url: &str, more: &[&str]) -> Result<Self> {
        let number = id.to_string();
        let mut line = arguments(["--exit-with-parent", "--shard-id", &number, "--coordinator", url]);
        if !more.contains(&"--listen") {
            line.extend(arguments(["--listen", "127.0.0.1:0"]));
        }
        line.extend(more.iter().map(OsString::from));
        let process = Process::start(scene, &format!("shard-{id}"), Binary::ExecutorShard, line)?;
        Ok(Self { process, id })
    }

    /// Starts a shard and waits until it serves, whether or not there is a coordinator.
    ///
    /// # Errors
    /// An error if it does not serve in time.
    pub fn start_serving(scene: &Scene, id: u32, url: &str) -> Result<Self> {
        let file: PathBuf = scene.path(&scene.fresh_name(&format!("shard-{id}.address")));
        let path = file.to_str().context("the scene's path is not UTF-8")?;
        let mut shard = Self::start(scene, id, url, &["--address-file", path])?;
        bound_address(&mut shard.process, &file)?;
        Ok(shard)
    }

    /// The time of its first planned fault; `None` if none has occurred yet.
    ///
    /// # Errors
    /// An error if the log cannot be read.
    pub fn faulted(&self) -> Result<Option<Moment>> {
        Ok(first_fault(&self.process.stderr()?))
    }

    /// Checks that a planned fault has occurred: without it a test of the fault proves nothing.
    ///
    /// # Errors
    /// An error if none has occurred, or if the log cannot be read.
    pub fn check_faulted(&self) -> Result<Moment> {
        self.faulted()?.with_context(|| format!("the planned fault of shard {} has not occurred", self.id))
    }

    /// Waits until a planned fault occurs.
    ///
    /// # Errors
    /// An error if none occurs before the deadline.
    pub fn wait_faulted(&self, deadline: Duration) -> Result<Moment> {
        let what = format!("the planned fault of shard {} occurs", self.id);
        wait_until(deadline, &what, || Ok(self.faulted()?.is_some()))?;
        self.check_faulted()
    }

    /// Starts shards 1 to `count`.
    ///
    /// # Errors
    /// As [`Shard::start`].
    pub fn start_all(scene: &Scene, count: u32, url: &str) -> Result<Vec<Self>> {
        (1..=count).map(|id| Self::start(scene, id, url, &[])).collect()
    }
}

/// The time of the first planned fault that a shard's log tells of.
#[must_use]
pub fn first_fault(log: &str) -> Option<Moment> {
    log.lines().filter(|line| line.contains(PLANNED_FAULT)).find_map(Moment::of_line)
}

/// Waits for the address that a process has bound: the first line of its address file.
fn bound_address(process: &mut Process, file: &Path) -> Result<String> {
    let mut address = String::new();
    wait_until(SOON, &format!("{} serves", process.name()), || {
        if let Some(status) = process.exited()? {
            bail!("{} ended with {status} before it served: {}", process.name(), process.stderr()?);
        }
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.ends_with('\n') {
            address = text.lines().next().unwrap_or_default().to_owned();
        }
        Ok(!address.is_empty())
    })?;
    Ok(address)
}

impl Status {
    /// Asks the coordinator at `url` for its status.
    ///
    /// # Errors
    /// An error if it does not answer.
    pub fn of(url: &str) -> Result<Self> {
        Self::parse(&ask(url, &["status", "--json"], &[])?)
    }

    fn parse(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        let shards = value.get("shards").and_then(Value::as_array).context("no shards")?;
        Ok(Self {
            head: number(&value, "head")?,
            head_hash: text(&value, "head_hash")?,
            accepted: number(&value, "accepted")?,
            parked: number(&value, "parked")?,
            state_root: text(&value, "state_root").ok(),
            shards: shards.iter().map(ShardState::parse).collect::<Result<_>>()?,
        })
    }

    /// The shard with this id, if it is in the fleet.
    #[must_use]
    pub fn shard(&self, id: u32) -> Option<&ShardState> {
        self.shards.iter().find(|shard| shard.shard == id)
    }

    /// The ids of the shards that are ready, or would be ready without their quarantine, in order.
    #[must_use]
    pub fn whole(&self) -> Vec<u32> {
        let whole = self.shards.iter().filter(|shard| shard.state == "ready" || shard.quarantined);
        whole.map(|shard| shard.shard).collect()
    }

    /// The ids of the shards that are ready, in order.
    #[must_use]
    pub fn ready(&self) -> Vec<u32> {
        self.shards.iter().filter(|shard| shard.state == "ready").map(|shard| shard.shard).collect()
    }
}

impl ShardState {
    fn parse(value: &Value) -> Result<Self> {
        Ok(Self {
            shard: u32::try_from(number(value, "shard")?)?,
            incarnation: number(value, "incarnation")?,
            state: text(value, "state")?,
            quarantined: value.get("quarantined").and_then(Value::as_bool).context("no quarantined")?,
            height: number(value, "height")?,
            slots: number(value, "slots")?,
            results: number(value, "results")?,
            longest_gap_ms: number(value, "longest_gap_ms")?,
        })
    }
}

/// A number in a JSON object.
pub(crate) fn number(value: &Value, field: &str) -> Result<u64> {
    value.get(field).and_then(Value::as_u64).with_context(|| format!("no number {field} in {value}"))
}

/// A text in a JSON object.
pub(crate) fn text(value: &Value, field: &str) -> Result<String> {
    let text = value.get(field).and_then(Value::as_str);
    text.map(str::to_owned).with_context(|| format!("no text {field} in {value}"))
}
