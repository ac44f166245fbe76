//! The inbound half of a session: publishes that are not yet acknowledged.
//!
//! Acknowledgements leave in the order in which the publishes came. [MQTT-4.6.0-2] [MQTT-4.6.0-3]
//! Mostly the outcome is known at once and nothing waits; where it is not, the acknowledgements
//! behind it wait too. A QoS 2 identifier is remembered from its PUBREC to its PUBREL, so that the
//! message is distributed once however often it is sent. [MQTT-4.3.3-10]

use std::collections::VecDeque;

use ratatosk_clock::Instant;
use ratatosk_codec::{PacketId, Qos, ReasonCode};
use ratatosk_contract::{Ticket, call::Settlement};

use crate::{ids::IdSet, subscribe::Asking};

/// Inbound state; see the module.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// Publishes whose acknowledgement has not left, in order.
    pending: VecDeque<Pending>,
    /// The identifiers of those in `pending` that hold theirs.
    held: IdSet,
    /// QoS 2 identifiers between PUBREC and PUBREL.
    unreleased: IdSet,
    /// How many of them came from an earlier connection, at most: Receive Maximum counts per
    /// connection.
    restored: usize,
    next_ticket: u64,
    /// Since when the next publish, of a client of MQTT 3, is held for which there is no room.
    pub(crate) held_since: Option<Instant>,
    /// SUBSCRIBE while it is being worked on.
    pub(crate) asking: Option<Box<Asking>>,
}

/// A publish whose acknowledgement has not left.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) packet_id: PacketId,
    pub(crate) qos: Qos,
    pub(crate) state: Settled,
    /// The identifier is this publish's; false for the refusal of one whose identifier belongs to
    /// another, and for the repetition of an answer.
    pub(crate) holds_id: bool,
}

/// Whether an outcome is known.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Not(Awaited),
    As(ReasonCode),
}

/// An outcome that is to come in parts; the worst of them counts.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    pub(crate) ticket: Ticket,
    /// How many parts are to come.
    pub(crate) parts: u32,
    /// The worst of those that came.
    pub(crate) worst: Settlement,
    /// The code if all goes well.
    pub(crate) success: ReasonCode,
}

impl Inbound {
    /// The ticket for the next publish.
    pub(crate) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// How many publishes are not fully acknowledged: what Receive Maximum counts, here with a
    /// maximum of `open_max`. Those of an earlier connection do not count, as long as they are no
    /// more than one connection may have. [MQTT-3.3.4-7]
    #[inline]
    pub(crate) fn open(&self, open_max: usize) -> usize {
        self.pending.len() + self.unreleased.len() - self.restored.min(open_max)
    }

    /// How many wait for their outcome.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether an identifier is in use by a publish whose outcome is not known.
    pub(crate) fn is_pending(&self, packet_id: PacketId) -> bool {
        self.held.contains(packet_id)
    }

    /// Whether a QoS 2 message of this identifier was accepted and not yet released.
    pub(crate) fn is_unreleased(&self, packet_id: PacketId) -> bool {
        self.unreleased.contains(packet_id)
    }

    /// Remembers an accepted QoS 2 message.
    pub(crate) fn accept(&mut self, packet_id: PacketId) {
        let is_new = self.unreleased.insert(packet_id);
        debug_assert!(is_new, "accepted once");
    }

    /// Forgets a released QoS 2 message; false if it is unknown.
    pub(crate) fn release(&mut self, packet_id: PacketId) -> bool {
        let is_known = self.unreleased.remove(packet_id);
        self.restored = self.restored.min(self.unreleased.len());
        is_known
    }

    /// Takes over what a stored session knew. MQTT-046
    pub(crate) fn restore(&mut self, unreleased: &[PacketId]) {
        for packet_id in unreleased {
            self.unreleased.insert(*packet_id);
        }
        self.restored = self.unreleased.len();
    }

    /// Puts an acknowledgement in line.
    pub(crate) fn wait(&mut self, pending: Pending) {
        if pending.holds_id {
            let is_new = self.held.insert(pending.packet_id);
            debug_assert!(is_new, "an identifier is held once");
        }
        self.pending.push_back(pending);
    }

    /// More parts of an outcome are to come; unknown tickets are ignored.
    pub(crate) fn expect(&mut self, ticket: Ticket, parts: u32) {
        let awaited = self.pending.iter_mut().find_map(|pending| match &mut pending.state {
            Settled::Not(awaited) if awaited.ticket == ticket => Some(awaited),
            _ => None,
        });
        if let Some(awaited) = awaited {
            awaited.parts = awaited.parts.saturating_add(parts);
        }
    }

