//! `unsafe` only in crates that `xtask/unsafe.toml` lists with a reason, each with `// SAFETY:`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::source::{Source, words};
use crate::tidy::Violation;
use crate::workspace::Package;

/// Lines above an `unsafe` in which its justification is looked for.
const REACH: usize = 12;

/// Reads the list: package name to reason.
pub(crate) fn allowed(text: &str) -> Result<BTreeMap<String, String>> {
    let table: toml::Table = text.parse().context("xtask/unsafe.toml")?;
    let mut allowed = BTreeMap::new();
    for (name, entry) in table {
        let field = |key: &str| entry.get(key).and_then(toml::Value::as_str).unwrap_or_default();
        if field("reason").trim().is_empty() || field("checked_by").trim().is_empty() {
            bail!("xtask/unsafe.toml: {name} needs `reason` and `checked_by`");
        }
        allowed.insert(name, field("reason").to_owned());
    }
    Ok(allowed)
}

/// Checks one file.
pub(crate) fn check(
    source: &Source,
    packages: &[Package],
    allowed: &BTreeMap<String, String>,
) -> Vec<Violation> {
    let owner = packages
        .iter()
        .filter(|package| source.path.starts_with(&format!("{}/", package.folder)))
        .max_by_key(|package| package.folder.len());
    let is_listed = owner.is_some_and(|owner| allowed.contains_key(&owner.name));
    let mut violations = Vec::new();
    for at in words(&source.code, "unsafe") {
        // Rust 2024 spells some attributes `#[unsafe(no_mangle)]`; they need the listing only.
        let is_attribute = source.code[..at].trim_end().ends_with("#[");
        let line = source.line_of(at);
        let mut add = |what: &str, why: &'static str, remedy: &str| {
            violations.push(Violation {
                path: source.path.clone(),
                line,
                what: what.to_owned(),
                why,
                remedy: remedy.to_owned(),
            });
        };
        if !is_listed {
            add(
                "unsafe in a crate that is not listed",
                "memory safety is the compiler's work wherever it can be",
                "write it safely, or list the crate in xtask/unsafe.toml with reason and check",
            );
        }
        let rest = source.code[at + "unsafe".len()..].trim_start();
        // `extern "C" fn`, with the text blanked out or not.
        let of_abi = |rest: &str| rest.trim_start_matches([' ', '"', 'C']).starts_with("fn");
        let is_function = rest.starts_with("fn") || rest.strip_prefix("extern").is_some_and(of_abi);
        if !is_attribute && !is_justified(source, line, is_function) {
            add(
                "unsafe without its justification",
                "a reader must be able to check it",
                "write `// SAFETY:` above a block or impl, `/// # Safety` above a function",
            );
        }
    }
    violations
}

fn is_justified(source: &Source, line: usize, is_function: bool) -> bool {
    (line.saturating_sub(REACH).max(1)..=line).any(|above| {
        let comment = &source.comments[source.line_range(above)];
        comment.contains("SAFETY:") || (is_function && comment.contains("# Safety"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(listed: bool, text: &str) -> Vec<String> {
        let list = "[ratatosk-a]\nreason = \"speed\"\nchecked_by = \"miri\"\n";
        let allowed = allowed(if listed { list } else { "" }).expect("parses");
        let packages = [Package {
            name: "ratatosk-a".into(),
            folder: "crates/base/a".into(),
            kind: Some("pure".into()),
            dependencies: Vec::new(),
        }];
        let source = Source::new("crates/base/a/src/lib.rs", text);
        check(&source, &packages, &allowed).into_iter().map(|found| found.what).collect()
    }

    #[test]
    fn a_listed_crate_may_use_it_with_a_justification() {
        let none: Vec<String> = Vec::new();
        assert_eq!(whats(true, "// SAFETY: in bounds.\nlet a = unsafe { b() };\n"), none);
        assert_eq!(whats(true, "/// # Safety\n/// In bounds.\nunsafe fn a() {}\n"), none);
        let foreign = "/// # Safety\n/// In bounds.\nunsafe extern \"C\" fn a() {}\n";
        assert_eq!(whats(true, foreign), none);
        assert_eq!(whats(false, "#![allow(unsafe_code)]\n// unsafe\nlet a = \"unsafe\";\n"), none);
    }

    #[test]
    fn an_unlisted_crate_may_not() {
        let text = "// SAFETY: in bounds.\nlet a = unsafe { b() };\n";
        assert_eq!(whats(false, text), ["unsafe in a crate that is not listed"]);
    }

    #[test]
    fn a_justification_is_required() {
        let text = "let a = unsafe { b() };\n";
        assert_eq!(whats(true, text), ["unsafe without its justification"]);
        let far = format!("// SAFETY: x.\n{}let a = unsafe {{ b() }};\n", "x();\n".repeat(20));
        assert_eq!(whats(true, &far), ["unsafe without its justification"]);
    }

    #[test]
    fn an_entry_without_a_check_is_refused() {
        assert!(allowed("[ratatosk-a]\nreason = \"speed\"\n").is_err());
    }
}
