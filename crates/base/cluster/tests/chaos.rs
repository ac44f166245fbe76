//! A while of trouble from a seed, and how long it takes until all agree once it has ended.
//!
//! While the trouble lasts nothing is asked of the hosts but that they keep their invariants. Then the
//! network is whole again, nobody is started or stopped any more, and everybody has to see the same:
//! exactly the hosts that run, their agents, the shared map.

use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;
use ratatosk_cluster::{AgentName, MapKey};

use crate::simulator::{Weather, World};

const SECOND: Duration = Duration::from_secs(1);
/// How long all may take to agree, once the trouble is over.
pub(crate) const HEALING_MAX: Duration = Duration::from_secs(90);
/// Trouble.
const TROUBLES: usize = 16;

/// What a seed came to.
pub(crate) struct Report {
    /// How long it took after the trouble.
    pub(crate) healing: Duration,
    /// Datagrams in all.
    pub(crate) datagrams: u64,
    /// A digest of all of them.
    pub(crate) digest: u64,
    /// Simulated time.
    pub(crate) time: Duration,
}

/// Runs a seed. Says why they do not agree, if they do not.
pub(crate) fn run(seed: u64, count: usize, tune: impl Fn(&mut World)) -> Result<Report, String> {
    let mut world = World::new(seed, count);
    tune(&mut world);
    (0..count).for_each(|index| world.start(index));
    world.run(5 * SECOND);
    for step in 0..TROUBLES {
        trouble(&mut world, step);
        let pause = world.rng.random_range(100..6_000);
        world.run(Duration::from_millis(pause));
    }
    world.cut.clear();
    world.weather = Weather::fair();
    // One at least of the seeds has to be there, if everybody else is new.
    if !world.is_up(0) {
        world.start(0);
    }
    let healing = world.run_while(HEALING_MAX, |world| !world.agrees());
    let Some(healing) = healing else {
        return Err(world.disagreement().unwrap_or_default());
    };
    // And it stays so.
    world.run(15 * SECOND);
    match world.disagreement() {
        None => Ok(Report {
            healing,
            datagrams: world.datagrams,
            digest: world.digest,
            time: world.now.since(ratatosk_clock::Instant::ZERO),
        }),
        Some(what) => Err(format!("agreed after {healing:?}, and then: {what}")),
    }
}

fn trouble(world: &mut World, step: usize) {
    let count = world.slots.len();
    let index = world.rng.random_range(0..count);
    match world.rng.random_range(0..20) {
        0..=2 => partition(world),
        3 | 4 => world.cut.clear(),
        5 => world.crash(index),
        // The new process comes before anybody has noticed, or long after.
        6..=8 => world.start(index),
        9 => world.leave(index),
        10 => {
            let millis = world.rng.random_range(100..12_000);
            world.stall(index, Duration::from_millis(millis));
        }
        11 => {
            let slow = Duration::from_millis(world.rng.random_range(2..700));
            world.weather = Weather {
                lost: world.rng.random_range(0..300),
                doubled: world.rng.random_range(0..200),
                delay: Duration::from_micros(500)..slow,
            };
        }
        12 => world.weather = Weather::fair(),
        13 | 14 => write(world, index, step),
        _ => change_agent(world, index, step),
    }
}

fn partition(world: &mut World) {
    let mut order: Vec<usize> = (0..world.slots.len()).collect();
    order.shuffle(&mut world.rng);
    let at = match world.rng.random_range(0..3) {
        0 => 1,
        1 => order.len() / 2,
        _ => world.rng.random_range(0..order.len()),
    };
    let is_one_way = world.chance(300);
    let (one, two) = order.split_at(at);
    world.partition(one, two, is_one_way);
}

fn change_agent(world: &mut World, index: usize, step: usize) {
    let which = world.rng.random_range(0..3);
    // Some are too long for a datagram.
    let length = [3, 40, 3_000][world.rng.random_range(0..3)];
    let metadata = vec![u8::try_from(step).unwrap_or(0); length];
    world.order(index, |machine, now, effects| {
        let name = AgentName::new("service", ["a", "b", "c"][which]).expect("a name");
        let metadata: bytes::Bytes = metadata.into();
        if machine.register(now, &name, metadata.clone(), effects).is_err() {
            let changed = match step % 3 {
                0 => machine.deregister(now, &name, effects),
                _ => machine.update(now, &name, metadata, effects),
            };
            changed.expect("it is there");
        }
    });
}

fn write(world: &mut World, index: usize, step: usize) {
    let which = world.rng.random_range(0..4_u8);
    let length = [3, 3_000][world.rng.random_range(0..2)];
    world.order(index, |machine, now, effects| {
        let key = MapKey::new("rules", &[which]).expect("a key");
        let value = vec![u8::try_from(step).unwrap_or(0); length];
        let value = (!step.is_multiple_of(4)).then(|| value.into());
        machine.write(now, &key, value, effects).expect("there is room");
    });
}
