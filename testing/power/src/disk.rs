//! A folder on a disk: what of it is certain, and what was done since.
//!
//! Invariants, of each file and each folder: what was taken into the certain part is a prefix of
//! what was done to it, and as long as the longest prefix that a finished sync had before it.

use std::collections::{BTreeMap, HashMap};

use thiserror::Error;

use crate::image::Image;
use crate::record::{Inode, Record};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// See the module.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The path of the folder, as the records have it.
    root: String,
    nodes: Vec<Node>,
    by_inode: HashMap<Inode, NodeId>,
    /// Syncs that have begun: of what, and what of it they have.
    syncs: HashMap<u64, (NodeId, usize)>,
}

/// The trace says something that cannot have happened, or that is not followed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Surprise(String);

/// A file or a folder, by its place in `nodes`.
type NodeId = usize;
const ROOT: NodeId = 0;

#[derive(Clone, Debug)]
enum Node {
    File(Parts<Vec<u8>, Change>),
    Folder { parts: Parts<Names, Naming>, now: Names },
}

type Names = BTreeMap<String, NodeId>;

/// What is certain, and what was done since, in order.
#[derive(Clone, Debug)]
struct Parts<C, D> {
    certain: C,
    done: Vec<D>,
    /// How many were done and are certain.
    taken: usize,
}

#[derive(Clone, Debug)]
enum Change {
    Written { offset: usize, bytes: Vec<u8> },
    Resized(usize),
    Grown(usize),
}

#[derive(Clone, Debug)]
enum Naming {
    Set(String, NodeId),
    Removed(String),
    Renamed { from: String, to: String },
}

/// What becomes of all that is not certain, in one respect.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    /// Of each part another prefix is kept.
    Mixed,
}

impl Disk {
    /// A disk whose folder is known under `root`, and on which all of it is certain.
    #[must_use]
    pub fn new(root: &str, image: &Image) -> Disk {
        let mut disk = Disk {
            root: root.trim_end_matches('/').to_owned(),
            nodes: vec![Node::folder()],
            by_inode: HashMap::new(),
            syncs: HashMap::new(),
        };
        for (name, content) in &image.entries {
            let node = match content {
                Some(bytes) => Node::File(Parts::new(bytes.clone())),
                None => Node::folder(),
            };
            let id = disk.add(node);
            let (above, last) = name.rsplit_once('/').unwrap_or(("", name));
            let above = disk.find_below(above).unwrap_or(ROOT);
            if let Node::Folder { parts, now } = &mut disk.nodes[above] {
                parts.certain.insert(last.to_owned(), id);
                now.insert(last.to_owned(), id);
            }
        }
        disk
    }

    /// Carries on with what happened next.
    ///
    /// # Errors
    /// [`Surprise`]; the disk is then of no use.
    pub fn apply(&mut self, record: Record) -> Result<(), Surprise> {
        match record {
            Record::Opened { path, inode, is_emptied } => {
                let id = self.opened(&path)?;
                self.by_inode.insert(inode, id);
                if is_emptied {
                    self.change(inode, Change::Resized(0))?;
                }
            }
            Record::Written { inode, offset, bytes } => {
                self.change(inode, Change::Written { offset: size(offset)?, bytes })?;
            }
            Record::Resized { inode, size: end } => {
                self.change(inode, Change::Resized(size(end)?))?;
            }
            Record::Grown { inode, size: end } => self.change(inode, Change::Grown(size(end)?))?,
            Record::SyncBegun { sync, inode, path } => {
                let found = self.find(&path).or_else(|| self.by_inode.get(&inode).copied());
                let id = found.ok_or_else(|| surprise("a sync of what is not known", &path))?;
                self.syncs.insert(sync, (id, self.nodes[id].count()));
            }
            Record::SyncEnded { sync } => {
                let begun = self.syncs.remove(&sync);
                let (id, count) = begun.ok_or_else(|| surprise("a sync without a begin", "?"))?;
                self.nodes[id].take(count);
            }
            Record::Renamed { from, to } => self.rename(&from, &to)?,
            Record::Removed { path } => {
                let (folder, name) = self.place(&path)?;
                self.name(folder, Naming::Removed(name))?;
            }
            Record::FolderMade { path } => {
                let (folder, name) = self.place(&path)?;
                let id = self.add(Node::folder());
                self.name(folder, Naming::Set(name, id))?;
            }
            Record::Unknown { call } => return Err(surprise("a call that is not followed", &call)),
        }
        Ok(())
    }

