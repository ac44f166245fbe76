//! What is in a [`Batch`]: records between the shards of one process.
//!
//! Each record says who is meant and is followed by the message. *Routed*: all sessions of the
//! receiving shard that have one of these routes. *Member*: one member of a shared group.
//! *Direct*: one session, for a subscription whose options travel along.

use bytes::Bytes;
use ratatosk_codec::SubscriptionOptions;
use ratatosk_contract::{Message, dist::RouteId, record};

use super::mailbox::Batch;
use crate::tenants::TenantNumber;

const ROUTED: u8 = 0;
const MEMBER: u8 = 1;
const DIRECT: u8 = 2;

/// Whom a record is for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// All local sessions of these routes.
    Routed {
        /// Eight bytes a route; see [`Routes`].
        routes: Routes<'a>,
    },
    /// One member of a shared group.
    Member(MemberTarget),
    /// One session.
    Direct {
        slot: u32,
        generation: u32,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
    },
}

/// A member of a shared group, as its own shard finds it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberTarget {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) route: RouteId,
    /// Tells the groups of one filter apart.
    pub(crate) group: u32,
    /// How often the message was given to another member already.
    pub(crate) hops: u8,
}

/// Routes in the bytes of a record.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Routes<'a>(&'a [u8]);

impl Routes<'_> {
    pub(crate) fn iter(self) -> impl Iterator<Item = RouteId> {
        self.0.chunks_exact(8).map(read_route)
    }
}

impl Batch {
    /// Appends a message for the sessions of `routes`.
    pub(crate) fn push_routed(
        &mut self,
        tenant: TenantNumber,
        routes: &[RouteId],
        message: &Message<'_>,
    ) {
        // A message that matches more filters than this goes in several records.
        for routes in routes.chunks(usize::from(u16::MAX)) {
            self.head(ROUTED, tenant);
            let count = u16::try_from(routes.len()).expect("chunked");
            self.bytes.extend_from_slice(&count.to_le_bytes());
            for route in routes {
                push_route(&mut self.bytes, *route);
            }
            self.message(message);
        }
    }

    /// Appends a message for one member of a shared group.
    pub(crate) fn push_member(
        &mut self,
        tenant: TenantNumber,
        member: &MemberTarget,
        message: &Message<'_>,
    ) {
        self.head(MEMBER, tenant);
        self.bytes.extend_from_slice(&member.slot.to_le_bytes());
        self.bytes.extend_from_slice(&member.generation.to_le_bytes());
        push_route(&mut self.bytes, member.route);
        self.bytes.extend_from_slice(&member.group.to_le_bytes());
        self.bytes.push(member.hops);
        self.message(message);
    }

    /// Appends a message for one session.
    pub(crate) fn push_direct(
        &mut self,
        tenant: TenantNumber,
        (slot, generation): (u32, u32),
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
        message: &Message<'_>,
    ) {
        self.head(DIRECT, tenant);
        self.bytes.extend_from_slice(&slot.to_le_bytes());
        self.bytes.extend_from_slice(&generation.to_le_bytes());
        self.bytes.push(options.to_byte());
        self.bytes.extend_from_slice(&subscription_id.unwrap_or(0).to_le_bytes());
        self.message(message);
    }

    fn head(&mut self, kind: u8, tenant: TenantNumber) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&tenant.0.to_le_bytes());
    }

    fn message(&mut self, message: &Message<'_>) {
        let shared = &mut self.shared;
        record::write(message, &mut self.bytes, |payload| shared.push(payload));
    }

    /// Shows every record in order.
    pub(crate) fn for_each(&self, mut show: impl FnMut(TenantNumber, Target<'_>, &Message<'_>)) {
        let mut shared = self.shared.iter();
        let mut rest = &self.bytes[..];
        while !rest.is_empty() {
            let (tenant, target, behind) = read_target(rest);
            let payload: Option<&Bytes> =
                if record::is_shared(behind) { shared.next() } else { None };
            let (message, taken) = record::read(behind, payload);
            show(tenant, target, &message);
            rest = &behind[taken..];
        }
    }

    /// Forgets all records; keeps the buffer unless it has grown large.
    pub(crate) fn clear(&mut self) {
        const KEPT_BYTES_MAX: usize = 1024 * 1024;
        self.shared.clear();
        self.bytes.clear();
        if self.bytes.capacity() > KEPT_BYTES_MAX {
            self.bytes = Vec::new();
        }
    }
}

