//! Messages that came through a group: they may be given back for another member.

use std::sync::Arc;

use ratatosk_contract::{StoredMessage, dist::RouteId, group::Group};

use super::Queue;

/// Which group a message came through, without its members, which change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) route: RouteId,
    pub(crate) name: Arc<str>,
    pub(crate) is_ordered: bool,
}

impl Origin {
    pub(crate) fn of(group: &Group) -> Self {
        let (route, name) = (group.route, Arc::clone(&group.name));
        Origin { route, name, is_ordered: group.is_ordered }
    }
}

/// A message that is given back for another member of its group.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    /// Where it was.
    pub(crate) sequence: u64,
    pub(crate) origin: Origin,
    pub(crate) message: Arc<StoredMessage>,
}

impl Queue {
    /// Whether a message came through a group.
    pub(crate) fn has_shared(&self) -> bool {
        self.origins.is_some()
    }

    /// Takes out the messages of wanted groups that another member may have: the unsent, and QoS 1
    /// in flight. MQTT-087
    pub(crate) fn take_shared(
        &mut self,
        mut is_wanted: impl FnMut(&Origin) -> bool,
    ) -> Vec<Transfer> {
        let Some(origins) = &self.origins else {
            return Vec::new();
        };
        let mut sequences: Vec<_> = origins
            .iter()
            .filter(|(sequence, origin)| {
                let slot = self.slot(**sequence);
                // [MQTT-4.8.2-4]
                let is_exchange = **sequence <= self.sent && slot.is_none_or(|slot| slot.is_qos2);
                !is_exchange && is_wanted(origin)
            })
            .map(|(sequence, _)| *sequence)
            .collect();
        sequences.sort_unstable();
        let mut transfers = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let origin = self.origins.as_ref().and_then(|origins| origins.get(&sequence)).cloned();
            if let (Some(message), Some(origin)) = (self.empty_slot(sequence), origin) {
                transfers.push(Transfer { sequence, origin, message });
            }
        }
        self.trim();
        transfers
    }
}
