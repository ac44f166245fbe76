//! How long writing stands still when a leader goes down: three stores in one process, one range, callers
//! at work all the time.
//!
//! `cargo bench -p ratatosk-client --bench failover -- ROUNDS` kills the leader so many times, as a crash
//! would, and prints how long it took until something was carried out that was submitted after it.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_client::{Fate, Keyspace as _, Pipe, Poller, Router};
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_stores::counter::counters;
use ratatosk_stores::{PATIENCE, Stores, until};

const KEYSPACE: &str = "k";
const ROUNDS: usize = 100;

fn main() {
    if std::env::args().any(|word| word == "--list" || word == "--test") {
        return;
    }
    let rounds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(ROUNDS);
    let clock = SystemClock::new();
    let mut stores = Stores::new("bench-failover", 3, &[(KEYSPACE, counters)]);
    let whole = stores.whole(KEYSPACE);
    stores.change(&whole, &[1, 2, 3]);
    let router = Router::new(clock);
    stores.live().for_each(|(store, handle)| router.attach(store, Arc::new(handle)));
    let pipe = Pipe::new(Box::new(router.clone()), KEYSPACE, clock);
    let _poller = Poller::start(router.clone(), vec![pipe.clone()]).expect("a thread");
    let mut millis: Vec<u64> = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        written_after(&pipe, clock);
        let leader = stores.leader(whole.group);
        router.detach(leader);
        let died = clock.now();
        stores.kill(leader);
        let span = written_after(&pipe, clock).since(died);
        millis.push(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        stores.start(leader);
        router.attach(leader, Arc::new(stores.handle(leader)));
        let _ = stores.settle(KEYSPACE);
        // The one who came back votes again.
        until("all are there", || (stores.live().count() == 3).then_some(()));
        std::thread::sleep(Duration::from_millis(500));
    }
    millis.sort_unstable();
    let of = |per_mille: usize| {
        millis.get(millis.len() * per_mille / 1_000).or(millis.last()).copied().unwrap_or(0)
    };
    let (middle, most, worst) = (of(500), of(990), of(1_000));
    println!("{rounds} leaders killed: p50 {middle} ms, p99 {most} ms, at most {worst} ms");
}

/// When something was carried out that was submitted after this was called.
fn written_after(pipe: &Pipe, clock: SystemClock) -> Instant {
    loop {
        let (told, tells) = mpsc::sync_channel(1);
        // Whoever asked waits no longer then.
        let done = Box::new(move |fate| drop(told.send(fate)));
        pipe.submit(b"key", Bytes::from_static(b"key"), done);
        if let Ok(Fate::Applied(_)) = tells.recv_timeout(PATIENCE) {
            return clock.now();
        }
    }
}
