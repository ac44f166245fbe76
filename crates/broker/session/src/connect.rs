//! From CONNECT to CONNACK.
//!
//! CONNECT is copied out of the read buffer and kept while others decide: first who the client is
//! ([`Request::Authenticate`]), then, within that tenant's settings, whether its wishes are
//! allowed, then whether the session is ours ([`Request::Claim`]). CONNACK closes it; whatever
//! the client sent meanwhile waits unread. [MQTT-3.1.4-6]

use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
};

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_codec::{
    Connack, ConnackProperties, Connect, ErrorKind, Packet, PacketType, ProtocolVersion, Qos,
    ReasonCode, UserPropertiesBuilder, Will as WillPacket,
};
use ratatosk_contract::{
    ClientId, SessionIdentity, StoredMessage, TenantSettings, inbox::QueueLimits,
};
use ratatosk_topic::{TopicLimits, TopicName};

use crate::{
    Admission, Answer, Broker, ClaimRequest, Claimed, Credentials, Farewell, Grant, Request,
    Session,
    session::{Phase, Will},
};

/// CONNECT while it is being worked on.
#[derive(Debug)]
pub(crate) struct Connecting {
    clean_start: bool,
    keep_alive_s: u16,
    client_id: String,
    is_assigned: bool,
    session_expiry_s: Option<u32>,
    wants_response_information: bool,
    will: Option<PendingWill>,
    pub(crate) method: Option<String>,
    grant: Option<Box<Grant>>,
}

/// A will before its tenant is known.
#[derive(Debug)]
struct PendingWill {
    qos: Qos,
    retain: bool,
    topic: Box<str>,
    payload: Bytes,
    properties: Box<[u8]>,
    response_topic: Option<Box<str>>,
    payload_is_utf8: bool,
    expiry_s: Option<u32>,
    delay_s: u32,
}

