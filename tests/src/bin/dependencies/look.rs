//! The crates that deserve a look, because they run a program when they are built, run within the compiler, link a
//! native library or have `unsafe` code; by who publishes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result};

use crate::graph::{Package, rust_files};

const HEAD: &str = "\
# Dependencies

The crates that `coordinator` and `executor-shard` are built from, on Linux and x86-64, by who publishes them: the owner of
the repository that a crate names. `unsafe` counts the lines of a crate's sources that have the keyword, in code that may
not be compiled. Build scripts and macros run when the project is built. This page is no audit. It lists
the publishers that the build depends on, and shows where an audit would begin.

`scripts/dependencies.sh table` writes this page. `scripts/dependencies.sh bom` writes a bill of materials (CycloneDX 1.5)
with licences and checksums. `deny.toml` has the licences and sources that are allowed, and names the crates that are there
twice; `scripts/test.sh` checks it where cargo-deny is installed.
";

/// A crate's name, and how many lines of its versions have `unsafe`.
type Lines<'p> = BTreeMap<&'p str, usize>;

/// A Markdown page with a row for each publisher, that of the most `unsafe` lines first.
pub(crate) fn table(shipped: &[Package]) -> Result<String> {
    let foreign: Vec<&Package> = shipped.iter().filter(|package| package.is_foreign).collect();
    let mut publishers: BTreeMap<&str, (Vec<&Package>, Lines<'_>)> = BTreeMap::new();
    for package in &foreign {
        let (crates, lines) = publishers.entry(publisher(&package.repository)).or_default();
        crates.push(package);
        *lines.entry(&package.name).or_default() += unsafe_lines(package)?;
    }
    let mut rows: Vec<(usize, String)> =
        publishers.iter().map(|(name, (crates, lines))| row(name, crates, lines)).collect();
    rows.sort_by(|(left, left_row), (right, right_row)| right.cmp(left).then(left_row.cmp(right_row)));
    let mut text = format!("{HEAD}\n{} crates of {} publishers:\n\n", foreign.len(), rows.len());
    writeln!(text, "| publisher | crates | `unsafe` | build scripts | macros | native libraries |")?;
    writeln!(text, "|---|---:|---|---|---|---|")?;
    for (_, row) in rows {
        writeln!(text, "{row}")?;
    }
    Ok(text)
}

/// The row of a publisher, after its number of `unsafe` lines.
fn row(publisher: &str, crates: &[&Package], lines: &Lines<'_>) -> (usize, String) {
    let names = |wanted: &dyn Fn(&Package) -> bool| -> String {
        let names = crates.iter().filter(|package| wanted(package)).map(|package| package.name.as_str());
        names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
    };
    let mut with_unsafe: Vec<(&str, usize)> = lines.iter().map(|(name, lines)| (*name, *lines)).collect();
    with_unsafe.retain(|(_, lines)| *lines > 0);
    with_unsafe.sort_by_key(|(name, lines)| (usize::MAX - lines, *name));
    let unsafe_names: Vec<String> =
        with_unsafe.iter().map(|(name, lines)| format!("{name} {lines}")).collect();
    let row = format!(
        "| {publisher} | {} | {} | {} | {} | {} |",
        crates.len(),
        unsafe_names.join(", "),
        names(&|package| package.has_build_script),
        names(&|package| package.is_macro),
        names(&|package| package.links.is_some()),
    );
    (lines.values().sum(), row)
}

/// Host and owner of a repository.
fn publisher(repository: &str) -> &str {
    let place = repository.split_once("://").map_or(repository, |(_, place)| place);
    let place = place.strip_prefix("github.com/").unwrap_or(place);
    match place.split('/').next() {
        None | Some("") => "(no repository)",
        Some(owner) => owner,
    }
}

/// The number of lines of the package's sources that have `unsafe` in code.
fn unsafe_lines(package: &Package) -> Result<usize> {
    let mut lines = 0;
    for file in rust_files(&package.sources())? {
        let bytes = std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        lines += String::from_utf8_lossy(&bytes).lines().filter(|line| has_unsafe(line)).count();
    }
    Ok(lines)
}

/// Whether the line has the keyword `unsafe` outside of a comment.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.split(|character: char| !character.is_alphanumeric() && character != '_')
        .any(|word| word == "unsafe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_are_the_owners_of_repositories() {
        assert_eq!(publisher("https://github.com/tokio-rs/tokio"), "tokio-rs");
        assert_eq!(publisher("https://gitlab.redox-os.org/redox-os/x"), "gitlab.redox-os.org");
        assert_eq!(publisher(""), "(no repository)");
    }

    #[test]
    fn unsafe_counts_in_code_only() {
        assert!(has_unsafe("    unsafe { read() }"));
        assert!(has_unsafe("pub unsafe fn read()"));
        assert!(!has_unsafe("// unsafe { read() }"));
        assert!(!has_unsafe("#![forbid(unsafe_code)]"));
    }
}
