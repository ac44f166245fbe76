//! Who is a member: what is noticed, how soon, and what is not mistaken for it.

use std::time::Duration;

use ratatosk_cluster::{Count, Event, Refusal};

use crate::simulator::{Weather, World};

const SECOND: Duration = Duration::from_secs(1);

/// CLU-004: a dead host is noticed by somebody within the time of its turn, its probe and its suspicion,
/// and then all know it.
#[test]
fn a_dead_host_is_noticed_by_all_within_a_bound() {
    for count in [2, 3, 5, 30] {
        for seed in 0..10 {
            let mut world = World::new(seed, count);
            world.form();
            world.crash(count - 1);
            let tuning = world.slots[0].setup.tuning.clone();
            // Whoever shuffles between two rounds may probe the same member last and first again.
            let turn = tuning.probe_interval * u32::try_from(2 * (count - 1)).expect("few");
            let bound = turn + tuning.probe_interval + tuning.suspicion_of(count) + 2 * SECOND;
            let time = world.run_while(bound, |world| !world.agrees());
            assert!(time.is_some(), "n = {count}, seed {seed}: {:?}", world.disagreement());
            let first = world.losses(0);
            assert!(first.iter().all(|(_, has_left)| !has_left));
            assert_eq!(first.len(), 1, "n = {count}, seed {seed}: nobody else was taken for dead");
        }
    }
}

/// CLU-004: of a dead host that somebody found to refuse connections all know within a second.
#[test]
fn a_host_that_is_found_dead_is_dead_for_all_at_once() {
    for count in [2, 3, 5, 30] {
        for seed in 0..10 {
            let mut world = World::new(seed, count);
            world.form();
            let dead = world.machine(count - 1).host().id;
            world.crash(count - 1);
            world.order(0, |machine, now, effects| machine.report_dead(now, dead, effects));
            let bound = if count < 30 { SECOND } else { 2 * SECOND };
            let time = world.run_while(bound, |world| !world.agrees());
            assert!(time.is_some(), "n = {count}, seed {seed}: {:?}", world.disagreement());
        }
    }
}

/// CLU-005: a host that lives and was reported dead, by mistake or out of malice, refutes that.
#[test]
fn a_host_that_is_reported_dead_and_lives_comes_back() {
    for count in [2, 3, 5, 30] {
        for seed in 0..10 {
            let mut world = World::new(seed, count);
            world.form();
            let living = world.machine(count - 1).host().id;
            world.order(0, |machine, now, effects| machine.report_dead(now, living, effects));
            assert!(!world.agrees(), "it is gone for the one who reports");
            let time = world.run_while(30 * SECOND, |world| !world.agrees());
            assert!(time.is_some(), "n = {count}, seed {seed}: {:?}", world.disagreement());
            assert_eq!(world.machine(count - 1).host().id, living, "it is the same process");
        }
    }
}

/// CLU-004: two hosts that do not reach each other are kept by the probes of the others.
#[test]
fn a_broken_link_between_two_takes_neither_for_dead() {
    for seed in 0..10 {
        let mut world = World::new(seed, 5);
        world.form();
        world.partition(&[3], &[4], false);
        world.run(120 * SECOND);
        assert!(world.agrees(), "seed {seed}: {:?}", world.disagreement());
        assert!((0..5).all(|index| world.losses(index).is_empty()), "seed {seed}");
    }
}

/// CLU-004: three others are asked to probe, so one of them that reaches a host is enough.
#[test]
fn a_host_that_one_other_reaches_answers_every_probe() {
    for seed in 0..10 {
        let mut world = World::new(seed, 5);
        world.form();
        world.partition(&[4], &[1, 2, 3], false);
        let before = world.count(Count::ProbesFailed);
        world.run(60 * SECOND);
        assert_eq!(world.count(Count::ProbesFailed), before, "seed {seed}");
        assert!((0..5).all(|index| world.losses(index).is_empty()), "seed {seed}");
    }
}

