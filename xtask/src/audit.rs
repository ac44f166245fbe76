//! `cargo xtask audit`: picks behaviours that have tests and asks whether the tests would notice.
//!
//! Without `--mutate` it prints a worksheet: the tests of each behaviour, and the lines of the
//! product to break by hand. With it, it puts one small fault at a time into a copy of the tree
//! below the target folder, runs the tests that name the behaviour, and says whether one of them
//! noticed. At the end it lists the behaviours with their verdicts. The checkout is never
//! written, so an interrupt leaves nothing to restore.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::behaviours::{self, Claim};
use crate::copy::{Copy, Kind, Outcome, Target};
use crate::mutation::{self, Mutation};
use crate::normative;
use crate::source::{Function, Source, words};
use crate::tidy::Tree;

/// Lines below a tag that count as its code.
const REACH: usize = 20;
/// Functions of one name in a crate above which the name says nothing.
const NAMESAKES_MAX: usize = 2;
/// Faults tried for one behaviour until one is noticed.
const TRIES_MAX: usize = 6;
/// Lines of the product that the worksheet shows for a behaviour.
const SITES_SHOWN: usize = 12;

/// The arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    seed: u64,
    count: usize,
    is_mutating: bool,
    /// If any, the behaviours to pick from.
    only: Vec<String>,
}

impl Options {
    /// Reads `--seed N [--count N] [--mutate] [ID…]`.
    pub(crate) fn parse(arguments: &[String]) -> Result<Options> {
        let mut options = Options { seed: 0, count: 20, is_mutating: false, only: Vec::new() };
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
                id if behaviours::is_id(id) => options.only.push(id.to_owned()),
                other => bail!("unknown argument {other}"),
            }
        }
        if !has_seed {
            bail!("--seed N is needed, so that the choice can be repeated");
        }
        Ok(options)
    }
}

/// A behaviour and the tests that name it.
struct Behaviour<'a> {
    id: &'a str,
    claims: Vec<&'a Claim>,
}

/// Behaviours in the order of their ids.
fn grouped(claims: &[Claim]) -> Vec<Behaviour<'_>> {
    let mut ids: Vec<&str> =
        claims.iter().flat_map(|claim| claim.ids.iter().map(String::as_str)).collect();
    ids.sort_unstable();
    ids.dedup();
    let of = |id: &str| claims.iter().filter(|claim| claim.ids.iter().any(|it| it == id)).collect();
    ids.into_iter().map(|id| Behaviour { id, claims: of(id) }).collect()
}

/// What became of a behaviour.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// The fault, and the test that failed by it.
    Caught(String),
    /// No test noticed any of the faults.
    Missed,
    /// Why nothing was tried.
    Untried(&'static str),
}

/// Carries it out; false if a behaviour could be broken unnoticed.
pub(crate) fn run(root: &Path, options: &Options) -> Result<bool> {
    let tree = Tree::read(root)?;
    let claims = behaviours::claims(root, &tree)?;
    let mut picked = grouped(&claims);
    let mut random = Random(options.seed);
    random.shuffle(&mut picked);
    if !options.only.is_empty() {
        picked.retain(|behaviour| options.only.iter().any(|id| id == behaviour.id));
    }
    picked.truncate(options.count);
    println!("seed {}: {} behaviours", options.seed, picked.len());
    let copy = match options.is_mutating {
        true => Some(Copy::make(root, &tree)?),
        false => None,
    };
    let mut verdicts = Vec::new();
    for behaviour in &picked {
        println!("\n{}", behaviour.id);
        for claim in &behaviour.claims {
            println!("  {}::{}", claim.path, claim.name);
        }
        let sites = sites_of(&tree, behaviour);
        for (path, line) in sites.iter().take(SITES_SHOWN) {
            let source = tree.sources.iter().find(|source| source.path == *path);
            let text = source.map_or("", |source| source.text[source.line_range(*line)].trim());
            println!("  {path}:{line}: {text}");
        }
        if sites.is_empty() {
            println!("  no code shares a tag with a test or is named in one: choose it by hand");
        }
        if let Some(copy) = &copy {
            verdicts.push(try_to_break(&tree, behaviour, &sites, copy, &mut random)?);
        }
    }
    if copy.is_none() {
        return Ok(true);
    }
    println!("\nseed {}:", options.seed);
    for (behaviour, verdict) in picked.iter().zip(&verdicts) {
        match verdict {
            Verdict::Caught(how) => println!("  {} caught: {how}", behaviour.id),
            Verdict::Missed => println!("  {} MISSED", behaviour.id),
            Verdict::Untried(why) => println!("  {} by hand: {why}", behaviour.id),
        }
    }
    let missed = verdicts.iter().filter(|verdict| **verdict == Verdict::Missed).count();
    println!("audit: {missed} of {} missed; judge whether the lines were theirs", picked.len());
    Ok(missed == 0)
}

