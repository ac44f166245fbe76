//! The layers of the configuration merged into one table of paths, before any meaning is known.
//!
//! A path is written with dots; elements of `[[listener]]` have their number as a part:
//! `listener.0.address`. Each entry keeps its origin. A later layer replaces single values; only a
//! whole `listener` replaces the list.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use crate::configuration::problem::{Origin, Problem, Refused};
use crate::configuration::schema;

/// A value before its kind is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Raw {
    Flag(bool),
    Number(i64),
    Text(String),
    List(Vec<Raw>),
    /// From the environment or a flag: what it is, its kind decides.
    Untyped(String),
    /// A type of the file that no key takes; its name.
    Other(&'static str),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) raw: Raw,
    pub(crate) origin: Origin,
}

/// All that was set, by path.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) entries: BTreeMap<String, Entry>,
    /// Tables that were opened, also empty ones.
    pub(crate) sections: BTreeMap<String, Origin>,
}

impl Tree {
    /// Adds the configuration file.
    pub(crate) fn add_file(&mut self, path: &Path, text: &str) -> Result<(), Refused> {
        let shared: Arc<Path> = path.into();
        let locate = |offset: usize| {
            let (line, column) = line_and_column(text, offset);
            Origin::File { path: Arc::clone(&shared), line, column }
        };
        let table = DeTable::parse(text).map_err(|error| {
            let origin = locate(error.span().map_or(0, |span| span.start));
            let what = error.message().replace('\n', ", ");
            Refused::new(vec![Problem { origin, key: String::new(), what }])
        })?;
        self.add_table("", table.get_ref(), &locate);
        Ok(())
    }

    /// Adds a value from the environment or a flag.
    pub(crate) fn add_untyped(
        &mut self,
        path: &str,
        text: &str,
        origin: &Origin,
    ) -> Result<(), Problem> {
        if !schema::is_section(path) {
            self.put(path, Raw::Untyped(text.to_owned()), origin.clone());
            return Ok(());
        }
        // A whole section at once is written as in the file.
        let document = format!("value = {}", text.trim());
        let table = DeTable::parse(&document).map_err(|error| Problem {
            origin: origin.clone(),
            key: path.to_owned(),
            what: format!("is a section: {}", error.message().replace('\n', ", ")),
        })?;
        for value in table.get_ref().values() {
            self.remove_below(path);
            self.add_value(path, value.get_ref(), origin.clone(), &|_| origin.clone());
        }
        Ok(())
    }

    fn add_table(&mut self, path: &str, table: &DeTable<'_>, locate: &dyn Fn(usize) -> Origin) {
        for (key, value) in table {
            let name = key.get_ref();
            // A dot inside a quoted key is not one of the path's.
            let quoted = || format!("{name:?}").replace('.', "\\u002e");
            let name = if is_bare(name) { name.to_string() } else { quoted() };
            let path = if path.is_empty() { name } else { format!("{path}.{name}") };
            self.add_value(&path, value.get_ref(), locate(key.span().start), locate);
        }
    }

    fn add_value(
        &mut self,
        path: &str,
        value: &DeValue<'_>,
        origin: Origin,
        locate: &dyn Fn(usize) -> Origin,
    ) {
        match value {
            DeValue::Table(table) => {
                self.sections.insert(path.to_owned(), origin);
                self.add_table(path, table, locate);
            }
            DeValue::Array(array) if schema::is_list_of_sections(path) => {
                self.sections.insert(path.to_owned(), origin);
                for (index, element) in array.iter().enumerate() {
                    let origin = locate(element.span().start);
                    self.add_value(&format!("{path}.{index}"), element.get_ref(), origin, locate);
                }
            }
            // An unknown list of tables is one unknown section.
            DeValue::Array(array)
                if array.iter().any(|element| matches!(element.get_ref(), DeValue::Table(_))) =>
            {
                self.sections.insert(path.to_owned(), origin);
            }
            scalar => self.put(path, raw(scalar), origin),
        }
    }

    fn put(&mut self, path: &str, raw: Raw, origin: Origin) {
        self.entries.insert(path.to_owned(), Entry { raw, origin });
    }

    fn remove_below(&mut self, path: &str) {
        let below = format!("{path}.");
        self.entries.retain(|key, _| !key.starts_with(&below));
        self.sections.retain(|key, _| !key.starts_with(&below));
    }
}

/// The values of a list that was written as text: as in the file, or separated by commas.
pub(crate) fn untyped_list(text: &str) -> Result<Vec<Raw>, String> {
    let text = text.trim();
    if !text.starts_with('[') {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        return Ok(parts.map(|part| Raw::Untyped(part.to_owned())).collect());
    }
    let document = format!("value = {text}");
    let table = DeTable::parse(&document).map_err(|error| error.message().replace('\n', ", "))?;
    match table.get_ref().values().next().map(|value| raw(value.get_ref())) {
        Some(Raw::List(list)) => Ok(list),
        _ => Err("is no list".to_owned()),
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("a number that is too large"), Raw::Number),
        DeValue::Float(_) => Raw::Other("a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Array(array) => {
            Raw::List(array.iter().map(|element| raw(element.get_ref())).collect())
        }
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Both from one, in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
