//! Shared groups whose members were all away: what came meanwhile waits for nobody in particular.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use ratatosk_client::held::HeldKeyspace;
use ratatosk_codec::ReasonCode;
use ratatosk_conformance::{Broker, Client, Connector, Event, PATIENCE, Setup};
use ratatosk_inbox::InboxCoprocessor;

use crate::cases::{Case, QOS1, QOS2, assert_quiet};

const FILTERS: [&str; 2] = ["$share/g/t", "$oshare/g/t"];
const COUNT: u32 = 100;

/// They subscribe, and leave.
fn leave_behind(members: &[Connector], filter: &str) {
    let clients: Vec<Client> = members
        .iter()
        .map(|connector| {
            let mut client = connector.connect();
            assert!(!client.subscribe(filter, QOS2).is_error());
            client
        })
        .collect();
    for client in clients {
        client.disconnect(ReasonCode::Success);
    }
}

fn publish_all(publisher: &mut Client) {
    for number in 0..COUNT {
        assert_eq!(publisher.deliver("t", number.to_string(), QOS1), ReasonCode::Success);
    }
}

/// What the clients get until they have all of it together, acknowledged.
fn collect(clients: &mut [Client]) -> Vec<Vec<u32>> {
    let end = std::time::Instant::now() + PATIENCE;
    let mut got = vec![Vec::new(); clients.len()];
    while got.iter().map(Vec::len).sum::<usize>() < COUNT as usize {
        assert!(std::time::Instant::now() < end, "no more than {got:?}");
        for (client, got) in clients.iter_mut().zip(&mut got) {
            while client.has_more() {
                got.push(client.message().text().parse().expect("a number"));
            }
        }
        std::thread::yield_now();
    }
    got
}

fn assert_each_once(got: Vec<Vec<u32>>, name: &str) {
    let mut all: Vec<u32> = got.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (0..COUNT).collect::<Vec<_>>(), "{name}");
}

/// MQTT-087, DIST-011: whoever comes back first gets what waits for the others, too; of one
/// publisher of an ordered group in its order.
#[test]
fn one_member_that_comes_back_gets_all_that_waits() {
    for case in Case::all(Setup::default) {
        for filter in FILTERS {
            let members = ["m1", "m2"].map(|id| case.client(id).persistent());
            leave_behind(&members, filter);
            let mut publisher = case.client("publisher").connect();
            publish_all(&mut publisher);
            for connector in &members {
                let mut back = connector.connect();
                let got = collect(std::slice::from_mut(&mut back)).remove(0);
                if filter == FILTERS[1] {
                    assert!(got.is_sorted(), "{}: {got:?}", case.name);
                }
                assert_each_once(vec![got], &case.name);
                assert_quiet(&mut publisher, &mut back);
                back.disconnect(ReasonCode::Success);
                publish_all(&mut publisher);
            }
            for connector in members {
                connector.clean().connect().disconnect(ReasonCode::Success);
            }
        }
    }
}

/// MQTT-087, DIST-011, DIST-012: those who come back get each message once between them; a
/// publisher of an ordered group has one member.
#[test]
fn members_that_come_back_together_get_each_message_once() {
    for case in Case::all(Setup::default) {
        for filter in FILTERS {
            let members = ["m1", "m2", "m3"].map(|id| case.client(id).persistent());
            leave_behind(&members, filter);
            let mut publisher = case.client("publisher").connect();
            publish_all(&mut publisher);
            let mut back: Vec<Client> = members[1..].iter().map(Connector::connect).collect();
            let got = collect(&mut back);
            assert_each_once(got, &case.name);
            for client in &mut back {
                assert_quiet(&mut publisher, client);
            }
            drop(back);
            for connector in members {
                connector.clean().connect().disconnect(ReasonCode::Success);
            }
        }
    }
}

/// DIST-011: a new member is one like others.
#[test]
fn a_member_that_joins_gets_what_waits() {
    for case in Case::all(Setup::default) {
        let members = ["m1", "m2"].map(|id| case.client(id).persistent());
        leave_behind(&members, FILTERS[0]);
        let mut publisher = case.client("publisher").connect();
        publish_all(&mut publisher);
        let mut new = case.client("new").persistent().connect();
        assert_quiet(&mut publisher, &mut new);
        assert!(!new.subscribe(FILTERS[0], QOS1).is_error());
        let got = collect(std::slice::from_mut(&mut new));
        assert_each_once(got, &case.name);
    }
}

