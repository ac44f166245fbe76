//! Limits that only go down: lines of a file without its tests, lines of a function, statements
//! without code or test. `xtask/ratchet.toml` lists what is over the limit, with the reason.
//!
//! An exception that is looser than the file needs is a violation too: `fix` tightens it.

use anyhow::{Context, Result, bail};

use crate::source::Source;
use crate::tidy::Violation;

/// Where the limits are kept.
pub(crate) const PATH: &str = "xtask/ratchet.toml";

/// The limits and the exceptions.
#[derive(Debug)]
pub(crate) struct Ratchet {
    file_lines: usize,
    function_lines: usize,
    /// Statements that may lack a place in the code.
    pub(crate) without_code: usize,
    /// Statements that may lack a test.
    pub(crate) without_test: usize,
    exceptions: Vec<Exception>,
}

#[derive(Debug)]
struct Exception {
    path: String,
    /// None for the file itself.
    function: Option<String>,
    lines: usize,
}

impl Ratchet {
    /// Reads the file.
    pub(crate) fn parse(text: &str) -> Result<Ratchet> {
        let table: toml::Table = text.parse().context(PATH)?;
        let number = |section: &str, key: &str| {
            table
                .get(section)
                .and_then(|section| section.get(key))
                .and_then(toml::Value::as_integer)
                .and_then(|number| usize::try_from(number).ok())
                .with_context(|| format!("{PATH}: {section}.{key} is missing"))
        };
        let mut ratchet = Ratchet {
            file_lines: number("limits", "file_lines")?,
            function_lines: number("limits", "function_lines")?,
            without_code: number("normative", "without_code")?,
            without_test: number("normative", "without_test")?,
            exceptions: Vec::new(),
        };
        for entry in table.get("exception").and_then(toml::Value::as_array).into_iter().flatten() {
            let field = |key: &str| entry.get(key).and_then(toml::Value::as_str);
            let path = field("path").with_context(|| format!("{PATH}: exception without path"))?;
            if field("reason").is_none_or(|reason| reason.trim().is_empty()) {
                bail!("{PATH}: the exception of {path} has no reason");
            }
            let lines = entry.get("lines").and_then(toml::Value::as_integer);
            let lines = lines.and_then(|lines| usize::try_from(lines).ok());
            ratchet.exceptions.push(Exception {
                path: path.to_owned(),
                function: field("function").map(str::to_owned),
                lines: lines.with_context(|| format!("{PATH}: {path} without lines"))?,
            });
        }
        Ok(ratchet)
    }

    /// Checks every file and function, and that no exception is looser than needed.
    pub(crate) fn check(&self, sources: &[Source]) -> Vec<Violation> {
        let mut violations = Vec::new();
        for measured in measure(sources) {
            let exception = self.exceptions.iter().find(|exception| measured.is(exception));
            let limit = match &measured.function {
                None => self.file_lines,
                Some(_) => self.function_lines,
            };
            let allowed = exception.map_or(limit, |exception| exception.lines);
            if measured.lines > allowed {
                violations.push(measured.violation(
                    format!("{} has {} lines, {allowed} are allowed", measured.name(), measured.lines),
                    "split it by concept; a table or a long match may be listed in xtask/ratchet.toml",
                ));
            } else if exception.is_some() && measured.lines < allowed {
                violations.push(measured.violation(
                    format!(
                        "{} has {} lines, its exception says {allowed}",
                        measured.name(),
                        measured.lines
                    ),
                    "run `cargo xtask fix`",
                ));
            }
        }
        let all = measure(sources);
        for exception in &self.exceptions {
            if !all.iter().any(|measured| measured.is(exception)) {
                violations.push(Violation {
                    path: PATH.into(),
                    line: 1,
                    what: format!("an exception names {}, which is not there", exception.path),
                    why: WHY,
                    remedy: "run `cargo xtask fix`".into(),
                });
            }
        }
        violations
    }

    /// The text of the file with every exception and number as tight as the tree allows.
    pub(crate) fn tighten(
        &self,
        text: &str,
        sources: &[Source],
        without_code: usize,
        without_test: usize,
    ) -> String {
        let all = measure(sources);
        let mut blocks = text.split("\n[[exception]]");
        let mut tightened = blocks.next().unwrap_or_default().to_owned();
        tightened = lower(&tightened, "without_code", self.without_code.min(without_code));
        tightened = lower(&tightened, "without_test", self.without_test.min(without_test));
        for (block, exception) in blocks.zip(&self.exceptions) {
            let Some(measured) = all.iter().find(|measured| measured.is(exception)) else {
                continue;
            };
            let limit = match &exception.function {
                None => self.file_lines,
                Some(_) => self.function_lines,
            };
            if measured.lines <= limit {
                continue;
            }
            tightened.push_str("\n[[exception]]");
            tightened.push_str(&lower(block, "lines", exception.lines.min(measured.lines)));
        }
        format!("{}\n", tightened.trim_end())
    }
}

