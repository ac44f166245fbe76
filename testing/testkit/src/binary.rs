//! Programs and libraries of the workspace that a test runs, built as the test was.
//!
//! Cargo builds each of them once per process, into the target folder and in the profile of the
//! running program. The broker may lie elsewhere: `RATATOSK_BIN` names it.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, anyhow, bail};

/// The folder of the workspace.
const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The broker, to be given arguments. It gets none of this test's own variables: it takes those
/// that begin with `RATATOSK_` for keys of its configuration.
///
/// # Errors
/// If it cannot be built, or `RATATOSK_BIN` names no file.
pub fn ratatosk() -> Result<Command> {
    let mut command = Command::new(path()?);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("RATATOSK_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// The path of the broker: `RATATOSK_BIN`, or what cargo builds.
///
/// # Errors
/// As [`ratatosk`].
pub fn path() -> Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOUND.get_or_init(|| find().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(error) => bail!("{error}"),
    }
}

fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os("RATATOSK_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("RATATOSK_BIN names {}, which is no file", path.display());
        }
        return Ok(path);
    }
    // With the features of the whole workspace: what `cargo test --workspace` has built is used
    // again.
    let selection = ["--workspace", "--bin", "ratatosk"];
    let folder = build(&selection).context("RATATOSK_BIN may name a broker that is built")?;
    let binary = folder.join("ratatosk");
    if !binary.is_file() {
        bail!("cargo built no {}", binary.display());
    }
    Ok(binary)
}

/// Builds the library and the programs of a package, and returns the folder of the profile, where
/// they lie.
///
/// # Errors
/// If it cannot be built.
pub fn package(name: &str) -> Result<PathBuf> {
    static BUILT: Mutex<BTreeMap<String, Result<PathBuf, String>>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = built
        .entry(name.to_owned())
        .or_insert_with(|| build(&["--package", name]).map_err(|error| format!("{error:#}")));
    outcome.clone().map_err(|error| anyhow!(error))
}

/// Variables of this test are removed: build scripts that watch them would run again.
fn build(selection: &[&str]) -> Result<PathBuf> {
    let folder = profile_folder()?;
    let target = folder.parent().context("the profile lies in the target folder")?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => bail!("{} is no folder of a profile", folder.display()),
    };
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--profile", profile]).args(selection);
    command.arg("--target-dir").arg(target).current_dir(WORKSPACE);
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    let status = command.status().context("starting cargo build")?;
    if !status.success() {
        bail!("cargo build {} ended with {status}", selection.join(" "));
    }
    Ok(folder)
}

/// Where cargo put the running program, or the folder around that of its tests.
fn profile_folder() -> Result<PathBuf> {
    let program = env::current_exe().context("where is this program?")?;
    let folder = program.parent().context("a program lies in a folder")?;
    let is_test = folder.ends_with("deps");
    let folder = if is_test { folder.parent() } else { Some(folder) };
    Ok(folder.context("deps lies in the folder of a profile")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_built_where_this_test_was() {
        let folder = package("ratatosk-testkit").expect("is built");
        let test = env::current_exe().expect("is a file");
        assert!(test.starts_with(&folder), "{} in {}", test.display(), folder.display());
        assert!(folder.join("libratatosk_testkit.rlib").is_file());
    }

    #[test]
    fn a_package_that_is_not_there_is_an_error_that_names_it() {
        let error = package("ratatosk-nothing").expect_err("there is no such package");
        assert!(error.to_string().contains("ratatosk-nothing"), "{error}");
    }
}
