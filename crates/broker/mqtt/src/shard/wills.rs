//! Wills, from the end of their authors to where they are stored.
//!
//! A will that the inbox keeps is forgotten there only once what came of its publication is durable: whoever
//! dies before leaves it to be published again, so it comes at least once, whatever its QoS. Nobody waits for
//! what is not kept; but it is sent in the same way. MQTT-051
//!
//! It goes out as soon as the routes answer for it, as any publish does. If the store takes nothing, or it
//! is not known whether it did, it is tried again, and after [`PATIENCE`] sent to whoever takes it. Of a
//! receiver's full queue nobody is told, and the others have it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_codec::Qos;
use ratatosk_contract::{
    ReplyTo, SessionIdentity, SessionRef, StoredMessage, Ticket, call::Settlement, inbox::WillId,
};
use ratatosk_plugin::{
    answer::Answer,
    permission::{Action, Identity},
};
use ratatosk_session::{Published, WillOrder};
use ratatosk_telemetry::memory::{Hold, Share};
use ratatosk_topic::{TopicLimits, TopicName};

use super::{Shard, outcome::Outcome, publish::Sender, runner, withheld::Owed};
use crate::tenants::TenantNumber;

/// How long somebody is to take a will.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon it is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// The slot of nobody's session: who waits is the shard, for a will.
const NOBODY: u32 = u32::MAX - 1;

/// How the inbox keeps a will.
#[derive(Copy, Clone, Debug)]
pub(super) enum Kept {
    /// While its author lives.
    Held(WillId),
    /// Until it is sent, for it is due.
    Due(WillId),
}

/// The wills of a shard that are not settled.
#[derive(Default)]
pub(super) struct Wills {
    sent: HashMap<u64, Sent, foldhash::fast::RandomState>,
    last: u64,
    waiting: Vec<(Instant, Will)>,
}

struct Will {
    tenant: TenantNumber,
    message: Arc<StoredMessage>,
    kept: Option<Kept>,
    /// From when on nobody is asked.
    until: Instant,
    is_counted: bool,
    _hold: Hold,
    _owed: Owed,
}

/// A will that is on its way.
struct Sent {
    will: Will,
    parts: u32,
    /// A part was not taken, or that is not known.
    is_lacking: bool,
}

/// Whether it is no session that waits but its shard, for a will.
pub(super) fn is_will(session: SessionRef) -> bool {
    session.slot == NOBODY
}

impl Shard {
    /// Whether a will may be published by its author. MQTT-052
    pub(super) fn permits_will(
        &self,
        message: &StoredMessage,
        author: Option<&Identity>,
    ) -> Answer<bool> {
        let Some(author) = author else { return Answer::Now(true) };
        let action = Action::Publish {
            topic: &message.topic,
            qos: message.qos,
            retain: message.retain,
            is_will: true,
        };
        self.node.plugins.check(author, action).map(|verdict| verdict.permits(false))
    }

    /// Keeps the will of a persistent session that is due at once, for the session is about to give it up.
    pub(super) fn keep_own(
        &self,
        identity: &SessionIdentity,
        session: SessionRef,
        will: &WillOrder,
    ) -> Option<WillId> {
        let message = dated(will, self.now);
        let kept = self.node.inbox.keep_will(identity, session, &message, 0, None);
        // Whom nobody serves has no way to be remembered either.
        kept.ok().map(|promised| promised.answer)
    }

    /// Publishes a will, if its author may publish there, and has the inbox forget it if it keeps
    /// it. MQTT-048, MQTT-052
    pub(super) fn publish_will(
        &mut self,
        tenant: TenantNumber,
        will: &WillOrder,
        author: Option<&Identity>,
        kept: Option<WillId>,
    ) {
        let message = dated(will, self.now);
        let finish = move |shard: &mut Shard, message: Arc<StoredMessage>, is_permitted: bool| {
            let kept = kept.map(Kept::Held);
            if is_permitted {
                shard.send_will(tenant, message, kept);
            } else {
                shard.forget_will(kept);
            }
        };
        match self.permits_will(&message, author) {
            Answer::Now(is_permitted) => finish(self, message, is_permitted),
            Answer::Later(later) => runner::spawn(async move {
                let is_permitted = later.await;
                runner::with(|shard| finish(shard, message, is_permitted));
            }),
        }
        self.stats.wills += 1;
    }

    /// Publishes a will, and has the inbox forget it when it is stored.
    pub(super) fn send_will(
        &mut self,
        tenant: TenantNumber,
        message: Arc<StoredMessage>,
        kept: Option<Kept>,
    ) {
        self.open_tenant(tenant);
        let until = self.now + PATIENCE;
        let hold = self.tenant(tenant).account.hold(Share::Queues, message.size_bytes());
        let owed = Owed::new(&self.node.owed);
        let will =
            Will { tenant, message, kept, until, is_counted: false, _hold: hold, _owed: owed };
        self.try_will(will);
        self.wake_flusher();
    }

