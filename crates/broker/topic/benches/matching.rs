//! What a match costs, and a filter, for the mixes that the index is built for.
//!
//! `cargo bench -p ratatosk-topic` prints the cases of a mix and the bytes of a filter, beside a
//! yardstick. A round draws topics in random order, so caches are as in use.

use std::collections::HashMap;
use std::hint::black_box;

use ratatosk_testkit::gauge::Gauge;
use ratatosk_topic::{FilterId, FilterIndex, FilterScan, TopicFilter, TopicLimits, TopicName};

/// Topics that a round draws.
const TOPICS: u32 = 65_536;
/// Filters that are added and removed in a round.
const CHURN: u32 = 10_000;

fn main() {
    let gauge = Gauge::from_arguments();
    for count in [100_000, 1_000_000] {
        // A million filters take long to make where each instruction is counted.
        if gauge.is_counted() && count > 100_000 {
            break;
        }
        mixes(&gauge, count);
    }
    parts(&gauge);
}

fn mixes(gauge: &Gauge, count: u64) {
    yardstick(gauge, count);
    let site = |wildcards: u64| move |number| site(number, wildcards);
    let device = |number| format!("d/{number}/+/t/#");
    let both = move |number| match number % 2 {
        0 => format!("d/{number}/+/t/#"),
        _ => format!("d/{}/cmd/#", number - 1),
    };
    let site_topic = |number| self::site(number, 0);
    let device_topic = |number| format!("d/{number}/x/t/y");
    mix_of(gauge, "exact", count, &site(0), &site_topic);
    mix_of(gauge, "exact and a tenth wildcards", count, &site(10), &site_topic);
    mix_of(gauge, "d/{k}/+/t/#", count, &device, &device_topic);
    mix_of(gauge, "d/{k}/+/t/# and d/{k}/cmd/#", count, &both, &device_topic);
}

type Name<'a> = dyn Fn(u64) -> String + 'a;

/// The filter of one metric; `wildcards` percent have a level replaced, in five shapes.
fn site(number: u64, wildcards: u64) -> String {
    let (site, device, metric) = (number / 1_000, number / 10 % 100, number % 10);
    if mix(number) % 100 >= wildcards {
        return format!("site/{site}/dev/{device}/m{metric}");
    }
    match number % 5 {
        0 => format!("site/{site}/dev/{device}/+"),
        1 => format!("site/{site}/dev/{device}/#"),
        2 => format!("site/{site}/dev/+/m{metric}"),
        3 => format!("site/{site}/+/{device}/m{metric}"),
        _ => format!("site/+/dev/{device}/m{metric}"),
    }
}

/// Filters made by `filter` and topics by `topic`, both from numbers below `count`.
fn mix_of(gauge: &Gauge, mix: &str, count: u64, filter: &Name<'_>, topic: &Name<'_>) {
    let head = format!("{count} of {mix}");
    if !gauge.wants(&head) {
        return;
    }
    let resident = resident_bytes();
    let mut index = FilterIndex::new(0x5EED);
    for number in 0..count {
        index.insert(&filter(number));
    }
    let grown = resident_bytes().saturating_sub(resident);
    if !gauge.is_counted() {
        let len = index.len();
        println!("{head}: {} B a filter, {} B resident", index.memory() / len, grown / len);
    }
    let limits = TopicLimits::default();
    let topics: Vec<String> = draw(count).map(topic).collect();
    let names: Vec<TopicName<'_>> =
        topics.iter().map(|topic| TopicName::parse(topic, &limits).expect("valid")).collect();
    let mut found: Vec<FilterId> = Vec::new();
    gauge.measure(&format!("{head}: match"), TOPICS, || {
        for name in &names {
            found.clear();
            index.matches(*name, &mut found);
            black_box(&found);
        }
    });
    let extra: Vec<String> =
        (count..count + u64::from(CHURN)).map(|number| filter(number * 2)).collect();
    gauge.measure(&format!("{head}: add and remove"), CHURN, || {
        // A filter that was there stays: every round finds the same index.
        let added = extra.iter().map(|text| index.insert(text));
        let ids: Vec<FilterId> = added.filter_map(|(id, is_new)| is_new.then_some(id)).collect();
        for id in ids {
            index.remove(id);
        }
    });
}

/// What the same machine takes at the same time for a lookup in the standard map.
fn yardstick(gauge: &Gauge, count: u64) {
    let head = format!("{count} in a standard map");
    // Its hash differs from run to run: nothing for a baseline.
    if gauge.is_counted() || !gauge.wants(&head) {
        return;
    }
    let map: HashMap<String, u64> = (0..count).map(|number| (site(number, 0), number)).collect();
    let topics: Vec<String> = draw(count).map(|number| site(number, 0)).collect();
    gauge.measure(&format!("{head}: lookup"), TOPICS, || {
        for topic in &topics {
            black_box(map.get(topic));
        }
    });
}

fn parts(gauge: &Gauge) {
    let limits = TopicLimits::default();
    let topics: Vec<String> = draw(100_000).map(|number| site(number, 0)).collect();
    gauge.measure("parse a name", TOPICS, || {
        for topic in &topics {
            let _ = black_box(TopicName::parse(black_box(topic), &limits));
        }
    });
    let filter = TopicFilter::parse("site/+/dev/7/m3", &limits).expect("valid");
    let scan = FilterScan::new(filter);
    let keys: Vec<Vec<u8>> = topics.iter().map(|topic| topic.replace('/', "\0").into()).collect();
    gauge.measure("step a scan", TOPICS, || {
        for key in &keys {
            black_box(scan.step(black_box(key)));
        }
    });
}

fn draw(below: u64) -> impl Iterator<Item = u64> {
    (0..u64::from(TOPICS)).map(move |number| mix(number.wrapping_mul(7) + 1) % below)
}

fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Resident memory as Linux tells it; zero elsewhere.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|field| field.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}
