//! Keys: whose it is, what it is, and which one.
//!
//! The number of the inbox comes first, so that all of a session is together and a range may end
//! between any two sessions; of the number first the partition, which follows from the identity, so
//! that whoever knows a client knows its range, and new sessions are spread over all ranges.

use bytes::Bytes;
use ratatosk_codec::PacketId;
use ratatosk_contract::inbox::InboxId;
use ratatosk_engine::{KeyRange, wire::Malformed};

use crate::partition::PARTITION_COUNT;

/// Bits of an inbox's number that are its partition: the lowest.
const PARTITION_BITS: u32 = PARTITION_COUNT.trailing_zeros();
const _: () = assert!(PARTITION_COUNT.is_power_of_two(), "a partition is some bits of a number");

/// A key of the space of the inbox.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The session, or the number of a will.
    pub(crate) inbox: InboxId,
    pub(crate) place: Place,
}

/// What of a session is meant.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// The session's record.
    Session,
    /// A subscription, by its ordinal.
    Subscription(u32),
    /// A QoS 2 message of the client that was accepted and not released.
    Inbound(PacketId),
    /// How far the queue is.
    Position,
    /// An entry of the queue, by its sequence.
    Entry(u64),
    /// A message that several entries share, under the first of them.
    Body(u64),
    /// A will.
    Will,
    /// Nothing, but that the number was used: the largest of those that ended.
    Mark,
    /// A QoS 2 message of the client that was begun and not accepted.
    Begun(PacketId),
    /// How many of its messages were begun.
    Turn,
    /// A message of some publisher that the sessions of a partition have. The partition stands for an inbox.
    Note { publisher: InboxId, number: u64 },
}

impl Key {
    pub(crate) fn new(inbox: InboxId, place: Place) -> Self {
        Key { inbox, place }
    }

    /// What all keys of an inbox begin with, and no others.
    pub(crate) fn front(inbox: InboxId) -> [u8; 8] {
        inbox.0.rotate_right(PARTITION_BITS).to_be_bytes()
    }

    pub(crate) fn to_bytes(self) -> Bytes {
        const BYTES_MAX: usize = 8 + 1 + 16;
        let mut bytes = [0; BYTES_MAX];
        bytes[..8].copy_from_slice(&Self::front(self.inbox));
        let mut len = 9;
        let mut put = |number: &[u8]| {
            bytes[9..9 + number.len()].copy_from_slice(number);
            len += number.len();
        };
        let kind = match self.place {
            Place::Session => 1,
            Place::Subscription(ordinal) => {
                put(&ordinal.to_be_bytes());
                2
            }
            Place::Inbound(packet_id) => {
                put(&packet_id.value().to_be_bytes());
                3
            }
            Place::Position => 4,
            Place::Entry(sequence) => {
                put(&sequence.to_be_bytes());
                5
            }
            Place::Body(sequence) => {
                put(&sequence.to_be_bytes());
                6
            }
            Place::Will => 7,
            Place::Mark => 8,
            Place::Begun(packet_id) => {
                put(&packet_id.value().to_be_bytes());
                9
            }
            Place::Turn => 10,
            Place::Note { publisher, number } => {
                let both = u128::from(publisher.0) << 64 | u128::from(number);
                put(&both.to_be_bytes());
                11
            }
        };
        bytes[8] = kind;
        Bytes::copy_from_slice(&bytes[..len])
    }

    /// The partition that a key is in, or would be.
    pub(crate) fn partition_of(key: &[u8]) -> usize {
        usize::from(key.first().copied().unwrap_or(0) >> (8 - PARTITION_BITS))
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (inbox, rest) = bytes.split_first_chunk::<8>().ok_or(Malformed)?;
        let (kind, rest) = rest.split_first().ok_or(Malformed)?;
        let place = match kind {
            1 => Place::Session,
            2 => Place::Subscription(u32::from_be_bytes(exactly(rest)?)),
            3 => Place::Inbound(packet_id(rest)?),
            4 => Place::Position,
            5 => Place::Entry(u64::from_be_bytes(exactly(rest)?)),
            6 => Place::Body(u64::from_be_bytes(exactly(rest)?)),
            7 => Place::Will,
            8 => Place::Mark,
            9 => Place::Begun(packet_id(rest)?),
            10 => Place::Turn,
            11 => {
                let (publisher, number) = rest.split_first_chunk::<8>().ok_or(Malformed)?;
                let publisher = InboxId(u64::from_be_bytes(*publisher));
                Place::Note { publisher, number: u64::from_be_bytes(exactly(number)?) }
            }
            _ => return Err(Malformed),
        };
        let is_numbered = matches!(kind, 2 | 3 | 5 | 6 | 9 | 11);
        if !is_numbered && !rest.is_empty() {
            return Err(Malformed);
        }
        let number = u64::from_be_bytes(*inbox).rotate_left(PARTITION_BITS);
        Ok(Key { inbox: InboxId(number), place })
    }
}

/// The keys of a partition, of which there are 64. A session is in the one that its number gives when it is
/// divided by that.
#[must_use]
pub fn partition_keys(number: usize) -> KeyRange {
    let start = |number: usize| Bytes::copy_from_slice(&Key::front(InboxId(number as u64)));
    let end = (number + 1 < PARTITION_COUNT).then(|| start(number + 1));
    KeyRange { start: start(number), end }
}

fn packet_id(bytes: &[u8]) -> Result<PacketId, Malformed> {
    PacketId::new(u16::from_be_bytes(exactly(bytes)?)).ok_or(Malformed)
}

fn exactly<const COUNT: usize>(bytes: &[u8]) -> Result<[u8; COUNT], Malformed> {
    bytes.try_into().map_err(|_| Malformed)
}
