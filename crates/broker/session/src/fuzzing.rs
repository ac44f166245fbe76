//! The body of the fuzz target `session_stream`, so that its corpus is replayed by plain tests.
//!
//! A client writes arbitrary bytes; a script decides how they are cut, what the broker answers and
//! what happens between. Guarded: nothing panics, whatever is written is what a client of that
//! version decodes, within its limits, and nothing follows the last word.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_codec::{
    Decoded, Decoder, Packet, PacketId, ProtocolVersion, Qos, ReasonCode, SubscriptionOptions,
};
use ratatosk_contract::{
    Message, PublisherId, StoredMessage, TenantId, TenantSettings, Ticket,
    call::Settlement,
    inbox::{Entry, FetchBudget, Sequence, StaleClaim},
};
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};

use crate::{
    Answer, Broker, Claimed, Delivery, Denial, Farewell, Grant, Next, Permit, Published, Report,
    Request, Session, SessionConfig, Subscribed, Unsubscribed,
};

/// Bytes of the script at the front of the input, by their first.
const SCRIPT_MAX: usize = 63;

/// The first byte says how long the script is, then the script, then what the client writes.
pub fn stream_any(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else { return };
    let (script, stream) = rest.split_at(rest.len().min(usize::from(first) & SCRIPT_MAX));
    let mut run = Run::new(script);
    let (mut unread, mut at) = (Vec::new(), 0);
    // Each turn brings bytes, or lets pass time at the end of them.
    for turn in 0..stream.len() + 50 {
        let size =
            1 + usize::from(run.broker.script.next()) * usize::from(run.broker.script.next());
        let piece = &stream[at..stream.len().min(at + size)];
        at += piece.len();
        unread.extend_from_slice(piece);
        let consumed = run.receive(&unread);
        unread.drain(..consumed);
        if turn % 2 == 1 {
            run.happen();
        }
        run.read();
        if run.session.farewell().is_some() {
            break;
        }
    }
    run.finish();
}

/// Bytes that decide; over and over, and zero if there are none: zero is yes.
struct Script {
    bytes: Vec<u8>,
    at: usize,
}

impl Script {
    fn next(&mut self) -> u8 {
        if self.bytes.is_empty() {
            return 0;
        }
        self.at = (self.at + 1) % self.bytes.len();
        self.bytes[self.at]
    }
}

struct Run {
    session: Session,
    broker: ScriptedBroker,
    now: Instant,
    /// The client was told that it is over.
    is_over: bool,
    has_connack: bool,
}

impl Run {
    fn new(script: &[u8]) -> Self {
        let now = Instant::from_millis(10_000);
        let config = SessionConfig { connect_bytes_max: 4096, client_id_bytes_max: 30 };
        let settings = Arc::new(limits());
        Self {
            session: Session::new(now, &config, settings),
            broker: ScriptedBroker {
                script: Script { bytes: script.to_vec(), at: 0 },
                tickets: Vec::new(),
                sequence: 0,
                queue: Vec::new(),
            },
            now,
            is_over: false,
            has_connack: false,
        }
    }

    /// Brings bytes and answers what is asked until the session wants something else.
    fn receive(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        // What is asked is asked by a packet, so there is an end.
        for _ in 0..=2 * bytes.len() + 4 {
            let rest = &bytes[taken..];
            let received = self.session.receive(self.now, rest, None, &mut self.broker);
            assert!(received.consumed <= rest.len(), "no more is taken than was brought");
            taken += received.consumed;
            match received.next {
                Next::Answer => {
                    let request = self.session.take_request();
                    let answer = self.answer(request.as_ref());
                    self.session.answer(self.now, answer, &mut self.broker);
                }
                Next::Bytes { packet_length } => {
                    let left = bytes.len() - taken;
                    assert!(packet_length.is_none_or(|length| length > left), "it is there");
                    return taken;
                }
                Next::Retry | Next::RetryBy(_) | Next::RetryAt(_) => return taken,
                Next::End => {
                    assert!(self.session.farewell().is_some(), "an end has a reason");
                    return taken;
                }
            }
        }
        panic!("the session asks for ever");
    }

