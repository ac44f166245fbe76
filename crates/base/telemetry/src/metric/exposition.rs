//! The Prometheus text format, version 0.0.4: escaping and sample lines.

use std::fmt::{Display, Write as _};

/// The `Content-Type` of a rendered page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes the samples of one metric.
pub struct Page<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl<'a> Page<'a> {
    /// Opens a metric with its `HELP` and `TYPE` lines.
    pub(super) fn open(
        out: &'a mut String,
        name: &'static str,
        help: &str,
        kind: &'static str,
    ) -> Self {
        out.push_str("# HELP ");
        out.push_str(name);
        out.push(' ');
        escape(out, help, false);
        out.push_str("\n# TYPE ");
        out.push_str(name);
        out.push(' ');
        out.push_str(kind);
        out.push('\n');
        Self { out, name }
    }

    pub(super) fn integer(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        value: impl Into<i128>,
    ) {
        self.sample(suffix, labels, value.into());
    }

    pub(super) fn float(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        if value.is_nan() {
            return self.sample(suffix, labels, "NaN");
        }
        if value.is_infinite() {
            return self.sample(suffix, labels, if value > 0.0 { "+Inf" } else { "-Inf" });
        }
        self.sample(suffix, labels, value);
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        for (index, (name, value)) in labels.iter().enumerate() {
            self.out.push(if index == 0 { '{' } else { ',' });
            self.out.push_str(name);
            self.out.push_str("=\"");
            escape(self.out, value, true);
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, " {value}");
    }
}

fn escape(out: &mut String, text: &str, quotes: bool) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}
