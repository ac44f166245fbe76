//! Measured values by name: one table for printing, JSON, assertions and comparison.
//!
//! A figure that was not measured is absent, never zero.

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Things per second (of wall or of CPU time).
    Rate,
    /// Nanoseconds.
    Time,
    /// Bytes.
    Bytes,
    /// A share or number of cores.
    Ratio,
}

/// The kinds of figure: name, unit, meaning. The order is that of the tables.
pub(crate) const NAMES: &[(&str, Unit, &str)] = &[
    ("rate", Unit::Rate, "deliveries per second"),
    ("sent_rate", Unit::Rate, "messages sent per second"),
    ("deliveries_per_cpu_s", Unit::Rate, "deliveries per CPU-second of the broker"),
    ("cpu_per_message", Unit::Time, "CPU time of the broker per delivery"),
    ("broker_cores", Unit::Ratio, "cores that the broker used"),
    ("load_cores", Unit::Ratio, "cores that the generator used"),
    ("p50", Unit::Time, "latency, median"),
    ("p90", Unit::Time, "latency"),
    ("p99", Unit::Time, "latency"),
    ("p999", Unit::Time, "latency, 99.9 %"),
    ("max", Unit::Time, "latency, worst"),
    ("rss_before", Unit::Bytes, "resident memory of the broker before the load"),
    ("rss", Unit::Bytes, "resident memory of the broker under load"),
    ("sent", Unit::Count, "messages sent, warm-up included"),
    ("acked", Unit::Count, "messages acknowledged"),
    ("expected", Unit::Count, "deliveries that should have come"),
    ("received", Unit::Count, "distinct deliveries"),
    ("loss", Unit::Count, "deliveries that never came"),
    ("loss_ratio", Unit::Ratio, "loss by expected"),
    ("dup", Unit::Count, "deliveries that came again"),
    ("out_of_order", Unit::Count, "deliveries after a later one of the same stream"),
    ("misrouted", Unit::Count, "deliveries to the wrong subscriber"),
    ("foreign", Unit::Count, "deliveries of other clients or runs"),
    ("refused", Unit::Count, "messages refused by a reason code"),
    ("stalls", Unit::Count, "times a window was given up that had stood still for three seconds"),
    ("closed", Unit::Count, "connections closed by the broker"),
    ("connections", Unit::Count, "connections accepted"),
    ("connects_rate", Unit::Rate, "connections accepted per second"),
    ("cpu_per_connect", Unit::Time, "CPU time of the broker per connection"),
    ("bytes_per_connection", Unit::Bytes, "resident memory per connection"),
    ("subscribed", Unit::Count, "filters accepted"),
    ("subscribes_refused", Unit::Count, "filters refused"),
    ("subscribes_rate", Unit::Rate, "filters accepted per second"),
    ("cpu_per_subscribe", Unit::Time, "CPU time of the broker per filter"),
    ("bytes_per_subscription", Unit::Bytes, "resident memory per filter"),
    ("bytes_per_subscribed", Unit::Bytes, "resident memory per connection with its subscription"),
    ("idle_cores", Unit::Ratio, "cores that the broker used while idle"),
    ("acked_rate", Unit::Rate, "messages acknowledged per second"),
    ("cpu_per_store", Unit::Time, "CPU time of the broker per message stored"),
    ("bytes_per_stored", Unit::Bytes, "resident memory per message stored"),
    ("sessions_present", Unit::Count, "sessions that the broker had kept"),
    ("read_rate", Unit::Rate, "stored messages delivered per second"),
    ("read_time", Unit::Time, "time until the last stored message"),
    ("cpu_per_read", Unit::Time, "CPU time of the broker per stored message delivered"),
    ("sessions_rate", Unit::Rate, "sessions made, subscribed and left per second"),
    ("publish_time", Unit::Time, "time from the first message sent to the last acknowledged"),
    ("connects_time", Unit::Time, "time until the last connection was accepted"),
    ("serving_time", Unit::Time, "time from starting the broker until it accepted a connection"),
    ("p99_first", Unit::Time, "latency, 99 %, in the first sixth of the run"),
    ("p99_last", Unit::Time, "latency, 99 %, in the last sixth of the run"),
    ("rss_first", Unit::Bytes, "resident memory of the broker after the first sixth of the run"),
    ("rss_after", Unit::Bytes, "resident memory of the broker some seconds after the load"),
    ("rounds", Unit::Count, "times that all sessions came and went"),
    ("disk_bytes_per_user_byte", Unit::Ratio, "bytes written to disk per byte of payload"),
    ("disk_written", Unit::Bytes, "bytes that the broker's process wrote to disk"),
    ("disk_cancelled", Unit::Bytes, "bytes of those that were deleted before they were written"),
    ("disk_used_before", Unit::Bytes, "blocks of the broker's directory before the load"),
    ("disk_used_first", Unit::Bytes, "blocks of the directory after the first sixth of the run"),
    ("disk_used_max", Unit::Bytes, "the most that the broker's directory took"),
    ("disk_used", Unit::Bytes, "blocks of the broker's directory after the load"),
    ("disk_per_message", Unit::Bytes, "growth of the directory per message"),
    ("disk_per_copy", Unit::Bytes, "growth of the directory per message and session"),
    ("live_bytes", Unit::Bytes, "bytes of payload that the broker still has to keep"),
    ("sessions_left", Unit::Count, "sessions that were there although they had ended"),
    ("retained_left", Unit::Count, "retained messages that came although they were cleared"),
    ("start_time", Unit::Time, "time from starting the broker until its port answered"),
];

