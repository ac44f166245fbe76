//! Where the binary is: `RATATOSK_BIN`, or what cargo builds in the profile of this test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// The binary, to be given arguments. It gets none of this test's own variables: it takes those
/// that begin with `RATATOSK_` for keys of its configuration.
///
/// # Errors
/// If it cannot be built, or `RATATOSK_BIN` names no file.
pub fn ratatosk() -> Result<Command> {
    let mut command = Command::new(path()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RATATOSK_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// The library that stands between a process and its disk; built by cargo in the profile of this test.
///
/// # Errors
/// If it cannot be built.
pub(crate) fn shim() -> Result<PathBuf> {
    static SHIM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = SHIM.get_or_init(|| {
        let folder = build(&["--package", "ratatosk-shim"]);
        folder.map_err(|error| format!("{error:#}")).map(|it| it.join("libratatosk_shim.so"))
    });
    built.clone().map_err(|error| anyhow::anyhow!("{error}"))
}

/// The path of `ratatosk`; built once per run of the tests.
fn path() -> Result<&'static Path> {
    match BINARY.get_or_init(|| find().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(error) => bail!("{error}"),
    }
}

fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("RATATOSK_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("RATATOSK_BIN names {}, which is no file", path.display());
        }
        return Ok(path);
    }
    // With the features of the whole workspace, so that what `cargo test --workspace` has built is
    // used again.
    let folder = build(&["--workspace", "--bin", "ratatosk"])?;
    let binary = folder.join("ratatosk");
    if !binary.is_file() {
        bail!("cargo built no {}", binary.display());
    }
    Ok(binary)
}

/// Builds something in the profile of this test, and says in which folder it lies. Variables of this
/// test are removed: build scripts that watch them would run again.
fn build(what: &[&str]) -> Result<PathBuf> {
    let test = std::env::current_exe().context("where is this test?")?;
    let folder = test.parent().and_then(Path::parent).context("the test lies in deps/")?;
    let target = folder.parent().context("the profile lies in the target folder")?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => bail!("{} is no folder of a profile", folder.display()),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--profile", profile])
        .args(what)
        .arg("--target-dir")
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    let status = command.status().context("starting cargo build")?;
    if !status.success() {
        bail!("cargo could not build {what:?} ({status}); RATATOSK_BIN may name a binary");
    }
    Ok(folder.to_owned())
}