    fn answer(&mut self, request: Option<&Request>) -> Answer {
        let choice = self.broker.script.next();
        match request {
            Some(Request::Claim(claim)) => {
                let is_persistent = claim.admission != crate::Admission::Transient;
                let is_present = is_persistent && !claim.is_clean && choice % 2 == 1;
                let ids = if is_present { usize::from(choice) % 4 } else { 0 };
                Answer::Claimed(Box::new(Claimed {
                    is_present,
                    is_persistent,
                    inbound: (1..).filter_map(PacketId::new).take(ids).collect(),
                    sent: Sequence(0),
                }))
            }
            Some(Request::Authenticate(credentials)) => {
                self.judge(credentials.method.is_some(), choice)
            }
            Some(Request::Exchange(_)) => self.judge(true, choice),
            None => panic!("an answer to no request is awaited"),
        }
    }

    fn judge(&mut self, has_method: bool, choice: u8) -> Answer {
        match choice % 16 {
            13 if has_method => Answer::Continue { data: vec![choice; 3] },
            14 if has_method => Answer::Continue { data: Vec::new() },
            15 => {
                let detail = "not by this script".to_owned();
                Answer::Denied(Denial { code: ReasonCode::NotAuthorized, detail })
            }
            _ => Answer::Granted(Box::new(Grant {
                tenant: TenantId::new("t"),
                user: None,
                settings: Arc::new(limits()),
                response_information: (choice & 16 > 0).then(|| "answers/here".to_owned()),
                user_properties: vec![
                    ("a".to_owned(), "b".to_owned());
                    usize::from(choice & 32 > 0)
                ],
                data: has_method.then(|| vec![1, 2, 3]),
            })),
        }
    }

    /// Something that is not the client's doing.
    fn happen(&mut self) {
        let choice = self.broker.script.next();
        let qos = Qos::try_from(choice / 16 % 3).unwrap_or_default();
        match choice % 8 {
            1 | 2 if !self.session.is_persistent() || qos == Qos::AtMostOnce => {
                let message = stored(qos, usize::from(choice));
                let message = message.as_message();
                let delivery = Delivery {
                    message: &message,
                    options: SubscriptionOptions::new(qos),
                    subscription_id: (choice & 64 > 0).then_some(9),
                    is_retained: choice & 128 > 0,
                    origin: None,
                };
                self.session.deliver(self.now, &delivery);
            }
            3 => {
                let settlements = [
                    Settlement::Done,
                    Settlement::Busy,
                    Settlement::QuotaExceeded,
                    Settlement::Unknown,
                ];
                if let Some(ticket) = self.broker.tickets.pop() {
                    let settlement = settlements[usize::from(choice / 8) % settlements.len()];
                    self.session.settle(ticket, settlement);
                }
            }
            4 | 5 if self.session.is_persistent() => {
                self.broker.enqueue(qos, usize::from(choice));
                self.session.inbox_ready(self.now, &mut self.broker);
            }
            6 => {
                self.now = self.now + Duration::from_millis(u64::from(choice) * 10);
                self.session.tick(self.now, &mut self.broker);
            }
            _ => {}
        }
    }

