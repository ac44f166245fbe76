//! The catalogue of events: all types, their groups and their fields.
//!
//! One row makes the type, its name, its group, whether it is reported only for tenants in debug
//! mode, and the visit of its fields, so that no list can lack one.

use std::fmt::Debug;
use std::net::SocketAddr;

use ratatosk_codec::Qos;

use super::FieldVisitor;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventGroup {
    /// A connection ended before it had a session.
    Closed,
    /// A client connected.
    Connected,
    /// A session lost its client. Exactly one ends each connection that had a session.
    Disconnected,
    /// Single packets.
    Packet,
    /// What a client published.
    Publish,
    /// Retained messages.
    Retain,
    /// What a client is sent.
    Push,
    /// Permission.
    Access,
    /// Subscriptions of a client.
    Subscription,
    /// The routing service.
    Dist,
    /// Queues of persistent sessions.
    Inbox,
    /// Quotas.
    Resource,
    /// Begin and end of sessions.
    Session,
}

/// Why a message did not reach a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The session had ended.
    SessionClosed,
    /// The session's queue or output was full.
    Overflow,
    /// The permission for the subscription is gone.
    NoSubPermission,
    /// The subscriber published it and asked for no own messages.
    NoLocal,
    /// The connection failed.
    ChannelError,
    /// The message's expiry passed.
    Expired,
    /// A quota or the memory was exhausted.
    ResourceExhausted,
    /// It had been delivered already.
    Duplicated,
    /// The client did not acknowledge it in all tries.
    MaxRetried,
}

/// The will of a client that connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastWill<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its QoS.
    pub qos: Qos,
    /// Whether it is to be retained.
    pub is_retain: bool,
    /// The bytes of its payload.
    pub payload_bytes: u32,
}

/// A message from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publication<'a> {
    /// The number of the publish on its node.
    pub request_id: u64,
    /// Its topic.
    pub topic: &'a str,
    /// The bytes of its payload.
    pub payload_bytes: u32,
}

/// A message to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Push<'a> {
    /// The number of the publish on the node that took it.
    pub request_id: u64,
    /// Whether it is sent because it was retained.
    pub is_retain: bool,
    /// The client id of its publisher.
    pub sender: &'a str,
    /// Its topic.
    pub topic: &'a str,
    /// The filter of the subscription.
    pub matched_filter: &'a str,
    /// The bytes of its payload.
    pub payload_bytes: u32,
}

/// When an event is reported.
#[derive(PartialEq, Eq)]
enum Reported {
    Always,
    Debugging,
}

macro_rules! events {
    ($(
        $group:ident {
            $($kind:ident $text:literal $reported:ident
                $({ $($field:ident: $field_type:ty),* $(,)? })?;)*
        }
    )*) => {
        /// The type of an event, without its fields. Its name is that of the catalogue.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EventType {
            $($(#[doc = concat!("`", $text, "`")] $kind,)*)*
        }

        impl EventType {
            /// All types, group by group.
            pub const ALL: &'static [Self] = &[$($(Self::$kind,)*)*];

            /// The name, in capitals.
            pub const fn name(self) -> &'static str {
                match self {
                    $($(Self::$kind => $text,)*)*
                }
            }

            /// What it is about.
            pub const fn group(self) -> EventGroup {
                match self {
                    $($(Self::$kind)|* => EventGroup::$group,)*
                }
            }

            /// Whether it is reported only for tenants whose debug mode is on.
            pub fn is_debug_only(self) -> bool {
                match self {
                    $($(Self::$kind => Reported::$reported == Reported::Debugging,)*)*
                }
            }
        }

        /// What happened, with its fields.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs, reason = "the fields are named as in the catalogue of events")]
        pub enum EventKind<'a> {
            $($($kind $({ $($field: $field_type,)* })?,)*)*
        }

        impl EventKind<'_> {
            /// The type.
            pub const fn event_type(&self) -> EventType {
                match self {
                    $($(Self::$kind { .. } => EventType::$kind,)*)*
                }
            }

            /// Shows each field to `visit`, in the order of the catalogue.
            pub fn visit(&self, visit: &mut FieldVisitor<'_>) {
                match self {
                    $($(Self::$kind $({ $($field,)* })? => {
                        $($($field.visit_as(stringify!($field), visit);)*)?
                    })*)*
                }
                let _ = visit;
            }
        }
    };
}

