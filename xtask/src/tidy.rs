//! `cargo xtask tidy`: every rule of the house that a tool can check. Reads only.
//!
//! A violation says what is wrong, why it is a rule, and what to do. Each rule is a function from
//! what was read to violations, so each is tested on small fixtures.

use std::fmt;
use std::path::Path;

use anyhow::Result;

use crate::source::Source;
use crate::workspace::{self, Package};
use crate::{
    behaviours, dependencies, edges, manifests, normative, ratchet, text_rules, unsafe_code, words,
};

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// File, from the root.
    pub(crate) path: String,
    /// Line, from 1.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) what: String,
    /// Why it is a rule.
    pub(crate) why: &'static str,
    /// What to do.
    pub(crate) remedy: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { path, line, what, why, remedy } = self;
        write!(f, "{path}:{line}: {what}, {why}, {remedy}")
    }
}

/// What the rules look at.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Every file.
    pub(crate) files: Vec<String>,
    /// Every Rust file, scanned.
    pub(crate) sources: Vec<Source>,
    /// Every package of the workspace.
    pub(crate) packages: Vec<Package>,
}

impl Tree {
    /// Reads the checkout.
    pub(crate) fn read(root: &Path) -> Result<Tree> {
        let files = workspace::files(root)?;
        let sources = workspace::rust_sources(root, &files)?;
        Ok(Tree { files, sources, packages: workspace::packages(root)? })
    }

    /// Whether a file belongs to a package of the workspace, so that its tests are run.
    pub(crate) fn is_run(&self, path: &str) -> bool {
        self.packages.iter().any(|package| path.starts_with(&format!("{}/", package.folder)))
    }
}

/// Checks everything and prints what it found; false if there was a violation.
pub(crate) fn report(root: &Path) -> Result<bool> {
    let tree = Tree::read(root)?;
    let mut violations = check(root, &tree)?;
    violations.sort();
    for violation in &violations {
        println!("{violation}");
    }
    println!("{}", behaviours::summary(root, &tree)?);
    println!("{}", normative::summary(root, &tree)?);
    if violations.is_empty() {
        println!("tidy: {} files, no violations", tree.files.len());
    } else {
        println!("tidy: {} violations", violations.len());
    }
    Ok(violations.is_empty())
}

fn check(root: &Path, tree: &Tree) -> Result<Vec<Violation>> {
    let pure = dependencies::allowed_in_pure(&workspace::read(root, "xtask/pure.toml")?)?;
    let unsafe_crates = unsafe_code::allowed(&workspace::read(root, "xtask/unsafe.toml")?)?;
    let ratchet = ratchet::Ratchet::parse(&workspace::read(root, "xtask/ratchet.toml")?)?;
    let words = words::Words::parse(&workspace::read(root, "xtask/words.toml")?)?;

    let mut violations = edges::check(&tree.packages);
    violations.extend(dependencies::check(&tree.packages, &pure));
    for path in tree.files.iter().filter(|path| path.ends_with("Cargo.toml")) {
        violations.extend(manifests::check(path, &workspace::read(root, path)?)?);
    }
    for source in &tree.sources {
        violations.extend(text_rules::check(source));
        violations.extend(unsafe_code::check(source, &tree.packages, &unsafe_crates));
    }
    violations.extend(ratchet.check(&tree.sources));
    for path in &tree.files {
        // Files that are not text have no words.
        if let Ok(text) = workspace::read(root, path) {
            violations.extend(words.check(path, &text));
        }
    }
    violations.extend(behaviours::check(root, tree)?);
    violations.extend(normative::check(root, tree, &ratchet)?);
    Ok(violations)
}
