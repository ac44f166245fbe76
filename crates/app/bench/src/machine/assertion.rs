//! The verdict: `p99<20ms,loss=0,rate>100k`.
//!
//! Every assertion names a figure, a comparison and a value with the unit that fits the figure. A
//! figure that the run did not measure violates its assertion: silence is not success.

use crate::machine::figure::{self, Figures, NAMES, Unit};

/// Why an assertion could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    /// No comparison sign.
    #[error("assertion {0:?} has no comparison: write name<value, <=, >, >=, = or !=")]
    Comparison(String),
    /// The name is not that of a figure.
    #[error("assertion {text:?} names the unknown figure {name:?}; known are {known}")]
    Name {
        /// The assertion.
        text: String,
        /// What stands before the comparison.
        name: String,
        /// All names.
        known: String,
    },
    /// The value is not a number.
    #[error("assertion {text:?} compares with {value:?}, which is not a number with a unit")]
    Value {
        /// The assertion.
        text: String,
        /// What stands behind the comparison.
        value: String,
    },
    /// The unit does not fit the figure.
    #[error("assertion {text:?} has the unit {unit:?}, but {name} takes {allowed}")]
    Unit {
        /// The assertion.
        text: String,
        /// The name of the figure.
        name: &'static str,
        /// What stands behind the number.
        unit: String,
        /// What may stand there.
        allowed: &'static str,
    },
}

/// How the actual value is compared with the demanded one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Below,
    AtMost,
    Above,
    AtLeast,
    Equal,
    Different,
}

/// One demand.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Assertion {
    text: String,
    name: &'static str,
    comparison: Comparison,
    value: f64,
}

/// What became of an assertion.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// The assertion as it was written.
    pub(crate) text: String,
    /// The measured value as people read it.
    pub(crate) actual: String,
    /// Whether it holds.
    pub(crate) holds: bool,
}

/// The longest signs first, so that `<=` is not read as `<`.
const SIGNS: &[(&str, Comparison)] = &[
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("!=", Comparison::Different),
    ("==", Comparison::Equal),
    ("<", Comparison::Below),
    (">", Comparison::Above),
    ("=", Comparison::Equal),
];

/// Reads a list of assertions that are separated by commas.
pub(crate) fn parse_list(text: &str) -> Result<Vec<Assertion>, ParseError> {
    text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(parse).collect()
}

fn parse(text: &str) -> Result<Assertion, ParseError> {
    let at =
        text.find(['<', '>', '=', '!']).ok_or_else(|| ParseError::Comparison(text.to_owned()))?;
    let (name, rest) = text.split_at(at);
    let (sign, comparison) = SIGNS
        .iter()
        .find(|(sign, _)| rest.starts_with(sign))
        .ok_or_else(|| ParseError::Comparison(text.to_owned()))?;
    let (name, unit) = known_name(name.trim()).ok_or_else(|| ParseError::Name {
        text: text.to_owned(),
        name: name.trim().to_owned(),
        known: NAMES.iter().map(|(name, _, _)| *name).collect::<Vec<_>>().join(", "),
    })?;
    let value = rest[sign.len()..].trim();
    let (name, value) = parse_value(text, name, unit, value)?;
    Ok(Assertion { text: text.to_owned(), name, comparison: *comparison, value })
}

fn known_name(name: &str) -> Option<(&'static str, Unit)> {
    let name = match name {
        "p99.9" => "p999",
        "order" => "out_of_order",
        _ => name,
    };
    NAMES.iter().find(|(known, _, _)| *known == name).map(|&(name, unit, _)| (name, unit))
}

/// The number in base units; a share of `loss` turns the figure into `loss_ratio`.
fn parse_value(
    text: &str,
    name: &'static str,
    unit: Unit,
    value: &str,
) -> Result<(&'static str, f64), ParseError> {
    let end = value.find(|one: char| !matches!(one, '0'..='9' | '.' | '-')).unwrap_or(value.len());
    let (number, suffix) = value.split_at(end);
    let number: f64 = number
        .parse()
        .map_err(|_| ParseError::Value { text: text.to_owned(), value: value.to_owned() })?;
    let suffix = suffix.trim();
    if name == "loss" && suffix == "%" {
        return Ok(("loss_ratio", number / 100.0));
    }
    let (factor, allowed) = match unit {
        Unit::Count => (decimal(suffix), "nothing, k, M or G"),
        Unit::Rate => (decimal(suffix.trim_end_matches("/s")), "nothing, k, M or G, each with /s"),
        Unit::Time => (time(suffix), "ns, us, µs, ms or s"),
        Unit::Bytes => (binary(suffix), "B, KiB, MiB or GiB"),
        Unit::Ratio => (share(suffix), "nothing or %"),
    };
    let factor = factor.ok_or_else(|| ParseError::Unit {
        text: text.to_owned(),
        name,
        unit: suffix.to_owned(),
        allowed,
    })?;
    Ok((name, number * factor))
}