events! {
    Closed {
        AuthError "AUTH_ERROR" Always { peer: SocketAddr, cause: &'a str };
        EnhancedAuthAbortByClient "ENHANCED_AUTH_ABORT_BY_CLIENT" Always { peer: SocketAddr };
        UnauthenticatedClient "UNAUTHENTICATED_CLIENT" Always
            { peer: SocketAddr, tenant: &'a str, user: &'a str, client_id: &'a str };
        NotAuthorizedClient "NOT_AUTHORIZED_CLIENT" Always
            { peer: SocketAddr, tenant: &'a str, user: &'a str, client_id: &'a str };
        ChannelError "CHANNEL_ERROR" Always { peer: SocketAddr, cause: &'a str };
        ConnectTimeout "CONNECT_TIMEOUT" Always { peer: SocketAddr };
        IdentifierRejected "IDENTIFIER_REJECTED" Always { peer: SocketAddr };
        MalformedClientIdentifier "MALFORMED_CLIENT_IDENTIFIER" Always { peer: SocketAddr };
        ProtocolError "PROTOCOL_ERROR" Always { peer: SocketAddr, statement: &'a str };
        MalformedUsername "MALFORMED_USERNAME" Always { peer: SocketAddr };
        MalformedWillTopic "MALFORMED_WILL_TOPIC" Always { peer: SocketAddr };
        UnacceptedProtocolVer "UNACCEPTED_PROTOCOL_VER" Always { peer: SocketAddr };
    }
    Connected {
        ClientConnected "CLIENT_CONNECTED" Always {
            server_id: &'a str,
            session_id: &'a str,
            keep_alive_seconds: u16,
            clean_session: bool,
            session_present: bool,
            last_will: Option<LastWill<'a>>,
        };
    }
    Disconnected {
        BadPacket "BAD_PACKET" Always { cause: &'a str };
        ByClient "BY_CLIENT" Always { without_disconnect: bool };
        ByServer "BY_SERVER" Always;
        ServerBusy "SERVER_BUSY" Always { reason: &'a str };
        ResourceThrottled "RESOURCE_THROTTLED" Always { reason: &'a str };
        ClientChannelError "CLIENT_CHANNEL_ERROR" Always { cause: &'a str };
        Idle "IDLE" Always { keep_alive_seconds: u16 };
        InboxTransientError "INBOX_TRANSIENT_ERROR" Always { reason: &'a str };
        InvalidTopic "INVALID_TOPIC" Always { topic: &'a str };
        MalformedTopic "MALFORMED_TOPIC" Always { topic: &'a str };
        InvalidTopicFilter "INVALID_TOPIC_FILTER" Always { topic_filter: &'a str };
        MalformedTopicFilter "MALFORMED_TOPIC_FILTER" Always { topic_filter: &'a str };
        Kicked "KICKED" Always { kicker: &'a str };
        ServerRedirected "SERVER_REDIRECTED" Always
            { is_permanent: bool, server_reference: &'a str };
        ReAuthFailed "RE_AUTH_FAILED" Always;
        NoPubPermission "NO_PUB_PERMISSION" Always { topic: &'a str, qos: Qos, is_retain: bool };
        ProtocolViolation "PROTOCOL_VIOLATION" Always { statement: &'a str };
        ExceedReceivingLimit "EXCEED_RECEIVING_LIMIT" Always { limit: u32 };
        ExceedPubRate "EXCEED_PUB_RATE" Always { limit: u32 };
        TooLargeSubscription "TOO_LARGE_SUBSCRIPTION" Always { max: u32, actual: u32 };
        TooLargeUnsubscription "TOO_LARGE_UNSUBSCRIPTION" Always { max: u32, actual: u32 };
    }
    Packet {
        OversizePacketDropped "OVERSIZE_PACKET_DROPPED" Always { packet_type: &'a str };
        PingReq "PING_REQ" Debugging { pong: bool };
    }
    Publish {
        Discard "DISCARD" Always { message: Publication<'a>, rate_limit: u32, qos: Qos };
        WillDisted "WILL_DISTED" Debugging { message: Publication<'a>, qos: Qos };
        WillDistError "WILL_DIST_ERROR" Always
            { message: Publication<'a>, qos: Qos, reason: &'a str };
        Qos0DistError "QOS0_DIST_ERROR" Always { message: Publication<'a>, reason: &'a str };
        Qos1DistError "QOS1_DIST_ERROR" Always
            { message: Publication<'a>, is_dup: bool, reason: &'a str };
        Qos2DistError "QOS2_DIST_ERROR" Always
            { message: Publication<'a>, is_dup: bool, reason: &'a str };
        PubAcked "PUB_ACKED" Debugging { message: Publication<'a>, is_dup: bool };
        PubAckDropped "PUB_ACK_DROPPED" Always { message: Publication<'a>, is_dup: bool };
        PubReced "PUB_RECED" Debugging { message: Publication<'a>, is_dup: bool };
        PubRecDropped "PUB_REC_DROPPED" Always { message: Publication<'a>, is_dup: bool };
    }
    Retain {
        MsgRetained "MSG_RETAINED" Debugging
            { message: Publication<'a>, is_last_will: bool, qos: Qos };
        RetainMsgCleared "RETAIN_MSG_CLEARED" Debugging
            { request_id: u64, topic: &'a str, is_last_will: bool };
        RetainMsgMatched "RETAIN_MSG_MATCHED" Debugging
            { request_id: u64, topic_filter: &'a str, qos: Qos };
        MsgRetainedError "MSG_RETAINED_ERROR" Always
            { message: Publication<'a>, is_last_will: bool, qos: Qos, reason: &'a str };
        MatchRetainError "MATCH_RETAIN_ERROR" Always
            { request_id: u64, topic_filter: &'a str, reason: &'a str };
    }
    Push {
        Qos0Pushed "QOS0_PUSHED" Debugging { message: Push<'a> };
        Qos0Dropped "QOS0_DROPPED" Always
            { message: Push<'a>, reason: DropReason, detail: &'a str };
        Qos1Pushed "QOS1_PUSHED" Debugging { message: Push<'a>, message_id: u16, dup: bool };
        Qos1Dropped "QOS1_DROPPED" Always
            { message: Push<'a>, reason: DropReason, detail: &'a str };
        Qos1PushError "QOS1_PUSH_ERROR" Always { message: Push<'a>, detail: &'a str };
        Qos1Confirmed "QOS1_CONFIRMED" Debugging
            { message: Push<'a>, message_id: u16, delivered: bool };
        Qos2Pushed "QOS2_PUSHED" Debugging { message: Push<'a>, message_id: u16, dup: bool };
        Qos2Received "QOS2_RECEIVED" Debugging { message: Push<'a>, message_id: u16 };
        Qos2Dropped "QOS2_DROPPED" Always
            { message: Push<'a>, reason: DropReason, detail: &'a str };
        Qos2PushError "QOS2_PUSH_ERROR" Always { message: Push<'a>, detail: &'a str };
        Qos2Confirmed "QOS2_CONFIRMED" Debugging
            { message: Push<'a>, message_id: u16, delivered: bool };
    }
    Access {
        PubActionDisallow "PUB_ACTION_DISALLOW" Always
            { topic: &'a str, qos: Qos, is_last_will: bool, is_retain: bool };
        SubActionDisallow "SUB_ACTION_DISALLOW" Always { topic_filter: &'a str, qos: Qos };
        UnsubActionDisallow "UNSUB_ACTION_DISALLOW" Always { topic_filter: &'a str };
        AccessControlError "ACCESS_CONTROL_ERROR" Always { cause: &'a str };
    }
    Subscription {
        SubStalled "SUB_STALLED" Always {
            bytes_before_writable: u64,
            unconfirmed_count: u32,
            low_watermark: u64,
            high_watermark: u64,
        };
        SubAcked "SUB_ACKED" Debugging
            { message_id: u16, topic_filters: &'a [&'a str], granted: &'a [u8] };
        UnsubAcked "UNSUB_ACKED" Debugging { message_id: u16, topic_filters: &'a [&'a str] };
    }
    Dist {
        Disted "DISTED" Debugging { request_id: u64, message_count: u32, fanout: u32 };
        DistError "DIST_ERROR" Always { request_id: u64, message_count: u32, code: &'a str };
        Delivered "DELIVERED" Debugging {
            broker_id: u32,
            deliverer_key: &'a str,
            subscription: &'a str,
            message_count: u32,
        };
        DeliverError "DELIVER_ERROR" Always {
            broker_id: u32,
            deliverer_key: &'a str,
            subscription: &'a str,
            message_count: u32,
            reason: &'a str,
        };
        PersistentFanoutThrottled "PERSISTENT_FANOUT_THROTTLED" Always
            { tenant: &'a str, topic: &'a str, topic_filter: &'a str, max_count: u32 };
        PersistentFanoutBytesThrottled "PERSISTENT_FANOUT_BYTES_THROTTLED" Always
            { tenant: &'a str, topic: &'a str, max_bytes: u64 };
        GroupFanoutThrottled "GROUP_FANOUT_THROTTLED" Always
            { tenant: &'a str, topic: &'a str, topic_filter: &'a str, max_count: u32 };
        Matched "MATCHED" Debugging {
            request_id: u64,
            topic_filter: &'a str,
            tenant: &'a str,
            receiver_id: &'a str,
            broker_id: u32,
            deliverer_key: &'a str,
        };
        Unmatched "UNMATCHED" Debugging {
            request_id: u64,
            topic_filter: &'a str,
            tenant: &'a str,
            receiver_id: &'a str,
            broker_id: u32,
            deliverer_key: &'a str,
        };
        MatchError "MATCH_ERROR" Always {
            request_id: u64,
            topic_filter: &'a str,
            tenant: &'a str,
            receiver_id: &'a str,
            broker_id: u32,
            deliverer_key: &'a str,
            reason: &'a str,
        };
        UnmatchError "UNMATCH_ERROR" Always {
            request_id: u64,
            topic_filter: &'a str,
            tenant: &'a str,
            receiver_id: &'a str,
            broker_id: u32,
            deliverer_key: &'a str,
            reason: &'a str,
        };
    }
    Inbox {
        Overflowed "OVERFLOWED" Always { oldest: bool, drop_count: u64, is_qos0: bool };
    }
    Resource {
        OutOfTenantResource "OUT_OF_TENANT_RESOURCE" Always { reason: &'a str };
    }
    Session {
        MqttSessionStart "MQTT_SESSION_START" Always { session_id: &'a str };
        MqttSessionStop "MQTT_SESSION_STOP" Always { session_id: &'a str };
    }
}

/// A field of an event: itself, or the fields that it groups.
trait Visited {
    fn visit_as(&self, name: &'static str, visit: &mut FieldVisitor<'_>);
}

macro_rules! visited_as_one {
    ($($field:ty),* $(,)?) => {$(
        impl Visited for $field {
            fn visit_as(&self, name: &'static str, visit: &mut FieldVisitor<'_>) {
                visit(name, self);
            }
        }
    )*};
}

visited_as_one!(bool, u16, u32, u64, &str, &[&str], &[u8], SocketAddr, Qos, DropReason);

impl Visited for Option<LastWill<'_>> {
    fn visit_as(&self, _name: &'static str, visit: &mut FieldVisitor<'_>) {
        let Some(will) = self else { return };
        visit("will_topic", &will.topic);
        visit("will_qos", &will.qos);
        visit("will_is_retain", &will.is_retain);
        visit("will_payload_bytes", &will.payload_bytes);
    }
}

impl Visited for Publication<'_> {
    fn visit_as(&self, _name: &'static str, visit: &mut FieldVisitor<'_>) {
        visit("request_id", &self.request_id);
        visit("topic", &self.topic);
        visit("payload_bytes", &self.payload_bytes);
    }
}

impl Visited for Push<'_> {
    fn visit_as(&self, _name: &'static str, visit: &mut FieldVisitor<'_>) {
        visit("request_id", &self.request_id);
        visit("is_retain", &self.is_retain);
        visit("sender", &self.sender);
        visit("topic", &self.topic);
        visit("matched_filter", &self.matched_filter);
        visit("payload_bytes", &self.payload_bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn count(group: EventGroup) -> usize {
        EventType::ALL.iter().filter(|kind| kind.group() == group).count()
    }

    /// EVT-002: 12 ways to close before a session, 21 to lose one.
    #[test]
    fn the_catalogue_is_complete() {
        let counts = [
            (EventGroup::Closed, 12),
            (EventGroup::Connected, 1),
            (EventGroup::Disconnected, 21),
            (EventGroup::Packet, 2),
            (EventGroup::Publish, 10),
            (EventGroup::Retain, 5),
            (EventGroup::Push, 11),
            (EventGroup::Access, 4),
            (EventGroup::Subscription, 3),
            (EventGroup::Dist, 11),
            (EventGroup::Inbox, 1),
            (EventGroup::Resource, 1),
            (EventGroup::Session, 2),
        ];
        for (group, expected) in counts {
            assert_eq!(count(group), expected, "{group:?}");
        }
        assert_eq!(EventType::ALL.len(), 84);
        let names: HashSet<_> = EventType::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), 84);
    }

    fn fields(kind: &EventKind<'_>) -> String {
        let mut text = String::new();
        kind.visit(&mut |name, value| text.push_str(&format!("{name}={value:?} ")));
        text
    }

    /// What a connected client's event carries.
    #[test]
    fn a_connected_client_carries_its_session_and_its_will() {
        let kind = EventKind::ClientConnected {
            server_id: "n1",
            session_id: "s1",
            keep_alive_seconds: 60,
            clean_session: true,
            session_present: false,
            last_will: Some(LastWill {
                topic: "w",
                qos: Qos::AtLeastOnce,
                is_retain: true,
                payload_bytes: 3,
            }),
        };
        assert_eq!(
            fields(&kind),
            "server_id=\"n1\" session_id=\"s1\" keep_alive_seconds=60 clean_session=true \
             session_present=false will_topic=\"w\" will_qos=AtLeastOnce will_is_retain=true \
             will_payload_bytes=3 "
        );
        assert_eq!(kind.event_type().name(), "CLIENT_CONNECTED");
    }

    /// EVT-011: a drop names message and reason.
    #[test]
    fn a_dropped_message_names_its_reason() {
        let message = Push {
            request_id: 7,
            is_retain: false,
            sender: "p",
            topic: "a/b",
            matched_filter: "a/+",
            payload_bytes: 5,
        };
        let kind =
            EventKind::Qos1Dropped { message, reason: DropReason::Overflow, detail: "inbox full" };
        assert_eq!(
            fields(&kind),
            "request_id=7 is_retain=false sender=\"p\" topic=\"a/b\" matched_filter=\"a/+\" \
             payload_bytes=5 reason=Overflow detail=\"inbox full\" "
        );
        assert!(!kind.event_type().is_debug_only());
        assert!(EventType::Qos1Pushed.is_debug_only());
    }
}
