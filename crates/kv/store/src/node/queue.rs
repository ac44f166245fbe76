//! How the threads of a store wait for each other.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// What threads hand to each other.
pub(super) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    is_filled: Condvar,
}

struct Waiting<T> {
    items: Vec<T>,
    is_closed: bool,
}

/// Wakes the thread of the checkpoints.
#[derive(Default)]
pub(super) struct Alarm {
    is_stopping: Mutex<bool>,
    rings: Condvar,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        let waiting = Waiting { items: Vec::new(), is_closed: false };
        Self { waiting: Mutex::new(waiting), is_filled: Condvar::new() }
    }

    /// Adds an item and wakes who waits; drops it after the end.
    pub(super) fn push(&self, item: T) {
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            drop(waiting);
            drop(item);
            return;
        }
        waiting.items.push(item);
        let was_empty = waiting.items.len() == 1;
        drop(waiting);
        if was_empty {
            self.is_filled.notify_one();
        }
    }

    /// Adds items and wakes who waits.
    pub(super) fn extend(&self, items: &mut Vec<T>) {
        if items.is_empty() {
            return;
        }
        self.waiting.lock().items.append(items);
        self.is_filled.notify_one();
    }

    /// Adds items that can wait for the next one to come.
    pub(super) fn add_quietly(&self, items: impl IntoIterator<Item = T>) {
        self.waiting.lock().items.extend(items);
    }

    /// Takes all there is, into `items`, and waits for it if need be. True after the end.
    pub(super) fn take(&self, wait: Duration, items: &mut Vec<T>) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.items.is_empty() && !waiting.is_closed && !wait.is_zero() {
            match wait {
                Duration::MAX => self.is_filled.wait(&mut waiting),
                wait => drop(self.is_filled.wait_for(&mut waiting, wait)),
            }
        }
        items.append(&mut waiting.items);
        waiting.is_closed
    }

    pub(super) fn close(&self) {
        self.waiting.lock().is_closed = true;
        self.is_filled.notify_all();
    }
}

impl Alarm {
    /// True when the thread is to end.
    pub(super) fn wait(&self, span: Duration) -> bool {
        let mut is_stopping = self.is_stopping.lock();
        if !*is_stopping {
            self.rings.wait_for(&mut is_stopping, span);
        }
        *is_stopping
    }

    pub(super) fn ring(&self, is_stopping: bool) {
        *self.is_stopping.lock() |= is_stopping;
        self.rings.notify_all();
    }
}
