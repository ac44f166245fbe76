//! The result of a run, as a table or as JSON.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::machine::assertion::Outcome;
use crate::machine::figure::{self, Figures};

/// What a run found out.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Name of the scenario, with its phase if it has phases.
    pub scenario: String,
    /// What the scenario does.
    pub title: String,
    /// Host and port.
    pub target: String,
    /// The measured values.
    pub figures: Figures,
    /// What was odd, for people.
    pub notes: Vec<String>,
    /// Why the run counts as failed, whatever the figures.
    pub failure: Option<String>,
}

impl Report {
    /// The report for people.
    pub(crate) fn to_table(&self) -> String {
        let mut text = format!("{}  {}\ntarget {}\n", self.scenario, self.title, self.target);
        for (name, unit, value) in self.figures.iter() {
            let value = figure::display(unit, value);
            text.push_str(&format!("  {name:<24}{value:>20}\n"));
        }
        for note in &self.notes {
            text.push_str(&format!("  note: {note}\n"));
        }
        if let Some(failure) = &self.failure {
            text.push_str(&format!("  FAILED: {failure}\n"));
        }
        text
    }

    /// The report for programs.
    pub(crate) fn to_json(&self, outcomes: &[Outcome]) -> Value {
        let figures: Map<String, Value> = self
            .figures
            .iter()
            .map(|(name, unit, value)| (figure::json_key(name, unit), number(value)))
            .collect();
        let assertions: Vec<Value> = outcomes
            .iter()
            .map(|one| json!({"assertion": one.text, "actual": one.actual, "holds": one.holds}))
            .collect();
        json!({
            "scenario": self.scenario,
            "title": self.title,
            "target": self.target,
            "figures": figures,
            "notes": self.notes,
            "failure": self.failure,
            "assertions": assertions,
        })
    }
}

/// Prints to standard output; a reader that has gone away is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A whole number where it is one.
pub(crate) fn number(value: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
    if value.fract() == 0.0 && value.abs() < 9e15 { json!(value as i64) } else { json!(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_units_in_its_keys() {
        let mut report = Report { scenario: "S1".to_owned(), ..Report::default() };
        report.figures.set("p99", 1500.0);
        report.figures.set("rate", 2.5);
        report.figures.set("rss", 4096.0);
        let outcome =
            Outcome { text: "p99<1us".to_owned(), actual: "1.50 µs".to_owned(), holds: false };
        let json = report.to_json(&[outcome]);
        assert_eq!(json["figures"]["p99_ns"], 1500);
        assert_eq!(json["figures"]["rate_per_s"], 2.5);
        assert_eq!(json["figures"]["rss_bytes"], 4096);
        assert_eq!(json["assertions"][0]["holds"], false);
        assert_eq!(json["failure"], Value::Null);
    }

    #[test]
    fn table_shows_figures_notes_and_failure() {
        let mut report = Report { scenario: "S1".to_owned(), ..Report::default() };
        report.figures.set("loss", 3.0);
        report.notes.push("odd".to_owned());
        report.failure = Some("gone".to_owned());
        let table = report.to_table();
        assert!(table.contains("loss                                       3"), "{table}");
        assert!(table.contains("note: odd"), "{table}");
        assert!(table.contains("FAILED: gone"), "{table}");
    }
}
