//! Retained messages: storing them, and reading them for new subscriptions.
//!
//! A subscription reads page by page, as fast as its client takes them: while the output is
//! short and nothing waits in the session's queue or inbox. A page is never more than half of
//! what the queue takes. What was published after the subscription became effective came to it
//! live and is passed over.
//!
//! Where several nodes have the messages, this one may lack what was acknowledged elsewhere. A read waits for
//! it, at most for `route_patience` together; then it takes what is here, and that is counted. KV-010

use std::{sync::Arc, time::Duration};

use ratatosk_clock::Instant;
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
    connection::{Connection, Local, RetainedRead},
    mailbox::Note,
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
/// How often whoever waits looks by himself.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So many are told before those are looked for that have ended.
const LISTED_MIN: usize = 64;

/// Who reads when a tenant's messages are known to be all here.
#[derive(Debug, Default)]
pub(super) struct Readers {
    waiting: Vec<SessionRef>,
    /// When it was asked to be told last; perhaps it never is.
    asked: Option<Instant>,
}

/// A read that waits for that, or has waited.
#[derive(Copy, Clone, Debug)]
pub(crate) struct ReadWait {
    since: Instant,
    /// When it looks again; `None` if it is not waiting, or may look now.
    look_at: Option<Instant>,
}

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
            let is_read = self.read_page(tenant, session, connection, &mut read, room);
            if !is_read {
                connection.local.retained.get_or_insert_default().push_front(read);
                return;
            }
            let is_over = read.cursor == Cursor::End || read.left == 0;
            if !is_over {
                connection.local.retained.get_or_insert_default().push_front(read);
            }
        }
    }

    /// Reads one page of at most `room` messages; false if the read waits.
    fn read_page(
        &mut self,
        tenant: TenantNumber,
        session: SessionRef,
        connection: &mut Box<Connection>,
        read: &mut RetainedRead,
        room: usize,
    ) -> bool {
        let is_waiting = read.wait.and_then(|wait| wait.look_at).is_some_and(|at| at > self.now);
        if is_waiting {
            return false;
        }
        let Ok(filter) = TopicFilter::parse(read.filter.as_str(), &TopicLimits::PROTOCOL) else {
            read.cursor = Cursor::End;
            return true;
        };
        let mut page = Page {
            messages: Vec::new(),
            messages_max: PAGE_MESSAGES.min(room).min(read.left as usize),
            bytes_max: PAGE_BYTES,
        };
        let retained = Arc::clone(&self.tenant(tenant).retained);
        if !retained.scan_current(self.now, &filter, &mut read.cursor, &mut page) {
            let fresh = ReadWait { since: self.now, look_at: None };
            let wait = read.wait.get_or_insert(fresh);
            if self.now.since(wait.since) < self.node.route_patience {
                wait.look_at = Some(self.now + LOOK_INTERVAL);
                self.list_reader(tenant, (&mut connection.local, session));
                return false;
            }
            self.stats.retained_late += 1;
            retained.scan(self.now, &filter, &mut read.cursor, &mut page);
        }
        if let Some(wait) = &mut read.wait {
            wait.look_at = None;
        }
        for stored in &page.messages {
            if stored.accepted > read.since {
                continue;
            }
            read.left -= 1;
            self.deliver_retained(tenant, session, connection, (read, stored));
        }
        true
    }

    /// Notes who is told as well once a tenant's messages are worth a look.
    fn list_reader(&mut self, number: TenantNumber, (local, session): (&mut Local, SessionRef)) {
        let (node, shard, now) = (Arc::clone(&self.node), self.id, self.now);
        let (slots, listed_max) = (&self.slots, 2 * self.connections.max(LISTED_MIN));
        let Some(tenant) = self.tenants[number.0 as usize].as_deref_mut() else { return };
        if !std::mem::replace(&mut local.rare().is_reader_listed, true) {
            tenant.readers.waiting.push(session);
        }
        if tenant.readers.waiting.len() > listed_max {
            // Most have ended.
            let is_there = |it: &SessionRef| slots[it.slot as usize].generation == it.generation;
            tenant.readers.waiting.retain(is_there);
        }
        if tenant.readers.asked.is_none_or(|asked| now.since(asked) >= LOOK_INTERVAL) {
            tenant.readers.asked = Some(now);
            tenant.retained.when_current(Box::new(move || {
                node.mailboxes[shard.index()].note(Note::LookAtRetained(number));
            }));
        }
    }

    /// A tenant's messages are worth a look: the flusher has those that wait for them read.
    pub(super) fn look_at_retained(&mut self, number: TenantNumber) {
        let readers = std::mem::take(&mut self.tenant_mut(number).readers);
        for session in readers.waiting {
            self.hold(session, |shard, connection| {
                connection.local.rare().is_reader_listed = false;
                let read = connection.local.retained.as_mut().and_then(|reads| reads.front_mut());
                if let Some(wait) = read.and_then(|read| read.wait.as_mut()) {
                    wait.look_at = None;
                    shard.mark_dirty(session, connection);
                }
            });
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

impl Local {
    /// When a read of retained messages looks again whether they are all here.
    pub(super) fn read_at(&self) -> Option<Instant> {
        self.retained.as_ref()?.front()?.wait?.look_at
    }
}
