//! A queue as it is put together from what was stored.

use super::{Item, PACKET_IDS, Queue, Slot};
use crate::schema::Position;

impl Queue {
    /// A queue as it was stored, without its entries.
    pub(crate) fn restored(position: Position) -> Self {
        let base = position.last.saturating_add(1);
        Queue { base, sent: position.sent, begun: position.begun, ..Self::default() }
    }

    /// Puts an entry back behind those that are there. False if it does not stand behind them.
    pub(crate) fn restore(&mut self, sequence: u64, item: Item, is_received: bool) -> bool {
        if self.slots.is_empty() {
            self.base = sequence;
        }
        if !self.skip_to(sequence) {
            return false;
        }
        if let Some(deadline) = item.message.deadline {
            self.deadline_min = Some(self.deadline_min.map_or(deadline, |min| min.min(deadline)));
        }
        self.push_slot(item);
        if let Some(slot) = self.slots.back_mut() {
            slot.is_received = is_received;
        }
        if is_received {
            self.begun = self.begun.max(sequence);
            self.sent = self.sent.max(sequence);
        }
        true
    }

    /// Ends the restoring: the next sequence follows `last`; false if that is far away. With
    /// `may_be_sent` there was a connection, which all that is there may have been sent to. MQTT-044
    pub(crate) fn restore_end(&mut self, last: u64, may_be_sent: bool) -> bool {
        let next = self.next().max(last.saturating_add(1));
        if !self.slots.is_empty() && !self.skip_to(next) {
            return false;
        }
        if may_be_sent {
            self.sent = self.sent.max((self.next() - 1).min(self.base + PACKET_IDS - 1));
        }
        true
    }

    /// Leaves a gap before a sequence.
    fn skip_to(&mut self, sequence: u64) -> bool {
        /// Gaps are as long as clients confirm out of order, and as what expired.
        const GAP_MAX: u64 = 1 << 24;
        let Some(gap) = sequence.checked_sub(self.next()).filter(|gap| *gap <= GAP_MAX) else {
            return false;
        };
        self.slots.extend((0..gap).map(|_| Slot::EMPTY));
        true
    }

    /// Each entry with its sequence, its origin, and whether its PUBREC came.
    #[cfg(test)]
    pub(crate) fn contents(&self) -> Vec<(u64, Item, bool)> {
        let entry = |sequence: u64| {
            let slot = self.slot(sequence)?;
            let item = Item {
                message: std::sync::Arc::clone(slot.message.as_ref()?),
                qos: if slot.is_qos2 {
                    ratatosk_codec::Qos::ExactlyOnce
                } else {
                    ratatosk_codec::Qos::AtLeastOnce
                },
                retain: slot.retain,
                subscription_id: super::given(slot.subscription_id),
                origin: self.origins.as_ref().and_then(|origins| origins.get(&sequence)).cloned(),
            };
            Some((sequence, item, slot.is_received))
        };
        self.sequences().filter_map(entry).collect()
    }
}
