//! Random streams: nothing panics, whatever is written decodes, nothing is lost or doubled, and
//! where the stream is cut does not matter.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use ratatosk_codec::{
    Ack, Auth, Disconnect, Packet, ProtocolVersion, Publish, PublishPropertiesBuilder, Qos,
    ReasonCode, SubscribeFiltersBuilder,
};
use ratatosk_contract::{TenantSettings, call::Settlement, inbox::Sequence};
use ratatosk_session::{
    Answer, Claimed, Delivered, Farewell, Next, Permit, Published, Request, Subscribed,
};

use crate::harness::{
    ALL, PENDING, Peer, V5, connect, connect_v5, encoded, grant, id, persistent, publish, settings,
    stored, transient,
};

/// One thing that happens to a session: what, and a few numbers.
type Step = (u8, u8, u16, u8);

fn small_limits() -> TenantSettings {
    settings(|s| {
        s.receiving_maximum = 4;
        s.session_inbox_size = 5;
        s.max_topic_alias = 3;
        s.max_topic_filters_per_sub = 3;
        s.max_user_payload_bytes = 200;
        s.resend_timeout_seconds = 2;
        s.adaptive_send_window = true;
    })
}

/// A packet of the client, valid for the most part.
fn packet_bytes(version: ProtocolVersion, (kind, qos, packet_id, extra): Step) -> Vec<u8> {
    let packet_id = packet_id % 6 + 1;
    let code = [ReasonCode::Success, ReasonCode::UnspecifiedError][usize::from(extra % 8 == 0)];
    let ack = Ack::new(id(packet_id), code);
    let mut properties = PublishPropertiesBuilder::new();
    let mut filters = SubscribeFiltersBuilder::new();
    let names = ["a", "a/b", "#", "$share/g/a", "+/b", "bad#"];
    for number in 0..=extra % 4 {
        let name = names[usize::from(extra.wrapping_add(number)) % names.len()];
        filters.push(name, ratatosk_codec::SubscriptionOptions::default()).expect("fits");
    }
    let packet = match kind % 16 {
        0..=5 => {
            if version == V5 && extra % 3 == 0 {
                properties.topic_alias(u16::from(extra % 5) + 1).expect("not zero");
            }
            let topic = if extra % 3 == 0 && extra % 2 == 0 && version == V5 { "" } else { "a/b" };
            let plain = publish(topic, qos % 3, packet_id);
            let dup = extra % 5 == 0 && qos % 3 > 0;
            Packet::Publish(Publish { dup, properties: properties.view(), ..plain })
        }
        6 => Packet::Puback(ack),
        7 => Packet::Pubrec(ack),
        8 => Packet::Pubrel(Ack::new(id(packet_id), ReasonCode::Success)),
        9 => Packet::Pubcomp(Ack::new(id(packet_id), ReasonCode::Success)),
        10 => Packet::Subscribe(ratatosk_codec::Subscribe::new(id(packet_id), filters.view())),
        11 if version == V5 => Packet::Auth(Auth::new(ReasonCode::Reauthenticate, "M")),
        12 if extra % 16 == 0 => Packet::Disconnect(Disconnect::new(ReasonCode::Success)),
        13 if extra % 16 == 0 => Packet::Connect(connect(version)),
        _ => Packet::Pingreq,
    };
    encoded(&packet, version)
}

/// Feeds and answers until the session waits for nobody.
fn drive(peer: &mut Peer, bytes: &[u8], limits: &TenantSettings) {
    let mut next = peer.feed(bytes);
    while next == Next::Answer {
        match peer.session.take_request() {
            Some(Request::Claim(_)) => peer.answer(Answer::Claimed(Box::new(transient()))),
            Some(_) => peer.answer(Answer::Granted(Box::new(grant(limits)))),
            None => panic!("an answer to no request is awaited"),
        }
        next = peer.feed(&[]);
    }
}