fn decimal(suffix: &str) -> Option<f64> {
    match suffix {
        "" => Some(1.0),
        "k" => Some(1e3),
        "M" => Some(1e6),
        "G" => Some(1e9),
        _ => None,
    }
}

fn time(suffix: &str) -> Option<f64> {
    match suffix {
        "ns" => Some(1.0),
        "us" | "µs" => Some(1e3),
        "ms" => Some(1e6),
        "s" => Some(1e9),
        _ => None,
    }
}

fn binary(suffix: &str) -> Option<f64> {
    match suffix {
        "B" => Some(1.0),
        "KiB" => Some(1024.0),
        "MiB" => Some(1_048_576.0),
        "GiB" => Some(1_073_741_824.0),
        _ => None,
    }
}

fn share(suffix: &str) -> Option<f64> {
    match suffix {
        "" => Some(1.0),
        "%" => Some(0.01),
        _ => None,
    }
}

impl Assertion {
    /// Judges `figures`.
    pub(crate) fn judge(&self, figures: &Figures) -> Outcome {
        let Some(actual) = figures.value(self.name) else {
            let actual = "not measured".to_owned();
            return Outcome { text: self.text.clone(), actual, holds: false };
        };
        #[expect(clippy::float_cmp, reason = "equality is asked for by name, mostly of counts")]
        let holds = match self.comparison {
            Comparison::Below => actual < self.value,
            Comparison::AtMost => actual <= self.value,
            Comparison::Above => actual > self.value,
            Comparison::AtLeast => actual >= self.value,
            Comparison::Equal => actual == self.value,
            Comparison::Different => actual != self.value,
        };
        let unit = figure::unit_of(self.name).unwrap_or(Unit::Count);
        Outcome { text: self.text.clone(), actual: figure::display(unit, actual), holds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let mut figures = Figures::default();
        for (name, value) in [
            ("p99", 19_500_000.0),
            ("loss", 0.0),
            ("loss_ratio", 0.0),
            ("rate", 120_000.0),
            ("rss", 12.0 * 1_048_576.0),
        ] {
            figures.set(name, value);
        }
        figures
    }

    fn check(text: &str, expected: &[bool]) {
        let outcomes: Vec<bool> =
            parse_list(text).unwrap().iter().map(|one| one.judge(&figures()).holds).collect();
        assert_eq!(outcomes, expected, "{text}");
    }

    #[test]
    fn assertions_are_judged_with_their_units() {
        check("p99<20ms,loss=0,rate>100k", &[true, true, true]);
        check("p99 < 19.5ms, p99 <= 19.5 ms", &[false, true]);
        check("p99<20us", &[false]);
        check("p99<1s", &[true]);
        check("rate>=120k,rate>0.12M,rate!=1,rate>100k/s", &[true, false, true, true]);
        check("loss==0,loss<0.1%,loss>0", &[true, true, false]);
        check("rss<=12MiB,rss<1GiB", &[true, true]);
        check("", &[]);
    }

    #[test]
    fn figure_that_was_not_measured_violates() {
        let outcome = parse_list("dup=0").unwrap()[0].judge(&figures());
        assert!(!outcome.holds);
        assert_eq!(outcome.actual, "not measured");
    }

    #[test]
    fn outcome_tells_the_actual_value() {
        let outcome = parse_list("p99<1ms").unwrap()[0].judge(&figures());
        assert_eq!((outcome.actual.as_str(), outcome.holds), ("19.50 ms", false));
    }

    #[test]
    fn mistakes_are_named() {
        let message = |text: &str| parse_list(text).unwrap_err().to_string();
        assert_eq!(
            message("p99"),
            "assertion \"p99\" has no comparison: write name<value, <=, >, >=, = or !="
        );
        assert!(message("loss!0").contains("has no comparison"));
        assert!(message("latency<1ms").contains("unknown figure \"latency\"; known are rate"));
        assert!(message("p99<fast").contains("\"fast\", which is not a number"));
        assert_eq!(
            message("p99<20"),
            "assertion \"p99<20\" has the unit \"\", but p99 takes ns, us, µs, ms or s"
        );
        assert!(message("rate>100ms").contains("but rate takes nothing, k, M or G"));
    }
}
