//! The effective configuration for people: as a file, with origins, as log lines, and what a reload
//! changes.
//!
//! Built from values whose secrets do not print, so nothing here can show one.

use std::fmt::Write as _;

use crate::configuration::Listener;
use crate::configuration::problem::Origin;
use crate::configuration::resolve::{Field, Fields};

/// Every key with its value and origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effective {
    /// In the order of the documentation, elements of a list together.
    rows: Vec<Row>,
    /// The default listeners, if they hold.
    defaults: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    path: String,
    /// As in the file; `None`: unset.
    value: Option<String>,
    origin: Origin,
    reload: bool,
    /// Compares secrets, which all print alike.
    field: Field,
}

/// A key that has another value after a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) path: String,
    /// As in the file; `None`: unset.
    pub(crate) value: Option<String>,
    pub(crate) origin: Origin,
    /// It holds now; otherwise after a restart.
    pub(crate) effective: bool,
}

impl Effective {
    pub(super) fn new(fields: &Fields, listeners: &[Listener]) -> Self {
        let mut paths: Vec<&String> = fields.order.iter().collect();
        // Keys of one listener belong together; a stable sort leaves the rest as it is.
        let first = paths.iter().position(|path| path.starts_with("listener.")).unwrap_or(0);
        let count = paths.iter().filter(|path| path.starts_with("listener.")).count();
        paths[first..first + count].sort_by_key(|path| listener_number(path));
        let rows = paths
            .iter()
            .filter_map(|path| fields.by_path.get(*path))
            .filter(|field| has_meaning(field, fields, listeners))
            .map(|field| Row {
                path: field.path.clone(),
                value: field.value.as_ref().map(ToString::to_string),
                origin: field.origin.clone(),
                reload: field.reload,
                field: field.clone(),
            })
            .collect();
        let described =
            |listener: &Listener| format!("{} {}", listener.protocol.name(), listener.address);
        let defaults = match fields.listeners {
            None => listeners.iter().map(described).collect(),
            Some(_) => Vec::new(),
        };
        Self { rows, defaults }
    }

    /// The configuration as a file that says the same; with origins as comments, if asked for.
    pub(crate) fn render(&self, origins: Origins) -> String {
        let mut out = String::new();
        let mut section = String::new();
        for row in &self.rows {
            let (head, name) = heading(&row.path);
            if head != section {
                if section.is_empty() {
                    self.render_default_listeners(&mut out);
                }
                section = head.clone();
                let _ = match head.split_once('.') {
                    Some((list, _)) => writeln!(out, "\n[[{list}]]"),
                    None => writeln!(out, "\n[{head}]"),
                };
            }
            let _ = match &row.value {
                Some(value) => write!(out, "{name} = {value}"),
                None => write!(out, "# {name} is unset"),
            };
            if origins == Origins::Shown {
                let _ = write!(out, "  # {}", row.origin);
            }
            out.push('\n');
        }
        out
    }

    fn render_default_listeners(&self, out: &mut String) {
        if self.defaults.is_empty() {
            return;
        }
        out.push_str("\n# No [[listener]] is configured. The defaults hold:\n");
        for listener in &self.defaults {
            let _ = writeln!(out, "#   {listener}");
        }
    }

    /// One line a section, for the log: `(section, "key = value, key = value (origin)")`.
    pub(crate) fn log_lines(&self, scope: Scope) -> Vec<(String, String)> {
        let mut lines: Vec<(String, String)> = Vec::new();
        for row in &self.rows {
            if scope == Scope::Chosen && row.origin == Origin::Default {
                continue;
            }
            let Some(value) = &row.value else { continue };
            let (head, name) = heading(&row.path);
            let head = if head.is_empty() { "node".to_owned() } else { head };
            if lines.last().is_none_or(|(section, _)| *section != head) {
                lines.push((head, String::new()));
            }
            let Some((_, line)) = lines.last_mut() else { continue };
            let comma = if line.is_empty() { "" } else { ", " };
            let _ = write!(line, "{comma}{name} = {value}");
            if row.origin != Origin::Default {
                let _ = write!(line, " ({})", row.origin);
            }
        }
        if scope == Scope::All && !self.defaults.is_empty() {
            lines.push(("listener".to_owned(), self.defaults.join(", ")));
        }
        lines
    }

    /// What differs in a configuration that was loaded later.
    pub(crate) fn changes(&self, later: &Self) -> Vec<Change> {
        let find = |rows: &[Row], path: &str| rows.iter().find(|row| row.path == path).cloned();
        let mut changes = Vec::new();
        for row in &later.rows {
            let before = find(&self.rows, &row.path);
            if before.is_some_and(|before| before.field.value == row.field.value) {
                continue;
            }
            changes.push(Change {
                path: row.path.clone(),
                value: row.value.clone(),
                origin: row.origin.clone(),
                effective: row.reload,
            });
        }
        let gone = self.rows.iter().filter(|row| find(&later.rows, &row.path).is_none());
        changes.extend(gone.map(|row| Change {
            path: row.path.clone(),
            value: None,
            origin: Origin::Default,
            effective: false,
        }));
        changes
    }
}

/// Whether origins are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origins {
    Shown,
    Hidden,
}

/// Which values are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Every value: for a machine, which may have to tell later what was in force.
    All,
    /// Those that somebody chose: for a person, who would not find them among the defaults.
    Chosen,
}

/// A path's table, `listener.0` for an element, and the rest of it.
fn heading(path: &str) -> (String, &str) {
    let parts = if path.starts_with("listener.") { 2 } else { 1 };
    match path.match_indices('.').nth(parts - 1) {
        Some((dot, _)) => (path[..dot].to_owned(), &path[dot + 1..]),
        None => (String::new(), path),
    }
}

/// Defaults for a cluster, or for layers of a listener, that are not there say nothing.
fn has_meaning(field: &Field, fields: &Fields, listeners: &[Listener]) -> bool {
    // Written down, they would make a cluster.
    if field.path.starts_with("cluster.") {
        let section =
            if field.path.starts_with("cluster.tls.") { "cluster.tls" } else { "cluster" };
        return fields.has_section(section);
    }
    let Some(rest) = field.path.strip_prefix("listener.") else { return true };
    if field.origin != Origin::Default {
        return true;
    }
    let Some((number, name)) = rest.split_once('.') else { return true };
    let Some(listener) = number.parse().ok().and_then(|number: usize| listeners.get(number)) else {
        return true;
    };
    let layers = &listener.transport;
    match name.split('.').next() {
        Some("path") => layers.websocket.is_some(),
        Some("tls") => layers.tls.is_some(),
        Some("proxy_protocol") => layers.proxy_protocol.is_some(),
        _ => true,
    }
}

fn listener_number(path: &str) -> usize {
    path.split('.').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}