impl Session {
    pub(crate) fn on_connect<B: Broker>(
        &mut self,
        _now: Instant,
        connect: &Connect<'_>,
        broker: &mut B,
    ) -> Result<(), Farewell> {
        // [MQTT-3.1.0-2]
        if self.phase != Phase::Fresh {
            return Err(Farewell::ProtocolError("a second CONNECT on one connection"));
        }
        self.phase = Phase::Connecting;
        self.version = connect.version;
        self.decoder.set_version(connect.version);
        let properties = &connect.properties;
        if connect.version.is_v5() {
            self.peer.packet_size_max =
                properties.packet_size_max.map_or(u32::MAX, NonZeroU32::get);
            self.peer.receive_maximum =
                properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get);
            self.peer.topic_alias_max = properties.topic_alias_max.unwrap_or(0);
            self.peer.wants_problem_information =
                properties.request_problem_information.unwrap_or(true);
        } else {
            self.peer.receive_maximum = WINDOW_V3;
        }
        self.check_sizes(connect)?;
        let (client_id, is_assigned) = self.choose_client_id(connect, broker)?;
        let user_properties = properties.user_properties.iter();
        let credentials = Credentials {
            version: connect.version,
            client_id: client_id.clone(),
            username: connect.username.map(str::to_owned),
            password: connect.password.map(<[u8]>::to_vec),
            user_properties: user_properties.map(|(k, v)| (k.into(), v.into())).collect(),
            method: properties.authentication_method.map(str::to_owned),
            data: properties.authentication_data.map(<[u8]>::to_vec),
            is_again: false,
        };
        self.connecting = Some(Box::new(Connecting {
            clean_start: connect.clean_start,
            keep_alive_s: connect.keep_alive_s,
            client_id,
            is_assigned,
            session_expiry_s: properties.session_expiry_s,
            wants_response_information: properties.request_response_information.unwrap_or(false),
            will: connect.will.as_ref().map(PendingWill::copy),
            method: credentials.method.clone(),
            grant: None,
        }));
        self.ask(Request::Authenticate(Box::new(credentials)));
        Ok(())
    }

    /// SEC-006: what a stranger can make us hold; and a client that no CONNACK fits is not served.
    fn check_sizes(&self, connect: &Connect<'_>) -> Result<(), Farewell> {
        if self.peer.packet_size_max < CONNACK_BYTES_MIN {
            let size = self.peer.packet_size_max;
            return Err(Farewell::Refused {
                code: ReasonCode::PacketTooLarge,
                detail: format!("no CONNACK fits a maximum packet size of {size}"),
            });
        }
        if connect.properties.user_properties.iter().count() > USER_PROPERTIES_MAX {
            return Err(Farewell::Refused {
                code: ReasonCode::QuotaExceeded,
                detail: format!("more than {USER_PROPERTIES_MAX} user properties in CONNECT"),
            });
        }
        Ok(())
    }

    /// The client identifier, or one that is assigned to the client. [MQTT-3.1.3-6] Of what
    /// characters it is made is not asked. [MQTT-3.1.3-5]
    fn choose_client_id<B: Broker>(
        &self,
        connect: &Connect<'_>,
        broker: &mut B,
    ) -> Result<(String, bool), Farewell> {
        let refuse = |detail: &str| {
            // [MQTT-3.1.3-8]; 3.1.1 [MQTT3-3.1.3-8] MQTT-3.1.3-9
            let code = ReasonCode::ClientIdNotValid;
            Err(Farewell::Refused { code, detail: detail.to_owned() })
        };
        if connect.client_id.len() > usize::from(self.client_id_bytes_max) {
            return refuse("the client identifier is longer than this server allows");
        }
        if !connect.client_id.is_empty() {
            return Ok((connect.client_id.to_owned(), false));
        }
        match connect.version {
            ProtocolVersion::V31 => refuse("MQTT 3.1 needs a client identifier"),
            ProtocolVersion::V311 if !connect.clean_start => {
                refuse("a client without identifier needs a clean session")
            }
            _ => Ok((broker.assign_client_id(), true)),
        }
    }

    pub(crate) fn on_granted(&mut self, now: Instant, grant: Box<Grant>) -> Result<(), Farewell> {
        let settings = Arc::clone(&grant.settings);
        check_version(self.version, &settings)?;
        let connecting = self.connecting.as_deref_mut().ok_or(Farewell::Bug("no CONNECT"))?;
        if let Some(will) = &connecting.will {
            will.check(&settings, self.version)?;
        }
        let identity = Arc::new(SessionIdentity {
            tenant: grant.tenant.clone(),
            user: grant.user.clone().filter(|_| settings.user_in_identity),
            client: ClientId::new(&connecting.client_id),
        });
        self.publisher = identity.publisher();
        // [MQTT-3.1.2-7]
        self.will = connecting.will.take().map(|will| Box::new(will.accept(now, self.publisher)));
        self.expiry_s = expiry(self.version, connecting, &settings);
        let claim = ClaimRequest {
            identity: Arc::clone(&identity),
            // [MQTT-3.1.4-4] [MQTT3-3.1.2-6]
            is_clean: connecting.clean_start,
            admission: match self.expiry_s {
                0 => Admission::Transient,
                u32::MAX => Admission::Persistent(None),
                seconds => Admission::Persistent(Some(seconds)),
            },
            limits: QueueLimits {
                messages_max: settings.session_inbox_size,
                filters_max: settings.max_topic_filters_per_inbox,
                members_max: settings.max_shared_group_members,
                qos0_drop_oldest: settings.qos0_drop_oldest,
                qos0_when_offline: settings.queue_qos0_when_offline,
            },
            will: self.will.as_deref().map(|will| will.order(self.expiry_s)),
            now,
        };
        connecting.grant = Some(grant);
        self.identity = Some(identity);
        self.decoder.set_packet_size_max(settings.max_user_payload_bytes);
        self.settings = settings;
        self.ask(Request::Claim(Box::new(claim)));
        Ok(())
    }

    /// The session is ours: CONNACK, and then what is owed from before. [MQTT-3.1.4-5]
    pub(crate) fn on_claimed<B: Broker>(
        &mut self,
        now: Instant,
        claimed: &Claimed,
        broker: &mut B,
    ) -> Result<(), Farewell> {
        // [MQTT-3.2.0-2] What is taken here is not there a second time.
        let connecting = self.connecting.take().ok_or(Farewell::Bug("no CONNECT"))?;
        let grant = connecting.grant.as_deref().ok_or(Farewell::Bug("no grant"))?;
        // MQTT-032 [MQTT-3.2.2-22]
        let asked_s = connecting.keep_alive_s;
        let floor_s = self.settings.min_keep_alive_seconds;
        let keep_alive_s = if asked_s == 0 { 0 } else { asked_s.max(floor_s) };
        self.peer.keep_alive_s = keep_alive_s;
        self.last_heard = now;
        self.is_persistent = claimed.is_persistent;
        // [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT3-3.1.2-4]
        self.is_resumed = claimed.is_present;
        self.sent_before = claimed.sent;
        if !claimed.inbound.is_empty() {
            self.inbound_mut().restore(&claimed.inbound);
        }
        // [MQTT-3.2.2-2] [MQTT-3.2.2-3]; the flag is unknown to MQTT 3.1. MQTT-031
        let is_present =
            claimed.is_present && !connecting.clean_start && self.version != ProtocolVersion::V31;
        self.write_connack(&connecting, grant, is_present, keep_alive_s);
        self.keep_method(connecting.method.as_deref());
        self.phase = Phase::Live;
        if self.is_persistent {
            self.outbound_mut().may_fetch = true;
            self.pump(now, broker);
        }
        Ok(())
    }

    fn write_connack(
        &mut self,
        connecting: &Connecting,
        grant: &Grant,
        is_present: bool,
        keep_alive_s: u16,
    ) {
        let settings = Arc::clone(&self.settings);
        let mut user_properties = UserPropertiesBuilder::new();
        for (name, value) in &grant.user_properties {
            // A provider's property that no packet can carry is left out.
            let _ = user_properties.push(name, value);
        }
        let information =
            grant.response_information.as_deref().filter(|_| connecting.wants_response_information);
        let unless = |is_available: bool| (!is_available).then_some(false);
        let asked_expiry_s = connecting.session_expiry_s.unwrap_or(0);
        let properties = ConnackProperties {
            // MQTT-029: only what the server changed. [MQTT-3.2.2-21]
            session_expiry_s: (asked_expiry_s != self.expiry_s).then_some(self.expiry_s),
            server_keep_alive_s: (connecting.keep_alive_s != keep_alive_s).then_some(keep_alive_s),
            // MQTT-028
            receive_maximum: NonZeroU16::new(settings.receiving_maximum),
            packet_size_max: NonZeroU32::new(settings.max_user_payload_bytes),
            topic_alias_max: Some(settings.max_topic_alias),
            // [MQTT-3.2.2-9]
            qos_max: maximum_qos(&settings).filter(|qos| *qos != Qos::ExactlyOnce),
            retain_available: unless(settings.retain_enabled),
            wildcard_available: unless(settings.wildcard_subscription_enabled),
            subscription_ids_available: unless(settings.subscription_identifier_enabled),
            shared_available: unless(settings.shared_subscription_enabled),
            // [MQTT-3.1.3-7] [MQTT-3.2.2-16]
            assigned_client_id: connecting.is_assigned.then_some(&*connecting.client_id),
            // [MQTT-3.1.2-28]
            response_information: information,
            user_properties: user_properties.view(),
            // [MQTT-4.12.0-5] [MQTT-4.12.0-6]
            authentication_method: connecting.method.as_deref(),
            authentication_data: grant.data.as_deref(),
            ..ConnackProperties::default()
        };
        let connack =
            Connack { session_present: is_present, reason: ReasonCode::Success, properties };
        self.write_within(Packet::Connack(connack));
        self.output.mark();
    }

    /// CONNACK with a code that refuses, where the version and what went wrong allow an answer.
    /// [MQTT-3.1.4-1] [MQTT-3.1.4-2] [MQTT-3.2.2-7] [MQTT3-3.1.4-1]
    pub(crate) fn write_refusal(&mut self, farewell: &Farewell) {
        // Nothing tells a stranger that speaks something else that this is an MQTT server.
        if let Farewell::Malformed(error) = farewell {
            let is_connect = error.packet == Some(ratatosk_codec::PacketType::Connect);
            let is_old = error.version.is_none_or(|version| !version.is_v5());
            // 3.1.1 [MQTT3-3.1.2-2]. Text that is no UTF-8 is answered by closing only.
            let has_return_code = matches!(error.kind, ErrorKind::UnsupportedProtocolLevel { .. });
            if !is_connect || is_old && !has_return_code {
                return;
            }
        }
        let Some(code) = farewell.reason_code_in(PacketType::Connack) else { return };
        // 3.1.1 [MQTT3-3.2.2-6]: no return code fits, no CONNACK.
        if !self.version.is_v5() && code.connect_return_code().is_none() {
            return;
        }
        if self.phase == Phase::Fresh && !matches!(farewell, Farewell::Malformed(_)) {
            return;
        }
        let text = farewell.reason_string();
        let properties =
            ConnackProperties { reason_string: text.as_deref(), ..ConnackProperties::default() };
        // [MQTT-3.2.2-6]
        let connack = Connack { session_present: false, reason: code, properties };
        self.write_within(Packet::Connack(connack));
    }

    /// Asks for something; until the answer comes no packet is taken.
    pub(crate) fn ask(&mut self, request: Request) {
        self.request = Some(Box::new(request));
        self.is_waiting = true;
    }

    pub(crate) fn on_answer<B: Broker>(
        &mut self,
        now: Instant,
        answer: Answer,
        broker: &mut B,
    ) -> Result<(), Farewell> {
        // An answer to nothing is one that came too late.
        if !self.is_waiting {
            return Ok(());
        }
        self.is_waiting = false;
        self.request = None;
        // What the client sent meanwhile was not read: it was not silent.
        self.last_heard = now;
        let is_live = self.is_live();
        match answer {
            Answer::Granted(grant) if is_live => self.on_granted_again(&grant),
            Answer::Granted(grant) => self.on_granted(now, grant),
            Answer::Continue { data } => self.on_continue(&data),
            // [MQTT-4.12.1-2]
            Answer::Denied(_) if is_live => Err(Farewell::ReauthenticationFailed),
            // [MQTT-4.12.0-4]
            Answer::Denied(denial) => {
                Err(Farewell::Refused { code: denial.code, detail: denial.detail })
            }
            Answer::Claimed(claimed) => self.on_claimed(now, &claimed, broker),
        }
    }
}

