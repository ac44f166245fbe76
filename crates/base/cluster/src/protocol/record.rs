//! What a host tells of itself: its labels, and the agents that run on it.
//!
//! A record has one writer, its host, and a version that rises with each change; the highest version is
//! the truth. A host's id is new at each start, so versions of different processes never meet. Bytes
//! are in `docs/formats/gossip.md`; one record has one form.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use super::identity::HostId;
use super::wire::{Malformed, Reader, put_count, put_medium, put_short};

/// The most that a record takes, encoded.
pub const RECORD_MAX: usize = 64 * 1024;
/// Agents of one host.
pub const AGENTS_MAX: usize = 256;
/// Bytes of one agent's metadata.
pub const METADATA_MAX: usize = 16 * 1024;
/// Bytes of a name or a label.
pub const NAME_MAX: usize = 64;

/// The name of an agent on its host: which service it is an instance of, and which one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentName {
    service: String,
    instance: String,
}

/// An agent in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentAddress {
    /// Where it runs.
    pub host: HostId,
    /// Which it is there.
    pub name: AgentName,
}

/// What an agent tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The version of the record when it was changed last.
    pub version: u64,
    /// Whatever the service makes of it.
    pub bytes: Bytes,
}

/// What a host tells of its place and its build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// What fails together, as a rack or a site; empty if unknown.
    pub zone: String,
    /// The build.
    pub software: String,
}

/// Whether a host is there to stay.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is.
    Serving,
    /// It has left, on purpose and for good.
    Left,
}

/// What one host tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Who.
    pub(crate) host: HostId,
    /// Rises with each change.
    pub(crate) version: u64,
    /// Whether it is there to stay.
    pub(crate) standing: Standing,
    /// Its place and build.
    pub(crate) labels: Labels,
    /// Its agents.
    pub(crate) agents: BTreeMap<AgentName, Metadata>,
}

/// The caller asked for something that no record can hold; nothing was changed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A name or label has another length than 1 to [`NAME_MAX`] bytes.
    #[error("a name has 1 to {NAME_MAX} bytes, this one has {length}")]
    Name {
        /// Its bytes.
        length: usize,
    },
    /// Metadata of more than [`METADATA_MAX`] bytes.
    #[error("metadata has at most {METADATA_MAX} bytes, this has {length}")]
    Metadata {
        /// Its bytes.
        length: usize,
    },
    /// More than [`AGENTS_MAX`] agents.
    #[error("a host has at most {AGENTS_MAX} agents")]
    Agents,
    /// More than [`RECORD_MAX`] bytes in all.
    #[error("what a host tells takes at most {RECORD_MAX} bytes, this would be {length}")]
    Record {
        /// Its bytes.
        length: usize,
    },
    /// There is an agent of this name on this host already.
    #[error("this host has an agent of this name")]
    Taken,
    /// There is no agent of this name on this host.
    #[error("this host has no agent of this name")]
    Unknown,
}

impl AgentName {
    /// The instance `instance` of `service`, each of 1 to [`NAME_MAX`] bytes.
    ///
    /// # Errors
    /// If one of them is empty or too long.
    pub fn new(service: &str, instance: &str) -> Result<AgentName, RecordError> {
        for part in [service, instance] {
            if part.is_empty() || part.len() > NAME_MAX {
                return Err(RecordError::Name { length: part.len() });
            }
        }
        Ok(AgentName { service: service.to_owned(), instance: instance.to_owned() })
    }

    /// The service.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Which instance.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_short(out, self.service.as_bytes());
        put_short(out, self.instance.as_bytes());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<AgentName, Malformed> {
        AgentName::new(reader.text()?, reader.text()?).map_err(|_| Malformed)
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.service, self.instance)
    }
}

impl fmt::Debug for AgentName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl Record {
    /// The first record of a host.
    pub(crate) fn new(host: HostId, labels: Labels) -> Record {
        let standing = Standing::Serving;
        Record { host, version: 1, standing, labels, agents: BTreeMap::new() }
    }

