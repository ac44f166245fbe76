//! Pipes in front of several stores, while these come and go.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use bytes::Bytes;
use ratatosk_client::{Fate, Keyspace as _, Pipe, Poller, Router};
use ratatosk_clock::SystemClock;
use ratatosk_store::command;
use ratatosk_stores::counter::{counters, number};
use ratatosk_stores::{PATIENCE, Stores, until, version_of, wait};

const COUNTER: &str = "counter";
const KEYS: [&str; 4] = ["a", "g", "p", "z"];
/// Commands of a key on their way.
const AHEAD: usize = 20;

/// Three stores that keep one range, and a way to it.
struct Cluster {
    // Before the stores: it has handles to them.
    _poller: Poller,
    router: Router,
    pipe: Pipe,
    stores: Stores,
}

impl Cluster {
    fn new(name: &str) -> Self {
        let clock = SystemClock::new();
        let stores = Stores::new(name, 3, &[(COUNTER, counters)]);
        stores.change(&stores.whole(COUNTER), &[1, 2, 3]);
        let router = Router::new(clock);
        stores.live().for_each(|(store, handle)| router.attach(store, Arc::new(handle)));
        let pipe = Pipe::new(Box::new(router.clone()), COUNTER, clock);
        let poller = Poller::start(router.clone(), vec![pipe.clone()]).expect("a thread");
        Self { _poller: poller, router, pipe, stores }
    }

    /// Ends a store as a crash would.
    fn kill(&mut self, store: u64) {
        self.router.detach(store);
        self.stores.kill(store);
    }

    fn start(&mut self, store: u64) {
        self.stores.start(store);
        self.router.attach(store, Arc::new(self.stores.handle(store)));
    }
}

/// Parts the one range at a key.
fn split(stores: &Stores, key: &[u8]) {
    let whole = stores.whole(COUNTER);
    let handle = stores.handle(stores.leader(whole.group));
    let version = version_of(&handle, &whole).expect("it is here");
    let order = command::split(version, key);
    let answers = wait(|reply| handle.propose(whole.group, order, reply));
    assert!(matches!(answers, Some(Ok(_))), "{answers:?}");
}

/// Counts one key, many commands on their way at once.
struct Caller {
    pipe: Pipe,
    key: &'static str,
    answers: Receiver<Fate>,
    told: mpsc::SyncSender<Fate>,
    last: u64,
    in_doubt: u64,
    applied: u64,
}

impl Caller {
    fn new(pipe: &Pipe, key: &'static str) -> Self {
        let (told, answers) = mpsc::sync_channel(2 * AHEAD);
        let mut caller =
            Self { pipe: pipe.clone(), key, answers, told, last: 0, in_doubt: 0, applied: 0 };
        (0..AHEAD).for_each(|_| caller.submit());
        caller
    }

    fn submit(&mut self) {
        let told = self.told.clone();
        let done = Box::new(move |fate| told.send(fate).expect("there is room"));
        self.pipe.submit(self.key.as_bytes(), Bytes::from_static(self.key.as_bytes()), done);
    }

    /// Waits for so many answers, which come in the order of the calls.
    fn take(&mut self, count: usize) {
        for _ in 0..count {
            match self.answers.recv_timeout(PATIENCE).expect("an answer") {
                Fate::Applied(answer) => {
                    let now = number(&answer);
                    let most = self.last + 1 + self.in_doubt;
                    assert!(
                        (self.last + 1..=most).contains(&now),
                        "{}: {now} after {}, with {} in doubt",
                        self.key,
                        self.last,
                        self.in_doubt
                    );
                    self.in_doubt -= now - self.last - 1;
                    (self.last, self.applied) = (now, self.applied + 1);
                }
                // It counts for nothing.
                Fate::Refused => {}
                Fate::Unknown => self.in_doubt += 1,
            }
        }
    }

    fn run(&mut self, count: usize) {
        for _ in 0..count {
            self.take(1);
            self.submit();
        }
    }
}

