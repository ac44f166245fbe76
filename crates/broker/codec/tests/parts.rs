//! Random material, and a packet of every type and version built from it.

use std::num::{NonZeroU16, NonZeroU32};

use proptest::collection::vec;
use proptest::prelude::*;
use ratatosk_codec::{
    Ack, Auth, Connack, ConnackProperties, Connect, ConnectProperties, Decoder, Disconnect, Packet,
    PacketId, PacketType, ProtocolVersion, Publish, PublishPropertiesBuilder, Qos, ReasonCode,
    ReasonCodes, RetainHandling, Suback, Subscribe, SubscribeFiltersBuilder, SubscriptionOptions,
    Unsuback, Unsubscribe, UnsubscribeFiltersBuilder, UserProperties, UserPropertiesBuilder, Will,
    WillProperties,
};

pub(crate) const TYPES: [PacketType; 15] = [
    PacketType::Connect,
    PacketType::Connack,
    PacketType::Publish,
    PacketType::Puback,
    PacketType::Pubrec,
    PacketType::Pubrel,
    PacketType::Pubcomp,
    PacketType::Subscribe,
    PacketType::Suback,
    PacketType::Unsubscribe,
    PacketType::Unsuback,
    PacketType::Pingreq,
    PacketType::Pingresp,
    PacketType::Disconnect,
    PacketType::Auth,
];

/// The types that exist in a version.
pub(crate) fn types_of(version: ProtocolVersion) -> impl Iterator<Item = PacketType> {
    TYPES.into_iter().filter(move |it| version.is_v5() || *it != PacketType::Auth)
}

/// What a packet is built from: bit `n` of `flags` says whether an optional part is there.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    flags: u32,
    number: u32,
    short: u16,
    qos: Qos,
    texts: Vec<String>,
    payload: Vec<u8>,
    pairs: Vec<(String, String)>,
    filters: Vec<(String, SubscriptionOptions)>,
    subscription_ids: Vec<u32>,
    code: usize,
}

pub(crate) fn parts() -> impl Strategy<Value = Parts> {
    let numbers = (any::<u32>(), any::<u32>(), any::<u16>(), qos(), any::<prop::sample::Index>());
    let options = (qos(), any::<bool>(), any::<bool>(), 0..3u8);
    let options = options.prop_map(|(qos, no_local, retain_as_published, handling)| {
        let retain_handling = match handling {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            _ => RetainHandling::DoNotSend,
        };
        SubscriptionOptions { qos, no_local, retain_as_published, retain_handling }
    });
    let lists = (
        vec(text(), 6..7),
        vec(any::<u8>(), 0..300),
        vec((text(), text()), 0..3),
        vec((text(), options), 1..4),
        vec(1..=268_435_455u32, 0..3),
    );
    (numbers, lists).prop_map(|(numbers, lists)| {
        let (flags, number, short, qos, code) = numbers;
        let (texts, payload, pairs, filters, subscription_ids) = lists;
        let code = code.index(1 << 16);
        Parts { flags, number, short, qos, texts, payload, pairs, filters, subscription_ids, code }
    })
}

fn qos() -> impl Strategy<Value = Qos> {
    prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)]
}

fn text() -> impl Strategy<Value = String> {
    let character = any::<char>().prop_filter("U+0000 is not allowed", |it| *it != '\0');
    vec(character, 0..9).prop_map(|characters| characters.into_iter().collect())
}

/// The lists of a packet in their encoded form.
pub(crate) struct Built {
    parts: Parts,
    users: UserPropertiesBuilder,
    publish: PublishPropertiesBuilder,
    filters: SubscribeFiltersBuilder,
    unfilters: UnsubscribeFiltersBuilder,
    codes: Vec<ReasonCode>,
    version: ProtocolVersion,
    packet_type: PacketType,
}

impl Built {
    pub(crate) fn new(parts: &Parts, packet_type: PacketType, version: ProtocolVersion) -> Self {
        let mut this = Self {
            parts: parts.clone(),
            users: UserPropertiesBuilder::new(),
            publish: PublishPropertiesBuilder::new(),
            filters: SubscribeFiltersBuilder::new(),
            unfilters: UnsubscribeFiltersBuilder::new(),
            codes: Vec::new(),
            version,
            packet_type,
        };
        for (name, value) in &parts.pairs {
            this.users.push(name, value).expect("short, no NUL");
        }
        for (filter, options) in &parts.filters {
            let options = match version {
                ProtocolVersion::V5 => *options,
                _ => SubscriptionOptions::new(options.qos),
            };
            this.filters.push(filter, options).expect("short, no NUL");
            this.unfilters.push(filter).expect("short, no NUL");
        }
        let codes = parts.filters.len();
        this.codes = (0..codes).map(|index| this.code(index)).collect();
        if version.is_v5() {
            this.fill_publish();
        } else if packet_type == PacketType::Unsuback {
            this.codes.clear();
        }
        this
    }

