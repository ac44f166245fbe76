//! Three nodes and more: ranges are spread, led, written from everywhere, and outlive the loss of one.

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_balance::landscape::Standing;
use ratatosk_balance::{Rules, Settings};
use ratatosk_client::{Outcome, Ranges as _};
use ratatosk_store::coprocessor::Keyspaces;
use ratatosk_stores::counter::counters;
use ratatosk_stores::{PATIENCE, until};

use crate::support::{KEYSPACES, Member, Tally, World, metric};

/// Three nodes that keep every range, and see it.
fn three(name: &str) -> World {
    let mut world = World::new(name);
    (1..=3).for_each(|number| world.start(number));
    world.spread(&[1, 2, 3]);
    world
}

/// KV-017, KV-022, KV-026: what one node made is kept by three, which all see that, and what any of them
/// writes is carried out once and in order.
#[test]
fn ranges_are_spread_over_nodes_and_written_from_each_of_them() {
    let world = three("remote-spread");
    let clusters: Vec<_> =
        world.members().map(|(_, member)| member.node.host().cluster_id()).collect();
    assert!(clusters[0].is_some() && clusters.iter().all(|cluster| *cluster == clusters[0]));
    for (place, (_, member)) in world.members().enumerate() {
        let key = ["a", "g", "p"][place];
        assert_eq!(member.count(key, 0, 100), 100);
    }
    // And of one key by turns.
    let mut last = 0;
    for _ in 0..3 {
        for (_, member) in world.members() {
            last = member.count("z", last, 20);
        }
    }
    assert_eq!(last, 180);
    assert_eq!(
        world.members().map(|(_, member)| member.metric(&["remote_refused"])).sum::<u64>(),
        0
    );
}

/// KV-009: whoever wants an answer of a range gets it from who leads it, wherever that is, with all that was
/// acknowledged before.
#[test]
fn questions_reach_the_leader_from_every_node() {
    let world = three("remote-questions");
    let mut counted = 0;
    for (number, member) in world.members() {
        counted = member.count("a", counted, 5);
        let router = member.node.router();
        let answers = until("an answer", || {
            let route = router.routes(KEYSPACES[0]).pop().filter(|route| route.leader.is_some())?;
            let (told, tells) = mpsc::sync_channel(1);
            let answer = Box::new(move |outcome| told.send(outcome).expect("it waits"));
            router.query(&route, Bytes::from_static(b"a"), answer);
            match tells.recv_timeout(PATIENCE).expect("an outcome") {
                Outcome::Applied(answers) => Some(answers),
                Outcome::Refused(_) | Outcome::Unknown => None,
            }
        });
        assert_eq!(answers.len(), 1, "node {number}");
        assert_eq!(ratatosk_stores::counter::number(&answers[0]), counted, "node {number}");
    }
}

/// KV-011, CLU-011: when a node is lost the others go on, and a new one is filled and takes its place.
#[test]
fn a_node_that_is_lost_is_replaced_by_a_new_one() {
    let mut world = three("remote-lost");
    let last = world.member(1).count("a", 0, 50);
    world.kill(3);
    let last = world.member(2).count("a", last, 50);
    for name in KEYSPACES {
        let settings =
            Settings { unreachable_after: Duration::from_secs(1), ..Settings::default() };
        let rules = Rules::try_from(settings).expect("they make sense");
        world.rules.write().set(name, rules);
    }
    world.start(4);
    world.spread(&[1, 2, 4]);
    let last = world.member(4).count("a", last, 50);
    assert!(last >= 100, "{last}");
    let data = world.member(4).metric(&["remote_packets_total", "\"data\"", "\"in\""]);
    assert!(data > 0, "its data came with snapshots");
}

/// OPS-003, KV-022: what an operator says of a store at any node, all heed: one that drains is emptied while
/// it serves, and may come back; one that is dead and given up is replaced at once.
#[test]
fn stores_are_drained_and_given_up_by_order_of_any_node() {
    let mut world = three("remote-standings");
    let last = world.member(1).count("a", 0, 20);
    world.start(4);
    let network = |world: &World, number| world.member(number).node.network().clone();
    network(&world, 1).stand(2, Standing::Draining).expect("it is in the cluster");
    world.spread(&[1, 3, 4]);
    assert_eq!(network(&world, 4).standing(2), Standing::Draining);
    let last = world.member(2).count("a", last, 20);
    network(&world, 2).stand(2, Standing::Member).expect("it is in the cluster");
    world.kill(3);
    network(&world, 4).stand(3, Standing::GivenUp).expect("it is in the cluster");
    // Five minutes of patience would be longer than the test has.
    world.spread(&[1, 2, 4]);
    assert_eq!(world.member(2).count("a", last, 20), 60);
}

