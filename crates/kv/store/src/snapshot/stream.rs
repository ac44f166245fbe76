//! The bytes of a snapshot on its way: a head, chunks of pairs, an end. Described in
//! `docs/formats/snapshot.md`.
//!
//! A piece is what is sent at once and written to a file as it is; each has a sum over itself, and all
//! pairs together have one. What is read comes from another store or a disk: nothing here panics, and
//! [`Damaged`] says where it is not what was written.

use bytes::Bytes;
use ratatosk_engine::wire::{self, Malformed, Parser};
use ratatosk_engine::{KEY_BYTES_MAX, KeyRange};

use crate::log::{GroupId, Truncated};
use crate::range::Descriptor;

/// The first number of a head.
const FORMAT: u64 = 1;
const HEAD: u8 = 1;
const CHUNK: u8 = 2;
const END: u8 = 3;
/// A piece begins with its kind and the length of its body.
pub(super) const FRONT_BYTES: usize = 5;
const SUM_BYTES: usize = 4;

/// Which snapshot it is: no two have the same data.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    /// The store that made it.
    pub store: u64,
    /// Its number there, never given twice.
    pub number: u64,
}

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which it is.
    pub id: SnapshotId,
    /// The range as it was then.
    pub descriptor: Descriptor,
    /// The last entry whose effects are in it.
    pub at: Truncated,
}

/// Pairs in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Of which snapshot.
    pub id: SnapshotId,
    /// Which it is of all: they count from 0.
    pub number: u64,
    /// Keys and values, each behind its length.
    pairs: Bytes,
    count: u64,
}

/// How much of a snapshot there is up to a place between two chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Chunks before it.
    pub chunks: u64,
    /// The last key before it; empty at the beginning.
    pub last_key: Bytes,
    /// Pairs before it.
    pub pairs: u64,
    /// Bytes that they take in chunks.
    pub bytes: u64,
    /// The sum over these.
    pub sum: u32,
}

/// What a whole snapshot has.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Of which snapshot.
    pub id: SnapshotId,
    /// How many chunks.
    pub chunks: u64,
    /// How many pairs.
    pub pairs: u64,
    /// Bytes that they take in chunks.
    pub bytes: u64,
    /// The sum over these.
    pub sum: u32,
}

/// A part of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The first.
    Head(Head),
    /// Some of the data.
    Chunk(Chunk),
    /// The last.
    End(End),
}

/// A stream is not what was written.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a snapshot is damaged at byte {at}: {what}")]
pub struct Damaged {
    /// The byte, from the first of what was read on.
    pub at: u64,
    /// What is wrong.
    pub what: &'static str,
}

/// A chunk that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    pairs: Vec<u8>,
    count: u64,
    bytes_max: usize,
}

impl Head {
    /// Its piece.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut body = Vec::new();
        wire::put_u64(&mut body, FORMAT);
        put_id(&mut body, self.id);
        for number in [self.descriptor.group.0, self.at.index, self.at.term] {
            wire::put_u64(&mut body, number);
        }
        wire::put_bytes(&mut body, self.descriptor.keyspace.as_bytes());
        wire::put_bytes(&mut body, &self.descriptor.encode());
        framed(HEAD, &body)
    }

    fn decode(body: &mut Parser<'_>) -> Result<Self, What> {
        if body.take_u64()? != FORMAT {
            return Err(What::Is("it is of another format"));
        }
        let id = take_id(body)?;
        let group = GroupId(body.take_u64()?);
        let at = Truncated { index: body.take_u64()?, term: body.take_u64()? };
        let keyspace = body.take_str()?;
        let descriptor = Descriptor::decode(group, body.take_bytes()?)?;
        match descriptor.keyspace == keyspace {
            true => Ok(Self { id, descriptor, at }),
            false => Err(What::Is("the range is of another keyspace")),
        }
    }
}

