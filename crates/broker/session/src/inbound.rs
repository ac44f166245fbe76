//! The inbound half of a session: publishes that are not yet acknowledged.
//!
//! Acknowledgements leave in the order in which the publishes came. [MQTT-4.6.0-2] [MQTT-4.6.0-3]
//! Mostly the outcome is known at once and nothing waits; where it is not, the acknowledgements
//! behind it wait too. A QoS 2 identifier is remembered from its PUBREC to its PUBREL, so that the
//! message is distributed once however often it is sent. [MQTT-4.3.3-10]

use std::collections::VecDeque;

use ratatosk_codec::{PacketId, Qos, ReasonCode};
use ratatosk_contract::Ticket;

/// Inbound state; see the module.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// Publishes whose acknowledgement has not left, in order.
    pending: VecDeque<Pending>,
    /// QoS 2 identifiers between PUBREC and PUBREL.
    unreleased: Vec<PacketId>,
    next_ticket: u64,
}

/// A publish whose acknowledgement has not left.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) packet_id: PacketId,
    pub(crate) qos: Qos,
    pub(crate) state: Settled,
}

/// Whether an outcome is known.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Not(Ticket),
    As(ReasonCode),
}

impl Inbound {
    /// The ticket for the next publish.
    pub(crate) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// How many publishes are not fully acknowledged: what Receive Maximum counts.
    /// [MQTT-3.3.4-7]
    pub(crate) fn open(&self) -> usize {
        self.pending.len() + self.unreleased.len()
    }

    /// How many wait for their outcome.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether an identifier is in use by a publish whose outcome is not known.
    pub(crate) fn is_pending(&self, packet_id: PacketId) -> bool {
        self.pending.iter().any(|pending| pending.packet_id == packet_id)
    }

    /// Whether a QoS 2 message of this identifier was accepted and not yet released.
    pub(crate) fn is_unreleased(&self, packet_id: PacketId) -> bool {
        self.unreleased.contains(&packet_id)
    }

    /// Remembers an accepted QoS 2 message.
    pub(crate) fn accept(&mut self, packet_id: PacketId) {
        debug_assert!(!self.is_unreleased(packet_id), "accepted once");
        self.unreleased.push(packet_id);
    }

    /// Forgets a released QoS 2 message; false if it is unknown.
    pub(crate) fn release(&mut self, packet_id: PacketId) -> bool {
        // Clients release in the order in which they sent, so the first is the usual one.
        let Some(index) = self.unreleased.iter().position(|id| *id == packet_id) else {
            return false;
        };
        self.unreleased.remove(index);
        if self.unreleased.is_empty() && self.unreleased.capacity() > 64 {
            self.unreleased = Vec::new();
        }
        true
    }

    /// Takes over what a stored session knew. MQTT-046
    pub(crate) fn restore(&mut self, unreleased: Vec<PacketId>) {
        self.unreleased = unreleased;
    }

    /// Puts an acknowledgement in line.
    pub(crate) fn wait(&mut self, pending: Pending) {
        self.pending.push_back(pending);
    }

    /// An outcome is known; unknown tickets are ignored.
    pub(crate) fn settle(&mut self, ticket: Ticket, code: ReasonCode) {
        let waiting = self.pending.iter_mut().find(|p| p.state == Settled::Not(ticket));
        if let Some(pending) = waiting {
            pending.state = Settled::As(code);
        }
    }

    /// The next acknowledgement that may leave.
    pub(crate) fn next_settled(&mut self) -> Option<(PacketId, Qos, ReasonCode)> {
        let front = *self.pending.front()?;
        let Settled::As(code) = front.state else { return None };
        self.pending.pop_front();
        Some((front.packet_id, front.qos, code))
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.pending.capacity() * size_of::<Pending>()
            + self.unreleased.capacity() * size_of::<PacketId>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: u16) -> PacketId {
        PacketId::new(value).expect("not zero")
    }

    #[test]
    fn acknowledgements_leave_in_the_order_of_the_publishes() {
        let mut inbound = Inbound::default();
        let tickets = [inbound.ticket(), inbound.ticket()];
        for (number, ticket) in [(1, tickets[0]), (2, tickets[1])] {
            inbound.wait(Pending {
                packet_id: id(number),
                qos: Qos::AtLeastOnce,
                state: Settled::Not(ticket),
            });
        }
        inbound.wait(Pending {
            packet_id: id(3),
            qos: Qos::ExactlyOnce,
            state: Settled::As(ReasonCode::Success),
        });
        inbound.settle(tickets[1], ReasonCode::Success);
        assert_eq!(inbound.next_settled(), None);
        inbound.settle(tickets[0], ReasonCode::QuotaExceeded);
        let left: Vec<_> = std::iter::from_fn(|| inbound.next_settled()).collect();
        assert_eq!(
            left,
            [
                (id(1), Qos::AtLeastOnce, ReasonCode::QuotaExceeded),
                (id(2), Qos::AtLeastOnce, ReasonCode::Success),
                (id(3), Qos::ExactlyOnce, ReasonCode::Success),
            ]
        );
    }

    #[test]
    fn a_released_identifier_is_forgotten_once() {
        let mut inbound = Inbound::default();
        inbound.accept(id(9));
        assert!(inbound.is_unreleased(id(9)));
        assert!(inbound.release(id(9)));
        assert!(!inbound.release(id(9)));
        assert_eq!(inbound.open(), 0);
    }
}
