//! The newest state of something, for whoever wants to follow it.
//!
//! A [`Watch`] skips what was overtaken: who looks late sees the newest state only. It can be asked,
//! waited for, or call back; it needs no runtime, and what has one makes a stream of it in a line.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

type Callback<T> = Box<dyn Fn(&Arc<T>) + Send>;

/// Follows a state. Clones follow the same one. It stays up to date while at least one clone is kept.
pub struct Watch<T> {
    slot: Arc<Slot<T>>,
}

struct Slot<T> {
    newest: Mutex<(u64, Arc<T>)>,
    changed: Condvar,
    callbacks: Mutex<Vec<Callback<T>>>,
}

impl<T> Watch<T> {
    pub(crate) fn new(first: T) -> Self {
        Watch {
            slot: Arc::new(Slot {
                newest: Mutex::new((1, Arc::new(first))),
                changed: Condvar::new(),
                callbacks: Mutex::new(Vec::new()),
            }),
        }
    }

    /// The newest state.
    pub fn current(&self) -> Arc<T> {
        self.newest().1
    }

    /// The newest state and its number, which rises with each.
    pub fn newest(&self) -> (u64, Arc<T>) {
        self.slot.newest.lock().clone()
    }

    /// Waits for a state that is newer than the one of number `seen`; 0 has been seen by everybody.
    /// `None` if there is none within `timeout`.
    pub fn wait_newer(&self, seen: u64, timeout: Duration) -> Option<(u64, Arc<T>)> {
        let mut newest = self.slot.newest.lock();
        let is_old = |newest: &mut (u64, Arc<T>)| newest.0 <= seen;
        self.slot.changed.wait_while_for(&mut newest, is_old, timeout);
        (newest.0 > seen).then(|| newest.clone())
    }

    /// Waits for a state with a property. `None` if there is none within `timeout`, counted anew with
    /// each state.
    pub fn wait_until(&self, timeout: Duration, is_so: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let mut seen = 0;
        while let Some((number, state)) = self.wait_newer(seen, timeout) {
            if is_so(&state) {
                return Some(state);
            }
            seen = number;
        }
        None
    }

    /// Calls back with each state that is newer than the one of now, on the thread of the cluster: it
    /// must not wait for anything, nor ask to be called back itself.
    pub fn on_change(&self, callback: impl Fn(&Arc<T>) + Send + 'static) {
        self.slot.callbacks.lock().push(Box::new(callback));
    }

    /// Whether nobody else follows.
    pub(crate) fn is_forsaken(&self) -> bool {
        Arc::strong_count(&self.slot) == 1
    }
}

impl<T: PartialEq> Watch<T> {
    /// There is a new state, unless it is equal to the newest.
    pub(crate) fn set(&self, state: T) {
        let state = Arc::new(state);
        {
            let mut newest = self.slot.newest.lock();
            if newest.1 == state {
                return;
            }
            *newest = (newest.0 + 1, state.clone());
        }
        self.slot.changed.notify_all();
        self.slot.callbacks.lock().iter().for_each(|callback| callback(&state));
    }
}

impl<T> Clone for Watch<T> {
    fn clone(&self) -> Self {
        Watch { slot: self.slot.clone() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Watch<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, state) = self.newest();
        out.debug_struct("Watch").field("number", &number).field("state", &state).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn who_waits_is_woken_by_the_next_state_and_late_ones_see_the_newest() {
        let watch = Watch::new(1);
        let called = Arc::new(AtomicU32::new(0));
        let count = called.clone();
        watch.on_change(move |state| {
            count.fetch_add(**state, Ordering::SeqCst);
        });
        let other = watch.clone();
        let waiter = std::thread::spawn(move || other.wait_until(LONG, |state| *state == 5));
        watch.set(2);
        watch.set(2);
        watch.set(5);
        assert_eq!(waiter.join().expect("no panic").as_deref(), Some(&5));
        assert_eq!(watch.wait_newer(0, LONG), Some((3, Arc::new(5))));
        assert_eq!(watch.wait_newer(3, Duration::ZERO), None);
        assert_eq!(called.load(Ordering::SeqCst), 7);
        assert!(watch.is_forsaken());
    }
}
