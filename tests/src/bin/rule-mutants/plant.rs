//! Copies the tree, plants every mistake behind its switch, and builds the copy once.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::table::Mutant;

/// The environment variable that turns a mistake on, by its number.
pub(crate) const SWITCH: &str = "RULE_MUTANT";

/// The crate that contains the switch. All other crates depend on it.
const SWITCH_CRATE: &str = "common";

/// The crates that are built: those with planted mistakes, and those that use them. Their tests are the
/// first detectors.
const CRATES: [&str; 8] =
    ["common", "net", "engine", "executor-shard", "schedule", "ledger", "coordinator", "lab"];

/// The binaries built from the copy of the tree, which contain every mistake behind its switch.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The unit tests: names of crates and paths of binaries.
    pub(crate) tests: Vec<(String, PathBuf)>,
    /// The path of the `coordinator` binary.
    pub(crate) coordinator: PathBuf,
    /// The path of the `lab` binary.
    pub(crate) lab: PathBuf,
    /// The folder of the copied tree.
    pub(crate) tree: PathBuf,
}

/// The module that is added to [`SWITCH_CRATE`].
fn switch_module() -> String {
    format!(
        "//! Which mistake is made: added by `rule-mutants`.\n\
         use std::sync::LazyLock;\n\
         static ON: LazyLock<Option<u32>> = LazyLock::new(|| std::env::var(\"{SWITCH}\").ok()?.parse().ok());\n\
         /// Whether this mistake is made.\n\
         #[must_use]\npub fn on(number: u32) -> bool {{ *ON == Some(number) }}\n"
    )
}

/// Updates the copy of the tree and plants all mistakes in it. Unchanged files keep their times, so
/// that cargo does not build them again.
pub(crate) fn plant(root: &Path, tree: &Path, mutants: &[Mutant]) -> Result<()> {
    let mut by_file: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        by_file.entry(&mutant.file).or_default().push(mutant);
    }
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("git cannot be started; it lists the files of the tree")?;
    ensure!(listed.status.success(), "git cannot list the files of {}", root.display());
    let listed = String::from_utf8(listed.stdout).context("a file's name is not UTF-8")?;
    for name in listed.split_terminator('\0') {
        let Ok(mut bytes) = fs::read(root.join(name)) else { continue };
        if let Some(mutants) = by_file.remove(name) {
            let text = String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8"))?;
            bytes = rewrite(&text, name, &mutants)?.into_bytes();
        }
        if name == format!("{SWITCH_CRATE}/src/lib.rs") {
            bytes.extend_from_slice(b"\n/// Switches of mistakes.\npub mod mutant_switch;\n");
        }
        update(&tree.join(name), &bytes)?;
    }
    if let Some((file, _)) = by_file.first_key_value() {
        bail!("{file} is not in the tree: mend tests/mutants/rules");
    }
    remove_others(root, tree, tree)?;
    update(&tree.join(SWITCH_CRATE).join("src/mutant_switch.rs"), switch_module().as_bytes())
}

/// Removes the sources below `folder` of the copy that are no longer in the tree.
fn remove_others(root: &Path, tree: &Path, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let source = path.extension().is_some_and(|extension| extension == "rs");
        if path.is_dir() {
            remove_others(root, tree, &path)?;
        } else if source && !root.join(path.strip_prefix(tree)?).exists() {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

fn update(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|known| known == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| format!("{} cannot be written", path.display()))
}

/// A range in a file, with the number and the replacement of each mistake there.
type Site<'a> = (Range<usize>, Vec<(usize, &'a str)>);

/// A file's text with the mistakes planted.
fn rewrite(text: &str, file: &str, mutants: &[&Mutant]) -> Result<String> {
    let mut sites: Vec<Site<'_>> = Vec::new();
    for mutant in mutants {
        let number = mutant.number;
        let range = locate(text, mutant).with_context(|| format!("[{}] in {file}", mutant.name))?;
        match sites.iter_mut().find(|(known, _)| *known == range) {
            Some((_, mistakes)) => mistakes.push((number, &mutant.with)),
            None => sites.push((range, vec![(number, &mutant.with)])),
        }
    }
    // Sorts outer ranges before the ranges inside them.
    sites.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
    let path = if file.starts_with(SWITCH_CRATE) { "crate" } else { "::common" };
    render(text, 0..text.len(), &sites, path)
}

