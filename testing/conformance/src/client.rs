//! An MQTT client on a blocking socket.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use ratatosk_codec::{
    Ack, Decoded, Decoder, Disconnect, Packet, PacketId, PacketType, ProtocolVersion, Publish, Qos,
    ReasonCode, Subscribe, SubscribeFiltersBuilder, SubscriptionOptions, Unsubscribe,
    UnsubscribeFiltersBuilder,
};

use crate::{Event, Message, Welcome};

/// How long a client waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    version: ProtocolVersion,
    decoder: Decoder,
    read: Vec<u8>,
    /// What came while something else was waited for.
    waiting: VecDeque<Event>,
    last_id: u16,
}

impl Client {
    pub(crate) fn open(address: SocketAddr, version: ProtocolVersion) -> Client {
        let stream = TcpStream::connect(address).expect("the broker listens");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        let decoder = Decoder::client(version, u32::MAX);
        let (read, waiting) = (Vec::new(), VecDeque::new());
        Client { stream, version, decoder, read, waiting, last_id: 0 }
    }

    /// A connection on which nothing was said yet.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn silent(address: SocketAddr, version: ProtocolVersion) -> Client {
        Client::open(address, version)
    }

    /// The version that it speaks.
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// A second handle on the socket, for a thread that writes while another reads.
    ///
    /// # Panics
    /// If the system gives none.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("a second handle")
    }

    /// Sends a packet.
    pub fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        ratatosk_codec::encode(packet, self.version, &mut bytes);
        self.send_raw(&bytes);
    }

    /// Sends bytes. What a peer that closed does not take is lost, as on any network: that it
    /// closed is seen by reading.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next packet identifier.
    pub fn next_id(&mut self) -> PacketId {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        PacketId::new(self.last_id).expect("never zero")
    }

    /// The next event.
    ///
    /// # Panics
    /// If none comes in time, or if the bytes are no packets.
    pub fn event(&mut self) -> Event {
        match self.waiting.pop_front() {
            Some(event) => event,
            None => self.read_event(),
        }
    }

    /// The first event for which `want` has a value; what comes before it is kept.
    ///
    /// # Panics
    /// If none comes in time.
    pub fn find<T>(&mut self, want: impl Fn(&Event) -> Option<T>) -> T {
        if let Some(index) = self.waiting.iter().position(|event| want(event).is_some()) {
            let event = self.waiting.remove(index).expect("just found");
            return want(&event).expect("just found");
        }
        loop {
            let event = self.read_event();
            if let Some(found) = want(&event) {
                return found;
            }
            assert_ne!(event, Event::Closed, "closed after {:?}", self.waiting);
            self.waiting.push_back(event);
        }
    }

    /// Whether something has come that was not looked at yet. What comes later is not waited for.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn has_more(&mut self) -> bool {
        if !self.waiting.is_empty() || !self.read.is_empty() {
            return true;
        }
        self.stream.set_nonblocking(true).expect("a socket option");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("a socket option");
        peeked.is_ok()
    }

    /// Shows the next packet with all that it says.
    ///
    /// # Panics
    /// If none comes in time.
    pub fn look<T>(&mut self, see: impl FnOnce(&Packet<'_>) -> T) -> T {
        assert!(self.waiting.is_empty(), "passed over: {:?}", self.waiting);
        self.read_packet(see).expect("a packet comes")
    }

    fn read_event(&mut self) -> Event {
        self.read_packet(Event::of).unwrap_or(Event::Closed)
    }

    /// What `see` makes of the next packet; `None` if the broker closed.
    fn read_packet<T>(&mut self, see: impl FnOnce(&Packet<'_>) -> T) -> Option<T> {
        loop {
            match self.decoder.decode(&self.read) {
                Ok(Decoded::Packet { packet, length }) => {
                    let seen = see(&packet);
                    self.read.drain(..length);
                    return Some(seen);
                }
                Ok(Decoded::Incomplete { .. }) => {}
                Err(error) => panic!("the broker sent what is no packet: {error}"),
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.read.extend_from_slice(&buffer[..count]),
                Err(error) if is_gone(error.kind()) => return None,
                Err(error) => panic!("nothing came within {PATIENCE:?}: {error}"),
            }
        }
    }

    /// CONNACK, which comes next.
    ///
    /// # Panics
    /// If something else comes.
    pub fn connack(&mut self) -> Welcome {
        match self.event() {
            Event::Connack(welcome) => welcome,
            other => panic!("not a CONNACK: {other:?}"),
        }
    }

    /// The end of the connection, which comes next.
    ///
    /// # Panics
    /// If something else comes.
    pub fn expect_close(&mut self) {
        assert_eq!(self.event(), Event::Closed);
    }

    /// The farewell for a breach: MQTT 5 is told the code, MQTT 3 is just closed.
    ///
    /// # Panics
    /// If something else comes.
    pub fn expect_farewell(&mut self, code: ReasonCode) {
        if self.version.is_v5() {
            assert_eq!(self.event(), Event::Disconnect(code));
        }
        self.expect_close();
    }

    /// The next event is a PUBLISH; it is acknowledged as its QoS asks.
    ///
    /// # Panics
    /// If something else comes.
    pub fn message(&mut self) -> Message {
        let message = self.unacknowledged();
        self.acknowledge(&message);
        message
    }

    /// The next event is a PUBLISH; it is not acknowledged.
    ///
    /// # Panics
    /// If something else comes.
    pub fn unacknowledged(&mut self) -> Message {
        match self.event() {
            Event::Publish(message) => message,
            other => panic!("not a PUBLISH: {other:?}"),
        }
    }

    /// Acknowledges a message as its QoS asks, to the end.
    pub fn acknowledge(&mut self, message: &Message) {
        match message.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.ack(PacketType::Puback, message.packet_id),
            Qos::ExactlyOnce => {
                self.ack(PacketType::Pubrec, message.packet_id);
                self.find_ack(PacketType::Pubrel, message.packet_id);
                self.ack(PacketType::Pubcomp, message.packet_id);
            }
        }
    }

    /// Sends PUBACK, PUBREC, PUBREL or PUBCOMP.
    ///
    /// # Panics
    /// If it is none of them.
    pub fn ack(&mut self, kind: PacketType, packet_id: u16) {
        let packet_id = PacketId::new(packet_id).expect("never zero");
        let ack = Ack::new(packet_id, ReasonCode::Success);
        self.send(&match kind {
            PacketType::Puback => Packet::Puback(ack),
            PacketType::Pubrec => Packet::Pubrec(ack),
            PacketType::Pubrel => Packet::Pubrel(ack),
            PacketType::Pubcomp => Packet::Pubcomp(ack),
            other => panic!("{} is no acknowledgement", other.name()),
        });
    }

    /// Waits for an acknowledgement and gives its code.
    pub fn find_ack(&mut self, kind: PacketType, packet_id: u16) -> ReasonCode {
        self.find(|event| match event {
            Event::Ack(found, id, code) if (*found, *id) == (kind, packet_id) => Some(*code),
            _ => None,
        })
    }

    /// Sends a message; nothing is waited for.
    pub fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: Qos) -> u16 {
        self.publish_as(Publish { qos, ..Publish::new(topic, payload.as_ref()) })
    }

    /// Sends a message, with the next packet identifier if its QoS needs one and it has none.
    pub fn publish_as(&mut self, publish: Publish<'_>) -> u16 {
        let packet_id = match (publish.qos, publish.packet_id) {
            (Qos::AtMostOnce, _) => None,
            (_, Some(known)) => Some(known),
            _ => Some(self.next_id()),
        };
        self.send(&Packet::Publish(Publish { packet_id, ..publish }));
        packet_id.map_or(0, PacketId::value)
    }

    /// Sends a message to be retained.
    pub fn retain(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: Qos) {
        let publish = Publish { qos, retain: true, ..Publish::new(topic, payload.as_ref()) };
        let id = self.publish_as(publish);
        self.finish(qos, id);
    }

    /// Sends a message and goes through its acknowledgements; gives the first one's code.
    pub fn deliver(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: Qos) -> ReasonCode {
        let id = self.publish(topic, payload, qos);
        self.finish(qos, id)
    }

    /// Goes through the acknowledgements of a message; gives the first one's code.
    pub fn finish(&mut self, qos: Qos, id: u16) -> ReasonCode {
        match qos {
            Qos::AtMostOnce => ReasonCode::Success,
            Qos::AtLeastOnce => self.find_ack(PacketType::Puback, id),
            Qos::ExactlyOnce => {
                let code = self.find_ack(PacketType::Pubrec, id);
                if !code.is_error() {
                    self.ack(PacketType::Pubrel, id);
                    assert_eq!(self.find_ack(PacketType::Pubcomp, id), ReasonCode::Success);
                }
                code
            }
        }
    }

    /// Subscribes and gives the code.
    pub fn subscribe(&mut self, filter: &str, qos: Qos) -> ReasonCode {
        self.subscribe_as(&[(filter, SubscriptionOptions::new(qos))], None)[0]
    }

    /// Subscribes and gives the codes.
    pub fn subscribe_as(
        &mut self,
        filters: &[(&str, SubscriptionOptions)],
        subscription_id: Option<u32>,
    ) -> Vec<ReasonCode> {
        let id = self.begin_subscribe(filters, subscription_id);
        self.find(|event| match event {
            Event::Suback(found, codes) if *found == id => Some(codes.clone()),
            _ => None,
        })
    }

    /// Sends SUBSCRIBE; nothing is waited for.
    ///
    /// # Panics
    /// If a filter is no text for a packet.
    pub fn begin_subscribe(
        &mut self,
        filters: &[(&str, SubscriptionOptions)],
        subscription_id: Option<u32>,
    ) -> u16 {
        let mut builder = SubscribeFiltersBuilder::new();
        for (filter, options) in filters {
            builder.push(filter, *options).expect("a filter that fits");
        }
        let packet_id = self.next_id();
        let subscribe = Subscribe { subscription_id, ..Subscribe::new(packet_id, builder.view()) };
        self.send(&Packet::Subscribe(subscribe));
        packet_id.value()
    }

    /// Unsubscribes and gives the codes; MQTT 3 has none.
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<ReasonCode> {
        let id = self.begin_unsubscribe(filters);
        self.find(|event| match event {
            Event::Unsuback(found, codes) if *found == id => Some(codes.clone()),
            _ => None,
        })
    }

    /// Sends UNSUBSCRIBE; nothing is waited for.
    ///
    /// # Panics
    /// If a filter is no text for a packet.
    pub fn begin_unsubscribe(&mut self, filters: &[&str]) -> u16 {
        let mut builder = UnsubscribeFiltersBuilder::new();
        for filter in filters {
            builder.push(filter).expect("a filter that fits");
        }
        let packet_id = self.next_id();
        self.send(&Packet::Unsubscribe(Unsubscribe::new(packet_id, builder.view())));
        packet_id.value()
    }

    /// Waits until all that was sent before is handled.
    pub fn ping(&mut self) {
        self.send(&Packet::Pingreq);
        self.find(|event| (*event == Event::Pingresp).then_some(()));
    }

    /// Says good-bye with this code, and waits until the broker closed.
    pub fn disconnect(mut self, reason: ReasonCode) {
        self.send(&Packet::Disconnect(Disconnect::new(reason)));
        while self.event() != Event::Closed {}
    }

    /// Says no more, and reads on.
    ///
    /// # Panics
    /// If the system does not close the writing half.
    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the writing half closes");
    }

    /// Goes without a word, as a client that crashed, and waits until the broker noticed.
    ///
    /// # Panics
    /// If the system does not close the writing half.
    pub fn vanish(mut self) {
        self.half_close();
        while self.event() != Event::Closed {}
    }
}

fn is_gone(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe
    )
}
