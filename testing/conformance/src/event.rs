//! What a client is told, as values that outlive the read buffer.

use ratatosk_codec::{Packet, PacketId, PacketType, Publish, Qos, ReasonCode};

/// One packet from the broker, or the end of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// CONNACK.
    Connack(Welcome),
    /// PUBLISH.
    Publish(Message),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack(PacketType, u16, ReasonCode),
    /// SUBACK.
    Suback(u16, Vec<ReasonCode>),
    /// UNSUBACK.
    Unsuback(u16, Vec<ReasonCode>),
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT.
    Disconnect(ReasonCode),
    /// Something else.
    Other(PacketType),
    /// The broker closed the connection.
    Closed,
}

/// What CONNACK says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Whether the session was there before.
    pub is_present: bool,
    /// The code.
    pub reason: ReasonCode,
    /// Why, for people.
    pub reason_string: Option<String>,
    /// The client identifier that the broker chose.
    pub client_id: Option<String>,
    /// The keep alive that the broker chose.
    pub keep_alive_s: Option<u16>,
    /// The session expiry that the broker chose.
    pub session_expiry_s: Option<u32>,
}

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The topic, aliases not resolved.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// QoS.
    pub qos: Qos,
    /// The retain flag.
    pub retain: bool,
    /// The DUP flag.
    pub dup: bool,
    /// The packet identifier; 0 with QoS 0.
    pub packet_id: u16,
    /// Subscription identifiers.
    pub subscription_ids: Vec<u32>,
    /// What is left of its life.
    pub expiry_s: Option<u32>,
    /// Response topic.
    pub response_topic: Option<String>,
    /// Correlation data.
    pub correlation_data: Option<Vec<u8>>,
    /// Content type.
    pub content_type: Option<String>,
    /// Payload format indicator.
    pub is_utf8: bool,
    /// User properties, in order.
    pub user_properties: Vec<(String, String)>,
}

impl Message {
    /// The payload as text.
    ///
    /// # Panics
    /// If it is none.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("the payload is text")
    }
}

impl Event {
    pub(crate) fn of(packet: &Packet<'_>) -> Event {
        let ack = |ack: &ratatosk_codec::Ack<'_>| {
            Event::Ack(packet.packet_type(), ack.packet_id.value(), ack.reason)
        };
        match packet {
            Packet::Connack(connack) => {
                let properties = &connack.properties;
                Event::Connack(Welcome {
                    is_present: connack.session_present,
                    reason: connack.reason,
                    reason_string: properties.reason_string.map(str::to_owned),
                    client_id: properties.assigned_client_id.map(str::to_owned),
                    keep_alive_s: properties.server_keep_alive_s,
                    session_expiry_s: properties.session_expiry_s,
                })
            }
            Packet::Publish(publish) => Event::Publish(message(publish)),
            Packet::Puback(it) | Packet::Pubrec(it) | Packet::Pubrel(it) | Packet::Pubcomp(it) => {
                ack(it)
            }
            Packet::Suback(it) => Event::Suback(it.packet_id.value(), it.codes.iter().collect()),
            Packet::Unsuback(it) => {
                Event::Unsuback(it.packet_id.value(), it.codes.iter().collect())
            }
            Packet::Pingresp => Event::Pingresp,
            Packet::Disconnect(it) => Event::Disconnect(it.reason),
            other => Event::Other(other.packet_type()),
        }
    }
}

fn message(publish: &Publish<'_>) -> Message {
    let properties = &publish.properties;
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Message {
        topic: publish.topic.to_owned(),
        payload: publish.payload.to_vec(),
        qos: publish.qos,
        retain: publish.retain,
        dup: publish.dup,
        packet_id: publish.packet_id.map_or(0, PacketId::value),
        subscription_ids: properties.subscription_ids().collect(),
        expiry_s: properties.message_expiry_s(),
        response_topic: properties.response_topic().map(str::to_owned),
        correlation_data: properties.correlation_data().map(<[u8]>::to_vec),
        content_type: properties.content_type().map(str::to_owned),
        is_utf8: properties.payload_is_utf8(),
        user_properties: properties.user_properties().map(owned).collect(),
    }
}