    /// Puts forwarded properties between those that are not.
    fn fill_publish(&mut self) {
        let Parts { number, short, texts, payload, pairs, .. } = &self.parts;
        let [first, .., last] = pairs.as_slice() else {
            return;
        };
        let publish = &mut self.publish;
        publish.user_property(&first.0, &first.1).expect("short");
        publish.topic_alias((*short).max(1)).expect("not zero");
        publish.response_topic(&texts[0]).expect("short");
        if self.parts.flags & 1 != 0 {
            publish.message_expiry_s(*number).expect("first");
            publish.payload_is_utf8(self.parts.flags & 2 != 0).expect("first");
            publish.correlation_data(payload).expect("short");
        }
        publish.user_property(&last.0, &last.1).expect("short");
        publish.content_type(&texts[1]).expect("short");
        for id in &self.parts.subscription_ids {
            publish.subscription_id(*id).expect("in range");
        }
    }

    /// Whether the packet is one that servers send.
    fn is_from_server(&self) -> bool {
        match self.packet_type {
            PacketType::Connack
            | PacketType::Suback
            | PacketType::Unsuback
            | PacketType::Pingresp => true,
            PacketType::Publish => self.publish.view().subscription_ids().next().is_some(),
            PacketType::Disconnect => self.version.is_v5() && self.has(9),
            _ => false,
        }
    }

    /// The decoder that takes the packet.
    pub(crate) fn decoder(&self) -> Decoder {
        if self.is_from_server() {
            return Decoder::client(self.version, u32::MAX);
        }
        let mut decoder = Decoder::server(u32::MAX);
        if self.packet_type != PacketType::Connect {
            decoder.set_version(self.version);
        }
        decoder
    }

