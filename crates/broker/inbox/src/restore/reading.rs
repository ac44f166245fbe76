//! Entries of queues as they were stored, made into messages again: one for all entries of a body.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use ratatosk_clock::{Epoch, Instant};
use ratatosk_codec::Qos;
use ratatosk_contract::{StoredMessage, dist::TenantRoutes, inbox::InboxId};
use ratatosk_engine::wire::Malformed;
use ratatosk_telemetry::memory::Account;
use ratatosk_topic::{TopicFilter, TopicLimits};

use super::Body;
use crate::{
    handover::{keep, keep_found},
    queue::{Item, Origin as GroupOrigin},
    schema::{EntryRecord, Head, MessageRecord},
};

/// How the entries of one session are read.
pub(super) struct Reading<'a> {
    pub(super) epoch: Epoch,
    pub(super) account: Account,
    pub(super) routes: Arc<dyn TenantRoutes>,
    pub(super) bodies: &'a mut HashMap<(InboxId, u64), Body, foldhash::fast::RandomState>,
}

impl Reading<'_> {
    /// An entry as the queue has it, and whether its PUBREC came.
    pub(super) fn item(&mut self, record: &Bytes) -> Result<(Item, bool), Malformed> {
        Ok(match EntryRecord::decode(record)? {
            EntryRecord::Here { head, message } => {
                let message = self.message(record, message)?;
                (self.item_of(&head, message)?, false)
            }
            EntryRecord::Elsewhere { head, inbox, sequence } => {
                let message = self.body((inbox, sequence))?;
                (self.item_of(&head, message)?, false)
            }
            // Nobody looks at the message of an exchange of which only the end is owed. MQTT-045
            EntryRecord::Received => {
                let nothing = MessageRecord {
                    topic: "",
                    payload: &[],
                    properties: &[],
                    qos: Qos::ExactlyOnce,
                    retain: false,
                    deadline_ms: None,
                    publisher: None,
                };
                let message = nothing.to_message(self.epoch, Instant::ZERO);
                let message = Arc::new(keep(&message, &self.account));
                let head =
                    Head { is_qos2: true, retain: false, subscription_id: None, origin: None };
                (self.item_of(&head, message)?, true)
            }
        })
    }

    fn item_of(&self, head: &Head<'_>, message: Arc<StoredMessage>) -> Result<Item, Malformed> {
        Ok(Item {
            message,
            qos: if head.is_qos2 { Qos::ExactlyOnce } else { Qos::AtLeastOnce },
            retain: head.retain,
            subscription_id: head.subscription_id,
            origin: head.origin.map(|text| self.origin(text)).transpose()?.flatten(),
        })
    }

    /// The group of a shared filter, if it has a member.
    fn origin(&self, text: &str) -> Result<Option<GroupOrigin>, Malformed> {
        let filter = TopicFilter::parse(text, &TopicLimits::PROTOCOL).map_err(|_| Malformed)?;
        let share = filter.share().ok_or(Malformed)?;
        let origin =
            |route| GroupOrigin { route, name: share.group.into(), is_ordered: share.ordered };
        Ok(self.routes.find(&filter).map(origin))
    }

    fn body(&mut self, at: (InboxId, u64)) -> Result<Arc<StoredMessage>, Malformed> {
        let body = self.bodies.get(&at).ok_or(Malformed)?;
        if let Some(message) = &body.message {
            return Ok(Arc::clone(message));
        }
        let message = self.message(&body.record, &body.record)?;
        if let Some(body) = self.bodies.get_mut(&at) {
            body.message = Some(Arc::clone(&message));
        }
        Ok(message)
    }

    /// A message whose record is a part of what was read.
    fn message(&self, read: &Bytes, record: &[u8]) -> Result<Arc<StoredMessage>, Malformed> {
        let message = MessageRecord::decode(record)?.to_message(self.epoch, Instant::ZERO);
        Ok(Arc::new(keep_found(&message, read, &self.account)))
    }
}
