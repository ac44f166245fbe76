//! A process with a keyspace in the hands of the test: what the tests of durable messages share.

use std::sync::Arc;

use parking_lot::Mutex;
use ratatosk_client::{Keyspace, held::HeldKeyspace};
use ratatosk_clock::{Epoch, Instant, Timestamp};
use ratatosk_codec::Qos;
use ratatosk_contract::{
    Call, Message, PublisherId, ReplyTo, SessionRef, ShardId, StoredMessage, TenantId, Ticket,
    call::Settlement,
    inbox::{Answer, DueWill},
    retain::{Cursor, Page, Retain, RetainLimits, StoreOutcome, TenantRetained},
    sessions::{Delivery, Sessions},
};
use ratatosk_telemetry::memory::Accountant;
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{RetainCoprocessor, RetainService};

/// When the first process of a test began, by the wall clock.
const BEGINNING_MS: u64 = 1_000_000_000;

/// Remembers what it is told.
#[derive(Default)]
pub(crate) struct Told(Mutex<Vec<(u64, Settlement)>>);

impl Told {
    pub(crate) fn take(&self) -> Vec<(u64, Settlement)> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Sessions for Told {
    fn inbox_ready(&self, _session: SessionRef) {}

    fn deliver(&self, _session: SessionRef, _delivery: Delivery) {}

    fn settle(&self, _session: SessionRef, ticket: Ticket, settlement: Settlement) {
        self.0.lock().push((ticket.0, settlement));
    }

    fn answered(&self, _reply_to: ReplyTo, _answer: Answer) {}

    fn publish(&self, _will: DueWill) {}
}

/// A service, its keyspace, and whoever is told.
pub(crate) struct Process {
    pub(crate) keyspace: Arc<HeldKeyspace>,
    pub(crate) told: Arc<Told>,
    pub(crate) service: RetainService,
    pub(crate) memory: Accountant,
    epoch: Epoch,
}

impl Process {
    pub(crate) fn new() -> Self {
        Self::of(HeldKeyspace::new(Box::new(RetainCoprocessor::new())), 0)
    }

    /// A process that begins so long after the first, and takes over what the keyspace has.
    pub(crate) fn of(keyspace: Arc<HeldKeyspace>, after_ms: u64) -> Self {
        let process = Self::before_restoring(keyspace, after_ms);
        process.service.restore().unwrap();
        process
    }

    pub(crate) fn before_restoring(keyspace: Arc<HeldKeyspace>, after_ms: u64) -> Self {
        let epoch = Epoch::new(Instant::ZERO, Timestamp::from_millis(BEGINNING_MS + after_ms));
        let (told, memory) = (Arc::<Told>::default(), Accountant::default());
        let service = RetainService::new(RetainLimits::default()).charged_to(&memory).kept_in(
            Arc::clone(&keyspace) as Arc<dyn Keyspace>,
            Arc::clone(&told) as Arc<dyn Sessions>,
            epoch,
        );
        Process { keyspace, told, service, memory, epoch }
    }

    /// The next process, after a crash: only the log is left.
    pub(crate) fn crash(&self, after_ms: u64) -> Self {
        Self::of(self.keyspace.crash(Box::new(RetainCoprocessor::new())), after_ms)
    }

    /// The next process, after a checkpoint: only the data are left.
    pub(crate) fn reopen(&self, after_ms: u64) -> Self {
        Self::of(self.keyspace.reopen(Box::new(RetainCoprocessor::new())), after_ms)
    }

    pub(crate) fn tenant(&self, name: &str) -> Arc<dyn TenantRetained> {
        self.service.tenant(&TenantId::new(name))
    }

    /// Stores for a publisher that waits under `ticket`.
    pub(crate) fn store(
        &self,
        tenant: &str,
        topic: &str,
        payload: &str,
        ticket: u64,
    ) -> Call<StoreOutcome> {
        self.tenant(tenant).store(&message(topic, payload, None), Some(reply_to(ticket)))
    }

    /// Stores for nobody who waits, until a moment of the wall clock.
    pub(crate) fn store_until(
        &self,
        tenant: &str,
        topic: &str,
        payload: &str,
        until_ms: Option<u64>,
    ) {
        let deadline = until_ms.map(|after_ms| self.at(after_ms));
        let call = self.tenant(tenant).store(&message(topic, payload, deadline), None);
        assert!(matches!(call, Call::Pending | Call::Ready(StoreOutcome::Cleared)));
    }

    /// A moment so long after the beginning of the first process.
    pub(crate) fn at(&self, after_ms: u64) -> Instant {
        self.epoch.instant(Timestamp::from_millis(BEGINNING_MS + after_ms))
    }

    /// Topics and payloads of a tenant, in the order of the cursor.
    pub(crate) fn read(&self, tenant: &str, now: Instant) -> Vec<(String, String)> {
        let text = |message: &Arc<StoredMessage>| {
            let payload = String::from_utf8(message.payload.to_vec()).unwrap();
            (message.topic.to_string(), payload)
        };
        self.messages(tenant, now).iter().map(text).collect()
    }

    pub(crate) fn messages(&self, tenant: &str, now: Instant) -> Vec<Arc<StoredMessage>> {
        let filter = TopicFilter::parse("#", &TopicLimits::PROTOCOL).unwrap();
        let mut page = Page { messages_max: usize::MAX, bytes_max: usize::MAX, ..Page::default() };
        let mut cursor = Cursor::Start;
        while cursor != Cursor::End {
            self.tenant(tenant).scan(now, &filter, &mut cursor, &mut page);
        }
        page.messages
    }
}

pub(crate) fn reply_to(ticket: u64) -> ReplyTo {
    let session = SessionRef { shard: ShardId(0), slot: 0, generation: 0 };
    ReplyTo { session, ticket: Ticket(ticket) }
}

pub(crate) fn message<'a>(
    topic: &'a str,
    payload: &'a str,
    deadline: Option<Instant>,
) -> Message<'a> {
    Message {
        topic,
        payload: payload.as_bytes(),
        shared: None,
        properties: b"\x01\x01",
        qos: Qos::AtLeastOnce,
        retain: true,
        publisher: PublisherId(7),
        accepted: Instant::ZERO,
        deadline,
    }
}

pub(crate) fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(topic, payload)| ((*topic).to_owned(), (*payload).to_owned())).collect()
}
