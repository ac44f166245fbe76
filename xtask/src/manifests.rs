//! Manifests: dependencies are declared once, in the root, each with its reason on the line.

use anyhow::{Context, Result};

use crate::tidy::Violation;

/// Checks one `Cargo.toml`.
pub(crate) fn check(path: &str, text: &str) -> Result<Vec<Violation>> {
    let table: toml::Table = text.parse().with_context(|| path.to_owned())?;
    let mut violations = Vec::new();
    if table.contains_key("workspace") && path == "Cargo.toml" {
        violations.extend(lines_without_reason(path, text));
    }
    // The fuzz workspace stands alone: cargo-fuzz builds it with another toolchain.
    if table.contains_key("package") && !path.starts_with("fuzz/") {
        violations.extend(check_package(path, text, &table));
    }
    Ok(violations)
}

fn lines_without_reason(path: &str, text: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut is_inside = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            is_inside = line == "[workspace.dependencies]";
            continue;
        }
        let is_dependency = is_inside && line.contains('=') && !line.starts_with('#');
        if !is_dependency || line.contains("path = ") || has_comment(line) {
            continue;
        }
        let name = line.split(['=', ' ', '.']).next().unwrap_or_default();
        violations.push(Violation {
            path: path.to_owned(),
            line: index + 1,
            what: format!("{name} has no reason"),
            why: "each dependency costs build time and trust",
            remedy: "say at the end of the line, after #, what it is for".into(),
        });
    }
    violations
}

/// Whether the line ends in a comment with words in it; `#` inside quotes does not count.
fn has_comment(line: &str) -> bool {
    let mut is_quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => is_quoted = !is_quoted,
            '#' if !is_quoted => return line[at + 1..].trim().len() > 2,
            _ => {}
        }
    }
    false
}

fn check_package(path: &str, text: &str, table: &toml::Table) -> Vec<Violation> {
    let mut violations = Vec::new();
    let has_lints = table
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(toml::Value::as_bool)
        .unwrap_or_default();
    if !has_lints {
        violations.push(Violation {
            path: path.to_owned(),
            line: 1,
            what: "no [lints] workspace = true".into(),
            why: "one set of lints holds for all crates",
            remedy: "add the two lines at the end".into(),
        });
    }
    let targets = table.get("target").and_then(toml::Value::as_table);
    let tables = std::iter::once(table).chain(
        targets.into_iter().flat_map(|targets| targets.values().filter_map(|t| t.as_table())),
    );
    for table in tables {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(listed) = table.get(section).and_then(toml::Value::as_table) else { continue };
            for (name, value) in listed {
                let is_shared =
                    value.get("workspace").and_then(toml::Value::as_bool).unwrap_or_default();
                if is_shared {
                    continue;
                }
                let line =
                    text.lines().position(|line| line.trim_start().starts_with(name.as_str()));
                violations.push(Violation {
                    path: path.to_owned(),
                    line: line.map_or(1, |index| index + 1),
                    what: format!("{name} is declared here"),
                    why: "versions, features and reasons of dependencies stand in one place",
                    remedy: format!(
                        "declare it in the root manifest, write `{name}.workspace = true`"
                    ),
                });
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(path: &str, text: &str) -> Vec<(usize, String)> {
        let violations = check(path, text).expect("parses");
        violations.into_iter().map(|violation| (violation.line, violation.what)).collect()
    }

    #[test]
    fn a_root_line_needs_a_reason() {
        let good = "[workspace.dependencies]\n# a comment\nratatosk-clock = { path = \"x\" }\n\nbytes = \"1\" # shared payloads\n";
        assert_eq!(whats("Cargo.toml", good), []);
        let bad = "[workspace.dependencies]\nbytes = \"1\"\nslab = { version = \"#1\" }\nlibc = \"1\" #\n";
        assert_eq!(
            whats("Cargo.toml", bad),
            [
                (2, "bytes has no reason".to_owned()),
                (3, "slab has no reason".to_owned()),
                (4, "libc has no reason".to_owned()),
            ]
        );
    }

    #[test]
    fn a_crate_uses_the_workspace_s_lints_and_dependencies() {
        let good = "[package]\nname = \"a\"\n[dependencies]\nbytes.workspace = true\ntokio = { workspace = true, features = [\"x\"] }\n[lints]\nworkspace = true\n";
        assert_eq!(whats("crates/base/a/Cargo.toml", good), []);
        let bad = "[package]\nname = \"a\"\n[dependencies]\nbytes = \"1\"\n[target.'cfg(unix)'.dev-dependencies]\nlibc = { version = \"1\" }\n";
        assert_eq!(
            whats("crates/base/a/Cargo.toml", bad),
            [
                (1, "no [lints] workspace = true".to_owned()),
                (4, "bytes is declared here".to_owned()),
                (6, "libc is declared here".to_owned()),
            ]
        );
    }
}