/// CLU-005: in a large cluster a suspect has more time to refute.
#[test]
fn a_suspect_of_many_hosts_is_given_its_time() {
    for (seed, count) in [(1, 5), (2, 40)] {
        let mut world = World::new(seed, count);
        world.form();
        world.crash(count - 1);
        let is_suspected = |world: &World| {
            let members = (0..count - 1).flat_map(|index| world.machine(index).members());
            members.into_iter().any(|member| member.is_suspect)
        };
        world.run_while(200 * SECOND, |world| !is_suspected(world)).expect("it is missed");
        let is_kept = |world: &World| (0..count - 1).all(|index| world.losses(index).is_empty());
        let time = world.run_while(60 * SECOND, is_kept).expect("it is given up");
        let given = world.slots[0].setup.tuning.suspicion_of(count);
        // It is looked every 100 ms.
        let range = given - Duration::from_millis(200)..=given + Duration::from_millis(200);
        assert!(range.contains(&time), "{count} hosts: {time:?} of {given:?}");
    }
}

/// CLU-005: a host that is suspected and lives refutes that with a higher incarnation.
#[test]
fn a_host_that_is_suspected_and_lives_refutes_it() {
    let mut refutations = 0;
    for seed in 0..10 {
        let mut world = World::new(seed, 5);
        world.form();
        // Long enough to miss a probe, too short to be given up.
        for _ in 0..10 {
            world.stall(2, Duration::from_millis(3_900));
            world.run(12 * SECOND);
        }
        assert!((0..5).all(|index| world.losses(index).is_empty()), "seed {seed}");
        let suspects = world.machine(0).members().into_iter().filter(|member| member.is_suspect);
        assert_eq!(suspects.count(), 0, "seed {seed}");
        refutations += world.slots[2].counters.count(Count::Refutations);
        assert!(world.count(Count::Renewals) == 0, "seed {seed}: a new generation was not needed");
    }
    assert!(refutations >= 10, "{refutations} refutations");
}

/// CLU-006: a host that is slow to read raises its own score, waits longer, and takes nobody for dead.
#[test]
fn a_slow_host_blames_itself() {
    let mut worst = 0;
    for seed in 0..10 {
        let mut world = World::new(seed, 5);
        world.form();
        for _ in 0..60 {
            world.stall(2, Duration::from_millis(900));
            world.run(SECOND);
            worst = worst.max(world.machine(2).score());
            let others = [0, 1, 3, 4].map(|index| world.machine(index).score());
            assert!(others.iter().all(|score| *score <= 1), "seed {seed}: {others:?}");
        }
        assert!((0..5).all(|index| world.losses(index).is_empty()), "seed {seed}");
        world.run(60 * SECOND);
        assert_eq!(world.machine(2).score(), 0, "seed {seed}: it recovers");
    }
    assert!((2..=4).contains(&worst), "a score of {worst}");
}

/// CLU-005, CLU-006: with a tenth of all datagrams lost nobody is taken for dead.
#[test]
fn a_lossy_network_kills_nobody() {
    for (seed, count) in [(1, 3), (2, 5), (3, 5), (4, 30)] {
        let mut world = World::new(seed, count);
        world.form();
        world.weather = Weather { lost: 100, ..Weather::fair() };
        world.run(300 * SECOND);
        let lost: usize = (0..count).map(|index| world.losses(index).len()).sum();
        assert_eq!(lost, 0, "n = {count}");
    }
}

/// CLU-007: a host that stops in good order has left, for all of them, at once.
#[test]
fn a_host_that_leaves_is_not_taken_for_dead() {
    for seed in 0..20 {
        let mut world = World::new(seed, 5);
        world.form();
        world.weather.lost = 200;
        let gone = world.machine(2).host();
        world.leave(2);
        world.run(2 * SECOND);
        assert!(!world.is_up(2), "seed {seed}: it has stopped");
        for index in [0, 1, 3, 4] {
            assert_eq!(world.losses(index), [(gone, true)], "seed {seed}, at {index}");
        }
        world.run(60 * SECOND);
        assert!(world.agrees(), "seed {seed}: {:?}", world.disagreement());
    }
}