/// KV-002, KV-005, KV-014: whatever becomes of ranges and stores, what is submitted for a key is carried
/// out once and in order, but for what was in doubt.
#[test]
fn commands_find_their_range_wherever_it_goes() {
    let mut cluster = Cluster::new("router");
    let whole = cluster.stores.whole(COUNTER);
    let mut callers = KEYS.map(|key| Caller::new(&cluster.pipe, key));
    let run = |callers: &mut [Caller; 4]| callers.iter_mut().for_each(|caller| caller.run(60));
    run(&mut callers);
    // It is led by others in turn.
    for to in [2, 3, 1] {
        cluster.stores.transfer(whole.group, to);
        run(&mut callers);
    }
    // It is parted.
    split(&cluster.stores, b"m");
    run(&mut callers);
    let right = cluster.stores.handle(1).ranges(COUNTER).remove(1);
    cluster.stores.transfer(right.group, 2);
    run(&mut callers);
    assert!(callers.iter().all(|caller| caller.in_doubt == 0), "no store went down yet");
    // Each goes down once and comes back.
    for store in 1..=3 {
        cluster.kill(store);
        run(&mut callers);
        cluster.start(store);
        run(&mut callers);
    }
    // The parts become one.
    until("they join", || {
        let leader = cluster.stores.leader_now(right.group);
        if let Some(leader) = leader.map(|store| cluster.stores.handle(store))
            && let Some(version) = version_of(&leader, &right)
        {
            // It may not be possible yet.
            let _ = wait(|reply| leader.merge(right.group, version, reply));
        }
        let all = cluster.stores.live().all(|(_, handle)| handle.ranges(COUNTER).len() == 1);
        all.then_some(())
    });
    run(&mut callers);
    callers.iter_mut().for_each(|caller| caller.take(AHEAD));
    let found = cluster.stores.settle(COUNTER);
    for (caller, (key, value)) in callers.iter().zip(found) {
        assert_eq!(caller.key, key);
        let range = caller.last..=caller.last + caller.in_doubt;
        assert!(range.contains(&value), "{key} is {value}, and was {range:?}");
    }
}

/// KV-009: whoever asks after an acknowledgement sees it, through the split of the range and the loss of its
/// leader.
#[test]
fn an_answer_shows_all_that_was_acknowledged_before_it_was_asked_for() {
    let mut cluster = Cluster::new("router-questions");
    let other = Pipe::new(Box::new(cluster.router.clone()), COUNTER, SystemClock::new());
    let _poller = Poller::start(cluster.router.clone(), vec![other.clone()]).expect("a thread");
    let mut counted = 0;
    let mut count_and_ask = |pipe: &Pipe, times: usize| {
        for _ in 0..times {
            let (told, tells) = mpsc::sync_channel(1);
            let done = Box::new(move |fate| told.send(fate).expect("the test waits"));
            pipe.submit(b"p", Bytes::from_static(b"p"), done);
            if let Fate::Applied(answer) = tells.recv_timeout(PATIENCE).expect("an answer") {
                counted = number(&answer);
            }
            let (told, tells) = mpsc::sync_channel(1);
            let told = Box::new(move |answer| told.send(answer).expect("the test waits"));
            other.ask(b"p", Bytes::from_static(b"p"), told);
            let answer = tells.recv_timeout(PATIENCE).expect("an answer").expect("in time");
            assert!(number(&answer) >= counted, "{} after {counted}", number(&answer));
        }
    };
    count_and_ask(&cluster.pipe, 20);
    let whole = cluster.stores.whole(COUNTER);
    split(&cluster.stores, b"m");
    count_and_ask(&cluster.pipe, 20);
    let leader = cluster.stores.leader(whole.group);
    cluster.kill(leader);
    count_and_ask(&cluster.pipe, 20);
    cluster.start(leader);
    count_and_ask(&cluster.pipe, 20);
}
