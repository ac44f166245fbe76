//! An engine that keeps nothing: for tests, simulation, and nodes that are told so.
//!
//! A view is a copy on write: it shares the maps until the next batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::{Batch, Change, Engine, Error, KeyRange, SpaceId, View, Visitor};

type Spaces = Vec<BTreeMap<Bytes, Bytes>>;

/// See the module.
#[derive(Debug)]
pub struct MemoryEngine {
    spaces: RwLock<Arc<Spaces>>,
}

/// A moment of a [`MemoryEngine`].
#[derive(Clone, Debug)]
pub struct MemoryView(Arc<Spaces>);

impl MemoryEngine {
    /// An empty engine with so many spaces.
    #[must_use]
    pub fn new(spaces: u8) -> Self {
        let spaces = vec![BTreeMap::new(); spaces.into()];
        Self { spaces: RwLock::new(Arc::new(spaces)) }
    }
}

impl Engine for MemoryEngine {
    type View = MemoryView;

    fn write(&self, batch: Batch) -> Result<(), Error> {
        let mut spaces = self.spaces.write();
        let spaces = Arc::make_mut(&mut spaces);
        for change in batch {
            match change {
                Change::Put { space, key, value, .. } => {
                    spaces[space.index()].insert(key, value);
                }
                Change::Remove { space, key } => {
                    spaces[space.index()].remove(&key);
                }
            }
        }
        Ok(())
    }

    fn persist(&self) -> Result<(), Error> {
        Ok(())
    }

    fn view(&self) -> MemoryView {
        MemoryView(Arc::clone(&self.spaces.read()))
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

impl View for MemoryView {
    fn get(&self, space: SpaceId, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.0[space.index()].get(key).cloned())
    }

    fn scan(&self, space: SpaceId, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        for (key, value) in self.0[space.index()].range::<[u8], _>(range.bounds()) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}
