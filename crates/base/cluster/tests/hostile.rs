//! Whatever comes over the network: it is refused and counted by reason, and nothing else happens.

use std::time::Duration;

use rand::RngExt;
use ratatosk_cluster::protocol::machine::{Effects, Input, Side};
use ratatosk_cluster::{ClusterId, Count, Event, PACKET_MAX, Refusal, Sources};

use crate::simulator::{World, address, both, key};

const SECOND: Duration = Duration::from_secs(1);

/// A cluster of which the last place belongs to somebody else.
fn besieged(seed: u64, keys: Option<&str>) -> World {
    let mut world = World::new(seed, 4);
    for slot in &mut world.slots {
        slot.setup.keys = keys.and_then(key);
    }
    (0..3).for_each(|index| world.start(index));
    let formed = world.run_while(10 * SECOND, |world| !world.agrees());
    assert!(formed.is_some(), "{:?}", world.disagreement());
    world.run(10 * SECOND);
    world
}

fn agree_still(world: &mut World) {
    world.run(30 * SECOND);
    assert_eq!(world.disagreement(), None);
    let down = |(_, event): &(_, Event)| matches!(event, Event::Down { .. });
    assert!(!world.slots.iter().flat_map(|slot| &slot.events).any(down), "nobody was given up");
}

/// Datagrams of the cluster.
fn tapped(world: &mut World) -> Vec<(usize, usize, Vec<u8>)> {
    world.tapped = Some(Vec::new());
    world.order(1, |machine, now, effects| {
        let name = ratatosk_cluster::AgentName::new("service", "a").expect("a name");
        let _ = machine.register(now, &name, b"first".to_vec().into(), effects);
    });
    world.run(6 * SECOND);
    world.tapped.take().expect("is kept")
}

/// CLU-003: hosts of another environment are refused, though they have the same seeds.
#[test]
fn another_environment_never_joins() {
    for keys in [None, Some("one")] {
        let mut world = besieged(1, keys);
        world.slots[3].setup.environment = "other".into();
        world.start(3);
        world.run(60 * SECOND);
        assert!(world.machine(3).members().is_empty());
        assert!((0..2).all(|index| world.refused(index, Refusal::Environment) > 10));
        world.crash(3);
        agree_still(&mut world);
    }
}

/// CLU-012: hosts without the key, or with another one, are refused.
#[test]
fn who_has_not_the_key_never_joins() {
    let cases = [
        (Some("one"), None, Refusal::Unsealed),
        (Some("one"), Some("two"), Refusal::UnknownKey),
        (None, Some("two"), Refusal::Sealed),
    ];
    for (theirs, mine, refusal) in cases {
        let mut world = besieged(2, theirs);
        world.slots[3].setup.keys = mine.and_then(key);
        world.start(3);
        world.run(60 * SECOND);
        assert!(world.machine(3).members().is_empty());
        assert!((0..2).all(|index| world.refused(index, refusal) > 10), "{refusal:?}");
        world.crash(3);
        agree_still(&mut world);
    }
}

/// Two clusters never merge, and a host that has none takes that of whom it joins.
#[test]
fn clusters_never_merge_and_newcomers_adopt() {
    for keys in [None, Some("one")] {
        let mut world = besieged(3, keys);
        world.slots[3].setup.cluster = ClusterId::from_number(2);
        world.start(3);
        world.run(60 * SECOND);
        assert!(world.machine(3).members().is_empty());
        assert!((0..2).all(|index| world.refused(index, Refusal::Cluster) > 10));
        world.slots[3].setup.cluster = None;
        world.slots[3].events.clear();
        world.start(3);
        let time = world.run_while(10 * SECOND, |world| !world.agrees());
        assert!(time.is_some(), "{:?}", world.disagreement());
        let cluster = ClusterId::from_number(1);
        assert_eq!(world.machine(3).cluster(), cluster);
        let adopted = world.slots[3].events.iter();
        let adopted = adopted.filter(|(_, event)| matches!(event, Event::Adopted(_)));
        assert_eq!(adopted.count(), 1);
    }
}