/// How many QoS 1 and 2 messages a client of MQTT 3 may have unconfirmed: it cannot say.
const WINDOW_V3: u16 = 1024;

/// The shortest CONNACK that accepts: its head, and the three properties that it always has.
const CONNACK_BYTES_MIN: u32 = 5 + 3 + 5 + 3;

/// The user properties of one CONNECT, which each cost more than their bytes while they are
/// shown to the provider.
const USER_PROPERTIES_MAX: usize = 256;

fn check_version(version: ProtocolVersion, settings: &TenantSettings) -> Result<(), Farewell> {
    let is_enabled = match version {
        ProtocolVersion::V31 => settings.mqtt3_enabled,
        ProtocolVersion::V311 => settings.mqtt4_enabled,
        ProtocolVersion::V5 => settings.mqtt5_enabled,
    };
    if is_enabled {
        return Ok(());
    }
    let code = ReasonCode::UnsupportedProtocolVersion;
    Err(Farewell::Refused { code, detail: format!("MQTT {version} is switched off") })
}

/// How long the session outlives its connection, in seconds. MQTT-036 to MQTT-039
/// [MQTT-3.1.2-23]
fn expiry(version: ProtocolVersion, connecting: &Connecting, settings: &TenantSettings) -> u32 {
    if settings.force_transient {
        return 0;
    }
    if !version.is_v5() {
        return if connecting.clean_start { 0 } else { settings.max_session_expiry_seconds };
    }
    clamp_expiry(connecting.session_expiry_s.unwrap_or(0), settings)
}

