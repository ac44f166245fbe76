//! `docs/configuration.md`: written from the table of keys, compared with it by a test.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::configuration::schema::{Key, Standard, keys};

const HEAD: &str = "\
# Configuration

Written from the table of keys: run `UPDATE=1 cargo test -p ratatosk the_reference_is_current` after a change.

**Layers**, the later wins: defaults; one file (`--config FILE` or `RATATOSK_CONFIG`, else `./ratatosk.toml`, else \
`/etc/ratatosk/ratatosk.toml`); the environment (`RATATOSK_ADMIN__ADDRESS` is `admin.address`, \
`RATATOSK_LISTENER__0__ADDRESS` the first listener's); flags (`--set admin.address=…`, `--data-dir`, \
`--allow-anonymous`). A secret can be in a file of its own: `RATATOSK_ADMIN__TOKEN_FILE`.

`ratatosk config check` says what is wrong, each problem with its place, and exits with 3. \
`ratatosk config show --origin` prints every effective value and where it came from, without secrets.

Any `[[listener]]` replaces the default ones: MQTT on 127.0.0.1 and [::1], port 1883; WebSocket on both, port 8083, \
path `/mqtt`. A listener that others can reach needs somebody who says who its clients are (`auth.password_file`, \
`auth.certificate_identity`, a provider), or `auth.anonymous = true` written down; otherwise the start is refused.

Keys marked ↻ take a new value over at SIGHUP; the others need a restart.
";

fn render() -> String {
    let mut out = String::from(HEAD);
    let mut section = String::from("?");
    let settings = setting_meanings();
    for key in keys() {
        let (head, name) = split(&key.path);
        if head != section {
            let title = match head.as_str() {
                "" => "Node".to_owned(),
                "listener[]" => "`[[listener]]`".to_owned(),
                "tenant" => "`[tenant]`: defaults of every tenant".to_owned(),
                table => format!("`[{table}]`"),
            };
            let _ = write!(
                out,
                "\n## {title}\n| key | default | takes | meaning |\n|---|---|---|---|\n"
            );
            section = head;
        }
        let about = settings.iter().find(|(setting, _)| key.path == format!("tenant.{setting}"));
        let about = about.map_or(key.about, |(_, about)| about.as_str());
        let _ = writeln!(out, "{}", line(&key, name, about));
    }
    out
}

fn line(key: &Key, name: &str, about: &str) -> String {
    let default = match &key.default {
        Standard::Value(value) => format!("`{value}`"),
        Standard::Unset => "unset".to_owned(),
        Standard::Required => "required".to_owned(),
    };
    let reload = if key.reload { " ↻" } else { "" };
    format!("| `{name}`{reload} | {default} | {} | {about} |", key.kind.allowed())
}

fn split(path: &str) -> (String, &str) {
    match path.split_once('.') {
        Some((head, name)) => (head.to_owned(), name),
        None => (String::new(), path),
    }
}

/// The settings' meanings: the comments of their table.
fn setting_meanings() -> Vec<(String, String)> {
    let path = root().join("crates/broker/contract/src/settings.rs");
    let source = std::fs::read_to_string(path).unwrap();
    let table = source.split("\ntenant_settings! {").nth(1).unwrap();
    let mut meanings = Vec::new();
    let mut about = String::new();
    for line in table.lines().map(str::trim).take_while(|line| *line != "}") {
        if let Some(comment) = line.strip_prefix("///") {
            about.push_str(comment);
        } else if let Some((name, _)) = line.split_once(": ").filter(|_| !line.starts_with('#')) {
            meanings.push((name.to_owned(), std::mem::take(&mut about).trim().to_owned()));
        }
    }
    meanings
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

#[test]
fn the_reference_is_current() {
    let path = root().join("docs/configuration.md");
    let rendered = render();
    if std::env::vars().any(|(name, _)| name == "UPDATE") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &rendered).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == rendered, "docs/configuration.md is not current: run with UPDATE=1");
}

#[test]
fn every_key_is_explained() {
    let meanings = setting_meanings();
    for key in keys() {
        let setting = meanings.iter().find(|(name, _)| key.path == format!("tenant.{name}"));
        let about = setting.map_or(key.about, |(_, about)| about.as_str());
        assert!(!about.is_empty(), "{} has no meaning", key.path);
    }
}