/// What a member does not acknowledge is bounded by its window; the others get the rest.
#[test]
fn a_member_that_acknowledges_nothing_takes_no_more_than_its_window() {
    let case = Case::all(Setup::default).last().expect("one of 5.0");
    let away = [case.client("away").persistent()];
    leave_behind(&away, FILTERS[0]);
    let mut publisher = case.client("publisher").connect();
    publish_all(&mut publisher);
    let mut slow = case.client("slow").receive_maximum(3).persistent().connect();
    assert!(!slow.subscribe(FILTERS[0], QOS1).is_error());
    let held: Vec<_> = (0..3).map(|_| slow.unacknowledged()).collect();
    assert_quiet(&mut publisher, &mut slow);
    let mut quick = case.client("quick").persistent().connect();
    assert!(!quick.subscribe(FILTERS[0], QOS1).is_error());
    let mut got: BTreeMap<u32, u32> = BTreeMap::new();
    let mut note = |text: &str| *got.entry(text.parse().expect("a number")).or_default() += 1;
    // The slow one has those, and perhaps as many that wait behind them.
    for _ in 0..COUNT - 6 {
        note(quick.message().text());
    }
    held.iter().for_each(|message| slow.acknowledge(message));
    held.iter().for_each(|message| note(message.text()));
    let end = std::time::Instant::now() + PATIENCE;
    let mut rest = 3;
    while rest > 0 {
        assert!(std::time::Instant::now() < end, "{rest} are missing");
        for client in [&mut slow, &mut quick] {
            while client.has_more() {
                match client.event() {
                    Event::Publish(message) => {
                        client.acknowledge(&message);
                        note(message.text());
                        rest -= 1;
                    }
                    other => panic!("unexpected: {other:?}"),
                }
            }
        }
        std::thread::yield_now();
    }
    assert!(got.len() == COUNT as usize && got.values().all(|times| *times == 1), "{got:?}");
}

/// A log that goes to disk by itself.
struct Clerk {
    keyspace: Arc<HeldKeyspace>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Clerk {
    fn new(keyspace: Arc<HeldKeyspace>) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let thread = std::thread::spawn({
            let (keyspace, is_over) = (Arc::clone(&keyspace), Arc::clone(&is_over));
            move || {
                while !is_over.load(Ordering::Relaxed) {
                    keyspace.settle();
                    std::thread::yield_now();
                }
            }
        });
        Clerk { keyspace, is_over, thread: Some(thread) }
    }

    fn broker(&self) -> Broker {
        Broker::with(Setup { sessions_in: Some(self.keyspace.clone()), ..Setup::default() })
    }

    /// The disk as it is after a crash.
    fn crash(&self) -> Clerk {
        Clerk::new(self.keyspace.crash(Box::<InboxCoprocessor>::default()))
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the clerk does not panic");
        }
    }
}

/// MQTT-043, MQTT-087, DUR-002: a restart makes no difference, nor where in it the members come.
#[test]
fn what_waits_survives_a_restart_and_goes_to_whoever_comes_back() {
    for filter in FILTERS {
        let clerk = Clerk::new(HeldKeyspace::new(Box::<InboxCoprocessor>::default()));
        let broker = clerk.broker();
        leave_behind(&["m1", "m2"].map(|id| broker.v5(id).persistent()), filter);
        let mut publisher = broker.v5("publisher").connect();
        publish_all(&mut publisher);
        drop((publisher, broker));
        let clerk = clerk.crash();
        let broker = clerk.broker();
        let mut publisher = broker.v5("publisher").connect();
        let mut back = broker.v5("m2").persistent().connect();
        let got = collect(std::slice::from_mut(&mut back)).remove(0);
        assert!(filter == FILTERS[0] || got.is_sorted(), "{got:?}");
        assert_each_once(vec![got], filter);
        let mut other = broker.v5("m1").persistent().connect();
        assert_quiet(&mut publisher, &mut other);
        assert_quiet(&mut publisher, &mut back);
    }
}