    /// What was done and is not certain: changes of files and of names.
    #[must_use]
    pub fn uncertain_count(&self) -> usize {
        let open = self.nodes.iter().map(|node| match node {
            Node::File(parts) => parts.done.len(),
            Node::Folder { parts, .. } => parts.done.len(),
        });
        open.sum()
    }

    /// All that was done.
    #[must_use]
    pub fn whole(&self) -> Image {
        self.image([Fate::Kept; 3], &mut |_| 0)
    }

    /// What there may be after a power loss. `below` gives a number below another, at least 1.
    #[must_use]
    pub fn lose(&self, below: &mut dyn FnMut(usize) -> usize) -> Image {
        let mut draw = || [Fate::Mixed, Fate::Lost, Fate::Mixed, Fate::Kept][below(4)];
        let fates = [draw(), draw(), draw()];
        self.image(fates, below)
    }

    fn image(
        &self,
        [data, sizes, names]: [Fate; 3],
        below: &mut dyn FnMut(usize) -> usize,
    ) -> Image {
        let mut image = Image::default();
        let mut folders = vec![(ROOT, String::new())];
        while let Some((id, prefix)) = folders.pop() {
            let Node::Folder { parts, .. } = &self.nodes[id] else { continue };
            let kept = names.draw(parts.done.len(), below);
            let mut held = parts.certain.clone();
            parts.done[..kept].iter().for_each(|naming| naming.carry_out(&mut held));
            for (name, id) in held {
                let name = format!("{prefix}{name}");
                let content = match &self.nodes[id] {
                    Node::File(parts) => Some(parts.content(data, sizes, below)),
                    Node::Folder { .. } => {
                        folders.push((id, format!("{name}/")));
                        None
                    }
                };
                image.entries.insert(name, content);
            }
        }
        image
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// What a path of the records stands for now.
    fn find(&self, path: &str) -> Option<NodeId> {
        self.find_below(path.strip_prefix(&self.root)?)
    }

    fn find_below(&self, relative: &str) -> Option<NodeId> {
        let mut names = relative.split('/').filter(|name| !name.is_empty());
        names.try_fold(ROOT, |id, name| match &self.nodes[id] {
            Node::Folder { now, .. } => now.get(name).copied(),
            Node::File(_) => None,
        })
    }

    /// The folder that a path is in, and its name there.
    fn place(&self, path: &str) -> Result<(NodeId, String), Surprise> {
        let parts = path.rsplit_once('/').filter(|(_, name)| !name.is_empty());
        let (above, name) = parts.ok_or_else(|| surprise("no path", path))?;
        let folder = self.find(above).ok_or_else(|| surprise("a folder is missing", path))?;
        Ok((folder, name.to_owned()))
    }

    fn opened(&mut self, path: &str) -> Result<NodeId, Surprise> {
        if let Some(id) = self.find(path) {
            return Ok(id);
        }
        let (folder, name) = self.place(path)?;
        let id = self.add(Node::File(Parts::new(Vec::new())));
        self.name(folder, Naming::Set(name, id))?;
        Ok(id)
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), Surprise> {
        let (folder, from_name) = self.place(from)?;
        let (target, to_name) = self.place(to)?;
        if folder != target {
            return Err(surprise("a rename from folder to folder", to));
        }
        self.name(folder, Naming::Renamed { from: from_name, to: to_name })
    }

    fn name(&mut self, folder: NodeId, naming: Naming) -> Result<(), Surprise> {
        let Node::Folder { parts, now } = &mut self.nodes[folder] else {
            return Err(surprise("a name in what is no folder", &format!("{naming:?}")));
        };
        if let Naming::Removed(name) | Naming::Renamed { from: name, .. } = &naming
            && !now.contains_key(name)
        {
            return Err(surprise("a name that is not there is gone", name));
        }
        naming.carry_out(now);
        parts.done.push(naming);
        Ok(())
    }

    fn change(&mut self, inode: Inode, change: Change) -> Result<(), Surprise> {
        let id = self.by_inode.get(&inode);
        let Some(Node::File(parts)) = id.map(|id| &mut self.nodes[*id]) else {
            return Err(surprise("a change of what was not opened", &inode.to_string()));
        };
        parts.done.push(change);
        Ok(())
    }
}

impl Node {
    fn folder() -> Node {
        Node::Folder { parts: Parts::new(Names::new()), now: Names::new() }
    }

    /// How much was ever done to it.
    fn count(&self) -> usize {
        match self {
            Node::File(parts) => parts.taken + parts.done.len(),
            Node::Folder { parts, .. } => parts.taken + parts.done.len(),
        }
    }

