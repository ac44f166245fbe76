//! Words that may not stand in the tree: paths of one machine, places of one registry.
//!
//! The list is `xtask/words.toml`. A word counts where the character before it could not belong to
//! a longer name, so `frame/work/x` is not a path of a machine.

use anyhow::{Context, Result, bail};

use crate::tidy::Violation;

/// The list.
#[derive(Debug)]
pub(crate) struct Words {
    words: Vec<(String, String)>,
    except: Vec<String>,
}

impl Words {
    /// Reads the list.
    pub(crate) fn parse(text: &str) -> Result<Words> {
        let table: toml::Table = text.parse().context("xtask/words.toml")?;
        let listed = table.get("words").and_then(toml::Value::as_table);
        let mut words = Vec::new();
        for (word, remedy) in listed.context("xtask/words.toml has no [words]")? {
            let Some(remedy) = remedy.as_str().filter(|remedy| !remedy.trim().is_empty()) else {
                bail!("xtask/words.toml: {word} does not say what to write instead");
            };
            words.push((word.clone(), remedy.to_owned()));
        }
        let except = table.get("except").and_then(toml::Value::as_array);
        let except = except
            .into_iter()
            .flatten()
            .filter_map(toml::Value::as_str)
            .map(str::to_owned)
            .collect();
        Ok(Words { words, except })
    }

    /// Checks one file of any type.
    pub(crate) fn check(&self, path: &str, text: &str) -> Vec<Violation> {
        if self.except.iter().any(|except| except == path) {
            return Vec::new();
        }
        let mut violations = Vec::new();
        for (index, line) in text.lines().enumerate() {
            for (word, remedy) in &self.words {
                let is_found = line.match_indices(word.as_str()).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || "_-.}/".contains(c))
                });
                if is_found {
                    violations.push(Violation {
                        path: path.to_owned(),
                        line: index + 1,
                        what: format!("{word:?} stands in the file"),
                        why: "the tree must mean the same on every machine",
                        remedy: remedy.clone(),
                    });
                }
            }
        }
        violations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Words {
        let text = "except = [\"list\"]\n[words]\n\"/place/\" = \"use a relative path\"\n";
        Words::parse(text).expect("parses")
    }

    #[test]
    fn a_listed_word_is_refused_with_its_line() {
        let found = list().check("docs/a.md", "one\nsee /place/a\n");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].line, found[0].what.as_str()), (2, "\"/place/\" stands in the file"));
    }

    #[test]
    fn longer_names_and_excepted_files_pass() {
        assert_eq!(list().check("docs/a.md", "crates/place/a ../place/b\n"), []);
        assert_eq!(list().check("list", "/place/\n"), []);
    }

    #[test]
    fn a_word_without_a_remedy_is_refused() {
        assert!(Words::parse("[words]\na = \"\"\n").is_err());
        assert!(Words::parse("").is_err());
    }
}
