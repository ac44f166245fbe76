//! Where messages of groups wait at members that are away.
//!
//! A group has no queue of its own: the queues of its members that are away are it. This index
//! tells a member that has room where to look, without a look at any session, and at nothing at
//! all while nothing waits: see decision 0010.
//!
//! Invariants: whoever is away and has a message that another member may have is here under the
//! message's group, of an ordered group also under its publisher; whoever has an owner, or has
//! ended, is not. An entry whose messages have expired stays until somebody looks there, or there are
//! many of them.
//!
//! Entries change under the lock of their session's partition. The lock here comes after all
//! others, and nothing is called while it is held but the choice of a member.

use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::atomic::{AtomicUsize, Ordering},
};

use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use ratatosk_contract::{PublisherId, inbox::InboxId};

use crate::queue::{Origin, Queue};

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Stranded {
    /// Entries in all groups.
    count: AtomicUsize,
    groups: Mutex<HashMap<Origin, BTreeSet<Place>, foldhash::fast::RandomState>>,
}

/// A session where messages of a group wait.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Whose messages; `None` where the group has no order.
    pub(crate) publisher: Option<PublisherId>,
    pub(crate) inbox: InboxId,
}

/// What of one session is in the index.
#[derive(Debug, Default)]
pub(crate) struct Noted(Option<Box<HashSet<Key, foldhash::fast::RandomState>>>);

/// What waits in one session, of a group or of one of its publishers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    origin: Origin,
    publisher: Option<PublisherId>,
}

impl Key {
    fn of(origin: &Origin, publisher: PublisherId) -> Self {
        Key { origin: origin.clone(), publisher: origin.is_ordered.then_some(publisher) }
    }
}

impl Noted {
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |keys| keys.len())
    }

    /// About what it takes, here and in the index.
    pub(crate) fn memory_bytes(&self) -> usize {
        const ENTRY_BYTES: usize = 2 * size_of::<Key>() + 2 * size_of::<Place>();
        self.len() * ENTRY_BYTES
    }
}

impl Stranded {
    /// Whether nothing waits for anybody.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Whether something of a group waits.
    pub(crate) fn has(&self, origin: &Origin) -> bool {
        !self.is_empty() && self.groups.lock().contains_key(origin)
    }

    /// A message waits in a session; false if that it has some of the kind was known.
    pub(crate) fn note(
        &self,
        inbox: InboxId,
        noted: &mut Noted,
        origin: &Origin,
        publisher: PublisherId,
    ) -> bool {
        let key = Key::of(origin, publisher);
        let place = Place { publisher: key.publisher, inbox };
        if !noted.0.get_or_insert_default().insert(key) {
            return false;
        }
        let mut groups = self.groups.lock();
        groups.entry(origin.clone()).or_default().insert(place);
        self.count.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Notes what waits in a session, and nothing else.
    pub(crate) fn note_all(&self, inbox: InboxId, noted: &mut Noted, queue: &Queue) {
        self.forget_all(inbox, noted);
        for (_, origin, message) in queue.shared() {
            self.note(inbox, noted, origin, message.publisher);
        }
    }

    /// Nothing of a publisher waits in a session any more, or nothing of an unordered group.
    pub(crate) fn forget(
        &self,
        inbox: InboxId,
        noted: &mut Noted,
        origin: &Origin,
        publisher: PublisherId,
    ) {
        let key = Key::of(origin, publisher);
        let Some(keys) = &mut noted.0 else { return };
        if keys.remove(&key) {
            self.remove(inbox, std::iter::once(key));
        }
        if keys.is_empty() {
            noted.0 = None;
        }
    }

    /// The session has an owner, or has ended.
    pub(crate) fn forget_all(&self, inbox: InboxId, noted: &mut Noted) {
        if let Some(keys) = noted.0.take() {
            self.remove(inbox, keys.into_iter());
        }
    }

    fn remove(&self, inbox: InboxId, keys: impl Iterator<Item = Key>) {
        let mut groups = self.groups.lock();
        for Key { origin, publisher } in keys {
            let Some(places) = groups.get_mut(&origin) else { continue };
            let was_there = places.remove(&Place { publisher, inbox });
            self.count.fetch_sub(usize::from(was_there), Ordering::Relaxed);
            if places.is_empty() {
                groups.remove(&origin);
            }
        }
        if groups.is_empty() {
            groups.shrink_to(0);
        }
    }

    /// The session where messages of a publisher wait, of an ordered group.
    pub(crate) fn holder(&self, origin: &Origin, publisher: PublisherId) -> Option<InboxId> {
        if self.is_empty() {
            return None;
        }
        let at = |inbox| Place { publisher: Some(publisher), inbox: InboxId(inbox) };
        let groups = self.groups.lock();
        groups.get(origin)?.range(at(0)..=at(u64::MAX)).next_back().map(|place| place.inbox)
    }

    /// The next place of a group behind another one, of those where something wanted waits.
    pub(crate) fn next(
        &self,
        origin: &Origin,
        behind: Option<Place>,
        is_wanted: impl Fn(PublisherId) -> bool,
    ) -> Option<Place> {
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let groups = self.groups.lock();
        let mut places = groups.get(origin)?.range((from, Bound::Unbounded));
        places.find(|place| place.publisher.is_none_or(&is_wanted)).copied()
    }

    /// Every session with a group that it is under, and the publisher.
    #[cfg(test)]
    pub(crate) fn contents(&self) -> Vec<(Origin, Place)> {
        let groups = self.groups.lock();
        let each = |(origin, places): (&Origin, &BTreeSet<Place>)| {
            let origin = origin.clone();
            places.iter().map(move |place| (origin.clone(), *place)).collect::<Vec<_>>()
        };
        let contents: Vec<_> = groups.iter().flat_map(each).collect();
        assert_eq!(contents.len(), self.count.load(Ordering::Relaxed));
        contents
    }
}
