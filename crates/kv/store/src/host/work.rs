//! What ranges have to do: counted where it is done, and looked at by whoever plans.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

/// One command of so many is looked at for its key.
const SAMPLED: u64 = 16;
/// Keys that are known at once.
const KEYS_MAX: usize = 128;

/// What a range had to do since it is here. Any thread may look.
#[derive(Debug, Default)]
pub(crate) struct Work {
    entries: AtomicU64,
    bytes: AtomicU64,
    commands: AtomicU64,
    operations: AtomicU64,
    busy_ns: AtomicU64,
    keys: Mutex<BTreeMap<Bytes, u64>>,
}

/// What was applied to a range.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Worked {
    /// Entries with commands.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Keys that were read, written and removed for them.
    pub operations: u64,
    /// How long that took; zero where nobody has a clock.
    pub busy: Duration,
}

impl Work {
    pub(crate) fn so_far(&self) -> Worked {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Worked {
            entries: read(&self.entries),
            bytes: read(&self.bytes),
            operations: read(&self.operations),
            busy: Duration::from_nanos(read(&self.busy_ns)),
        }
    }

    /// The keys that were seen as of late, each with how often; of those that are seen again and again. What
    /// is seen later counts more: all that is known counts half with each look. KV-024
    pub(crate) fn look_at_keys(&self) -> BTreeMap<Bytes, u64> {
        let mut keys = self.keys.lock();
        let seen = keys.clone();
        fade(&mut keys);
        seen
    }

    pub(super) fn add_entry(&self, bytes: usize) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn add_busy(&self, span: Duration) {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.busy_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Whether the next command is to be looked at for its key.
    pub(super) fn watches_next(&self) -> bool {
        self.commands.load(Ordering::Relaxed).is_multiple_of(SAMPLED)
    }

    /// A command was carried out, with so many operations, of which `key` was the first that changed
    /// something.
    pub(super) fn add_command(&self, operations: u64, key: Option<&Bytes>) {
        self.operations.fetch_add(operations, Ordering::Relaxed);
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let Some(key) = key.filter(|_| number.is_multiple_of(SAMPLED)) else { return };
        let mut keys = self.keys.lock();
        if let Some(count) = keys.get_mut(key) {
            *count += 1;
            return;
        }
        while keys.len() >= KEYS_MAX {
            fade(&mut keys);
        }
        // A copy: the key may be a part of a large entry.
        keys.insert(Bytes::copy_from_slice(key), 1);
    }
}

/// Counts all half; who then has nothing is forgotten.
fn fade(keys: &mut BTreeMap<Bytes, u64>) {
    keys.retain(|_, count| {
        *count /= 2;
        *count > 0
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Bytes {
        Bytes::copy_from_slice(&number.to_be_bytes())
    }

    /// KV-024: who is worked on much is seen, among many who are not, and the memory is bounded.
    #[test]
    fn keys_with_much_work_are_seen_among_many_with_little() {
        let work = Work::default();
        for number in 0..100_000 {
            // One of four is for the hot key; the others are for one key each.
            let key = if number % 4 == 1 { key(7) } else { key(1_000 + number) };
            // Whatever part of them is looked at.
            (0..SAMPLED + 1).for_each(|_| work.add_command(1, Some(&key)));
            assert!(work.keys.lock().len() <= KEYS_MAX);
        }
        let seen = work.look_at_keys();
        let hottest = seen.iter().max_by_key(|(_, count)| **count).expect("some are seen");
        assert_eq!(hottest.0, &key(7), "{seen:?}");
        assert_eq!(work.so_far().operations, 100_000 * (SAMPLED + 1));
    }

    /// KV-024: what was long ago is forgotten.
    #[test]
    fn keys_without_work_are_forgotten() {
        let work = Work::default();
        (0..64 * SAMPLED).for_each(|_| work.add_command(1, Some(&key(1))));
        assert_eq!(work.look_at_keys().get(&key(1)), Some(&64));
        (0..10).for_each(|_| drop(work.look_at_keys()));
        assert_eq!(work.look_at_keys(), BTreeMap::new());
    }
}
