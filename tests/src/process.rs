//! A process under test: its output goes to files, it can get signals, and it never outlives its test.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::artefacts::Binary;
use crate::moment::Moment;
use crate::report::Report;
use crate::scene::Scene;
use crate::wait::wait_until;

/// A signal to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: asks it to stop.
    Term,
    /// SIGKILL: ends it at once.
    Kill,
    /// SIGSTOP: freezes it until [`Signal::Continue`].
    Stop,
    /// SIGCONT: lets a frozen process go on.
    Continue,
    /// SIGINT, as from Ctrl-C.
    Interrupt,
    /// SIGHUP: asks it to read its options again.
    Hangup,
}

impl Signal {
    const fn flag(self) -> &'static str {
        match self {
            Self::Term => "-TERM",
            Self::Kill => "-KILL",
            Self::Stop => "-STOP",
            Self::Continue => "-CONT",
            Self::Interrupt => "-INT",
            Self::Hangup => "-HUP",
        }
    }
}

/// The result of a command that has ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The exit code. A command that a signal has killed has none, so it gives no result.
    pub code: i32,
    /// Everything that the command wrote to standard output.
    pub out: String,
    /// Everything that the command wrote to standard error: its log and its messages.
    pub said: String,
}

impl Ended {
    /// The report on its standard output.
    ///
    /// # Errors
    /// An error if that is no report.
    pub fn report(&self) -> Result<Report> {
        Report::parse(&self.out)
    }

    /// The summary of that report.
    ///
    /// # Errors
    /// An error if there is none.
    pub fn summary(&self) -> Result<Value> {
        self.report()?
            .summary
            .with_context(|| format!("no summary; it ended with {}: {}", self.code, self.said))
    }

    /// Checks that the command succeeded. `what` names it.
    ///
    /// # Errors
    /// An error with its output if it did not.
    pub fn succeeded(self, what: &str) -> Result<Self> {
        ensure!(self.code == 0, "{what} ended with {}: {}", self.code, self.said);
        Ok(self)
    }

    /// Checks that the command failed with a message that contains all of `words`.
    ///
    /// # Errors
    /// An error if it did not, or if it panicked.
    pub fn refused(&self, words: &[&str]) -> Result<()> {
        ensure!(self.code == 1, "it ended with {}: {}", self.code, self.said);
        ensure!(!self.said.contains("panicked"), "{}", self.said);
        for word in words {
            ensure!(self.said.contains(word), "{word:?} is not in the message: {}", self.said);
        }
        Ok(())
    }
}

