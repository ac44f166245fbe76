//! Retained messages: what retain offers.
//!
//! One message per topic. A new subscriber reads them by a cursor that is re-sought page by page,
//! as fast as it takes them: no snapshot is pinned and no queue filled.
//!
//! Where several nodes have them, each reads what its replicas have applied, which may be behind: so whoever
//! reads asks for what is current, and waits for it as long as he can.

use std::sync::Arc;

use ratatosk_clock::Instant;
use ratatosk_topic::TopicFilter;

use crate::{Call, Message, ReplyTo, StoredMessage, TenantId};

/// The retained-message service of a node.
pub trait Retain: Send + Sync {
    /// The retained messages of one tenant; made when first asked for.
    fn tenant(&self, tenant: &TenantId) -> Arc<dyn TenantRetained>;
}

/// The retained messages of one tenant.
pub trait TenantRetained: Send + Sync {
    /// Stores `message` as the retained message of its topic, or clears the topic if the payload
    /// is empty. [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7]
    ///
    /// To be called before the message is routed: a subscriber whose route the message did not
    /// see then finds it here, also while it is pending.
    ///
    /// Pending: durable later; `reply_to` is told. To store the same message again changes nothing. If it turns
    /// out that it was not stored, or may not have been, it is not found here any more. Where several nodes
    /// store at the same time, all find in the end what one of them stored last.
    fn store(&self, message: &Message<'_>, reply_to: Option<ReplyTo>) -> Call<StoreOutcome>;

    /// Reads the retained messages that match `filter`, in the order of the cursor, from behind
    /// `cursor` on, appended to `page`, until the page is full. Expired messages are passed over.
    ///
    /// One call looks at a bounded number of topics. So a page that is not full, even an empty
    /// one, does not mean that nothing follows: only [`Cursor::End`] does.
    fn scan(&self, now: Instant, filter: &TopicFilter<'_>, cursor: &mut Cursor, page: &mut Page);

    /// As [`TenantRetained::scan`], if what is here has every change that was acknowledged anywhere before this
    /// was asked. If not, or if that is not known, nothing is read and the answer is false. KV-010, RET-006
    #[must_use]
    fn scan_current(
        &self,
        now: Instant,
        filter: &TopicFilter<'_>,
        cursor: &mut Cursor,
        page: &mut Page,
    ) -> bool {
        self.scan(now, filter, cursor, page);
        true
    }

    /// Has `told` called once it is worth asking [`TenantRetained::scan_current`] again, on any thread; never
    /// before this returns, and perhaps never, so that whoever waits looks by himself from time to time.
    fn when_current(&self, told: Box<dyn FnOnce() + Send>) {
        drop(told);
    }

    /// Orders that all that is retained now ends, as if its time were over; answers how many topics
    /// that are. They go a bounded number at a time, and are given out until they do. What is stored
    /// later stays. The order itself ends with the process; each end is durable. RET-009
    fn expire_all(&self) -> usize;

    /// What the tenant may keep from now on. What is there stays, even if it is more. To be set by
    /// whoever asked for the tenant: a tenant that nobody holds and that keeps nothing is
    /// forgotten, its limits with it.
    fn set_limits(&self, limits: RetainLimits);

    /// How many topics have a retained message.
    fn len(&self) -> usize;

    /// Whether nothing is retained.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How much a tenant may keep. RES-009
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RetainLimits {
    /// Topics with a retained message.
    pub topics_max: u64,
    /// Bytes of all retained messages.
    pub bytes_max: u64,
}

impl Default for RetainLimits {
    fn default() -> Self {
        RetainLimits { topics_max: u64::MAX, bytes_max: u64::MAX }
    }
}

/// What became of a message to be retained.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// It is the topic's retained message now.
    Stored,
    /// The topic has none now.
    Cleared,
    /// A limit of the tenant forbids it. The message is distributed all the same. RES-009
    Refused,
    /// The store takes no more at the moment; nothing was changed. May be retried. MQTT-056
    Busy,
}

/// How far a subscription has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cursor {
    /// Nothing yet.
    #[default]
    Start,
    /// Everything up to and with this key of the topic order.
    After(Box<[u8]>),
    /// Everything.
    End,
}

/// A page of retained messages. The default takes one.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// What was read.
    pub messages: Vec<Arc<StoredMessage>>,
    /// How many messages the page takes; it takes one at least.
    pub messages_max: usize,
    /// From how many bytes on the page is full; it holds one message at least.
    pub bytes_max: usize,
}
