//! Providers by name, as the configuration chooses them.
//!
//! A name that is not there stops the start: the operator is told which names there are, and
//! which one was probably meant. Nothing is ever replaced silently by a default.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Makes a provider.
pub type Maker<T> = Box<dyn Fn() -> anyhow::Result<Arc<T>> + Send + Sync>;

/// The providers of one kind that are compiled in.
pub struct Registry<T: ?Sized> {
    kind: &'static str,
    makers: BTreeMap<String, Maker<T>>,
}

/// A provider that cannot be had. The operator must act; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is unknown.
    #[error("no {kind} is called {name:?}{}; there is {known}", suggested(.suggestion))]
    Unknown {
        /// What was looked for: "auth provider".
        kind: &'static str,
        /// The name as configured.
        name: String,
        /// The known name closest to it, if one is close.
        suggestion: Option<String>,
        /// All known names.
        known: String,
    },
    /// The name is known, but its maker failed.
    #[error("{kind} {name:?} cannot be made: {source:#}")]
    Failed {
        /// What was to be made.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why not.
        source: anyhow::Error,
    },
}

fn suggested(name: &Option<String>) -> String {
    name.as_ref().map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default()
}

impl<T: ?Sized> Registry<T> {
    /// No providers of this kind yet. The kind is a noun for messages: "auth provider".
    pub fn new(kind: &'static str) -> Self {
        Self { kind, makers: BTreeMap::new() }
    }

    /// Adds a provider. The later one of two with the same name wins.
    pub fn insert(
        &mut self,
        name: impl Into<String>,
        make: impl Fn() -> anyhow::Result<Arc<T>> + Send + Sync + 'static,
    ) {
        self.makers.insert(name.into(), Box::new(make));
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.makers.keys().map(String::as_str)
    }

    /// Makes the provider of that name.
    pub fn make(&self, name: &str) -> Result<Arc<T>, Error> {
        let Some(make) = self.makers.get(name) else {
            return Err(self.unknown(name));
        };
        make().map_err(|source| Error::Failed { kind: self.kind, name: name.to_owned(), source })
    }

    fn unknown(&self, name: &str) -> Error {
        let known: Vec<_> = self.names().collect();
        let closest = known
            .iter()
            .map(|known| (strsim::jaro_winkler(name, known), *known))
            .max_by(|left, right| left.0.total_cmp(&right.0));
        Error::Unknown {
            kind: self.kind,
            name: name.to_owned(),
            suggestion: closest
                .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
                .map(|(_, known)| known.to_owned()),
            known: if known.is_empty() { "none".to_owned() } else { known.join(", ") },
        }
    }
}

/// Below this likeness a suggestion would rather mislead.
const LIKENESS_MIN: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::AllowAll;
    use crate::permission::PermissionProvider;

    fn registry() -> Registry<dyn PermissionProvider> {
        let mut registry = Registry::new("permission provider");
        registry.insert("allow_all", || Ok(Arc::new(AllowAll) as Arc<dyn PermissionProvider>));
        registry.insert("broken", || anyhow::bail!("no such file"));
        registry
    }

    fn failure(name: &str) -> String {
        registry().make(name).err().map(|error| error.to_string()).unwrap_or_default()
    }

    /// PLG-012: an unknown name is an error that names what there is.
    #[test]
    fn an_unknown_name_is_refused_with_a_suggestion() {
        assert_eq!(
            failure("alow_all"),
            "no permission provider is called \"alow_all\" (did you mean \"allow_all\"?); \
             there is allow_all, broken"
        );
        assert_eq!(
            failure("ldap"),
            "no permission provider is called \"ldap\"; there is allow_all, broken"
        );
    }

    #[test]
    fn a_maker_that_fails_is_named() {
        assert_eq!(
            failure("broken"),
            "permission provider \"broken\" cannot be made: no such file"
        );
        assert_eq!(registry().make("allow_all").unwrap().name(), "allow_all");
    }
}