    /// Says whether it may be told.
    pub(crate) fn check(&self) -> Result<(), RecordError> {
        for label in [&self.labels.zone, &self.labels.software] {
            if label.len() > NAME_MAX {
                return Err(RecordError::Name { length: label.len() });
            }
        }
        if self.agents.len() > AGENTS_MAX {
            return Err(RecordError::Agents);
        }
        for metadata in self.agents.values() {
            let length = metadata.bytes.len();
            if length > METADATA_MAX {
                return Err(RecordError::Metadata { length });
            }
        }
        let length = self.encode().len();
        if length > RECORD_MAX { Err(RecordError::Record { length }) } else { Ok(()) }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(self.host.as_bytes());
        out.extend_from_slice(&self.version.to_be_bytes());
        out.push(match self.standing {
            Standing::Serving => 0,
            Standing::Left => 1,
        });
        put_short(&mut out, self.labels.zone.as_bytes());
        put_short(&mut out, self.labels.software.as_bytes());
        put_count(&mut out, self.agents.len());
        for (name, metadata) in &self.agents {
            name.encode(&mut out);
            out.extend_from_slice(&metadata.version.to_be_bytes());
            put_medium(&mut out, &metadata.bytes);
        }
        out
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Record, Malformed> {
        if bytes.len() > RECORD_MAX {
            return Err(Malformed);
        }
        let mut reader = Reader::new(bytes);
        let host = HostId::from_bytes(reader.array()?);
        let version = reader.u64()?;
        let standing = match reader.u8()? {
            0 => Standing::Serving,
            1 => Standing::Left,
            _ => return Err(Malformed),
        };
        let labels =
            Labels { zone: reader.text()?.to_owned(), software: reader.text()?.to_owned() };
        let count = usize::from(reader.u16()?);
        let mut agents = BTreeMap::new();
        for _ in 0..count {
            let name = AgentName::decode(&mut reader)?;
            let changed = reader.u64()?;
            let metadata = Metadata { version: changed, bytes: bytes.slice_ref(reader.medium()?) };
            let is_in_order = agents.last_key_value().is_none_or(|(last, _)| *last < name);
            if !is_in_order || changed > version {
                return Err(Malformed);
            }
            agents.insert(name, metadata);
        }
        reader.end()?;
        let record = Record { host, version, standing, labels, agents };
        record.check().map_err(|_| Malformed)?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = AgentName> {
        ("[a-z]{1,8}", "[a-zé]{1,8}").prop_map(|(service, instance)| {
            AgentName::new(&service, &instance).expect("short names")
        })
    }

    pub(crate) fn record() -> impl Strategy<Value = Record> {
        let metadata = (0..100_u64, prop::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(version, bytes)| Metadata { version, bytes: bytes.into() });
        let agents = prop::collection::btree_map(name(), metadata, 0..6);
        (any::<[u8; 16]>(), 100_u64.., any::<bool>(), ".{0,16}", agents).prop_map(
            |(host, version, has_left, zone, agents)| Record {
                host: HostId::from_bytes(host),
                version,
                standing: if has_left { Standing::Left } else { Standing::Serving },
                labels: Labels { zone, software: "1.2".into() },
                agents,
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(record in record()) {
            let bytes = Bytes::from(record.encode());
            prop_assert_eq!(Record::decode(&bytes), Ok(record));
            for cut in 0..bytes.len() {
                prop_assert_eq!(Record::decode(&bytes.slice(..cut)), Err(Malformed));
            }
        }

        #[test]
        fn bytes_that_are_a_record_are_its_one_form(
            record in record(), at in any::<prop::sample::Index>(), byte: u8,
        ) {
            let mut bytes = record.encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let bytes = Bytes::from(bytes);
            if let Ok(read) = Record::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let mut record = Record::new(HostId::from_bytes([1; 16]), Labels::default());
        assert_eq!(record.check(), Ok(()));
        let length = NAME_MAX + 1;
        assert_eq!(AgentName::new("", "a"), Err(RecordError::Name { length: 0 }));
        assert_eq!(AgentName::new("a", &"a".repeat(length)), Err(RecordError::Name { length }));
        let metadata = |length| Metadata { version: 1, bytes: vec![0; length].into() };
        let name = |index: usize| AgentName::new("a", &index.to_string()).expect("a name");
        record.agents.insert(name(0), metadata(METADATA_MAX + 1));
        assert_eq!(record.check(), Err(RecordError::Metadata { length: METADATA_MAX + 1 }));
        record.agents = (0..5).map(|index| (name(index), metadata(METADATA_MAX))).collect();
        assert!(matches!(record.check(), Err(RecordError::Record { .. })));
        record.agents = (0..=AGENTS_MAX).map(|index| (name(index), metadata(0))).collect();
        assert_eq!(record.check(), Err(RecordError::Agents));
        let host = HostId::from_bytes([1; 16]);
        record = Record::new(host, Labels { zone: "z".repeat(length), ..Labels::default() });
        assert_eq!(record.check(), Err(RecordError::Name { length }));
    }
}
