//! One persistent session.

use std::{sync::Arc, time::Duration};

use ratatosk_clock::{Instant, Timestamp};
use ratatosk_codec::PacketId;
use ratatosk_contract::{
    Message, PublisherId, SessionIdentity, SessionRef, StoredMessage,
    dist::{InboxRoute, RESTORED_LIFE},
    group::MemberState,
    inbox::{Attach, Attached, Claim, InboxId, QueueLimits, Subscription, WillId},
};
use ratatosk_telemetry::memory::{Account, Hold, Share};

use crate::{
    exchanges::Exchanges, handover::keep, queue::Queue, schema::SessionRecord, stranded::Noted,
    tally::TallyPlace,
};

/// One persistent session. Which of its times are due is in its partition's index, too.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) identity: SessionIdentity,
    /// Of the identity: for no-local, and its number as a member of groups.
    pub(crate) publisher: PublisherId,
    pub(crate) incarnation: u64,
    /// Raised by each attach.
    pub(crate) version: u64,
    /// `None` while there is no connection.
    pub(crate) owner: Option<SessionRef>,
    /// It had an owner when it was read back, who may come again.
    pub(crate) is_awaited: bool,
    pub(crate) waiting: Waiting,
    pub(crate) expiry_s: Option<u32>,
    /// When the session ends, while there is no connection; `None`: never.
    pub(crate) due: Option<Instant>,
    /// Since when there is no connection, while there is none.
    pub(crate) away_since: Timestamp,
    pub(crate) will: Option<Box<PendingWill>>,
    /// The will of the connection that is there, where the log has it.
    pub(crate) held_will: Option<WillId>,
    /// That will itself, under reigns: its connection may end with another host.
    pub(crate) held: Option<Box<HeldWill>>,
    pub(crate) limits: QueueLimits,
    pub(crate) member: Arc<MemberState>,
    /// Rising by filter.
    subscriptions: Vec<Subscription>,
    /// Under which each subscription is stored, in their order.
    ordinals: Vec<u32>,
    /// Rising.
    inbound: Vec<PacketId>,
    /// Its messages that go in several commands, if there ever were any.
    pub(crate) exchanges: Option<Box<Exchanges>>,
    pub(crate) queue: Queue,
    /// What of the queue others may take over, while there is no connection.
    pub(crate) noted: Noted,
    /// More would have been taken over, or given to it, if there had been room.
    pub(crate) is_short: bool,
    /// Where its messages are counted; given when it is filed.
    pub(crate) tally: TallyPlace,
    /// Bytes of the filters.
    filter_bytes: usize,
    /// What is charged for the session. Messages have their own, for queues share them.
    hold: Hold,
}

/// What a session takes in the tables of its partition, with its identity's allocations.
const TABLE_BYTES: usize = 160;
/// What a route takes in dist's index besides its filter.
const ROUTE_BYTES: usize = 480;

/// What the owner waits for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Nothing: it will fetch, or there is none.
    Not,
    /// A message.
    Message,
    /// A packet identifier.
    PacketId,
}

/// A will that is published later.
#[derive(Debug)]
pub(crate) struct PendingWill {
    pub(crate) id: WillId,
    pub(crate) due: Instant,
    pub(crate) message: Arc<StoredMessage>,
}

/// The will of a connection that is there.
#[derive(Debug)]
pub(crate) struct HeldWill {
    pub(crate) message: Arc<StoredMessage>,
    pub(crate) delay_s: u32,
    /// How long it is of use from when it is due.
    pub(crate) span: Option<Duration>,
}

impl HeldWill {
    /// A will as it was given with a connection.
    pub(crate) fn of(message: &Arc<StoredMessage>, delay_s: u32) -> Self {
        let span = message.deadline.map(|deadline| deadline.since(message.accepted));
        HeldWill { message: Arc::clone(message), delay_s, span }
    }

    /// The message, as it is if it is due then.
    pub(crate) fn due_at(&self, due: Instant, account: &Account) -> Arc<StoredMessage> {
        let deadline = self.span.map(|span| due + span);
        let message = Message { accepted: due, deadline, ..self.message.as_message() };
        Arc::new(keep(&message, account))
    }
}

impl Session {
    pub(crate) fn new(attach: &Attach<'_>, incarnation: u64, account: &Account) -> Self {
        Self::restored(
            SessionRecord {
                identity: attach.identity.clone(),
                version: 0,
                expiry_s: attach.expiry_s,
                limits: attach.limits,
                detached: None,
            },
            incarnation,
            account,
        )
    }