/// KV-002: while leaders go down in the middle of it, and come back, what one node writes is carried out
/// once and in order, but for what was in doubt.
#[test]
fn what_is_written_while_leaders_die_is_in_order() {
    let mut world = three("remote-order");
    let writer = world.member(1).pipe.clone();
    let (stopping, stops) = mpsc::sync_channel::<()>(1);
    let writing = std::thread::spawn(move || {
        let mut tally = Tally::default();
        while stops.try_recv() == Err(mpsc::TryRecvError::Empty) {
            tally.count(&writer, "a", 40);
        }
        tally
    });
    for victim in [2, 3, 2] {
        let group = world.member(1).node.handle().ranges(KEYSPACES[0])[0].group;
        let mut before = None;
        // In the middle of something; keepers may want another leader meanwhile.
        until("it leads, and is written to", || {
            let leads = |member: &Member| member.node.handle().leads().contains(&group);
            let (leader, member) = world.members().find(|(_, member)| leads(member))?;
            if leader != victim {
                member.node.handle().transfer(group, victim);
                before = None;
                return None;
            }
            let now = world.member(1).metric(&["frame_bytes", "Propose", "client", "\"in\""]);
            (now > *before.get_or_insert(now) + 200).then_some(())
        });
        world.kill(victim);
        world.start(victim);
        world.spread(&[1, 2, 3]);
    }
    drop(stopping);
    let tally = writing.join().expect("in order");
    let mut after = Tally { last: tally.last, in_doubt: tally.in_doubt };
    after.count(&world.member(3).pipe, "a", 1);
    assert!(tally.last > 100 && after.last > tally.last, "{tally:?}, {after:?}");
}

/// A node that comes back under another address is spoken with again, and has missed nothing.
#[test]
fn a_node_comes_back_at_another_address() {
    let mut world = three("remote-back");
    let last = world.member(1).count("a", 0, 20);
    let before = world.member(3).node.address();
    world.kill(3);
    let last = world.member(1).count("a", last, 20);
    world.start(3);
    assert_ne!(world.member(3).node.address(), before);
    world.spread(&[1, 2, 3]);
    // It and another one are a majority only if it takes part.
    world.kill(1);
    let last = world.member(3).count("a", last, 20);
    assert!(last >= 40, "{last}");
}

/// OPS-007: whoever stops hands over what it leads first: nobody waits for a lost leader.
#[test]
fn a_node_that_stops_hands_its_ranges_over() {
    let mut world = three("remote-stop");
    let last = world.member(1).count("a", 0, 20);
    let leader = until("a leader", || {
        let leads = |member: &Member| !member.node.handle().leads().is_empty();
        world.members().find(|(_, member)| leads(member)).map(|(number, _)| number)
    });
    assert!(world.take(leader).stop(PATIENCE), "in time, and others lead");
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|number| *number != leader).collect();
    let led: usize =
        others.iter().map(|number| world.member(*number).node.handle().leads().len()).sum();
    assert_eq!(led, KEYSPACES.len(), "all are led at once");
    let begun = world.clock.now();
    let last = world.member(others[0]).count("a", last, 20);
    assert_eq!(last, 40);
    assert!(world.clock.now().since(begun) < Duration::from_secs(5));
}

/// A node whose folder is a copy of another one's is not let in, and says why.
#[test]
fn a_copy_of_a_store_is_refused() {
    let mut world = World::new("remote-copy");
    world.start(1);
    assert!(world.take(1).stop(PATIENCE));
    copy(&world.folder(1), &world.folder(2));
    world.start(1);
    let mut config = world.config(2);
    config.patience = Duration::from_secs(2);
    // It would not even open: that is not tried.
    config.store.keyspaces = Keyspaces::new(vec![("other".to_owned(), counters())]);
    let registry = config.registry.clone();
    let error = world.start_with(2, config).expect_err("it is a copy").to_string();
    assert!(error.contains("store 0000000000000001 is served by another process"), "{error}");
    assert_eq!(metric(&registry, &["remote_open_lanes"]), 0);
    assert_eq!(world.member(1).node.clash(), None, "who was first goes on");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("a copy")),
        }
    }
}

/// KV-008, KV-009: an operator's orders reach a store of another node.
#[test]
fn orders_reach_stores_of_other_nodes() {
    let world = three("remote-orders");
    let handle = world.member(1).node.handle();
    let range = handle.ranges(KEYSPACES[1]).remove(0);
    let leader = || {
        let leads = |member: &Member| member.node.handle().leads().contains(&range.group);
        world.members().find(|(_, member)| leads(member)).map(|(number, _)| number)
    };
    let asker = world.member(2);
    let (orders, runtime) = (asker.node.network().orders(), asker.node.runtime());
    let from = until("a leader", leader);
    let to = from % 3 + 1;
    runtime.block_on(orders.transfer(from, range.group, to)).expect("it is there");
    // A keeper may have another lead soon.
    until("another leads", || leader().filter(|now| *now != from));
    let version = world.member(to).node.handle().ranges(KEYSPACES[1])[0].version;
    let target = range.membership.target();
    until("a read", || {
        let leader = leader()?;
        runtime.block_on(orders.read(leader, range.group, version)).ok()
    });
    let leader = until("a leader", leader);
    let refused = runtime.block_on(orders.change(leader, range.group, version, target));
    assert!(refused.is_err_and(|error| error.to_string().contains("refuses")), "it is as wanted");
    let follower = leader % 3 + 1;
    let refused = runtime.block_on(orders.read(follower, range.group, version));
    assert!(refused.is_err_and(|error| error.to_string().contains("NotLeader")));
}
