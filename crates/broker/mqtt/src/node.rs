//! What all shards of a node share: the services, the mailboxes, the clock.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use ratatosk_clock::{Instant, SystemClock};
use ratatosk_contract::{
    ReplyTo, SessionRef, TenantSettings, Ticket,
    call::Settlement,
    dist::Dist,
    group::Group,
    inbox::{Answer, DueWill, Inbox},
    relay::{Dispatched, IsVisible, Outcomes, Relay},
    retain::Retain,
    session_dict::{Change, ChangeAnswer, EndCause, Holders, SessionDict},
    sessions::{Delivery, Sessions},
};
use ratatosk_plugin::{
    event::{EventCollectors, HybridClock},
    host::Host,
};
use ratatosk_session::SessionConfig;
use ratatosk_telemetry::memory::{Account, Accountant};

use crate::{
    shard::{
        away,
        mailbox::{Mailbox, Note},
        stats::NodeStats,
    },
    tenants::Tenants,
};

/// The services that the data plane uses.
#[derive(Clone)]
pub struct Services {
    /// Routing.
    pub dist: Arc<dyn Dist>,
    /// Persistent sessions.
    pub inbox: Arc<dyn Inbox>,
    /// Retained messages.
    pub retain: Arc<dyn Retain>,
    /// The directory of live sessions.
    pub session_dict: Arc<dyn SessionDict>,
    /// The way to other hosts; `None`: there are none, and nobody is told what sessions here want.
    pub relay: Option<Arc<dyn Relay>>,
    /// Authentication, permissions, settings.
    pub plugins: Host,
    /// Who is told what happens.
    pub events: EventCollectors,
    /// The node's name in events.
    pub name: Arc<str>,
    /// The memory of the process.
    pub memory: Accountant,
    /// The time of the process.
    pub clock: SystemClock,
}

/// See the module.
pub(crate) struct Node {
    pub(crate) dist: Arc<dyn Dist>,
    pub(crate) inbox: Arc<dyn Inbox>,
    pub(crate) retain: Arc<dyn Retain>,
    pub(crate) session_dict: Arc<dyn SessionDict>,
    pub(crate) relay: Option<Arc<dyn Relay>>,
    pub(crate) plugins: Host,
    pub(crate) events: EventCollectors,
    pub(crate) event_clock: HybridClock,
    pub(crate) name: Arc<str>,
    pub(crate) memory: Accountant,
    pub(crate) clock: SystemClock,
    pub(crate) mailboxes: Arc<[Mailbox]>,
    pub(crate) tenants: Tenants,
    pub(crate) session: SessionConfig,
    pub(crate) connect_timeout: std::time::Duration,
    pub(crate) claim_patience: std::time::Duration,
    pub(crate) inbox_patience: std::time::Duration,
    pub(crate) route_patience: std::time::Duration,
    pub(crate) stats: Arc<NodeStats>,
    /// Connections by shard.
    pub(crate) loads: Box<[AtomicUsize]>,
    /// Messages that shards have taken over and not handed on: withheld ones, and wills.
    pub(crate) owed: Arc<AtomicUsize>,
    /// Connections that were refused before a shard saw them.
    pub(crate) refused: AtomicU64,
    /// The settings of a connection whose tenant is not known yet.
    pub(crate) settings_unknown: Arc<TenantSettings>,
    /// The account of connections whose tenant is not known yet.
    pub(crate) unknown_account: Account,
    incarnations: AtomicU64,
    /// Client identifiers that were assigned.
    assigned: AtomicU64,
    pub(crate) seed: u64,
}

