//! What is written together: all of it or nothing.

use bytes::Bytes;

use crate::SpaceId;

/// The longest key that every engine takes. A topic alone may be as long: a layout that puts more
/// before it has to shorten it.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// Changes in the order in which they take effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    changes: Vec<Change>,
    bytes: usize,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key has this value from now on.
    Put {
        /// Where.
        space: SpaceId,
        /// The key.
        key: Bytes,
        /// Its value.
        value: Bytes,
        /// The caller knows that the key is not there, so its removal leaves no trace as long as
        /// it has not reached the engine.
        is_new: bool,
    },
    /// The key is not there from now on.
    Remove {
        /// Where.
        space: SpaceId,
        /// The key.
        key: Bytes,
    },
}

impl Batch {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The key has this value from now on.
    pub fn put(&mut self, space: SpaceId, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(Change::Put { space, key: key.into(), value: value.into(), is_new: false });
    }

    /// As [`put`](Self::put) for a key that is not there: what was inserted and removed between
    /// two checkpoints never reaches the engine.
    pub fn insert(&mut self, space: SpaceId, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(Change::Put { space, key: key.into(), value: value.into(), is_new: true });
    }

    /// The key is not there from now on; it need not have been.
    pub fn remove(&mut self, space: SpaceId, key: impl Into<Bytes>) {
        self.push(Change::Remove { space, key: key.into() });
    }

    /// Adds a change.
    ///
    /// # Panics
    /// If the key is empty or longer than [`KEY_BYTES_MAX`].
    pub fn push(&mut self, change: Change) {
        let (key, value_bytes) = match &change {
            Change::Put { key, value, .. } => (key, value.len()),
            Change::Remove { key, .. } => (key, 0),
        };
        assert!(!key.is_empty(), "a key has a byte");
        assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes", key.len());
        self.bytes += key.len() + value_bytes;
        self.changes.push(change);
    }

    /// How many changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes
    }

    /// What the batch makes of a key: nothing, that it is gone, or its value. Looks at one change
    /// after the other, from the last on.
    #[must_use]
    pub fn get(&self, space: SpaceId, key: &[u8]) -> Option<Option<&Bytes>> {
        self.changes.iter().rev().find_map(|change| match change {
            Change::Put { space: place, key: held, value, .. } => {
                (*place == space && held == key).then_some(Some(value))
            }
            Change::Remove { space: place, key: held } => {
                (*place == space && held == key).then_some(None)
            }
        })
    }

    /// Adds the changes of another batch behind these.
    pub fn append(&mut self, more: Batch) {
        self.bytes += more.bytes;
        self.changes.extend(more.changes);
    }

    /// The changes, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Change> {
        self.changes.iter()
    }
}

impl IntoIterator for Batch {
    type Item = Change;
    type IntoIter = std::vec::IntoIter<Change>;

    fn into_iter(self) -> Self::IntoIter {
        self.changes.into_iter()
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = &'a Change;
    type IntoIter = std::slice::Iter<'a, Change>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
