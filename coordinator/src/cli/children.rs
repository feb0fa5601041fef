//! The shard processes of a run: started beside the coordinator, watched, killed in a drill, and
//! started again when they are lost.
//!
//! Each holds a pipe to this process and ends with it, however that comes about.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use common::id::ShardId;
use common::launch::PARENT_PIPE_FLAG;
use common::supervise::{Backoff, Restart, RestartWindow, SupervisorHandle, Verdict};
use common::telemetry::TelemetryArgs;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long a shard may take to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// How shard processes are started.
#[derive(Debug, Clone)]
pub(super) struct ChildOptions {
    /// The coordinator's address.
    pub(super) coordinator: String,
    /// Worker threads of each.
    pub(super) threads: u16,
    /// How they log.
    pub(super) telemetry: TelemetryArgs,
    /// The `executor-shard` binary.
    pub(super) binary: PathBuf,
}

/// The shard processes.
#[derive(Debug)]
pub(super) struct Children {
    kills: Vec<(ShardId, Arc<Notify>)>,
}

impl Children {
    /// Starts shards 1 to `count`, each with a task that watches it.
    pub(super) fn start(
        count: u32,
        options: &ChildOptions,
        supervisor: &SupervisorHandle,
    ) -> anyhow::Result<Self> {
        let mut kills = Vec::new();
        for shard in (1..=count).map(ShardId) {
            let child = spawn(shard, options)?;
            let kill = Arc::new(Notify::new());
            let keeper = Keeper {
                shard,
                options: options.clone(),
                kill: Arc::clone(&kill),
                stop: supervisor.shutdown_token(),
            };
            supervisor.spawn_critical(format!("child-{shard}"), keeper.keep(child));
            kills.push((shard, kill));
        }
        Ok(Self { kills })
    }

    /// What kills a shard's process with SIGKILL.
    pub(super) fn killer(&self, shard: ShardId) -> Option<Arc<dyn Fn() + Send + Sync>> {
        let (_, kill) = self.kills.iter().find(|(known, _)| *known == shard)?;
        let kill = Arc::clone(kill);
        Some(Arc::new(move || kill.notify_one()))
    }
}

/// The `executor-shard` binary: beside this one, unless the environment names another.
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
    command
        .arg("--shard-id")
        .arg(shard.to_string())
        .args(["--coordinator", &options.coordinator, "--listen", "127.0.0.1:0"])
        .args(["--threads", &options.threads.to_string(), PARENT_PIPE_FLAG])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // Ctrl-C in a terminal is for this process, which stops its shards when it needs them no more.
        .process_group(0)
        .kill_on_drop(true);
    if let Some(filter) = &options.telemetry.log {
        command.args(["--log", filter.as_str()]);
    }
    command.spawn().with_context(|| format!("{} cannot be started", options.binary.display()))
}

/// Watches one shard's process.
struct Keeper {
    shard: ShardId,
    options: ChildOptions,
    kill: Arc<Notify>,
    stop: CancellationToken,
}

impl Keeper {
    /// Starts the process again whenever it ends, within limits, until the run is over.
    async fn keep(self, mut child: Child) -> anyhow::Result<()> {
        let backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1))?;
        let mut window = RestartWindow::new(Restart::new(10, Duration::from_secs(60), backoff)?);
        let began = std::time::Instant::now();
        loop {
            let mut pipe = child.stdin.take();
            let mut drilled = false;
            let status = tokio::select! {
                () = self.stop.cancelled() => {
                    // Closing the pipe asks it to stop.
                    pipe.take();
                    return self.reap(child).await;
                }
                () = self.kill.notified() => {
                    drilled = true;
                    child.start_kill().context("the shard cannot be killed")?;
                    child.wait().await
                }
                status = child.wait() => status,
            };
            let status = status.context("the shard process is lost")?;
            tracing::info!(shard = self.shard.0, %status, "a shard process ended");
            // A drill says nothing about the shard.
            let verdict =
                if drilled { Verdict::RestartAfter(Duration::ZERO) } else { window.ended(began.elapsed()) };
            match verdict {
                Verdict::RestartAfter(delay) => tokio::time::sleep(delay).await,
                Verdict::GiveUp => {
                    bail!("shard {} ended again and again, the last time with {status}", self.shard)
                }
            }
            if self.stop.is_cancelled() {
                return Ok(());
            }
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
