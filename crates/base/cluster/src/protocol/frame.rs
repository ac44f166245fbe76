//! What goes over a connection: comparisons of what two hosts know, records that fit no datagram,
//! messages of agents.
//!
//! A connection serves one exchange. *Digest* says what the asker has; *delta* answers with what is newer
//! and asks for what is older; *push* brings that and asks in turn; *rest* ends it. *Fetch* asks for
//! records of certain hosts, *message* carries one, *taken* acknowledges it. Bytes are in
//! `docs/formats/gossip.md`.

use super::identity::HostId;
use super::shared_map::{BUCKETS, MapKey, Written};
use super::swim::HOSTS_MAX;
use super::swim_codec::Update;
use super::wire::{Malformed, Reader, put_count, put_long};

/// The most that a frame takes, without its seal.
pub const FRAME_MAX: usize = 1024 * 1024;

/// One frame. Records and entries are encoded, and checked by whoever takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Digest { members: Vec<Update>, records: Vec<(HostId, u64)>, buckets: Box<[u64; BUCKETS]> },
    Delta(Delta),
    Push { records: Vec<Vec<u8>>, entries: Vec<Vec<u8>>, wanted: Vec<MapKey> },
    Rest { entries: Vec<Vec<u8>> },
    Fetch { hosts: Vec<HostId> },
    Message(Vec<u8>),
    Taken,
}

/// What the answerer has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    /// Those that count as alive, and those of the asker's that are dead.
    pub(crate) members: Vec<Update>,
    /// Newer ones.
    pub(crate) records: Vec<Vec<u8>>,
    /// Hosts of which the asker has newer ones.
    pub(crate) wanted: Vec<HostId>,
    /// The buckets that differ and are told in `keys`, by bit.
    pub(crate) buckets: u64,
    /// Everything that the answerer has in them.
    pub(crate) keys: Vec<(MapKey, Written)>,
}

impl Frame {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        match self {
            Frame::Digest { members, records, buckets } => {
                out.push(1);
                put_all(&mut out, members, Update::encode);
                put_all(&mut out, records, |(host, version), out| {
                    out.extend_from_slice(host.as_bytes());
                    out.extend_from_slice(&version.to_be_bytes());
                });
                buckets.iter().for_each(|digest| out.extend_from_slice(&digest.to_be_bytes()));
            }
            Frame::Delta(delta) => {
                out.push(2);
                put_all(&mut out, &delta.members, Update::encode);
                put_all(&mut out, &delta.records, |record, out| put_long(out, record));
                put_all(&mut out, &delta.wanted, put_host);
                out.extend_from_slice(&delta.buckets.to_be_bytes());
                put_all(&mut out, &delta.keys, |(key, written), out| {
                    key.encode(out);
                    written.encode(out);
                });
            }
            Frame::Push { records, entries, wanted } => {
                out.push(3);
                put_all(&mut out, records, |record, out| put_long(out, record));
                put_all(&mut out, entries, |entry, out| put_long(out, entry));
                put_all(&mut out, wanted, MapKey::encode);
            }
            Frame::Rest { entries } => {
                out.push(4);
                put_all(&mut out, entries, |entry, out| put_long(out, entry));
            }
            Frame::Fetch { hosts } => {
                out.push(5);
                put_all(&mut out, hosts, put_host);
            }
            Frame::Message(message) => {
                out.push(6);
                out.extend_from_slice(message);
            }
            Frame::Taken => out.push(7),
        }
        out
    }

    /// Reads a frame of at most [`FRAME_MAX`] bytes. Every element takes bytes, so these bound what is
    /// made of them.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Frame, Malformed> {
        if bytes.len() > FRAME_MAX {
            return Err(Malformed);
        }
        let mut reader = Reader::new(bytes);
        let frame = match reader.u8()? {
            1 => {
                let members = read_all(&mut reader, HOSTS_MAX + 1, Update::decode)?;
                let records = read_all(&mut reader, HOSTS_MAX + 1, |reader| {
                    Ok((HostId::from_bytes(reader.array()?), reader.u64()?))
                })?;
                let mut buckets = Box::new([0; BUCKETS]);
                for digest in buckets.iter_mut() {
                    *digest = reader.u64()?;
                }
                Frame::Digest { members, records, buckets }
            }
            2 => Frame::Delta(Delta {
                members: read_all(&mut reader, 2 * HOSTS_MAX + 1, Update::decode)?,
                records: read_all(&mut reader, HOSTS_MAX + 1, long)?,
                wanted: read_all(&mut reader, HOSTS_MAX + 1, host)?,
                buckets: reader.u64()?,
                keys: read_all(&mut reader, usize::MAX, |reader| {
                    Ok((MapKey::decode(reader)?, Written::decode(reader)?))
                })?,
            }),
            3 => Frame::Push {
                records: read_all(&mut reader, HOSTS_MAX + 1, long)?,
                entries: read_all(&mut reader, usize::MAX, long)?,
                wanted: read_all(&mut reader, usize::MAX, MapKey::decode)?,
            },
            4 => Frame::Rest { entries: read_all(&mut reader, usize::MAX, long)? },
            5 => Frame::Fetch { hosts: read_all(&mut reader, HOSTS_MAX + 1, host)? },
            6 => {
                let rest = reader.rest().len();
                Frame::Message(reader.take(rest)?.to_vec())
            }
            7 => Frame::Taken,
            _ => return Err(Malformed),
        };
        reader.end()?;
        Ok(frame)
    }
}