    /// Reads as the client would.
    fn read(&mut self) {
        let mut bytes = Vec::new();
        let output = self.session.output();
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let filled = output.gather(&mut slices);
            let before = bytes.len();
            slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
            let count = bytes.len() - before;
            assert!(count > 0, "what is to be written can be had");
            output.advance(count);
        }
        let decoder = Decoder::client(self.session.version(), u32::MAX);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match decoder.decode(rest) {
                Ok(Decoded::Packet { packet, length }) => {
                    self.see(&packet, length);
                    rest = &rest[length..];
                }
                other => panic!("no packet was written: {other:?} in {rest:02x?}"),
            }
        }
    }

    fn see(&mut self, packet: &Packet<'_>, length: usize) {
        assert!(!self.is_over, "{packet:?} after the last word");
        // [MQTT-3.1.2-24]
        let size_max = self.session.peer.packet_size_max;
        assert!(length <= size_max as usize, "{length} bytes for a client of {size_max}");
        match packet {
            Packet::Connack(connack) => {
                assert!(!self.has_connack, "one CONNACK");
                self.has_connack = true;
                self.is_over = connack.reason != ReasonCode::Success;
            }
            Packet::Disconnect(_) => {
                assert!(self.has_connack, "DISCONNECT to a client that was let in");
                assert_eq!(self.session.version(), ProtocolVersion::V5, "[MQTT-3.14] of a server");
                self.is_over = true;
            }
            Packet::Auth(_) => assert_eq!(self.session.version(), ProtocolVersion::V5),
            // [MQTT-3.2.0-1]
            _ => assert!(self.has_connack, "{packet:?} before CONNACK"),
        }
    }

    fn finish(mut self) {
        let ending = self.session.end(Farewell::PeerClosed);
        self.read();
        assert!(ending.will.is_none() || ending.was_live, "a will of who was let in");
        assert!(!ending.was_live || self.has_connack);
        let after = self.session.receive(self.now, &[0xC0, 0], None, &mut self.broker);
        assert_eq!((after.consumed, after.next), (0, Next::End), "nothing is taken any more");
        assert!(self.session.output().is_empty(), "nothing is written any more");
    }
}

fn limits() -> TenantSettings {
    TenantSettings {
        receiving_maximum: 4,
        session_inbox_size: 5,
        max_topic_alias: 3,
        max_topic_filters_per_sub: 3,
        max_user_payload_bytes: 200,
        resend_timeout_seconds: 2,
        adaptive_send_window: true,
        ..TenantSettings::default()
    }
}

/// A message of another client.
fn stored(qos: Qos, length: usize) -> StoredMessage {
    StoredMessage {
        topic: "a/b".into(),
        payload: Bytes::from(vec![b'x'; length]),
        properties: Box::default(),
        qos,
        retain: length.is_multiple_of(2),
        publisher: PublisherId(77),
        accepted: Instant::from_millis(1_000),
        deadline: length.is_multiple_of(5).then(|| Instant::from_millis(12_000)),
    }
}

struct ScriptedBroker {
    script: Script,
    tickets: Vec<Ticket>,
    sequence: u64,
    queue: Vec<Entry>,
}

impl ScriptedBroker {
    fn enqueue(&mut self, qos: Qos, length: usize) {
        self.sequence += u64::from(qos > Qos::AtMostOnce || self.sequence == 0);
        self.queue.push(Entry {
            sequence: Sequence(self.sequence),
            qos,
            retain: false,
            is_received: false,
            subscription_id: None,
            message: Arc::new(stored(qos, length)),
        });
    }

    fn claim(&mut self) -> Result<(), StaleClaim> {
        if self.script.next() == 0xfe { Err(StaleClaim) } else { Ok(()) }
    }
}

impl Broker for ScriptedBroker {
    fn publish(
        &mut self,
        message: &Message<'_>,
        ticket: Ticket,
        exchange: Option<PacketId>,
    ) -> Published {
        assert!(exchange.is_none() || message.qos == Qos::ExactlyOnce, "others have no exchange");
        assert!(message.payload.len() <= 200, "larger than the tenant allows");
        // The topic is checked by the broker; only an older client's may be empty.
        if let Err(error) = TopicName::parse(message.topic, &TopicLimits::default()) {
            return Published::InvalidTopic(error);
        }
        match self.script.next() % 16 {
            9 => {
                self.tickets.push(ticket);
                Published::Pending { parts: 1, is_matched: true }
            }
            10 => Published::Busy,
            11 => Published::QuotaExceeded,
            12 => Published::InvalidTopic(ratatosk_topic::TopicError::Empty),
            13 => Published::NotPermitted,
            14 => Published::PermissionError,
            15 => Published::Later,
            // The same under a ticket that comes in two parts.
            8 => {
                self.tickets.extend([ticket, ticket]);
                Published::Pending { parts: 2, is_matched: false }
            }
            7 => Published::Unknown,
            other => Published::Handed { is_matched: other % 2 == 0 },
        }
    }

