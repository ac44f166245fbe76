//! A CONNECT to be sent.

use std::{
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
};

use ratatosk_codec::{
    Connect, ConnectProperties, Packet, ProtocolVersion, Qos, ReasonCode, Will, WillProperties,
};

use crate::{Client, Event, Welcome};

/// A will to be.
#[derive(Clone, Debug)]
pub struct Testament {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its QoS.
    pub qos: Qos,
    /// Whether it is to be retained.
    pub retain: bool,
    /// Seconds before it is published.
    pub delay_s: Option<u32>,
}

impl Testament {
    /// A will of QoS 1 that is published at once.
    pub fn new(topic: &str, payload: &str) -> Testament {
        Testament {
            topic: topic.to_owned(),
            payload: payload.into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            delay_s: None,
        }
    }
}

/// Collects what a CONNECT says, then connects.
#[derive(Clone, Debug)]
pub struct Connector {
    address: SocketAddr,
    version: ProtocolVersion,
    client_id: String,
    is_clean: bool,
    keep_alive_s: u16,
    username: Option<String>,
    password: Option<Vec<u8>>,
    will: Option<Testament>,
    session_expiry_s: Option<u32>,
    receive_maximum: Option<u16>,
    packet_size_max: Option<u32>,
    method: Option<String>,
}

impl Connector {
    /// A client with nothing but its identifier; it starts clean.
    pub fn new(address: SocketAddr, version: ProtocolVersion, client_id: &str) -> Connector {
        Connector {
            address,
            version,
            client_id: client_id.to_owned(),
            is_clean: true,
            keep_alive_s: 0,
            username: None,
            password: None,
            will: None,
            session_expiry_s: None,
            receive_maximum: None,
            packet_size_max: None,
            method: None,
        }
    }

    /// Another listener.
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Takes up the session that is there, and leaves one behind: in MQTT 5 for an hour.
    pub fn persistent(mut self) -> Self {
        self.is_clean = false;
        self.session_expiry_s = self.version.is_v5().then_some(3600);
        self
    }

    /// Starts clean, whatever else was said.
    pub fn clean(mut self) -> Self {
        self.is_clean = true;
        self
    }

    /// Session expiry interval, MQTT 5.
    pub fn expiry(mut self, seconds: u32) -> Self {
        self.session_expiry_s = Some(seconds);
        self
    }

    /// No session expiry interval, whatever was said.
    pub fn no_expiry(mut self) -> Self {
        self.session_expiry_s = None;
        self
    }

    /// Keep alive.
    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive_s = seconds;
        self
    }

    /// User name.
    pub fn user(mut self, name: &str) -> Self {
        self.username = Some(name.to_owned());
        self
    }

    /// Password.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Will.
    pub fn will(mut self, will: Testament) -> Self {
        self.will = Some(will);
        self
    }

    /// Receive Maximum, MQTT 5.
    pub fn receive_maximum(mut self, count: u16) -> Self {
        self.receive_maximum = Some(count);
        self
    }

    /// Maximum Packet Size, MQTT 5.
    pub fn packet_size_max(mut self, bytes: u32) -> Self {
        self.packet_size_max = Some(bytes);
        self
    }

    /// Authentication method, MQTT 5.
    pub fn method(mut self, name: &str) -> Self {
        self.method = Some(name.to_owned());
        self
    }

    /// Connects and sends CONNECT; nothing is waited for.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn open(&self) -> Client {
        self.open_with(|_| ())
    }

    /// As [`Connector::open`], with something else in CONNECT than the connector knows of.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn open_with(&self, change: impl FnOnce(&mut Connect<'_>)) -> Client {
        self.open_raw(&self.encoded(change))
    }

    /// Connects and sends bytes that are to be a CONNECT.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn open_raw(&self, bytes: &[u8]) -> Client {
        let mut client = Client::open(self.address, self.version);
        client.send_raw(bytes);
        client
    }

    /// The bytes of its CONNECT.
    pub fn encoded(&self, change: impl FnOnce(&mut Connect<'_>)) -> Vec<u8> {
        let will = self.will.as_ref().map(|will| Will {
            qos: will.qos,
            retain: will.retain,
            topic: &will.topic,
            payload: &will.payload,
            properties: WillProperties { delay_s: will.delay_s, ..WillProperties::default() },
        });
        let mut connect = Connect {
            keep_alive_s: self.keep_alive_s,
            will,
            username: self.username.as_deref(),
            password: self.password.as_deref(),
            properties: ConnectProperties {
                session_expiry_s: self.session_expiry_s,
                receive_maximum: self.receive_maximum.and_then(NonZeroU16::new),
                packet_size_max: self.packet_size_max.and_then(NonZeroU32::new),
                authentication_method: self.method.as_deref(),
                ..ConnectProperties::default()
            },
            ..Connect::new(self.version, &self.client_id, self.is_clean)
        };
        change(&mut connect);
        let mut bytes = Vec::new();
        ratatosk_codec::encode(&Packet::Connect(connect), self.version, &mut bytes);
        bytes
    }

    /// Connects; the broker must let the client in.
    ///
    /// # Panics
    /// If it does not.
    pub fn connect(&self) -> Client {
        self.welcome().0
    }

    /// Connects; the broker must let the client in. What it says to it comes second.
    ///
    /// # Panics
    /// If it does not.
    pub fn welcome(&self) -> (Client, Welcome) {
        let mut client = self.open();
        let welcome = client.connack();
        assert_eq!(welcome.reason, ReasonCode::Success, "{self:?} is let in");
        (client, welcome)
    }

    /// Connects; the broker must refuse the client, with this code, and close.
    ///
    /// # Panics
    /// If it does not.
    pub fn refused(&self) -> ReasonCode {
        let mut client = self.open();
        let Event::Connack(welcome) = client.event() else { panic!("{self:?} gets a CONNACK") };
        assert!(!welcome.is_present, "a refusal has no session");
        client.expect_close();
        welcome.reason
    }
}
