//! Agents: who sees them, what they say to each other, and when they are gone.

use std::time::Duration;

use bytes::Bytes;
use ratatosk_cluster::{
    AgentAddress, AgentName, Audience, Carriage, Event, KEY_MAX, MESSAGE_MAX, MapKey, SendError,
};

use crate::simulator::{Weather, World, key};

const SECOND: Duration = Duration::from_secs(1);

fn name(instance: &str) -> AgentName {
    AgentName::new("service", instance).expect("a name")
}

fn register(world: &mut World, index: usize, instance: &str, metadata: Vec<u8>) {
    let done = world.order(index, |machine, now, effects| {
        machine.register(now, &name(instance), metadata.into(), effects)
    });
    assert_eq!(done, Some(Ok(())));
}

fn formed(seed: u64, count: usize) -> World {
    let mut world = World::new(seed, count);
    world.slots.iter_mut().for_each(|slot| slot.setup.keys = key("one"));
    world.form();
    world
}

/// What agents of a place got: to which instance, and what.
fn got(world: &World, index: usize) -> Vec<(String, Bytes)> {
    let events = world.slots[index].events.iter();
    let messages = events.filter_map(|(_, event)| match event {
        Event::Message { to, body, .. } => Some((to.name.instance().to_owned(), body.clone())),
        _ => None,
    });
    messages.collect()
}

/// CLU-010: agents are seen by all with what they tell of themselves, short or too long for a datagram,
/// and so are changes of it.
#[test]
fn agents_and_their_changes_are_seen_by_all() {
    for length in [10, 900, 1_200, 16_000] {
        let mut world = formed(1, 30);
        register(&mut world, 3, "a", vec![1; length]);
        let time = world.run_while(10 * SECOND, |world| !world.agrees());
        assert!(time.is_some_and(|time| time < 3 * SECOND), "{length}: {time:?}");
        let seen = world.machine(29).landscape("service");
        let (address, metadata) = seen.first_key_value().expect("the agent");
        assert_eq!((address.host, metadata.bytes.len()), (world.machine(3).host().id, length));
        world.order(3, |machine, now, effects| {
            machine.update(now, &name("a"), vec![2; length].into(), effects).expect("is there");
        });
        assert!(world.run_while(10 * SECOND, |world| !world.agrees()).is_some());
        let later = world.machine(29).landscape("service");
        assert!(later.values().all(|it| it.bytes[0] == 2 && it.version > metadata.version));
        world.order(3, |machine, now, effects| {
            machine.deregister(now, &name("a"), effects).expect("is there");
        });
        assert!(world.run_while(10 * SECOND, |world| !world.agrees()).is_some());
        assert!(world.machine(29).landscape("service").is_empty());
        assert!(world.machine(29).landscape("other").is_empty());
    }
}

/// CLU-010, REPL-001: what is lost on the way is repaired by comparing.
#[test]
fn lost_news_are_repaired() {
    for seed in 0..5 {
        let mut world = formed(seed, 8);
        // No datagram gets through for as long as the news are told.
        world.weather = Weather { lost: 1000, ..Weather::fair() };
        register(&mut world, 2, "a", b"lost".to_vec());
        let write = world.order(5, |machine, now, effects| {
            let key = MapKey::new("rules", b"r").expect("a key");
            machine.write(now, &key, Some(Bytes::from_static(b"lost")), effects)
        });
        assert_eq!(write, Some(Ok(())));
        world.run(4 * SECOND);
        world.weather = Weather::fair();
        let time = world.run_while(60 * SECOND, |world| !world.agrees());
        assert!(time.is_some(), "seed {seed}: {:?}", world.disagreement());
        assert_eq!(world.machine(7).space("rules").len(), 1);
    }
}

/// CLU-010: agents of a host are gone as soon as it has left, and when it is found dead.
#[test]
fn agents_go_with_their_host() {
    let mut world = formed(2, 5);
    register(&mut world, 2, "left", Vec::new());
    register(&mut world, 3, "dead", Vec::new());
    world.run(5 * SECOND);
    assert_eq!(world.machine(0).landscape("service").len(), 2);
    world.leave(2);
    world.run(SECOND);
    assert_eq!(world.machine(0).landscape("service").len(), 1);
    world.crash(3);
    let gone =
        world.run_while(30 * SECOND, |world| !world.machine(0).landscape("service").is_empty());
    assert!(gone.is_some());
}

/// REPL-006: agents of a host that is wrongly taken for dead are hidden at once, and there again as soon as it says that
/// it lives, without being told anew.
#[test]
fn a_false_death_hides_agents_and_its_refutation_shows_them() {
    for seed in 0..10 {
        let mut world = formed(seed, 5);
        register(&mut world, 3, "a", b"told once".to_vec());
        world.run_while(10 * SECOND, |world| !world.agrees()).expect("all know it");
        let seen = |world: &World| world.machine(0).landscape("service").clone();
        let (before, host) = (seen(&world), world.machine(3).host());
        world.order(0, |machine, now, effects| machine.report_dead(now, host.id, effects));
        assert!(seen(&world).is_empty(), "seed {seed}: hidden at once");
        let is_down =
            |world: &World| !world.machine(0).members().iter().any(|it| it.host.id == host.id);
        world.run_while(30 * SECOND, is_down).expect("it comes back");
        // Nothing more was said between the two: it is what was known.
        assert_eq!(seen(&world), before, "seed {seed}");
    }
}

