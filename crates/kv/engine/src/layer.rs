//! What was applied and has not reached the engine: one ordered map a space, with gaps for what
//! was removed.
//!
//! A key that was new and goes again leaves nothing behind: that is how a message that was
//! consumed between two checkpoints costs no write.

mod key;

use std::collections::{BTreeMap, btree_map::Entry};
use std::ops::Bound;

use bytes::Bytes;

use crate::{Batch, Change, KeyRange, SpaceId};
use key::{Key, Ordered, Probe};

/// What an entry costs beside its bytes, about.
const ENTRY_BYTES: usize = 112;

/// See the module.
#[derive(Debug)]
pub(crate) struct Layer {
    spaces: Vec<BTreeMap<Key, Slot>>,
    bytes: usize,
}

/// What the layer says of a key.
#[derive(Clone, Debug)]
struct Slot {
    /// `None`: removed.
    value: Option<Bytes>,
    /// It is in nothing below.
    is_new: bool,
}

impl Layer {
    pub(crate) fn new(spaces: usize) -> Self {
        Self { spaces: (0..spaces).map(|_| BTreeMap::new()).collect(), bytes: 0 }
    }

    /// About how many bytes of memory it holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.spaces.iter().all(BTreeMap::is_empty)
    }

    pub(crate) fn apply(&mut self, batch: Batch) {
        for change in batch {
            match change {
                Change::Put { space, key, value, is_new } => self.put(space, key, value, is_new),
                Change::Remove { space, key } => self.remove(space, key),
            }
        }
    }

    fn put(&mut self, space: SpaceId, key: Bytes, value: Bytes, is_new: bool) {
        match self.spaces[space.index()].entry(Key::new(key)) {
            Entry::Vacant(place) => {
                self.bytes += ENTRY_BYTES + place.key().bytes.len() + value.len();
                place.insert(Slot { value: Some(value), is_new });
            }
            Entry::Occupied(mut place) => {
                let slot = place.get_mut();
                self.bytes += value.len();
                self.bytes -= slot.value.as_ref().map_or(0, Bytes::len);
                // What is below does not change by what happens above: a gap stays over it.
                slot.value = Some(value);
            }
        }
    }

    fn remove(&mut self, space: SpaceId, key: Bytes) {
        match self.spaces[space.index()].entry(Key::new(key)) {
            Entry::Vacant(place) => {
                self.bytes += ENTRY_BYTES + place.key().bytes.len();
                place.insert(Slot { value: None, is_new: false });
            }
            Entry::Occupied(mut place) => {
                let slot = place.get_mut();
                self.bytes -= slot.value.take().map_or(0, |value| value.len());
                if slot.is_new {
                    self.bytes -= ENTRY_BYTES + place.key().bytes.len();
                    place.remove();
                }
            }
        }
    }

    /// What it says of a key: nothing, that it was removed, or its value.
    pub(crate) fn get(&self, space: SpaceId, key: &[u8]) -> Option<Option<&Bytes>> {
        let probe: &dyn Ordered = &Probe::new(key);
        self.spaces[space.index()].get(probe).map(|slot| slot.value.as_ref())
    }

    /// What it says of a range that is not empty, in ascending order.
    pub(crate) fn range<'a>(
        &'a self,
        space: SpaceId,
        range: &'a KeyRange,
    ) -> impl Iterator<Item = (&'a Bytes, Option<&'a Bytes>)> {
        let (start, end) = Probe::bounds(range);
        let found = self.spaces[space.index()]
            .range::<dyn Ordered, _>((as_ordered(&start), as_ordered(&end)));
        found.map(|(key, slot)| (&key.bytes, slot.value.as_ref()))
    }

    /// What has survived, for the engine.
    pub(crate) fn to_batch(&self) -> Batch {
        let mut batch = Batch::new();
        for (number, space) in (0..=u8::MAX).zip(&self.spaces) {
            let space_id = SpaceId(number);
            for (key, slot) in space {
                match &slot.value {
                    Some(value) => batch.put(space_id, key.bytes.clone(), value.clone()),
                    None => batch.remove(space_id, key.bytes.clone()),
                }
            }
        }
        batch
    }
}

fn as_ordered<'a, 'b>(bound: &'a Bound<Probe<'b>>) -> Bound<&'a (dyn Ordered + 'b)> {
    bound.as_ref().map(|probe| -> &(dyn Ordered + 'b) { probe })
}
