//! The counting cells of one shard, packed so that shards never share a cache line.
//!
//! Padding each cell would cost 128 bytes per counter, tenant and shard. Here the cells of *one*
//! writer share lines with each other instead, eight bytes each. A cell has one owner, so an add
//! needs no atomic read-modify-write. A dropped cell's slot is used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Cells in a chunk: two pairs of cache lines (neighbouring lines are fetched together).
const CELLS: usize = 32;
const _: () = assert!(CELLS.is_power_of_two() && CELLS * 8 == 256, "a chunk fills whole lines");

#[derive(Debug, Default)]
#[repr(align(128))]
struct Chunk {
    cells: [AtomicU64; CELLS],
}

/// Where a cell lives.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    chunk: Arc<Chunk>,
    index: usize,
}

impl Slot {
    pub(super) fn value(&self) -> u64 {
        self.cell().load(Ordering::Relaxed)
    }

    /// Adds without a read-modify-write: only the owner of the slot may call it.
    pub(super) fn add_owned(&self, count: u64) {
        let cell = self.cell();
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunk, &other.chunk) && self.index == other.index
    }

    fn cell(&self) -> &AtomicU64 {
        &self.chunk.cells[self.index % CELLS]
    }
}

/// One shard's source of cells. Take one per thread that counts.
#[derive(Debug)]
pub struct Writer {
    arena: Arc<Arena>,
}

#[derive(Debug, Default)]
pub(super) struct Arena {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Slot>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { arena: Arc::default() }
    }

    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }
}

impl Arena {
    /// A slot that reads zero and has no other owner.
    pub(super) fn take(&self) -> Slot {
        let mut state = self.state.lock();
        if let Some(slot) = state.free.pop() {
            assert_eq!(slot.value(), 0, "a free cell counts nothing");
            return slot;
        }
        let chunk = Arc::<Chunk>::default();
        // Highest first, so that they are handed out in order.
        state.free.extend((1..CELLS).rev().map(|index| Slot { chunk: Arc::clone(&chunk), index }));
        Slot { chunk, index: 0 }
    }

    /// Gives a slot back. Its owner has summed the value elsewhere.
    pub(super) fn put(&self, slot: Slot) {
        slot.cell().store(0, Ordering::Relaxed);
        self.state.lock().free.push(slot);
    }
}