/// The unit of the figure `name`.
pub(crate) fn unit_of(name: &str) -> Option<Unit> {
    NAMES.iter().find(|(known, _, _)| *known == name).map(|(_, unit, _)| *unit)
}

/// The figures of one run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    values: Vec<(&'static str, f64)>,
}

impl Figures {
    /// Sets `name`, which is one of [`NAMES`]; a value that is not finite is left out.
    pub(crate) fn set(&mut self, name: &'static str, value: f64) {
        assert!(unit_of(name).is_some(), "no figure is called {name}");
        if !value.is_finite() {
            return;
        }
        match self.values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.values.push((name, value)),
        }
    }

    /// Sets a count.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub(crate) fn set_count(&mut self, name: &'static str, count: u64) {
        self.set(name, count as f64);
    }

    /// Sets `amount / per`, unless `per` is zero.
    pub(crate) fn set_ratio(&mut self, name: &'static str, amount: f64, per: f64) {
        if per > 0.0 {
            self.set(name, amount / per);
        }
    }

    /// The value of `name`, if it was measured.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// Names, units and values in the order in which they are printed.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Unit, f64)> {
        NAMES
            .iter()
            .filter_map(|&(name, unit, _)| self.value(name).map(|value| (name, unit, value)))
    }
}

/// A value as people read it.
pub(crate) fn display(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Count => grouped(value),
        Unit::Rate => format!("{}/s", grouped(value)),
        Unit::Time => match value {
            _ if value < 1e3 => format!("{value:.0} ns"),
            _ if value < 1e6 => format!("{:.2} µs", value / 1e3),
            _ if value < 1e9 => format!("{:.2} ms", value / 1e6),
            _ => format!("{:.3} s", value / 1e9),
        },
        Unit::Bytes => match value.abs() {
            size if size < 1024.0 => format!("{value:.0} B"),
            size if size < 1_048_576.0 => format!("{:.1} KiB", value / 1024.0),
            _ => format!("{:.1} MiB", value / 1_048_576.0),
        },
        Unit::Ratio => format!("{value:.3}"),
    }
}

/// The key of a figure in JSON: the unit is in the name.
pub(crate) fn json_key(name: &str, unit: Unit) -> String {
    match unit {
        Unit::Time => format!("{name}_ns"),
        Unit::Bytes if !name.starts_with("bytes_") => format!("{name}_bytes"),
        Unit::Rate if !name.ends_with("_s") => format!("{name}_per_s"),
        _ => name.to_owned(),
    }
}

/// A whole number with thin groups: `1 234 567`.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    if value < 0.0 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_with_their_units() {
        let check = |unit, value, expected: &str| assert_eq!(display(unit, value), expected);
        check(Unit::Count, 1_234_567.0, "1 234 567");
        check(Unit::Count, 12.0, "12");
        check(Unit::Rate, 100_000.4, "100 000/s");
        check(Unit::Time, 950.0, "950 ns");
        check(Unit::Time, 58_123.0, "58.12 µs");
        check(Unit::Time, 63_000_000.0, "63.00 ms");
        check(Unit::Bytes, 1740.8, "1.7 KiB");
        check(Unit::Ratio, 0.5, "0.500");
    }

    #[test]
    fn figure_that_was_not_measured_is_absent() {
        let mut figures = Figures::default();
        figures.set_ratio("cpu_per_message", 5.0, 0.0);
        assert_eq!(figures.value("cpu_per_message"), None);
        figures.set("rate", 1.0);
        figures.set("rate", 2.0);
        assert_eq!(figures.iter().collect::<Vec<_>>(), [("rate", Unit::Rate, 2.0)]);
    }

    #[test]
    fn names_are_unique() {
        for (index, (name, _, _)) in NAMES.iter().enumerate() {
            assert!(NAMES[..index].iter().all(|(other, _, _)| other != name), "{name} twice");
        }
    }
}
