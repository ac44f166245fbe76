//! What the transient sessions of this host want: the table that others are told of.
//!
//! It has one writer, this life of this host. Each change has a sequence, and each entry that of its last
//! change. Lately changed entries are also in the order of their changes, so that a follower is told what
//! came after the sequence that it has; one that is too far behind is told everything again. Of an entry
//! that changes several times in between, only what it is at last is told.
//!
//! Invariants: `recent` has each entry at most once, under its last change; nothing that changed after
//! `forgotten` is missing in it; it has at most `recent_min` places, or as many as there are entries.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use ratatosk_codec::SubscriptionOptions;
use ratatosk_contract::TenantId;
use ratatosk_contract::group::{Member, MemberState};

use crate::record::{MemberRecord, Record, flags_of, put};

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    entries: BTreeMap<Key, Entry>,
    /// The members among the keys, to be looked at in turn.
    members: usize,
    sequence: u64,
    /// The keys by their last changes.
    recent: BTreeMap<u64, Key>,
    /// Keys in `recent` that are not entries any more.
    gone: BTreeMap<Key, u64>,
    forgotten: u64,
    recent_min: usize,
    /// Where the next look at members begins.
    looked: Option<Key>,
}

/// What is wanted, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    tenant: TenantId,
    /// With its share prefix, if it is of a member.
    filter: Arc<str>,
    /// The number of a member.
    member: Option<u64>,
}

#[derive(Debug)]
struct Entry {
    changed: u64,
    wish: Wish,
}

#[derive(Debug)]
enum Wish {
    /// So many receivers have a filter.
    Filter(u32),
    Member(Joined),
}

#[derive(Debug)]
struct Joined {
    incarnation: u64,
    options: SubscriptionOptions,
    subscription_id: Option<u32>,
    state: Arc<MemberState>,
    /// Of the state, as it was told last.
    flags: u8,
}

/// Somebody is too far behind, and has to be told everything.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct TooFar;