pub(crate) fn clamp_expiry(asked_s: u32, settings: &TenantSettings) -> u32 {
    if asked_s == 0 || settings.force_transient {
        return 0;
    }
    asked_s.max(settings.min_session_expiry_seconds).min(settings.max_session_expiry_seconds)
}

pub(crate) fn maximum_qos(settings: &TenantSettings) -> Option<Qos> {
    Qos::try_from(settings.maximum_qos).ok()
}

pub(crate) fn topic_limits(settings: &TenantSettings) -> TopicLimits {
    TopicLimits {
        length_max: settings.max_topic_length,
        levels_max: settings.max_topic_levels,
        level_length_max: settings.max_topic_level_length,
    }
}

impl PendingWill {
    fn copy(will: &WillPacket<'_>) -> Self {
        let mut properties = Vec::new();
        // [MQTT-3.1.3-10]
        will.properties.forwarded(&mut properties);
        PendingWill {
            qos: will.qos,
            retain: will.retain,
            topic: will.topic.into(),
            payload: Bytes::copy_from_slice(will.payload),
            properties: properties.into(),
            response_topic: will.properties.response_topic.map(Into::into),
            payload_is_utf8: will.properties.payload_is_utf8.unwrap_or(false),
            expiry_s: will.properties.message_expiry_s,
            delay_s: will.properties.delay_s.unwrap_or(0),
        }
    }

