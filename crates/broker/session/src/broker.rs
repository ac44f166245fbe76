//! What a session asks of the world around it.
//!
//! [`Broker`] is answered at once, in the middle of a batch: routing and what the packet path
//! needs. [`Request`] is answered later by [`Session::answer`](crate::Session::answer); until
//! then the session takes no further packet.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_codec::{PacketId, ProtocolVersion, Qos, ReasonCode, SubscriptionOptions};
use ratatosk_contract::{
    Message, SessionIdentity, TenantId, TenantSettings, Ticket,
    inbox::{Entry, FetchBudget, QueueLimits, Sequence, StaleClaim},
};
use ratatosk_topic::TopicFilter;

use crate::WillOrder;

/// The broker, as a session sees it.
pub trait Broker {
    /// Routes a message, retains it if it says so, and hands it to every receiver. The topic is
    /// checked here, where it is looked up.
    ///
    /// `exchange` is the packet identifier of a QoS 2 message of a persistent session: that it was
    /// accepted is kept together with the message. MQTT-046
    fn publish(
        &mut self,
        message: &Message<'_>,
        ticket: Ticket,
        exchange: Option<PacketId>,
    ) -> Published;

    /// Makes bytes that receivers share out of the copy of a large payload.
    fn share(&mut self, payload: Vec<u8>) -> Bytes {
        Bytes::from(payload)
    }

    /// Whether the client may subscribe.
    fn permits_subscribe(&mut self, filter: TopicFilter<'_>, qos: Qos) -> Permit;

    /// Whether the client may unsubscribe.
    fn permits_unsubscribe(&mut self, filter: TopicFilter<'_>) -> Permit;

    /// Makes a subscription effective: that of the filter at `place` in the packet at hand, or
    /// [`ON_BEHALF`](crate::ON_BEHALF) of none. If the answer is later, the question is repeated when the
    /// packet is brought again.
    fn subscribe(
        &mut self,
        place: usize,
        filter: TopicFilter<'_>,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
    ) -> Subscribed;

    /// Ends a subscription.
    fn unsubscribe(&mut self, filter: TopicFilter<'_>) -> Unsubscribed;

    /// Reads the queue of a persistent session.
    fn fetch(
        &mut self,
        after: Sequence,
        budget: FetchBudget,
        entries: &mut Vec<Entry>,
    ) -> Result<(), StaleClaim>;

    /// The client has taken over the message of `sequence`.
    fn commit(&mut self, sequence: Sequence) -> Result<(), StaleClaim>;

    /// The PUBREC of `sequence` came.
    fn received(&mut self, sequence: Sequence) -> Result<(), StaleClaim>;

    /// The PUBREL of a QoS 2 message came: the client will not send it again.
    fn released(&mut self, packet_id: PacketId) -> Result<(), StaleClaim>;

    /// A client identifier that nobody else has. [MQTT-3.2.2-16]
    fn assign_client_id(&mut self) -> String;

    /// Something that an operator may ask about later.
    fn report(&mut self, report: Report<'_>);
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// Handed to every receiver, durably where that was due.
    Handed {
        /// Somebody subscribes to the topic.
        is_matched: bool,
    },
    /// Durable, or where it is to go, later: [`Session::settle`](crate::Session::settle) follows under the ticket.
    Pending {
        /// How often it does: once for each store and each other host that has a part in it.
        parts: u32,
        /// Somebody subscribes to the topic.
        is_matched: bool,
    },
    /// Refused before anybody got it: the store is full. May be retried. MQTT-056
    Busy,
    /// Refused before anybody got it, by a limit that the tenant wants the publisher to feel.
    QuotaExceeded,
    /// It may or may not be durable: it can be neither acknowledged nor refused.
    Unknown,
    /// The topic is not one that may be published to; nothing was done. MQTT-062
    InvalidTopic(ratatosk_topic::TopicError),
    /// The client may not; nothing was done. MQTT-066
    NotPermitted,
    /// The permission could not be determined; nothing was done.
    PermissionError,
    /// The permission is being determined: bring the packet again; nothing was done.
    Later,
}

/// Whether something is allowed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Yes.
    Allowed,
    /// No.
    Denied,
    /// It could not be determined, and counts as denied.
    Error,
    /// It is being determined: bring the packet again.
    Later,
}

/// What became of a subscription.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Subscribed {
    /// It is effective.
    Granted,
    /// The session has as many filters as it may. MQTT-076
    TooManyFilters,
    /// The shared group is full. MQTT-086
    GroupFull,
    /// Try later. MQTT-077
    Busy,
    /// The session has another owner by now; nothing was done.
    Stale,
    /// It is being determined: bring the packet again when it is known, and at this time at the latest.
    Later {
        /// From then on the answer is another one.
        by: Instant,
    },
}

/// What became of an end of subscription.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Unsubscribed {
    /// It was there and is gone.
    Removed,
    /// There was none.
    NotFound,
    /// Try later.
    Busy,
    /// The session has another owner by now; nothing was done.
    Stale,
}

/// Something to remember about a session: why it was refused something, or lost something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report<'a> {
    /// A PUBLISH was refused with this code.
    PublishRefused {
        /// The topic as the client wrote it.
        topic: &'a str,
        /// Its QoS.
        qos: Qos,
        /// What the client is told.
        code: ReasonCode,
    },
    /// A filter of a SUBSCRIBE was refused with this code.
    SubscribeRefused {
        /// The filter as the client wrote it.
        filter: &'a str,
        /// The QoS that was asked for.
        qos: Qos,
        /// What the client is told.
        code: ReasonCode,
    },
    /// Messages that were sent were given up after the last re-send. MQTT-091
    ResendsExhausted {
        /// How many.
        count: usize,
    },
}

