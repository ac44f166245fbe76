//! PUBLISH from the client, and PUBREL.
//!
//! The checks go from the cheap to the dear, and nothing is done before the last of them passed,
//! so that a packet may be brought again. Each refusal has the code that the specification names:
//! DISCONNECT for QoS 0 and for breaches of the protocol, the acknowledgement for QoS 1 and 2
//! where there is one, and a close where MQTT 3 has no words.

use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_codec::{Ack, PacketId, Publish, Qos, ReasonCode};
use ratatosk_contract::{Message, StoredMessage, Ticket, call::Settlement};
use ratatosk_topic::TopicName;

use crate::{
    Broker, Farewell, Published, Session,
    alias::INBOUND_BYTES_MAX,
    broker::Report,
    connect::{maximum_qos, topic_limits},
    inbound::{Awaited, Pending, Settled},
    rate::Bucket,
    session::{Next, Taken},
};

/// How soon a publish is brought again that the store had no room for.
pub(crate) const BUSY_RETRY: Duration = Duration::from_millis(50);

/// How long a client of MQTT 3 is held whose publish is refused: longer than a failover takes.
const HOLD_MAX: Duration = Duration::from_secs(5);
/// Why the store refuses. DUR-006
const STORE_SHORT: &str = "the store takes nothing now: it is behind, or its disk is full";

impl Session {
    pub(crate) fn on_publish<B: Broker>(
        &mut self,
        now: Instant,
        publish: &Publish<'_>,
        whole: Option<&Bytes>,
        broker: &mut B,
    ) -> Result<Taken, Farewell> {
        if let Some(taken) = self.check_flow(now, publish)? {
            return Ok(taken);
        }
        self.check_features(publish)?;
        let taken = match publish.properties.topic_alias() {
            None if publish.topic.is_empty() && self.version.is_v5() => {
                Err(Farewell::ProtocolError("an empty topic without a topic alias"))
            }
            None => self.on_topic(now, publish, publish.topic, whole, broker),
            // An alias holds from its packet on, even if the message is refused or known already:
            // the client counts on it.
            Some(alias) => {
                // The table is lent to the message, which borrows its topic from it.
                let mut aliases = self.inbound_aliases.take();
                let taken = self
                    .resolve_alias(alias, publish.topic, &mut aliases)
                    .and_then(|topic| self.on_topic(now, publish, topic, whole, broker));
                self.inbound_aliases = aliases;
                taken
            }
        };
        if let (Ok(Taken::Again(_)), Some(bucket)) = (&taken, &mut self.rate) {
            bucket.give_back(self.settings.msg_pub_per_sec);
        }
        taken
    }

    /// A publish whose topic is known.
    fn on_topic<B: Broker>(
        &mut self,
        now: Instant,
        publish: &Publish<'_>,
        topic: &str,
        whole: Option<&Bytes>,
        broker: &mut B,
    ) -> Result<Taken, Farewell> {
        if let Some(packet_id) = publish.packet_id
            && let Some(taken) = self.check_packet_id(publish, packet_id)?
        {
            return Ok(taken);
        }
        if !publish.properties.is_empty()
            && let Some(taken) = self.check_properties(publish, broker)?
        {
            return Ok(taken);
        }
        self.distribute(now, publish, topic, whole, broker)
    }

    /// Receive Maximum and publish rate. MQTT-058, MQTT-059
    fn check_flow(
        &mut self,
        now: Instant,
        publish: &Publish<'_>,
    ) -> Result<Option<Taken>, Farewell> {
        if let (Some(_), Some(inbound)) = (publish.packet_id, &self.inbound) {
            let open_max = usize::from(self.settings.receiving_maximum);
            let is_beyond = inbound.open(open_max) >= open_max;
            // [MQTT-3.3.4-7] [MQTT-4.9.0-2]
            if is_beyond && self.version.is_v5() && !self.is_resend(publish) {
                return Err(Farewell::Violation {
                    code: ReasonCode::ReceiveMaximumExceeded,
                    detail: format!("more than {open_max} unacknowledged publishes"),
                });
            }
            // MQTT 3 knows no such limit: its publishes wait until acknowledgements went out. So
            // do repetitions, which the limit does not count.
            if inbound.pending() >= open_max {
                return Ok(Some(Taken::Again(Next::Retry)));
            }
        }
        let rate = self.settings.msg_pub_per_sec;
        if rate == 0 {
            return Ok(None);
        }
        let bucket = self.rate.get_or_insert_with(|| Box::new(Bucket::new(now)));
        match bucket.take(now, rate) {
            Ok(()) => Ok(None),
            Err(_) if self.version.is_v5() => Err(Farewell::Violation {
                code: ReasonCode::MessageRateTooHigh,
                detail: format!("more than {rate} publishes a second"),
            }),
            Err(again) => Ok(Some(Taken::Again(Next::RetryAt(again)))),
        }
    }

