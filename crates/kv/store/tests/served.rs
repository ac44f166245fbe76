//! Ranges that every replica answers from what it has, while their leader knows of it.

use std::sync::mpsc;
use std::time::Duration;

use ratatosk_clock::{Instant, SystemClock};
use ratatosk_store::command::Commands;
use ratatosk_store::coprocessor::scan_all;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::node::{Handle, Served};
use ratatosk_store::range::Descriptor;
use ratatosk_stores::counter::{counters, number};
use ratatosk_stores::{PATIENCE, Stores, until, wait};

const COUNTER: &str = "counter";
/// Another keyspace, which replicas do not serve.
const OTHER: &str = "other";

fn stores(name: &str, count: u64) -> Stores {
    Stores::serving(name, count, &[(COUNTER, counters), (OTHER, counters)], &[COUNTER])
}

/// A range that three stores keep.
fn three(name: &str) -> (Stores, Descriptor) {
    let stores = stores(name, 3);
    let range = stores.whole(COUNTER);
    stores.change(&range, &[1, 2, 3]);
    (stores, range)
}

/// A count of a name, as a caller would have it; its answer comes later.
fn ask(handle: &Handle, name: &str) -> mpsc::Receiver<Result<Vec<bytes::Bytes>, Refusal>> {
    let range = handle.ranges(COUNTER).remove(0);
    let mut commands = Commands::new(range.version);
    commands.push(name.as_bytes());
    let (told, tells) = mpsc::sync_channel(1);
    let reply = Box::new(move |answers| drop(told.send(answers)));
    handle.propose(range.group, commands.into_data(), reply);
    tells
}

/// Counts a name once, whoever leads.
fn count(stores: &Stores, range: &Descriptor, name: &str) {
    let answers = ask(&stores.handle(stores.leader(range.group)), name).recv_timeout(PATIENCE);
    assert!(matches!(answers, Ok(Ok(_))), "{answers:?}");
}

/// A look at a range in a store that serves it.
fn serving(stores: &Stores, store: u64, range: &Descriptor) -> Served {
    until("it serves", || {
        let served = stores.handle(store).served(range.group)?;
        let may = wait(|reply| served.wait(reply));
        (matches!(may, Some(Ok(_))) && served.may_answer()).then_some(served)
    })
}

/// What is served of a name; `None` if nothing is.
fn read(served: &Served, name: &str) -> Option<u64> {
    let mut found = 0;
    let is_served = served.read(&mut |reader| {
        scan_all(reader, &ratatosk_engine::KeyRange::all(), |key, value| {
            if key == name.as_bytes() {
                found = number(value);
            }
            Ok(())
        })
    });
    is_served.expect("the engine reads").then_some(found)
}

/// KV-010: a replica serves from when its leader knows of it, what was acknowledged anywhere before.
#[test]
fn a_replica_serves_once_it_was_lent_to_and_has_what_was_acknowledged() {
    let (stores, range) = three("served-ready");
    let leader = stores.leader(range.group);
    let looks: Vec<_> = (1..=3).map(|store| serving(&stores, store, &range)).collect();
    for round in 1..=20 {
        count(&stores, &range, "a");
        for (served, store) in looks.iter().zip(1..) {
            // On a slow machine it may have lapsed.
            match read(served, "a") {
                Some(found) => assert_eq!(found, round, "at {store}, and {leader} leads"),
                None => drop(serving(&stores, store, &range)),
            }
        }
    }
}

/// KV-010: what nobody lent is not served.
#[test]
fn a_range_that_replicas_do_not_serve_is_refused() {
    let stores = stores("served-other", 1);
    let other = stores.whole(OTHER);
    let served = stores.handle(1).served(other.group).expect("it is here");
    let may = wait(|reply| served.wait(reply));
    assert!(matches!(may, Some(Err(Refusal::NotLeader))), "{may:?}");
    assert!(!served.may_answer() && read(&served, "a").is_none());
    assert!(stores.handle(1).served(GroupId(99)).is_none());
}

/// KV-010, DUR-012: whoever is cut off has stopped to serve before anybody hears of what it lacks.
#[test]
fn a_replica_that_is_cut_off_stops_before_what_it_lacks_is_acknowledged() {
    let (stores, range) = three("served-cut");
    count(&stores, &range, "a");
    for round in 2..=4 {
        let leader = stores.leader(range.group);
        let far = leader % 3 + 1;
        let served = serving(&stores, far, &range);
        stores.cut_off(far);
        let answer = ask(&stores.handle(leader), "a");
        // While the answer is not there the replica goes on, with what it has.
        let answer = until("it is counted", || match answer.try_recv() {
            Ok(answer) => Some(answer),
            Err(_) => {
                assert_eq!(read(&served, "a").unwrap_or(round - 1), round - 1);
                None
            }
        });
        assert!(answer.is_ok(), "{answer:?}");
        assert!(!served.may_answer(), "it was acknowledged without this one");
        stores.mend(far);
        assert_eq!(read(&serving(&stores, far, &range), "a"), Some(round));
    }
}

/// DUR-012: those whom the leader before has lent to are not known to the next one.
#[test]
fn a_new_leader_waits_for_those_who_may_serve() {
    let (stores, range) = three("served-new");
    count(&stores, &range, "a");
    let old = stores.leader(range.group);
    let (far, new) = (old % 3 + 1, (old + 1) % 3 + 1);
    let served = serving(&stores, far, &range);
    stores.transfer(range.group, new);
    stores.cut_off(far);
    count(&stores, &range, "a");
    assert!(!served.may_answer(), "the new leader did not wait");
    stores.mend(far);
}

/// KV-010: a store alone is answered at once, for good, and whoever it answers waits for nobody.
#[test]
fn a_store_alone_serves_until_others_join() {
    let stores = stores("served-alone", 3);
    let range = stores.whole(COUNTER);
    let served = serving(&stores, 1, &range);
    count(&stores, &range, "a");
    stores.cut_off(1);
    // Longer than what is lent to others lasts.
    let clock = SystemClock::new();
    let is_late = || clock.now().since(Instant::ZERO) > Duration::from_millis(1_500);
    until("it is later", || is_late().then_some(()));
    assert_eq!(read(&served, "a"), Some(1));
    stores.mend(1);
    stores.change(&range, &[1, 2, 3]);
    let leader = stores.leader(range.group);
    let new = leader % 3 + 1;
    stores.transfer(range.group, new);
    let looks: Vec<_> = (1..=3).map(|store| serving(&stores, store, &range)).collect();
    count(&stores, &range, "a");
    assert!(looks.iter().all(|served| read(served, "a").is_none_or(|found| found == 2)));
}
