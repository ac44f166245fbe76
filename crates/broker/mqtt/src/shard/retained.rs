//! Retained messages: storing them, and reading them for new subscriptions.
//!
//! A subscription reads page by page, as fast as its client takes them: while the output is
//! short and nothing waits in the session's queue or inbox. A page is never more than half of
//! what the queue takes. What was published after the subscription became effective came to it
//! live and is passed over.

use std::sync::Arc;

use ratatosk_contract::{
    Call, Message, ReplyTo, SessionRef, StoredMessage,
    call::Settlement,
    dist::InboxRoute,
    inbox::Targets,
    retain::{Cursor, Page},
};
use ratatosk_session::{Delivered, Delivery, DropReason};
use ratatosk_topic::{TopicFilter, TopicLimits};

use super::{
    Shard,
    connection::{Connection, RetainedRead},
    outcome::settlement,
    publish::refusal,
};
use crate::tenants::TenantNumber;

/// Up to how many unwritten bytes the next page is read.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// How many messages are read at once.
const PAGE_MESSAGES: usize = 128;
/// How many pages are read for one connection before others get a turn.
const PAGES_MAX: usize = 4;
/// How many bytes, about.
const PAGE_BYTES: usize = 64 * 1024;

impl Shard {
    /// Retains or clears, before the message is routed.
    pub(super) fn retain(
        &mut self,
        tenant: TenantNumber,
        message: &Message<'_>,
        reply_to: Option<ReplyTo>,
    ) -> Call<Settlement> {
        let call = settlement(self.tenant(tenant).retained.store(message, reply_to));
        self.stats.retained += u64::from(call != Call::Ready(Settlement::Busy));
        call
    }

    /// Hands on retained messages while the client takes them.
    pub(super) fn pump_retained(&mut self, session: SessionRef, connection: &mut Box<Connection>) {
        let Some(tenant) = connection.local.tenant else { return };
        let mut pages = 0;
        while connection.session.output_len() < OUTPUT_BYTES_MAX {
            let room = connection.session.page_room();
            if room == 0 {
                return;
            }
            pages += 1;
            if pages > PAGES_MAX && connection.local.has_retained() {
                // Others go first; the flusher comes back to it.
                self.mark_dirty(session, connection);
                return;
            }
            let reads = &mut connection.local.retained;
            let Some(mut read) = reads.as_mut().and_then(|reads| reads.pop_front()) else {
                // Most connections are owed something only once.
                *reads = None;
                return;
            };
            self.read_page(tenant, session, connection, &mut read, room);
            let is_over = read.cursor == Cursor::End || read.left == 0;
            if !is_over {
                connection.local.retained.get_or_insert_default().push_front(read);
            }
        }
    }

    /// Reads one page of at most `room` messages.
    fn read_page(
        &mut self,
        tenant: TenantNumber,
        session: SessionRef,
        connection: &mut Box<Connection>,
        read: &mut RetainedRead,
        room: usize,
    ) {
        let Ok(filter) = TopicFilter::parse(read.filter.as_str(), &TopicLimits::PROTOCOL) else {
            read.cursor = Cursor::End;
            return;
        };
        let mut page = Page {
            messages: Vec::new(),
            messages_max: PAGE_MESSAGES.min(room).min(read.left as usize),
            bytes_max: PAGE_BYTES,
        };
        self.tenant(tenant).retained.scan(self.now, &filter, &mut read.cursor, &mut page);
        for stored in &page.messages {
            if stored.accepted > read.since {
                continue;
            }
            read.left -= 1;
            self.deliver_retained(tenant, session, connection, (read, stored));
        }
    }

    fn deliver_retained(
        &mut self,
        tenant: TenantNumber,
        session: SessionRef,
        connection: &mut Box<Connection>,
        (read, stored): (&RetainedRead, &Arc<StoredMessage>),
    ) {
        let message = stored.as_message();
        let qos = message.qos.min(read.options.qos);
        if let Some(claim) = connection.local.claim.as_deref()
            && qos != ratatosk_codec::Qos::AtMostOnce
        {
            // A persistent session's messages go through its inbox, so that they survive.
            let options = ratatosk_codec::SubscriptionOptions {
                retain_as_published: true,
                no_local: false,
                ..read.options
            };
            let route = InboxRoute {
                inbox: claim.inbox,
                incarnation: connection.local.incarnation,
                options,
                subscription_id: read.subscription_id,
            };
            let message = Message { retain: true, ..message };
            let tenant_id = &self.tenant(tenant).id;
            let targets = Targets { tenant: tenant_id, routes: &[route], shared: &[] };
            let call = self.node.inbox.append(targets, &message, None, None, &mut Vec::new());
            let flow = self.flow(tenant);
            flow.copies += 1;
            match refusal(call) {
                Some(reason) => flow.dropped(reason),
                None => {
                    flow.stored += 1;
                    connection.session.note_appended();
                }
            }
            return;
        }
        let delivery = Delivery {
            message: &message,
            // [MQTT-3.8.3-3] concerns what is published now, not what is retained.
            options: ratatosk_codec::SubscriptionOptions { no_local: false, ..read.options },
            subscription_id: read.subscription_id,
            is_retained: true,
            origin: None,
        };
        let delivered = connection.session.deliver(self.now, &delivery);
        if delivered == Delivered::Sent {
            self.mark_dirty(session, connection);
        }
        debug_assert_ne!(delivered, Delivered::Dropped(DropReason::NoLocal));
        self.flow(tenant).copies += 1;
        self.count(tenant, delivered, &message);
    }
}
