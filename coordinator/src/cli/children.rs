//! The shard processes of a command. The command starts them beside the coordinator, watches them,
//! kills them for `--kill`, and restarts them whenever they end.
//!
//! As long as the new processes join the fleet, the number of restarts has no limit: a shard with a
//! stuck slot ends its process, and so does a transaction that kills. Only the rate is limited. The
//! command gives up when many processes of one shard in a row end without having joined.
//!
//! Each process holds a pipe to this process and ends with it, however this process ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use common::id::ShardId;
use executor_shard::fault::PlannedFault;
use net::backoff::{BackoffPolicy, Delays};
use tasks::launch::PARENT_PIPE_FLAG;
use tasks::options::clear_variables;
use tasks::supervise::SupervisorHandle;
use tasks::telemetry::TelemetryArgs;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;

/// The longest time a shard may take to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// The delay before the first restart of a process. It doubles with each further end.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest delay before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// After a process has run for this long, the delay starts from the first one again.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// The number of processes in a row that may end without having joined the fleet before the command
/// gives up.
const MOST_STILLBORN: u32 = 10;

/// The options of shard processes.
#[derive(Debug, Clone)]
pub struct ChildOptions {
    /// The coordinator's URL, which the started shards register at.
    pub coordinator: String,
    /// The number of worker threads of each shard.
    pub threads: u16,
    /// The options for their logs.
    pub telemetry: TelemetryArgs,
    /// The path of the `executor-shard` binary.
    pub binary: PathBuf,
    /// The faults that every shard has.
    pub faults: Vec<PlannedFault>,
}

/// The running shard processes.
#[derive(Debug)]
pub struct Children {
    kills: Vec<(ShardId, Arc<Notify>)>,
}

impl Children {
    /// Starts shards 1 to `count`, each with a task that watches it.
    pub fn start(
        count: u32,
        options: &ChildOptions,
        fleet: &Fleet,
        supervisor: &SupervisorHandle,
    ) -> anyhow::Result<Self> {
        let mut kills = Vec::new();
        for shard in (1..=count).map(ShardId) {
            let joined = fleet.joined(shard);
            let child = spawn(shard, options)?;
            let kill = Arc::new(Notify::new());
            let keeper = Keeper {
                shard,
                options: options.clone(),
                fleet: fleet.clone(),
                kill: Arc::clone(&kill),
                stop: supervisor.shutdown_token(),
            };
            supervisor.spawn_critical(format!("child-{shard}"), keeper.keep(child, joined));
            kills.push((shard, kill));
        }
        Ok(Self { kills })
    }

    /// A function that kills a shard's process with SIGKILL; `None` if there is no such shard.
    pub fn killer(&self, shard: ShardId) -> Option<Arc<dyn Fn() + Send + Sync>> {
        let (_, kill) = self.kills.iter().find(|(known, _)| *known == shard)?;
        let kill = Arc::clone(kill);
        Some(Arc::new(move || kill.notify_one()))
    }
}

