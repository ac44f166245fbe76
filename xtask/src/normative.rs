//! `docs/normative.md`: the statements of the MQTT standards that bind a server, and where the
//! code obeys and a test proves each.
//!
//! The columns `code` and `test` are derived from tags in the text: `[MQTT-3.3.1-2]` for 5.0,
//! `[MQTT3-3.3.1-2]` for 3.1.1 where its statement is not the one of 5.0. A column shows one place
//! and how many more there are. Missing ones are counted; the counts only go down.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use crate::ratchet::Ratchet;
use crate::source::Source;
use crate::table::{self, Row};
use crate::tidy::{Tree, Violation};
use crate::workspace;

/// Where the table is.
pub(crate) const PATH: &str = "docs/normative.md";

/// Where a statement is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Files of shipped code.
    pub(crate) code: Vec<String>,
    /// Files of tests, with the test where it is known.
    pub(crate) test: Vec<String>,
}

/// How many statements lack a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// No place in the code.
    pub(crate) code: usize,
    /// No test.
    pub(crate) test: usize,
}

/// Checks columns, tags and counts.
pub(crate) fn check(root: &Path, tree: &Tree, ratchet: &Ratchet) -> Result<Vec<Violation>> {
    Ok(compare(&workspace::read(root, PATH)?, &run(tree), ratchet))
}

/// The table with its derived columns, and what is still missing.
pub(crate) fn rewritten(root: &Path, tree: &Tree) -> Result<(String, Missing)> {
    let text = workspace::read(root, PATH)?;
    let rows = derived(&text, &run(tree));
    Ok((table::rewrite(&text, &rows), missing(&rows)))
}

/// One line for the end of a report.
pub(crate) fn summary(root: &Path, tree: &Tree) -> Result<String> {
    let rows = derived(&workspace::read(root, PATH)?, &run(tree));
    let Missing { code, test } = missing(&rows);
    let all = rows.len();
    Ok(format!("normative: {all} statements, {code} without code, {test} without test"))
}

/// Files of the workspace, but for the fixtures of this crate.
fn run(tree: &Tree) -> Vec<&Source> {
    let is_run = |source: &&Source| tree.is_run(&source.path) && !source.path.starts_with("xtask/");
    tree.sources.iter().filter(is_run).collect()
}

/// Every tag in a line, without its brackets.
pub(crate) fn tags(line: &str) -> Vec<String> {
    let mut tags = Vec::new();
    for (at, _) in line.match_indices("[MQTT") {
        let Some(length) = line[at..].find(']') else { continue };
        let tag = &line[at + 1..at + length];
        if is_statement(tag) {
            tags.push(tag.to_owned());
        }
    }
    tags
}

/// Whether a word has the shape of a statement's id.
pub(crate) fn is_statement(word: &str) -> bool {
    let Some(rest) = word.strip_prefix("MQTT-").or_else(|| word.strip_prefix("MQTT3-")) else {
        return false;
    };
    let Some((section, number)) = rest.rsplit_once('-') else { return false };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    section.split('.').count() == 3 && section.split('.').all(is_number) && is_number(number)
}

/// Where each statement is named.
fn places(sources: &[&Source]) -> BTreeMap<String, Places> {
    let mut all: BTreeMap<String, Places> = BTreeMap::new();
    for source in sources {
        for line in 1..=source.line_count() {
            let range = source.line_range(line);
            for tag in tags(&source.text[range.clone()]) {
                let places = all.entry(tag).or_default();
                let test = test_of(source, line);
                let is_test = test.is_some() || source.is_test_at(range.start);
                let place = match test {
                    Some(name) => format!("{}::{name}", source.path),
                    None => source.path.clone(),
                };
                let listed = if is_test { &mut places.test } else { &mut places.code };
                if !listed.contains(&place) {
                    listed.push(place);
                }
            }
        }
    }
    all
}

/// The test that a line lies in, or whose documentation it is.
fn test_of(source: &Source, line: usize) -> Option<&str> {
    let inside =
        source.tests().find(|test| (test.line..test.line + test.line_count).contains(&line));
    let is_comment = source.code[source.line_range(line)].trim().is_empty();
    let below = || {
        let next = source.tests().find(|test| test.line > line)?;
        let is_head = (line..next.line).all(|between| {
            let code = source.code[source.line_range(between)].trim();
            code.is_empty() || code.starts_with("#[")
        });
        (is_comment && is_head).then_some(next)
    };
    inside.or_else(below).map(|test| test.name.as_str())
}

fn derived(text: &str, sources: &[&Source]) -> Vec<Row> {
    let places = places(sources);
    let nowhere = Places::default();
    let mut rows = table::rows(text, is_statement);
    for row in &mut rows {
        let found = places.get(&row.cells[0]).unwrap_or(&nowhere);
        row.cells.resize(4, String::new());
        row.cells[2] = first_of(&found.code);
        row.cells[3] = first_of(&found.test);
    }
    rows
}

fn first_of(places: &[String]) -> String {
    let first = table::places(places.get(..1).unwrap_or_default());
    match places.len() {
        0 | 1 => first,
        count => format!("{first} +{}", count - 1),
    }
}

fn missing(rows: &[Row]) -> Missing {
    let count =
        |column: usize| rows.iter().filter(|row| row.cells[column] == table::NOTHING).count();
    Missing { code: count(2), test: count(3) }
}

