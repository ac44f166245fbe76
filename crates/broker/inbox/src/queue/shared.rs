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

    /// The messages that another member may have, oldest first: the unsent, and QoS 1 in flight.
    pub(crate) fn shared(&self) -> impl Iterator<Item = (u64, &Origin, &Arc<StoredMessage>)> {
        let origins = self.origins.iter().flat_map(|origins| {
            let found = |sequence| Some((sequence, origins.get(&sequence)?));
            // What lies behind the last of them is not looked at.
            self.sequences().filter_map(found).take(origins.len())
        });
        origins.filter_map(|(sequence, origin)| {
            let slot = self.slot(sequence)?;
            // [MQTT-4.8.2-4]
            let is_exchange = sequence <= self.sent && slot.is_qos2;
            let message = slot.message.as_ref().filter(|_| !is_exchange)?;
            Some((sequence, origin, message))
        })
    }

    /// Takes out wanted ones of the messages that another member may have, the oldest first.
    /// MQTT-087
    pub(crate) fn take_shared(
        &mut self,
        count_max: usize,
        mut is_wanted: impl FnMut(&Origin, &StoredMessage) -> bool,
    ) -> Vec<Transfer> {
        let wanted = self.shared().filter(|(_, origin, message)| is_wanted(origin, message));
        let transfers: Vec<_> = wanted
            .take(count_max)
            .map(|(sequence, origin, message)| {
                let (origin, message) = (origin.clone(), Arc::clone(message));
                Transfer { sequence, origin, message }
            })
            .collect();
        for transfer in &transfers {
            self.empty_slot(transfer.sequence);
        }
        self.trim();
        transfers
    }
}