/// The path of the `executor-shard` binary: the one beside this binary, unless the environment names
/// another.
pub(super) fn find_binary() -> anyhow::Result<PathBuf> {
    let path = match std::env::var_os("EXECUTOR_SHARD_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()
            .context("this program's own path is unknown")?
            .with_file_name(binary_name()),
    };
    if !is_file(&path) {
        bail!(
            "the executor-shard binary is missing: {} is not a file; build it with `cargo build --release`, \
             name it with EXECUTOR_SHARD_BIN, or use --in-process",
            path.display()
        );
    }
    Ok(path)
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

fn binary_name() -> String {
    format!("executor-shard{}", std::env::consts::EXE_SUFFIX)
}

fn spawn(shard: ShardId, options: &ChildOptions) -> anyhow::Result<Child> {
    let mut command = Command::new(&options.binary);
    clear_variables(|name| {
        command.env_remove(name);
    });
    command
        .arg("--shard-id")
        .arg(shard.to_string())
        .args(["--coordinator", &options.coordinator, "--listen", "127.0.0.1:0"])
        .args(["--threads", &options.threads.to_string(), PARENT_PIPE_FLAG])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // Ctrl-C in a terminal must reach only this process, which stops its shards when it no longer needs
        // them.
        .process_group(0)
        .kill_on_drop(true);
    if let Some(filter) = &options.telemetry.log {
        command.args(["--log", filter.as_str()]);
    }
    if !options.faults.is_empty() {
        command.arg("--allow-faults");
    }
    for fault in &options.faults {
        command.args(["--fault", &fault.to_string()]);
    }
    command.spawn().with_context(|| format!("{} cannot be started", options.binary.display()))
}

/// Watches the process of one shard.
struct Keeper {
    shard: ShardId,
    options: ChildOptions,
    fleet: Fleet,
    kill: Arc<Notify>,
    stop: CancellationToken,
}

impl Keeper {
    /// Restarts the process whenever it ends, until the command is over. `joined` is how often the shard
    /// had joined the fleet before the first process started.
    async fn keep(self, mut child: Child, mut joined: u64) -> anyhow::Result<()> {
        let mut pauses = Delays::new(BackoffPolicy::new(FIRST_PAUSE, LONGEST_PAUSE, 0.0)?);
        let mut ends = Ends::default();
        loop {
            let began = Instant::now();
            let mut pipe = child.stdin.take();
            let mut planned = false;
            let status = tokio::select! {
                () = self.stop.cancelled() => {
                    // Closing the pipe asks the process to stop.
                    pipe.take();
                    return self.reap(child).await;
                }
                () = self.kill.notified() => {
                    planned = true;
                    child.start_kill().context("the shard cannot be killed")?;
                    child.wait().await
                }
                status = child.wait() => status,
            };
            let status = status.context("the shard process is lost")?;
            tracing::info!(shard = self.shard.0, %status, "a shard process ended");
            let has_joined = self.fleet.joined(self.shard) > joined;
            // A planned kill says nothing about the shard.
            if !planned {
                ends.add(began.elapsed(), has_joined);
                if ends.stillborn >= MOST_STILLBORN {
                    bail!(
                        "{MOST_STILLBORN} processes of shard {} in a row ended before they joined, the last with {status}; look at their messages above",
                        self.shard
                    );
                }
                if ends.in_a_row == 1 {
                    pauses.reset();
                }
                let pause = tokio::time::sleep(pauses.next(0));
                tokio::select! {
                    () = pause => {}
                    () = self.stop.cancelled() => {}
                }
            }
            if self.stop.is_cancelled() {
                return Ok(());
            }
            joined = self.fleet.joined(self.shard);
            child = spawn(self.shard, &self.options)?;
        }
    }

    async fn reap(&self, mut child: Child) -> anyhow::Result<()> {
        if tokio::time::timeout(STOP_WITHIN, child.wait()).await.is_err() {
            tracing::warn!(shard = self.shard.0, "a shard did not stop in time and is killed");
            child.start_kill().context("the shard cannot be killed")?;
            child.wait().await?;
        }
        Ok(())
    }
}

/// Counts the ends of one shard's processes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ends {
    /// The number of consecutive processes that ended after a short time.
    in_a_row: u32,
    /// The number of consecutive processes that ended without having joined the fleet.
    stillborn: u32,
}

impl Ends {
    fn add(&mut self, lived: Duration, joined: bool) {
        self.in_a_row = if lived >= LONG_LIFE { 1 } else { self.in_a_row.saturating_add(1) };
        self.stillborn = if joined { 0 } else { self.stillborn.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_join_are_started_again_without_end() {
        let mut ends = Ends::default();
        for _ in 0..1000 {
            ends.add(Duration::from_millis(30), true);
        }
        assert_eq!(ends, Ends { in_a_row: 1000, stillborn: 0 });
        ends.add(LONG_LIFE, true);
        assert_eq!(ends.in_a_row, 1, "after a long life the next process is started at once");
    }

    #[test]
    fn processes_that_never_join_are_given_up() {
        let mut ends = Ends::default();
        for _ in 0..MOST_STILLBORN {
            assert!(ends.stillborn < MOST_STILLBORN);
            ends.add(Duration::from_millis(30), false);
        }
        assert_eq!(ends.stillborn, MOST_STILLBORN);
    }
}
