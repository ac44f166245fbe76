//! Nanoseconds a match and bytes a filter, for the mixes that the index is built for.
//!
//! `cargo bench -p ratatosk-topic` prints one line a mix. The best of five rounds counts: the
//! others tell of the machine, not of the code.

use std::hint::black_box;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ratatosk_topic::{FilterId, FilterIndex, FilterScan, TopicFilter, TopicLimits, TopicName};

/// Topics that a round draws from, in random order.
const TOPICS: usize = 65_536;

fn main() {
    for count in [100_000, 1_000_000] {
        let filters = |wildcards: u64| (0..count).map(move |number| site(number, wildcards));
        let topics: Vec<String> = draw(count).map(|number| site(number, 0)).collect();
        measure("exact", filters(0), &topics);
        measure("exact + 10 % wildcards", filters(10), &topics);
        let devices = (0..count).map(|number| format!("d/{number}/+/t/#"));
        let topics: Vec<String> = draw(count).map(|number| format!("d/{number}/x/t/y")).collect();
        measure("d/{k}/+/t/#", devices, &topics);
        let both = (0..count).map(|number| match number % 2 {
            0 => format!("d/{number}/+/t/#"),
            _ => format!("d/{}/cmd/#", number - 1),
        });
        measure("d/{k}/+/t/# and d/{k}/cmd/#", both, &topics);
    }
    measure_parse();
}

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

fn measure(mix: &str, filters: impl Iterator<Item = String>, topics: &[String]) {
    let limits = TopicLimits::default();
    let names: Vec<TopicName<'_>> =
        topics.iter().map(|topic| TopicName::parse(topic, &limits).expect("valid")).collect();
    let texts: Vec<String> = filters.collect();
    let resident = resident_bytes();
    let mut index = FilterIndex::new(0x5EED);
    let (_, insert_ns) = timed(texts.len(), || {
        for text in &texts {
            index.insert(text);
        }
    });
    let grown = resident_bytes().saturating_sub(resident);
    let mut found: Vec<FilterId> = Vec::new();
    let mut total = 0;
    let mut best = f64::MAX;
    for _ in 0..5 {
        let (matched, ns) = timed(names.len(), || {
            names.iter().fold(0, |matched, name| {
                found.clear();
                index.matches(*name, &mut found);
                matched + black_box(&found).len()
            })
        });
        (total, best) = (matched, best.min(ns));
    }
    let len = index.len();
    println!(
        "{mix:28} {len:8} filters  {best:6.0} ns/match  {:5.2} found  {insert_ns:5.0} ns/insert  \
         {:4} B/filter estimated  {:4} B resident",
        total as f64 / names.len() as f64,
        index.memory() / len,
        grown / len,
    );
    let ids: Vec<FilterId> = index.iter().map(|(id, _)| id).collect();
    let (_, remove_ns) = timed(len, || {
        for id in ids {
            index.remove(id);
        }
    });
    println!("{:28} {remove_ns:5.0} ns/remove, {} B left", "", index.memory());
}

fn measure_parse() {
    let limits = TopicLimits::default();
    let topics: Vec<String> = draw(100_000).map(|number| site(number, 0)).collect();
    let (_, ns) = timed(topics.len(), || {
        for topic in &topics {
            let _ = black_box(TopicName::parse(black_box(topic), &limits));
        }
    });
    println!("{:28} {ns:5.1} ns", "parse a name");
    let filter = TopicFilter::parse("site/+/dev/7/m3", &limits).expect("valid");
    let scan = FilterScan::new(filter);
    let keys: Vec<Vec<u8>> = topics.iter().map(|topic| topic.replace('/', "\0").into()).collect();
    let (_, ns) = timed(keys.len(), || {
        for key in &keys {
            black_box(scan.step(black_box(key)));
        }
    });
    println!("{:28} {ns:5.1} ns", "step a scan");
}

/// Nanoseconds of this thread's CPU time an item, so that a busy machine disturbs less.
fn timed<R>(count: usize, run: impl FnOnce() -> R) -> (R, f64) {
    let start = cpu_time();
    let result = run();
    (result, (cpu_time() - start).as_nanos() as f64 / count as f64)
}

/// As Linux accounts it; the time of the day elsewhere.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    nanoseconds.map_or_else(now, Duration::from_nanos)
}

fn draw(below: u64) -> impl Iterator<Item = u64> {
    (0..TOPICS as u64).map(move |number| mix(number.wrapping_mul(7) + 1) % below)
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