    /// MQTT-025, MQTT-026. In MQTT 3 every breach closes without an answer.
    fn check(&self, settings: &TenantSettings, version: ProtocolVersion) -> Result<(), Farewell> {
        let refuse = |code: ReasonCode, detail: String| {
            if version.is_v5() {
                return Err(Farewell::Refused { code, detail });
            }
            // No return code of MQTT 3 says it. 3.1.1 [MQTT3-3.2.2-6]
            Err(Farewell::Violation { code, detail })
        };
        let bytes_max = settings.max_last_will_bytes.min(settings.max_user_payload_bytes) as usize;
        let length = self.payload.len();
        if length > bytes_max {
            let detail = format!("the will has {length} bytes of {bytes_max} allowed");
            return refuse(ReasonCode::PacketTooLarge, detail);
        }
        if let Err(error) = TopicName::parse(&self.topic, &topic_limits(settings)) {
            return refuse(ReasonCode::TopicNameInvalid, format!("the will's topic: {error}"));
        }
        // [MQTT-3.3.2-14]
        if let Some(topic) = &self.response_topic
            && let Err(error) = TopicName::parse(topic, &topic_limits(settings))
        {
            let detail = format!("the will's response topic: {error}");
            return refuse(ReasonCode::TopicNameInvalid, detail);
        }
        // [MQTT-3.2.2-13]
        if self.retain && !settings.retain_enabled {
            return refuse(ReasonCode::RetainNotSupported, "the will is to be retained".to_owned());
        }
        // [MQTT-3.2.2-12]
        if maximum_qos(settings).is_some_and(|max| self.qos > max) {
            return refuse(ReasonCode::QosNotSupported, "the will's QoS is too high".to_owned());
        }
        let is_checked = self.payload_is_utf8 && settings.payload_format_validation_enabled;
        if is_checked && simdutf8::basic::from_utf8(&self.payload).is_err() {
            return refuse(ReasonCode::PayloadFormatInvalid, "the will is not UTF-8".to_owned());
        }
        Ok(())
    }

    fn accept(self, now: Instant, publisher: ratatosk_contract::PublisherId) -> Will {
        let message = StoredMessage {
            topic: self.topic,
            payload: self.payload,
            properties: self.properties,
            qos: self.qos,
            // [MQTT-3.1.2-14] [MQTT-3.1.2-15]
            retain: self.retain,
            publisher,
            accepted: now,
            // The interval counts from the publication of the will, and is set then.
            deadline: None,
        };
        Will { message: Arc::new(message), delay_s: self.delay_s, expiry_s: self.expiry_s }
    }
}