/// Lines of shipped code that belong to a behaviour, the most telling first: below its id; else
/// below a tag that its tests share; else in functions of the same crate that they name.
fn sites_of(tree: &Tree, behaviour: &Behaviour<'_>) -> Vec<(String, usize)> {
    let own = tagged(tree, &[behaviour.id.to_owned()]);
    if !own.is_empty() {
        return own;
    }
    let tests: Vec<(&Source, &Function)> =
        behaviour.claims.iter().filter_map(|claim| test_of(tree, claim)).collect();
    let tags: Vec<String> = tests
        .iter()
        .flat_map(|(source, test)| {
            let head = test.line.saturating_sub(12).max(1);
            (head..test.line + test.line_count)
                .flat_map(|line| normative::tags(&source.text[source.line_range(line)]))
        })
        .map(|tag| format!("[{tag}]"))
        .collect();
    let shared = tagged(tree, &tags);
    if !shared.is_empty() {
        return shared;
    }
    let mut sites = Vec::new();
    for (source, test) in tests {
        named(tree, source, test, &mut sites);
    }
    sites
}

fn test_of<'a>(tree: &'a Tree, claim: &Claim) -> Option<(&'a Source, &'a Function)> {
    let source = tree.sources.iter().find(|source| source.path == claim.path)?;
    let test = source.tests().find(|test| test.line == claim.line)?;
    Some((source, test))
}

/// Lines below a comment that holds one of the tags.
fn tagged(tree: &Tree, tags: &[String]) -> Vec<(String, usize)> {
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
    sites
}

