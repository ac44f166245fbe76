//! Foreign MQTT clients for the tests of processes, installed at pinned versions.
//!
//! Python's under `<target>/clients/python`, MQTT.js under `<target>/clients/node`, mosquitto's
//! from the system. What is installed already is kept. A client that cannot be had is an error
//! that says how to install it; nothing is skipped.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace;

const REQUIREMENTS: &str = "testing/e2e/requirements.txt";
const PACKAGE: &str = "testing/e2e/package.json";
const PACKAGE_LOCK: &str = "testing/e2e/package-lock.json";

/// Installs all of them.
pub(crate) fn install(root: &Path) -> Result<()> {
    let folder = workspace::target_folder()?.join("clients");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    install_python(root, &folder.join("python"))?;
    install_node(root, &folder.join("node"))?;
    install_mosquitto()
}

fn install_python(root: &Path, folder: &Path) -> Result<()> {
    let requirements = workspace::read(root, REQUIREMENTS)?;
    if is_installed(folder, &requirements) {
        return Ok(());
    }
    remove(folder)?;
    run(Command::new("python3").args(["-m", "venv"]).arg(folder)).context(
        "python3 with its venv module is needed: install python3 and python3-venv, version 3.10 or newer",
    )?;
    let python = folder.join("bin").join("python");
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--requirement"])
        .arg(root.join(REQUIREMENTS));
    run(&mut pip).with_context(|| format!("pip could not install {REQUIREMENTS}"))?;
    mark(folder, &requirements)
}

fn install_node(root: &Path, folder: &Path) -> Result<()> {
    let wanted =
        format!("{}{}", workspace::read(root, PACKAGE)?, workspace::read(root, PACKAGE_LOCK)?);
    if is_installed(folder, &wanted) {
        return Ok(());
    }
    remove(folder)?;
    std::fs::create_dir_all(folder)?;
    std::fs::copy(root.join(PACKAGE), folder.join("package.json"))?;
    std::fs::copy(root.join(PACKAGE_LOCK), folder.join("package-lock.json"))?;
    let mut npm = Command::new("npm");
    npm.args(["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(folder);
    run(&mut npm).context("node and npm are needed: install node 20 or newer")?;
    mark(folder, &wanted)
}

fn install_mosquitto() -> Result<()> {
    require(
        &["mosquitto_pub", "mosquitto_sub"],
        "mosquitto-clients",
        "mosquitto_pub and mosquitto_sub are needed: install the package mosquitto-clients \
         (Debian, Ubuntu) or mosquitto (others)",
    )
}

/// Sees to it that programs of the system are there; installs Debian's package when it may.
pub(crate) fn require(programs: &[&str], package: &str, hint: &'static str) -> Result<()> {
    let is_there = || programs.iter().all(|name| is_in_path(name));
    if is_there() {
        return Ok(());
    }
    let user = Command::new("id").arg("-u").output().context("id -u")?;
    let is_root = String::from_utf8_lossy(&user.stdout).trim() == "0";
    if !is_root || !is_in_path("apt-get") {
        bail!(hint);
    }
    let mut apt = Command::new("apt-get");
    run(apt.args(["update", "--quiet"])).context(hint)?;
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--quiet", "--no-install-recommends", package]);
    run(apt.env("DEBIAN_FRONTEND", "noninteractive")).context(hint)?;
    if !is_there() {
        bail!(hint);
    }
    Ok(())
}

fn is_in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// The mark holds the list that was installed, so a changed list installs anew.
fn is_installed(folder: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(folder.join(".installed")).is_ok_and(|installed| installed == wanted)
}

fn mark(folder: &Path, wanted: &str) -> Result<()> {
    let path = folder.join(".installed");
    std::fs::write(&path, wanted).with_context(|| format!("writing {}", path.display()))
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("starting {program}"))?;
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_is_kept_until_its_list_changes() {
        let folder =
            std::env::temp_dir().join(format!("ratatosk-xtask-clients-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("creates");
        assert!(!is_installed(&folder, "paho-mqtt==1"));
        mark(&folder, "paho-mqtt==1").expect("writes");
        assert!(is_installed(&folder, "paho-mqtt==1"));
        assert!(!is_installed(&folder, "paho-mqtt==2"));
        remove(&folder).expect("removes");
        assert!(!is_installed(&folder, "paho-mqtt==1"));
    }

    #[test]
    fn a_missing_program_is_an_error_that_names_it() {
        let error = run(&mut Command::new("ratatosk-no-such-program")).expect_err("fails");
        assert!(format!("{error:#}").contains("ratatosk-no-such-program"));
    }
}
