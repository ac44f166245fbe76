//! What three replicas in one process carry out, with threads and disks: proposals of 256 bytes, 256 on
//! their way at any time, for one group and for 32 with their leaders spread.
//!
//! `cargo bench -p ratatosk-store --bench replicas` prints proposals a second and their latencies, in
//! turns with a yardstick that does nothing but consensus (`yardstick`). `-- ROUNDS SECONDS` sets how many
//! turns and how long each.

mod yardstick;

use std::time::Duration;

use mimalloc::MiMalloc;
use ratatosk_stores::counter::nothings;
use ratatosk_stores::load::Figures;
use ratatosk_stores::{Make, Stores};
use ratatosk_testkit::scratch::Scratch;

/// As the broker has it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Bytes of a proposal.
const BYTES: usize = 256;
/// Proposals on their way.
const CALLERS: usize = 256;
const STORES: usize = 3;
const ROUNDS: u64 = 3;
const SECONDS: u64 = 4;

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    if std::env::args().any(|word| word == "--list" || word == "--test") {
        return;
    }
    let rounds = numbers.first().copied().unwrap_or(ROUNDS);
    let span = Duration::from_secs(numbers.get(1).copied().unwrap_or(SECONDS));
    for groups in [1, 32] {
        for _ in 0..rounds {
            let scratch = Scratch::new("bench-yardstick");
            let yardstick = yardstick::run(scratch.path(), groups, span);
            yardstick.print("yardstick", groups);
            let store = run(groups, span);
            store.print("store", groups);
            println!("{:.0} % of the yardstick", 100.0 * store.per_second / yardstick.per_second);
        }
    }
}

fn run(groups: usize, span: Duration) -> Figures {
    let names: Vec<_> = (0..groups).map(|number| number.to_string()).collect();
    let keyspaces: Vec<_> = names.iter().map(|name| (name.as_str(), nothings as Make)).collect();
    let stores = Stores::new("bench-store", STORES as u64, &keyspaces);
    let led = stores.spread(&names);
    stores.saturate(&led, CALLERS, span, |_| Box::new(|| vec![7; BYTES]))
}
