//! `docs/behaviours.md`: every behaviour that is promised, and the tests that prove it.
//!
//! The third column is derived. A test names the behaviours that it proves, at most three, in the
//! first line of its documentation: `/// MQTT-070, MQTT-071: …`. Scripts of the tests of processes
//! do so in the first line of a function's docstring (Python) or in the comment above it
//! (JavaScript).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use crate::source::Source;
use crate::table::{self, NOTHING};
use crate::tidy::{Tree, Violation};
use crate::workspace;

/// Where the table is.
pub(crate) const PATH: &str = "docs/behaviours.md";
const IDS_MAX: usize = 3;

/// A test that names behaviours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// File of the test.
    pub(crate) path: String,
    /// Line of the test.
    pub(crate) line: usize,
    /// Name of the test.
    pub(crate) name: String,
    /// What it names, in order.
    pub(crate) ids: Vec<String>,
}

/// Checks the table against the tests.
pub(crate) fn check(root: &Path, tree: &Tree) -> Result<Vec<Violation>> {
    Ok(compare(&workspace::read(root, PATH)?, &claims(root, tree)?))
}

/// The table with its third column as the tests say.
pub(crate) fn rewritten(root: &Path, tree: &Tree) -> Result<String> {
    let text = workspace::read(root, PATH)?;
    Ok(with_column(&text, &claims(root, tree)?))
}

/// One line for the end of a report.
pub(crate) fn summary(root: &Path, tree: &Tree) -> Result<String> {
    let rows = table::rows(&workspace::read(root, PATH)?, is_id);
    let claims = claims(root, tree)?;
    let proved = rows.iter().filter(|row| claims.iter().any(|c| c.ids.contains(&row.cells[0])));
    Ok(format!("behaviours: {} of {} have a test", proved.count(), rows.len()))
}

/// Every test that names behaviours, in the order of files and lines.
pub(crate) fn claims(root: &Path, tree: &Tree) -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    // The fixtures of this crate name behaviours only to be scanned.
    let proves = |path: &str| tree.is_run(path) && !path.starts_with("xtask/");
    for source in tree.sources.iter().filter(|source| proves(&source.path)) {
        claims.extend(rust_claims(source));
    }
    let is_script = |path: &str| path.starts_with("testing/e2e/clients/") && proves(path);
    for path in tree.files.iter().filter(|path| is_script(path)) {
        if path.ends_with(".py") || path.ends_with(".mjs") {
            claims.extend(script_claims(path, &workspace::read(root, path)?));
        }
    }
    claims.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(claims)
}

fn rust_claims(source: &Source) -> Vec<Claim> {
    let mut claims = Vec::new();
    for test in source.tests() {
        let ids = test.first_doc.as_deref().map(ids).unwrap_or_default();
        if !ids.is_empty() {
            claims.push(Claim {
                path: source.path.clone(),
                line: test.line,
                name: test.name.clone(),
                ids,
            });
        }
    }
    claims
}

/// Functions of a script whose docstring or comment begins with ids.
fn script_claims(path: &str, text: &str) -> Vec<Claim> {
    let lines: Vec<&str> = text.lines().collect();
    let mut claims = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = script_function(line) else { continue };
        let doc = if path.ends_with(".py") {
            lines.get(index + 1).map(|next| next.trim().trim_start_matches('"'))
        } else {
            index
                .checked_sub(1)
                .map(|above| lines[above].trim().trim_start_matches(['/', '*', ' ']))
        };
        let ids = doc.map(ids).unwrap_or_default();
        if !ids.is_empty() {
            claims.push(Claim { path: path.to_owned(), line: index + 1, name, ids });
        }
    }
    claims
}