fn happen(peer: &mut Peer, step: Step, limits: &TenantSettings) {
    let (kind, qos, number, extra) = step;
    match kind % 24 {
        16 => {
            let outcomes = [
                PENDING,
                Published::Busy,
                Published::Later,
                Published::NotPermitted,
                Published::Handed { is_matched: false },
                Published::QuotaExceeded,
            ];
            peer.broker.outcomes.push_back(outcomes[usize::from(extra) % outcomes.len()].clone());
        }
        17 => {
            let known = peer.broker.tickets.len().max(1);
            let ticket = peer.broker.tickets.get(usize::from(number) % known).copied();
            let settlement = [Settlement::Done, Settlement::Done, Settlement::QuotaExceeded];
            let settlement = settlement[usize::from(extra) % 3];
            if let Some(ticket) = ticket {
                peer.session.settle(ticket, settlement);
            }
        }
        18..=20 => {
            peer.deliver(&stored("t", "payload", Qos::ExactlyOnce), qos % 3);
        }
        21 => peer.tick_after(Duration::from_millis(u64::from(number) % 1500)),
        22 => {
            peer.broker.permits.push_back(if extra % 2 == 0 {
                Permit::Later
            } else {
                Permit::Denied
            });
            peer.broker.subscribe_outcomes.push_back(Subscribed::Busy);
        }
        _ => {
            let mut bytes = packet_bytes(peer.version, step);
            if extra == 77 {
                let at = usize::from(number) % bytes.len();
                bytes[at] ^= qos | 1;
            }
            drive(peer, &bytes, limits);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// SEC-001: whatever comes, in whatever order.
    #[test]
    fn random_events_neither_panic_nor_write_what_is_no_packet(
        version in 0_usize..3,
        steps in proptest::collection::vec(any::<Step>(), 1..120),
        from_the_start in any::<bool>(),
    ) {
        let version = ALL[version];
        let limits = small_limits();
        let mut peer = Peer::fresh(version);
        if from_the_start {
            let mut connect = connect(version);
            if version == V5 {
                connect.properties.authentication_method = Some("M");
                connect.properties.receive_maximum = std::num::NonZeroU16::new(3);
                connect.properties.topic_alias_max = Some(2);
            }
            drive(&mut peer, &encoded(&Packet::Connect(connect), version), &limits);
            prop_assert!(peer.session.is_live());
        }
        for step in steps {
            happen(&mut peer, step, &limits);
            peer.out();
            if peer.session.farewell().is_some() {
                break;
            }
        }
        peer.session.end(Farewell::PeerClosed);
        peer.out();
        prop_assert_eq!(peer.feed(&[0xC0, 0]), Next::End);
    }

    /// SEC-001: pure noise behind CONNECT.
    #[test]
    fn noise_does_not_panic(
        version in 0_usize..3,
        noise in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut peer = Peer::live(ALL[version], &small_limits());
        drive(&mut peer, &noise, &small_limits());
        peer.last_words();
    }

    /// MQTT-054: a stream means the same wherever it is cut.
    #[test]
    fn cuts_of_the_stream_change_nothing(
        version in 0_usize..3,
        steps in proptest::collection::vec(any::<Step>(), 1..40),
        cuts in proptest::collection::vec(1_usize..40, 1..30),
    ) {
        let version = ALL[version];
        let limits = small_limits();
        let mut stream = encoded(&Packet::Connect(connect(version)), version);
        for step in &steps {
            stream.extend(packet_bytes(version, *step));
        }
        let mut whole = Peer::fresh(version);
        drive(&mut whole, &stream, &limits);
        let mut cut = Peer::fresh(version);
        let (mut rest, mut sizes) = (&stream[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let size = sizes.next().map_or(1, |size| (*size).min(rest.len()));
            drive(&mut cut, &rest[..size], &limits);
            rest = &rest[size..];
        }
        prop_assert_eq!(whole.last_words(), cut.last_words());
        prop_assert_eq!(whole.broker.published.len(), cut.broker.published.len());
        prop_assert_eq!(&whole.broker.subscriptions, &cut.broker.subscriptions);
        prop_assert_eq!(&whole.broker.reports, &cut.broker.reports);
    }
}

/// What the client is to send next for a packet identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owes {
    Puback,
    Pubrec,
    /// Its PUBREC went; the PUBREL is awaited.
    Nothing,
    Pubcomp,
}

/// A client that counts: messages by number, exchanges by packet identifier.
#[derive(Debug, Default)]
struct Model {
    window: usize,
    open: BTreeMap<u16, (u64, Owes)>,
    /// Every message that was seen, in the order of its first coming.
    seen: Vec<u64>,
    /// On this connection.
    in_flight: usize,
}

impl Model {
    fn read(&mut self, peer: &mut Peer) {
        let mut fail = None;
        peer.read(|packet| {
            if let Err(error) = self.take(packet) {
                fail.get_or_insert(format!("{error}: {packet:?}"));
            }
        });
        assert_eq!(fail, None, "{self:?}");
    }

    fn take(&mut self, packet: &Packet<'_>) -> Result<(), &'static str> {
        match packet {
            Packet::Publish(publish) => {
                let text = String::from_utf8_lossy(publish.payload);
                let number: u64 = text.parse().map_err(|_| "a number was sent")?;
                let packet_id = publish.packet_id.ok_or("QoS 1 or 2 was sent")?.value();
                let owes =
                    if publish.qos == Qos::AtLeastOnce { Owes::Puback } else { Owes::Pubrec };
                let before = self.open.insert(packet_id, (number, owes));
                self.in_flight += 1;
                if self.in_flight > self.window {
                    return Err("the window is passed");
                }
                match (publish.dup, before) {
                    (true, Some((same, was))) if same == number && was == owes => Ok(()),
                    (true, _) => Err("DUP for what was not sent or is past PUBREC"),
                    (false, Some(_)) => Err("an identifier in use"),
                    (false, None) if self.seen.last().is_some_and(|last| *last >= number) => {
                        Err("out of order, or twice without DUP")
                    }
                    (false, None) => {
                        self.seen.push(number);
                        Ok(())
                    }
                }
            }
            Packet::Pubrel(ack) => match self.open.get_mut(&ack.packet_id.value()) {
                Some((_, owes @ (Owes::Nothing | Owes::Pubcomp))) => {
                    *owes = Owes::Pubcomp;
                    Ok(())
                }
                _ => Err("PUBREL without PUBREC"),
            },
            Packet::Connack(_) => Ok(()),
            _ => Err("nothing else was to come"),
        }
    }

    /// Sends what is owed for one of the open identifiers.
    fn pay(&mut self, peer: &mut Peer, choice: usize) {
        let count = self.open.len().max(1);
        let Some((&packet_id, &(_, owes))) = self.open.iter().nth(choice % count) else { return };
        match owes {
            Owes::Puback => {
                self.finish(packet_id);
                peer.puback(packet_id);
            }
            Owes::Pubrec => {
                self.open.entry(packet_id).and_modify(|(_, owes)| *owes = Owes::Nothing);
                peer.ack(Packet::Pubrec, packet_id);
            }
            Owes::Pubcomp => {
                self.finish(packet_id);
                peer.ack(Packet::Pubcomp, packet_id);
            }
            Owes::Nothing => {}
        }
        self.read(peer);
    }

    fn finish(&mut self, packet_id: u16) {
        self.open.remove(&packet_id);
        self.in_flight -= 1;
    }
}

/// `(what, which)`; the larger part of the whats are acknowledgements.
fn outbound_steps() -> impl Strategy<Value = Vec<(u8, usize)>> {
    proptest::collection::vec((0_u8..20, 0_usize..50), 1..250)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// MQTT-044, MQTT-045, MQTT-090: an inbox, acknowledgements in any order, reconnects.
    #[test]
    fn a_persistent_session_loses_and_doubles_nothing(
        window in 1_u16..20,
        first in prop_oneof![Just(0_u64), Just(65_520), Just(131_060)],
        steps in outbound_steps(),
    ) {
        let limits = TenantSettings::default();
        let connect = connect_v5(600, window, 0, 0);
        let mut peer = Peer::resumed(&connect, persistent(), Vec::new(), &limits);
        let mut model = Model { window: usize::from(window), ..Model::default() };
        let mut next = first;
        model.read(&mut peer);
        for (what, which) in steps {
            match what {
                0..=6 => {
                    next += 1 + u64::from(which % 7 == 0);
                    let qos = Qos::try_from(1 + u8::from(which % 2 == 0)).expect("1 or 2");
                    peer.broker.enqueue(next, &stored("t", &next.to_string(), qos));
                    peer.session.inbox_ready(peer.now, &mut peer.broker);
                    model.read(&mut peer);
                }
                7 => {
                    peer.end();
                    let queue = std::mem::take(&mut peer.broker.queue);
                    let sent = Sequence(model.seen.last().copied().unwrap_or(0));
                    let claimed = Claimed { is_present: true, sent, ..persistent() };
                    // What is past PUBREC comes back as PUBREL and counts as before.
                    let is_past = |owes: &Owes| matches!(owes, Owes::Nothing | Owes::Pubcomp);
                    model.in_flight = model.open.values().filter(|(_, o)| is_past(o)).count();
                    peer = Peer::resumed(&connect, claimed, queue, &limits);
                    model.read(&mut peer);
                }
                _ => model.pay(&mut peer, which),
            }
        }
        for turn in 0.. {
            if model.open.is_empty() {
                break;
            }
            prop_assert!(turn < 10_000, "it ends: {model:?}");
            model.pay(&mut peer, turn);
        }
        prop_assert!(peer.broker.queue.is_empty(), "{:?}", peer.broker.queue);
        let mut committed = peer.broker.committed.clone();
        committed.sort_unstable();
        prop_assert!(committed.windows(2).all(|pair| pair[0] != pair[1]), "committed once");
        prop_assert!(model.seen.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert_eq!(model.seen.last().copied().unwrap_or(first), next.max(first));
    }

    /// MQTT-069, MQTT-090, MQTT-098: a transient session: what was not dropped is delivered once, in order.
    #[test]
    fn a_transient_session_delivers_what_it_took(
        window in 1_u16..20,
        queue_max in 1_u32..30,
        is_adaptive in any::<bool>(),
        steps in outbound_steps(),
    ) {
        let limits = settings(|s| {
            s.session_inbox_size = queue_max;
            s.adaptive_send_window = is_adaptive;
            s.min_send_per_sec = 1;
        });
        let mut peer = Peer::live_as(&connect_v5(0, window, 0, 0), &limits, transient());
        let mut model = Model { window: usize::from(window), ..Model::default() };
        let (mut next, mut taken) = (0, Vec::new());
        for (what, which) in steps {
            peer.pass(Duration::from_millis(which as u64));
            match what {
                0..=9 => {
                    next += 1;
                    let qos = Qos::try_from(1 + u8::from(which % 2 == 0)).expect("1 or 2");
                    let told = peer.deliver(&stored("t", &next.to_string(), qos), 2);
                    if matches!(told, Delivered::Sent | Delivered::Queued) {
                        taken.push(next);
                    }
                    model.read(&mut peer);
                }
                _ => model.pay(&mut peer, which),
            }
            let waiting = taken.len() - model.seen.len();
            prop_assert!(waiting <= queue_max as usize);
            prop_assert!(waiting == 0 || is_adaptive || model.in_flight == model.window);
        }
        for turn in 0.. {
            if model.open.is_empty() {
                break;
            }
            prop_assert!(turn < 10_000, "it ends: {model:?}");
            model.pay(&mut peer, turn);
        }
        prop_assert_eq!(model.seen, taken);
    }
}