/// CLU-007: news go to four members every 200 ms, in datagrams of 1,400 bytes at most.
#[test]
fn news_go_to_four_members_every_200_ms() {
    let mut world = World::new(1, 9);
    world.form();
    world.order(0, |machine, now, effects| {
        let name = ratatosk_cluster::AgentName::new("service", "a").expect("a name");
        machine.register(now, &name, vec![7; 500].into(), effects).expect("room");
    });
    world.tapped = Some(Vec::new());
    let before = world.machine(0).next_due();
    assert!(before.since(world.now) <= Duration::from_millis(200));
    world.run(Duration::from_millis(201));
    let told: Vec<usize> = world
        .tapped
        .take()
        .expect("is kept")
        .into_iter()
        .filter(|(from, _, bytes)| {
            assert!(bytes.len() <= 1400);
            *from == 0 && bytes.windows(100).any(|part| part == [7; 100])
        })
        .map(|(_, to, _)| to)
        .collect();
    assert_eq!(told.len(), 4, "{told:?}");
    let time = world.run_while(3 * SECOND, |world| !world.agrees());
    assert!(time.is_some_and(|time| time < SECOND), "{time:?}");
}

/// CLU-008: a process that starts at the address of one that is gone takes its place at once.
#[test]
fn a_restarted_host_clears_its_old_identity() {
    for (seed, pause_ms) in (0..20).zip([0, 100, 3_000, 30_000].into_iter().cycle()) {
        let mut world = World::new(seed, 3);
        world.form();
        let old = world.machine(2).host();
        world.crash(2);
        world.run(Duration::from_millis(pause_ms));
        world.start(2);
        let time = world.run_while(10 * SECOND, |world| !world.agrees());
        assert!(time.is_some(), "seed {seed}: {:?}", world.disagreement());
        let new = world.machine(2).host();
        assert_ne!(old.id, new.id);
        for index in [0, 1] {
            assert_eq!(world.losses(index), [(old, false)], "seed {seed}");
            let events = &world.slots[index].events;
            assert!(events.iter().any(|(_, event)| *event == Event::Up(new)), "seed {seed}");
        }
    }
}

/// CLU-008, REPL-002: also if its clock has gone back meanwhile.
#[test]
fn a_restarted_host_whose_clock_went_back_clears_its_old_identity() {
    for seed in 0..10 {
        let mut world = World::new(seed, 3);
        world.form();
        world.slots[2].clock_behind_ms = 24 * 60 * 60 * 1000;
        world.start(2);
        let time = world.run_while(10 * SECOND, |world| !world.agrees());
        assert!(time.is_some(), "seed {seed}: {:?}", world.disagreement());
        let told = world.refused(0, Refusal::Outranked) + world.refused(1, Refusal::Outranked);
        assert!(told > 0, "seed {seed}");
    }
}

/// CLU-009: a partition that lets datagrams through one way only heals, too.
#[test]
fn a_one_way_partition_heals() {
    for (seed, count) in (0..30).zip([2, 3, 5].into_iter().cycle()) {
        let mut world = World::new(seed, count);
        world.form();
        world.partition(&[0], &(1..count).collect::<Vec<_>>(), true);
        world.run(40 * SECOND);
        world.cut.clear();
        let time = world.run_while(60 * SECOND, |world| !world.agrees());
        assert!(time.is_some(), "n = {count}, seed {seed}: {:?}", world.disagreement());
    }
}

/// CLU-009: clusters that were started apart meet by their seeds.
#[test]
fn clusters_that_were_started_apart_meet() {
    for seed in 0..10 {
        let mut world = World::new(seed, 4);
        world.partition(&[0, 2], &[1, 3], false);
        (0..4).for_each(|index| world.start(index));
        world.slots.iter_mut().for_each(|slot| slot.events.clear());
        world.run(20 * SECOND);
        assert!(!world.agrees());
        world.cut.clear();
        let time = world.run_while(60 * SECOND, |world| !world.agrees());
        assert!(time.is_some(), "seed {seed}: {:?}", world.disagreement());
    }
}
