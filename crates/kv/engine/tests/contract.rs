//! What every engine has to do. KV-028

use proptest::prelude::*;
use ratatosk_engine::{
    Batch, DurableConfig, DurableEngine, Engine, KEY_BYTES_MAX, KeyRange, MemoryEngine, SpaceId,
    View,
};
use ratatosk_testkit::scratch::Scratch;

use crate::model::{self, Edit, Model, SPACES, assert_same};

pub(crate) fn durable_config(scratch: &Scratch) -> DurableConfig {
    DurableConfig {
        folder: scratch.path().join("engine"),
        spaces: vec!["one".to_owned(), "two".to_owned()],
        cache_bytes: 1 << 20,
        memtable_bytes: 64 << 20,
        journal_bytes: 128 << 20,
        workers: 1,
    }
}

pub(crate) fn durable(scratch: &Scratch) -> DurableEngine {
    DurableEngine::open(&durable_config(scratch)).expect("opens")
}

/// Runs a test on every engine.
fn on_each(test: impl Fn(&dyn Run)) {
    test(&Memory);
    test(&Durable(Scratch::new("contract")));
}

/// An engine by its kind: views differ in their types.
trait Run {
    fn steps(&self, steps: &[(Vec<Edit>, KeyRange)], keys: &[Vec<u8>]);
    fn moments(&self);
    fn longest(&self);
}

struct Memory;
struct Durable(Scratch);

impl Run for Memory {
    fn steps(&self, steps: &[(Vec<Edit>, KeyRange)], keys: &[Vec<u8>]) {
        steps_of(&MemoryEngine::new(SPACES), steps, keys);
    }
    fn moments(&self) {
        moments_of(&MemoryEngine::new(SPACES));
    }
    fn longest(&self) {
        longest_of(&MemoryEngine::new(SPACES));
    }
}

impl Run for Durable {
    fn steps(&self, steps: &[(Vec<Edit>, KeyRange)], keys: &[Vec<u8>]) {
        steps_of(&durable(&self.0), steps, keys);
    }
    fn moments(&self) {
        moments_of(&durable(&self.0));
    }
    fn longest(&self) {
        longest_of(&durable(&self.0));
    }
}

fn steps_of(engine: &impl Engine, steps: &[(Vec<Edit>, KeyRange)], keys: &[Vec<u8>]) {
    let mut model = Model::default();
    for (edits, range) in steps {
        engine.write(model.edit(edits)).expect("writes");
        assert_same(&engine.view(), &model, range, keys);
    }
    engine.persist().expect("persists");
}

fn moments_of(engine: &impl Engine) {
    let space = SpaceId(0);
    let put = |value: &'static [u8]| {
        let mut batch = Batch::new();
        batch.put(space, &b"k"[..], value);
        batch
    };
    engine.write(put(b"1")).expect("writes");
    let before = engine.view();
    engine.write(put(b"2")).expect("writes");
    assert_eq!(before.get(space, b"k").expect("reads").as_deref(), Some(&b"1"[..]));
    assert_eq!(engine.view().get(space, b"k").expect("reads").as_deref(), Some(&b"2"[..]));
    assert_eq!(engine.view().get(SpaceId(1), b"k").expect("reads"), None);
}

fn longest_of(engine: &impl Engine) {
    let key = vec![b'k'; KEY_BYTES_MAX];
    let mut batch = Batch::new();
    batch.put(SpaceId(0), key.clone(), &b"v"[..]);
    engine.write(batch).expect("writes");
    let found = engine.view().get(SpaceId(0), &key).expect("reads");
    assert_eq!(found.as_deref(), Some(&b"v"[..]));
}

/// KV-028: a view shows what was written before it and nothing else.
#[test]
fn a_view_is_a_moment() {
    on_each(|engine| engine.moments());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// KV-028: after any batches every engine holds what a map would.
    #[test]
    fn engines_agree_with_maps(
        steps in prop::collection::vec((model::edits(), model::range()), 1..12),
        keys in prop::collection::vec(model::key(), 4),
    ) {
        on_each(|engine| engine.steps(&steps, &keys));
    }
}

/// KV-028: the longest key is taken, and found again.
#[test]
fn the_longest_key_is_taken() {
    on_each(|engine| engine.longest());
}
