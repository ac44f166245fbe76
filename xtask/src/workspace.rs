//! The checkout: where it is, which files it has, which packages cargo sees in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::source::Source;

/// The folder that holds the root manifest, from where this runs: a binary in a target folder that
/// several checkouts share must not remember the one that built it.
pub(crate) fn root() -> Result<PathBuf> {
    let here = std::env::current_dir().context("where is this?")?;
    let is_root = |folder: &&Path| folder.join("xtask/Cargo.toml").is_file();
    let root = here.ancestors().find(is_root);
    let root = root.with_context(|| format!("{} lies in no checkout", here.display()))?;
    Ok(root.to_path_buf())
}

/// Where children build: `CARGO_TARGET_DIR`, else the user's cache.
pub(crate) fn target_folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
        return std::path::absolute(&folder)
            .with_context(|| format!("CARGO_TARGET_DIR is {}", folder.display()));
    }
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(cache.join("ratatosk").join("target"))
}

/// A command in the root that builds in the target folder. Variables that `cargo run` left for
/// xtask are removed: build scripts that watch them would run again.
pub(crate) fn command(root: &Path, program: &str) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir(root).env("CARGO_TARGET_DIR", target_folder()?);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let left_by_cargo = name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
            || matches!(&*name, "CARGO" | "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "OUT_DIR");
        if left_by_cargo {
            command.env_remove(&*name);
        }
    }
    Ok(command)
}

/// Every file that git tracks or would track, as paths from the root, sorted.
pub(crate) fn files(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("git ls-files: is git installed?")?;
    if !output.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut files: Vec<String> = output
        .stdout
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter(|name| root.join(name).is_file())
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// Reads a text file of the checkout.
pub(crate) fn read(root: &Path, path: &str) -> Result<String> {
    std::fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"))
}

/// Every Rust file, scanned. Modules that a `#[cfg(test)] mod name;` declares count as tests.
pub(crate) fn rust_sources(root: &Path, files: &[String]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in files.iter().filter(|path| path.ends_with(".rs")) {
        sources.push(Source::new(path, &read(root, path)?));
    }
    let test_modules: Vec<String> =
        sources.iter().flat_map(Source::test_module_paths).collect::<Vec<_>>();
    for source in &mut sources {
        if test_modules.iter().any(|module| source.is_module(module)) {
            source.make_test();
        }
    }
    Ok(sources)
}

/// What a package is in the house's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// Name in the manifest.
    pub(crate) name: String,
    /// Folder from the root, `crates/broker/topic`.
    pub(crate) folder: String,
    /// `[package.metadata.house] kind`, as written.
    pub(crate) kind: Option<String>,
    /// Direct dependencies.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One direct dependency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    /// Package name.
    pub(crate) name: String,
    /// Only tests, examples and benches use it.
    pub(crate) is_dev: bool,
}

/// The packages of the workspace, as cargo sees them.
pub(crate) fn packages(root: &Path) -> Result<Vec<Package>> {
    let output = command(root, "cargo")?
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .context("cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata = serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")?;
    parse_packages(root, &metadata)
}

fn parse_packages(root: &Path, metadata: &serde_json::Value) -> Result<Vec<Package>> {
    let listed = metadata["packages"].as_array().context("cargo metadata without packages")?;
    let mut packages = Vec::new();
    for package in listed {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        let manifest = PathBuf::from(text("manifest_path"));
        let folder = manifest
            .parent()
            .and_then(|folder| folder.strip_prefix(root).ok())
            .map(|folder| folder.to_string_lossy().into_owned())
            .unwrap_or_default();
        let dependencies = package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|dependency| Dependency {
                name: dependency["name"].as_str().unwrap_or_default().to_owned(),
                is_dev: dependency["kind"].as_str() == Some("dev"),
            })
            .collect();
        packages.push(Package {
            name: text("name"),
            folder,
            kind: package["metadata"]["house"]["kind"].as_str().map(str::to_owned),
            dependencies,
        });
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_carry_their_kind_folder_and_dependencies() {
        let metadata = serde_json::json!({ "packages": [{
            "name": "ratatosk-topic",
            "manifest_path": "/checkout/crates/broker/topic/Cargo.toml",
            "metadata": { "house": { "kind": "pure" } },
            "dependencies": [
                { "name": "bytes", "kind": null },
                { "name": "proptest", "kind": "dev" },
            ],
        }]});
        let packages = parse_packages(Path::new("/checkout"), &metadata).expect("parses");
        assert_eq!(
            packages,
            [Package {
                name: "ratatosk-topic".into(),
                folder: "crates/broker/topic".into(),
                kind: Some("pure".into()),
                dependencies: vec![
                    Dependency { name: "bytes".into(), is_dev: false },
                    Dependency { name: "proptest".into(), is_dev: true },
                ],
            }]
        );
    }

    #[test]
    fn metadata_without_packages_is_refused() {
        assert!(parse_packages(Path::new("/checkout"), &serde_json::json!({})).is_err());
    }
}
