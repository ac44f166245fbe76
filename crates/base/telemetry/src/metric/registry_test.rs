//! The rendered page, checked as promtool would check it.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use super::{Descriptor, Kind, Registry};
use crate::metric::{Buckets, SERIES_MAX};

const MESSAGES: Descriptor =
    Descriptor { name: "ratatosk_mqtt_messages_total", help: "Messages that came in." };
const CONNECTIONS: Descriptor =
    Descriptor { name: "ratatosk_mqtt_connections", help: "Open connections." };
const LATENCY: Descriptor =
    Descriptor { name: "ratatosk_mqtt_delivery_seconds", help: "From in to out." };

/// MET-014: the page has one HELP and TYPE per metric, in the format that Prometheus reads.
#[test]
fn the_page_is_prometheus_text() {
    let registry = Registry::new(10);
    registry.counters(MESSAGES, &["tenant", "qos"]).with(&["acme", "1"]).add(7);
    registry.gauge(CONNECTIONS).set(-3);
    registry.collect(
        Descriptor { name: "ratatosk_memory_limit_bytes", help: "A limit." },
        Kind::Gauge,
        &[],
        |samples| samples.push(&[], 1.5),
    );
    let expected = "\
# HELP ratatosk_memory_limit_bytes A limit.
# TYPE ratatosk_memory_limit_bytes gauge
ratatosk_memory_limit_bytes 1.5
# HELP ratatosk_mqtt_connections Open connections.
# TYPE ratatosk_mqtt_connections gauge
ratatosk_mqtt_connections -3
# HELP ratatosk_mqtt_messages_total Messages that came in.
# TYPE ratatosk_mqtt_messages_total counter
ratatosk_mqtt_messages_total{tenant=\"acme\",qos=\"1\"} 7
";
    assert_eq!(registry.render(), expected);
    lint(&registry.render());
}

#[test]
fn a_histogram_is_cumulative_and_scaled_to_its_unit() {
    let registry = Registry::new(10);
    let buckets = Buckets { bounds: &[1_000_000, 5_000_000], scale: 1e-9 };
    let histogram = registry.histogram(LATENCY, buckets);
    let cell = histogram.cell();
    for value in [0, 1_000_000, 1_000_001, 9_000_000] {
        cell.observe(value);
    }
    drop(cell);
    histogram.observe(2_000_000);
    let page = registry.render();
    let name = LATENCY.name;
    for line in [
        format!("{name}_bucket{{le=\"0.001\"}} 2"),
        format!("{name}_bucket{{le=\"0.005\"}} 4"),
        format!("{name}_bucket{{le=\"+Inf\"}} 5"),
        format!("{name}_count 5"),
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
    lint(&page);
}

#[test]
fn label_values_and_help_are_escaped() {
    let registry = Registry::new(10);
    let help = "one\\two\nthree";
    let counters = registry.counters(Descriptor { help, ..MESSAGES }, &["tenant"]);
    counters.with(&["a\"b\\c\nd"]).increment();
    let page = registry.render();
    assert!(page.contains("# HELP ratatosk_mqtt_messages_total one\\\\two\\nthree\n"), "{page}");
    assert!(page.contains("{tenant=\"a\\\"b\\\\c\\nd\"} 1\n"), "{page}");
    lint(&page);
}

#[test]
fn tenants_beyond_the_limit_are_summed_as_other_in_every_family() {
    let registry = Registry::new(2);
    let messages = registry.counters(MESSAGES, &["tenant"]);
    let connections = registry.gauges(CONNECTIONS, &["tenant"]);
    for tenant in ["a", "b", "c", "d", "a"] {
        messages.with(&[tenant]).increment();
        connections.with(&[tenant]).add(1);
    }
    registry.collect(
        Descriptor { name: "ratatosk_memory_charged_bytes", help: "h" },
        Kind::Gauge,
        &["tenant"],
        |samples| ["a", "y", "z"].iter().for_each(|tenant| samples.push(&[tenant], 2.0)),
    );
    let page = registry.render();
    for line in [
        "ratatosk_mqtt_messages_total{tenant=\"a\"} 2",
        "ratatosk_mqtt_messages_total{tenant=\"_other\"} 2",
        "ratatosk_mqtt_connections{tenant=\"b\"} 1",
        "ratatosk_mqtt_connections{tenant=\"_other\"} 2",
        "ratatosk_memory_charged_bytes{tenant=\"_other\"} 4",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
    lint(&page);
}

#[test]
fn a_family_never_holds_more_series_than_its_limit() {
    let registry = Registry::new(10);
    let counters = registry.counters(MESSAGES, &["reason"]);
    let mut reason = String::new();
    for index in 0..SERIES_MAX + 5 {
        reason.clear();
        write!(reason, "{index}").unwrap();
        counters.with(&[&reason]).increment();
    }
    let page = registry.render();
    assert!(page.contains("{reason=\"_other\"} 5\n"));
    assert_eq!(page.lines().filter(|line| !line.starts_with('#')).count(), SERIES_MAX + 1);
}

#[test]
fn a_long_label_value_is_cut() {
    let registry = Registry::new(10);
    let _ = registry.counters(MESSAGES, &["tenant"]).with(&["ä".repeat(1_000).as_str()]);
    assert!(registry.render().contains(&format!("\"{}\"", "ä".repeat(64))));
}

#[test]
fn registering_again_gives_the_same_metric() {
    let registry = Registry::new(10);
    registry.counter(MESSAGES).add(2);
    registry.counter(MESSAGES).add(3);
    assert_eq!(registry.counter(MESSAGES).value(), 5);
}

#[test]
fn names_against_the_rules_are_bugs() {
    for name in ["mqtt_messages_total", "ratatosk_messages", "ratatosk_mqtt_Messages_total"] {
        refused(move |registry| drop(registry.counter(Descriptor { name, help: "" })));
    }
    refused(|registry| {
        drop(registry.gauge(Descriptor { name: "ratatosk_mqtt_x_total", help: "" }));
    });
    refused(|registry| {
        drop(registry.gauge(Descriptor { name: "ratatosk_mqtt_x_count", help: "" }));
    });
    refused(|registry| {
        drop(registry.counter(MESSAGES));
        drop(registry.counters(MESSAGES, &["tenant"]));
    });
}

fn refused(register: impl FnOnce(&Registry) + std::panic::UnwindSafe) {
    let outcome = std::panic::catch_unwind(|| register(&Registry::new(1)));
    assert!(outcome.is_err(), "the registry took a name against the rules");
}

/// What promtool checks: samples follow their TYPE, no series twice, `_total` on counters only,
/// histograms complete and cumulative.
fn lint(page: &str) {
    let mut types: HashMap<&str, &str> = HashMap::new();
    let mut helped: HashSet<&str> = HashSet::new();
    let mut series: HashSet<&str> = HashSet::new();
    let mut buckets: HashMap<&str, f64> = HashMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(helped.insert(rest.split_once(' ').unwrap().0), "HELP twice: {line}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(helped.contains(name), "HELP comes first: {line}");
            assert!(types.insert(name, kind).is_none(), "TYPE twice: {line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            continue;
        }
        let (id, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        assert!(series.insert(id), "series twice: {line}");
        let name = id.split('{').next().unwrap();
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .filter(|base| types.get(base) == Some(&"histogram"));
        assert!(types.contains_key(base.unwrap_or(name)), "TYPE comes first: {line}");
        if let Some(base) = base.filter(|_| name.ends_with("_bucket")) {
            let below = buckets.entry(base).or_insert(0.0);
            assert!(value >= *below, "cumulative: {line}");
            *below = value;
        }
        if let Some(base) = base.filter(|_| name.ends_with("_count")) {
            assert!(value == buckets[base], "count is the last bucket: {line}");
        }
    }
}
