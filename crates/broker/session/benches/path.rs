//! What a message costs a session: publishes in, deliveries out.
//!
//! A broker that does nothing stands for the rest; frames carry 32 bytes and come 200 in a batch.

use std::{hint::black_box, num::NonZeroU16, sync::Arc};

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_codec::{
    Ack, Connect, Packet, PacketId, ProtocolVersion, Publish, Qos, ReasonCode, SubscriptionOptions,
    encode,
};
use ratatosk_contract::{
    Message, PublisherId, TenantId, TenantSettings, Ticket,
    inbox::{Entry, FetchBudget, Sequence, StaleClaim},
};
use ratatosk_session::{
    Answer, Broker, Claimed, Delivered, Delivery, Grant, Permit, Published, Report, Session,
    SessionConfig, Subscribed, Unsubscribed,
};
use ratatosk_testkit::gauge::Gauge;
use ratatosk_topic::TopicFilter;

const BATCH: u16 = 200;

struct Nobody;

impl Broker for Nobody {
    fn publish(
        &mut self,
        message: &Message<'_>,
        _ticket: Ticket,
        _exchange: Option<PacketId>,
    ) -> Published {
        black_box(message.payload);
        Published::Handed { is_matched: true }
    }
    fn permits_subscribe(&mut self, _filter: TopicFilter<'_>, _qos: Qos) -> Permit {
        Permit::Allowed
    }
    fn permits_unsubscribe(&mut self, _filter: TopicFilter<'_>) -> Permit {
        Permit::Allowed
    }
    fn subscribe(
        &mut self,
        _place: usize,
        _filter: TopicFilter<'_>,
        _options: SubscriptionOptions,
        _subscription_id: Option<u32>,
    ) -> Subscribed {
        Subscribed::Granted
    }
    fn unsubscribe(&mut self, _filter: TopicFilter<'_>) -> Unsubscribed {
        Unsubscribed::Removed
    }
    fn fetch(
        &mut self,
        _after: Sequence,
        _budget: FetchBudget,
        _entries: &mut Vec<Entry>,
    ) -> Result<(), StaleClaim> {
        Ok(())
    }
    fn commit(&mut self, _sequence: Sequence) -> Result<(), StaleClaim> {
        Ok(())
    }
    fn received(&mut self, _sequence: Sequence) -> Result<(), StaleClaim> {
        Ok(())
    }
    fn released(&mut self, _packet_id: PacketId) -> Result<(), StaleClaim> {
        Ok(())
    }
    fn assign_client_id(&mut self) -> String {
        "assigned".to_owned()
    }
    fn report(&mut self, _report: Report<'_>) {}
}

const NOW: Instant = Instant::from_millis(1_000_000);

fn session(version: ProtocolVersion) -> Session {
    let settings = Arc::new(TenantSettings::default());
    let mut session = Session::new(NOW, &SessionConfig::default(), Arc::clone(&settings));
    let mut connect = Connect::new(version, "bench", true);
    if version.is_v5() {
        connect.properties.receive_maximum = NonZeroU16::new(1000);
    }
    let mut bytes = Vec::new();
    encode(&Packet::Connect(connect), version, &mut bytes);
    session.receive(NOW, &bytes, None, &mut Nobody);
    let grant = Grant {
        tenant: TenantId::new("t"),
        user: None,
        settings,
        response_information: None,
        user_properties: Vec::new(),
        data: None,
    };
    session.answer(NOW, Answer::Granted(Box::new(grant)), &mut Nobody);
    let claimed =
        Claimed { is_present: false, is_persistent: false, inbound: vec![], sent: Sequence(0) };
    session.answer(NOW, Answer::Claimed(Box::new(claimed)), &mut Nobody);
    assert!(session.is_live());
    session.output().clear();
    session
}

/// Writes all that is there; the buffer's memory goes as after a real write.
fn written(session: &mut Session) -> usize {
    let output = session.output();
    let length = output.len();
    output.advance(length);
    length
}

fn batch(version: ProtocolVersion, qos: Qos) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 1..=BATCH {
        let packet_id = PacketId::new(number).filter(|_| qos != Qos::AtMostOnce);
        let publish = Publish { qos, packet_id, ..Publish::new("bench/topic/17", &[7; 32]) };
        encode(&Packet::Publish(publish), version, &mut bytes);
    }
    bytes
}