impl Table {
    /// An empty table that remembers at least so many changes.
    pub(crate) fn new(recent_min: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            members: 0,
            sequence: 0,
            recent: BTreeMap::new(),
            gone: BTreeMap::new(),
            forgotten: 0,
            recent_min,
            looked: None,
        }
    }

    /// The last change.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How many filters and members there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// One receiver more; answers the change by which it is told.
    pub(crate) fn want(&mut self, tenant: &TenantId, filter: &str) -> u64 {
        let key = key(tenant, filter, None);
        if let Some(Entry { changed, wish: Wish::Filter(count) }) = self.entries.get_mut(&key) {
            *count = count.saturating_add(1);
            return *changed;
        }
        let changed = self.touch(&key, None);
        self.entries.insert(key, Entry { changed, wish: Wish::Filter(1) });
        changed
    }

    /// One receiver less.
    pub(crate) fn unwant(&mut self, tenant: &TenantId, filter: &str) -> u64 {
        let key = key(tenant, filter, None);
        let Some(Entry { changed, wish: Wish::Filter(count) }) = self.entries.get_mut(&key) else {
            return self.sequence;
        };
        *count -= 1;
        if *count > 0 {
            return *changed;
        }
        self.remove(&key)
    }

    /// A member joins, or has other options.
    pub(crate) fn join(&mut self, tenant: &TenantId, filter: &str, member: &Member) -> u64 {
        let key = key(tenant, filter, Some(member.id));
        let held = match self.entries.get(&key) {
            Some(Entry { changed, wish: Wish::Member(joined) }) => Some((*changed, joined)),
            _ => None,
        };
        if let Some((changed, joined)) = held {
            let is_same = joined.incarnation == member.incarnation
                && joined.options == member.options
                && joined.subscription_id == member.subscription_id
                && Arc::ptr_eq(&joined.state, &member.state);
            if is_same || joined.incarnation > member.incarnation {
                return changed;
            }
        }
        let before = held.map(|(changed, _)| changed);
        let changed = self.touch(&key, before);
        let joined = Joined {
            incarnation: member.incarnation,
            options: member.options,
            subscription_id: member.subscription_id,
            state: Arc::clone(&member.state),
            flags: flags_of(&member.state),
        };
        self.members += usize::from(before.is_none());
        self.entries.insert(key, Entry { changed, wish: Wish::Member(joined) });
        changed
    }

    /// A member of this or an earlier life leaves.
    pub(crate) fn leave(
        &mut self,
        tenant: &TenantId,
        filter: &str,
        id: u64,
        incarnation: u64,
    ) -> u64 {
        let key = key(tenant, filter, Some(id));
        match self.entries.get(&key) {
            Some(Entry { wish: Wish::Member(joined), .. }) if joined.incarnation <= incarnation => {
                self.members -= 1;
                self.remove(&key)
            }
            _ => self.sequence,
        }
    }

    /// Looks at the states of the next members, so many entries at most; whether one has changed.
    pub(crate) fn look(&mut self, entries_max: usize) -> bool {
        if self.members == 0 {
            return false;
        }
        let from = self.looked.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut changed = Vec::new();
        let mut left = entries_max;
        for (key, entry) in self.entries.range((from, Bound::Unbounded)) {
            if let Wish::Member(joined) = &entry.wish
                && flags_of(&joined.state) != joined.flags
            {
                changed.push((key.clone(), entry.changed));
            }
            left -= 1;
            if left == 0 {
                self.looked = Some(key.clone());
                break;
            }
        }
        for (key, before) in &changed {
            let now = self.touch(key, Some(*before));
            if let Some(entry) = self.entries.get_mut(key)
                && let Wish::Member(joined) = &mut entry.wish
            {
                (entry.changed, joined.flags) = (now, flags_of(&joined.state));
            }
        }
        !changed.is_empty()
    }

    /// Appends what changed after `seen`, about `bytes_max` bytes of it, and up to which sequence that
    /// was. Nothing is appended if nothing has changed.
    pub(crate) fn changes(
        &self,
        seen: u64,
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> Result<u64, TooFar> {
        if seen < self.forgotten {
            return Err(TooFar);
        }
        if seen >= self.sequence {
            return Ok(seen);
        }
        put(into, &Record::After(seen));
        let (mut through, mut tenant) = (self.sequence, None);
        for (changed, key) in self.recent.range((Bound::Excluded(seen), Bound::Unbounded)) {
            put_entry(into, &mut tenant, key, self.entries.get(key));
            if into.len() >= bytes_max {
                through = *changed;
                break;
            }
        }
        put(into, &Record::Through(through));
        Ok(through)
    }

    /// Appends the entries behind a key, about `bytes_max` bytes of them; answers the last one, none if
    /// there are no more. Entries that change meanwhile are told as they are when their turn comes.
    pub(crate) fn page(
        &self,
        behind: Option<&Key>,
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> Option<Key> {
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let mut tenant = None;
        for (key, entry) in self.entries.range((from, Bound::Unbounded)) {
            put_entry(into, &mut tenant, key, Some(entry));
            if into.len() >= bytes_max {
                return Some(key.clone());
            }
        }
        None
    }

    fn remove(&mut self, key: &Key) -> u64 {
        let before = self.entries.remove(key).map(|entry| entry.changed);
        let changed = self.touch(key, before);
        if self.recent.contains_key(&changed) {
            self.gone.insert(key.clone(), changed);
        }
        changed
    }

    /// Numbers a change of an entry that changed last at `before`.
    fn touch(&mut self, key: &Key, before: Option<u64>) -> u64 {
        if let Some(before) = before.or_else(|| self.gone.remove(key)) {
            self.recent.remove(&before);
        }
        self.sequence += 1;
        self.recent.insert(self.sequence, key.clone());
        let recent_max = self.recent_min.max(self.entries.len());
        while self.recent.len() > recent_max {
            let Some((changed, key)) = self.recent.pop_first() else { break };
            self.forgotten = changed;
            if self.gone.get(&key) == Some(&changed) {
                self.gone.remove(&key);
            }
        }
        self.sequence
    }

    /// Panics unless the invariants of the file's head hold.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        assert!(self.recent.len() <= self.recent_min.max(self.entries.len()) + 1);
        for (changed, key) in &self.recent {
            assert!((self.forgotten + 1..=self.sequence).contains(changed));
            match self.entries.get(key) {
                Some(entry) => assert_eq!(entry.changed, *changed, "{key:?}"),
                None => assert_eq!(self.gone.get(key), Some(changed), "{key:?}"),
            }
        }
        for (key, entry) in &self.entries {
            assert!(!self.gone.contains_key(key), "{key:?} is there");
            let is_recent = self.recent.contains_key(&entry.changed);
            assert_eq!(is_recent, entry.changed > self.forgotten, "{key:?}");
        }
        assert!(self.gone.values().all(|changed| self.recent.contains_key(changed)));
        let members = self.entries.keys().filter(|key| key.member.is_some()).count();
        assert_eq!(members, self.members);
    }
}

fn key(tenant: &TenantId, filter: &str, member: Option<u64>) -> Key {
    Key { tenant: tenant.clone(), filter: filter.into(), member }
}

/// Appends what an entry is, or that it is not, behind whose it is.
fn put_entry<'a>(
    into: &mut Vec<u8>,
    tenant: &mut Option<&'a TenantId>,
    key: &'a Key,
    entry: Option<&Entry>,
) {
    if *tenant != Some(&key.tenant) {
        put(into, &Record::Tenant(key.tenant.as_str()));
        *tenant = Some(&key.tenant);
    }
    let filter = &*key.filter;
    let record = match (entry.map(|entry| &entry.wish), key.member) {
        (Some(Wish::Member(joined)), Some(id)) => Record::Member(MemberRecord {
            filter,
            id,
            incarnation: joined.incarnation,
            options: joined.options.to_byte(),
            subscription_id: joined.subscription_id,
            flags: joined.flags,
        }),
        (Some(_), _) => Record::Filter(filter),
        (None, Some(id)) => Record::MemberGone { filter, id },
        (None, None) => Record::FilterGone(filter),
    };
    put(into, &record);
}

#[cfg(test)]
#[path = "table_test.rs"]
mod tests;
