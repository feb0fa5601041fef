//! Options in a TOML file: one table for each command of each program.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Command;
use toml::{Table, Value};

use super::place::{Known, Place};

/// The programs that may share a file. Each reads its own table.
const PROGRAMS: [&str; 2] = ["coordinator", "executor-shard"];

/// The largest file, in bytes.
const MOST_BYTES: u64 = 1 << 20;

/// How alike two names must be for one to be proposed instead of the other: 1 if they are equal.
const ALIKE: f64 = 0.75;

/// Why a file of options is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("{}: it cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: it has more than {MOST_BYTES} bytes, so it is no file of options", path.display())]
    Size { path: PathBuf },
    #[error("{}: it is not TOML: {reason}", path.display())]
    Syntax { path: PathBuf, reason: String },
    #[error("{}: `{program}` is no table but of type {found}; write [{program}]", path.display())]
    Program { path: PathBuf, program: String, found: &'static str },
    #[error("{}: {table} has no {what} `{key}`{hint}", path.display())]
    Unknown { path: PathBuf, table: String, what: &'static str, key: String, hint: String },
    #[error(
        "{}: `{key}` in {table} is {found}; it must be text, a number, true or false, or a list of these",
        path.display()
    )]
    Kind { path: PathBuf, table: String, key: String, found: &'static str },
}

/// What a file says of one command.
#[derive(Debug)]
pub(super) struct Settings {
    path: PathBuf,
    options: Vec<Setting>,
}

/// What a file says of one option.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) long: String,
    /// The table that says it, for example `[coordinator.serve]`.
    pub(super) table: String,
    /// The arguments that it is on a command line.
    pub(super) arguments: Vec<String>,
}

impl Settings {
    /// Reads the file.
    pub(super) fn read(path: PathBuf, program: &Command, place: &Place) -> Result<Self, FileError> {
        let mut text = String::new();
        let file = File::open(&path).map(|file| file.take(MOST_BYTES + 1));
        match file.and_then(|mut file| file.read_to_string(&mut text)) {
            Ok(read) if read as u64 > MOST_BYTES => return Err(FileError::Size { path }),
            Ok(_) => {}
            Err(source) => return Err(FileError::Read { path, source }),
        }
        let table: Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                return Err(FileError::Syntax { path, reason: error.to_string().trim_end().to_owned() });
            }
        };
        let options = Reader { path: &path, place }.options(&table, program)?;
        Ok(Self { path, options })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn options(&self) -> &[Setting] {
        &self.options
    }
}

struct Reader<'a> {
    path: &'a Path,
    place: &'a Place,
}

impl Reader<'_> {
    fn options(&self, file: &Table, program: &Command) -> Result<Vec<Setting>, FileError> {
        if let Some(key) = file.keys().find(|key| !PROGRAMS.contains(&key.as_str())) {
            return Err(self.unknown("the file".into(), "program", key, PROGRAMS.into_iter()));
        }
        let (mut command, mut name, mut options) = (program, self.place.program.clone(), Vec::new());
        let mut table = file.get(&self.place.program);
        if let Some(value) = table.filter(|value| !value.is_table()) {
            let found = value.type_str();
            return Err(FileError::Program { path: self.path.to_owned(), program: name, found });
        }
        let mut deeper = self.place.names.iter();
        loop {
            let next = deeper.next();
            let Some(Value::Table(entries)) = table else { break };
            for (key, value) in entries {
                if command.find_subcommand(key).is_some() && value.is_table() {
                    continue;
                }
                let all = || self.place.options.iter().filter(|option| next.is_none() || option.is_global);
                let Some(option) = all().find(|option| option.long == *key) else {
                    let names = all().map(|option| option.long.as_str());
                    let names = names.chain(command.get_subcommands().map(Command::get_name));
                    return Err(self.unknown(format!("[{name}]"), "option", key, names));
                };
                let arguments = arguments(option, value).map_err(|found| FileError::Kind {
                    path: self.path.to_owned(),
                    table: format!("[{name}]"),
                    key: key.clone(),
                    found,
                })?;
                // What a command's own table says goes before what its program's does.
                options.retain(|setting: &Setting| setting.long != *key);
                options.push(Setting { long: key.clone(), table: format!("[{name}]"), arguments });
            }
            let Some(next) = next else { break };
            (table, name) = (entries.get(next), format!("{name}.{next}"));
            command = command.find_subcommand(next).unwrap_or(command);
        }
        Ok(options)
    }

    fn unknown<'n>(
        &self,
        table: String,
        what: &'static str,
        key: &str,
        names: impl Iterator<Item = &'n str>,
    ) -> FileError {
        let alike = names.map(|name| (strsim::jaro(key, name), name)).filter(|(alike, _)| *alike >= ALIKE);
        let nearest = alike.max_by(|(left, _), (right, _)| left.total_cmp(right));
        let hint = nearest.map(|(_, name)| format!("; did you mean `{name}`?")).unwrap_or_default();
        FileError::Unknown { path: self.path.to_owned(), table, what, key: key.to_owned(), hint }
    }
}

/// The arguments that an option with this value is on a command line, or what the value is instead.
fn arguments(option: &Known, value: &Value) -> Result<Vec<String>, &'static str> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(is) => Ok(is.to_string()),
        Value::Datetime(_) => Err("a time"),
        Value::Array(_) => Err("a list in a list"),
        Value::Table(_) => Err("a table"),
    };
    let long = &option.long;
    match value {
        Value::Boolean(true) if option.is_flag => Ok(vec![format!("--{long}")]),
        Value::Boolean(false) if option.is_flag => Ok(Vec::new()),
        _ if option.is_flag => Err("neither true nor false"),
        Value::Array(values) => values.iter().map(|value| Ok(format!("--{long}={}", text(value)?))).collect(),
        value => Ok(vec![format!("--{long}={}", text(value)?)]),
    }
}