fn inbound(gauge: &Gauge, version: ProtocolVersion) {
    let mut at_most_once = session(version);
    let bytes = batch(version, Qos::AtMostOnce);
    gauge.measure(&format!("{version} in, QoS 0"), BATCH.into(), || {
        at_most_once.receive(NOW, black_box(&bytes), None, &mut Nobody);
    });
    let mut at_least_once = session(version);
    let bytes = batch(version, Qos::AtLeastOnce);
    gauge.measure(&format!("{version} in, QoS 1, with PUBACK"), BATCH.into(), || {
        at_least_once.receive(NOW, black_box(&bytes), None, &mut Nobody);
        assert_eq!(written(&mut at_least_once), usize::from(BATCH) * 4);
    });
    let mut exactly_once = session(version);
    let bytes = batch(version, Qos::ExactlyOnce);
    let releases = acks(1, Packet::Pubrel);
    gauge.measure(&format!("{version} in, QoS 2, with PUBREC and PUBCOMP"), BATCH.into(), || {
        exactly_once.receive(NOW, black_box(&bytes), None, &mut Nobody);
        exactly_once.receive(NOW, black_box(&releases), None, &mut Nobody);
        assert_eq!(written(&mut exactly_once), usize::from(BATCH) * 8);
    });
}

fn acks(first: u16, kind: fn(Ack<'static>) -> Packet<'static>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in first..first + BATCH {
        let packet_id = PacketId::new(number).expect("not zero");
        let ack = Ack::new(packet_id, ReasonCode::Success);
        encode(&kind(ack), ProtocolVersion::V311, &mut bytes);
    }
    bytes
}

fn outbound(gauge: &Gauge, version: ProtocolVersion) {
    let payload = Bytes::from_static(&[7; 32]);
    let message = Message {
        topic: "bench/topic/17",
        payload: &payload,
        shared: None,
        properties: &[],
        qos: Qos::ExactlyOnce,
        retain: false,
        publisher: PublisherId(1),
        accepted: NOW,
        deadline: None,
    };
    let delivery = |qos| Delivery {
        message: &message,
        options: SubscriptionOptions::new(qos),
        subscription_id: None,
        is_retained: false,
        origin: None,
    };
    let mut at_most_once = session(version);
    let plain = delivery(Qos::AtMostOnce);
    gauge.measure(&format!("{version} out, QoS 0"), BATCH.into(), || {
        for _ in 0..BATCH {
            let delivered = at_most_once.deliver(NOW, black_box(&plain));
            assert_eq!(delivered, Delivered::Sent);
        }
        written(&mut at_most_once);
    });
    let mut at_least_once = session(version);
    let acked = delivery(Qos::AtLeastOnce);
    // The identifiers go round: the acknowledgements of every turn were made before.
    let turns: Vec<_> =
        (0..65_400 / BATCH).map(|turn| acks(turn * BATCH + 1, Packet::Puback)).collect();
    let mut sent = 0_u64;
    gauge.measure(&format!("{version} out, QoS 1, with PUBACK"), BATCH.into(), || {
        for _ in 0..BATCH {
            at_least_once.deliver(NOW, black_box(&acked));
        }
        written(&mut at_least_once);
        let first = usize::try_from(sent % 65_535).expect("small");
        sent += u64::from(BATCH);
        match turns.get(first / usize::from(BATCH)).filter(|_| first % usize::from(BATCH) == 0) {
            Some(bytes) => {
                at_least_once.receive(NOW, black_box(bytes), None, &mut Nobody);
            }
            None => {
                // At the turn of the identifiers the session begins anew.
                at_least_once = session(version);
                sent = 0;
            }
        }
    });
}

fn main() {
    let gauge = Gauge::from_arguments();
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        inbound(&gauge, version);
        outbound(&gauge, version);
    }
}
