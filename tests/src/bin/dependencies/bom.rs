//! A bill of materials in the format of CycloneDX 1.5 (ECMA-424), JSON.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::SHIPPED;
use crate::graph::{Graph, Package};

/// Writes the bill of these packages, with the checksums of `lock` (Cargo.lock).
pub(crate) fn write(graph: &Graph, shipped: &[Package], lock: &str) -> Result<String> {
    let checksums = checksums(lock);
    let mut components = Vec::new();
    for package in shipped {
        components.push(component(package, &checksums)?);
    }
    let dependencies: Vec<Value> = shipped
        .iter()
        .map(|package| {
            let needs: Vec<String> = graph.needs_of(package).map(Package::purl).collect();
            json!({"ref": package.purl(), "dependsOn": needs})
        })
        .collect();
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": "shipped", "name": SHIPPED.join(" and ")},
        },
        "components": components,
        "dependencies": dependencies,
    });
    Ok(format!("{bill:#}\n"))
}

fn component(package: &Package, checksums: &BTreeMap<(&str, &str), &str>) -> Result<Value> {
    let kind = if SHIPPED.contains(&package.name.as_str()) { "application" } else { "library" };
    let mut component = json!({
        "type": kind,
        "bom-ref": package.purl(),
        "name": package.name,
        "version": package.version,
        "purl": package.purl(),
    });
    let fields = component.as_object_mut().context("a component is an object")?;
    if !package.license.is_empty() {
        // Old manifests write a slash for OR.
        let expression = package.license.replace('/', " OR ");
        fields.insert("licenses".into(), json!([{"expression": expression}]));
    }
    if package.is_foreign {
        let sum = checksums.get(&(package.name.as_str(), package.version.as_str()));
        let sum = sum.with_context(|| format!("Cargo.lock has no checksum of {}", package.purl()))?;
        fields.insert("hashes".into(), json!([{"alg": "SHA-256", "content": sum}]));
    }
    Ok(component)
}

/// The checksums of a Cargo.lock, by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let sections = lock.split("[[package]]");
    let entry =
        |section| Some(((value(section, "name")?, value(section, "version")?), value(section, "checksum")?));
    sections.filter_map(entry).collect()
}

/// The text of a field in a section of a Cargo.lock.
fn value<'l>(section: &'l str, field: &str) -> Option<&'l str> {
    section.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(" = \"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::graph::tests::graph;

    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry\"\nchecksum = \"aa\"\n\n[[package]]\nname = \"b\"\nversion = \"1.0.0\"\nchecksum = \"bb\"\n";

    #[test]
    fn a_bill_names_each_package_with_its_checksum_and_its_needs() {
        let graph = graph();
        let bill = write(&graph, &graph.reached_from(&SHIPPED).unwrap(), LOCK).unwrap();
        let bill: Value = serde_json::from_str(&bill).unwrap();
        let of = |path: &str| bill.pointer(path).cloned().unwrap_or_default();
        assert_eq!(of("/components/0/purl"), "pkg:cargo/a@1.0.0");
        assert_eq!(of("/components/0/hashes/0/content"), "aa");
        assert_eq!(of("/components/2/type"), "application");
        assert_eq!(of("/components/2/hashes"), Value::Null, "it is not from a registry");
        assert_eq!(
            of("/dependencies/0"),
            json!({"ref": "pkg:cargo/a@1.0.0", "dependsOn": ["pkg:cargo/b@1.0.0"]})
        );
        assert_eq!(bill.get("components").and_then(Value::as_array).unwrap().len(), 4);
    }

    #[test]
    fn a_package_without_a_checksum_is_an_error() {
        let graph = graph();
        let shipped = graph.reached_from(&SHIPPED).unwrap();
        let error = write(&graph, &shipped, "").unwrap_err().to_string();
        assert!(error.contains("pkg:cargo/a@1.0.0"), "{error}");
    }
}