/// What the session waits for.
#[derive(PartialEq, Eq)]
pub enum Request {
    /// Who is this? Answered by [`Answer::Granted`], [`Answer::Continue`] or [`Answer::Denied`].
    Authenticate(Box<Credentials>),
    /// The client's next step of an enhanced authentication; answered likewise.
    Exchange(Vec<u8>),
    /// Make this connection the session's one owner; answered by [`Answer::Claimed`] or
    /// [`Answer::Denied`].
    Claim(Box<ClaimRequest>),
}

impl std::fmt::Debug for Request {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Request::Authenticate(credentials) => {
                out.debug_tuple("Authenticate").field(credentials).finish()
            }
            // SEC-007: data of an authentication is never printed.
            Request::Exchange(_) => out.debug_tuple("Exchange").finish_non_exhaustive(),
            Request::Claim(claim) => out.debug_tuple("Claim").field(claim).finish(),
        }
    }
}

/// What a client shows to be let in.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The protocol version.
    pub version: ProtocolVersion,
    /// The client identifier, assigned if the client gave none.
    pub client_id: String,
    /// The user name.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Vec<u8>>,
    /// The user properties of CONNECT.
    pub user_properties: Vec<(String, String)>,
    /// The method of enhanced authentication.
    pub method: Option<String>,
    /// Its first data.
    pub data: Option<Vec<u8>>,
    /// A session that is live authenticates anew.
    pub is_again: bool,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // SEC-007: neither the password nor authentication data is ever printed.
        out.debug_struct("Credentials")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// An answer to a request.
pub enum Answer {
    /// The client is who it says.
    Granted(Box<Grant>),
    /// One more round of enhanced authentication. [MQTT-4.12.0-2]
    Continue {
        /// For the client.
        data: Vec<u8>,
    },
    /// The client is not let in.
    Denied(Denial),
    /// The session is ours.
    Claimed(Box<Claimed>),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::Granted(grant) => out.debug_tuple("Granted").field(grant).finish(),
            // SEC-007
            Answer::Continue { .. } => out.debug_struct("Continue").finish_non_exhaustive(),
            Answer::Denied(denial) => out.debug_tuple("Denied").field(denial).finish(),
            Answer::Claimed(claimed) => out.debug_tuple("Claimed").field(claimed).finish(),
        }
    }
}

/// What a client is granted.
#[derive(Clone)]
pub struct Grant {
    /// The tenant, which the client cannot choose. TEN-027
    pub tenant: TenantId,
    /// The user, where the tenant makes it part of the session identity.
    pub user: Option<Arc<str>>,
    /// The tenant's settings as of now. TEN-025
    pub settings: Arc<TenantSettings>,
    /// For CONNACK, if the client asked for it.
    pub response_information: Option<String>,
    /// For CONNACK.
    pub user_properties: Vec<(String, String)>,
    /// The last data of enhanced authentication.
    pub data: Option<Vec<u8>>,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // SEC-007: what the provider gave for the client alone is not printed.
        out.debug_struct("Grant")
            .field("tenant", &self.tenant)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Why a client is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What the client is told.
    pub code: ReasonCode,
    /// What the log says, and the reason string where that gives nothing away.
    pub detail: String,
}

/// Which session a connection wants to own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The session.
    pub identity: Arc<SessionIdentity>,
    /// Discard what there is of it.
    pub is_clean: bool,
    /// How long it outlives its connection.
    pub admission: Admission,
    /// The limits of its queue.
    pub limits: QueueLimits,
    /// What is published if the node dies with the connection. MQTT-048
    pub will: Option<WillOrder>,
    /// Now.
    pub now: Instant,
}

/// How long a session outlives its connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Not at all.
    Transient,
    /// For so many seconds; `None`: for ever.
    Persistent(Option<u32>),
}

/// The session as it is when it becomes ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Stored state was resumed. MQTT-031
    pub is_present: bool,
    /// Messages come from the inbox.
    pub is_persistent: bool,
    /// Ids of QoS 2 messages that were accepted and not yet released. MQTT-046
    pub inbound: Vec<PacketId>,
    /// The last sequence that was handed to the client before.
    pub sent: Sequence,
}
