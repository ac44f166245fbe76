//! A lazy timer wheel: one entry a key, filed under a coarse tick.
//!
//! An entry is not moved when its deadline is: it comes up at the tick under which it was filed,
//! the owner says when the key is really due, and it is filed again. A keep-alive that is pushed
//! back by every packet costs nothing per packet and 8 bytes a connection.
//!
//! Entries come up at most one tick late, and never early. Deadlines beyond the horizon are
//! filed under its end and come up to be filed again. Keys are not removed: a key that no longer
//! means anything is answered with `None` when it comes up.

use std::{collections::VecDeque, time::Duration};

use crate::Instant;

/// Timers of keys of type `K`, in ticks of a fixed length.
#[derive(Debug)]
pub struct Wheel<K> {
    tick: Duration,
    /// Start of the span of `slots[0]`.
    front: Instant,
    slots: VecDeque<Vec<K>>,
    len: usize,
    /// Emptied slots, kept for their allocation.
    spare: Vec<K>,
}

impl<K> Wheel<K> {
    /// A wheel of `slots` ticks of length `tick`, starting at `now`.
    ///
    /// # Panics
    /// If `tick` is zero or there are fewer than two slots.
    pub fn new(now: Instant, tick: Duration, slots: usize) -> Self {
        assert!(!tick.is_zero(), "a tick has a length");
        assert!(slots >= 2, "a wheel has at least two slots");
        Wheel {
            tick,
            front: now,
            slots: (0..slots).map(|_| Vec::new()).collect(),
            len: 0,
            spare: Vec::new(),
        }
    }

    /// Files `key` to come up at `due` or up to one tick later.
    pub fn insert(&mut self, key: K, due: Instant) {
        let wait = due.since(self.front).as_nanos();
        let slot = usize::try_from(wait.div_ceil(self.tick.as_nanos())).unwrap_or(usize::MAX);
        let last = self.slots.len() - 1;
        self.slots[slot.min(last)].push(key);
        self.len += 1;
    }

    /// How many entries are filed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is filed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the keys that come up by `now`; `check` says when a key is really due (`None`: never,
    /// forget it), and fires it itself if that is not after `now`. A key that is due later, or
    /// that was fired and has a next deadline, is filed again.
    pub fn advance(&mut self, now: Instant, mut check: impl FnMut(&K) -> Option<Instant>) {
        while now >= self.front {
            let mut keys = std::mem::replace(&mut self.slots[0], std::mem::take(&mut self.spare));
            self.slots.rotate_left(1);
            self.front = self.front + self.tick;
            self.len -= keys.len();
            for key in keys.drain(..) {
                if let Some(due) = check(&key) {
                    self.insert(key, due);
                }
            }
            if keys.capacity() <= 1024 {
                self.spare = keys;
            }
            if self.len == 0 && now.since(self.front) > self.tick {
                self.front = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    #[test]
    fn a_key_comes_up_within_a_tick_after_its_deadline_and_never_before() {
        for due_ms in [0, 1, 99, 100, 101, 950, 5_000, 60_000] {
            let due = Instant::from_millis(due_ms);
            let mut wheel = Wheel::new(Instant::ZERO, TICK, 16);
            wheel.insert((), due);
            let mut fired = None;
            for step in 0..=1000 {
                let now = Instant::from_millis(step * 100);
                wheel.advance(now, |()| {
                    if now >= due {
                        fired = Some(now);
                        return None;
                    }
                    Some(due)
                });
                if fired.is_some() {
                    break;
                }
            }
            let fired = fired.expect("the key came up");
            assert!(fired >= due, "{due_ms} came up early at {fired:?}");
            assert!(fired <= due + TICK, "{due_ms} came up late at {fired:?}");
            assert!(wheel.is_empty());
        }
    }

    #[test]
    fn a_deadline_that_moved_is_filed_again() {
        let mut wheel = Wheel::new(Instant::ZERO, TICK, 4);
        wheel.insert(7, Instant::from_millis(200));
        let real = Instant::from_millis(900);
        let mut asked = 0;
        for step in 0..9 {
            wheel.advance(Instant::from_millis(step * 100), |_| {
                asked += 1;
                Some(real)
            });
        }
        assert!((1..=4).contains(&asked), "asked {asked} times");
        assert_eq!(wheel.len(), 1);
    }

    #[test]
    fn a_wheel_that_slept_long_catches_up() {
        let mut wheel = Wheel::new(Instant::ZERO, TICK, 8);
        wheel.insert(1, Instant::from_millis(300));
        let mut fired = Vec::new();
        wheel.advance(Instant::from_millis(3_600_000), |key| {
            fired.push(*key);
            None
        });
        assert_eq!(fired, [1]);
        wheel.insert(2, Instant::from_millis(3_600_200));
        wheel.advance(Instant::from_millis(3_600_300), |key| {
            fired.push(*key);
            None
        });
        assert_eq!(fired, [1, 2]);
    }
}