    fn is_resend(&self, publish: &Publish<'_>) -> bool {
        publish.packet_id.is_some_and(|packet_id| {
            self.inbound.as_ref().is_some_and(|inbound| inbound.is_unreleased(packet_id))
        })
    }

    /// MQTT-060. [MQTT-3.2.2-11] [MQTT-3.2.2-14]
    fn check_features(&self, publish: &Publish<'_>) -> Result<(), Farewell> {
        if publish.retain && !self.settings.retain_enabled {
            return Err(Farewell::Violation {
                code: ReasonCode::RetainNotSupported,
                detail: "retained messages are switched off".to_owned(),
            });
        }
        if maximum_qos(&self.settings).is_some_and(|qos_max| publish.qos > qos_max) {
            return Err(Farewell::Violation {
                code: ReasonCode::QosNotSupported,
                detail: format!("QoS above {}", self.settings.maximum_qos),
            });
        }
        Ok(())
    }

    /// An identifier that is in use: another message, or the same QoS 2 message again. MQTT-067
    /// One that is not is that of a new message, whatever it was before. [MQTT-4.3.2-5]
    /// [MQTT-4.3.3-9] [MQTT-4.3.3-12]
    fn check_packet_id(
        &mut self,
        publish: &Publish<'_>,
        packet_id: PacketId,
    ) -> Result<Option<Taken>, Farewell> {
        let Some(inbound) = &self.inbound else { return Ok(None) };
        if inbound.is_unreleased(packet_id) {
            if publish.qos == Qos::ExactlyOnce && (publish.dup || !self.version.is_v5()) {
                // [MQTT-4.3.3-10]
                self.acknowledge(packet_id, Qos::ExactlyOnce, ReasonCode::Success, None);
                return Ok(Some(Taken::Whole));
            }
            return self.refuse_packet_id(publish, packet_id).map(Some);
        }
        if inbound.is_pending(packet_id) {
            // The outcome of the first is not known yet; a re-send of it is answered with it.
            if publish.dup {
                return Ok(Some(Taken::Whole));
            }
            return self.refuse_packet_id(publish, packet_id).map(Some);
        }
        Ok(None)
    }

    fn refuse_packet_id(
        &mut self,
        publish: &Publish<'_>,
        packet_id: PacketId,
    ) -> Result<Taken, Farewell> {
        let code = ReasonCode::PacketIdInUse;
        if !self.version.is_v5() {
            let detail = format!("packet identifier {} is in use", packet_id.value());
            return Err(Farewell::Violation { code, detail });
        }
        self.acknowledge(packet_id, publish.qos, code, None);
        Ok(Taken::Whole)
    }

    /// Payload format and response topic. MQTT-064
    fn check_properties<B: Broker>(
        &mut self,
        publish: &Publish<'_>,
        broker: &mut B,
    ) -> Result<Option<Taken>, Farewell> {
        let is_checked =
            publish.properties.payload_is_utf8() && self.settings.payload_format_validation_enabled;
        if is_checked && simdutf8::basic::from_utf8(publish.payload).is_err() {
            let code = ReasonCode::PayloadFormatInvalid;
            broker.report(Report::PublishRefused { topic: publish.topic, qos: publish.qos, code });
            return self.refuse(publish, code, "the payload is not UTF-8").map(Some);
        }
        let Some(response_topic) = publish.properties.response_topic() else { return Ok(None) };
        // [MQTT-3.3.2-14]
        if let Err(error) = TopicName::parse(response_topic, &topic_limits(&self.settings)) {
            let code = ReasonCode::TopicNameInvalid;
            broker.report(Report::PublishRefused { topic: publish.topic, qos: publish.qos, code });
            return self.refuse(publish, code, &format!("the response topic: {error}")).map(Some);
        }
        Ok(None)
    }

