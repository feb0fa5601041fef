//! The processes of one measurement. A process ends with the value that owns it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{Baseline, Sample, Setting};

/// The longest time until the fleet is complete.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// The pause between two looks at the fleet while it starts.
const LOOK: Duration = Duration::from_millis(100);

/// The time after SIGTERM until a process is killed.
const GRACE: Duration = Duration::from_secs(20);

/// The kernel's unit of processor time in `/proc/PID/stat`.
const TICK: Duration = Duration::from_millis(10);

/// A process. Dropping it sends SIGTERM, and SIGKILL if it still runs after [`GRACE`].
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn start(program: &Path, arguments: &[String]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| {
            format!("{} cannot be started; build it with `cargo build --release`", program.display())
        })?;
        Ok(Self(child))
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    /// The processor time of all its threads so far.
    fn processor_time(&self) -> anyhow::Result<Duration> {
        let path = format!("/proc/{}/stat", self.id());
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("{path}: the process has ended"))?;
        // The program's name, in parentheses, may contain spaces. User and system time are the fields 14 and
        // 15 of the line.
        let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u32 = fields.skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
        Ok(TICK * ticks)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let asked = Command::new("kill").arg(self.id().to_string()).status();
        let until = Instant::now() + GRACE;
        while asked.as_ref().is_ok_and(std::process::ExitStatus::success) && Instant::now() < until {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(LOOK);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A coordinator and its shards.
#[derive(Debug)]
pub(super) struct Fleet {
    coordinator: Running,
    shards: Vec<Running>,
    url: String,
}

impl Fleet {
    /// Starts a fleet and waits until it is complete. Then every process gets its slice.
    pub(super) fn start(setting: &Setting<'_>, count: u32) -> anyhow::Result<Self> {
        let address = setting.chain.join("address");
        let _ = std::fs::remove_file(&address);
        let genesis = setting.chain.join("genesis.json").display().to_string();
        // A slice of a core is late with its heartbeats.
        let patience = ["--heartbeat-ms", "500", "--lost-after-ms", "20000"];
        let mut arguments = vec!["serve".to_owned(), "--genesis".into(), genesis];
        arguments.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
        arguments.extend(patience.map(str::to_owned));
        arguments.extend(["--address-file".to_owned(), address.display().to_string()]);
        let coordinator = Running::start(&setting.programs.join("coordinator"), &arguments)?;
        let bound = wait_for("the coordinator's address", || complete(&address))?;
        let url = format!("http://{}", bound.trim());
        let shard = |number: u32| {
            let arguments = ["--shard-id", &number.to_string(), "--coordinator", &url, "--threads", "1"];
            Running::start(&setting.programs.join("executor-shard"), &arguments.map(str::to_owned))
        };
        let shards = (1..=count).map(shard).collect::<anyhow::Result<Vec<_>>>()?;
        let fleet = Self { coordinator, shards, url };
        wait_for("all shards", || fleet.ready(setting).ok().filter(|ready| *ready == count as usize))?;
        if let Some(slices) = setting.slices {
            slices.put("coordinator", fleet.coordinator.id(), setting.options.coordinator_slices)?;
            for (shard, number) in fleet.shards.iter().zip(1..) {
                slices.put(&format!("shard-{number}"), shard.id(), 1.0)?;
            }
        }
        Ok(fleet)
    }

    /// The number of shards that can take work.
    fn ready(&self, setting: &Setting<'_>) -> anyhow::Result<usize> {
        let status = output(setting, "coordinator", &["status", "--coordinator", &self.url, "--json"])?;
        let ready = |shard: &&Value| shard.get("state").and_then(Value::as_str) == Some("ready");
        let shards = status.first().and_then(|status| status.get("shards")?.as_array().cloned());
        Ok(shards.iter().flatten().filter(ready).count())
    }

    /// Submits the chain and waits for its last block.
    pub(super) fn submit(self, setting: &Setting<'_>) -> anyhow::Result<Sample> {
        let chain = setting.chain.join("chain.rlp").display().to_string();
        let before = self.times()?;
        let wire = loopback_bytes();
        let began = Instant::now();
        let rows = output(setting, "coordinator", &["submit", "--coordinator", &self.url, &chain, "--json"])?;
        let time = began.elapsed();
        let wire = loopback_bytes().saturating_sub(wire);
        let spent: Vec<Duration> =
            self.times()?.iter().zip(&before).map(|(now, then)| *now - *then).collect();
        if let Some(slices) = setting.slices {
            std::iter::once(&self.coordinator)
                .chain(&self.shards)
                .for_each(|process| slices.release(process.id()));
        }
        let summary = rows.last().context("submit printed nothing")?;
        let number = |field: &str| summary.get(field).and_then(Value::as_u64).unwrap_or_default();
        let share = |slices: f64| setting.slices.map_or(1.0, |all| all.share(slices));
        let (coordinator, shards) = spent.split_first().context("there is no coordinator")?;
        Ok(Sample {
            time,
            coordinator: *coordinator,
            shards: shards.to_vec(),
            wire,
            verified: number("verified"),
            reexecuted: number("reexecuted"),
            coordinator_share: share(setting.options.coordinator_slices),
            shard_share: share(1.0),
        })
    }

    /// The processor time of every process, the coordinator's first.
    fn times(&self) -> anyhow::Result<Vec<Duration>> {
        std::iter::once(&self.coordinator).chain(&self.shards).map(Running::processor_time).collect()
    }
}

/// Executes the chain on the baseline, in one slice.
pub(super) fn sequential(setting: &Setting<'_>) -> anyhow::Result<Baseline> {
    let (chain, genesis) = (setting.chain.join("chain.rlp"), setting.chain.join("genesis.json"));
    let mut command = Command::new(setting.programs.join("lab"));
    command.args(["run", "--sequential", "--json"]).arg(chain).arg("--genesis").arg(genesis);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().context("the baseline cannot be started")?;
    if let Some(slices) = setting.slices {
        slices.put("sequential", child.id(), 1.0)?;
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the sequential baseline failed: {}", output.status);
    let rows = lines(&output.stdout)?;
    let summary = rows.last().context("the baseline printed nothing")?;
    let ms = summary.get("ms").and_then(Value::as_f64).context("the baseline printed no time")?;
    let txs = summary.get("txs").and_then(Value::as_u64).context("the baseline printed no count")?;
    Ok(Baseline { time: Duration::from_secs_f64(ms / 1000.0), txs })
}

fn output(setting: &Setting<'_>, program: &str, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut command = Command::new(setting.programs.join(program));
    let output = command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    let name = arguments.first().unwrap_or(&program);
    ensure!(output.status.success(), "{name} failed: {}", output.status);
    lines(&output.stdout)
}

fn lines(stdout: &[u8]) -> anyhow::Result<Vec<Value>> {
    let text = std::str::from_utf8(stdout)?;
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_str(line).context("a line is not JSON")).collect()
}

fn wait_for<T>(what: &str, look: impl Fn() -> Option<T>) -> anyhow::Result<T> {
    let until = Instant::now() + READY_WITHIN;
    loop {
        match look() {
            Some(found) => return Ok(found),
            None if Instant::now() > until => bail!("waited {READY_WITHIN:?} in vain for {what}"),
            None => std::thread::sleep(LOOK),
        }
    }
}

/// The text of the address file, once its last line is complete.
fn complete(address: &Path) -> Option<String> {
    std::fs::read_to_string(address).ok().filter(|text| text.ends_with('\n'))
}

/// The bytes that the loopback device has received so far; zero if the kernel does not say.
fn loopback_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
