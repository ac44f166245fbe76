//! What this host knows of all records.
//!
//! A record is *visible* while its host counts as alive. That of a host that only seems dead is kept for
//! a while, hidden, so that a false alarm costs nothing; that of a host that has left goes at once.
//! Records of hosts that do not count as alive are told to nobody: else two hosts could keep each other
//! reminded of a dead one for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::Instant;

use super::identity::HostId;
use super::record::{AgentAddress, AgentName, Labels, Metadata, Record, RecordError, Standing};
use super::refusal::Refusal;
use super::swim::HOSTS_MAX;

/// The agents of one service, on all hosts that count as alive.
pub type Landscape = BTreeMap<AgentAddress, Metadata>;

/// The records of this host and of the others.
#[derive(Debug)]
pub(crate) struct Records {
    own: Record,
    own_bytes: Bytes,
    others: BTreeMap<HostId, Kept>,
}

#[derive(Debug)]
struct Kept {
    record: Arc<Record>,
    bytes: Bytes,
    /// When it was last not visible for the first time.
    hidden_since: Option<Instant>,
}

/// What came of a record that somebody told.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It was known, or older than what is known.
    Old,
    /// It is the newest of its host now.
    New { host: HostId, standing: Standing },
    /// It says of this host what this host never said; a new version contradicts it.
    Mine,
}

impl Records {
    pub(crate) fn new(own: Record) -> Self {
        let own_bytes = own.encode().into();
        Records { own, own_bytes, others: BTreeMap::new() }
    }

    pub(crate) fn own(&self) -> &Record {
        &self.own
    }

    /// The version that is known of a host; 0 for none.
    pub(crate) fn version(&self, host: HostId) -> u64 {
        if host == self.own.host {
            return self.own.version;
        }
        self.others.get(&host).map_or(0, |kept| kept.record.version)
    }

    /// The record of a host, encoded.
    pub(crate) fn bytes(&self, host: HostId) -> Option<&Bytes> {
        if host == self.own.host {
            return Some(&self.own_bytes);
        }
        self.others.get(&host).map(|kept| &kept.bytes)
    }

    pub(crate) fn labels(&self, host: HostId) -> Option<&Labels> {
        self.others.get(&host).map(|kept| &kept.record.labels)
    }

    /// All versions that may be told.
    pub(crate) fn digest(&self, is_member: impl Fn(HostId) -> bool) -> Vec<(HostId, u64)> {
        let others = self.others.iter().filter(|(host, _)| is_member(**host));
        let others = others.map(|(host, kept)| (*host, kept.record.version));
        [(self.own.host, self.own.version)].into_iter().chain(others).collect()
    }

    /// The agents of a service.
    pub(crate) fn landscape(&self, service: &str, is_member: impl Fn(HostId) -> bool) -> Landscape {
        let others = self.others.values().map(|kept| &*kept.record);
        let others = others.filter(|record| is_member(record.host));
        let mut landscape = Landscape::new();
        for record in others.chain([&self.own]) {
            let agents = record.agents.iter().filter(|(name, _)| name.service() == service);
            landscape.extend(agents.map(|(name, metadata)| {
                let name = name.clone();
                (AgentAddress { host: record.host, name }, metadata.clone())
            }));
        }
        landscape
    }

    /// Takes a record that somebody told.
    pub(crate) fn offer(
        &mut self,
        now: Instant,
        bytes: &[u8],
        is_member: impl Fn(HostId) -> bool,
    ) -> Result<Offered, Refusal> {
        let bytes = Bytes::copy_from_slice(bytes);
        let record = Record::decode(&bytes).map_err(|_| Refusal::Malformed)?;
        let (host, standing) = (record.host, record.standing);
        if record.version <= self.version(host) {
            return Ok(Offered::Old);
        }
        if host == self.own.host {
            self.own.version = record.version;
            self.change(|_| Ok(())).map_err(|_| Refusal::Malformed)?;
            return Ok(Offered::Mine);
        }
        if !self.others.contains_key(&host) && self.others.len() >= HOSTS_MAX {
            return Err(Refusal::Full);
        }
        let hidden_since = (!is_member(host)).then_some(now);
        self.others.insert(host, Kept { record: Arc::new(record), bytes, hidden_since });
        Ok(Offered::New { host, standing })
    }

    /// Changes the own record, if what comes of it may be told.
    pub(crate) fn change(
        &mut self,
        change: impl FnOnce(&mut Record) -> Result<(), RecordError>,
    ) -> Result<(), RecordError> {
        let mut changed = self.own.clone();
        changed.version = changed.version.saturating_add(1);
        change(&mut changed)?;
        changed.check()?;
        self.own_bytes = changed.encode().into();
        self.own = changed;
        Ok(())
    }

    /// Registers an agent or changes its metadata.
    pub(crate) fn put_agent(
        &mut self,
        name: &AgentName,
        bytes: Bytes,
        is_new: bool,
    ) -> Result<(), RecordError> {
        self.change(|record| {
            let version = record.version;
            let old = record.agents.insert(name.clone(), Metadata { version, bytes });
            match (old, is_new) {
                (Some(_), true) => Err(RecordError::Taken),
                (None, false) => Err(RecordError::Unknown),
                _ => Ok(()),
            }
        })
    }

    /// Empties what a host that has left told. That it has is kept for a while, against old news.
    pub(crate) fn drop(&mut self, host: HostId) {
        if let Some(kept) = self.others.get_mut(&host) {
            let mut record = (*kept.record).clone();
            record.standing = Standing::Left;
            record.agents.clear();
            kept.bytes = record.encode().into();
            kept.record = Arc::new(record);
        }
    }

    /// Marks what is visible, and drops what was hidden for `grace`.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        grace: Duration,
        is_member: impl Fn(HostId) -> bool,
    ) {
        self.others.retain(|host, kept| {
            if is_member(*host) {
                kept.hidden_since = None;
                return true;
            }
            let since = *kept.hidden_since.get_or_insert(now);
            now.since(since) < grace
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.others.len()
    }
}