    /// The first `count` that were ever done are certain.
    fn take(&mut self, count: usize) {
        match self {
            Node::File(parts) => parts.take(count, Change::carry_out),
            Node::Folder { parts, .. } => parts.take(count, Naming::carry_out),
        }
    }
}

impl<C, D> Parts<C, D> {
    fn new(certain: C) -> Self {
        Self { certain, done: Vec::new(), taken: 0 }
    }

    fn take(&mut self, count: usize, carry_out: impl Fn(&D, &mut C)) {
        let more = count.saturating_sub(self.taken);
        self.done.drain(..more).for_each(|done| carry_out(&done, &mut self.certain));
        self.taken += more;
    }
}

impl Parts<Vec<u8>, Change> {
    /// What the file may have: of each sector, and of the size, what some prefix of the changes made
    /// of it, each a prefix of its own.
    fn content(&self, data: Fate, size: Fate, below: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
        let mut content = self.certain.clone();
        if data == Fate::Kept && size == Fate::Kept {
            self.done.iter().for_each(|change| change.carry_out(&mut content));
            return content;
        }
        let kept = size.draw(self.done.len(), below);
        let end = self.done[..kept].iter().fold(content.len(), |size, change| change.size(size));
        content.resize(end, 0);
        for (sector, changes) in self.by_sector() {
            let kept = data.draw(changes.len(), below);
            let start = sector * SECTOR_BYTES;
            let Some(room) = content.get_mut(start..) else { continue };
            let length = room.len().min(SECTOR_BYTES);
            for change in &changes[..kept] {
                change.carry_out_in(start, &mut room[..length]);
            }
        }
        content
    }

    /// The changes that have a part in each sector, in order.
    fn by_sector(&self) -> BTreeMap<usize, Vec<&Change>> {
        let mut sectors: BTreeMap<usize, Vec<&Change>> = BTreeMap::new();
        let mut end = self.certain.len();
        for change in &self.done {
            let touched = match change {
                Change::Written { bytes, .. } if bytes.is_empty() => 0..0,
                Change::Written { offset, bytes } => *offset..*offset + bytes.len(),
                // What is cut off is zeros if the file grows again.
                Change::Resized(size) if *size < end => *size..end,
                Change::Resized(_) | Change::Grown(_) => 0..0,
            };
            end = change.size(end);
            if touched.is_empty() {
                continue;
            }
            for sector in touched.start / SECTOR_BYTES..=(touched.end - 1) / SECTOR_BYTES {
                sectors.entry(sector).or_default().push(change);
            }
        }
        sectors
    }
}

impl Change {
    /// What it makes of a file.
    fn carry_out(&self, content: &mut Vec<u8>) {
        content.resize(self.size(content.len()), 0);
        if let Change::Written { offset, bytes } = self {
            content[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// What it makes of a part of a file that begins at `start`.
    fn carry_out_in(&self, start: usize, part: &mut [u8]) {
        match self {
            Change::Written { offset, bytes } => {
                let from = (*offset).max(start);
                let to = (offset + bytes.len()).min(start + part.len());
                if from < to {
                    part[from - start..to - start]
                        .copy_from_slice(&bytes[from - offset..to - offset]);
                }
            }
            Change::Resized(size) => {
                let from = size.saturating_sub(start).min(part.len());
                part[from..].fill(0);
            }
            Change::Grown(_) => {}
        }
    }

    /// How large a file is afterwards that was so large.
    fn size(&self, before: usize) -> usize {
        match self {
            Change::Written { bytes, .. } if bytes.is_empty() => before,
            Change::Written { offset, bytes } => before.max(offset + bytes.len()),
            Change::Resized(size) => *size,
            Change::Grown(size) => before.max(*size),
        }
    }
}

impl Naming {
    fn carry_out(&self, names: &mut Names) {
        match self {
            Naming::Set(name, id) => drop(names.insert(name.clone(), *id)),
            Naming::Removed(name) => drop(names.remove(name)),
            Naming::Renamed { from, to } => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
            }
        }
    }
}

impl Fate {
    /// How many of so many are kept.
    fn draw(self, count: usize, below: &mut dyn FnMut(usize) -> usize) -> usize {
        match self {
            Fate::Kept => count,
            Fate::Lost => 0,
            Fate::Mixed => below(count + 1),
        }
    }
}

fn size(number: u64) -> Result<usize, Surprise> {
    usize::try_from(number).map_err(|_| surprise("no size", &number.to_string()))
}

fn surprise(what: &str, which: &str) -> Surprise {
    Surprise(format!("{what}: {which}"))
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod tests;
