//! Which command a command line chooses, and which options that command has.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{CONFIG, DUMP, is_flag, is_option, leaf};

/// An option of a command.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) id: String,
    pub(super) long: String,
    pub(super) is_flag: bool,
    /// Whether it may be given several times.
    pub(super) is_list: bool,
    /// Whether every command has it.
    pub(super) is_global: bool,
}

/// A command of a program, as a command line chooses it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) program: String,
    /// The names of the chosen subcommands, the outermost first.
    pub(super) names: Vec<String>,
    /// Where the options of the command begin on the command line.
    pub(super) end: usize,
    pub(super) options: Vec<Known>,
}

impl Place {
    /// The command that `line` chooses; the first argument is the program.
    pub(super) fn of(program: &Command, line: &[OsString]) -> Self {
        let (mut command, mut options) = (program, known(program, false));
        let (mut names, mut end) = (Vec::new(), line.len().min(1));
        let mut rest = line.iter().enumerate().skip(1);
        while let Some((at, argument)) = rest.next() {
            if argument == "--" {
                break;
            }
            let next = argument.to_str().and_then(|name| command.find_subcommand(name));
            if let Some(next) = next {
                (command, end) = (next, at + 1);
                names.push(next.get_name().to_owned());
                options.retain(|option| option.is_global);
                options.extend(known(next, true));
            } else if *argument == *format!("--{CONFIG}")
                || options.iter().any(|option| !option.is_flag && *argument == *format!("--{}", option.long))
            {
                // The next argument is the option's value.
                rest.next();
            }
        }
        Self { program: program.get_name().to_owned(), names, end, options }
    }

    /// The name of the command's table in a file.
    pub(super) fn table(&self) -> String {
        format!(
            "[{}]",
            std::iter::once(&self.program).chain(&self.names).cloned().collect::<Vec<_>>().join(".")
        )
    }

    /// Whether the command line names this option.
    pub(super) fn says(&self, line: &[OsString], long: &str) -> bool {
        own(line).any(|argument| is_option(argument, long))
    }

    /// The value that the command line gives to an option.
    pub(super) fn value(&self, line: &[OsString], long: &str) -> Option<OsString> {
        let mut arguments = own(line).skip_while(|argument| !is_option(argument, long));
        let named = arguments.next()?;
        match named.to_str().and_then(|text| text.split_once('=')) {
            Some((_, value)) => Some(value.into()),
            None => arguments.next().cloned(),
        }
    }

    /// What clap has found for the chosen command.
    pub(super) fn matches<'m>(&self, matches: &'m ArgMatches) -> &'m ArgMatches {
        leaf(matches, &self.names)
    }
}

/// The arguments in which options may be named.
fn own(line: &[OsString]) -> impl Iterator<Item = &OsString> {
    line.iter().skip(1).take_while(|argument| *argument != OsStr::new("--"))
}

/// The options of a command that may come from elsewhere.
fn known(command: &Command, below: bool) -> Vec<Known> {
    let counts = |arg: &&Arg| {
        let own = arg.get_long().is_some_and(|long| [CONFIG, DUMP, "help", "version"].contains(&long));
        let is_known = below && arg.is_global_set();
        !(arg.is_hide_set() || own || is_known)
    };
    let known = |arg: &Arg| {
        Some(Known {
            id: arg.get_id().to_string(),
            long: arg.get_long()?.to_owned(),
            is_flag: is_flag(arg),
            is_list: matches!(arg.get_action(), ArgAction::Append),
            is_global: arg.is_global_set(),
        })
    };
    command.get_arguments().filter(counts).filter_map(known).collect()
}
