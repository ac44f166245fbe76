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

    /// Adds items and wakes who waits; drops them after the end.
    pub(super) fn extend(&self, items: &mut Vec<T>) {
        if items.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            drop(waiting);
            items.clear();
            return;
        }
        waiting.items.append(items);
        drop(waiting);
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

    /// Closes it and drops what waits, of which somebody may wait to hear: nobody takes it any more.
    pub(super) fn end(&self) {
        self.close();
        let waiting = std::mem::take(&mut self.waiting.lock().items);
        drop(waiting);
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
    fn what_nobody_takes_any_more_is_dropped() {
        let queue = Queue::new();
        let item = Arc::new(());
        queue.push(Arc::clone(&item));
        queue.close();
        queue.extend(&mut vec![Arc::clone(&item)]);
        assert_eq!(Arc::strong_count(&item), 2, "what came before the end is there to be taken");
        queue.end();
        assert_eq!(Arc::strong_count(&item), 1);
    }

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