/// The text of `range` with the mistakes planted.
fn render(text: &str, range: Range<usize>, sites: &[Site<'_>], path: &str) -> Result<String> {
    let mut out = String::new();
    let mut at = range.start;
    let mut rest = sites;
    while let Some(((site, mistakes), later)) = rest.split_first() {
        let inner = later.iter().take_while(|(other, _)| other.start < site.end).count();
        let (inside, outside) = later.split_at(inner);
        ensure!(site.end <= range.end, "two mistakes overlap: {:?}", text.get(site.clone()));
        out += text.get(at..site.start).unwrap_or_default();
        // A loop is a statement without a semicolon, so it gets no parentheses.
        let is_loop = text.get(site.clone()).is_some_and(|code| code.starts_with("for "));
        out += if is_loop { "" } else { "(" };
        for (number, replacement) in mistakes {
            out += &format!("if {path}::mutant_switch::on({number}) {{ {replacement} }} else ");
        }
        out += &format!("{{ {} }}", render(text, site.clone(), inside, path)?);
        out += if is_loop { "" } else { ")" };
        at = site.end;
        rest = outside;
    }
    out += text.get(at..range.end).unwrap_or_default();
    Ok(out)
}

/// The range of a mistake's expression, which must occur exactly once.
fn locate(text: &str, mutant: &Mutant) -> Result<Range<usize>> {
    let whole = match &mutant.within {
        None => 0..text.len(),
        Some(within) => once(text, within)?,
    };
    let inside = text.get(whole.clone()).unwrap_or_default();
    let found = once(inside, &mutant.find)?;
    Ok(whole.start + found.start..whole.start + found.end)
}

/// The range of `wanted` in `text`, ignoring white space. It must occur exactly once.
fn once(text: &str, wanted: &str) -> Result<Range<usize>> {
    let dense: Vec<(usize, char)> = text.char_indices().filter(|(_, char)| !char.is_whitespace()).collect();
    let wanted_dense: Vec<char> = wanted.chars().filter(|char| !char.is_whitespace()).collect();
    let mut found = dense
        .windows(wanted_dense.len().max(1))
        .filter(|window| window.iter().map(|(_, char)| char).eq(&wanted_dense))
        .filter_map(|window| Some(window.first()?.0..window.last().map(|(at, char)| at + char.len_utf8())?));
    match (found.next(), found.next()) {
        (Some(range), None) => Ok(range),
        (None, _) => bail!("`{wanted}` is not there any more: mend tests/mutants/rules"),
        (Some(_), Some(_)) => bail!("`{wanted}` is there more than once: add a line `in` that is there once"),
    }
}

/// Builds the tests and the binaries, with less optimisation than a release.
pub(crate) fn build(tree: &Path, target: &Path) -> Result<Built> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(arguments).args([
            "--locked",
            "--release",
            "--message-format",
            "json-render-diagnostics",
        ]);
        for name in CRATES {
            command.args(["--config", &format!("profile.release.package.{name}.opt-level=1")]);
            command.args(["--config", &format!("profile.release.package.{name}.debug=0")]);
        }
        command.env("CARGO_TARGET_DIR", target).current_dir(tree).stderr(Stdio::inherit());
        let output = command.output().context("cargo cannot be started")?;
        ensure!(output.status.success(), "the tree does not build with the mistakes in it; see above");
        // The consensus tests need the binary of their package, which is built with them.
        executables(&output.stdout, arguments.contains(&"test"))
    };
    let mut packages = Vec::new();
    for name in CRATES {
        packages.extend(["-p", name]);
    }
    let tests =
        cargo(&[&["test", "--no-run", "--lib", "--test", "consensus"], packages.as_slice()].concat())?;
    let binaries = cargo(&["build", "-p", "coordinator", "-p", "lab", "--bins"])?;
    let binary = |wanted: &str| {
        let found = binaries.iter().find(|(name, _)| name == wanted);
        found.map(|(_, path)| path.clone()).with_context(|| format!("cargo built no {wanted}"))
    };
    Ok(Built { tests, coordinator: binary("coordinator")?, lab: binary("lab")?, tree: tree.to_path_buf() })
}

