//! `verify`, `fix` and `test`: what CI runs, what a developer runs before it, and the total.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::tidy::{self, Tree};
use crate::{behaviours, clients, normative, ratchet, workspace};

/// Runs every check; prints all that fail, not only the first.
pub(crate) fn verify(root: &Path) -> Result<bool> {
    let mut is_good = step("format", || cargo(root, &["fmt", "--all", "--check"], &[]))?;
    is_good &= step("tidy", || tidy::report(root))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    is_good &= step("clippy", || cargo(root, &clippy, &[]))?;
    let doc = ["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"];
    is_good &= step("doc", || cargo(root, &doc, &[("RUSTDOCFLAGS", "-D warnings")]))?;
    Ok(is_good)
}

/// Formats, then writes what is derived: two tables and the ratchets.
pub(crate) fn fix(root: &Path) -> Result<bool> {
    let is_good = cargo(root, &["fmt", "--all"], &[])?;
    let tree = Tree::read(root)?;
    write(root, behaviours::PATH, &behaviours::rewritten(root, &tree)?)?;
    let (table, missing) = normative::rewritten(root, &tree)?;
    write(root, normative::PATH, &table)?;
    let text = workspace::read(root, ratchet::PATH)?;
    let limits = ratchet::Ratchet::parse(&text)?;
    let tight = limits.tighten(&text, &tree.sources, missing.code, missing.test);
    write(root, ratchet::PATH, &tight)?;
    Ok(is_good)
}

/// Installs the foreign clients, runs every test of the workspace, prints the total.
pub(crate) fn test(root: &Path) -> Result<bool> {
    let needs_clients =
        workspace::packages(root)?.iter().any(|package| package.name == "ratatosk-e2e");
    if needs_clients {
        step("clients", || clients::install(root).map(|()| true))?;
    }
    let mut total = Total::default();
    let is_good = step("cargo test", || {
        let mut command = workspace::command(root, "cargo")?;
        command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
        let mut child = command.stdout(Stdio::piped()).spawn().context("starting cargo test")?;
        let output = child.stdout.take().context("cargo test without output")?;
        for line in BufReader::new(output).lines() {
            let line = line.context("reading from cargo test")?;
            println!("{line}");
            total.add(&line);
        }
        Ok(child.wait().context("waiting for cargo test")?.success())
    })?;
    std::io::stdout().flush()?;
    if is_good && total.passed == 0 {
        bail!("cargo test ran no test");
    }
    if !is_good && total.failed == 0 {
        println!("error: cargo test did not run to its end");
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(is_good && total.failed == 0)
}

/// Sum over the closing lines of test binaries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
}

impl Total {
    /// Adds a line if it is a closing line.
    pub(crate) fn add(&mut self, line: &str) {
        let Some(rest) = line.trim().strip_prefix("test result: ") else { return };
        for part in rest.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(count), Some(word)) = (words.next(), words.next()) else { continue };
            let Ok(count) = count.parse::<u64>() else { continue };
            match word {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                _ => {}
            }
        }
    }
}

fn step(name: &str, work: impl FnOnce() -> Result<bool>) -> Result<bool> {
    println!("-- {name}");
    let started = Instant::now();
    let result = work();
    let verdict = match &result {
        Ok(true) => "ok",
        Ok(false) | Err(_) => "FAILED",
    };
    println!("-- {name}: {verdict}, {:.1} s", started.elapsed().as_secs_f64());
    result.with_context(|| name.to_owned())
}

fn cargo(root: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<bool> {
    let mut command = workspace::command(root, "cargo")?;
    command.args(arguments).envs(environment.iter().copied());
    let status = command.status().with_context(|| format!("cargo {}", arguments.join(" ")))?;
    Ok(status.success())
}

fn write(root: &Path, path: &str, text: &str) -> Result<()> {
    if workspace::read(root, path)? != text {
        std::fs::write(root.join(path), text).with_context(|| format!("writing {path}"))?;
        println!("wrote {path}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_summed_and_others_ignored() {
        let mut total = Total::default();
        total.add("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        total.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out");
        total.add("test it_works ... ok");
        total.add("5 passed");
        assert_eq!(total, Total { passed: 15, failed: 2 });
    }
}