impl Node {
    pub(crate) fn new(
        services: Services,
        mailboxes: Arc<[Mailbox]>,
        config: &crate::Config,
        seed: u64,
    ) -> Self {
        let shards = mailboxes.len();
        let unknown_account = services.memory.account("");
        let tenants = Tenants::default();
        Node {
            stats: Arc::new(NodeStats::new(shards, tenants.clone())),
            dist: services.dist,
            inbox: services.inbox,
            retain: services.retain,
            session_dict: services.session_dict,
            relay: services.relay,
            plugins: services.plugins,
            events: services.events,
            event_clock: HybridClock::default(),
            name: services.name,
            memory: services.memory,
            clock: services.clock,
            mailboxes,
            tenants,
            session: config.session.clone(),
            connect_timeout: config.connect_timeout,
            claim_patience: config.claim_patience,
            inbox_patience: config.inbox_patience,
            route_patience: config.route_patience,
            incarnations: AtomicU64::new(0),
            assigned: AtomicU64::new(0),
            loads: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            owed: Arc::default(),
            refused: AtomicU64::new(0),
            settings_unknown: Arc::default(),
            unknown_account,
            seed,
        }
    }

    /// The number of a session's life: the nanoseconds of the clock, or one more than the last.
    pub(crate) fn incarnation(&self, now: Instant) -> u64 {
        let next = |last: u64| Some(now.as_nanos().max(last + 1));
        let last = self
            .incarnations
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .unwrap_or_default();
        now.as_nanos().max(last + 1)
    }

    /// A client identifier that nobody else has. [MQTT-3.2.2-16]
    pub(crate) fn client_id(&self) -> String {
        let number = self.assigned.fetch_add(1, Ordering::Relaxed);
        format!("auto-{:016x}-{number}", self.seed)
    }
}

/// How services reach the sessions of this node.
#[derive(Clone)]
pub struct Post {
    pub(crate) mailboxes: Arc<[Mailbox]>,
}

impl Post {
    fn note(&self, session: SessionRef, note: Note) {
        if let Some(mailbox) = self.mailboxes.get(session.shard.index()) {
            mailbox.note(note);
        }
    }
}

impl Sessions for Post {
    fn inbox_ready(&self, session: SessionRef) {
        self.note(session, Note::InboxReady(session));
    }

    fn deliver(&self, session: SessionRef, delivery: Delivery) {
        self.note(session, Note::Deliver { session, delivery: Box::new(delivery) });
    }

    fn settle(&self, session: SessionRef, ticket: Ticket, settlement: Settlement) {
        self.note(session, Note::Settle { session, ticket, settlement });
    }

    fn chosen_before(&self, session: SessionRef, ticket: Ticket, groups: Vec<Arc<Group>>) {
        self.note(session, Note::ChosenBefore { session, ticket, groups });
    }

    fn answered(&self, reply_to: ReplyTo, answer: Answer) {
        self.note(reply_to.session, Note::Answered { reply_to, answer });
    }

    fn publish(&self, will: DueWill) {
        self.mailboxes[0].note(Note::Publish(Box::new(will)));
    }
}

impl Outcomes for Post {
    fn settled(&self, dispatched: &[Dispatched]) {
        let of_one_shard = |one: &Dispatched, other: &Dispatched| {
            one.reply_to.session.shard == other.reply_to.session.shard
        };
        for part in dispatched.chunk_by(of_one_shard) {
            let shard = part[0].reply_to.session.shard;
            if let Some(mailbox) = self.mailboxes.get(shard.index()) {
                mailbox.note_all(part.iter().map(settled));
            }
        }
    }

    // A subscription is granted when it is effective here.
    fn visible(&self, _: ReplyTo, _: IsVisible) {}
}

/// A publisher does not learn what became of its message at another host, only that it is known.
fn settled(dispatched: &Dispatched) -> Note {
    let ReplyTo { session, ticket } = dispatched.reply_to;
    match away::is_kept(session) {
        true => Note::SettleKept { ticket, outcome: dispatched.outcome },
        false => Note::Settle { session, ticket, settlement: Settlement::Done },
    }
}

impl Holders for Post {
    fn grant(&self, session: SessionRef) {
        self.note(session, Note::Granted(session));
    }

    fn end(&self, session: SessionRef, cause: EndCause) {
        self.note(session, Note::End { session, cause });
    }

    fn change(&self, session: SessionRef, change: Change, answer: ChangeAnswer) {
        self.note(session, Note::Change { session, change: Box::new(change), answer });
    }
}