    /// A session as it was stored, without an owner, subscriptions and a queue.
    pub(crate) fn restored(record: SessionRecord, incarnation: u64, account: &Account) -> Self {
        let mut session = Session {
            publisher: record.identity.publisher(),
            identity: record.identity,
            incarnation,
            version: record.version,
            owner: None,
            is_awaited: false,
            waiting: Waiting::Not,
            expiry_s: record.expiry_s,
            due: None,
            away_since: Timestamp::default(),
            will: None,
            held_will: None,
            held: None,
            limits: record.limits,
            member: Arc::default(),
            subscriptions: Vec::new(),
            ordinals: Vec::new(),
            inbound: Vec::new(),
            exchanges: None,
            queue: Queue::default(),
            noted: Noted::default(),
            is_short: false,
            tally: TallyPlace::default(),
            filter_bytes: 0,
            hold: account.hold(Share::Queues, 0),
        };
        session.recharge();
        session
    }

    /// Whose memory it is.
    pub(crate) fn account(&self) -> &Account {
        self.hold.account()
    }

    /// Tells the accountant what the session takes now, without the messages.
    pub(crate) fn recharge(&mut self) {
        let identity = self.identity.tenant.as_str().len() + self.identity.client.as_str().len();
        let routes = self.subscriptions.capacity() * size_of::<Subscription>()
            + self.subscriptions.len() * ROUTE_BYTES
            // The filter is here and in the index.
            + 2 * self.filter_bytes;
        let ordinals = self.ordinals.capacity() * size_of::<u32>();
        let inbound = self.inbound.capacity() * size_of::<PacketId>();
        let begun = self.exchanges.as_ref().map_or(0, |begun| begun.memory_bytes());
        let will = self.will.as_ref().map_or(0, |will| will.message.size_bytes());
        let held = self.held.as_ref().map_or(0, |held| held.message.size_bytes());
        let own = size_of::<Self>() + TABLE_BYTES + identity;
        let queue = self.queue.memory_bytes() + self.noted.memory_bytes();
        self.hold.resize(own + routes + ordinals + inbound + begun + will + held + queue);
    }

    /// What is stored of it.
    pub(crate) fn record(&self, detached: Option<Timestamp>) -> SessionRecord {
        SessionRecord {
            identity: self.identity.clone(),
            version: self.version,
            expiry_s: self.expiry_s,
            limits: self.limits,
            detached,
        }
    }

    /// Makes `attach.owner` the one owner, and raises the version.
    pub(crate) fn attach(&mut self, attach: &Attach<'_>) {
        self.version += 1;
        self.own(attach.owner);
        self.expiry_s = attach.expiry_s;
        self.limits = attach.limits;
        self.note_room();
    }

    /// Has an owner from now on.
    pub(crate) fn own(&mut self, owner: SessionRef) {
        self.owner = Some(owner);
        self.is_awaited = false;
        self.waiting = Waiting::Not;
        self.set_offline(false);
    }

    /// What its owner sees.
    pub(crate) fn attached(&self, id: InboxId, is_present: bool) -> Attached {
        Attached {
            claim: Claim { inbox: id, version: self.version },
            incarnation: self.incarnation,
            is_present,
            member: Arc::clone(&self.member),
            subscriptions: self.subscriptions.clone(),
            inbound: self.inbound.clone(),
            sent: self.queue.sent(),
        }
    }

    /// Whether its client is known to be away.
    pub(crate) fn is_away(&self) -> bool {
        self.owner.is_none() && !self.is_awaited
    }

    /// Whether a route is one of this life. Those that were read back have all the same life, or are
    /// known by the number of their inbox, which says which life it is.
    pub(crate) fn is_life(&self, route: &InboxRoute) -> bool {
        let InboxRoute { inbox, incarnation, .. } = *route;
        incarnation == self.incarnation || incarnation == RESTORED_LIFE || incarnation == inbox.0
    }

    /// Leaves the session without an owner.
    pub(crate) fn detach(&mut self) {
        self.owner = None;
        self.is_awaited = false;
        self.waiting = Waiting::Not;
        self.set_offline(true);
    }

