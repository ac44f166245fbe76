//! External dependencies of pure crates: only those of `xtask/pure.toml`, each with its reason.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::tidy::Violation;
use crate::workspace::Package;

/// Reads the allow-list: crate name to reason.
pub(crate) fn allowed_in_pure(text: &str) -> Result<BTreeMap<String, String>> {
    let table: toml::Table = text.parse().context("xtask/pure.toml")?;
    let mut allowed = BTreeMap::new();
    for (name, reason) in table {
        match reason.as_str() {
            Some(reason) if !reason.trim().is_empty() => allowed.insert(name, reason.to_owned()),
            _ => bail!("xtask/pure.toml: {name} has no reason"),
        };
    }
    Ok(allowed)
}

/// Checks that pure crates use nothing else.
pub(crate) fn check(packages: &[Package], allowed: &BTreeMap<String, String>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for package in packages.iter().filter(|package| package.kind.as_deref() == Some("pure")) {
        for dependency in package.dependencies.iter().filter(|dependency| !dependency.is_dev) {
            let is_ours = packages.iter().any(|other| other.name == dependency.name);
            if is_ours || allowed.contains_key(&dependency.name) {
                continue;
            }
            violations.push(Violation {
                path: format!("{}/Cargo.toml", package.folder),
                line: 1,
                what: format!("{} (pure) depends on {}", package.name, dependency.name),
                why: "a pure crate has no I/O, clock, randomness or globals, nor have its dependencies",
                remedy: "leave it out, or list it in xtask/pure.toml with its reason".into(),
            });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn pure(dependency: &str, is_dev: bool) -> Vec<Package> {
        vec![Package {
            name: "ratatosk-topic".into(),
            folder: "crates/broker/topic".into(),
            kind: Some("pure".into()),
            dependencies: vec![Dependency { name: dependency.into(), is_dev }],
        }]
    }

    #[test]
    fn listed_and_dev_dependencies_pass() {
        let allowed = allowed_in_pure("bytes = \"shared payloads\"").expect("parses");
        assert_eq!(check(&pure("bytes", false), &allowed), []);
        assert_eq!(check(&pure("proptest", true), &allowed), []);
    }

    #[test]
    fn an_unlisted_dependency_is_refused() {
        let allowed = allowed_in_pure("bytes = \"shared payloads\"").expect("parses");
        let found = check(&pure("tokio", false), &allowed);
        assert_eq!(found[0].what, "ratatosk-topic (pure) depends on tokio");
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn an_entry_without_a_reason_is_refused() {
        assert!(allowed_in_pure("bytes = \" \"").is_err());
        assert!(allowed_in_pure("bytes = 1").is_err());
    }
}
