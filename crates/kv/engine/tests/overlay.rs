//! The overlay above an engine: readers see what was applied, the engine what was handed down.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::*;
use ratatosk_engine::{Batch, Engine, Error, KeyRange, MemoryEngine, Overlay, SpaceId, View};

use crate::model::{self, Edit, Model, SPACES, assert_same};

const SPACE: SpaceId = SpaceId(0);

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Edit>),
    Checkpoint,
    /// One that fails, after its batch was written or before.
    Fail {
        is_written: bool,
    },
}

/// An engine whose disk fails when it is told to.
struct Failing {
    engine: MemoryEngine,
    fails_write: AtomicBool,
    fails_persist: AtomicBool,
    changes: AtomicUsize,
}

impl Failing {
    fn new() -> Self {
        Self {
            engine: MemoryEngine::new(SPACES),
            fails_write: AtomicBool::new(false),
            fails_persist: AtomicBool::new(false),
            changes: AtomicUsize::new(0),
        }
    }

    fn fail(is_asked: &AtomicBool) -> Result<(), Error> {
        match is_asked.swap(false, Ordering::Relaxed) {
            true => Err(Error::Poisoned),
            false => Ok(()),
        }
    }
}

impl Engine for Failing {
    type View = <MemoryEngine as Engine>::View;

    fn write(&self, batch: Batch) -> Result<(), Error> {
        Self::fail(&self.fails_write)?;
        self.changes.fetch_add(batch.len(), Ordering::Relaxed);
        self.engine.write(batch)
    }
    fn persist(&self) -> Result<(), Error> {
        Self::fail(&self.fails_persist)
    }
    fn view(&self) -> Self::View {
        self.engine.view()
    }
    fn disk_bytes(&self) -> u64 {
        0
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => model::edits().prop_map(Step::Apply),
        2 => Just(Step::Checkpoint),
        1 => any::<bool>().prop_map(|is_written| Step::Fail { is_written }),
    ];
    prop::collection::vec(step, 1..20)
}

proptest! {
    /// Readers see all that was applied, whatever was handed down meanwhile, and after a
    /// crash the engine is as it was at a checkpoint.
    #[test]
    fn an_overlay_agrees_with_a_map(
        steps in steps(),
        range in model::range(),
        keys in prop::collection::vec(model::key(), 4),
    ) {
        let overlay = Overlay::new(Failing::new(), SPACES);
        let (mut applied, mut durable) = (Model::default(), Model::default());
        for step in &steps {
            match step {
                Step::Apply(edits) => overlay.apply(applied.edit(edits)),
                Step::Checkpoint => {
                    overlay.checkpoint().expect("checkpoint");
                    durable = applied.clone();
                    assert_eq!(overlay.memory_bytes(), 0);
                }
                Step::Fail { is_written } => {
                    let engine = overlay.engine();
                    let fails = if *is_written { &engine.fails_persist } else { &engine.fails_write };
                    fails.store(true, Ordering::Relaxed);
                    let has_failed = overlay.checkpoint().is_err();
                    // With nothing to hand down nothing can fail.
                    prop_assert_eq!(has_failed, !fails.swap(false, Ordering::Relaxed));
                    if has_failed && *is_written {
                        // It may be there after a crash: the log says the same again.
                        continue;
                    }
                }
            }
            assert_same(&overlay.view(), &applied, &range, &keys);
        }
        overlay.checkpoint().expect("checkpoint");
        durable.clone_from(&applied);
        assert_same(&overlay.engine().view(), &durable, &range, &keys);
    }
}

fn batch(change: impl FnOnce(&mut Batch)) -> Batch {
    let mut batch = Batch::new();
    change(&mut batch);
    batch
}

#[test]
fn what_came_and_went_between_checkpoints_is_never_written() {
    let overlay = Overlay::new(Failing::new(), SPACES);
    for number in 0..1000_u32 {
        let key = number.to_be_bytes().to_vec();
        overlay.apply(batch(|batch| batch.insert(SPACE, key.clone(), vec![7; 256])));
        overlay.apply(batch(|batch| batch.remove(SPACE, key)));
    }
    assert_eq!(overlay.memory_bytes(), 0);
    overlay.apply(batch(|batch| batch.put(SPACE, &b"applied"[..], &b"1000"[..])));
    let done = overlay.checkpoint().expect("checkpoint");
    assert_eq!(done.changes, 1);
    assert_eq!(overlay.engine().changes.load(Ordering::Relaxed), 1);
}

#[test]
fn what_is_removed_after_its_checkpoint_is_removed_below() {
    let overlay = Overlay::new(Failing::new(), SPACES);
    overlay.apply(batch(|batch| batch.insert(SPACE, &b"k"[..], &b"v"[..])));
    overlay.checkpoint().expect("checkpoint");
    overlay.apply(batch(|batch| batch.remove(SPACE, &b"k"[..])));
    assert_eq!(overlay.view().get(SPACE, b"k").expect("reads"), None);
    overlay.checkpoint().expect("checkpoint");
    assert_eq!(overlay.engine().view().get(SPACE, b"k").expect("reads"), None);
}

#[test]
fn a_failed_checkpoint_counts_for_nothing_and_is_made_up_for() {
    let overlay = Overlay::new(Failing::new(), SPACES);
    overlay.apply(batch(|batch| batch.insert(SPACE, &b"k"[..], &b"1"[..])));
    overlay.engine().fails_write.store(true, Ordering::Relaxed);
    assert!(overlay.checkpoint().is_err());
    // Applied above the layer that is stuck.
    overlay.apply(batch(|batch| batch.remove(SPACE, &b"k"[..])));
    overlay.apply(batch(|batch| batch.insert(SPACE, &b"l"[..], &b"2"[..])));
    let done = overlay.checkpoint().expect("checkpoint");
    assert_eq!(done.changes, 3);
    let below = overlay.engine().view();
    assert_eq!(below.get(SPACE, b"k").expect("reads"), None);
    assert_eq!(below.get(SPACE, b"l").expect("reads").as_deref(), Some(&b"2"[..]));
}

/// One thread applies and one makes checkpoints while views are taken: every view is a whole one.
#[test]
fn views_are_whole_while_checkpoints_are_made() {
    const PAIRS: u32 = 2000;
    let overlay = Overlay::new(MemoryEngine::new(SPACES), SPACES);
    let is_over = AtomicBool::new(false);
    let number = |view: &dyn View, key: &[u8]| {
        let value = view.get(SPACE, key).expect("reads");
        value.map(|value| u32::from_be_bytes(value[..].try_into().expect("four bytes")))
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                overlay.checkpoint().expect("checkpoint");
            }
        });
        scope.spawn(|| {
            let mut last = None;
            while !is_over.load(Ordering::Relaxed) {
                let view = overlay.view();
                let (one, other) = (number(&view, b"one"), number(&view, b"other"));
                assert_eq!(one, other);
                assert!(one >= last, "time goes on");
                last = one;
            }
        });
        for number in 0..PAIRS {
            let value = number.to_be_bytes().to_vec();
            overlay.apply(batch(|batch| {
                batch.put(SPACE, &b"one"[..], value.clone());
                batch.put(SPACE, &b"other"[..], value);
            }));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    overlay.checkpoint().expect("checkpoint");
    let below = overlay.engine().view();
    assert_eq!(number(&below, b"one"), Some(PAIRS - 1));
    assert!(below.get(SPACE, b"none").expect("reads").is_none());
    assert!(!KeyRange::all().is_empty());
}