fn read_target(bytes: &[u8]) -> (TenantNumber, Target<'_>, &[u8]) {
    let tenant = TenantNumber(read_u32(&bytes[1..]));
    let body = &bytes[5..];
    match bytes[0] {
        ROUTED => {
            let count = usize::from(u16::from_le_bytes([body[0], body[1]]));
            let (routes, behind) = body[2..].split_at(count * 8);
            (tenant, Target::Routed { routes: Routes(routes) }, behind)
        }
        MEMBER => {
            let member = MemberTarget {
                slot: read_u32(body),
                generation: read_u32(&body[4..]),
                route: read_route(&body[8..]),
                group: read_u32(&body[16..]),
                hops: body[20],
            };
            (tenant, Target::Member(member), &body[21..])
        }
        kind => {
            debug_assert_eq!(kind, DIRECT, "the kinds that are written");
            let id = read_u32(&body[9..]);
            let target = Target::Direct {
                slot: read_u32(body),
                generation: read_u32(&body[4..]),
                options: options_from(body[8]),
                subscription_id: (id != 0).then_some(id),
            };
            (tenant, target, &body[13..])
        }
    }
}

/// Options from the byte of SUBSCRIBE.
pub(crate) fn options_from(byte: u8) -> SubscriptionOptions {
    let qos = ratatosk_codec::Qos::try_from(byte & 3).unwrap_or_default();
    SubscriptionOptions {
        no_local: byte & 4 != 0,
        retain_as_published: byte & 8 != 0,
        ..SubscriptionOptions::new(qos)
    }
}

fn push_route(bytes: &mut Vec<u8>, route: RouteId) {
    bytes.extend_from_slice(&route.index.to_le_bytes());
    bytes.extend_from_slice(&route.generation.to_le_bytes());
}

fn read_route(bytes: &[u8]) -> RouteId {
    RouteId { index: read_u32(bytes), generation: read_u32(&bytes[4..]) }
}

fn read_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use ratatosk_clock::Instant;
    use ratatosk_codec::Qos;
    use ratatosk_contract::PublisherId;

    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let large = Bytes::from(vec![5; 5000]);
        let message = |topic, shared: Option<&'static ()>| Message {
            topic,
            payload: if shared.is_some() { &large } else { b"payload" },
            shared: shared.map(|()| &large),
            properties: b"",
            qos: Qos::AtLeastOnce,
            retain: false,
            publisher: PublisherId(1),
            accepted: Instant::ZERO,
            deadline: None,
        };
        let route = |index| RouteId { index, generation: index + 1 };
        let member = MemberTarget { slot: 3, generation: 4, route: route(5), group: 6, hops: 2 };
        let options =
            SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(Qos::ExactlyOnce) };
        let mut batch = Batch::default();
        batch.push_routed(TenantNumber(7), &[route(1), route(2)], &message("a", Some(&())));
        batch.push_member(TenantNumber(8), &member, &message("b", None));
        batch.push_direct(TenantNumber(9), (1, 2), options, Some(77), &message("c", Some(&())));
        let mut seen = Vec::new();
        batch.for_each(|tenant, target, message| {
            seen.push((tenant.0, message.topic.to_owned(), message.payload.len()));
            match target {
                Target::Routed { routes } => {
                    assert_eq!(routes.iter().collect::<Vec<_>>(), [route(1), route(2)]);
                }
                Target::Member(read) => assert_eq!(read, member),
                Target::Direct { slot, generation, options: read, subscription_id } => {
                    assert_eq!((slot, generation, read), (1, 2, options));
                    assert_eq!(subscription_id, Some(77));
                }
            }
        });
        let expected =
            [(7, "a".to_owned(), 5000), (8, "b".to_owned(), 7), (9, "c".to_owned(), 5000)];
        assert_eq!(seen, expected);
        batch.clear();
        assert!(batch.is_empty());
    }
}
