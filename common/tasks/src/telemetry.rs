//! Logging and panics: the destination and the form of the log, and a report of every panic.
//!
//! Logs go to stderr, so that stdout stays free for results. Every panic is logged with its thread,
//! place and backtrace. Then unwinding goes on, and the code that joins the thread decides what
//! follows. Deliberately not here: metrics, log files, rotation.
//!
//! Invariant: logging never panics and never fails its caller, even if stderr is closed or its reader
//! has ended (a launcher that was killed).

use std::backtrace::Backtrace;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::str::FromStr;
use std::sync::OnceLock;

use clap::{Args, ValueEnum};
use common::panic::panic_message;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Compact, Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::console;

const DEFAULT_FILTER: &str = "info";

/// The filter of this process, once logging is set up.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// The options for logging, the same for every process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
// Without this, clap would show the comment above as the description of the whole program.
#[command(about = None, long_about = None)]
pub struct TelemetryArgs {
    /// What to log: off, error, warn, info, debug, trace, or a filter such as `info,coordinator=debug`
    #[arg(long, global = true, env = "SHARDS_LOG", value_name = "LEVEL|FILTER", help_heading = "Logging")]
    pub log: Option<LogFilter>,

    /// The form of the log on stderr
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        help_heading = "Logging"
    )]
    pub log_format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Compact lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A log filter that has been checked. An empty text means the default, `info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter as the user wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn compile(&self) -> Result<EnvFilter, TelemetryError> {
        let refused = |reason: String| TelemetryError::Filter { filter: self.0.clone(), reason };
        EnvFilter::builder().parse(&self.0).map_err(|error| refused(error.to_string()))
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self(DEFAULT_FILTER.to_owned())
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LogFilter {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `EnvFilter` would take spaces as part of a name.
        let words: Vec<&str> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
        // `EnvFilter` takes a bare word that is not a level as a target: `--log dbug` would silence all.
        if let Some(word) = words.iter().find(|word| is_bare_target(word)) {
            return Err(TelemetryError::NotALevel((*word).to_owned()));
        }
        if words.is_empty() {
            return Ok(Self::default());
        }
        let filter = Self(words.join(","));
        filter.compile()?;
        Ok(filter)
    }
}

/// Why logging could not be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TelemetryError {
    /// The filter contains a word that is neither a level nor a directive.
    #[error("`{0}` is not a level; use off, error, warn, info, debug or trace, or `target=level`")]
    NotALevel(String),
    /// The filter cannot be parsed.
    #[error("log filter `{filter}`: {reason}")]
    Filter {
        /// The whole filter, without empty parts and without spaces around the parts.
        filter: String,
        /// The message of the parser, `EnvFilter` of `tracing-subscriber`.
        reason: String,
    },
    /// The filter of a process whose logging is not set up cannot be changed.
    #[error("logging is not set up")]
    NotInitialised,
    /// This process has already set up logging; the first setup remains in force.
    #[error("logging is set up already")]
    AlreadyInitialised,
}

impl TelemetryArgs {
    /// Returns these options, with `level` if the user chose none. Long-running services log more than
    /// commands that print their results.
    #[must_use]
    pub fn or_level(mut self, level: &str) -> Self {
        self.log.get_or_insert_with(|| LogFilter(level.to_owned()));
        self
    }
}

/// Sets up logging to stderr for the process called `process`, the name in its messages, and the panic
/// hook.
///
/// # Errors
/// [`TelemetryError`] if it is called a second time, or other code has set up logging (then nothing
/// changes), or if the filter is rejected.
pub fn init(args: &TelemetryArgs, process: &'static str) -> Result<(), TelemetryError> {
    console::set_program(process);
    let filter = args.log.clone().unwrap_or_default().compile()?;
    // With internal errors logged, `eprintln!` would report a failed write to stderr, and it panics.
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    let layer = match args.log_format {
        LogFormat::Text => layer.with_ansi(use_colour()).event_format(Named::text(process)).boxed(),
        LogFormat::Json => {
            layer.with_ansi(false).fmt_fields(JsonFields::new()).event_format(Named::json(process)).boxed()
        }
    };
    let (filter, handle) = reload::Layer::new(filter);
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    subscriber.try_init().map_err(|_| TelemetryError::AlreadyInitialised)?;
    let _ = FILTER.set(handle);
    std::panic::set_hook(Box::new(report_panic));
    Ok(())
}

/// Changes what is logged from now on.
///
/// # Errors
/// [`TelemetryError`] if the filter is rejected, or logging was not set up.
pub fn set_filter(filter: &LogFilter) -> Result<(), TelemetryError> {
    let handle = FILTER.get().ok_or(TelemetryError::NotInitialised)?;
    handle.reload(filter.compile()?).map_err(|_| TelemetryError::NotInitialised)
}

/// The panic hook. A panic here would abort the process, so no code here may panic.
fn report_panic(info: &PanicHookInfo<'_>) {
    let current = std::thread::current();
    let thread = current.name().unwrap_or("unnamed");
    let message = panic_message(info.payload());
    let location = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let backtrace = Backtrace::force_capture();
    if tracing::enabled!(target: "panic", Level::ERROR) {
        tracing::error!(target: "panic", thread, location, backtrace = %format_args!("\n{backtrace}"), "thread panicked: {message}");
    } else {
        // The log filter dropped the event, or logging is not set up: report the panic all the same.
        let report = format!("thread `{thread}` panicked at {location}: {message}\n{backtrace}\n");
        let _ = io::stderr().write_all(report.as_bytes());
    }
    // Both results are ignored for the same reason: a failure cannot be reported anywhere.
    let _ = io::stderr().flush();
}

fn use_colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && io::stderr().is_terminal()
}

fn is_bare_target(word: &str) -> bool {
    !word.contains(['=', '[']) && word.parse::<LevelFilter>().is_err()
}

/// Puts the process's name into each event, before the text of the inner format.
struct Named<F> {
    inner: F,
    /// The text with which the event starts.
    prefix: String,
    /// The beginning of the inner format's text, which the prefix replaces.
    replaces: &'static str,
}

impl Named<Format<Compact>> {
    fn text(process: &str) -> Self {
        let inner = Format::default().compact().with_target(false);
        Self { inner, prefix: format!("{process} "), replaces: "" }
    }
}

impl Named<Format<Json>> {
    fn json(process: &str) -> Self {
        // Events are flat, so they must not have fields named process, timestamp, level, target or message.
        let inner = Format::default().json().flatten_event(true);
        let name = serde_json::Value::from(process);
        Self { inner, prefix: format!("{{\"process\":{name},"), replaces: "{" }
    }
}

impl<S, N, F> FormatEvent<S, N> for Named<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(&self.prefix)?;
        if self.replaces.is_empty() {
            return self.inner.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(line.strip_prefix(self.replaces).unwrap_or(&line))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

    use std::process::{Command, Output, Stdio};

    use clap::Parser;

    use super::*;

    /// The description of the program.
    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        telemetry: TelemetryArgs,
    }

    const SCENARIO: &str = "TELEMETRY_TEST_SCENARIO";

    /// Not a test: the process that the tests below observe. Logging is global to a process.
    #[test]
    fn child_process() {
        let Ok(scenario) = std::env::var(SCENARIO) else { return };
        let (format, log) = scenario.split_once(' ').unwrap();
        let log_format = LogFormat::from_str(format, true).unwrap();
        let args = TelemetryArgs { log: Some(log.parse().unwrap()), log_format };
        init(&args, "shard \"7\"").unwrap();
        assert_eq!(init(&args, "again"), Err(TelemetryError::AlreadyInitialised));
        tracing::info!(block = 12, "hello");
        let worker = std::thread::Builder::new().name("slot-3".to_owned());
        let payload = worker.spawn(|| panic!("the slot broke")).unwrap().join().unwrap_err();
        // The line on stdout shows the parent that unwinding reached this point.
        println!("joined: {}", panic_message(payload.as_ref()));
    }

    fn child(scenario: &str, stderr: Stdio) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let path = module_path!().split_once("::").unwrap().1;
        command.args(["--exact", &format!("{path}::child_process"), "--nocapture"]);
        command.env(SCENARIO, scenario).stdout(Stdio::piped()).stderr(stderr).output().unwrap()
    }

    fn stderr_of(scenario: &str) -> String {
        let output = child(scenario, Stdio::piped());
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("joined: the slot broke"));
        String::from_utf8(output.stderr).unwrap()
    }

    #[test]
    fn text_lines_name_the_process_and_have_no_colour_in_a_pipe() {
        let log = stderr_of("text info");
        let line = log.lines().next().unwrap();
        assert!(line.starts_with("shard \"7\" 2"), "{line}");
        assert!(line.contains("INFO hello") && line.contains("block=12"), "{line}");
        assert!(!log.contains('\u{1b}'));
    }

    #[test]
    fn a_panic_is_logged_with_thread_place_and_backtrace() {
        let log = stderr_of("text info");
        for part in ["ERROR", "thread panicked: the slot broke", "slot-3", "telemetry.rs:", "child_process"] {
            assert!(log.contains(part), "{part}: {log}");
        }
        // Exactly once: the standard hook does not report the panic again.
        assert_eq!(log.matches("the slot broke").count(), 1);
    }

    #[test]
    fn every_json_line_is_an_object_that_names_the_process() {
        let log = stderr_of("json info");
        let events: Vec<serde_json::Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(events.iter().all(|event| event["process"] == "shard \"7\""));
        assert_eq!((&events[0]["message"], &events[0]["block"]), (&"hello".into(), &12.into()));
        assert_eq!(events[1]["thread"], "slot-3");
        assert!(events[1]["backtrace"].as_str().unwrap().contains("child_process"));
    }

    #[test]
    fn a_panic_is_told_also_when_logging_is_off() {
        let log = stderr_of("text off");
        assert!(log.starts_with("thread `slot-3` panicked at ") && log.contains("the slot broke"), "{log}");
    }

    #[test]
    fn a_reader_of_stderr_that_is_gone_does_no_harm() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = child("text info", writer.into());
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("joined: the slot broke"));
    }

    #[test]
    fn filters_that_would_silently_log_nothing_are_refused() {
        for filter in ["info", "OFF", "info,coordinator=debug", "[block{id=1}]=trace,warn"] {
            assert_eq!(filter.parse::<LogFilter>().unwrap().as_str(), filter);
        }
        assert_eq!("dbug".parse::<LogFilter>(), Err(TelemetryError::NotALevel("dbug".to_owned())));
        assert_eq!("info,net".parse::<LogFilter>(), Err(TelemetryError::NotALevel("net".to_owned())));
        assert!(matches!("net=loud".parse::<LogFilter>(), Err(TelemetryError::Filter { .. })));
        assert_eq!(" , ".parse::<LogFilter>(), Ok(LogFilter::default()));
        assert_eq!("info, net=off ".parse::<LogFilter>().unwrap().as_str(), "info,net=off");
    }

    #[test]
    fn the_options_parse_and_a_bad_level_is_explained() {
        let parsed = Cli::try_parse_from(["x", "--log", "debug", "--log-format", "json"]).unwrap();
        assert_eq!(
            (parsed.telemetry.log.unwrap_or_default().as_str(), parsed.telemetry.log_format),
            ("debug", LogFormat::Json)
        );
        let refused = Cli::try_parse_from(["x", "--log", "dbug"]).unwrap_err().to_string();
        assert!(refused.contains("`dbug` is not a level"), "{refused}");
        let help = <Cli as clap::CommandFactory>::command().render_long_help().to_string();
        assert!(
            help.starts_with("The description of the program") && help.contains("\nLogging:\n"),
            "{help}"
        );
    }

    #[test]
    fn the_message_of_a_panic_is_found_in_all_its_forms() {
        assert_eq!(panic_message(&"static"), "static");
        assert_eq!(panic_message(&"owned".to_owned()), "owned");
        assert_eq!(panic_message(&7_u8), "no message (the payload is not text)");
    }
}
