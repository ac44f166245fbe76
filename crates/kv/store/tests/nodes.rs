//! Several stores of one process, each with threads and a disk of its own.

use ratatosk_store::OpenError;
use ratatosk_store::command::{self, Commands};
use ratatosk_store::node::{Config, Handle, Node};
use ratatosk_store::range::Descriptor;
use ratatosk_stores::counter::{counters, keepers};
use ratatosk_stores::{CLUSTER, Stores, until, version_of, wait};

const COUNTER: &str = "counter";

fn stores(name: &str, count: u64) -> Stores {
    Stores::new(name, count, &[(COUNTER, counters)])
}

/// Counts a name, whoever leads; answers how often it tried. A try whose fate is not known may have
/// counted.
fn count(stores: &Stores, name: &str) -> u64 {
    let mut tries = 0;
    until("it is counted", || {
        let has_name = |range: &Descriptor| range.boundary.contains(name.as_bytes());
        let range = |handle: &Handle| handle.ranges(COUNTER).into_iter().find(has_name);
        let found = stores.live().find_map(|(_, handle)| range(&handle))?;
        let handle = stores.handle(stores.leader_now(found.group)?);
        let range = range(&handle)?;
        let mut commands = Commands::new(range.version);
        commands.push(name.as_bytes());
        let data = commands.into_data();
        let answers = wait(|reply| handle.propose(range.group, data, reply));
        // What is refused was not carried out.
        tries += u64::from(!matches!(answers, Some(Err(_))));
        matches!(answers, Some(Ok(_))).then_some(tries)
    })
}

/// KV-005, KV-006, KV-008: three keep a range; one may be lost, and all may go down and come back.
#[test]
fn what_three_stores_acknowledged_survives_the_loss_of_one_and_a_crash_of_all() {
    let mut stores = stores("nodes-three", 3);
    let range = stores.whole(COUNTER);
    count(&stores, "a");
    stores.change(&range, &[1, 2, 3]);
    assert_eq!(count(&stores, "a"), 1);
    assert_eq!(stores.settle(COUNTER), [("a".to_owned(), 2)]);
    let leader = stores.leader(range.group);
    stores.kill(leader);
    let more = count(&stores, "a");
    stores.start(leader);
    let found = stores.settle(COUNTER);
    assert!((3..=2 + more).contains(&found[0].1), "{found:?} after {more} tries");
    for store in 1..=3 {
        stores.kill(store);
    }
    (1..=3).for_each(|store| stores.start(store));
    assert_eq!(stores.settle(COUNTER), found);
    assert_eq!(count(&stores, "b"), 1);
    assert_eq!(stores.settle(COUNTER).last(), Some(&("b".to_owned(), 1)));
}

/// KV-011: a store without the range gets the data of another, and goes on from there with the log.
#[test]
fn a_store_that_joins_late_gets_the_data_and_then_the_log() {
    let stores = stores("nodes-late", 2);
    let range = stores.whole(COUNTER);
    let handle = stores.handle(1);
    let mut commands = Commands::new(stores.whole(COUNTER).version);
    (0..200).for_each(|number| commands.push(format!("key{number:03}").as_bytes()));
    let data = commands.into_data();
    for _ in 0..100 {
        let answers = wait(|reply| handle.propose(range.group, data.clone(), reply));
        assert!(matches!(answers, Some(Ok(_))), "{answers:?}");
    }
    stores.change(&range, &[1, 2]);
    let found = stores.settle(COUNTER);
    assert_eq!((found.len(), found[7].1), (200, 100));
    count(&stores, "key007");
    assert_eq!(stores.settle(COUNTER)[7].1, 101);
}

/// KV-007, KV-009: leadership is handed over, and the new leader's reads have all that the old one
/// acknowledged.
#[test]
fn a_read_of_a_new_leader_has_what_was_acknowledged_before() {
    let stores = stores("nodes-read", 3);
    let range = stores.whole(COUNTER);
    stores.change(&range, &[1, 2, 3]);
    for round in 0..6_u64 {
        assert_eq!(count(&stores, "a"), 1);
        let old = stores.leader(range.group);
        let new = old % 3 + 1;
        stores.transfer(range.group, new);
        let handle = stores.handle(new);
        let version = handle.ranges(COUNTER)[0].version;
        match wait(|reply| handle.ask_to_read(range.group, version, reply)) {
            Some(Ok(_)) => assert_eq!(stores.content(new, COUNTER), [("a".to_owned(), round + 1)]),
            refused => panic!("{refused:?}"),
        }
    }
}

