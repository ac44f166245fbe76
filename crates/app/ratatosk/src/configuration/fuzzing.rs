//! The body of the fuzz target `configuration`, so that its corpus is replayed by plain tests.
//!
//! Guarded: nothing panics, what is refused has a place within the text, and what is accepted can
//! be printed and says the same when it is read again. No file that a text names is read.

use std::path::PathBuf;

use crate::configuration::build::Builder;
use crate::configuration::kind::Value;
use crate::configuration::problem::{Origin, Problem, Refused};
use crate::configuration::resolve::Fields;
use crate::configuration::{Configuration, Origins, Scope, Sources, merge};

/// Variables after the text.
const VARIABLES_MAX: usize = 8;

/// The text of a file, and after a null the environment: `NAME=value`, one a line.
pub fn text_any(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, variables) = text.split_once('\0').unwrap_or((text, ""));
    let variables: Vec<_> = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        // That of a secret's file would be read.
        .filter(|(name, _)| !name.to_ascii_lowercase().ends_with("_file"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .take(VARIABLES_MAX)
        .collect();
    let (fields, problems) = match read(text, variables) {
        Ok(merged) => merged,
        Err(refused) => return check_problems(refused.problems(), text),
    };
    check_problems(&problems, text);
    if names_files(&fields) {
        return;
    }
    let has_secret = fields.has_written("admin.token");
    match Builder::new(fields, problems).build() {
        Ok(configuration) => check_printed(&configuration, has_secret),
        Err(refused) => check_problems(refused.problems(), text),
    }
}

fn read(text: &str, variables: Vec<(String, String)>) -> Result<(Fields, Vec<Problem>), Refused> {
    let file = Some((PathBuf::from("r.toml"), text.to_owned()));
    merge(file, &Sources { variables, ..Sources::default() })
}

/// Each has a place that is there.
fn check_problems(problems: &[Problem], text: &str) {
    for problem in problems {
        assert!(!problem.what.is_empty(), "{problem:?} says nothing");
        let Origin::File { line, column, .. } = &problem.origin else { continue };
        // The end of the text may be what is wrong.
        let written = text.split('\n').nth(line - 1);
        let width = written.map(|written| written.chars().count());
        assert!(
            width.is_some_and(|width| (1..=width + 1).contains(column)),
            "{problem:?} is not in the text"
        );
    }
}

fn names_files(fields: &Fields) -> bool {
    let mut written = fields.by_path.values().filter(|field| field.origin != Origin::Default);
    written.any(|field| matches!(field.value, Some(Value::Path(_))))
}

fn check_printed(configuration: &Configuration, has_secret: bool) {
    assert!(!configuration.effective.log_lines(Scope::All).is_empty());
    assert!(configuration.effective.changes(&configuration.effective).is_empty());
    // A secret is not printed, so what was printed lacks it.
    if has_secret {
        return;
    }
    let printed = configuration.effective.render(Origins::Hidden);
    let again = match read(&printed, Vec::new()) {
        Ok((fields, problems)) => Builder::new(fields, problems).build(),
        Err(refused) => Err(refused),
    };
    let again = again.unwrap_or_else(|refused| panic!("{refused}\nof\n{printed}"));
    assert_eq!(meaning(&again), meaning(configuration), "{printed}");
    assert_eq!(again.effective.render(Origins::Hidden), printed);
}

/// Everything but where it came from.
fn meaning(configuration: &Configuration) -> String {
    let Configuration { data_dir, roles, listeners, auth, admin, mqtt, limits, .. } = configuration;
    let Configuration { memory_limit, metrics_tenants_max, tenant, log, .. } = configuration;
    let services = (data_dir, roles, listeners, auth, admin, mqtt);
    format!("{services:?} {:?}", (limits, memory_limit, metrics_tenants_max, tenant, log))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn stored_texts_are_refused_with_a_place_or_mean_what_they_print() {
        let corpus =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus/configuration");
        let entries = std::fs::read_dir(corpus).expect("the corpus is part of the repository");
        let count = entries
            .map(|entry| {
                text_any(&std::fs::read(entry.expect("readable").path()).expect("readable"));
            })
            .count();
        assert!(count >= 5, "{count} seeds");
    }
}