    fn forget_will(&self, kept: Option<Kept>) {
        match kept {
            Some(Kept::Held(id)) => self.node.inbox.withdraw_will(id),
            Some(Kept::Due(id)) => self.node.inbox.will_sent(id),
            None => {}
        }
    }

    fn try_will(&mut self, mut will: Will) {
        let is_late = will.until <= self.now;
        self.wills.last += 1;
        let ticket = Ticket(self.wills.last);
        let session = SessionRef { shard: self.id, slot: NOBODY, generation: 0 };
        let reply_to = (!is_late).then_some(ReplyTo { session, ticket });
        let Some(outcome) = self.distribute_will(&mut will, reply_to) else {
            self.try_will_later(will);
            return;
        };
        match outcome.published(true) {
            Published::Pending { parts, .. } if !is_late => {
                let sent = Sent { will, parts, is_lacking: false };
                self.wills.sent.insert(ticket.0, sent);
            }
            Published::Busy | Published::Unknown if !is_late => self.try_will_later(will),
            _ => self.forget_will(will.kept),
        }
    }

    /// Retains a will and hands it out, as far as anybody takes it; `None` if the routes do not answer.
    fn distribute_will(&mut self, will: &mut Will, reply_to: Option<ReplyTo>) -> Option<Outcome> {
        let (tenant, stored) = (will.tenant, Arc::clone(&will.message));
        let message = stored.as_message();
        let mut outcome = Outcome::default();
        let Ok(topic) = TopicName::parse(message.topic, &TopicLimits::PROTOCOL) else {
            return Some(outcome);
        };
        // What was retained is there before it is routed, and it does no harm to retain it again.
        let asks = reply_to.is_some() && self.is_replicated(tenant);
        self.begin_batch();
        if asks && !self.look_at_routes(tenant) {
            return None;
        }
        if message.retain {
            outcome.add(self.retain(tenant, &message, reply_to));
            if outcome.has_failed() && reply_to.is_some() {
                return Some(outcome);
            }
        }
        let resolved = match asks {
            true => self.resolve_answered(tenant, topic)?,
            false => self.resolve(tenant, topic),
        };
        if !std::mem::replace(&mut will.is_counted, true) {
            let flow = self.flow(tenant);
            flow.received += 1;
            flow.wills += 1;
            flow.unmatched += u64::from(!resolved.is_matched());
        }
        let asked = reply_to.filter(|_| message.qos != Qos::AtMostOnce);
        let mut sent = Outcome::default();
        let sender = Sender { reply_to: asked, ..Sender::default() };
        self.distribute(tenant, &resolved, &message, sender, &mut sent);
        if sent.published(true) == Published::QuotaExceeded {
            // Those who have room have it.
            self.distribute(
                tenant,
                &resolved,
                &message,
                Sender::default(),
                &mut Outcome::default(),
            );
            return Some(outcome);
        }
        outcome.join(sent);
        Some(outcome)
    }

    fn try_will_later(&mut self, will: Will) {
        self.wills.waiting.push((self.now + AGAIN, will));
    }

    /// Tries again what was not taken.
    pub(super) fn retry_wills(&mut self) {
        if self.wills.waiting.is_empty() {
            return;
        }
        let now = self.now;
        let due: Vec<_> = self.wills.waiting.extract_if(.., |(at, _)| *at <= now).collect();
        due.into_iter().for_each(|(_, will)| self.try_will(will));
    }

    /// A part of a will's publication has its outcome.
    pub(super) fn settle_will(&mut self, Ticket(ticket): Ticket, settlement: Settlement) {
        let Some(sent) = self.wills.sent.get_mut(&ticket) else { return };
        sent.is_lacking |= matches!(settlement, Settlement::Busy | Settlement::Unknown);
        sent.parts = sent.parts.saturating_sub(1);
        if sent.parts > 0 {
            return;
        }
        let Some(Sent { will, is_lacking, .. }) = self.wills.sent.remove(&ticket) else { return };
        match is_lacking {
            true => self.try_will_later(will),
            false => self.forget_will(will.kept),
        }
    }
}

/// The will as it is published: its interval counts from now.
pub(super) fn dated(will: &WillOrder, now: Instant) -> Arc<StoredMessage> {
    let delay = Duration::from_secs(will.delay_s.into());
    let deadline = will.expiry_s.map(|seconds| now + delay + Duration::from_secs(seconds.into()));
    Arc::new(StoredMessage { accepted: now, deadline, ..(*will.message).clone() })
}
