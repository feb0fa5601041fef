//! The options of a program: from its command line, from variables of the environment, and from a file, in this order
//! of precedence.
//!
//! clap alone knows which options there are and what they may be. This module gives each of them a variable. It adds
//! an option of the file to the command line if neither the command line nor the environment has it. Options that help
//! does not show are only for the command line.

mod dump;
mod duration;
mod file;
mod hangup;
mod place;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::{env, fmt};

use clap::builder::BoolishValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::console::{print_line, tell};
use crate::supervise::Exit;
use file::{FileError, Settings};
use place::Place;

pub use duration::{millis, seconds};
pub use hangup::reload_on_hangup;

/// What a variable of the environment begins with.
const PREFIX: &str = "SHARDS_";

/// The option that names the file, and the one that prints all options.
const CONFIG: &str = "config";
const DUMP: &str = "dump-config";

const SOURCES: &str = "\
Read options that are given nowhere else from this TOML file

Each --option can also be given by the variable SHARDS_OPTION (with _ for -), or in the file, in the table of \
its program and command: [coordinator.serve], [executor-shard]. The command line goes before the environment, and that \
before the file.";

/// Reads the options of `P` from the process's arguments, environment and file. Prints what is asked for instead
/// (help, version, the options), or what is wrong; then the process ends with this code.
///
/// # Errors
/// The exit code.
pub fn parse<P: CommandFactory + FromArgMatches>() -> Result<P, Exit> {
    match read(env::args_os().collect()) {
        Ok(Read::Options(options)) => Ok(*options),
        Ok(Read::Dump(text)) => Err(match print_line(text.trim_end()) {
            Ok(()) => Exit::Clean,
            Err(error) => crate::command::ended("options", Err(error.into())),
        }),
        Err(refused) => Err(refused.tell()),
    }
}

/// Calls `clear` with each variable of this process that a program would take for an option of its own. A process that
/// another one starts gets its options on its command line.
pub fn clear_variables(mut clear: impl FnMut(&OsStr)) {
    for (name, _) in
        env::vars_os().filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with(PREFIX)))
    {
        clear(&name);
    }
}

/// What a command line asks for.
#[derive(Debug)]
enum Read<P> {
    Options(Box<P>),
    /// The options as text.
    Dump(String),
}

/// Why there are no options.
#[derive(Debug)]
enum Refused {
    /// clap refuses, or prints help; and where the value comes from, if not from the command line.
    Line(clap::Error, Option<String>),
    File(FileError),
}

impl Refused {
    fn tell(self) -> Exit {
        match self {
            Self::Line(error, source) => {
                let asked_for = !error.use_stderr();
                // Nothing is left to do if the reader has gone.
                let _ = error.print();
                if let Some(source) = source {
                    tell!("{source}");
                }
                if asked_for { Exit::Clean } else { Exit::BadCommandLine }
            }
            Self::File(error) => {
                tell!("error: {error}");
                Exit::BadCommandLine
            }
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(error, None) => write!(f, "{error}"),
            Self::Line(error, Some(source)) => write!(f, "{error}{source}"),
            Self::File(error) => write!(f, "{error}"),
        }
    }
}

impl From<FileError> for Refused {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

fn read<P: CommandFactory + FromArgMatches>(mut line: Vec<OsString>) -> Result<Read<P>, Refused> {
    let mut command = with_sources(P::command());
    let place = Place::of(&command, &line);
    let path = place.value(&line, CONFIG).or_else(|| env::var_os(variable(CONFIG)));
    let settings = path.map(|path| Settings::read(path.into(), &command, &place)).transpose()?;
    let mut from_file = Vec::new();
    if let Some(settings) = &settings {
        let said = |long: &str| place.says(&line, long) || env::var_os(variable(long)).is_some();
        from_file = settings.options().iter().filter(|setting| !said(&setting.long)).collect();
        let more: Vec<OsString> =
            from_file.iter().flat_map(|setting| setting.arguments.iter().map(OsString::from)).collect();
        line.splice(place.end..place.end, more);
    }
    let of_file = |long: &str| from_file.iter().find(|setting| setting.long == long);
    let source = |long: &str| match (&settings, of_file(long)) {
        (Some(settings), Some(setting)) => {
            Some(format!("{} of {}", setting.table, settings.path().display()))
        }
        _ if place.says(&line, long) => None,
        _ => env::var_os(variable(long)).map(|_| variable(long)),
    };
    let refused = |error: clap::Error| {
        let source = named(&error).and_then(|long| Some((source(&long)?, long)));
        Refused::Line(error, source.map(|(source, long)| format!("`{long}` is from {source}")))
    };
    let matches = command.try_get_matches_from_mut(&line).map_err(refused)?;
    let leaf = place.matches(&matches);
    if leaf.get_flag(DUMP) {
        return Ok(Read::Dump(dump::text(&place, leaf, &source)));
    }
    P::from_arg_matches(&matches).map(|options| Read::Options(Box::new(options))).map_err(refused)
}

/// The option that an error is about.
fn named(error: &clap::Error) -> Option<String> {
    let ContextValue::String(argument) = error.get(ContextKind::InvalidArg)? else { return None };
    let option = argument.strip_prefix("--")?;
    Some(option.split_once(' ').map_or(option, |(long, _)| long).to_owned())
}

/// The variable of an option.
fn variable(long: &str) -> String {
    PREFIX
        .chars()
        .chain(long.chars().map(|char| if char == '-' { '_' } else { char.to_ascii_uppercase() }))
        .collect()
}

/// The same command, with the options of this module.
#[must_use]
pub fn with_sources(command: Command) -> Command {
    let own = |id: &'static str| Arg::new(id).long(id).global(true).help_heading("Options from elsewhere");
    let command = command
        .arg(
            own(CONFIG)
                .value_name("FILE")
                .help("Read options that are given nowhere else from this TOML file")
                .long_help(SOURCES),
        )
        .arg(
            own(DUMP).action(ArgAction::SetTrue).help("Print all options and where each comes from, and end"),
        );
    with_variables(command)
}

fn with_variables(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let Some(long) = arg.get_long().filter(|long| !arg.is_hide_set() && *long != DUMP) else {
            return arg;
        };
        let name = variable(long);
        let arg = if is_flag(&arg) { arg.value_parser(BoolishValueParser::new()) } else { arg };
        if arg.get_env().is_some() { arg } else { arg.env(name).hide_env(true) }
    });
    command.mut_subcommands(with_variables)
}

/// Whether the option takes no value.
fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Whether an argument of a command line is this option.
fn is_option(argument: &OsStr, long: &str) -> bool {
    let Some(named) = argument.to_str().and_then(|text| text.strip_prefix("--")) else { return false };
    named.split_once('=').map_or(named, |(name, _)| name) == long
}

/// The values of the chosen command.
fn leaf<'m>(matches: &'m ArgMatches, names: &[String]) -> &'m ArgMatches {
    names.iter().fold(matches, |matches, name| matches.subcommand_matches(name).unwrap_or(matches))
}
