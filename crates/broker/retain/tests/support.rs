//! Several nodes that have the retained messages together, each with a store and replicas in it.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ratatosk_client::{Pipe, Store};
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_codec::Qos;
use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{Answer, DueWill};
use ratatosk_contract::retain::{Cursor, Page, Retain, RetainLimits, StoreOutcome, TenantRetained};
use ratatosk_contract::sessions::{Delivery, Sessions};
use ratatosk_contract::{
    Call, Message, PublisherId, ReplyTo, SessionRef, ShardId, StoredMessage, TenantId, Ticket,
};
use ratatosk_retain::{RetainCoprocessor, RetainDivision, RetainService};
use ratatosk_store::node::Handle;
use ratatosk_stores::trio::{Kind, Trio};
use ratatosk_stores::until;
use ratatosk_topic::{TopicFilter, TopicLimits};

pub(crate) const KEYSPACE: &str = "retain.message";
/// Keys of the tenant between which its range is parted: about a quarter of the topics each.
pub(crate) const CUTS: [&[u8]; 2] = [b"t\xff\x40", b"t\xff\x80"];

/// Remembers what it is told.
#[derive(Default)]
pub(crate) struct Settled(Mutex<Vec<(u64, Settlement)>>);

impl Sessions for Settled {
    fn inbox_ready(&self, _session: SessionRef) {}

    fn deliver(&self, _session: SessionRef, _delivery: Delivery) {}

    fn settle(&self, _session: SessionRef, ticket: Ticket, settlement: Settlement) {
        self.0.lock().expect("nobody panics with it").push((ticket.0, settlement));
    }

    fn answered(&self, _reply_to: ReplyTo, _answer: Answer) {}

    fn publish(&self, _will: DueWill) {}
}

impl Settled {
    pub(crate) fn take(&self, ticket: u64) -> Option<Settlement> {
        let mut settled = self.0.lock().expect("as above");
        let at = settled.iter().position(|(held, _)| *held == ticket)?;
        Some(settled.remove(at).1)
    }
}

/// Three nodes, each with a store and a service.
pub(crate) struct Cluster {
    trio: Trio<RetainService>,
    pub(crate) settled: Arc<Settled>,
    tickets: AtomicU64,
}

impl Deref for Cluster {
    type Target = Trio<RetainService>;

    fn deref(&self) -> &Self::Target {
        &self.trio
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.trio
    }
}

impl Cluster {
    pub(crate) fn new(name: &str) -> Self {
        Self::over(name, |handle| Arc::new(handle))
    }

    /// With such ways to the stores.
    pub(crate) fn over(name: &str, way: impl Fn(Handle) -> Arc<dyn Store> + 'static) -> Self {
        let settled = Arc::<Settled>::default();
        let (told, origins) = (Arc::clone(&settled), AtomicU64::default());
        let kind = Kind {
            keyspace: KEYSPACE,
            service: Box::new(move |clock| {
                let origin = origins.fetch_add(1 << 40, Ordering::Relaxed);
                RetainService::replicated(RetainLimits::default(), clock.epoch(), origin)
            }),
            coprocessor: |feed| Box::new(RetainCoprocessor::feeding(feed)),
            pipe: |router, clock| {
                Pipe::repeating(Box::new(router), KEYSPACE, RetainDivision, clock)
            },
            connect: Box::new(move |service: &RetainService, pipe, replicas| {
                service.connect(Arc::new(pipe), told.clone(), Box::new(replicas));
            }),
        };
        let trio = Trio::over(name, kind, way);
        Self { trio, settled, tickets: AtomicU64::new(0) }
    }

    pub(crate) fn tenant(&self, node: usize) -> Arc<dyn TenantRetained> {
        self.services[node].tenant(&TenantId::new("t"))
    }

    /// Stores at a node, until a moment; answers under which ticket it is told.
    pub(crate) fn ask(
        &self,
        node: usize,
        topic: &str,
        payload: &str,
        deadline: Option<Instant>,
    ) -> u64 {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let message = Message {
            topic,
            payload: payload.as_bytes(),
            shared: None,
            properties: b"",
            qos: Qos::AtLeastOnce,
            retain: true,
            publisher: PublisherId(1),
            accepted: self.clock.now(),
            deadline,
        };
        let session = SessionRef { shard: ShardId(0), slot: 0, generation: 0 };
        let reply_to = ReplyTo { session, ticket: Ticket(ticket) };
        until("the log takes it", || match self.tenant(node).store(&message, Some(reply_to)) {
            Call::Pending => Some(()),
            Call::Ready(StoreOutcome::Busy) => None,
            other => panic!("there is room, and something to do: {other:?}"),
        });
        ticket
    }

    /// Stores at a node, whatever becomes of ranges and stores meanwhile.
    pub(crate) fn store(&self, node: usize, topic: &str, payload: &str) {
        let ticket = self.ask(node, topic, payload, None);
        let told = until("it is told", || self.settled.take(ticket));
        assert_eq!(told, Settlement::Done, "{topic} {payload}");
    }

    /// What a node finds as current by a filter, if it can say.
    pub(crate) fn find(&self, node: usize, filter: &str) -> Option<BTreeSet<(String, String)>> {
        find(&*self.tenant(node), self.clock, filter)
    }

    /// The same, once it can.
    pub(crate) fn found(&self, node: usize, filter: &str) -> BTreeSet<(String, String)> {
        until("it may answer", || self.find(node, filter))
    }
}

pub(crate) fn pairs(pairs: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    pairs.iter().map(|(topic, payload)| ((*topic).to_owned(), (*payload).to_owned())).collect()
}

/// What is found as current by a filter, if that can be said.
pub(crate) fn find(
    tenant: &dyn TenantRetained,
    clock: SystemClock,
    filter: &str,
) -> Option<BTreeSet<(String, String)>> {
    let filter = TopicFilter::parse(filter, &TopicLimits::PROTOCOL).expect("a filter");
    let (mut cursor, mut page) = (Cursor::Start, Page { bytes_max: 99, ..Page::default() });
    while cursor != Cursor::End {
        if !tenant.scan_current(clock.now(), &filter, &mut cursor, &mut page) {
            return None;
        }
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let pair = |held: &Arc<StoredMessage>| (held.topic.to_string(), text(&held.payload));
    Some(page.messages.iter().map(pair).collect())
}

/// How many messages there are, if it can be said.
pub(crate) fn count(tenant: &dyn TenantRetained, clock: SystemClock) -> Option<u64> {
    let filter = TopicFilter::parse("#", &TopicLimits::PROTOCOL).expect("a filter");
    let (mut cursor, mut page) = (Cursor::Start, Page { messages_max: 7, ..Page::default() });
    let mut found = 0;
    while cursor != Cursor::End {
        page.bytes_max = usize::MAX;
        if !tenant.scan_current(clock.now(), &filter, &mut cursor, &mut page) {
            return None;
        }
        found += page.messages.drain(..).len() as u64;
    }
    Some(found)
}
