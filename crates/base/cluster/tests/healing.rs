//! After a partition everybody finds everybody, whatever the two sides thought of each other meanwhile.

use std::time::Duration;

use crate::simulator::World;

const SECOND: Duration = Duration::from_secs(1);

/// Forms a cluster, cuts it in two for a minute, joins the sides, and says how long it takes until all
/// see all.
pub(crate) fn heal(seed: u64, count: usize, tune: impl Fn(&mut World)) -> Option<Duration> {
    let mut world = World::new(seed, count);
    tune(&mut world);
    (0..count).for_each(|index| world.start(index));
    world.run(20 * SECOND);
    assert_eq!(world.disagreement(), None, "seed {seed}: formed");
    let (one, two): (Vec<usize>, Vec<usize>) = (0..count).partition(|index| index % 2 == 0);
    world.partition(&one, &two, false);
    world.run(60 * SECOND);
    world.cut.clear();
    world.run_while(120 * SECOND, |world| !world.agrees())
}

/// CLU-009: after a partition members find each other again, without an operator.
#[test]
fn both_sides_of_a_partition_find_each_other_again() {
    for count in [2, 3, 4, 5, 8] {
        let mut times: Vec<Duration> = (0..30)
            .map(|seed| heal(seed, count, |_| {}).unwrap_or_else(|| panic!("{count}, seed {seed}")))
            .collect();
        times.sort();
        println!("n = {count}: p50 {:?}, max {:?}", times[times.len() / 2], times[times.len() - 1]);
        assert!(times[times.len() - 1] < 30 * SECOND);
    }
}

/// CLU-009: the rule that a host without company calls everybody is what does it. Without it, and without
/// asking seeds from time to time, two hosts never meet again.
#[test]
fn without_the_rule_two_hosts_never_meet_again() {
    let without = |world: &mut World| {
        for slot in &mut world.slots {
            slot.setup.tuning.reannounce = false;
            slot.setup.tuning.seed_interval = 10_000 * SECOND;
        }
    };
    assert!((0..5).all(|seed| heal(seed, 2, without).is_none()));
}

/// CLU-009: also where nobody is without company, and no seed brings them together: those that are held for dead
/// are told from time to time that others live.
#[test]
fn sides_that_have_company_find_each_other_without_seeds() {
    for seed in 0..3 {
        let seedless = |world: &mut World| {
            world.slots.iter_mut().for_each(|slot| {
                slot.setup.tuning.seed_interval = 10_000 * SECOND;
            });
        };
        let time = heal(seed, 8, seedless);
        assert!(time.is_some_and(|time| time < 30 * SECOND), "seed {seed}: {time:?}");
    }
}
