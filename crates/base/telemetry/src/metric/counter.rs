//! A counter: only grows, is the sum of the shards' cells and of what was added directly.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::metric::exposition::Page;
use crate::metric::family::Metric;
use crate::metric::writer::{Arena, Slot, Writer};

/// A number that only grows. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Added directly, and inherited from cells that are gone.
    shared: AtomicU64,
    slots: Mutex<Vec<Slot>>,
}

/// One shard's part of a counter. Only its owner adds, so it is neither `Clone` nor `Sync`.
#[derive(Debug)]
pub struct CounterCell {
    slot: Slot,
    arena: Arc<Arena>,
    state: Arc<State>,
    /// Two threads adding through one cell would lose counts.
    single_owner: PhantomData<Cell<()>>,
}

impl Counter {
    /// Adds from any thread. For cold paths; a shard takes a [`Counter::cell`].
    pub fn add(&self, count: u64) {
        self.state.shared.fetch_add(count, Ordering::Relaxed);
    }

    /// Adds one from any thread.
    pub fn increment(&self) {
        self.add(1);
    }

    /// A part of this counter for the thread that owns `writer`.
    #[must_use]
    pub fn cell(&self, writer: &Writer) -> CounterCell {
        let arena = Arc::clone(writer.arena());
        let slot = arena.take();
        self.state.slots.lock().push(slot.clone());
        CounterCell { slot, arena, state: Arc::clone(&self.state), single_owner: PhantomData }
    }

    /// The sum over all cells.
    #[must_use]
    pub fn value(&self) -> u64 {
        // The lock keeps a cell that ends from being summed twice or not at all.
        let slots = self.state.slots.lock();
        let cells = slots.iter().fold(0_u64, |sum, slot| sum.wrapping_add(slot.value()));
        cells.wrapping_add(self.state.shared.load(Ordering::Relaxed))
    }
}

impl CounterCell {
    /// Adds: one load and one store.
    pub fn add(&self, count: u64) {
        self.slot.add_owned(count);
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }
}

impl Drop for CounterCell {
    fn drop(&mut self) {
        let mut slots = self.state.slots.lock();
        let position = slots.iter().position(|slot| slot.same(&self.slot));
        let Some(position) = position else { return };
        let slot = slots.swap_remove(position);
        self.state.shared.fetch_add(slot.value(), Ordering::Relaxed);
        drop(slots);
        self.arena.put(slot);
    }
}

impl Metric for Counter {
    type Shape = ();

    fn create((): ()) -> Self {
        Self::default()
    }

    fn write(&self, page: &mut Page<'_>, labels: &[(&str, &str)]) {
        page.integer("", labels, self.value());
    }
}

#[cfg(test)]
mod tests {
    use super::Counter;
    use crate::metric::Writer;

    #[test]
    fn cells_and_direct_adds_sum_up() {
        let (counter, writer) = (Counter::default(), Writer::new());
        let cells: Vec<_> = (0..70).map(|_| counter.cell(&writer)).collect();
        for (index, cell) in (0_u64..).zip(&cells) {
            cell.add(index);
        }
        counter.increment();
        assert_eq!(counter.value(), 70 * 69 / 2 + 1);
    }

    #[test]
    fn a_dropped_cell_leaves_its_count_and_its_slot_starts_at_zero() {
        let (first, second, writer) = (Counter::default(), Counter::default(), Writer::new());
        let cell = first.cell(&writer);
        cell.add(5);
        drop(cell);
        let reused = second.cell(&writer);
        reused.increment();
        assert_eq!((first.value(), second.value()), (5, 1));
    }

    #[test]
    fn counts_of_concurrent_shards_are_not_lost() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let counter = counter.clone();
                scope.spawn(move || {
                    let writer = Writer::new();
                    for _ in 0..100 {
                        let cell = counter.cell(&writer);
                        (0..100).for_each(|_| cell.increment());
                        counter.add(1);
                    }
                });
            }
            // Reading meanwhile must never see more than was counted.
            for _ in 0..100 {
                assert!(counter.value() <= 4 * 100 * 101);
            }
        });
        assert_eq!(counter.value(), 4 * 100 * 101);
    }
}