    fn permits_subscribe(&mut self, _: TopicFilter<'_>, _: Qos) -> Permit {
        match self.script.next() % 8 {
            5 => Permit::Denied,
            6 => Permit::Error,
            7 => Permit::Later,
            _ => Permit::Allowed,
        }
    }

    fn permits_unsubscribe(&mut self, filter: TopicFilter<'_>) -> Permit {
        self.permits_subscribe(filter, Qos::AtMostOnce)
    }

    fn subscribe(
        &mut self,
        _: usize,
        _: TopicFilter<'_>,
        _: SubscriptionOptions,
        _: Option<u32>,
    ) -> Subscribed {
        match self.script.next() % 8 {
            5 => Subscribed::TooManyFilters,
            6 => Subscribed::GroupFull,
            7 => Subscribed::Busy,
            4 => Subscribed::Later { by: Instant::from_nanos(u64::MAX) },
            _ => Subscribed::Granted,
        }
    }

    fn unsubscribe(&mut self, _: TopicFilter<'_>) -> Unsubscribed {
        match self.script.next() % 8 {
            5 => Unsubscribed::NotFound,
            6 => Unsubscribed::Busy,
            _ => Unsubscribed::Removed,
        }
    }

    fn fetch(
        &mut self,
        after: Sequence,
        budget: FetchBudget,
        entries: &mut Vec<Entry>,
    ) -> Result<(), StaleClaim> {
        self.claim()?;
        let mut taken = 0;
        self.queue.retain(|entry| {
            let is_plain = entry.qos == Qos::AtMostOnce;
            let is_next = if is_plain { entry.sequence >= after } else { entry.sequence > after };
            if !is_next || taken >= budget.messages_max {
                return true;
            }
            taken += 1;
            entries.push(entry.clone());
            !is_plain
        });
        Ok(())
    }

    fn commit(&mut self, sequence: Sequence) -> Result<(), StaleClaim> {
        self.claim()?;
        let is_mine = |entry: &Entry| entry.sequence == sequence && entry.qos > Qos::AtMostOnce;
        assert!(self.queue.iter().any(is_mine), "{sequence:?} is committed once");
        self.queue.retain(|entry| !is_mine(entry));
        Ok(())
    }

    fn received(&mut self, sequence: Sequence) -> Result<(), StaleClaim> {
        self.claim()?;
        for entry in &mut self.queue {
            entry.is_received |= entry.sequence == sequence && entry.qos == Qos::ExactlyOnce;
        }
        Ok(())
    }

    fn released(&mut self, _: PacketId) -> Result<(), StaleClaim> {
        self.claim()
    }

    fn assign_client_id(&mut self) -> String {
        "assigned-1".to_owned()
    }

    fn report(&mut self, _: Report<'_>) {}
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// SEC-001: what the fuzzer found interesting, again.
    #[test]
    fn stored_streams_neither_panic_nor_write_what_is_no_packet() {
        let corpus =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus/session_stream");
        let entries = std::fs::read_dir(corpus).expect("the corpus is part of the repository");
        let count = entries
            .map(|entry| {
                stream_any(&std::fs::read(entry.expect("readable").path()).expect("readable"));
            })
            .count();
        assert!(count >= 6, "{count} seeds");
    }
}