/// A running or ended process. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Held open: with `--exit-with-parent` closing it asks the process to stop.
    pipe: Option<ChildStdin>,
    stdout: PathBuf,
    stderr: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a binary. `name` is the name of its logs.
    ///
    /// # Errors
    /// An error if the binary is missing or cannot be started.
    pub fn start<A: AsRef<OsStr>>(
        scene: &Scene,
        name: &str,
        binary: Binary,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        Self::start_with(scene, name, binary, arguments, &[])
    }

    /// Starts a binary with additional environment variables.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_with<A: AsRef<OsStr>>(
        scene: &Scene,
        name: &str,
        binary: Binary,
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        Self::spawn(scene, name, Command::new(binary.path()?), arguments, environment)
    }

    /// Starts a binary that can write no file longer than `blocks` of 512 bytes, including its logs. Writes
    /// beyond that fail, as on a full disk.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_limited<A: AsRef<OsStr>>(
        scene: &Scene,
        name: &str,
        binary: Binary,
        arguments: impl IntoIterator<Item = A>,
        blocks: u64,
    ) -> Result<Self> {
        // Without the trap the first such write would end the process.
        Self::start_after(scene, name, binary, arguments, &format!("ulimit -f {blocks} && trap '' XFSZ"))
    }

    /// Starts a binary that can have at most `files` files and connections open.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_with_few_files<A: AsRef<OsStr>>(
        scene: &Scene,
        name: &str,
        binary: Binary,
        arguments: impl IntoIterator<Item = A>,
        files: u64,
    ) -> Result<Self> {
        Self::start_after(scene, name, binary, arguments, &format!("ulimit -n {files}"))
    }

    /// Starts a binary in the place of a shell that has run a command.
    fn start_after<A: AsRef<OsStr>>(
        scene: &Scene,
        name: &str,
        binary: Binary,
        arguments: impl IntoIterator<Item = A>,
        command: &str,
    ) -> Result<Self> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{command} && exec \"$0\" \"$@\"")).arg(binary.path()?);
        Self::spawn(scene, name, shell, arguments, &[])
    }

    /// Starts a binary whose standard output is a pipe without a reader.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_unread<A: AsRef<OsStr>>(
        scene: &Scene,
        name: &str,
        binary: Binary,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        Self::spawn_onto(scene, name, Command::new(binary.path()?), arguments, &[], Some(writer.into()))
    }

    fn spawn<A: AsRef<OsStr>>(
        scene: &Scene,
        name: &str,
        command: Command,
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        Self::spawn_onto(scene, name, command, arguments, environment, None)
    }

    fn spawn_onto<A: AsRef<OsStr>>(
        scene: &Scene,
        name: &str,
        mut command: Command,
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, &str)],
        output: Option<Stdio>,
    ) -> Result<Self> {
        let name = scene.fresh_name(name);
        let (stdout, stderr) = (scene.path(&format!("{name}.out")), scene.path(&format!("{name}.log")));
        let file = File::create(&stdout)?;
        // Each of them is an option of the binary.
        for (variable, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHARDS_"))
        {
            command.env_remove(variable);
        }
        let mut child = command
            .args(arguments)
            .env_remove("EXECUTOR_SHARD_BIN")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(output.unwrap_or_else(|| file.into()))
            .stderr(File::create(&stderr)?)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        scene.register_log(&stderr);
        let pipe = child.stdin.take();
        Ok(Self { name, child, pipe, stdout, stderr, status: None })
    }

    /// The name of its logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of its log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.stderr
    }

    /// The operating system's id of the process. It may be reused once the process has been reaped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// An error if the process has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // The process is not reaped yet, so the id still belongs to it.
        if let Some(status) = self.exited()? {
            bail!("{} cannot be signalled, it has ended with {status}", self.name);
        }
        let status = Command::new("kill").args([signal.flag(), &self.pid().to_string()]).status()?;
        if !status.success() {
            bail!("kill {} {} failed", signal.flag(), self.name);
        }
        Ok(())
    }

    /// Kills the process and waits for its end.
    ///
    /// # Errors
    /// An error if it had ended by itself.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::Kill)?;
        self.wait(Duration::from_secs(10)).map(|_| ())
    }

    /// Kills the process without waiting. Returns the time of the kill.
    ///
    /// # Errors
    /// An error if it had ended by itself.
    pub fn strike(&mut self) -> Result<Moment> {
        if let Some(status) = self.exited()? {
            bail!("{} cannot be killed, it has ended with {status}", self.name);
        }
        let at = Moment::now()?;
        self.child.kill()?;
        Ok(at)
    }

    /// The time of the first log line at or after `since` that contains all of `words`.
    ///
    /// # Errors
    /// An error if the log cannot be read.
    pub fn told(&self, since: Moment, words: &[&str]) -> Result<Option<Moment>> {
        let log = self.stderr()?;
        let mut lines = log.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        Ok(lines.find_map(|line| Moment::of_line(line).filter(|at| *at >= since)))
    }

    /// Waits for a log line at or after `since` that contains all of `words`. Returns its time.
    ///
    /// # Errors
    /// An error if there is none before the deadline.
    pub fn wait_told(&self, deadline: Duration, since: Moment, words: &[&str]) -> Result<Moment> {
        let mut told = None;
        wait_until(deadline, &format!("{} tells {words:?}", self.name), || {
            told = self.told(since, words)?;
            Ok(told.is_some())
        })?;
        told.context("it was told")
    }

    /// Closes the pipe from this process, as the death of this process would.
    pub fn close_pipe(&mut self) {
        self.pipe = None;
    }

    /// The exit status, if the process has ended.
    ///
    /// # Errors
    /// An error if the system does not report it.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits for the process's end.
    ///
    /// # Errors
    /// An error if it still runs at the deadline.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        wait_until(deadline, &what, || Ok(self.exited()?.is_some()))?;
        self.status.context("it has ended")
    }

    /// Waits for the process's end and returns its exit code. A killed process has none.
    ///
    /// # Errors
    /// An error if it still runs at the deadline, or if it was killed.
    pub fn exit_code(&mut self, deadline: Duration) -> Result<i32> {
        let status = self.wait(deadline)?;
        status.code().with_context(|| format!("{} ended with {status}", self.name))
    }

    /// Waits for the process's end and returns its exit code and its output.
    ///
    /// # Errors
    /// As [`Process::exit_code`], or an error if its output cannot be read.
    pub fn ended(&mut self, deadline: Duration) -> Result<Ended> {
        let code = self.exit_code(deadline)?;
        Ok(Ended { code, out: self.stdout()?, said: self.stderr()? })
    }

    /// Its standard output so far.
    ///
    /// # Errors
    /// An error if the output cannot be read.
    pub fn stdout(&self) -> Result<String> {
        read(&self.stdout)
    }

    /// Its standard output after the first `from` bytes, in whole lines.
    ///
    /// # Errors
    /// An error if the output cannot be read.
    pub fn lines_from(&self, from: u64) -> Result<String> {
        let mut file = File::open(&self.stdout)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        bytes.truncate(whole);
        Ok(String::from_utf8(bytes)?)
    }

    /// Its standard error so far.
    ///
    /// # Errors
    /// An error if the output cannot be read.
    pub fn stderr(&self) -> Result<String> {
        read(&self.stderr)
    }
}

fn read(path: &PathBuf) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