    /// How long it lives without a connection; `None`: for ever. MQTT-038
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        let expiry_s = self.expiry_s.filter(|expiry_s| *expiry_s != u32::MAX)?;
        Some(Duration::from_secs(u64::from(expiry_s)))
    }

    /// When the will of its connection is due that ends now: it waits no longer than the session lives.
    pub(crate) fn will_due(&self, delay_s: u32, now: Instant) -> Instant {
        let delay = Duration::from_secs(u64::from(delay_s));
        now + self.lifetime().map_or(delay, |lifetime| lifetime.min(delay))
    }

    /// Whether its time was over before anybody looked.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.owner.is_none() && self.due.is_some_and(|due| due <= now)
    }

    /// Whom to wake now that `waited` is there.
    pub(crate) fn wake(&mut self, waited: Waiting) -> Option<SessionRef> {
        if self.waiting != waited {
            return None;
        }
        self.waiting = Waiting::Not;
        self.owner
    }

    pub(crate) fn subscriptions(&self) -> &[Subscription] {
        &self.subscriptions
    }

    /// Takes them with their ordinals.
    pub(crate) fn take_subscriptions(&mut self) -> (Vec<Subscription>, Vec<u32>) {
        (std::mem::take(&mut self.subscriptions), std::mem::take(&mut self.ordinals))
    }

    pub(crate) fn subscription(&self, filter: &str) -> Option<&Subscription> {
        self.position(filter).ok().map(|at| &self.subscriptions[at])
    }

    /// Records a subscription in place of one of the same filter; returns its ordinal.
    pub(crate) fn put_subscription(&mut self, subscription: Subscription) -> u32 {
        if let Ok(at) = self.position(&subscription.filter) {
            self.subscriptions[at] = subscription;
            return self.ordinals[at];
        }
        let ordinal = self.ordinals.iter().max().map_or(0, |max| max + 1);
        self.restore_subscription(ordinal, subscription);
        ordinal
    }

    /// Records a subscription of another filter than those that are there, as it was stored.
    pub(crate) fn restore_subscription(&mut self, ordinal: u32, subscription: Subscription) {
        let Err(at) = self.position(&subscription.filter) else { return };
        self.filter_bytes += subscription.filter.len();
        self.subscriptions.insert(at, subscription);
        self.ordinals.insert(at, ordinal);
        self.recharge();
    }

    /// Forgets a subscription; returns it with its ordinal.
    pub(crate) fn remove_subscription(&mut self, filter: &str) -> Option<(Subscription, u32)> {
        let at = self.position(filter).ok()?;
        self.filter_bytes -= filter.len();
        let removed = (self.subscriptions.remove(at), self.ordinals.remove(at));
        self.recharge();
        Some(removed)
    }

    pub(crate) fn inbound(&self) -> &[PacketId] {
        &self.inbound
    }

    /// Notes an accepted QoS 2 message, or that it was released. MQTT-046
    pub(crate) fn note_inbound(&mut self, packet_id: PacketId, is_released: bool) {
        match (self.inbound.binary_search(&packet_id), is_released) {
            (Ok(at), true) => {
                self.inbound.remove(at);
            }
            (Err(at), false) => self.inbound.insert(at, packet_id),
            (Ok(_), false) | (Err(_), true) => {}
        }
        self.recharge();
    }

    fn position(&self, filter: &str) -> Result<usize, usize> {
        self.subscriptions.binary_search_by(|held| (*held.filter).cmp(filter))
    }

    /// Tells those who choose among the members of a group whether the queue takes more.
    pub(crate) fn note_room(&mut self) {
        let is_full = self.room() == 0;
        MemberState::note(&self.member.full, is_full);
        self.is_short |= is_full;
    }

    /// How many messages of QoS 1 and 2 the queue takes.
    pub(crate) fn room(&self) -> usize {
        let count_max = usize::try_from(self.limits.messages_max).unwrap_or(usize::MAX);
        count_max.saturating_sub(self.queue.len())
    }

    /// Whether there is room again for much of what there was none for: asked once.
    pub(crate) fn take_relief(&mut self) -> bool {
        let is_relieved = self.is_short && self.room() >= self.queue.len();
        self.is_short &= !is_relieved;
        is_relieved
    }

    pub(crate) fn set_offline(&self, is_offline: bool) {
        MemberState::note(&self.member.offline, is_offline);
        MemberState::note(&self.member.congested, false);
    }
}