/// Lines of the functions of a test's crate that it or its helpers name.
fn named(tree: &Tree, test_source: &Source, test: &Function, sites: &mut Vec<(String, usize)>) {
    let owner = crate_folder(&test_source.path);
    let shipped: Vec<(&Source, &Function)> = tree
        .sources
        .iter()
        .filter(|source| source.path.starts_with("crates/"))
        .filter(|source| crate_folder(&source.path) == owner)
        .flat_map(|source| source.functions.iter().map(move |function| (source, function)))
        .filter(|(source, function)| !source.is_test_at(function.span.start))
        .collect();
    let body = body_with_callees(test_source, test);
    for (source, function) in &shipped {
        // A name that many functions have (`new`, `decode`) says nothing.
        let namesakes = shipped.iter().filter(|(_, other)| other.name == function.name).count();
        if namesakes <= NAMESAKES_MAX && words(&body, &function.name).next().is_some() {
            add_lines(source, function.line..function.line + function.line_count, sites);
        }
    }
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

/// The tests of a behaviour that cargo runs, the quick ones first: those beside the code, those of
/// a crate, those of the whole broker, those of processes.
fn targets(tree: &Tree, behaviour: &Behaviour<'_>) -> Vec<Target> {
    let mut targets: Vec<(usize, Target)> = Vec::new();
    for claim in behaviour.claims.iter().filter(|claim| claim.path.ends_with(".rs")) {
        let package = tree
            .packages
            .iter()
            .filter(|package| claim.path.starts_with(&format!("{}/", package.folder)))
            .max_by_key(|package| package.folder.len());
        let Some(package) = package else { continue };
        let inside = &claim.path[package.folder.len() + 1..];
        let is_library = tree.files.contains(&format!("{}/src/lib.rs", package.folder));
        let kind = match inside.starts_with("src/") {
            true if is_library => Kind::Library,
            true => Kind::Binary,
            false => Kind::Outside,
        };
        let cost = match (kind, package.folder.as_str()) {
            (Kind::Library | Kind::Binary, _) => 0,
            (_, "testing/conformance") => 2,
            (_, folder) if folder.starts_with("testing/") => 3,
            _ => 1,
        };
        let (package, test) = (package.name.clone(), claim.name.clone());
        targets.push((cost, Target { package, kind, test }));
    }
    targets.sort_by_key(|(cost, _)| *cost);
    targets.into_iter().map(|(_, target)| target).collect()
}

fn try_to_break(
    tree: &Tree,
    behaviour: &Behaviour<'_>,
    sites: &[(String, usize)],
    copy: &Copy,
    random: &mut Random,
) -> Result<Verdict> {
    if sites.is_empty() {
        return Ok(Verdict::Untried("no line is known"));
    }
    let mut tests = Vec::new();
    for target in targets(tree, behaviour) {
        match copy.run(&target)? {
            Outcome::Passed => tests.push(target),
            outcome => println!("  {} is left out: unchanged it is {outcome:?}", target.test),
        }
    }
    if tests.is_empty() {
        return Ok(Verdict::Untried("no test that cargo runs"));
    }
    let mut candidates: Vec<(&Source, Mutation)> = Vec::new();
    for (path, line) in sites {
        if let Some(source) = tree.sources.iter().find(|source| source.path == *path) {
            candidates.extend(mutation::of_line(source, *line).into_iter().map(|m| (source, m)));
        }
    }
    random.shuffle(&mut candidates);
    let mut tried = 0;
    for (source, mutation) in candidates {
        if tried == TRIES_MAX {
            break;
        }
        copy.put(source, &mutation)?;
        let outcome = notice(copy, &tests);
        copy.restore(source)?;
        let place = format!("{}:{}: {}", source.path, mutation.line, mutation.what);
        match outcome? {
            Noticed::NotBuilt => continue,
            Noticed::By(test) => {
                println!("  caught: {place}, by {test}");
                return Ok(Verdict::Caught(format!("{place}, by {test}")));
            }
            Noticed::ByNone => println!("  survived: {place}"),
        }
        tried += 1;
    }
    match tried {
        0 => Ok(Verdict::Untried("no fault that builds")),
        _ => Ok(Verdict::Missed),
    }
}

enum Noticed {
    By(String),
    ByNone,
    NotBuilt,
}

/// Runs the tests until one fails.
fn notice(copy: &Copy, tests: &[Target]) -> Result<Noticed> {
    for target in tests {
        match copy.run(target)? {
            Outcome::Passed => {}
            Outcome::Failed => return Ok(Noticed::By(target.test.clone())),
            Outcome::NotBuilt => return Ok(Noticed::NotBuilt),
        }
    }
    Ok(Noticed::ByNone)
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
    use crate::workspace::Package;

    fn options(text: &str) -> Result<Options> {
        Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_and_a_seed_is_required() {
        let all = options("--seed 7 --count 3 --mutate MQTT-054").expect("parses");
        let only = vec!["MQTT-054".to_owned()];
        assert_eq!(all, Options { seed: 7, count: 3, is_mutating: true, only });
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

    fn claim(path: &str, line: usize, ids: &[&str]) -> Claim {
        Claim {
            path: path.into(),
            line,
            name: "works".into(),
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    fn tree(code: &str, test: &str) -> Tree {
        Tree {
            files: Vec::new(),
            sources: vec![
                Source::new("crates/a/b/src/c.rs", code),
                Source::new("crates/a/b/tests/main.rs", test),
            ],
            packages: vec![Package {
                name: "ratatosk-b".into(),
                folder: "crates/a/b".into(),
                kind: None,
                dependencies: Vec::new(),
            }],
        }
    }

    #[test]
    fn behaviours_are_picked_with_all_their_tests() {
        let claims = [claim("a.rs", 1, &["MQTT-002", "MQTT-001"]), claim("b.rs", 1, &["MQTT-001"])];
        let found: Vec<(&str, usize)> = grouped(&claims)
            .iter()
            .map(|behaviour| (behaviour.id, behaviour.claims.len()))
            .collect();
        assert_eq!(found, [("MQTT-001", 2), ("MQTT-002", 1)]);
    }

    #[test]
    fn tests_beside_the_code_are_run_first() {
        let claims = [
            claim("crates/a/b/tests/main.rs", 4, &["MQTT-054"]),
            claim("crates/a/b/src/c.rs", 4, &["MQTT-054"]),
            claim("testing/e2e/clients/x.py", 4, &["MQTT-054"]),
        ];
        let mut tree = tree("", "");
        let kinds = |tree: &Tree| -> Vec<Kind> {
            targets(tree, &grouped(&claims)[0]).iter().map(|target| target.kind).collect()
        };
        assert_eq!(kinds(&tree), [Kind::Binary, Kind::Outside], "a script is none of cargo's");
        tree.files.push("crates/a/b/src/lib.rs".into());
        assert_eq!(kinds(&tree), [Kind::Library, Kind::Outside]);
    }

    #[test]
    fn sites_are_lines_under_the_id_or_a_tag_or_functions_that_a_test_names() {
        let code = "//! Head.\n/// MQTT-054 [MQTT-3.3.1-2] rule.\nfn check(a: u8) -> bool {\n    a == 0\n}\nfn other(a: u8) -> bool {\n    a < 1\n}\nfn unrelated(a: u8) -> bool {\n    a > 2\n}\n";
        let padding = "// filler\n".repeat(REACH);
        let code = code.replace("fn other", &format!("{padding}fn other"));
        let test = "//! Head.\n/// MQTT-054: [MQTT-3.3.1-2] works.\n#[test]\nfn works() {\n    other(1);\n}\n";
        let claims = [claim("crates/a/b/tests/main.rs", 4, &["MQTT-054"])];
        let lines = |code: &str| -> Vec<usize> {
            let sites = sites_of(&tree(code, test), &grouped(&claims)[0]);
            sites.into_iter().map(|(_, line)| line).collect()
        };
        assert_eq!(lines(&code), [4]);
        assert_eq!(lines(&code.replace("MQTT-054 ", "")), [4], "the shared tag");
        let untagged = code.replace("MQTT-054 [MQTT-3.3.1-2] ", "");
        assert_eq!(lines(&untagged), [7 + REACH], "only the function that the test names");
    }
}
