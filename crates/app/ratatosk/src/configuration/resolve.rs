//! From the merged layers to one value per key: unknown keys and bad values become problems, absent
//! ones defaults.

use std::collections::{BTreeMap, BTreeSet};

use crate::configuration::kind::Value;
use crate::configuration::problem::{Origin, Problem};
use crate::configuration::schema::{self, Key, Standard, pattern};
use crate::configuration::tree::{Raw, Tree};

/// Names that are further apart than this are not what was meant.
const LIKENESS_MIN: f64 = 0.82;

/// The effective value of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) path: String,
    /// `None`: unset.
    pub(crate) value: Option<Value>,
    pub(crate) origin: Origin,
    pub(crate) reload: bool,
}

/// All effective values, by path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    pub(crate) by_path: BTreeMap<String, Field>,
    /// In the order of the documentation.
    pub(crate) order: Vec<String>,
    /// How many `[[listener]]` there are; `None`: nobody said, so the defaults hold.
    pub(crate) listeners: Option<usize>,
    sections: BTreeMap<String, Origin>,
}

impl Fields {
    pub(crate) fn value(&self, path: &str) -> Option<&Value> {
        self.by_path.get(path)?.value.as_ref()
    }

    /// Where the key, or the section when the key is not set, was written.
    pub(crate) fn origin(&self, path: &str) -> Origin {
        let written = self.by_path.get(path).map(|field| &field.origin);
        let parent = path.rsplit_once('.').map_or(path, |(head, _)| head);
        written
            .filter(|origin| **origin != Origin::Default)
            .or_else(|| self.sections.get(path))
            .or_else(|| self.sections.get(parent))
            .cloned()
            .unwrap_or(Origin::Default)
    }

    /// Whether somebody set the key, well or not.
    pub(crate) fn has_written(&self, path: &str) -> bool {
        self.by_path.get(path).is_some_and(|field| field.origin != Origin::Default)
    }

    /// Whether anything was written in the section.
    pub(crate) fn has_section(&self, path: &str) -> bool {
        let below = format!("{path}.");
        self.sections.contains_key(path)
            || self
                .by_path
                .iter()
                .any(|(key, field)| key.starts_with(&below) && field.origin != Origin::Default)
    }
}

/// Gives every key its value.
pub(crate) fn resolve(tree: Tree, keys: &[Key], problems: &mut Vec<Problem>) -> Fields {
    problems.extend(unknown(&tree, keys));
    let listeners = count_listeners(&tree, problems);
    let mut fields = Fields { listeners, sections: tree.sections, ..Fields::default() };
    for key in keys {
        for path in paths(&key.path, listeners.unwrap_or(0)) {
            let field = match tree.entries.get(&path) {
                Some(entry) => match key.kind.parse(&entry.raw) {
                    Ok(value) => (Some(value), entry.origin.clone()),
                    Err(what) => {
                        let origin = entry.origin.clone();
                        problems.push(Problem { origin, key: path.clone(), what });
                        (None, entry.origin.clone())
                    }
                },
                None => (standard(key), Origin::Default),
            };
            let (value, origin) = field;
            fields.order.push(path.clone());
            fields.by_path.insert(path.clone(), Field { path, value, origin, reload: key.reload });
        }
    }
    fields
}

/// # Panics
/// When a default in the table is not of its kind: a bug that a test finds.
fn standard(key: &Key) -> Option<Value> {
    let Standard::Value(text) = &key.default else { return None };
    match key.kind.parse(&Raw::Untyped(text.clone())) {
        Ok(value) => Some(value),
        Err(what) => panic!("default of {}: {what}", key.path),
    }
}

/// A pattern's paths: itself, or one per listener.
fn paths(pattern: &str, listeners: usize) -> Vec<String> {
    match pattern.split_once("[]") {
        None => vec![pattern.to_owned()],
        Some((list, rest)) => (0..listeners).map(|index| format!("{list}.{index}{rest}")).collect(),
    }
}