/// REPL-005: what a host told is forgotten some time after it is gone.
#[test]
fn records_of_hosts_that_are_gone_are_forgotten() {
    let mut world = formed(3, 3);
    register(&mut world, 2, "a", vec![1; 4_000]);
    world.run_while(10 * SECOND, |world| !world.agrees()).expect("all know it");
    assert_eq!(world.machine(0).records_count(), 3);
    world.crash(2);
    let grace = world.slots[0].setup.tuning.record_grace;
    world.run(grace / 2);
    assert_eq!(world.machine(0).records_count(), 3, "it may only seem dead");
    world.run(grace);
    assert_eq!(world.machine(0).records_count(), 2);
}

/// CLU-010: a message reaches one agent, all of a name, or all of a service; never its sender.
#[test]
fn messages_reach_one_agent_or_all_of_a_name_or_of_a_service() {
    let long = Bytes::from(vec![9; 20_000]);
    for (body, carriage) in [
        (Bytes::from_static(b"short"), Carriage::Datagram),
        (Bytes::from_static(b"short"), Carriage::Stream),
        (long, Carriage::Datagram),
    ] {
        let mut world = formed(3, 4);
        for (index, instance) in [(0, "a"), (1, "a"), (2, "a"), (2, "b"), (3, "b")] {
            register(&mut world, index, instance, Vec::new());
        }
        world.run(5 * SECOND);
        let mut send = |audience: Audience, expected: [&[&str]; 4]| {
            world.slots.iter_mut().for_each(|slot| slot.events.clear());
            let sent = world.order(0, |machine, _, effects| {
                machine.send_message(&name("a"), &audience, &body, carriage, effects)
            });
            assert_eq!(sent, Some(Ok(())));
            world.run(SECOND);
            for (index, expected) in expected.into_iter().enumerate() {
                let expected: Vec<_> =
                    expected.iter().map(|it| ((*it).to_owned(), body.clone())).collect();
                assert_eq!(got(&world, index), expected, "{audience:?} at {index}");
            }
            world.machine(2).host().id
        };
        let host = send(Audience::Service("service".into()), [&[], &["a"], &["a", "b"], &["b"]]);
        send(Audience::Named(name("a")), [&[], &["a"], &["a"], &[]]);
        let one = AgentAddress { host, name: name("b") };
        send(Audience::One(one), [&[], &[], &["b"], &[]]);
    }
}

/// CLU-010: who means nobody, or says too much, is told so.
#[test]
fn a_message_to_nobody_is_refused() {
    let mut world = formed(4, 2);
    register(&mut world, 0, "a", Vec::new());
    world.run(SECOND);
    let mut send = |audience: Audience, length: usize| {
        let body = Bytes::from(vec![0; length]);
        let sent = world.order(0, |machine, _, effects| {
            machine.send_message(&name("a"), &audience, &body, Carriage::Datagram, effects)
        });
        sent.expect("is up")
    };
    assert_eq!(send(Audience::Service("service".into()), 1), Err(SendError::Nobody));
    assert_eq!(send(Audience::Named(name("b")), 1), Err(SendError::Nobody));
    let length = MESSAGE_MAX + 1;
    assert_eq!(send(Audience::Named(name("a")), length), Err(SendError::Length { length }));
}

/// CLU-007, REPL-001: of a record that fits no datagram all hear as soon as of others, and fetch it.
#[test]
fn news_of_a_long_record_are_told_at_once() {
    for seed in 0..5 {
        let mut world = formed(seed, 8);
        world.run(20 * SECOND);
        register(&mut world, 2, "a", vec![1; 16_000]);
        let time = world.run_while(20 * SECOND, |world| !world.agrees());
        assert!(time.is_some_and(|time| time < 2 * SECOND), "seed {seed}: {time:?}");
    }
}

/// CLU-007, REPL-001: what is more than a frame takes goes over in several, both ways, and none is too long.
#[test]
fn full_maps_and_full_records_are_told_frame_by_frame() {
    let mut world = World::new(5, 2);
    world.partition(&[0], &[1], false);
    for (index, entries) in [(0, 0..3_000_u64), (1, 3_000..4_000)] {
        world.start(index);
        for instance in ["a", "b", "c", "d"] {
            register(&mut world, index, instance, vec![1; 15_000]);
        }
        world.order(index, |machine, now, effects| {
            for entry in entries {
                let mut key = vec![7; KEY_MAX];
                key[..8].copy_from_slice(&entry.to_be_bytes());
                let key = MapKey::new(&"s".repeat(64), &key).expect("a key");
                let value = vec![1; 1_600].into();
                machine.write(now, &key, Some(value), effects).expect("room");
            }
        });
    }
    world.run(SECOND);
    world.cut.clear();
    let space = "s".repeat(64);
    let counts = |world: &World| {
        [0, 1].map(|index| {
            let machine = world.machine(index);
            (machine.landscape("service").len(), machine.space(&space).len())
        })
    };
    let time = world.run_while(200 * SECOND, |world| counts(world) != [(8, 4_000); 2]);
    // What is left of a comparison does not wait for the next one that is due.
    assert!(time.is_some_and(|time| time < 25 * SECOND), "{time:?}: {:?}", counts(&world));
}
