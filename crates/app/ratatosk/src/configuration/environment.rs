//! The environment as a layer: `RATATOSK_ADMIN__ADDRESS` is `admin.address`.
//!
//! Two underscores are a dot. A secret may be in a file instead: `RATATOSK_ADMIN__TOKEN_FILE`. What
//! Kubernetes puts into the environment for a service named `ratatosk` is not ours and is left out.

use std::path::Path;

use crate::configuration::kind::Kind;
use crate::configuration::problem::{Origin, Problem};
use crate::configuration::schema::{Key, pattern};
use crate::configuration::tree::Tree;

/// What all our variables begin with.
pub(crate) const PREFIX: &str = "RATATOSK_";

/// Names the configuration file.
pub(crate) const CONFIG: &str = "RATATOSK_CONFIG";

/// A short way to write `RATATOSK_LOG__LEVEL`.
const LOG: &str = "RATATOSK_LOG";

/// A secret's file is not larger than this.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Adds the variables to the tree.
pub(crate) fn add(
    tree: &mut Tree,
    keys: &[Key],
    variables: &[(String, String)],
    problems: &mut Vec<Problem>,
) {
    // Sorted, so that a whole section comes before its parts whatever order the system has.
    let mut variables: Vec<_> = variables.iter().collect();
    variables.sort();
    for (name, value) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if name == CONFIG || is_service_link(rest, value) {
            continue;
        }
        let origin = Origin::Environment { name: name.clone() };
        let added = match meaning(name, rest, keys) {
            Meaning::Value(path) => tree.add_untyped(&path, value, &origin),
            Meaning::SecretFile(path) => match read_secret(Path::new(value)) {
                Ok(secret) => tree.add_untyped(&path, &secret, &origin),
                Err(what) => Err(Problem { origin, key: path, what }),
            },
        };
        problems.extend(added.err());
    }
}

enum Meaning {
    Value(String),
    SecretFile(String),
}

fn meaning(name: &str, rest: &str, keys: &[Key]) -> Meaning {
    if name == LOG {
        return Meaning::Value("log.level".to_owned());
    }
    let path = rest.split("__").map(str::to_ascii_lowercase).collect::<Vec<_>>().join(".");
    let known = |path: &str| {
        let pattern = pattern(path);
        keys.iter().find(|key| key.path == pattern)
    };
    if let Some(secret) = path.strip_suffix("_file").filter(|_| known(&path).is_none())
        && known(secret).is_some_and(|key| key.kind == Kind::Secret)
    {
        return Meaning::SecretFile(secret.to_owned());
    }
    Meaning::Value(path)
}

fn read_secret(path: &Path) -> Result<String, String> {
    let unreadable = |error| format!("cannot read {}: {error}", path.display());
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > SECRET_BYTES_MAX {
        return Err(format!("{} has {size} bytes, too many for a secret", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// `RATATOSK_SERVICE_HOST`, `RATATOSK_PORT=tcp://…`, `RATATOSK_MQTT_PORT_1883_TCP_ADDR` and their
/// like.
fn is_service_link(rest: &str, value: &str) -> bool {
    if rest.contains("__") {
        return false;
    }
    let has = |part: &str| rest.starts_with(&part[1..]) || rest.contains(part);
    let is_address = value.starts_with("tcp://") || value.starts_with("udp://");
    let is_port = rest == "PORT" || rest.ends_with("_PORT");
    let numbered = rest.split("PORT_").nth(1).is_some_and(|after| {
        after.starts_with(|first: char| first.is_ascii_digit())
            && (after.contains("_TCP") || after.contains("_UDP"))
    });
    has("_SERVICE_HOST") || has("_SERVICE_PORT") || (is_port && is_address) || numbered
}