fn compare(text: &str, sources: &[&Source], ratchet: &Ratchet) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut add = |path: &str, line: usize, what: String, why: &'static str, remedy: &str| {
        violations.push(Violation {
            path: path.to_owned(),
            line,
            what,
            why,
            remedy: remedy.to_owned(),
        });
    };
    let rows = derived(text, sources);
    let written = table::rows(text, is_statement);
    for (row, written) in rows.iter().zip(&written) {
        if row.cells != written.cells {
            let what = format!("the columns of {} are not what the tags say", row.cells[0]);
            add(PATH, row.line, what, "the columns are derived", "run `cargo xtask fix`");
        }
    }
    for (tag, places) in places(sources) {
        // Statements for clients are listed in the text, without columns.
        if text.split(|c: char| !c.is_ascii_alphanumeric() && !"-.".contains(c)).any(|w| w == tag) {
            continue;
        }
        for path in places.code.iter().chain(&places.test) {
            let path = path.split("::").next().unwrap_or_default();
            let what = format!("[{tag}] is no statement of the standard");
            add(path, 1, what, "a wrong tag proves nothing", "correct it, or add it to the table");
        }
    }
    let Missing { code, test } = missing(&rows);
    for (name, count, allowed) in
        [("without_code", code, ratchet.without_code), ("without_test", test, ratchet.without_test)]
    {
        if count > allowed {
            let what = format!("{name} is {count}, {allowed} are allowed");
            add(PATH, 1, what, "coverage of the standard only grows", "restore the tags that went");
        } else if count < allowed {
            let what = format!("{name} is {count}, the ratchet still says {allowed}");
            add(PATH, 1, what, "coverage of the standard only grows", "run `cargo xtask fix`");
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| id | statement | code | test |\n| --- | --- | --- | --- |\n| MQTT-3.3.1-2 | x | — | — |\n| MQTT-3.3.1-4 | y | — | — |\n";

    fn ratchet(code: usize, test: usize) -> Ratchet {
        Ratchet::parse(&format!(
            "[limits]\nfile_lines = 9\nfunction_lines = 9\n[normative]\nwithout_code = {code}\nwithout_test = {test}\n"
        ))
        .expect("parses")
    }

    fn source() -> Source {
        let text = "//! Head.\n// [MQTT-3.3.1-2] DUP is 0.\nfn a() {}\n#[cfg(test)]\nmod tests {\n    /// [MQTT-3.3.1-4] refused.\n    #[test]\n    fn refused() {\n        // [MQTT-3.3.1-2]\n    }\n}\n";
        Source::new("crates/a/b/src/c.rs", text)
    }

    fn whats(text: &str, sources: &[&Source], ratchet: &Ratchet) -> Vec<String> {
        compare(text, sources, ratchet).into_iter().map(|found| found.what).collect()
    }

    #[test]
    fn only_whole_tags_are_read() {
        assert_eq!(
            tags("// [MQTT-3.3.1-2] and [MQTT3-1.5.3-1]"),
            ["MQTT-3.3.1-2", "MQTT3-1.5.3-1"]
        );
        assert_eq!(tags("[MQTT-070] [MQTT-3.3-2] [MQTT-3.3.1] MQTT-3.3.1-2"), Vec::<String>::new());
    }

    #[test]
    fn tags_are_sorted_into_code_and_tests() {
        let places = places(&[&source()]);
        assert_eq!(
            places["MQTT-3.3.1-2"],
            Places {
                code: vec!["crates/a/b/src/c.rs".into()],
                test: vec!["crates/a/b/src/c.rs::refused".into()],
            }
        );
        assert_eq!(places["MQTT-3.3.1-4"].code, Vec::<String>::new());
        assert_eq!(places["MQTT-3.3.1-4"].test, ["crates/a/b/src/c.rs::refused"]);
    }

    #[test]
    fn columns_and_counts_must_be_what_the_tags_say() {
        assert_eq!(whats(TABLE, &[], &ratchet(2, 2)), Vec::<String>::new());
        let source = source();
        let sources = [&source];
        assert_eq!(whats(TABLE, &sources, &ratchet(1, 0)).len(), 2, "two rows are out of date");
        let fixed = table::rewrite(TABLE, &derived(TABLE, &sources));
        assert_eq!(whats(&fixed, &sources, &ratchet(1, 0)), Vec::<String>::new());
        assert_eq!(
            whats(&fixed, &sources, &ratchet(0, 1)),
            ["without_code is 1, 0 are allowed", "without_test is 0, the ratchet still says 1"]
        );
    }

    #[test]
    fn an_unknown_tag_is_refused() {
        let wrong = Source::new("crates/a/b/src/c.rs", "//! Head.\n// [MQTT-9.9.9-9]\n");
        assert_eq!(
            whats(TABLE, &[&wrong], &ratchet(2, 2)),
            ["[MQTT-9.9.9-9] is no statement of the standard"]
        );
        let client = format!("{TABLE}\nFor clients: MQTT-9.9.9-9, MQTT-9.9.9-8.\n");
        assert_eq!(whats(&client, &[&wrong], &ratchet(2, 2)), Vec::<String>::new());
    }
}
