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
    /// A thread sleeps until something is pushed. That there is something already does not mean that
    /// it was woken: some things are added quietly.
    is_awaited: bool,
}

/// Wakes the thread of the checkpoints.
#[derive(Default)]
pub(super) struct Alarm {
    is_stopping: Mutex<bool>,
    rings: Condvar,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        let waiting = Waiting { items: Vec::new(), is_closed: false, is_awaited: false };
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
        let is_awaited = std::mem::take(&mut waiting.is_awaited);
        drop(waiting);
        if is_awaited {
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
            waiting.is_awaited = true;
            match wait {
                Duration::MAX => self.is_filled.wait(&mut waiting),
                wait => drop(self.is_filled.wait_for(&mut waiting, wait)),
            }
            waiting.is_awaited = false;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_push_wakes_who_sleeps_over_things_that_were_added_quietly() {
        let queue = Arc::new(Queue::new());
        let sleeper = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                let mut items = Vec::new();
                queue.take(Duration::MAX, &mut items);
                items
            })
        };
        while !queue.waiting.lock().is_awaited {
            std::thread::yield_now();
        }
        queue.add_quietly([1]);
        queue.push(2);
        assert_eq!(sleeper.join().expect("no panic"), [1, 2]);
    }
}