impl Chunk {
    /// Its piece.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut body = Vec::with_capacity(self.pairs.len() + 4 * 10);
        put_id(&mut body, self.id);
        wire::put_u64(&mut body, self.number);
        wire::put_u64(&mut body, self.count);
        body.extend_from_slice(&self.pairs);
        framed(CHUNK, &body)
    }

    fn decode(body: &mut Parser<'_>, whole: &Bytes) -> Result<Self, What> {
        let id = take_id(body)?;
        let number = body.take_u64()?;
        let count = body.take_u64()?;
        let pairs = whole.slice_ref(body.rest());
        let chunk = Self { id, number, pairs, count };
        let (mut found, mut last): (u64, Option<Bytes>) = (0, None);
        while !body.is_at_end() {
            let key = body.take_bytes()?;
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                return Err(What::Is("no key has such a length"));
            }
            if last.is_some_and(|last| last[..] >= *key) {
                return Err(What::Is("the keys do not rise"));
            }
            body.take_bytes()?;
            last = Some(whole.slice_ref(key));
            found += 1;
        }
        match found == count && count > 0 {
            true => Ok(chunk),
            false => Err(What::Is("it has another number of pairs")),
        }
    }

    /// Keys and values, in the order of the keys.
    pub fn pairs(&self) -> impl Iterator<Item = (Bytes, Bytes)> {
        let mut parser = Parser::new(&self.pairs);
        // It was read once, or written here: what is malformed does not come this far.
        std::iter::from_fn(move || {
            let key = self.pairs.slice_ref(parser.take_bytes().ok()?);
            Some((key, self.pairs.slice_ref(parser.take_bytes().ok()?)))
        })
    }
}

impl Position {
    /// The place behind a chunk that follows this one.
    ///
    /// # Errors
    /// If it does not follow, or has a key that is not of the range.
    pub fn behind(&self, chunk: &Chunk, boundary: &KeyRange) -> Result<Self, &'static str> {
        if chunk.number != self.chunks {
            return Err("a chunk is missing");
        }
        let first = chunk.pairs().next().map(|(key, _)| key).unwrap_or_default();
        let last = chunk.pairs().last().map(|(key, _)| key).unwrap_or_default();
        if first <= self.last_key {
            return Err("the keys do not rise");
        }
        if !boundary.contains(&first) || !boundary.contains(&last) {
            return Err("a key is not of the range");
        }
        let mut sum = crc32fast::Hasher::new_with_initial(self.sum);
        sum.update(&chunk.pairs);
        Ok(Self {
            chunks: self.chunks + 1,
            last_key: last,
            pairs: self.pairs.saturating_add(chunk.count),
            bytes: self.bytes.saturating_add(chunk.pairs.len() as u64),
            sum: sum.finalize(),
        })
    }

    /// What there is if nothing follows.
    #[must_use]
    pub fn end(&self, id: SnapshotId) -> End {
        let Self { chunks, pairs, bytes, sum, .. } = *self;
        End { id, chunks, pairs, bytes, sum }
    }
}

impl End {
    /// Its piece.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut body = Vec::new();
        put_id(&mut body, self.id);
        for number in [self.chunks, self.pairs, self.bytes] {
            wire::put_u64(&mut body, number);
        }
        body.extend_from_slice(&self.sum.to_be_bytes());
        framed(END, &body)
    }

    fn decode(body: &mut Parser<'_>) -> Result<Self, What> {
        let id = take_id(body)?;
        let (chunks, pairs, bytes) = (body.take_u64()?, body.take_u64()?, body.take_u64()?);
        Ok(Self { id, chunks, pairs, bytes, sum: take_sum(body)? })
    }
}