fn put_all<T>(out: &mut Vec<u8>, items: &[T], put: impl Fn(&T, &mut Vec<u8>)) {
    put_count(out, items.len());
    items.iter().for_each(|item| put(item, out));
}

fn put_host(host: &HostId, out: &mut Vec<u8>) {
    out.extend_from_slice(host.as_bytes());
}

fn read_all<T>(
    reader: &mut Reader<'_>,
    max: usize,
    read: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = usize::from(reader.u16()?);
    if count > max {
        return Err(Malformed);
    }
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(read(reader)?);
    }
    Ok(items)
}

fn long(reader: &mut Reader<'_>) -> Result<Vec<u8>, Malformed> {
    reader.long().map(<[u8]>::to_vec)
}

fn host(reader: &mut Reader<'_>) -> Result<HostId, Malformed> {
    reader.array().map(HostId::from_bytes)
}

#[cfg(test)]
mod tests {
    use foca::{Member, State};

    use super::*;
    use crate::protocol::hlc::Stamp;
    use crate::protocol::identity::Host;

    fn frames() -> Vec<Frame> {
        let id = HostId::from_bytes([1; 16]);
        let address = std::net::SocketAddr::from(([10, 0, 0, 1], 1));
        let member = Member::new(Host { address, generation: 1, id }, 3, State::Suspect);
        let member = Update { member, has_left: false };
        let key = MapKey::new("space", b"key").expect("a key");
        let written = Written { stamp: Stamp::from_bits(8), writer: id };
        let delta = Delta {
            members: vec![member.clone()],
            records: vec![b"record".to_vec()],
            wanted: vec![id],
            buckets: 5,
            keys: vec![(key.clone(), written)],
        };
        vec![
            Frame::Digest {
                members: vec![member],
                records: vec![(id, 9)],
                buckets: Box::new([7; BUCKETS]),
            },
            Frame::Delta(delta),
            Frame::Push {
                records: vec![Vec::new()],
                entries: vec![b"entry".to_vec()],
                wanted: vec![key],
            },
            Frame::Rest { entries: vec![b"entry".to_vec()] },
            Frame::Fetch { hosts: vec![id] },
            Frame::Message(b"message".to_vec()),
            Frame::Taken,
        ]
    }

    #[test]
    fn every_frame_is_read_as_it_was_written_and_refused_when_cut() {
        for frame in frames() {
            let bytes = frame.encode();
            for cut in 0..bytes.len() {
                let is_message = bytes[0] == 6 && cut > 0;
                assert_eq!(Frame::decode(&bytes[..cut]).is_ok(), is_message, "{frame:?}");
            }
            assert_eq!(Frame::decode(&bytes), Ok(frame));
        }
        assert_eq!(Frame::decode(&vec![6; FRAME_MAX + 1]), Err(Malformed));
        assert_eq!(Frame::decode(&[9]), Err(Malformed));
    }
}
