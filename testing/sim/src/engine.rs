//! The engine on the simulated disk.
//!
//! It stands for `DurableEngine`, and keeps what an engine promises and no more: a batch is there as
//! a whole or not at all, and what was not persisted may be missing, but only from the end.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_engine::{Batch, Change, Engine, Error, KeyRange, MemoryEngine, SpaceId, View};
use ratatosk_testkit::dice::Dice;

use crate::disk::{Fate, Power, failed};
use crate::file::{Content, File};
use crate::planted::Planted;

/// How the keys of marks begin, in the store's own space.
const INSTALLING: u8 = b'i';
const REMOVING: u8 = b'r';

/// Spaces: the store's own, and one for each keyspace.
pub(crate) const SPACES: u8 = 4;

/// See the module. Clones are the same one.
#[derive(Clone)]
pub(crate) struct SimEngine {
    power: Arc<Power>,
    planted: Option<Planted>,
    /// The next sync does nothing.
    skips: Arc<AtomicBool>,
    file: Arc<Mutex<File<MemoryEngine>>>,
}

impl SimEngine {
    /// An empty one.
    pub(crate) fn new(power: Arc<Power>, planted: Option<Planted>) -> Self {
        let file = Arc::new(Mutex::new(File::new(MemoryEngine::new(SPACES))));
        SimEngine { power, planted, skips: Arc::default(), file }
    }

    /// As [`File::lose`].
    pub(crate) fn lose(&self, dice: &mut Dice) -> usize {
        self.file.lock().lose(dice)
    }

    /// Another file with the same content.
    pub(crate) fn copy(&self, power: Arc<Power>) -> Self {
        let file = Arc::new(Mutex::new(self.file.lock().copy()));
        SimEngine { power, planted: None, skips: Arc::default(), file }
    }

    /// A batch as the file has it: as one, if nothing is planted.
    fn pieces(&self, batch: Batch) -> Vec<Batch> {
        match self.planted {
            Some(Planted::AppliedApart) => {}
            Some(Planted::InstallUnmarked) if puts(&batch, INSTALLING) => return Vec::new(),
            Some(Planted::RemovalUnmarked) => return vec![without(batch, REMOVING)],
            _ => return vec![batch],
        }
        let (mut own, mut data) = (Batch::new(), Batch::new());
        for change in batch {
            let (Change::Put { space, .. } | Change::Remove { space, .. }) = &change;
            if *space == SpaceId(0) { own.push(change) } else { data.push(change) }
        }
        vec![own, data]
    }
}

impl Engine for SimEngine {
    type View = <MemoryEngine as Engine>::View;

    fn write(&self, batch: Batch) -> Result<(), Error> {
        let fate = self.power.spend();
        if fate == Fate::Refused {
            return Err(failed().into());
        }
        if self.planted == Some(Planted::InstallUnsynced) && removes(&batch, INSTALLING) {
            self.skips.store(true, Ordering::Relaxed);
        }
        let mut file = self.file.lock();
        for piece in self.pieces(batch) {
            file.write(piece);
        }
        if fate == Fate::Torn { Err(failed().into()) } else { Ok(()) }
    }

    fn persist(&self) -> Result<(), Error> {
        if self.power.spend() != Fate::Done {
            return Err(failed().into());
        }
        if !self.skips.swap(false, Ordering::Relaxed) {
            self.file.lock().sync();
        }
        Ok(())
    }

    fn view(&self) -> Self::View {
        self.file.lock().seen().view()
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

impl Content for MemoryEngine {
    type Batch = Batch;

    fn put(&self, batch: Batch) {
        self.write(batch).unwrap_or_else(|error| unreachable!("in memory: {error}"));
    }

    fn copy(&self) -> Self {
        let (copied, mut batch) = (MemoryEngine::new(SPACES), Batch::new());
        for space in (0..SPACES).map(SpaceId) {
            for (key, value) in content(&self.view(), space) {
                batch.put(space, key, value);
            }
        }
        copied.put(batch);
        copied
    }
}

fn is_put_of(change: &Change, kind: u8) -> bool {
    matches!(change, Change::Put { space: SpaceId(0), key, .. } if key[0] == kind)
}

fn puts(batch: &Batch, kind: u8) -> bool {
    batch.iter().any(|change| is_put_of(change, kind))
}

fn removes(batch: &Batch, kind: u8) -> bool {
    batch
        .iter()
        .any(|change| matches!(change, Change::Remove { space: SpaceId(0), key } if key[0] == kind))
}

fn without(batch: Batch, kind: u8) -> Batch {
    let mut kept = Batch::new();
    batch
        .into_iter()
        .filter(|change| !is_put_of(change, kind))
        .for_each(|change| kept.push(change));
    kept
}

/// Every key and value of a space.
pub(crate) fn content(view: &impl View, space: SpaceId) -> Vec<(Bytes, Bytes)> {
    let mut content = Vec::new();
    let scanned = view.scan(space, &KeyRange::all(), &mut |key, value| {
        content.push((Bytes::copy_from_slice(key), value.clone()));
        ControlFlow::Continue(())
    });
    scanned.unwrap_or_else(|error| unreachable!("in memory: {error}"));
    content
}
