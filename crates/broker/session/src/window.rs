//! The window of QoS 1 and 2 messages that were sent and not yet confirmed.
//!
//! Messages have consecutive sequence numbers, and a packet identifier follows from the sequence
//! number, so the state of a message is found by its distance from the oldest unconfirmed one:
//! one byte a message, no search. A message confirmed out of order waits, marked, until those
//! before it are confirmed.
//!
//! `open ≤ states.len() < 65,535`; the front of `states`, if any, is not done.

use std::collections::VecDeque;

use ratatosk_codec::PacketId;
use ratatosk_contract::inbox::Sequence;

/// Packet identifiers may not be reused while one of their turn is open.
const SPAN_MAX: usize = 65_535;

/// An empty window keeps room for this many messages, so that one batch after the other costs no
/// allocation.
const SLOTS_KEPT: usize = 256;

/// What is awaited for a message: it is open until that comes. [MQTT-4.3.2-3] [MQTT-4.3.3-3]
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Awaits {
    /// QoS 1.
    Puback,
    /// QoS 2, first half.
    Pubrec,
    /// QoS 2, second half: PUBREL was sent.
    Pubcomp,
    /// Nothing any more; those before it still do.
    Nothing,
}

#[derive(Copy, Clone, Debug)]
struct Slot {
    awaits: Awaits,
    has_body: bool,
}

/// The window.
#[derive(Debug)]
pub(crate) struct Window {
    base: Sequence,
    slots: VecDeque<Slot>,
    open: usize,
}

/// What a confirmation did.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Confirmed {
    pub(crate) sequence: Sequence,
    /// How many kept bodies are no longer needed, from the oldest on.
    pub(crate) bodies: usize,
}

impl Window {
    /// An empty window whose first message will be `next`.
    pub(crate) fn new(next: Sequence) -> Self {
        Window { base: next, slots: VecDeque::new(), open: 0 }
    }

    /// How many messages are unconfirmed.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// The sequence number of the next message.
    pub(crate) fn next(&self) -> Sequence {
        Sequence(self.base.0 + self.slots.len() as u64)
    }

    /// Whether another message may be sent under a window of `window_max`.
    #[inline]
    pub(crate) fn has_room(&self, window_max: u16) -> bool {
        self.open < usize::from(window_max) && self.slots.len() < SPAN_MAX - 1
    }

    /// How many messages may be sent under a window of `window_max`.
    pub(crate) fn room(&self, window_max: u16) -> usize {
        let span = (SPAN_MAX - 1).saturating_sub(self.slots.len());
        usize::from(window_max).saturating_sub(self.open).min(span)
    }

    /// Whether `sequence` can be sent now: its packet identifier is not one that is still open.
    /// [MQTT-4.3.2-1] [MQTT-4.3.3-1] [MQTT-2.3.1-4]
    pub(crate) fn reaches(&self, sequence: Sequence) -> bool {
        debug_assert!(sequence >= self.next(), "sequences only go on");
        self.slots.is_empty() || sequence.0 - self.base.0 < SPAN_MAX as u64 - 1
    }

    /// Adds the next message.
    pub(crate) fn push(&mut self, awaits: Awaits, has_body: bool) -> Sequence {
        let sequence = self.next();
        debug_assert!(self.slots.len() < SPAN_MAX, "has_room is asked first");
        if awaits == Awaits::Nothing && self.slots.is_empty() {
            self.base = Sequence(self.base.0 + 1);
            return sequence;
        }
        self.slots.push_back(Slot { awaits, has_body });
        self.open += usize::from(awaits != Awaits::Nothing);
        sequence
    }

    /// Passes over sequence numbers up to, not including, `sequence`: they were dropped from the
    /// queue before they were sent.
    pub(crate) fn skip_to(&mut self, sequence: Sequence) {
        if self.slots.is_empty() && sequence > self.base {
            self.base = sequence;
        }
        debug_assert!(self.reaches(sequence), "reaches is asked first");
        while self.next() < sequence {
            self.slots.push_back(Slot { awaits: Awaits::Nothing, has_body: false });
        }
    }

    /// What the message of a packet identifier awaits.
    pub(crate) fn awaits(&self, packet_id: PacketId) -> Option<Awaits> {
        let slot = self.slots.get(self.offset(packet_id))?;
        (slot.awaits != Awaits::Nothing).then_some(slot.awaits)
    }

    /// The sequence of an open packet identifier.
    pub(crate) fn sequence(&self, packet_id: PacketId) -> Sequence {
        Sequence(self.base.0 + self.offset(packet_id) as u64)
    }