    /// MQTT-065. [MQTT-3.3.2-9] [MQTT-3.3.2-12] [MQTT-3.2.2-17] [MQTT-3.2.2-18]
    fn resolve_alias<'a>(
        &self,
        alias: u16,
        topic: &'a str,
        aliases: &'a mut Option<Box<crate::alias::InboundAliases>>,
    ) -> Result<&'a str, Farewell> {
        let alias_max = self.settings.max_topic_alias;
        if alias == 0 || alias > alias_max {
            return Err(Farewell::Violation {
                code: ReasonCode::TopicAliasInvalid,
                detail: format!("topic alias {alias} is not in 1 to {alias_max}"),
            });
        }
        if !topic.is_empty() {
            if !aliases.get_or_insert_with(Box::default).set(alias, topic) {
                return Err(Farewell::Violation {
                    code: ReasonCode::QuotaExceeded,
                    detail: format!("topic aliases hold more than {INBOUND_BYTES_MAX} bytes"),
                });
            }
            return Ok(topic);
        }
        aliases
            .as_deref()
            .and_then(|aliases| aliases.topic(alias))
            .ok_or(Farewell::ProtocolError("a topic alias that stands for nothing"))
    }

    fn distribute<B: Broker>(
        &mut self,
        now: Instant,
        publish: &Publish<'_>,
        topic: &str,
        whole: Option<&Bytes>,
        broker: &mut B,
    ) -> Result<Taken, Farewell> {
        let copied;
        let shared = if publish.payload.len() < StoredMessage::SHARED_FROM_BYTES {
            None
        } else {
            copied = share(publish.payload, whole, broker);
            Some(&copied)
        };
        let forwarded;
        let properties = match publish.properties.forwarded_slice() {
            Some(properties) => properties,
            None => {
                let mut bytes = Vec::new();
                publish.properties.forwarded(&mut bytes);
                forwarded = bytes;
                &forwarded
            }
        };
        let expiry = publish.properties.message_expiry_s();
        let message = Message {
            topic,
            payload: publish.payload,
            shared,
            properties,
            qos: publish.qos,
            // [MQTT-3.3.1-8] Without it what is kept stays.
            retain: publish.retain,
            publisher: self.publisher,
            accepted: now,
            deadline: expiry.map(|seconds| now + Duration::from_secs(seconds.into())),
        };
        let ticket = match publish.packet_id {
            Some(_) => self.inbound_mut().ticket(),
            None => Ticket(0),
        };
        let is_exchange = publish.qos == Qos::ExactlyOnce && self.is_persistent;
        let exchange = publish.packet_id.filter(|_| is_exchange);
        let published = broker.publish(&message, ticket, exchange);
        self.conclude(now, publish, topic, ticket, published, broker)
    }

    /// What the outcome of a publish means to its publisher. MQTT-054, MQTT-056, MQTT-061,
    /// MQTT-066 [MQTT-3.3.5-2] [MQTT-4.8.0-2]
    fn conclude<B: Broker>(
        &mut self,
        now: Instant,
        publish: &Publish<'_>,
        topic: &str,
        ticket: Ticket,
        published: Published,
        broker: &mut B,
    ) -> Result<Taken, Farewell> {
        let (code, detail) = match published {
            Published::Handed { is_matched } => {
                if let Some(packet_id) = publish.packet_id {
                    self.accept(packet_id, publish.qos, success(is_matched));
                }
                return Ok(Taken::Whole);
            }
            Published::Pending { parts, is_matched } => {
                debug_assert!(parts > 0, "something is pending");
                if let Some(packet_id) = publish.packet_id {
                    let success = success(is_matched);
                    let awaited = Awaited { ticket, parts, worst: Settlement::Done, success };
                    let (qos, state) = (publish.qos, Settled::Not(awaited));
                    let pending = Pending { packet_id, qos, state, holds_id: true };
                    let inbound = self.inbound_mut();
                    inbound.held_since = None;
                    inbound.wait(pending);
                }
                return Ok(Taken::Whole);
            }
            Published::Later => return Ok(Taken::Again(Next::Retry)),
            // QoS 0 waits for nothing.
            Published::Busy | Published::QuotaExceeded | Published::Unknown
                if publish.packet_id.is_none() =>
            {
                return Ok(Taken::Whole);
            }
            Published::Unknown => return Err(Farewell::NotDurable),
            Published::Busy | Published::QuotaExceeded if !self.version.is_v5() => {
                return self.hold(now);
            }
            Published::Busy => (ReasonCode::ImplementationSpecificError, STORE_SHORT.to_owned()),
            Published::QuotaExceeded => {
                (ReasonCode::QuotaExceeded, "a receiver's queue is full".to_owned())
            }
            Published::InvalidTopic(error) => (ReasonCode::TopicNameInvalid, error.to_string()),
            Published::NotPermitted => {
                (ReasonCode::NotAuthorized, "not permitted to publish to this topic".to_owned())
            }
            Published::PermissionError => (
                ReasonCode::ImplementationSpecificError,
                "the permission could not be determined".to_owned(),
            ),
        };
        broker.report(Report::PublishRefused { topic, qos: publish.qos, code });
        self.refuse(publish, code, &detail)
    }

    /// MQTT 3 has no acknowledgement that refuses: the publish is brought again for a while.
    fn hold(&mut self, now: Instant) -> Result<Taken, Farewell> {
        let since = *self.inbound_mut().held_since.get_or_insert(now);
        if now.since(since) >= HOLD_MAX {
            return Err(Farewell::NotDurable);
        }
        Ok(Taken::Again(Next::RetryAt(now + BUSY_RETRY)))
    }

    /// Refuses one publish: QoS 0 of MQTT 5.0 by DISCONNECT, QoS 1 and 2 by the acknowledgement,
    /// MQTT 3 by the end of the connection.
    fn refuse(
        &mut self,
        publish: &Publish<'_>,
        code: ReasonCode,
        detail: &str,
    ) -> Result<Taken, Farewell> {
        match publish.packet_id {
            Some(packet_id) if self.version.is_v5() => {
                self.acknowledge(packet_id, publish.qos, code, Some(detail));
                Ok(Taken::Whole)
            }
            _ => Err(Farewell::Violation { code, detail: detail.to_owned() }),
        }
    }

    /// A publish is ours now. [MQTT-4.3.2-4] [MQTT-4.3.3-8]
    fn accept(&mut self, packet_id: PacketId, qos: Qos, code: ReasonCode) {
        if let Some(inbound) = &mut self.inbound {
            inbound.held_since = None;
            if inbound.pending() > 0 {
                inbound.wait(Pending { packet_id, qos, state: Settled::As(code), holds_id: true });
                return;
            }
        }
        self.remember(packet_id, qos);
        self.write_publish_ack(packet_id, qos, code, None);
    }

    /// From PUBREC to PUBREL the identifier of a QoS 2 message is known. For a persistent session
    /// the broker knows it from the publish.
    fn remember(&mut self, packet_id: PacketId, qos: Qos) {
        if qos == Qos::ExactlyOnce {
            self.inbound_mut().accept(packet_id);
        }
    }

    /// Answers a publish that is not accepted, behind those whose answers are still to come.
    fn acknowledge(
        &mut self,
        packet_id: PacketId,
        qos: Qos,
        code: ReasonCode,
        reason: Option<&str>,
    ) {
        if let Some(inbound) = &mut self.inbound
            && inbound.pending() > 0
        {
            inbound.wait(Pending { packet_id, qos, state: Settled::As(code), holds_id: false });
            return;
        }
        self.write_publish_ack(packet_id, qos, code, reason);
    }

    pub(crate) fn on_settled(
        &mut self,
        ticket: Ticket,
        settlement: Settlement,
    ) -> Result<(), Farewell> {
        let is_v5 = self.version.is_v5();
        let settled = self.inbound.as_mut().and_then(|it| it.settle(ticket, settlement));
        let Some((awaited, pending)) = settled else { return Ok(()) };
        let code = match awaited.worst {
            Settlement::Done => awaited.success,
            Settlement::Busy => ReasonCode::ImplementationSpecificError,
            Settlement::QuotaExceeded => ReasonCode::QuotaExceeded,
            // Whether it happened is not known: it can be neither acknowledged nor refused.
            Settlement::Unknown => return Err(Farewell::NotDurable),
        };
        // MQTT 3 has no acknowledgement that refuses.
        if code.is_error() && !is_v5 {
            return Err(Farewell::NotDurable);
        }
        pending.state = Settled::As(code);
        while let Some((Pending { packet_id, qos, holds_id, .. }, code)) =
            self.inbound_mut().next_settled()
        {
            if holds_id && !code.is_error() {
                self.remember(packet_id, qos);
            }
            self.write_publish_ack(packet_id, qos, code, None);
        }
        Ok(())
    }

    /// PUBREL: the client will not send the message again. [MQTT-4.3.3-11] MQTT-055, MQTT-057
    pub(crate) fn on_pubrel<B: Broker>(
        &mut self,
        ack: &Ack<'_>,
        broker: &mut B,
    ) -> Result<(), Farewell> {
        let is_known = self.inbound.as_mut().is_some_and(|inbound| inbound.release(ack.packet_id));
        if is_known && self.is_persistent {
            broker.released(ack.packet_id).map_err(|_| Farewell::StaleClaim)?;
        }
        let code = if is_known { ReasonCode::Success } else { ReasonCode::PacketIdNotFound };
        self.write_pubcomp(ack.packet_id, code);
        Ok(())
    }
}

/// The code of a publish that was accepted. MQTT-056
fn success(is_matched: bool) -> ReasonCode {
    if is_matched { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers }
}

/// A large payload as a part of the buffer that it lies in, or as a copy: of a buffer that is not
/// mostly this payload, because a part keeps the whole alive.
fn share<B: Broker>(payload: &[u8], whole: Option<&Bytes>, broker: &mut B) -> Bytes {
    let holding = whole.filter(|whole| {
        let (start, end) = (whole.as_ptr() as usize, whole.as_ptr() as usize + whole.len());
        let (first, last) = (payload.as_ptr() as usize, payload.as_ptr() as usize + payload.len());
        start <= first && last <= end && whole.len() <= 2 * payload.len()
    });
    match holding {
        Some(whole) => whole.slice_ref(payload),
        None => broker.share(payload.to_vec()),
    }
}
