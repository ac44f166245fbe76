//! Snapshots that have come as a whole, for the host to take in.
//!
//! A file is read piece by piece, never as a whole, and checked once more on the way: what the disk has
//! is not believed either.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_engine::Error;

use super::folder::Staged;
use super::stream::{Damaged, FRONT_BYTES, Head, Piece, Position, piece_bytes};
use crate::host::Arrivals;
use crate::log::{GroupId, Truncated};

/// See the module. Clones are the same ones: one is the receiver's, one the host's.
#[derive(Debug)]
pub struct Shelf<F>(Arc<Mutex<BTreeMap<Place, Arc<Arrived<F>>>>>);

type Place = (GroupId, u64, u64);

/// A whole snapshot in a file.
#[derive(Debug)]
pub(super) struct Arrived<F> {
    pub(super) head: Head,
    /// The replica that it is for.
    pub(super) replica: u64,
    pub(super) name: String,
    pub(super) file: F,
    /// Bytes of the file.
    pub(super) length: u64,
}

impl<F> Shelf<F> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn put(&self, arrived: Arrived<F>) {
        let Head { descriptor, at, .. } = &arrived.head;
        let place = (descriptor.group, at.index, at.term);
        self.0.lock().insert(place, Arc::new(arrived));
    }

    /// Whether there is one of a group.
    pub(super) fn has(&self, group: GroupId) -> bool {
        self.0.lock().keys().any(|(held, ..)| *held == group)
    }

    /// Takes away those of which this is true; answers their names.
    pub(super) fn take(&self, goes: impl Fn(&Arrived<F>) -> bool) -> Vec<String> {
        let mut names = Vec::new();
        self.0.lock().retain(|_, arrived| {
            if goes(arrived) {
                names.push(arrived.name.clone());
            }
            !goes(arrived)
        });
        names
    }
}

impl<F> Clone for Shelf<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<F: Staged> Arrivals for Shelf<F> {
    fn read(
        &self,
        group: GroupId,
        at: Truncated,
        visit: &mut dyn FnMut(Bytes, Bytes) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let found = self.0.lock().get(&(group, at.index, at.term)).cloned();
        let Some(arrived) = found else {
            let detail = format!("no snapshot of group {} at entry {} has come", group.0, at.index);
            return Err(Error::Corrupt { detail });
        };
        arrived.read(visit)
    }
}

impl<F: Staged> Arrived<F> {
    fn read(&self, visit: &mut dyn FnMut(Bytes, Bytes) -> Result<(), Error>) -> Result<(), Error> {
        let Head { id, descriptor, .. } = &self.head;
        let (mut offset, mut position) = (0, Position::default());
        loop {
            let (piece, next) = self.piece(offset)?;
            match piece {
                Piece::Head(head) if offset == 0 && head == self.head => {}
                Piece::Chunk(chunk) if offset > 0 && chunk.id == *id => {
                    let behind = position.behind(&chunk, &descriptor.boundary);
                    position = behind.map_err(|what| self.damaged(Damaged { at: offset, what }))?;
                    for (key, value) in chunk.pairs() {
                        visit(key, value)?;
                    }
                }
                Piece::End(end) if end == position.end(*id) && next == self.length => return Ok(()),
                _ => {
                    let what = "a piece is not of this place";
                    return Err(self.damaged(Damaged { at: offset, what }));
                }
            }
            offset = next;
        }
    }

    /// The piece at a place, and where the next one is.
    fn piece(&self, offset: u64) -> Result<(Piece, u64), Error> {
        let here = |Damaged { at, what }| self.damaged(Damaged { at: offset + at, what });
        let cut = || here(Damaged { at: 0, what: "it ends early" });
        let rest = self.length.saturating_sub(offset);
        let mut front = [0; FRONT_BYTES];
        if rest < FRONT_BYTES as u64 {
            return Err(cut());
        }
        self.file.read_at(offset, &mut front)?;
        let length = piece_bytes(&front).map_err(here)?;
        // Before room is made for it.
        let whole = usize::try_from(length).ok().filter(|_| length <= rest).ok_or_else(cut)?;
        let mut bytes = vec![0; whole];
        self.file.read_at(offset, &mut bytes)?;
        let piece = Piece::decode(&bytes.into()).map_err(here)?;
        Ok((piece, offset + length))
    }

    fn damaged(&self, damaged: Damaged) -> Error {
        Error::Corrupt { detail: format!("{}: {damaged}", self.name) }
    }
}