    /// A part of an outcome came; unknown tickets are ignored. With the last part gives the whole
    /// and the publish, which is to be given its code.
    pub(crate) fn settle(
        &mut self,
        ticket: Ticket,
        settlement: Settlement,
    ) -> Option<(Awaited, &mut Pending)> {
        self.pending.iter_mut().find_map(|pending| {
            let Settled::Not(awaited) = &mut pending.state else { return None };
            if awaited.ticket != ticket {
                return None;
            }
            awaited.worst = awaited.worst.max(settlement);
            awaited.parts = awaited.parts.saturating_sub(1);
            (awaited.parts == 0).then_some((*awaited, pending))
        })
    }

    /// The next acknowledgement that may leave.
    pub(crate) fn next_settled(&mut self) -> Option<(Pending, ReasonCode)> {
        let front = *self.pending.front()?;
        let Settled::As(code) = front.state else { return None };
        self.pending.pop_front();
        if front.holds_id {
            self.held.remove(front.packet_id);
        }
        if self.pending.is_empty() && self.pending.capacity() > 64 {
            self.pending = VecDeque::new();
        }
        Some((front, code))
    }

    pub(crate) fn check_invariants(&self) {
        debug_assert!(self.held.len() <= self.pending.len(), "each held identifier has a publish");
        debug_assert!(self.restored <= self.unreleased.len(), "the restored are unreleased");
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.pending.capacity() * size_of::<Pending>()
            + self.held.memory_bytes()
            + self.unreleased.memory_bytes()
            + self.asking.as_ref().map_or(0, |asking| asking.memory_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: u16) -> PacketId {
        PacketId::new(value).expect("not zero")
    }

    fn awaited(ticket: Ticket) -> Awaited {
        Awaited { ticket, parts: 1, worst: Settlement::Done, success: ReasonCode::Success }
    }

    fn settle(inbound: &mut Inbound, ticket: Ticket, code: ReasonCode) {
        let (_, pending) = inbound.settle(ticket, Settlement::Done).expect("it waits");
        pending.state = Settled::As(code);
    }

    #[test]
    fn acknowledgements_leave_in_the_order_of_the_publishes() {
        let mut inbound = Inbound::default();
        let tickets = [inbound.ticket(), inbound.ticket()];
        for (number, ticket) in [(1, tickets[0]), (2, tickets[1])] {
            inbound.wait(Pending {
                packet_id: id(number),
                qos: Qos::AtLeastOnce,
                state: Settled::Not(awaited(ticket)),
                holds_id: true,
            });
        }
        inbound.wait(Pending {
            packet_id: id(3),
            qos: Qos::ExactlyOnce,
            state: Settled::As(ReasonCode::Success),
            holds_id: false,
        });
        settle(&mut inbound, tickets[1], ReasonCode::Success);
        assert!(inbound.next_settled().is_none());
        assert!(inbound.is_pending(id(2)));
        assert!(!inbound.is_pending(id(3)), "it holds no identifier");
        settle(&mut inbound, tickets[0], ReasonCode::QuotaExceeded);
        let next = || inbound.next_settled().map(|(p, code)| (p.packet_id, p.qos, code));
        let left: Vec<_> = std::iter::from_fn(next).collect();
        assert_eq!(
            left,
            [
                (id(1), Qos::AtLeastOnce, ReasonCode::QuotaExceeded),
                (id(2), Qos::AtLeastOnce, ReasonCode::Success),
                (id(3), Qos::ExactlyOnce, ReasonCode::Success),
            ]
        );
        assert!(!inbound.is_pending(id(2)));
    }

    #[test]
    fn a_publish_waits_for_the_parts_that_were_added() {
        let mut inbound = Inbound::default();
        let (ticket, other) = (inbound.ticket(), inbound.ticket());
        inbound.wait(Pending {
            packet_id: id(1),
            qos: Qos::ExactlyOnce,
            state: Settled::Not(awaited(ticket)),
            holds_id: true,
        });
        inbound.expect(other, 7);
        inbound.expect(ticket, 2);
        assert!(inbound.settle(ticket, Settlement::Done).is_none());
        assert!(inbound.settle(ticket, Settlement::Busy).is_none());
        let (whole, _) = inbound.settle(ticket, Settlement::Done).expect("these were all");
        assert_eq!(whole.worst, Settlement::Busy);
    }

    #[test]
    fn a_released_identifier_is_forgotten_once() {
        let mut inbound = Inbound::default();
        inbound.accept(id(9));
        assert!(inbound.is_unreleased(id(9)));
        assert!(inbound.release(id(9)));
        assert!(!inbound.release(id(9)));
        assert_eq!(inbound.open(10), 0);
    }

    #[test]
    fn what_an_earlier_connection_left_does_not_count_up_to_one_connection_s_worth() {
        let mut inbound = Inbound::default();
        inbound.restore(&[id(1), id(2), id(3), id(4)]);
        assert_eq!(inbound.open(10), 0);
        assert_eq!(inbound.open(3), 1);
        inbound.accept(id(9));
        assert_eq!(inbound.open(10), 1);
        for number in 1..=4 {
            assert!(inbound.release(id(number)));
        }
        assert!(inbound.release(id(9)));
        assert_eq!(inbound.open(10), 0);
    }
}