    /// PUBREC came: from now on PUBCOMP is awaited. The body is needed no more, but stays until
    /// those before it go.
    pub(crate) fn received(&mut self, packet_id: PacketId) {
        let offset = self.offset(packet_id);
        if let Some(slot) = self.slots.get_mut(offset) {
            debug_assert_eq!(slot.awaits, Awaits::Pubrec);
            slot.awaits = Awaits::Pubcomp;
        }
    }

    /// The message is confirmed; the window moves past all that are.
    pub(crate) fn confirm(&mut self, packet_id: PacketId) -> Confirmed {
        let offset = self.offset(packet_id);
        let sequence = self.sequence(packet_id);
        let mut bodies = 0;
        if let Some(slot) = self.slots.get_mut(offset)
            && slot.awaits != Awaits::Nothing
        {
            slot.awaits = Awaits::Nothing;
            self.open -= 1;
        }
        while self.slots.front().is_some_and(|slot| slot.awaits == Awaits::Nothing) {
            let slot = self.slots.pop_front().expect("the front was just seen");
            bodies += usize::from(slot.has_body);
            self.base = Sequence(self.base.0 + 1);
        }
        if self.slots.is_empty() && self.slots.capacity() > SLOTS_KEPT {
            self.slots = VecDeque::new();
        }
        Confirmed { sequence, bodies }
    }

    /// Shows what each kept body's message awaits and its packet identifier, oldest first.
    pub(crate) fn bodies(&self) -> impl Iterator<Item = (Sequence, Awaits)> {
        let base = self.base.0;
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.has_body)
            .map(move |(offset, slot)| (Sequence(base + offset as u64), slot.awaits))
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    fn offset(&self, packet_id: PacketId) -> usize {
        let first = usize::from(self.base.packet_id().value());
        let asked = usize::from(packet_id.value());
        if asked >= first { asked - first } else { asked + SPAN_MAX - first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: u16) -> PacketId {
        PacketId::new(value).expect("not zero")
    }

    #[test]
    fn identifiers_run_from_1_to_65535_and_start_over_without_zero() {
        let mut window = Window::new(Sequence(1));
        for turn in 0..150_000_u64 {
            let sequence = window.push(Awaits::Puback, false);
            assert_eq!(sequence, Sequence(turn + 1));
            let packet_id = sequence.packet_id();
            assert_eq!(u64::from(packet_id.value()), turn % 65_535 + 1);
            assert_eq!(window.awaits(packet_id), Some(Awaits::Puback));
            assert_eq!(window.confirm(packet_id).sequence, sequence);
            assert_eq!(window.awaits(packet_id), None);
        }
        assert_eq!(window.open(), 0);
    }

    #[test]
    fn a_message_confirmed_out_of_order_frees_its_place_but_keeps_the_span() {
        let mut window = Window::new(Sequence(65_534));
        for _ in 0..4 {
            window.push(Awaits::Puback, true);
        }
        // The identifiers are 65534, 65535, 1, 2.
        assert_eq!(window.confirm(id(65_535)).bodies, 0);
        assert_eq!(window.confirm(id(1)).bodies, 0);
        assert_eq!(window.open(), 2);
        assert_eq!(window.awaits(id(1)), None, "confirmed once only");
        assert_eq!(window.confirm(id(65_534)).bodies, 3);
        assert_eq!(window.awaits(id(2)), Some(Awaits::Puback));
        assert_eq!(window.bodies().count(), 1);
    }

    #[test]
    fn skipped_sequences_leave_no_open_message() {
        let mut window = Window::new(Sequence(1));
        window.skip_to(Sequence(10));
        assert_eq!(window.push(Awaits::Pubrec, false), Sequence(10));
        window.skip_to(Sequence(13));
        assert_eq!(window.push(Awaits::Puback, false), Sequence(13));
        assert_eq!(window.open(), 2);
        window.received(id(10));
        assert_eq!(window.awaits(id(10)), Some(Awaits::Pubcomp));
        window.confirm(id(10));
        assert_eq!(window.awaits(id(13)), Some(Awaits::Puback));
        assert_eq!(window.next(), Sequence(14));
    }

    #[test]
    fn a_sequence_whose_identifier_is_still_open_is_out_of_reach() {
        let mut window = Window::new(Sequence(1));
        assert!(window.reaches(Sequence(1_000_000)), "nothing is open");
        window.push(Awaits::Puback, false);
        assert!(window.reaches(Sequence(65_534)));
        assert!(!window.reaches(Sequence(65_535 + 1)), "its identifier is that of 1");
        window.confirm(id(1));
        assert!(window.reaches(Sequence(65_535 + 1)));
    }

    #[test]
    fn an_unknown_identifier_awaits_nothing() {
        let mut window = Window::new(Sequence(5));
        assert_eq!(window.awaits(id(5)), None);
        window.push(Awaits::Puback, false);
        assert_eq!(window.awaits(id(4)), None);
        assert_eq!(window.awaits(id(6)), None);
    }
}