fn script_function(line: &str) -> Option<String> {
    let line = line.strip_prefix("export ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    let rest = line.strip_prefix("def ").or_else(|| line.strip_prefix("function "))?;
    let name: String =
        rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The ids that a line begins with: `MQTT-070, MQTT-071: …`.
fn ids(line: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for word in line.split([',', ' ', ':', ';', '/']) {
        let word = word.trim();
        if word.is_empty() || matches!(word, "and" | "+" | "&") {
            continue;
        }
        if !is_id(word.trim_end_matches('.')) {
            break;
        }
        ids.push(word.trim_end_matches('.').to_owned());
    }
    ids
}

/// Whether a word has the shape of an id: capitals, a hyphen, three digits.
pub(crate) fn is_id(word: &str) -> bool {
    let Some((area, number)) = word.split_once('-') else { return false };
    (2..=6).contains(&area.len())
        && area.bytes().all(|byte| byte.is_ascii_uppercase())
        && number.len() == 3
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn places(claims: &[Claim]) -> BTreeMap<&str, Vec<String>> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for claim in claims {
        for id in &claim.ids {
            let place = format!("{}::{}", claim.path, claim.name);
            let listed = places.entry(id).or_default();
            if !listed.contains(&place) {
                listed.push(place);
            }
        }
    }
    places
}

fn with_column(text: &str, claims: &[Claim]) -> String {
    let places = places(claims);
    let mut rows = table::rows(text, is_id);
    for row in &mut rows {
        let found = places.get(row.cells[0].as_str()).map(Vec::as_slice).unwrap_or_default();
        row.cells.resize(3, String::new());
        row.cells[2] = table::places(found);
    }
    table::rewrite(text, &rows)
}

fn compare(text: &str, claims: &[Claim]) -> Vec<Violation> {
    let rows = table::rows(text, is_id);
    let places = places(claims);
    let mut violations = Vec::new();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        let mut add = |what: String, why: &'static str, remedy: &str| {
            violations.push(Violation {
                path: PATH.into(),
                line: row.line,
                what,
                why,
                remedy: remedy.to_owned(),
            });
        };
        let id = &row.cells[0];
        if let Some(first) = seen.insert(id, row.line) {
            add(
                format!("{id} stands on line {first} too"),
                "an id names one behaviour",
                "remove one",
            );
        }
        let found = places.get(id.as_str()).map(Vec::as_slice).unwrap_or_default();
        let expected = table::places(found);
        let actual = row.cells.get(2).map_or(NOTHING, String::as_str);
        if row.cells.len() != 3 || actual != expected {
            add(
                format!("{id} says {actual}, the tests say {expected}"),
                "the column is what is proved",
                "run `cargo xtask fix`",
            );
        }
    }
    for claim in claims {
        let mut add = |what: String, why: &'static str, remedy: &str| {
            violations.push(Violation {
                path: claim.path.clone(),
                line: claim.line,
                what,
                why,
                remedy: remedy.to_owned(),
            });
        };
        for id in claim.ids.iter().filter(|id| !seen.contains_key(id.as_str())) {
            add(
                format!("{} proves {id}, which is not in {PATH}", claim.name),
                "an unknown id proves nothing",
                "correct the id, or add the behaviour to the table",
            );
        }
        if claim.ids.len() > IDS_MAX {
            add(
                format!("{} names {} behaviours", claim.name, claim.ids.len()),
                "a test that proves everything explains nothing when it fails",
                "split it; at most three a test",
            );
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "| id | behaviour | proved by |\n| --- | --- | --- |\n| MQTT-001 | One. | — |\n";

    fn claim(ids: &[&str]) -> Claim {
        Claim {
            path: "crates/a/b/src/c.rs".into(),
            line: 7,
            name: "it_works".into(),
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    fn whats(text: &str, claims: &[Claim]) -> Vec<String> {
        compare(text, claims).into_iter().map(|found| found.what).collect()
    }

    #[test]
    fn ids_are_read_from_the_beginning_of_the_line_only() {
        assert_eq!(ids("MQTT-070, MQTT-071: filters match"), ["MQTT-070", "MQTT-071"]);
        assert_eq!(ids("MQTT-070 and RET-001: x"), ["MQTT-070", "RET-001"]);
        assert_eq!(ids("As MQTT-070 says"), Vec::<String>::new());
        assert_eq!(ids("[MQTT-3.3.1-2] x"), Vec::<String>::new());
        assert_eq!(ids("SHA-2560 x"), Vec::<String>::new());
    }

    #[test]
    fn tests_in_rust_and_scripts_claim_behaviours() {
        let source =
            Source::new("crates/a/b/src/c.rs", "/// MQTT-001: one.\n#[test]\nfn it_works() {}\n");
        assert_eq!(rust_claims(&source), [Claim { line: 3, ..claim(&["MQTT-001"]) }]);
        let python = "@case\nasync def wills(broker):\n    \"\"\"MQTT-048: sent.\"\"\"\n";
        let found = script_claims("testing/e2e/clients/a.py", python);
        assert_eq!((found[0].name.as_str(), found[0].ids[0].as_str()), ("wills", "MQTT-048"));
        let script = "/** MQTT-081, MQTT-082: sent. */\nexport async function options(broker) {}\nfunction plain() {}\n";
        let found = script_claims("testing/e2e/clients/a.mjs", script);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].ids, ["MQTT-081", "MQTT-082"]);
    }

    #[test]
    fn the_column_must_be_what_the_tests_say_and_fix_writes_it() {
        assert_eq!(whats(TABLE, &[]), Vec::<String>::new());
        let claims = [claim(&["MQTT-001"])];
        assert_eq!(
            whats(TABLE, &claims),
            ["MQTT-001 says —, the tests say `crates/a/b/src/c.rs::it_works`"]
        );
        let fixed = with_column(TABLE, &claims);
        assert_eq!(whats(&fixed, &claims), Vec::<String>::new());
        assert_eq!(whats(&fixed, &[]).len(), 1, "a test that vanished is noticed");
        assert_eq!(with_column(&fixed, &[]), TABLE);
    }

    #[test]
    fn unknown_and_too_many_ids_are_refused() {
        assert_eq!(
            whats(TABLE, &[claim(&["MQTT-999"])]),
            ["it_works proves MQTT-999, which is not in docs/behaviours.md"]
        );
        let claims = [claim(&["MQTT-001", "MQTT-001", "MQTT-001", "MQTT-001"])];
        let fixed = with_column(TABLE, &claims);
        assert_eq!(whats(&fixed, &claims), ["it_works names 4 behaviours"]);
    }

    #[test]
    fn an_id_stands_once() {
        let twice = format!("{TABLE}| MQTT-001 | Again. | — |\n");
        assert_eq!(whats(&twice, &[]), ["MQTT-001 stands on line 3 too"]);
    }
}
