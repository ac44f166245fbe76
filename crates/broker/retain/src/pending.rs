//! Changes of this node that the log has not decided, where several nodes change the same topics.
//!
//! A topic shows the newest of them, and once there is none what was applied. A change is over when it, or a
//! later one of this node, is applied here; when it is known that it will not be, or may not; or when the
//! replicas here are known to have everything, it among it. So whatever several nodes ask for at the same
//! time, all show in the end what the log has last.
//!
//! Invariants: who has an entry has a change in it; what `messages` has of such a topic is the last change;
//! what is hidden is charged with the store.

use std::sync::Arc;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use ratatosk_contract::StoredMessage;

use crate::{
    schema::stamp::Stamp,
    store::{Held, Store},
};

/// What an entry takes besides the messages, in a table that is not full.
const ENTRY_BYTES: usize = 2 * (size_of::<Box<[u8]>>() + size_of::<Pending>());

/// The topics that have such changes, by their keys.
#[derive(Debug, Default)]
pub(crate) struct Pendings {
    by_key: HashMap<Box<[u8]>, Pending, RandomState>,
    /// How many changes are done and not known to be applied here.
    done: usize,
}

/// One topic.
#[derive(Debug, Default)]
struct Pending {
    /// What was applied.
    applied: Option<Held>,
    /// In the order in which they were submitted.
    own: Vec<Own>,
}

/// A change of this node.
#[derive(Debug)]
struct Own {
    stamp: Stamp,
    held: Option<Held>,
    /// The log has it, and so has everybody who may answer.
    is_done: bool,
}

impl Pendings {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

impl Pending {
    fn shown(&self) -> Option<&Held> {
        self.own.last().map_or(self.applied.as_ref(), |own| own.held.as_ref())
    }

    /// What is charged besides what is shown.
    fn alone_bytes(&self, key: &[u8]) -> usize {
        let Some((_, covered)) = self.own.split_last() else { return 0 };
        let hidden = covered.iter().filter_map(|own| own.held.as_ref()).chain(&self.applied);
        let hidden: usize = hidden.map(|held| held.alone_bytes(key)).sum();
        ENTRY_BYTES + key.len() + self.own.len() * size_of::<Own>() + hidden
    }

    fn done(&self) -> usize {
        self.own.iter().filter(|own| own.is_done).count()
    }

    /// Where a change stands, with how many before it.
    fn place(&self, stamp: Stamp) -> Option<usize> {
        self.own.iter().position(|own| own.stamp == stamp)
    }
}

impl Store {
    /// This node asks that a topic has this message, or none. Nothing is counted.
    pub(crate) fn begin(&mut self, key: &[u8], message: Option<Arc<StoredMessage>>, stamp: Stamp) {
        let held = message.map(|message| self.fresh(message, Some(stamp)));
        self.change(key, |pending| pending.own.push(Own { stamp, held, is_done: false }));
    }

    /// Whether the topic shows nothing, and nothing of it is undecided.
    pub(crate) fn is_clear(&self, key: &[u8]) -> bool {
        !self.messages.contains_key(key) && !self.pending.by_key.contains_key(key)
    }

    /// Whether a change is one of this node that is not over.
    pub(crate) fn is_own(&self, key: &[u8], stamp: Stamp) -> bool {
        let pending = self.pending.by_key.get(key);
        pending.is_some_and(|pending| pending.place(stamp).is_some())
    }

    /// A change of this node was applied; false if it is none, or was over.
    pub(crate) fn apply_own(&mut self, key: &[u8], stamp: Stamp) -> bool {
        if !self.is_own(key, stamp) {
            return false;
        }
        self.change(key, |pending| {
            let Some(place) = pending.place(stamp) else { return };
            // Those before it are before it in the log as well, or will never be there.
            if let Some(own) = pending.own.drain(..=place).next_back() {
                pending.applied = own.held;
            }
        });
        true
    }

    /// A change of another node was applied, or one of this node that was over.
    pub(crate) fn apply(&mut self, key: &[u8], held: Option<Held>) {
        match self.pending.by_key.contains_key(key) {
            true => self.change(key, |pending| pending.applied = held),
            false => self.show(key, held),
        }
    }

    /// What became of a change of this node is known: it is done, or it will not come, or may not.
    pub(crate) fn conclude(&mut self, key: &[u8], stamp: Stamp, is_done: bool) {
        if !self.is_own(key, stamp) {
            return;
        }
        self.change(key, |pending| {
            let Some(place) = pending.place(stamp) else { return };
            match is_done {
                true => pending.own[place].is_done = true,
                false => drop(pending.own.remove(place)),
            }
        });
    }

    /// Whether there are changes of this node that are done and not known to be applied here.
    pub(crate) fn has_done(&self) -> bool {
        self.pending.done > 0
    }

    /// The changes of this node that are done and not known to be applied here.
    pub(crate) fn done(&self) -> Vec<(Box<[u8]>, Stamp)> {
        if !self.has_done() {
            return Vec::new();
        }
        let done = self.pending.by_key.iter().flat_map(|(key, pending)| {
            let done = pending.own.iter().filter(|own| own.is_done);
            done.map(|own| (key.clone(), own.stamp))
        });
        done.collect()
    }

    /// What was applied here has these changes in it.
    pub(crate) fn forget_done(&mut self, done: &[(Box<[u8]>, Stamp)]) {
        for (key, stamp) in done {
            if self.is_own(key, *stamp) {
                self.change(key, |pending| {
                    let last = pending.place(*stamp).map_or(0, |place| place + 1);
                    pending.own.drain(..last);
                });
            }
        }
    }

    /// The topics that have something applied that is hidden.
    pub(crate) fn hidden(&self) -> Vec<(Box<[u8]>, Arc<StoredMessage>)> {
        let applied = self.pending.by_key.iter();
        let applied = applied.filter_map(|(key, pending)| Some((key, pending.applied.as_ref()?)));
        applied.map(|(key, held)| (key.clone(), Arc::clone(&held.message))).collect()
    }

    /// Changes what is known of a topic, and shows what follows from that.
    fn change(&mut self, key: &[u8], change: impl FnOnce(&mut Pending)) {
        let held = self.pending.by_key.remove_entry(key);
        let (key, mut pending) = held.unwrap_or_else(|| {
            let applied = self.messages.get(key).cloned();
            (key.into(), Pending { applied, own: Vec::new() })
        });
        self.alone -= pending.alone_bytes(&key);
        self.pending.done -= pending.done();
        change(&mut pending);
        self.show(&key, pending.shown().cloned());
        self.alone += pending.alone_bytes(&key);
        self.pending.done += pending.done();
        if !pending.own.is_empty() {
            self.pending.by_key.insert(key, pending);
        } else if self.pending.by_key.is_empty() {
            self.pending.by_key = HashMap::default();
        }
        self.charge();
    }

    /// Panics unless the invariants of the file's head hold; answers what is charged.
    #[cfg(test)]
    pub(crate) fn check_pending(&self) -> usize {
        let mut alone = 0;
        for (key, pending) in &self.pending.by_key {
            assert!(!pending.own.is_empty());
            let shown = self.messages.get(key).map(|held| held.serial);
            assert_eq!(shown, pending.shown().map(|held| held.serial));
            alone += pending.alone_bytes(key);
        }
        let done: usize = self.pending.by_key.values().map(Pending::done).sum();
        assert_eq!(self.pending.done, done);
        alone
    }
}