/// Elements must be numbered without gaps.
fn count_listeners(tree: &Tree, problems: &mut Vec<Problem>) -> Option<usize> {
    let entries = tree.entries.iter().map(|(path, entry)| (path, &entry.origin));
    let mut numbers = BTreeSet::new();
    for (path, origin) in entries.chain(&tree.sections) {
        let Some(rest) = path.strip_prefix("listener.") else { continue };
        let part = rest.split('.').next().unwrap_or_default();
        match part.parse::<usize>() {
            Ok(number) => {
                numbers.insert((number, path.clone(), origin.clone()));
            }
            Err(_) => problems.push(Problem {
                origin: origin.clone(),
                key: path.clone(),
                what: "listeners are a list: write [[listener]], or listener.0 for the first"
                    .to_owned(),
            }),
        }
    }
    let count = numbers.iter().map(|(number, ..)| number).collect::<BTreeSet<_>>().len();
    if let Some((number, path, origin)) = numbers.iter().find(|(number, ..)| *number >= count) {
        problems.push(Problem {
            origin: origin.clone(),
            key: path.clone(),
            what: format!("there are {count} listeners, so {number} leaves a gap"),
        });
    }
    if let Some(origin) = tree.sections.get("listener").filter(|_| count == 0) {
        problems.push(Problem {
            origin: origin.clone(),
            key: "listener".to_owned(),
            what: "needs at least one element; remove it for the default listeners".to_owned(),
        });
    }
    (count > 0).then_some(count)
}

/// What nobody knows, each unknown section once.
fn unknown(tree: &Tree, keys: &[Key]) -> Vec<Problem> {
    let mut problems: BTreeMap<String, Problem> = BTreeMap::new();
    let entries = tree.entries.iter().map(|(path, entry)| (path, &entry.origin, true));
    let sections = tree.sections.iter().map(|(path, origin)| (path, origin, false));
    // Sections first: they are where an unknown one was opened.
    for (path, origin, is_value) in sections.chain(entries) {
        let Some((key, what)) = complaint(path, is_value, keys) else { continue };
        let problem = Problem { origin: origin.clone(), key: key.clone(), what };
        problems.entry(key).or_insert(problem);
    }
    problems.into_values().collect()
}

/// The shortest unknown part of the path and what to say about it.
fn complaint(path: &str, is_value: bool, keys: &[Key]) -> Option<(String, String)> {
    let is_key = |path: &str| {
        let pattern = pattern(path);
        keys.iter().any(|key| key.path == pattern)
    };
    let heads = path.match_indices('.').map(|(dot, _)| &path[..dot]).chain([path]);
    for head in heads {
        let whole = head == path;
        if is_key(head) {
            let fits = whole && is_value;
            return (!fits).then(|| (head.to_owned(), "is a value, not a section".to_owned()));
        }
        if schema::is_section(head) {
            let fits = !(whole && is_value);
            if fits {
                continue;
            }
            return Some((head.to_owned(), "is a section, not a value".to_owned()));
        }
        let noun = if whole && is_value { "key" } else { "section" };
        return Some((head.to_owned(), format!("unknown {noun}{}", suggestion(head, keys))));
    }
    None
}

fn suggestion(unknown: &str, keys: &[Key]) -> String {
    let plain = |pattern: &str| pattern.replace("[]", "");
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let unknown = plain(&pattern(unknown));
    let known = keys.iter().map(|key| plain(&key.path)).chain(schema::sections().map(plain));
    let likeness = |known: &str| {
        let whole = strsim::jaro_winkler(&unknown, known);
        // The right name in the wrong section is worth a hint as well.
        if last(&unknown) == last(known) { whole.max(0.9) } else { whole }
    };
    let best = known
        .map(|known| (likeness(&known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1)));
    match best {
        Some((likeness, name)) if likeness >= LIKENESS_MIN => format!("; did you mean {name}?"),
        _ => String::new(),
    }
}