const WHY: &str = "what is short is read; limits only go down";

/// Rewrites the line `key = …`, keeping its comment.
fn lower(block: &str, key: &str, number: usize) -> String {
    let mut lines = Vec::new();
    for line in block.split('\n') {
        let is_key = line.split('=').next().is_some_and(|left| left.trim() == key);
        let comment = line.find('#').map(|at| format!(" {}", &line[at..])).unwrap_or_default();
        lines.push(if is_key { format!("{key} = {number}{comment}") } else { line.to_owned() });
    }
    lines.join("\n")
}

struct Measured {
    path: String,
    function: Option<String>,
    line: usize,
    lines: usize,
}

impl Measured {
    fn is(&self, exception: &Exception) -> bool {
        self.path == exception.path && self.function == exception.function
    }

    fn name(&self) -> String {
        match &self.function {
            None => "the file".into(),
            Some(name) => format!("function {name}"),
        }
    }

    fn violation(&self, what: String, remedy: &str) -> Violation {
        Violation {
            path: self.path.clone(),
            line: self.line,
            what,
            why: WHY,
            remedy: remedy.to_owned(),
        }
    }
}

/// Every file and every function outside tests; of functions with one name the longest.
fn measure(sources: &[Source]) -> Vec<Measured> {
    let mut all: Vec<Measured> = Vec::new();
    for source in sources {
        all.push(Measured {
            path: source.path.clone(),
            function: None,
            line: 1,
            lines: source.shipped_line_count(),
        });
        for function in &source.functions {
            if source.is_test_at(function.span.start) {
                continue;
            }
            let measured = Measured {
                path: source.path.clone(),
                function: Some(function.name.clone()),
                line: function.line,
                lines: function.line_count,
            };
            let twin = all
                .iter_mut()
                .find(|other| other.path == measured.path && other.function == measured.function);
            match twin {
                Some(twin) if twin.lines < measured.lines => *twin = measured,
                Some(_) => {}
                None => all.push(measured),
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: &str = "[limits]\nfile_lines = 6\nfunction_lines = 3\n[normative]\nwithout_code = 5\nwithout_test = 7 # so far\n";

    fn source(lines: usize) -> Source {
        Source::new(
            "crates/a/b/src/lib.rs",
            &format!("fn a() {{\n{}}}\n", "  b();\n".repeat(lines - 2)),
        )
    }

    fn ratchet(exceptions: &str) -> (String, Ratchet) {
        let text = format!("{LIMITS}{exceptions}");
        let ratchet = Ratchet::parse(&text).expect("parses");
        (text, ratchet)
    }

    fn whats(exceptions: &str, source: Source) -> Vec<String> {
        let (_, ratchet) = ratchet(exceptions);
        ratchet.check(&[source]).into_iter().map(|found| found.what).collect()
    }

    const FUNCTION: &str = "\n[[exception]]\npath = \"crates/a/b/src/lib.rs\"\nfunction = \"a\"\nlines = 5\nreason = \"a table\"\n";

    #[test]
    fn limits_hold_for_files_and_functions() {
        assert_eq!(whats("", source(3)), Vec::<String>::new());
        assert_eq!(whats("", source(5)), ["function a has 5 lines, 3 are allowed"]);
        assert_eq!(
            whats("", source(7)),
            ["the file has 7 lines, 6 are allowed", "function a has 7 lines, 3 are allowed"]
        );
    }

    #[test]
    fn a_listed_function_passes_until_it_grows() {
        assert_eq!(whats(FUNCTION, source(5)), Vec::<String>::new());
        assert_eq!(whats(FUNCTION, source(6)), ["function a has 6 lines, 5 are allowed"]);
    }

    #[test]
    fn an_exception_that_is_too_loose_is_tightened_by_fix() {
        assert_eq!(whats(FUNCTION, source(4)), ["function a has 4 lines, its exception says 5"]);
        let (text, ratchet) = ratchet(FUNCTION);
        let tight = ratchet.tighten(&text, &[source(4)], 9, 2);
        assert_eq!(tight, text.replace("lines = 5", "lines = 4").replace("= 7 #", "= 2 #"));
        let gone = ratchet.tighten(&text, &[source(3)], 5, 7);
        assert_eq!(gone, LIMITS);
    }

    #[test]
    fn an_exception_of_nothing_is_refused() {
        let other = FUNCTION.replace("\"a\"", "\"z\"");
        assert_eq!(
            whats(&other, source(3)),
            ["an exception names crates/a/b/src/lib.rs, which is not there"]
        );
    }

    #[test]
    fn a_reason_is_required() {
        let text = format!("{LIMITS}{}", FUNCTION.replace("a table", " "));
        assert!(Ratchet::parse(&text).is_err());
    }

    #[test]
    fn tests_are_not_measured() {
        let text =
            format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "fn a() {\n\n\n\n\n\n}\n".repeat(3));
        assert_eq!(whats("", Source::new("crates/a/b/src/lib.rs", &text)), Vec::<String>::new());
    }
}
