//! What three replicas in one process carry out of queues, with threads and disks: messages of 256 bytes
//! that are appended and then taken off, 256 proposals on their way at any time, for one range and for 32
//! with their leaders spread.
//!
//! `cargo bench -p ratatosk-inbox --bench replicas` prints proposals a second and their latencies;
//! `-- ROUNDS SECONDS` sets how many turns and how long each. A proposal appends a message to a session's
//! queue; each sixteenth takes off what is behind, as a client that keeps up does. The commands are written
//! out as `docs/formats/inbox.md` has them.

use std::time::Duration;

use mimalloc::MiMalloc;
use ratatosk_engine::wire::{put_bytes, put_u64};
use ratatosk_inbox::InboxCoprocessor;
use ratatosk_store::coprocessor::Factory;
use ratatosk_stores::load::{Figures, Script};
use ratatosk_stores::{Make, Stores};

/// As the broker has it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Bytes of a message's payload.
const BYTES: usize = 256;
/// Proposals on their way.
const CALLERS: usize = 256;
const STORES: u64 = 3;
const ROUNDS: u64 = 3;
const SECONDS: u64 = 4;
/// So many messages are taken off together.
const TAKEN: u64 = 16;

fn main() {
    if std::env::args().any(|word| word == "--list" || word == "--test") {
        return;
    }
    let numbers: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let rounds = numbers.first().copied().unwrap_or(ROUNDS);
    let span = Duration::from_secs(numbers.get(1).copied().unwrap_or(SECONDS));
    for groups in [1, 32] {
        for _ in 0..rounds {
            run(groups, span).print("inbox", groups);
        }
    }
}

fn run(groups: usize, span: Duration) -> Figures {
    let names: Vec<_> = (0..groups).map(|number| number.to_string()).collect();
    let keyspaces: Vec<_> = names.iter().map(|name| (name.as_str(), inboxes as Make)).collect();
    let stores = Stores::of_brokers("bench-inbox", STORES, &keyspaces);
    let led = stores.spread(&names);
    stores.saturate(&led, CALLERS, span, session)
}

fn inboxes() -> Factory {
    Box::new(|| Box::new(InboxCoprocessor::new()))
}

/// A session of its own, whose queue gets messages and whose client takes them off.
fn session(number: usize) -> Script {
    let inbox = number as u64 * 64 + number as u64 % 64;
    let (mut last, mut taken) = (0_u64, 0_u64);
    let message = message();
    Box::new(move || {
        let mut command = vec![1];
        if last - taken >= 2 * TAKEN {
            // From the first that goes, in steps of one; the position's last is so far behind them.
            command.push(7);
            put_u64(&mut command, inbox);
            put_u64(&mut command, TAKEN);
            put_u64(&mut command, taken + 1);
            (1..TAKEN).for_each(|_| put_u64(&mut command, 1));
            taken += TAKEN;
            put_u64(&mut command, last - taken);
            put_u64(&mut command, 0);
            put_u64(&mut command, 0);
        }
        last += 1;
        command.push(5);
        put_u64(&mut command, inbox);
        put_u64(&mut command, last);
        put_bytes(&mut command, &message);
        command
    })
}

/// An entry of QoS 1 with its message.
fn message() -> Vec<u8> {
    let mut entry = vec![0, 1];
    put_bytes(&mut entry, b"meters/basement/17/power");
    entry.extend([7; BYTES]);
    entry
}