    pub(crate) fn packet(&self) -> Packet<'_> {
        match self.packet_type {
            PacketType::Connect => Packet::Connect(self.connect()),
            PacketType::Connack => Packet::Connack(self.connack()),
            PacketType::Publish => Packet::Publish(self.publish()),
            PacketType::Puback => Packet::Puback(self.ack()),
            PacketType::Pubrec => Packet::Pubrec(self.ack()),
            PacketType::Pubrel => Packet::Pubrel(self.ack()),
            PacketType::Pubcomp => Packet::Pubcomp(self.ack()),
            PacketType::Subscribe => Packet::Subscribe(Subscribe {
                packet_id: self.packet_id(),
                subscription_id: self.some5(0, self.parts.number % 268_435_455 + 1),
                user_properties: self.users(),
                filters: self.filters.view(),
            }),
            PacketType::Suback => Packet::Suback(Suback {
                packet_id: self.packet_id(),
                reason_string: self.text5(0),
                user_properties: self.users(),
                codes: ReasonCodes::from(self.codes.as_slice()),
            }),
            PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe {
                packet_id: self.packet_id(),
                user_properties: self.users(),
                filters: self.unfilters.view(),
            }),
            PacketType::Unsuback => Packet::Unsuback(Unsuback {
                packet_id: self.packet_id(),
                reason_string: self.text5(0),
                user_properties: self.users(),
                codes: ReasonCodes::from(self.codes.as_slice()),
            }),
            PacketType::Pingreq => Packet::Pingreq,
            PacketType::Pingresp => Packet::Pingresp,
            PacketType::Disconnect => Packet::Disconnect(Disconnect {
                reason: self.code(0),
                session_expiry_s: self.some5(1, self.parts.number).filter(|_| !self.has(9)),
                reason_string: self.text5(0),
                user_properties: self.users(),
                server_reference: self.text5(1).filter(|_| self.has(9)),
            }),
            PacketType::Auth => Packet::Auth(Auth {
                data: self.some5(2, self.parts.payload.as_slice()),
                reason_string: self.text5(0),
                user_properties: self.users(),
                ..Auth::new(self.code(0), &self.parts.texts[2])
            }),
        }
    }

    fn connect(&self) -> Connect<'_> {
        let Parts { number, short, texts, payload, .. } = &self.parts;
        let method = self.text5(4);
        let properties = ConnectProperties {
            session_expiry_s: self.some5(5, *number),
            receive_maximum: self.some5(6, *short).and_then(NonZeroU16::new),
            packet_size_max: self.some5(7, *number).and_then(NonZeroU32::new),
            topic_alias_max: self.some5(8, *short),
            request_response_information: self.some5(9, self.has(10)),
            request_problem_information: self.some5(11, self.has(12)),
            user_properties: self.users(),
            authentication_method: method,
            authentication_data: method.and(self.some5(13, payload.as_slice())),
        };
        let username = self.some(14, texts[5].as_str());
        let password = self.some(15, payload.as_slice());
        Connect {
            clean_start: self.has(16),
            keep_alive_s: *short,
            will: self.some(17, self.will()),
            username,
            password: password.filter(|_| self.version.is_v5() || username.is_some()),
            properties,
            ..Connect::new(self.version, &texts[0], false)
        }
    }

    fn will(&self) -> Will<'_> {
        let properties = WillProperties {
            delay_s: self.some5(18, self.parts.number),
            payload_is_utf8: self.some5(19, self.has(20)),
            message_expiry_s: self.some5(21, self.parts.number),
            content_type: self.text5(1),
            response_topic: self.text5(2),
            correlation_data: self.some5(22, self.parts.payload.as_slice()),
            user_properties: self.users(),
        };
        Will {
            qos: self.parts.qos,
            retain: self.has(23),
            topic: &self.parts.texts[3],
            payload: &self.parts.payload,
            properties,
        }
    }

    fn connack(&self) -> Connack<'_> {
        let Parts { number, short, payload, .. } = &self.parts;
        let reason = self.code(0);
        let has_session = self.has(0) && self.version != ProtocolVersion::V31;
        let properties = ConnackProperties {
            session_expiry_s: self.some5(5, *number),
            receive_maximum: self.some5(6, *short).and_then(NonZeroU16::new),
            qos_max: self.some5(7, self.parts.qos).filter(|it| *it != Qos::ExactlyOnce),
            retain_available: self.some5(8, self.has(9)),
            packet_size_max: self.some5(10, *number).and_then(NonZeroU32::new),
            assigned_client_id: self.text5(0),
            topic_alias_max: self.some5(11, *short),
            reason_string: self.text5(1),
            user_properties: self.users(),
            wildcard_available: self.some5(12, self.has(13)),
            subscription_ids_available: self.some5(14, self.has(15)),
            shared_available: self.some5(16, self.has(17)),
            server_keep_alive_s: self.some5(18, *short),
            response_information: self.text5(2),
            server_reference: self.text5(3),
            authentication_method: self.text5(4),
            authentication_data: self.some5(19, payload.as_slice()),
        };
        let session_present = has_session && reason == ReasonCode::Success;
        Connack { session_present, reason, properties }
    }

    fn publish(&self) -> Publish<'_> {
        let qos = self.parts.qos;
        let counts = qos != Qos::AtMostOnce;
        Publish {
            dup: counts && self.has(3),
            qos,
            retain: self.has(4),
            packet_id: counts.then(|| self.packet_id()),
            properties: self.publish.view(),
            ..Publish::new(&self.parts.texts[0], &self.parts.payload)
        }
    }

    fn ack(&self) -> Ack<'_> {
        Ack {
            reason_string: self.text5(0),
            user_properties: self.users(),
            ..Ack::new(self.packet_id(), self.code(0))
        }
    }

    fn packet_id(&self) -> PacketId {
        PacketId::new(self.parts.short.max(1)).expect("not zero")
    }

    /// A code from the packet's table in this version.
    fn code(&self, index: usize) -> ReasonCode {
        let version = self.version;
        let packet_type = self.packet_type;
        let listed = |code: &ReasonCode| match (version, packet_type) {
            (ProtocolVersion::V5, _) => code.valid_in(packet_type),
            (_, PacketType::Connack) => {
                code.connect_return_code().map(ReasonCode::from) == Some(*code)
            }
            (_, PacketType::Suback) => matches!(code.value(), 0..=2 | 0x80),
            _ => *code == ReasonCode::Success,
        };
        let table: Vec<_> = ReasonCode::ALL.iter().copied().filter(listed).collect();
        table.get((self.parts.code + index) % table.len().max(1)).copied().unwrap_or(
            // PUBLISH and the like carry none.
            ReasonCode::Success,
        )
    }

    fn has(&self, bit: u32) -> bool {
        self.parts.flags >> bit & 1 == 1
    }

    fn some<T>(&self, bit: u32, value: T) -> Option<T> {
        self.has(bit).then_some(value)
    }

    /// Properties exist in 5.0 only.
    fn some5<T>(&self, bit: u32, value: T) -> Option<T> {
        self.some(bit, value).filter(|_| self.version.is_v5())
    }

    fn text5(&self, index: usize) -> Option<&str> {
        let bit = 24 + u32::try_from(index).expect("small");
        self.some5(bit, self.parts.texts[index].as_str())
    }

    fn users(&self) -> UserProperties<'_> {
        match self.version {
            ProtocolVersion::V5 => self.users.view(),
            _ => UserProperties::default(),
        }
    }
}
