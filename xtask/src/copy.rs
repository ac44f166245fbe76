//! A copy of the tree below the target folder, to be broken: one file at a time, put back after.
//!
//! It has a target folder of its own, so that a broken binary is never found by anything else, and
//! builds without debug information, because it builds often. What hangs is ended with all its
//! children.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::commands::Total;
use crate::mutation::Mutation;
use crate::source::Source;
use crate::tidy::Tree;
use crate::workspace;

/// The first build makes every dependency.
const BUILD_MAX: Duration = Duration::from_mins(30);
/// A fault may make a test wait for what never comes.
const RUN_MAX: Duration = Duration::from_mins(3);

/// A test that cargo runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The package.
    pub(crate) package: String,
    /// Where it lies.
    pub(crate) kind: Kind,
    /// Its name, without modules.
    pub(crate) test: String,
}

/// Where a test lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Beside the code of a library.
    Library,
    /// Beside the code of a binary.
    Binary,
    /// In `tests/`.
    Outside,
}

/// What became of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    NotBuilt,
}

/// The copy.
pub(crate) struct Copy {
    tree: PathBuf,
    target: PathBuf,
}

impl Copy {
    /// Brings the copy to what the checkout is now.
    pub(crate) fn make(root: &Path, tree: &Tree) -> Result<Copy> {
        let folder = workspace::target_folder()?.join("audit");
        let copy = Copy { tree: folder.join("tree"), target: folder.join("target") };
        for path in &tree.files {
            let (from, to) = (root.join(path), copy.tree.join(path));
            let bytes = std::fs::read(&from).with_context(|| format!("reading {path}"))?;
            // An unchanged file keeps its time, so that cargo builds only what differs.
            if std::fs::read(&to).is_ok_and(|old| old == bytes) {
                continue;
            }
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::copy(&from, &to).with_context(|| format!("copying {path}"))?;
        }
        Ok(copy)
    }

    /// Breaks a line.
    pub(crate) fn put(&self, source: &Source, mutation: &Mutation) -> Result<()> {
        let range = source.line_range(mutation.line);
        let text = format!(
            "{}{}{}",
            &source.text[..range.start],
            mutation.mutated,
            &source.text[range.end..]
        );
        std::fs::write(self.tree.join(&source.path), text)?;
        Ok(())
    }

    /// Puts a file back.
    pub(crate) fn restore(&self, source: &Source) -> Result<()> {
        std::fs::write(self.tree.join(&source.path), &source.text)
            .with_context(|| format!("restoring {}", source.path))
    }

    /// Builds and runs one test.
    pub(crate) fn run(&self, target: &Target) -> Result<Outcome> {
        let kinds: &[&str] = match target.kind {
            Kind::Library => &["--lib"],
            Kind::Binary => &["--bins"],
            Kind::Outside => &["--test", "*"],
        };
        let select = [&["test", "--package", &target.package], kinds].concat();
        if !self.cargo(&[&select[..], &["--no-run"]].concat(), BUILD_MAX)?.is_success {
            return Ok(Outcome::NotBuilt);
        }
        let run = [&select[..], &["--no-fail-fast", "--", &target.test]].concat();
        let Ended { is_success, output } = self.cargo(&run, RUN_MAX)?;
        let mut total = Total::default();
        output.lines().for_each(|line| total.add(line));
        match (is_success, total.passed) {
            (true, 1..) => Ok(Outcome::Passed),
            (true, 0) => bail!("{} has no test {}", target.package, target.test),
            (false, _) => Ok(Outcome::Failed),
        }
    }

    /// Runs cargo in the copy; a run without end counts as failed.
    fn cargo(&self, arguments: &[&str], limit: Duration) -> Result<Ended> {
        let log = self.target.with_extension("log");
        std::fs::create_dir_all(&self.target)?;
        let mut child = workspace::command(&self.tree, "cargo")?
            .args(arguments)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_PROFILE_DEV_DEBUG", "none")
            .env("CARGO_PROFILE_TEST_DEBUG", "none")
            .stdout(std::fs::File::create(&log)?)
            .stderr(Stdio::null())
            // The test is a grandchild: they are ended together.
            .process_group(0)
            .spawn()
            .context("starting cargo")?;
        let is_success = wait(&mut child, limit)?;
        Ok(Ended { is_success, output: std::fs::read_to_string(&log).unwrap_or_default() })
    }
}

struct Ended {
    is_success: bool,
    output: String,
}

fn wait(child: &mut Child, limit: Duration) -> Result<bool> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if started.elapsed() > limit {
            let group = format!("-{}", child.id());
            Command::new("kill").args(["-KILL", "--", &group]).status().context("kill")?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_ended_with_its_children() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & wait"])
            .process_group(0)
            .spawn()
            .expect("starts");
        let group = child.id();
        assert!(!wait(&mut child, Duration::from_millis(100)).expect("ends"));
        // Nobody of the group is left to be asked; what was killed may take a moment to go.
        let is_gone = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            let asked = Command::new("kill")
                .args(["-0", "--", &format!("-{group}")])
                .stderr(Stdio::null())
                .status()
                .expect("asks");
            !asked.success()
        });
        assert!(is_gone, "the child of the child is still there");
    }
}