impl Piece {
    /// Reads one piece, which is all of `data`.
    ///
    /// # Errors
    /// [`Damaged`] if it is not what was written, or of another format.
    pub fn decode(data: &Bytes) -> Result<Self, Damaged> {
        let (kind, length) = front(data)?;
        let whole = FRONT_BYTES + length + SUM_BYTES;
        if data.len() != whole {
            let at = data.len().min(whole) as u64;
            return Err(Damaged { at, what: "it ends early, or has more behind it" });
        }
        let (summed, sum) = data.split_at(FRONT_BYTES + length);
        if sum != crc32fast::hash(summed).to_be_bytes() {
            return Err(Damaged { at: 0, what: "the sum of a piece is another" });
        }
        let mut body = Parser::new(&summed[FRONT_BYTES..]);
        let piece = match kind {
            HEAD => Head::decode(&mut body).map(Self::Head),
            CHUNK => Chunk::decode(&mut body, data).map(Self::Chunk),
            END => End::decode(&mut body).map(Self::End),
            _ => return Err(Damaged { at: 0, what: "it is no piece" }),
        };
        let at = (summed.len() - body.rest().len()) as u64;
        match piece {
            Ok(piece) if body.is_at_end() => Ok(piece),
            Ok(_) => Err(Damaged { at, what: "a piece has more than it should" }),
            Err(What::Is(what)) => Err(Damaged { at, what }),
            Err(What::Malformed) => Err(Damaged { at, what: "it does not say what it should" }),
        }
    }
}

/// How long the piece is that begins so, its sum included.
///
/// # Errors
/// [`Damaged`] if that is less than the front of one.
pub(super) fn piece_bytes(data: &[u8]) -> Result<u64, Damaged> {
    let (_, length) = front(data)?;
    Ok((FRONT_BYTES + length + SUM_BYTES) as u64)
}

fn front(data: &[u8]) -> Result<(u8, usize), Damaged> {
    let cut = Damaged { at: data.len() as u64, what: "it ends early" };
    let (kind, rest) = data.split_first().ok_or(cut)?;
    let (length, _) = rest.split_first_chunk().ok_or(cut)?;
    Ok((*kind, usize::try_from(u32::from_be_bytes(*length)).map_err(|_| cut)?))
}

/// Why a body is refused; the parser knows where.
enum What {
    Malformed,
    Is(&'static str),
}

impl From<Malformed> for What {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

pub(crate) fn framed(kind: u8, body: &[u8]) -> Bytes {
    // An entry that large is never written, so neither is a pair.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut piece = Vec::with_capacity(FRONT_BYTES + body.len() + SUM_BYTES);
    piece.push(kind);
    piece.extend_from_slice(&length.to_be_bytes());
    piece.extend_from_slice(body);
    let sum = crc32fast::hash(&piece);
    piece.extend_from_slice(&sum.to_be_bytes());
    piece.into()
}

fn put_id(into: &mut Vec<u8>, id: SnapshotId) {
    wire::put_u64(into, id.store);
    wire::put_u64(into, id.number);
}

fn take_id(parser: &mut Parser<'_>) -> Result<SnapshotId, Malformed> {
    Ok(SnapshotId { store: parser.take_u64()?, number: parser.take_u64()? })
}

fn take_sum(parser: &mut Parser<'_>) -> Result<u32, Malformed> {
    let sum = parser.take_exactly(SUM_BYTES)?.try_into();
    sum.map(u32::from_be_bytes).map_err(|_| Malformed)
}

impl Filling {
    /// Room for so many bytes; a larger pair has a chunk for itself.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { pairs: Vec::new(), count: 0, bytes_max }
    }

    /// Adds a pair; false if it has to wait for the next chunk.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> bool {
        let length = self.pairs.len();
        wire::put_bytes(&mut self.pairs, key);
        wire::put_bytes(&mut self.pairs, value);
        if length > 0 && self.pairs.len() > self.bytes_max {
            self.pairs.truncate(length);
            return false;
        }
        self.count += 1;
        true
    }

    /// The chunk; `None` if nothing was added.
    pub(super) fn finish(self, id: SnapshotId, number: u64) -> Option<Chunk> {
        let Self { pairs, count, .. } = self;
        (count > 0).then(|| Chunk { id, number, pairs: pairs.into(), count })
    }
}
