//! What groups cost that have nothing to do: three stores in one process, many ranges.
//!
//! `cargo bench -p ratatosk-store --bench idle -- RANGES SECONDS` prints the processor time and the memory
//! of a group once all are asleep, and how long it takes to wake all.

use std::time::Duration;

use ratatosk_clock::SystemClock;
use ratatosk_store::command;
use ratatosk_store::node::Handle;
use ratatosk_stores::counter::nothings;
use ratatosk_stores::{Stores, wait};

const KEYSPACE: &str = "k";
const RANGES: usize = 10_000;
const SECONDS: u64 = 10;
const STORES: u64 = 3;

fn main() {
    if std::env::args().any(|word| word == "--list" || word == "--test") {
        return;
    }
    let numbers: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let ranges = numbers.first().map_or(RANGES, |count| usize::try_from(*count).unwrap_or(RANGES));
    let span = Duration::from_secs(numbers.get(1).copied().unwrap_or(SECONDS));
    let clock = SystemClock::new();
    let stores = Stores::new("bench-idle", STORES, &[(KEYSPACE, nothings)]);
    let whole = stores.whole(KEYSPACE);
    stores.change(&whole, &[1, 2, 3]);
    let empty = resident_kib();
    let begun = clock.now();
    let handle = stores.handle(stores.leader(whole.group));
    // The left part goes on under its leader, so it is parted again from the right.
    for number in (1..ranges).rev() {
        let version = handle.ranges(KEYSPACE)[0].version;
        let order = command::split(version, format!("{number:08}").as_bytes());
        let answers = wait(|reply| handle.propose(whole.group, order, reply));
        assert!(matches!(answers, Some(Ok(_))), "{answers:?}");
    }
    println!("{ranges} ranges, made in {:.1} s", clock.now().since(begun).as_secs_f64());
    let begun = clock.now();
    let led = || stores.live().map(|(_, handle)| handle.leads().len()).sum::<usize>();
    while led() < ranges {
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("all have a leader after {:.1} s", clock.now().since(begun).as_secs_f64());
    let begun = clock.now();
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let awake = awake(&stores);
        if awake == 0 {
            break;
        }
        println!("{awake} replicas are awake");
        assert!(clock.now().since(begun) < Duration::from_mins(2), "they do not come to rest");
    }
    println!("at rest after {:.1} s", clock.now().since(begun).as_secs_f64());
    let ticks = processor_ticks_in(span);
    // A tick is a hundredth of a second.
    let percent = ticks as f64 / span.as_secs_f64();
    let bytes = 1_024.0 * (resident_kib() - empty) as f64 / (ranges as u64 * STORES) as f64;
    println!("asleep: {percent:.2} % of a core in all, {bytes:.0} bytes a replica");
    wake(&stores.live().map(|(_, handle)| handle).collect::<Vec<_>>(), clock);
}

/// How many replicas there are for which time passes.
fn awake(stores: &Stores) -> usize {
    let awake = stores.live().map(|(_, handle)| {
        let (told, tells) = std::sync::mpsc::sync_channel(1);
        handle.ask_status(Box::new(move |groups| _ = told.send(groups)));
        let groups = tells.recv().expect("it runs");
        groups.iter().filter(|status| !status.is_asleep).count()
    });
    awake.sum()
}

/// Has every range take an entry, all at once.
fn wake(handles: &[Handle], clock: SystemClock) {
    let begun = clock.now();
    let (told, tells) = std::sync::mpsc::sync_channel(1 << 20);
    let mut count = 0;
    for handle in handles {
        let leads = handle.leads();
        let ranges = handle.ranges(KEYSPACE).into_iter();
        for range in ranges.filter(|range| leads.contains(&range.group)) {
            let told = told.clone();
            let mut commands = command::Commands::new(range.version);
            commands.push(b"command");
            let reply = Box::new(move |answers: Result<Vec<_>, _>| _ = told.send(answers.is_ok()));
            handle.propose(range.group, commands.into_data(), reply);
            count += 1;
        }
    }
    drop(told);
    let carried_out = tells.into_iter().filter(|is_ok| *is_ok).count();
    let millis = clock.now().since(begun).as_millis();
    println!("woken: {carried_out} of {count} took an entry, the last one after {millis} ms");
}

/// Hundredths of a second of processor time that this process takes in a span.
fn processor_ticks_in(span: Duration) -> u64 {
    let before = processor_ticks();
    std::thread::sleep(span);
    processor_ticks() - before
}

fn processor_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    // Behind the name, which may have blanks, the twelfth and the thirteenth.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0)
}