/// KV-013, KV-015: ranges part and join on all their stores, and nothing is lost by it.
#[test]
fn ranges_part_and_join_on_all_stores() {
    let stores = stores("nodes-parts", 3);
    let whole = stores.whole(COUNTER);
    stores.change(&whole, &[1, 2, 3]);
    ["a", "m", "z"].iter().for_each(|name| assert_eq!(count(&stores, name), 1));
    let handle = stores.handle(stores.leader(whole.group));
    let order = command::split(handle.ranges(COUNTER)[0].version, b"m");
    let answers = wait(|reply| handle.propose(whole.group, order, reply));
    assert!(matches!(answers, Some(Ok(_))), "{answers:?}");
    let parts = |count: usize| {
        let have = |(_, handle): (u64, Handle)| handle.ranges(COUNTER).len() == count;
        until("its parts", || stores.live().all(have).then_some(()));
    };
    parts(2);
    ["a", "m", "z"].iter().for_each(|name| assert_eq!(count(&stores, name), 1));
    let right = handle.ranges(COUNTER).remove(1);
    until("they join", || {
        if let Some(leader) = stores.leader_now(right.group).map(|store| stores.handle(store))
            && let Some(version) = version_of(&leader, &right)
        {
            // It may not be possible yet.
            let _ = wait(|reply| leader.merge(right.group, version, reply));
        }
        (handle.ranges(COUNTER).len() == 1).then_some(())
    });
    parts(1);
    ["a", "m", "z"].iter().for_each(|name| assert_eq!(count(&stores, name), 1));
    let all: Vec<_> = ["a", "m", "z"].map(|name| (name.to_owned(), 3)).into();
    assert_eq!(stores.settle(COUNTER), all);
}

/// KV-017: a store that is to join makes no range, and keeps to the cluster that it joined.
#[test]
fn a_store_that_joins_makes_nothing_and_is_of_one_cluster() {
    let mut stores = stores("nodes-join", 2);
    assert_eq!(stores.handle(2).identity().cluster, CLUSTER);
    assert!(stores.handle(2).ranges(COUNTER).is_empty());
    stores.kill(2);
    let other = Config { join: Some(CLUSTER + 1), ..stores.config(2) };
    let refused = Node::open(other).expect_err("it is of another cluster");
    assert!(matches!(refused, OpenError::Cluster { is_of: CLUSTER, .. }), "{refused}");
    // Nor does it become a cluster of its own by mistake.
    let alone = Config { join: None, ..stores.config(2) };
    let node = Node::open(alone).expect("it is whole");
    assert!(node.handle().ranges(COUNTER).is_empty());
}

/// KV-019: a store that has no part in a range any more has nothing of it.
#[test]
fn a_store_that_left_has_no_range() {
    let stores = stores("nodes-leave", 3);
    let range = stores.whole(COUNTER);
    stores.change(&range, &[1, 2, 3]);
    count(&stores, "a");
    assert_eq!(stores.settle(COUNTER).len(), 1);
    stores.transfer(range.group, 1);
    stores.change(&range, &[1, 2]);
    until("it left", || stores.handle(3).ranges(COUNTER).is_empty().then_some(()));
    count(&stores, "a");
    assert_eq!(
        (stores.content(1, COUNTER), stores.content(3, COUNTER).len()),
        (vec![("a".to_owned(), 2)], 0)
    );
}

/// KV-029, KV-012: what comes and goes again and again leaves no more on the disk than a bound, whatever was
/// written in all.
#[test]
fn the_disk_has_a_bound_however_much_comes_and_goes() {
    const ROUNDS: u64 = 80;
    const KEYS: u64 = 1_000;
    const VALUE_BYTES: usize = 4_000;
    /// Less than half of what is written.
    const BOUND: u64 = 128 << 20;
    let stores = Stores::new("nodes-churn", 1, &[("churn", keepers)]);
    let (range, handle) = (stores.whole("churn"), stores.handle(1));
    let propose = |command: &dyn Fn(u64) -> Vec<u8>| {
        let mut commands = Commands::new(range.version);
        (0..KEYS).for_each(|key| commands.push(&command(key)));
        let answers = wait(|reply| handle.propose(range.group, commands.into_data(), reply));
        assert!(matches!(answers, Some(Ok(_))), "{answers:?}");
    };
    for round in 0..ROUNDS {
        let key = |key: u64| (round * KEYS + key).to_be_bytes().to_vec();
        propose(&|number| [key(number), vec![7; VALUE_BYTES]].concat());
        propose(&key);
    }
    until("the disk is within its bound", || (stores.disk_bytes(1) < BOUND).then_some(()));
    assert_eq!(stores.keys(1, "churn"), Vec::<Vec<u8>>::new());
}
