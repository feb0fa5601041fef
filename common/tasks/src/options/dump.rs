//! All options of a command as a TOML file, and where each comes from.

use std::fmt::Write as _;

use clap::ArgMatches;
use clap::parser::ValueSource;
use toml::Value;

use super::place::{Known, Place};
use super::variable;

/// The options of `place` that `matches` holds. `elsewhere` says where an option comes from that is not on the command
/// line as it was given.
pub(super) fn text(
    place: &Place,
    matches: &ArgMatches,
    elsewhere: &dyn Fn(&str) -> Option<String>,
) -> String {
    let mut text = format!("# The options, and where each comes from.\n{}\n", place.table());
    for option in &place.options {
        let source = match matches.value_source(&option.id) {
            Some(ValueSource::CommandLine) => {
                elsewhere(&option.long).unwrap_or_else(|| "the command line".into())
            }
            Some(ValueSource::EnvVariable) => variable(&option.long),
            Some(_) => "default".into(),
            None => String::new(),
        };
        // Writing to a string cannot fail.
        let _ = match value(option, matches) {
            Some(value) => writeln!(text, "{} = {value} # {source}", option.long),
            None => writeln!(text, "# {} is not set", option.long),
        };
    }
    text
}

/// The option's value in TOML; `None` if it has none.
fn value(option: &Known, matches: &ArgMatches) -> Option<Value> {
    if option.is_flag {
        return Some(Value::Boolean(matches.get_flag(&option.id)));
    }
    let values =
        matches.get_raw(&option.id)?.map(|value| scalar(&value.to_string_lossy())).collect::<Vec<_>>();
    match values.as_slice() {
        [one] if !option.is_list => Some(one.clone()),
        _ => Some(Value::Array(values)),
    }
}

fn scalar(text: &str) -> Value {
    text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer)
}
