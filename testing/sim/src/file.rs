//! A file of the simulated disk: what is synced, what is not yet, and what the process sees.

use ratatosk_testkit::dice::Dice;

/// What a file keeps, in memory.
pub(crate) trait Content {
    /// What is written at once, and torn as a whole.
    type Batch: Clone;

    fn put(&self, batch: Self::Batch);

    /// Another one with the same content.
    fn copy(&self) -> Self;
}

/// See the module.
pub(crate) struct File<C: Content> {
    synced: C,
    /// In the order of writing.
    unsynced: Vec<C::Batch>,
    /// Both together: what the process sees.
    seen: C,
}

impl<C: Content> File<C> {
    /// One whose content is synced.
    pub(crate) fn new(seen: C) -> Self {
        File { synced: seen.copy(), unsynced: Vec::new(), seen }
    }

    /// What the process sees.
    pub(crate) fn seen(&self) -> &C {
        &self.seen
    }

    /// Writes a batch; that it stays is up to a later sync.
    pub(crate) fn write(&mut self, batch: C::Batch) {
        self.seen.put(batch.clone());
        self.unsynced.push(batch);
    }

    /// Makes durable whatever was written.
    pub(crate) fn sync(&mut self) {
        self.unsynced.drain(..).for_each(|batch| self.synced.put(batch));
    }

    /// Loses the unsynced batches from some place on; answers how many.
    pub(crate) fn lose(&mut self, dice: &mut Dice) -> usize {
        let kept = dice.below(self.unsynced.len() + 1);
        let lost = self.unsynced.len() - kept;
        self.unsynced.truncate(kept);
        self.sync();
        self.seen = self.synced.copy();
        lost
    }

    /// Another file with the same content, all of it synced.
    pub(crate) fn copy(&self) -> Self {
        File::new(self.seen.copy())
    }
}
