//! The graph of packages that `cargo metadata` prints, and what a set of packages needs of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// A package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) id: String,
    /// The expression of its licence, empty if it states none.
    pub(crate) license: String,
    /// The URL of its repository, empty if it states none.
    pub(crate) repository: String,
    /// Whether it comes from a registry, and not from this workspace.
    pub(crate) is_foreign: bool,
    /// Whether it runs a program when it is built.
    pub(crate) has_build_script: bool,
    /// Whether it runs within the compiler.
    pub(crate) is_macro: bool,
    /// The native library that it links, if any.
    pub(crate) links: Option<String>,
    folder: PathBuf,
}

impl Package {
    fn parse(package: &Value) -> Result<Self> {
        let text = |field: &str| package.get(field).and_then(Value::as_str).map(str::to_owned);
        let needed = |field: &str| text(field).with_context(|| format!("a package has no {field}"));
        let targets = package.get("targets").and_then(Value::as_array).into_iter().flatten();
        let kinds = targets.filter_map(|target| target.get("kind")?.as_array());
        let kinds: BTreeSet<&str> = kinds.flatten().filter_map(Value::as_str).collect();
        let manifest = PathBuf::from(needed("manifest_path")?);
        Ok(Self {
            name: needed("name")?,
            version: needed("version")?,
            id: needed("id")?,
            license: text("license").unwrap_or_default(),
            repository: text("repository").unwrap_or_default(),
            is_foreign: text("source").is_some(),
            has_build_script: kinds.contains("custom-build"),
            is_macro: kinds.contains("proc-macro"),
            links: text("links"),
            folder: manifest.parent().context("a manifest has no folder")?.to_owned(),
        })
    }

    /// The folder of its sources.
    pub(crate) fn sources(&self) -> PathBuf {
        self.folder.join("src")
    }

    /// Its address as a package URL.
    pub(crate) fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

/// All packages, and which need which to be built or to run.
#[derive(Debug)]
pub(crate) struct Graph {
    packages: BTreeMap<String, Package>,
    needs: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// The graph in the output of `cargo metadata --format-version 1`.
    pub(crate) fn parse(metadata: &str) -> Result<Self> {
        let metadata: Value = serde_json::from_str(metadata).context("the metadata is not JSON")?;
        let list = |value: &Value, field: &str| -> Result<Vec<Value>> {
            let list = value.get(field).and_then(Value::as_array);
            list.cloned().with_context(|| format!("the metadata has no {field}"))
        };
        let packages = list(&metadata, "packages")?;
        let packages = packages.iter().map(Package::parse).collect::<Result<Vec<_>>>()?;
        let resolve = metadata.get("resolve").context("the metadata has no resolve")?;
        let mut needs = BTreeMap::new();
        for node in list(resolve, "nodes")? {
            let id = node.get("id").and_then(Value::as_str).context("a node has no id")?;
            let dependencies = list(&node, "deps")?;
            let needed = dependencies.iter().filter(|dependency| is_needed(dependency));
            let needed = needed.filter_map(|dependency| dependency.get("pkg")?.as_str().map(str::to_owned));
            needs.insert(id.to_owned(), needed.collect());
        }
        let packages = packages.into_iter().map(|package| (package.id.clone(), package)).collect();
        Ok(Self { packages, needs })
    }

    /// These packages and everything that they need, by name and version.
    pub(crate) fn reached_from(&self, names: &[&str]) -> Result<Vec<Package>> {
        let mut open: Vec<&str> = Vec::new();
        for name in names {
            let found = self.packages.values().find(|package| package.name == *name && !package.is_foreign);
            open.push(&found.with_context(|| format!("the workspace has no package {name}"))?.id);
        }
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(self.needs.get(id).into_iter().flatten().map(String::as_str));
            }
        }
        let mut reached: Vec<Package> =
            seen.into_iter().filter_map(|id| self.packages.get(id)).cloned().collect();
        reached.sort();
        Ok(reached)
    }

    /// What the package needs itself.
    pub(crate) fn needs_of(&self, package: &Package) -> impl Iterator<Item = &Package> {
        let ids = self.needs.get(&package.id).into_iter().flatten();
        ids.filter_map(|id| self.packages.get(id))
    }
}

/// Whether a dependency is more than one of tests.
fn is_needed(dependency: &Value) -> bool {
    let kinds = dependency.get("dep_kinds").and_then(Value::as_array).into_iter().flatten();
    kinds.into_iter().any(|kind| kind.get("kind").and_then(Value::as_str) != Some("dev"))
}

/// All Rust files below a folder.
pub(crate) fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut open, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry.with_context(|| format!("{} cannot be listed", folder.display()))?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    /// Two programs; one needs `a`, which needs `b` to be built and `c` for its tests.
    pub(crate) fn graph() -> Graph {
        let package = |name: &str, source: Option<&str>, kind: &str| {
            json!({
                "name": name, "version": "1.0.0", "id": format!("{name} 1.0.0"), "license": "MIT OR Apache-2.0",
                "repository": "https://github.com/some/one", "source": source, "links": null,
                "manifest_path": format!("/{name}/Cargo.toml"), "targets": [{"kind": ["lib"]}, {"kind": [kind]}],
            })
        };
        let registry = Some("registry");
        let node = |name: &str, needs: &[(&str, Option<&str>)]| {
            let kind = |(name, kind): &(&str, Option<&str>)| json!({"pkg": format!("{name} 1.0.0"), "dep_kinds": [{"kind": kind}]});
            json!({"id": format!("{name} 1.0.0"), "deps": needs.iter().map(kind).collect::<Vec<_>>()})
        };
        let metadata = json!({
            "packages": [
                package("coordinator", None, "bin"), package("executor-shard", None, "bin"),
                package("a", registry, "lib"), package("b", registry, "custom-build"),
                package("c", registry, "lib"),
            ],
            "resolve": {"nodes": [
                node("coordinator", &[("a", None)]), node("executor-shard", &[]),
                node("a", &[("b", Some("build")), ("c", Some("dev"))]), node("b", &[]), node("c", &[]),
            ]},
        });
        Graph::parse(&metadata.to_string()).unwrap()
    }

    #[test]
    fn what_only_tests_need_is_not_reached() {
        let graph = graph();
        let names = |of: &[&str]| -> Vec<String> {
            graph.reached_from(of).unwrap().into_iter().map(|package| package.name).collect()
        };
        assert_eq!(names(&["coordinator", "executor-shard"]), ["a", "b", "coordinator", "executor-shard"]);
        assert_eq!(names(&["executor-shard"]), ["executor-shard"]);
        assert!(graph.reached_from(&["a"]).is_err(), "it is not of the workspace");
    }
}
