//! Nanoseconds a match and bytes a filter, for the mixes that the index is built for.
//!
//! `cargo bench -p ratatosk-topic` prints two lines a mix, beside a yardstick.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

use ratatosk_topic::{FilterId, FilterIndex, FilterScan, TopicFilter, TopicLimits, TopicName};

/// Topics that a round draws from, in random order.
const TOPICS: usize = 65_536;

/// Items that are timed together.
const PIECE: usize = 512;
const ROUNDS: usize = 20;

fn main() {
    for count in [100_000, 1_000_000] {
        let filters = |wildcards: u64| (0..count).map(move |number| site(number, wildcards));
        let topics: Vec<String> = draw(count).map(|number| site(number, 0)).collect();
        measure_yardstick(count, &topics);
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
    measure_parts();
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
    let best = best_of_rounds(&names, |name| {
        found.clear();
        index.matches(*name, &mut found);
        total += black_box(&found).len();
    });
    let total = total / ROUNDS;
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

/// What the same machine takes at the same time for a lookup in the standard map.
fn measure_yardstick(count: u64, topics: &[String]) {
    let map: HashMap<String, u64> = (0..count).map(|number| (site(number, 0), number)).collect();
    let ns = best_of_rounds(topics, |topic| {
        black_box(map.get(topic));
    });
    println!("{:28} {count:8} topics   {ns:6.0} ns/lookup", "std HashMap, for comparison");
}

fn measure_parts() {
    let limits = TopicLimits::default();
    let topics: Vec<String> = draw(100_000).map(|number| site(number, 0)).collect();
    let ns = best_of_rounds(&topics, |topic| {
        let _ = black_box(TopicName::parse(black_box(topic), &limits));
    });
    println!("{:28} {ns:5.1} ns", "parse a name");
    let filter = TopicFilter::parse("site/+/dev/7/m3", &limits).expect("valid");
    let scan = FilterScan::new(filter);
    let keys: Vec<Vec<u8>> = topics.iter().map(|topic| topic.replace('/', "\0").into()).collect();
    let ns = best_of_rounds(&keys, |key| {
        black_box(scan.step(black_box(key)));
    });
    println!("{:28} {ns:5.1} ns", "step a scan");
}

/// Nanoseconds an item. All items are done in each round, so caches are as in use; of each small
/// piece the best round counts, which another process hardly disturbs.
fn best_of_rounds<T>(items: &[T], mut run: impl FnMut(&T)) -> f64 {
    let mut best = vec![f64::MAX; items.len().div_ceil(PIECE)];
    for _ in 0..ROUNDS {
        for (piece, best) in items.chunks(PIECE).zip(&mut best) {
            let ((), ns) = timed(1, || piece.iter().for_each(&mut run));
            *best = best.min(ns);
        }
    }
    best.iter().sum::<f64>() / items.len() as f64
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn timed<R>(count: usize, run: impl FnOnce() -> R) -> (R, f64) {
    let start = Instant::now();
    let result = run();
    (result, start.elapsed().as_nanos() as f64 / count as f64)
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