/// Hosts that all have no cluster find each other, and take the one that one of them makes.
#[test]
fn hosts_without_a_cluster_take_the_one_that_is_made() {
    let mut world = World::new(4, 5);
    world.slots.iter_mut().for_each(|slot| slot.setup.cluster = None);
    world.form();
    let cluster = ClusterId::from_number(9).expect("not zero");
    let made = world.order(2, |machine, _, _| machine.set_cluster(cluster));
    assert_eq!(made, Some(Ok(())));
    let time = world.run_while(40 * SECOND, |world| {
        (0..5).any(|index| world.machine(index).cluster() != Some(cluster))
    });
    assert!(time.is_some());
    agree_still(&mut world);
    let other = ClusterId::from_number(8).expect("not zero");
    let refused = world.order(1, |machine, _, _| machine.set_cluster(other));
    assert_eq!(refused, Some(Err(cluster)));
}

/// CLU-012: garbage of any length, and datagrams of the cluster of which a bit was changed, do nothing.
#[test]
fn garbage_and_changed_datagrams_do_nothing() {
    for keys in [None, Some("one")] {
        let mut world = besieged(5, keys);
        let datagrams = tapped(&mut world);
        for round in 0..2_000 {
            let length = world.rng.random_range(0..1600);
            let mut garbage = vec![0; length];
            world.rng.fill(&mut garbage[..]);
            if round % 2 == 0 && length > 60 {
                garbage[..4].copy_from_slice(&datagrams[0].2[..4]);
            }
            world.inject(3, round % 3, garbage);
            let at = round % datagrams.len();
            let (from, to, mut bytes) = datagrams[at].clone();
            let at = world.rng.random_range(0..bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            // In the clear a changed bit may make another message: that is what keys are for.
            if keys.is_some() {
                world.inject(from, to, bytes);
            }
            world.run(Duration::from_millis(1));
        }
        let refused = |refusal| (0..3).map(|index| world.refused(index, refusal)).sum::<u64>();
        assert!(refused(Refusal::Magic) > 500 && refused(Refusal::Oversized) > 100);
        assert!(keys.is_none() || refused(Refusal::Forged) > 1000);
        agree_still(&mut world);
    }
}

/// CLU-012: what was sent once is taken once, by whom it was sent to, in this life of it.
#[test]
fn replayed_datagrams_are_refused() {
    let mut world = besieged(6, Some("one"));
    let datagrams = tapped(&mut world);
    let before: u64 = (0..3).map(|index| world.refused(index, Refusal::Replayed)).sum();
    for (from, to, bytes) in &datagrams {
        world.inject(*from, *to, bytes.clone());
    }
    world.run(SECOND);
    let after: u64 = (0..3).map(|index| world.refused(index, Refusal::Replayed)).sum();
    assert!(after >= before + datagrams.len() as u64, "{before} {after} {}", datagrams.len());
    // Their sender is dead, and so is whoever had heard them: a new process believes none of it.
    let dead = world.machine(1).host();
    world.crash(1);
    let gone = world.run_while(60 * SECOND, |world| !world.agrees());
    assert!(gone.is_some(), "{:?}", world.disagreement());
    world.start(2);
    world.run(5 * SECOND);
    world.slots[2].events.clear();
    for (_, _, bytes) in datagrams.iter().filter(|(from, ..)| *from == 1) {
        world.inject(3, 2, bytes.clone());
        world.run(Duration::from_millis(20));
    }
    assert!(!world.machine(2).members().iter().any(|member| member.host == dead));
    let up = |(_, event): &(_, Event)| matches!(event, Event::Up(host) if host.id == dead.id);
    assert!(!world.slots[2].events.iter().any(up));
}

/// Without keys a datagram has to come from where its sender says that it is.
#[test]
fn a_lying_source_address_is_refused() {
    let mut world = besieged(7, None);
    for (_, to, bytes) in tapped(&mut world) {
        world.inject(3, to, bytes);
    }
    world.run(SECOND);
    assert!((0..3).all(|index| world.refused(index, Refusal::Source) > 0));
    agree_still(&mut world);
    // Behind address translation it is not asked.
    let mut world = World::new(8, 3);
    for slot in &mut world.slots {
        slot.setup.keys = key("one");
        slot.setup.sources = Sources::Any;
    }
    world.form();
    let datagrams = tapped(&mut world);
    assert!(!datagrams.is_empty());
    assert!((0..3).all(|index| world.refused(index, Refusal::Source) == 0));
}

/// A host that only speaks, and hears no answer, never becomes a member: so nobody becomes one by datagrams
/// with a made-up source.
#[test]
fn who_hears_no_answer_never_becomes_a_member() {
    for keys in [None, Some("one")] {
        let mut world = besieged(13, keys);
        world.partition(&[0, 1, 2], &[3], true);
        world.start(3);
        let before = world.count(Count::BytesSent);
        world.run(60 * SECOND);
        assert!(world.slots[..3].iter().all(|slot| {
            let up = |(_, event): &(_, Event)| matches!(event, Event::Up(host) if host.address == address(3));
            !slot.events.iter().any(up)
        }));
        // What is answered is no longer than what was asked, and nothing is told to a stranger.
        let sent = world.slots[3].counters.count(Count::BytesSent);
        let answers = world.count(Count::BytesSent) - before - sent;
        assert!(sent > 1_000 && answers < sent + 60 * 3 * 400, "{answers} for {sent}");
        world.crash(3);
        agree_still(&mut world);
    }
}

/// Datagrams and frames of a megabyte, and whatever else is no frame, are refused without being kept.
#[test]
fn a_megabyte_of_gossip_is_refused() {
    let mut world = besieged(9, None);
    let (from, to, mut datagram) = tapped(&mut world).remove(0);
    datagram.resize(1 << 20, 7);
    world.inject(from, to, datagram.clone());
    datagram.truncate(PACKET_MAX + 1);
    world.inject(from, to, datagram);
    world.run(SECOND);
    assert_eq!(world.refused(to, Refusal::Oversized), 2);
    let now = world.now;
    for bytes in [vec![1; 2 << 20], vec![0xff; 1000], vec![], vec![2, 0xff, 0xff, 0, 0]] {
        for side in [Side::Asker, Side::Answerer] {
            let before = world.refused(0, Refusal::Malformed);
            let reply = world.order(0, |machine, _, _| {
                let mut effects = Effects::default();
                machine.step(now, Input::Frame { side, bytes: &bytes }, &mut effects);
                effects.reply
            });
            assert_eq!((reply, world.refused(0, Refusal::Malformed)), (Some(None), before + 1));
        }
    }
    agree_still(&mut world);
}

/// A host that names itself among its seeds does not join itself.
#[test]
fn a_host_is_no_seed_of_itself() {
    let mut world = World::new(10, 1);
    world.slots[0].setup.seeds = vec![address(0)];
    world.start(0);
    world.run(60 * SECOND);
    assert!(world.machine(0).members().is_empty());
    assert_eq!(world.datagrams, 0);
}

/// CLU-012: keys are replaced one host after the other, without an outage.
#[test]
fn keys_are_replaced_one_host_after_the_other() {
    let mut world = besieged(11, Some("old"));
    world.leave(3);
    for keys in [both("old", "new"), both("new", "old"), key("new")] {
        for index in [2, 1, 0] {
            world.slots[index].setup.keys = keys.clone();
            world.start(index);
            let time = world.run_while(20 * SECOND, |world| !world.agrees());
            assert!(time.is_some(), "{:?}", world.disagreement());
        }
    }
    assert!((0..3).all(|index| world.refused(index, Refusal::UnknownKey) == 0));
}

/// Of two hosts that run and are said to be at one address, one has to give way; they do not take it from
/// each other for ever, and the operator is told.
#[test]
fn two_hosts_that_claim_one_address_are_told() {
    let mut world = World::new(12, 4);
    for slot in &mut world.slots {
        slot.setup.keys = key("one");
        slot.setup.sources = Sources::Any;
    }
    world.slots[3].claimed = Some(address(2));
    (0..4).for_each(|index| world.start(index));
    world.run(120 * SECOND);
    let contested = |(_, event): &(_, Event)| matches!(event, Event::Contested { .. });
    let told = world.slots.iter().flat_map(|slot| &slot.events).filter(|it| contested(it));
    assert!((1..=2).contains(&told.count()));
    world.tapped = Some(Vec::new());
    world.run(60 * SECOND);
    let datagrams = world.tapped.take().map_or(0, |tapped| tapped.len());
    assert!(datagrams < 60 * 100, "{datagrams} datagrams in a minute");
}
