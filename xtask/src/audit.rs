//! `cargo xtask audit`: picks behaviours that have tests and asks whether the tests would notice.
//!
//! Without `--mutate` it prints a worksheet: the tests, and the lines of code to break by hand.
//! With it, it puts one small fault at a time into a copy of the tree below the target folder,
//! runs the named test, and says whether the fault was caught. The checkout is never written, so
//! an interrupt leaves nothing to restore.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::behaviours::{self, Claim};
use crate::commands::Total;
use crate::mutation::{self, Mutation};
use crate::normative;
use crate::source::{Function, Source, words};
use crate::tidy::Tree;
use crate::workspace;

/// Lines below a tag that count as its code.
const REACH: usize = 20;
/// Functions of one name in a crate above which the name says nothing.
const NAMESAKES_MAX: usize = 2;
/// Faults tried for one test until one builds.
const TRIES_MAX: usize = 6;
const BUILD_AND_RUN_MAX: Duration = Duration::from_mins(10);

/// The arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    seed: u64,
    count: usize,
    is_mutating: bool,
}

impl Options {
    /// Reads `--seed N [--count N] [--mutate]`.
    pub(crate) fn parse(arguments: &[String]) -> Result<Options> {
        let mut options = Options { seed: 0, count: 20, is_mutating: false };
        let mut has_seed = false;
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut number = || {
                let text = rest.next().with_context(|| format!("{argument} needs a number"))?;
                text.parse::<u64>().with_context(|| format!("{argument} {text}"))
            };
            match argument.as_str() {
                "--seed" => {
                    options.seed = number()?;
                    has_seed = true;
                }
                "--count" => options.count = usize::try_from(number()?)?,
                "--mutate" => options.is_mutating = true,
                other => bail!("unknown argument {other}"),
            }
        }
        if !has_seed {
            bail!("--seed N is needed, so that the choice can be repeated");
        }
        Ok(options)
    }
}

