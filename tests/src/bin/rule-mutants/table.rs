//! The table of mistakes: files of entries, each with an expression and its wrong replacement.
//!
//! ```text
//! file coordinator/src/validate/check.rs
//!
//! [covers-what-it-may-spend]
//! find sender.balance >= transfer.required
//! with true
//! ```
//!
//! `file` applies to all entries that follow. If `find` occurs more than once, `in` gives a larger
//! piece of code around it. `redundant` states why no test can find the mistake. Indented lines
//! continue the previous line; `#` begins a comment. White space in code is ignored.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// A mistake to plant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mutant {
    /// The mistake's number, in the order of the table.
    pub(crate) number: usize,
    /// The mistake's unique name.
    pub(crate) name: String,
    /// The path of its file, relative to the repository's root.
    pub(crate) file: String,
    /// A piece of code that contains `find` exactly once.
    pub(crate) within: Option<String>,
    /// The right expression, which occurs exactly once in `within`, or else in the file.
    pub(crate) find: String,
    /// The wrong expression that replaces it while the mistake is switched on.
    pub(crate) with: String,
    /// The reason why no test can find it; `None` for a mistake that must be found.
    pub(crate) redundant: Option<String>,
}

/// Reads every table in a folder, in the order of the file names.
pub(crate) fn read(folder: &Path) -> Result<Vec<Mutant>> {
    let listed = fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut paths = listed.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    let mut mutants = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        mutants.extend(parse(&text).with_context(|| format!("in {}", path.display()))?);
    }
    (0..).zip(&mut mutants).for_each(|(number, mutant): (usize, &mut Mutant)| mutant.number = number);
    let mut names: Vec<&str> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair.first() == pair.last()) {
        bail!("two mistakes are called {:?}; give one of them another name", twice.first());
    }
    ensure!(!mutants.is_empty(), "{} has no tables", folder.display());
    Ok(mutants)
}

/// The lines joined with their continuations, each with its line number.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        match lines.last_mut() {
            _ if line.trim().is_empty() || line.starts_with('#') => {}
            Some((_, last)) if line.starts_with(' ') => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push((number, line.trim_end().to_owned())),
        }
    }
    lines
}

fn parse(text: &str) -> Result<Vec<Mutant>> {
    let mut file = String::new();
    let mut mutants: Vec<Mutant> = Vec::new();
    for (number, line) in logical_lines(text) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            ensure!(!file.is_empty(), "line {number}: no `file` stands above [{name}]");
            mutants.push(Mutant { name: name.to_owned(), file: file.clone(), ..Mutant::default() });
            continue;
        }
        let (key, value) =
            line.split_once(' ').with_context(|| format!("line {number}: {line:?} has no value"))?;
        let value = value.trim().to_owned();
        match (key, mutants.last_mut()) {
            ("file", _) => file = value,
            ("in", Some(mutant)) => mutant.within = Some(value),
            ("find", Some(mutant)) => mutant.find = value,
            ("with", Some(mutant)) => mutant.with = value,
            ("redundant", Some(mutant)) => mutant.redundant = Some(value),
            _ => bail!("line {number}: `{key}` means nothing here; use file, in, find, with or redundant"),
        }
    }
    if let Some(mutant) = mutants.iter().find(|mutant| mutant.find.is_empty() || mutant.with.is_empty()) {
        bail!("[{}] needs a line `find` and a line `with`", mutant.name);
    }
    Ok(mutants)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_entry_takes_its_file_from_above_and_continues_over_indented_lines() {
        let text =
            "# A comment.\nfile a.rs\n\n[one]\nfind x ==\n    y\nwith true\n[two]\nin f(z)\nfind z\nwith 0\n";
        let mutants = parse(text).unwrap();
        let [one, two] = mutants.as_slice() else { unreachable!("two entries") };
        assert_eq!((one.name.as_str(), one.file.as_str(), one.find.as_str()), ("one", "a.rs", "x == y"));
        assert_eq!((two.within.as_deref(), two.with.as_str()), (Some("f(z)"), "0"));
    }

    #[test]
    fn an_entry_without_a_replacement_is_refused_by_name() {
        let error = parse("file a.rs\n[one]\nfind x\n").unwrap_err();
        assert!(error.to_string().contains("[one]"), "{error}");
    }
}
