//! Weighing a range by the tables that have keys of it, without reading any.

use bytes::Bytes;
use fjall::AbstractTree as _;

use super::DurableEngine;
use crate::{KeyRange, SpaceId, Weight};

impl DurableEngine {
    /// About how much of a range is on the disk. A table that is only in part of the range counts half; what
    /// is in memory counts nothing. Reads no data.
    #[must_use]
    pub fn weigh(&self, space: SpaceId, range: &KeyRange) -> Weight {
        let version = self.spaces[space.index()].tree.current_version();
        let mut parts: Vec<(Bytes, u64)> = Vec::new();
        for table in version.iter_tables() {
            let keys = &table.metadata.key_range;
            let is_apart = keys.max()[..] < range.start[..]
                || range.end.as_ref().is_some_and(|end| keys.min()[..] >= end[..]);
            if is_apart {
                continue;
            }
            let is_inside = range.contains(keys.min()) && range.contains(keys.max());
            let bytes = table.metadata.file_size / if is_inside { 1 } else { 2 };
            parts.push((Bytes::copy_from_slice(keys.min()), bytes));
        }
        parts.sort();
        let bytes = parts.iter().map(|(_, bytes)| bytes).sum();
        Weight { bytes, middle: middle(&parts, bytes, range) }
    }
}

/// The first key of a table that parts the bytes most evenly.
fn middle(parts: &[(Bytes, u64)], bytes: u64, range: &KeyRange) -> Option<Bytes> {
    let mut before = 0;
    let mut best: Option<(u64, &Bytes)> = None;
    for (first, held) in parts {
        let lighter = before.min(bytes - before);
        let parts_it = range.contains(first) && *first != range.start && lighter > 0;
        if parts_it && best.is_none_or(|(known, _)| lighter > known) {
            best = Some((lighter, first));
        }
        before += held;
    }
    best.map(|(_, key)| key.clone())
}
