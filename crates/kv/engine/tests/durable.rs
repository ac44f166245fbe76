//! What only an engine on disk does.

use std::ops::ControlFlow;

use bytes::Bytes;
use ratatosk_engine::{
    Batch, DurableConfig, DurableEngine, Engine, Error, Haste, KeyRange, SpaceId, View,
};
use ratatosk_testkit::scratch::Scratch;

use crate::contract::{durable, durable_config};

fn numbers(from: u32, to: u32) -> Batch {
    let mut batch = Batch::new();
    for number in from..to {
        batch.put(SpaceId(1), number.to_be_bytes().to_vec(), vec![7; 100]);
    }
    batch
}

fn count(engine: &impl Engine) -> usize {
    let mut count = 0;
    let mut visit = |_: &[u8], _: &Bytes| {
        count += 1;
        ControlFlow::Continue(())
    };
    engine.view().scan(SpaceId(1), &KeyRange::all(), &mut visit).expect("scans");
    count
}

/// What was persisted is there when the folder is opened again.
#[test]
fn a_persisted_batch_is_there_after_a_restart() {
    let scratch = Scratch::new("restart");
    let engine = durable(&scratch);
    engine.write(numbers(0, 1000)).expect("writes");
    engine.persist().expect("persists");
    assert!(engine.disk_bytes() > 0);
    drop(engine);
    assert_eq!(count(&durable(&scratch)), 1000);
}

/// DUR-004
#[test]
fn an_engine_that_was_not_finished_is_made_anew() {
    let scratch = Scratch::new("unfinished");
    let folder = scratch.path().join("engine");
    let unfinished = folder.with_extension("new");
    std::fs::create_dir_all(unfinished.join("keyspaces/0")).expect("a folder");
    std::fs::write(unfinished.join("0.jnl"), "cut off").expect("a file");
    let config = DurableConfig { folder, ..durable_config(&scratch) };
    let engine = DurableEngine::open(&config).expect("opens");
    assert!(!unfinished.exists() && config.folder.exists());
    engine.write(numbers(0, 10)).expect("writes");
    assert_eq!(count(&engine), 10);
}

#[test]
fn a_folder_in_use_is_refused_by_name() {
    let scratch = Scratch::new("locked");
    let _first = durable(&scratch);
    let config = durable_config(&scratch);
    match DurableEngine::open(&config) {
        Err(Error::Locked { folder }) => assert_eq!(folder, config.folder),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_space_keeps_its_data_when_others_are_added() {
    let scratch = Scratch::new("spaces");
    let mut config = durable_config(&scratch);
    let engine = DurableEngine::open(&config).expect("opens");
    engine.write(numbers(0, 10)).expect("writes");
    engine.persist().expect("persists");
    drop(engine);
    config.spaces.insert(1, "between".to_owned());
    let engine = DurableEngine::open(&config).expect("opens");
    assert_eq!(count(&engine), 0);
    let found = engine.view().get(SpaceId(2), &0_u32.to_be_bytes()).expect("reads");
    assert!(found.is_some());
}

/// DUR-006: what was filled and emptied takes no room, and what is left is left.
#[test]
fn room_is_given_back_when_much_was_removed() {
    const VALUES: u32 = 1500;
    let key = |number: u32| number.to_be_bytes().to_vec();
    let scratch = Scratch::new("reclaim");
    let engine = durable(&scratch);
    for number in 0..VALUES {
        let mut batch = Batch::new();
        batch.put(SpaceId(1), key(number), vec![7; 100_000]);
        engine.write(batch).expect("writes");
    }
    engine.persist().expect("persists");
    assert!(!engine.reclaim(u64::MAX, Haste::Now).expect("looks"), "nothing is waste");
    let full = engine.disk_bytes();
    let mut batch = Batch::new();
    (10..VALUES).for_each(|number| batch.remove(SpaceId(1), key(number)));
    engine.write(batch).expect("writes");
    engine.persist().expect("persists");
    assert!(engine.reclaim(u64::MAX, Haste::InTime).expect("reclaims"));
    // What stays is ten values and the journal that is written to.
    let left = engine.disk_bytes();
    assert!(left < full / 2 && left < 70 << 20, "{left} of {full} bytes");
    assert_eq!(count(&engine), 10);
    drop(engine);
    assert_eq!(count(&durable(&scratch)), 10);
}

/// What is removed little by little is merged once as much was written as half of what there is, or when
/// nothing is written any more.
#[test]
fn merging_is_in_proportion_to_what_is_written() {
    const VALUES: u32 = 1000;
    let key = |number: u32| number.to_be_bytes().to_vec();
    let scratch = Scratch::new("reclaim-proportion");
    let engine = durable(&scratch);
    let put = |number: u32| {
        let mut batch = Batch::new();
        batch.put(SpaceId(1), key(number), vec![7; 100_000]);
        engine.write(batch).expect("writes");
    };
    (0..VALUES).for_each(put);
    let remove = |numbers: std::ops::Range<u32>| {
        let mut batch = Batch::new();
        numbers.for_each(|number| batch.remove(SpaceId(1), key(number)));
        engine.write(batch).expect("writes");
    };
    remove(0..500);
    assert!(engine.reclaim(u64::MAX, Haste::InTime).expect("reclaims"), "much was written");
    remove(500..750);
    assert!(!engine.reclaim(u64::MAX, Haste::InTime).expect("looks"), "little was written since");
    assert!(engine.reclaim(u64::MAX, Haste::InTime).expect("reclaims"), "nothing is written");
    remove(750..900);
    assert!(engine.reclaim(u64::MAX, Haste::Now).expect("reclaims"), "room is short");
    assert_eq!(count(&engine), 100);
}
