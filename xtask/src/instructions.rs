//! Instructions of the hot cores, counted by valgrind and held against a baseline.
//!
//! Seconds differ from machine to machine and from minute to minute; instructions of one program on
//! one input do not. A case runs twice, for few rounds and for more: the difference is what its
//! rounds cost. The baseline is for the pinned toolchain and the locked dependencies.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{clients, workspace};

/// Where the baseline is kept.
const PATH: &str = "xtask/instructions.toml";
/// The programs: package and benchmark.
const PROGRAMS: [(&str, &str); 3] =
    [("ratatosk-codec", "packets"), ("ratatosk-topic", "matching"), ("ratatosk-session", "path")];
/// Rounds of the two runs of a case.
const ROUNDS: (u32, u32) = (1, 3);
/// How much more than its baseline a case may cost: other machines have other string functions.
const TOLERANCE: f64 = 0.03;

/// What is done with the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Held against the baseline.
    Compare,
    /// Written as the new one.
    Write,
}

/// Counts every case; false says that one costs more than its baseline.
pub(crate) fn run(root: &Path, purpose: Use) -> Result<bool> {
    clients::require(
        &["valgrind"],
        "valgrind",
        "instructions are counted by valgrind: install it",
    )?;
    let mut counts = BTreeMap::new();
    for (package, program) in PROGRAMS {
        let executable = build(root, package, program)?;
        for (name, items) in cases(&executable)? {
            let (few, many) = ROUNDS;
            let difference =
                count(&executable, &name, many)?.saturating_sub(count(&executable, &name, few)?);
            let each = difference as f64 / (f64::from(many - few) * f64::from(items));
            println!("{name:<52} {each:>9.1}");
            counts.insert(name, each);
        }
    }
    if purpose == Use::Write {
        std::fs::write(root.join(PATH), render(&counts))
            .with_context(|| format!("writing {PATH}"))?;
        return Ok(true);
    }
    let baseline = parse(&workspace::read(root, PATH)?)?;
    let problems = compare(&baseline, &counts);
    problems.iter().for_each(|problem| println!("{problem}"));
    Ok(problems.is_empty())
}

/// Builds a benchmark; answers where it is.
fn build(root: &Path, package: &str, program: &str) -> Result<PathBuf> {
    let output = workspace::command(root, "cargo")?
        .args(["bench", "--no-run", "--locked", "--message-format=json-render-diagnostics"])
        .args(["--package", package, "--bench", program])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo bench")?;
    if !output.status.success() {
        bail!("cargo bench --no-run --package {package} failed");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let built = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    let path = built
        .filter(|message: &serde_json::Value| message["target"]["name"] == program)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    path.with_context(|| format!("cargo did not say where the benchmark {program} is"))
}

/// The cases of a program with the items that a round of each handles.
fn cases(executable: &Path) -> Result<Vec<(String, u32)>> {
    let output = Command::new(executable).arg("--list").output().context("listing the cases")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let case = |line: &str| {
        let (items, name) = line.split_once('\t')?;
        Some((name.to_owned(), items.parse().ok()?))
    };
    let cases: Vec<_> = text.lines().filter_map(case).collect();
    if cases.is_empty() {
        bail!("{} lists no case", executable.display());
    }
    Ok(cases)
}

/// Instructions of a whole run.
fn count(executable: &Path, name: &str, rounds: u32) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(executable)
        .args(["--rounds", &rounds.to_string(), name])
        .output()
        .context("valgrind")?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{name} failed under valgrind: {report}");
    }
    let collected = report.lines().find_map(|line| line.split_once("Collected :"));
    let (_, collected) = collected.with_context(|| format!("no count for {name}: {report}"))?;
    collected.trim().parse().with_context(|| format!("{name}: {collected:?} is no count"))
}

fn render(counts: &BTreeMap<String, f64>) -> String {
    let mut text = String::from(
        "# Instructions an item of the hot cores: `cargo xtask count` holds against these,\n\
         # `cargo xtask count --write` writes them.\n\n[instructions]\n",
    );
    for (name, each) in counts {
        let _ = writeln!(text, "{name:?} = {each:.1}");
    }
    text
}

fn parse(text: &str) -> Result<BTreeMap<String, f64>> {
    let table: toml::Table = text.parse().context(PATH)?;
    let section = table.get("instructions").and_then(toml::Value::as_table);
    let section = section.with_context(|| format!("{PATH} has no [instructions]"))?;
    let number = |(name, value): (&String, &toml::Value)| {
        let value = value.as_float().with_context(|| format!("{PATH}: {name} is no number"))?;
        Ok((name.clone(), value))
    };
    section.iter().map(number).collect()
}

/// What is dearer than its baseline, unknown to it, or gone.
fn compare(baseline: &BTreeMap<String, f64>, counts: &BTreeMap<String, f64>) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, &each) in counts {
        match baseline.get(name) {
            None => problems.push(format!("{name}: has no baseline; `cargo xtask count --write`")),
            Some(&before) if each > before * (1.0 + TOLERANCE) + 0.5 => {
                problems
                    .push(format!("{name}: {each:.1} instructions, the baseline is {before:.1}"));
            }
            Some(_) => {}
        }
    }
    let gone = baseline.keys().filter(|name| !counts.contains_key(*name));
    problems.extend(gone.map(|name| format!("{name}: is in {PATH} and nowhere else")));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(entries: &[(&str, f64)]) -> BTreeMap<String, f64> {
        entries.iter().map(|(name, each)| ((*name).to_owned(), *each)).collect()
    }

    #[test]
    fn what_is_dearer_new_or_gone_is_told() {
        let baseline = counts(&[("a", 100.0), ("b", 100.0), ("gone", 1.0)]);
        let now = counts(&[("a", 102.9), ("b", 104.0), ("new", 1.0)]);
        let problems = compare(&baseline, &now);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].starts_with("b: 104.0 instructions"), "{problems:?}");
        assert!(problems[1].starts_with("new:") && problems[2].starts_with("gone:"));
    }

    #[test]
    fn a_baseline_is_read_as_it_was_written() {
        let written = counts(&[("decode \"x\", QoS 1", 12.5), ("match", 600.0)]);
        assert_eq!(parse(&render(&written)).expect("reads"), written);
    }
}
