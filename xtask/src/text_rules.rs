//! Rules on the text of a Rust file: its head, module names, what may not be left behind.

use crate::source::{Source, words};
use crate::tidy::Violation;

const VAGUE_MODULES: [&str; 6] = ["common", "util", "utils", "helpers", "misc", "core"];
const CONDITIONS: [&str; 5] = ["when ", "once ", "until ", "after ", "if "];

/// Checks one file.
pub(crate) fn check(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    check_head(source, &mut violations);
    check_modules(source, &mut violations);
    check_leftovers(source, &mut violations);
    check_todos(source, &mut violations);
    violations
}

fn violation(
    source: &Source,
    offset: usize,
    what: &str,
    why: &'static str,
    remedy: &str,
) -> Violation {
    Violation {
        path: source.path.clone(),
        line: source.line_of(offset),
        what: what.to_owned(),
        why,
        remedy: remedy.to_owned(),
    }
}

fn check_head(source: &Source, violations: &mut Vec<Violation>) {
    let has_words = source
        .text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .any(|line| line.trim_start_matches("//!").trim().len() > 3);
    if !has_words {
        violations.push(violation(
            source,
            0,
            "the file has no head",
            "a file opens with what it is, what it guarantees and what it leaves out",
            "begin with `//!` in the first line",
        ));
    }
}

fn check_modules(source: &Source, violations: &mut Vec<Violation>) {
    for at in words(&source.code, "mod") {
        let name = source.code[at + 3..].trim_start();
        let name: String = name.chars().take_while(|c| crate::source::is_word(*c)).collect();
        if VAGUE_MODULES.contains(&name.as_str()) {
            violations.push(violation(
                source,
                at,
                &format!("a module is called {name}"),
                "such a name says nothing and attracts everything",
                "name it by the noun that it holds",
            ));
        }
    }
}

fn check_leftovers(source: &Source, violations: &mut Vec<Violation>) {
    for name in ["todo", "unimplemented"] {
        for at in words(&source.code, name) {
            if source.code[at + name.len()..].starts_with('!') {
                violations.push(violation(
                    source,
                    at,
                    &format!("{name}! is left in the code"),
                    "what merges is whole",
                    "write it, or return an error that says what is not supported",
                ));
            }
        }
    }
    for (at, _) in source.code.match_indices("#[") {
        let attribute = source.code[at + 2..].trim_start();
        if words(attribute, "ignore").next() == Some(0) {
            violations.push(violation(
                source,
                at,
                "a test is ignored",
                "a test that does not run proves nothing",
                "make it pass everywhere, or remove it",
            ));
        }
    }
}

fn check_todos(source: &Source, violations: &mut Vec<Violation>) {
    for at in words(&source.comments, "FIXME") {
        violations.push(violation(
            source,
            at,
            "FIXME in a comment",
            "what is known to be wrong does not merge",
            "mend it, or describe the limit in the file head",
        ));
    }
    for at in words(&source.comments, "TODO") {
        let rest = source.comments[at + 4..].trim_start_matches(['(', ':', ' ']);
        if !CONDITIONS.iter().any(|condition| rest.starts_with(condition)) {
            violations.push(violation(
                source,
                at,
                "TODO without a condition",
                "a wish without an end stays for ever",
                "write `TODO(when …): …`, naming what ends it (when, once, until, after, if)",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(text: &str) -> Vec<(usize, String)> {
        let source = Source::new("crates/base/a/src/lib.rs", text);
        check(&source).into_iter().map(|found| (found.line, found.what)).collect()
    }

    fn found(line: usize, what: &str) -> Vec<(usize, String)> {
        vec![(line, what.to_owned())]
    }

    #[test]
    fn a_head_is_required() {
        assert_eq!(whats("//! What this is.\nfn a() {}\n"), []);
        assert_eq!(whats("fn a() {}\n"), found(1, "the file has no head"));
        assert_eq!(whats("//!\nfn a() {}\n"), found(1, "the file has no head"));
        assert_eq!(whats("// Head.\nfn a() {}\n"), found(1, "the file has no head"));
    }

    #[test]
    fn vague_modules_are_refused() {
        assert_eq!(whats("//! Head.\nmod inbox;\nmod utility;\n"), []);
        assert_eq!(whats("//! Head.\nmod util;\n"), found(2, "a module is called util"));
        assert_eq!(
            whats("//! Head.\npub mod helpers {}\n"),
            found(2, "a module is called helpers")
        );
    }

    #[test]
    fn leftovers_are_refused_in_code_and_allowed_in_text() {
        assert_eq!(whats("//! Head.\n// never todo!() here\nlet a = \"todo!()\";\n"), []);
        assert_eq!(whats("//! Head.\nfn a() { todo!() }\n"), found(2, "todo! is left in the code"));
        assert_eq!(
            whats("//! Head.\nfn a() { unimplemented!(\"x\") }\n"),
            found(2, "unimplemented! is left in the code")
        );
    }

    #[test]
    fn ignored_tests_are_refused() {
        assert_eq!(whats("//! Head.\n#[ignored_field]\nfn a() {}\n"), []);
        assert_eq!(whats("//! Head.\n#[ignore]\nfn a() {}\n"), found(2, "a test is ignored"));
        assert_eq!(
            whats("//! Head.\n#[ignore = \"slow\"]\nfn a() {}\n"),
            found(2, "a test is ignored")
        );
    }

    #[test]
    fn a_todo_names_its_end_and_fixme_is_refused() {
        assert_eq!(whats("//! Head.\n// TODO(when ranges split): two.\n// TODO: once x.\n"), []);
        assert_eq!(whats("//! Head.\n// TODO: nicer\n"), found(2, "TODO without a condition"));
        assert_eq!(whats("//! Head.\n// FIXME\n"), found(2, "FIXME in a comment"));
        assert_eq!(whats("//! Head.\nlet a = \"TODO FIXME\";\n"), []);
    }
}