/// The executables in cargo's messages, with the names of their targets: those that are tests, or those that
/// are not.
fn executables(messages: &[u8], tests: bool) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(messages).lines() {
        let message: Value = serde_json::from_str(line).context("cargo's message is no JSON")?;
        let name = message.pointer("/target/name").and_then(Value::as_str);
        let is_test = message.pointer("/profile/test").and_then(Value::as_bool) == Some(true);
        if let (Some(name), Some(path)) = (name, message.get("executable").and_then(Value::as_str))
            && is_test == tests
        {
            found.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mutant(number: usize, within: Option<&str>, find: &str, with: &str) -> Mutant {
        let (find, with) = (find.to_owned(), with.to_owned());
        Mutant { number, within: within.map(Into::into), find, with, ..Mutant::default() }
    }

    #[test]
    fn a_mistake_stands_behind_its_switch_and_the_rest_stays() {
        let text = "if a &&\n    b == c { d }";
        let planted = rewrite(text, "a.rs", &[&mutant(7, None, "b==c", "true")]).unwrap();
        assert_eq!(
            planted,
            "if a &&\n    (if ::common::mutant_switch::on(7) { true } else { b == c }) { d }"
        );
    }

    #[test]
    fn mistakes_may_be_at_one_place_and_inside_each_other() {
        let (outer, again, inner) = (
            mutant(1, None, "f(x > 1)", "0"),
            mutant(2, None, "f(x > 1)", "1"),
            mutant(3, None, "x > 1", "true"),
        );
        let planted = rewrite("f(x > 1)", "common/a.rs", &[&outer, &again, &inner]).unwrap();
        let on = |number| format!("if crate::mutant_switch::on({number})");
        let inner = format!("f(({} {{ true }} else {{ x > 1 }}))", on(3));
        assert_eq!(planted, format!("({} {{ 0 }} else {} {{ 1 }} else {{ {inner} }})", on(1), on(2)));
    }

    #[test]
    fn every_mistake_of_the_tables_has_its_place_in_the_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mutants = crate::table::read(&root.join("tests/mutants/rules")).unwrap();
        let files: std::collections::BTreeSet<&str> =
            mutants.iter().map(|mutant| mutant.file.as_str()).collect();
        let mut lost = Vec::new();
        for file in files {
            let text = fs::read_to_string(root.join(file)).unwrap();
            let there = mutants.iter().filter(|mutant| mutant.file == file);
            lost.extend(there.filter_map(|mutant| rewrite(&text, file, &[mutant]).err()));
            let there: Vec<&Mutant> = mutants.iter().filter(|mutant| mutant.file == file).collect();
            if lost.is_empty() {
                rewrite(&text, file, &there).unwrap();
            }
        }
        let lost: Vec<String> = lost.iter().map(|error| format!("{error:#}")).collect();
        assert!(lost.is_empty(), "{}", lost.join("\n"));
    }

    /// The patches of `scripts/mutants.sh` and `scripts/mutants-sim.sh`, which run too long for every change.
    #[test]
    fn every_patch_has_its_place_in_the_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut hunks = 0;
        for entry in fs::read_dir(root.join("tests/mutants")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "patch") {
                continue;
            }
            let patch = fs::read_to_string(&path).unwrap();
            let (_, patch) = patch.split_once("\n--- a/").unwrap();
            for part in format!("\n--- a/{patch}").split("\n--- a/").skip(1) {
                let mut of_file = part.split("\n@@ ");
                let file = of_file.next().unwrap().lines().next().unwrap();
                let text = fs::read_to_string(root.join(file)).unwrap();
                for hunk in of_file {
                    let lines = hunk.lines().skip(1).filter(|line| !line.starts_with('+'));
                    let old: String = lines.flat_map(|line| [line.get(1..).unwrap_or(""), "\n"]).collect();
                    assert!(text.contains(&old), "{}: not in {file} any more:\n{old}", path.display());
                    hunks += 1;
                }
            }
        }
        assert!(hunks > 0);
    }

    #[test]
    fn what_is_not_there_exactly_once_is_refused() {
        let refused =
            |mutant: Mutant| format!("{:#}", rewrite("x > 1; g(x > 1)", "a.rs", &[&mutant]).unwrap_err());
        assert!(refused(mutant(0, None, "y > 1", "true")).contains("not there any more"));
        assert!(refused(mutant(0, None, "x > 1", "true")).contains("more than once"));
        assert!(rewrite("x > 1; g(x > 1)", "a.rs", &[&mutant(0, Some("g(x > 1)"), "x > 1", "true")]).is_ok());
    }
}
