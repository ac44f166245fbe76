//! Which ranges have gone on in others, and which overlap in doubt. KV-018
//!
//! Ranges of one keyspace never have a key in common, but words of them may be old: one that was
//! split is still told of with all its keys, and one that was taken in is still there on a store
//! that did not hear of it. Then the other comes from it, and can prove it: the number of a range
//! that a split made follows from its parent and an entry, and a range that took another in says
//! so, or has the other's first key in a later version, which it cannot have in another way
//! (`docs/decisions/0013-the-left-ranges-log-decides-a-merge.md`). Without proof nobody is removed: the overlap is an alarm.
//!
//! A proof that goes through a range that is nowhere any more may fail, and is an alarm, too.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ratatosk_store::log::GroupId;
use ratatosk_store::range::Fate;

use crate::landscape::{Birth, Lineage};
use crate::plan::Alarm;
use crate::scene::Range;

/// How many splits a proof may go through.
const ANCESTORS_MAX: usize = 64;

type Ranges<'a> = BTreeMap<GroupId, Range<'a>>;

/// What is to be said of the ranges of a landscape.
#[derive(Default)]
pub(crate) struct Verdict {
    /// Others have all of their keys, by proof, and are led.
    pub(crate) superseded: BTreeSet<GroupId>,
    pub(crate) alarms: Vec<Alarm>,
}

impl Verdict {
    pub(crate) fn of(ranges: &Ranges<'_>) -> Self {
        let mut verdict = Self::default();
        // By group, those that have keys of it by proof.
        let mut successors: BTreeMap<GroupId, Vec<&Range<'_>>> = BTreeMap::new();
        for (left, right) in overlaps(ranges) {
            let mut is_proven = false;
            for (heir, ancestor) in [(left, right), (right, left)] {
                if comes_from(ranges, heir, ancestor) {
                    successors.entry(ancestor.group).or_default().push(heir);
                    is_proven = true;
                }
            }
            if !is_proven {
                let keys = left.descriptor.boundary.intersection(&right.descriptor.boundary);
                let groups = (left.group.min(right.group), left.group.max(right.group));
                let keyspace = left.descriptor.keyspace.clone();
                verdict.alarms.push(Alarm { keyspace, groups, keys });
            }
        }
        for (group, heirs) in successors {
            let is_led = heirs.iter().all(|heir| heir.leader.is_some());
            if is_led && ranges.get(&group).is_some_and(|range| is_covered(range, &heirs)) {
                verdict.superseded.insert(group);
            }
        }
        verdict
    }
}

/// Every two ranges that have a key in common, once.
fn overlaps<'r, 'a>(ranges: &'r Ranges<'a>) -> Vec<(&'r Range<'a>, &'r Range<'a>)> {
    let held = ranges.values().filter(|range| !range.descriptor.boundary.is_empty());
    let mut sorted: Vec<_> = held.collect();
    sorted.sort_by_key(|range| (&range.descriptor.keyspace, &range.descriptor.boundary.start));
    let mut found = Vec::new();
    for (at, left) in sorted.iter().enumerate() {
        let behind = sorted[at + 1..].iter().take_while(|right| {
            let starts_within = left.descriptor.boundary.contains(&right.descriptor.boundary.start);
            left.descriptor.keyspace == right.descriptor.keyspace && starts_within
        });
        found.extend(behind.map(|right| (*left, *right)));
    }
    found
}

/// Whether the heirs have every key of the range between them.
fn is_covered(range: &Range<'_>, heirs: &[&Range<'_>]) -> bool {
    let mut sorted: Vec<_> = heirs.iter().map(|heir| &heir.descriptor.boundary).collect();
    sorted.sort_by_key(|boundary| &boundary.start);
    let boundary = &range.descriptor.boundary;
    // The first key that is not known to be covered; `None` behind the last one there is.
    let mut open: Option<Bytes> = Some(boundary.start.clone());
    for heir in sorted {
        let Some(key) = &open else { break };
        if heir.contains(key) {
            open.clone_from(&heir.end);
        }
    }
    match (open, &boundary.end) {
        (None, _) => true,
        (Some(open), Some(end)) => open >= *end,
        (Some(_), None) => false,
    }
}

/// Whether what `heir` has of the ancestor's keys, it has from it: since later than all that is
/// known of the ancestor.
fn comes_from(ranges: &Ranges<'_>, heir: &Range<'_>, ancestor: &Range<'_>) -> bool {
    let Lineage { birth, taken_in } = heir.lineage;
    let is_merged = heir.descriptor.fate_of(ancestor.descriptor) == Some(Fate::Merged);
    if is_merged || has_taken(heir.lineage, ancestor, u64::MAX) {
        return true;
    }
    let own = birth.map(|birth| (heir.group, birth));
    let theirs = taken_in.iter().filter_map(|(group, taken)| Some((*group, taken.birth?)));
    own.into_iter().chain(theirs).any(|(child, birth)| is_born_of(ranges, child, birth, ancestor))
}

/// Whether a range was parted from the ancestor, or from one that was or had taken it in.
fn is_born_of(
    ranges: &Ranges<'_>,
    mut child: GroupId,
    mut birth: Birth,
    ancestor: &Range<'_>,
) -> bool {
    for _ in 0..ANCESTORS_MAX {
        if birth.parent.born(birth.index) != child {
            return false;
        }
        if birth.parent == ancestor.group {
            return birth.boundary > ancestor.descriptor.version.boundary;
        }
        let Some(parent) = ranges.get(&birth.parent) else { return false };
        if has_taken(parent.lineage, ancestor, birth.boundary) {
            return true;
        }
        let Some(next) = parent.lineage.birth else { return false };
        (child, birth) = (parent.group, next);
    }
    false
}

/// Whether the ancestor was taken in, as new as it is known, before a version.
fn has_taken(lineage: &Lineage, ancestor: &Range<'_>, before: u64) -> bool {
    lineage.taken_in.get(&ancestor.group).is_some_and(|taken| {
        let is_newest = taken.version.boundary >= ancestor.descriptor.version.boundary;
        is_newest && taken.boundary < before
    })
}
