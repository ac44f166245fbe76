//! Where snapshots are staged on the simulated disk: files that may find no room, and that a crash
//! leaves in whatever state.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use parking_lot::Mutex;
use ratatosk_store::snapshot::folder::{Folder, Staged};
use ratatosk_testkit::dice::Dice;

use crate::disk::{Power, failed};

/// See the module. Clones are the same one.
#[derive(Clone)]
pub(crate) struct SimFolder {
    power: Arc<Power>,
    files: Arc<Mutex<Files>>,
}

#[derive(Default)]
struct Files {
    held: BTreeMap<String, Content>,
    /// So many writes, then there is no room.
    room: Option<usize>,
}

type Content = Arc<Mutex<Vec<u8>>>;

/// A file of it.
pub(crate) struct SimFile {
    folder: SimFolder,
    content: Content,
}

impl SimFolder {
    /// An empty one.
    pub(crate) fn new(power: Arc<Power>) -> Self {
        SimFolder { power, files: Arc::default() }
    }

    /// Lets there be no room after so many writes.
    pub(crate) fn fill_after(&self, writes: usize) {
        self.files.lock().room = Some(writes);
    }

    /// Lets there be room.
    pub(crate) fn mend(&self) {
        self.files.lock().room = None;
    }

    /// Leaves of each file what a crash leaves.
    pub(crate) fn lose(&self, dice: &mut Dice) {
        for content in self.files.lock().held.values() {
            let mut content = content.lock();
            let kept = dice.below(content.len() + 1);
            content.truncate(kept);
        }
    }

    fn spend(&self) -> Result<()> {
        if self.power.is_gone() {
            return Err(failed());
        }
        match &mut self.files.lock().room {
            None => Ok(()),
            Some(0) => Err(ErrorKind::StorageFull.into()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl Folder for SimFolder {
    type File = SimFile;

    fn clear(&self) -> Result<()> {
        self.files.lock().held.clear();
        Ok(())
    }

    fn create(&self, name: &str) -> Result<SimFile> {
        self.spend()?;
        let content = Content::default();
        self.files.lock().held.insert(name.to_owned(), Arc::clone(&content));
        Ok(SimFile { folder: self.clone(), content })
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.files.lock().held.remove(name);
        Ok(())
    }

    fn has_room(&self, _bytes: u64) -> Result<bool> {
        Ok(self.files.lock().room != Some(0))
    }
}

impl Staged for SimFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.folder.spend()?;
        self.content.lock().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.folder.spend()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let content = self.content.lock();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = content.get(start..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(found.ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))?);
        Ok(())
    }
}