/// Carries it out; false if a fault was missed.
pub(crate) fn run(root: &Path, options: &Options) -> Result<bool> {
    let tree = Tree::read(root)?;
    let mut claims: Vec<Claim> = behaviours::claims(root, &tree)?;
    let mut random = Random(options.seed);
    random.shuffle(&mut claims);
    claims.truncate(options.count);
    println!("seed {}: {} tests that name behaviours", options.seed, claims.len());
    let copy = match options.is_mutating {
        true => Some(Copy::make(root, &tree)?),
        false => None,
    };
    let mut missed = 0;
    for claim in &claims {
        let sites = sites(&tree, claim);
        println!("\n{} {}::{}", claim.ids.join(", "), claim.path, claim.name);
        for (path, line) in sites.iter().take(12) {
            let source = tree.sources.iter().find(|source| source.path == *path);
            let text = source.map_or("", |source| source.text[source.line_range(*line)].trim());
            println!("  {path}:{line}: {text}");
        }
        if sites.is_empty() {
            println!("  no code shares a tag with it or is named in it: choose the line by hand");
        }
        if let Some(copy) = &copy {
            let verdict = try_to_break(&tree, claim, &sites, copy, &mut random)?;
            missed += usize::from(verdict == Verdict::Missed);
        }
    }
    if copy.is_some() {
        println!(
            "\naudit: {missed} of {} missed; judge by hand whether the line was theirs",
            claims.len()
        );
    }
    Ok(missed == 0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Caught,
    Missed,
    Untried,
}

/// Lines of shipped code that belong to what the test proves: below a line with one of its tags;
/// with none, in functions of the same crate that it or its helpers name.
fn sites(tree: &Tree, claim: &Claim) -> Vec<(String, usize)> {
    let Some((test_source, test)) = tree.sources.iter().find_map(|source| {
        let test = source.tests().find(|test| test.line == claim.line)?;
        (source.path == claim.path).then_some((source, test))
    }) else {
        return Vec::new();
    };
    let head = test.line.saturating_sub(12).max(1);
    let tags: Vec<String> = (head..test.line + test.line_count)
        .flat_map(|line| normative::tags(&test_source.text[test_source.line_range(line)]))
        .map(|tag| format!("[{tag}]"))
        .chain(claim.ids.iter().cloned())
        .collect();
    let mut sites = Vec::new();
    for source in tree.sources.iter().filter(|source| source.path.starts_with("crates/")) {
        for line in 1..=source.line_count() {
            let comment = &source.comments[source.line_range(line)];
            let is_tagged = tags.iter().any(|tag| comment.contains(tag.as_str()));
            if is_tagged && !source.is_test_at(source.line_range(line).start) {
                add_lines(source, line..line + REACH, &mut sites);
            }
        }
    }
    if !sites.is_empty() {
        return sites;
    }
    let owner = crate_folder(&claim.path);
    let shipped: Vec<(&Source, &Function)> = tree
        .sources
        .iter()
        .filter(|source| crate_folder(&source.path) == owner)
        .flat_map(|source| source.functions.iter().map(move |function| (source, function)))
        .filter(|(source, function)| !source.is_test_at(function.span.start))
        .collect();
    let body = body_with_callees(test_source, test);
    for (source, function) in &shipped {
        // A name that many functions have (`new`, `decode`) says nothing.
        let namesakes = shipped.iter().filter(|(_, other)| other.name == function.name).count();
        if namesakes <= NAMESAKES_MAX && words(&body, &function.name).next().is_some() {
            add_lines(source, function.line..function.line + function.line_count, &mut sites);
        }
    }
    sites
}

/// The code of a test and of the functions of its file that it names.
fn body_with_callees(source: &Source, test: &Function) -> String {
    let mut body = source.code[test.span.clone()].to_owned();
    let callees: Vec<&Function> = source
        .functions
        .iter()
        .filter(|function| source.is_test_at(function.span.start) && !function.is_test)
        .filter(|function| words(&body, &function.name).next().is_some())
        .collect();
    for callee in callees {
        body.push_str(&source.code[callee.span.clone()]);
    }
    body
}

fn add_lines(source: &Source, lines: std::ops::Range<usize>, sites: &mut Vec<(String, usize)>) {
    for line in lines.start..lines.end.min(source.line_count() + 1) {
        let site = (source.path.clone(), line);
        let is_shipped = !source.is_test_at(source.line_range(line).start);
        if is_shipped && !sites.contains(&site) && !mutation::of_line(source, line).is_empty() {
            sites.push(site);
        }
    }
}

/// `crates/broker/topic` of a path below it.
fn crate_folder(path: &str) -> String {
    path.split('/').take(3).collect::<Vec<_>>().join("/")
}

fn try_to_break(
    tree: &Tree,
    claim: &Claim,
    sites: &[(String, usize)],
    copy: &Copy,
    random: &mut Random,
) -> Result<Verdict> {
    let package = tree
        .packages
        .iter()
        .filter(|package| claim.path.starts_with(&format!("{}/", package.folder)))
        .max_by_key(|package| package.folder.len());
    let (Some(package), true) = (package, claim.path.ends_with(".rs")) else {
        println!("  untried: not a test of cargo");
        return Ok(Verdict::Untried);
    };
    if copy.run(&package.name, &claim.name)? != Outcome::Passed {
        println!("  untried: the test does not pass unchanged");
        return Ok(Verdict::Untried);
    }
    let mut candidates: Vec<(&Source, Mutation)> = Vec::new();
    for (path, line) in sites {
        if let Some(source) = tree.sources.iter().find(|source| source.path == *path) {
            candidates.extend(mutation::of_line(source, *line).into_iter().map(|m| (source, m)));
        }
    }
    random.shuffle(&mut candidates);
    for (source, mutation) in candidates.into_iter().take(TRIES_MAX) {
        copy.put(source, &mutation)?;
        let outcome = copy.run(&package.name, &claim.name);
        copy.restore(source)?;
        let place = format!("{}:{}: {}", source.path, mutation.line, mutation.what);
        match outcome? {
            Outcome::NotBuilt => {}
            Outcome::Failed => {
                println!("  caught: {place}");
                return Ok(Verdict::Caught);
            }
            Outcome::Passed => {
                println!("  MISSED: {place}");
                return Ok(Verdict::Missed);
            }
        }
    }
    println!("  untried: no fault that builds was found");
    Ok(Verdict::Untried)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    NotBuilt,
}

/// A copy of the tree with its own target folder, so that a broken binary is never found by
/// anything else.
struct Copy {
    tree: PathBuf,
    target: PathBuf,
}

impl Copy {
    fn make(root: &Path, tree: &Tree) -> Result<Copy> {
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

    fn put(&self, source: &Source, mutation: &Mutation) -> Result<()> {
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

    fn restore(&self, source: &Source) -> Result<()> {
        std::fs::write(self.tree.join(&source.path), &source.text)
            .with_context(|| format!("restoring {}", source.path))
    }

    fn run(&self, package: &str, test: &str) -> Result<Outcome> {
        let build = ["test", "--quiet", "--package", package, "--no-run"];
        if !self.cargo(&build)?.is_success {
            return Ok(Outcome::NotBuilt);
        }
        let run = ["test", "--package", package, "--no-fail-fast", "--tests", "--", test];
        let Ended { is_success, output } = self.cargo(&run)?;
        let mut total = Total::default();
        output.lines().for_each(|line| total.add(line));
        match (is_success, total.passed) {
            (true, 1..) => Ok(Outcome::Passed),
            (true, 0) => bail!("{package} has no test {test}"),
            (false, _) => Ok(Outcome::Failed),
        }
    }

    /// Runs cargo in the copy; a run without end counts as failed.
    fn cargo(&self, arguments: &[&str]) -> Result<Ended> {
        let log = self.target.with_extension("log");
        std::fs::create_dir_all(&self.target)?;
        let mut child = workspace::command(&self.tree, "cargo")?
            .args(arguments)
            .env("CARGO_TARGET_DIR", &self.target)
            .stdout(std::fs::File::create(&log)?)
            .stderr(Stdio::null())
            .spawn()
            .context("starting cargo")?;
        let is_success = wait(&mut child, BUILD_AND_RUN_MAX)?;
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
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// SplitMix64: the same choice for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let bound = last as u64 + 1;
            let chosen = usize::try_from(self.next() % bound).unwrap_or_default();
            items.swap(last, chosen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Options> {
        Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_and_a_seed_is_required() {
        let all = options("--seed 7 --count 3 --mutate").expect("parses");
        assert_eq!(all, Options { seed: 7, count: 3, is_mutating: true });
        assert_eq!(options("--seed 7").expect("parses").count, 20);
        assert!(options("--count 3").is_err());
        assert!(options("--seed x").is_err());
        assert!(options("--seed 1 --fast").is_err());
    }

    #[test]
    fn a_seed_repeats_its_choice_and_keeps_every_item() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..20).collect();
            Random(seed).shuffle(&mut items);
            items
        };
        assert_eq!(shuffled(1), shuffled(1));
        assert_ne!(shuffled(1), shuffled(2));
        let mut sorted = shuffled(3);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<u32>>());
    }

    #[test]
    fn sites_are_lines_under_the_tag_and_functions_that_the_test_names() {
        let code = "//! Head.\n/// [MQTT-3.3.1-2] rule.\nfn check(a: u8) -> bool {\n    a == 0\n}\nfn other(a: u8) -> bool {\n    a < 1\n}\nfn unrelated(a: u8) -> bool {\n    a > 2\n}\n";
        let padding = "// filler\n".repeat(REACH);
        let code = code.replace("fn other", &format!("{padding}fn other"));
        let test = "//! Head.\n/// MQTT-054: [MQTT-3.3.1-2] works.\n#[test]\nfn works() {\n    other(1);\n}\n";
        let tree = Tree {
            files: Vec::new(),
            sources: vec![
                Source::new("crates/a/b/src/c.rs", &code),
                Source::new("crates/a/b/tests/main.rs", test),
            ],
            packages: Vec::new(),
        };
        let claim = Claim {
            path: "crates/a/b/tests/main.rs".into(),
            line: 4,
            name: "works".into(),
            ids: vec!["MQTT-054".into()],
        };
        let lines: Vec<usize> = sites(&tree, &claim).into_iter().map(|(_, line)| line).collect();
        assert_eq!(lines, [4]);
        let untagged = Tree {
            sources: vec![
                Source::new("crates/a/b/src/c.rs", &code.replace("[MQTT-3.3.1-2] ", "")),
                Source::new("crates/a/b/tests/main.rs", test),
            ],
            files: Vec::new(),
            packages: Vec::new(),
        };
        let lines: Vec<usize> =
            sites(&untagged, &claim).into_iter().map(|(_, line)| line).collect();
        assert_eq!(lines, [7 + REACH], "only the function that the test names");
    }
}
