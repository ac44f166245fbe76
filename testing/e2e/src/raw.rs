//! A client that says exactly the bytes it is told to: what no library would send, or would hide.
//!
//! Its encoder is its own, so that it shares no mistake with the broker's.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const PATIENCE: Duration = Duration::from_secs(20);
const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;

/// A CONNECT packet with a clean session.
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    /// 4 or 5.
    pub version: u8,
    /// The client identifier.
    pub client_id: &'a str,
    /// User name and password.
    pub credentials: Option<(&'a str, &'a str)>,
}

impl Connect<'_> {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let flags = if self.credentials.is_some() { 0b1100_0010 } else { 0b0000_0010 };
        let mut body = text("MQTT");
        body.extend([self.version, flags, 0, 60]);
        if self.version == 5 {
            body.push(0);
        }
        body.extend(text(self.client_id));
        if let Some((user, password)) = self.credentials {
            body.extend(text(user));
            body.extend(text(password));
        }
        packet(0x10, &body)
    }
}

/// A packet as it came: the first byte, and what follows the length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Type and flags.
    pub head: u8,
    /// The rest.
    pub body: Vec<u8>,
}

/// What a connected client asks for, in one version of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// 4 or 5.
    pub version: u8,
}

impl Request {
    /// SUBSCRIBE to one filter at QoS 1, with packet identifier 1.
    #[must_use]
    pub fn subscribe(self, filter: &str) -> Vec<u8> {
        let mut body = vec![0, 1];
        body.extend(self.no_properties());
        body.extend(text(filter));
        body.push(1);
        packet(0x82, &body)
    }

    /// PUBLISH; with packet identifier 7 unless QoS is 0.
    #[must_use]
    pub fn publish(self, topic: &str, payload: &str, qos: u8) -> Vec<u8> {
        let mut body = text(topic);
        if qos > 0 {
            body.extend([0, 7]);
        }
        body.extend(self.no_properties());
        body.extend(payload.as_bytes());
        packet(0x30 | qos << 1, &body)
    }

    fn no_properties(self) -> &'static [u8] {
        if self.version == 5 { &[0] } else { &[] }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    /// MQTT is in WebSocket frames.
    is_websocket: bool,
    /// MQTT bytes that came and are not a whole packet yet.
    received: Vec<u8>,
}

impl Raw {
    /// Connects to a port of the loopback.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn open(port: u16) -> Result<Raw> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Raw { stream, is_websocket: false, received: Vec::new() })
    }

    /// Connects and sends CONNECT; returns the connection and the CONNACK.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn connect(port: u16, connect: &Connect<'_>) -> Result<(Raw, Packet)> {
        let mut raw = Raw::open(port)?;
        raw.write(&connect.encode())?;
        let connack = raw.packet()?;
        Ok((raw, connack))
    }

    /// Asks for a WebSocket at a path; returns the status line. From 101 on, [`Raw::packet`] reads
    /// from frames.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn upgrade(&mut self, path: &str) -> Result<String> {
        self.upgrade_with(path, "")
    }

    /// As [`Raw::upgrade`], with more header lines, each with its line end.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn upgrade_with(&mut self, path: &str, headers: &str) -> Result<String> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        self.write(request.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).context("the answer to the upgrade")?;
            head.push(byte[0]);
            ensure!(head.len() < HTTP_HEAD_BYTES_MAX, "the answer has no end");
        }
        let head = String::from_utf8(head)?;
        let status = head.lines().next().unwrap_or_default().to_owned();
        self.is_websocket = status.contains(" 101 ");
        Ok(status)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("sending")
    }

    /// Sends a masked frame: its first byte, its payload.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn frame(&mut self, first: u8, payload: &[u8]) -> Result<()> {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126);
        let length = length.context("frames of this client are small")?;
        let mut frame = vec![first, 0x80 | length];
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.write(&frame)
    }

    /// Reads a frame: its first byte, its payload.
    ///
    /// # Errors
    /// If none comes.
    pub fn read_frame(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).context("reading a frame")?;
        let length = match head[1] {
            126 => {
                let mut wide = [0; 2];
                self.stream.read_exact(&mut wide)?;
                usize::from(u16::from_be_bytes(wide))
            }
            length if length < 126 => usize::from(length),
            other => bail!("a frame with the length byte {other}"),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload)?;
        Ok((head[0], payload))
    }

    /// The next packet.
    ///
    /// # Errors
    /// If the connection ends, or nothing comes within 20 s.
    pub fn packet(&mut self) -> Result<Packet> {
        self.try_packet()?.context("the connection ended")
    }

    /// The next packet, or `None` when the broker has closed the connection.
    ///
    /// # Errors
    /// If nothing comes within 20 s.
    pub fn try_packet(&mut self) -> Result<Option<Packet>> {
        loop {
            if let Some((packet, length)) = split(&self.received)? {
                self.received.drain(..length);
                return Ok(Some(packet));
            }
            if self.is_websocket {
                let (_, payload) = self.read_frame()?;
                self.received.extend(payload);
                continue;
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) if self.received.is_empty() => return Ok(None),
                Ok(0) => bail!("the connection ended within a packet: {:?}", self.received),
                Ok(count) => self.received.extend(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error).context("waiting for a packet"),
            }
        }
    }

    /// Reads until the broker closes; returns what came.
    ///
    /// # Errors
    /// If it is still open after 20 s of silence.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.received);
        match self.stream.read_to_end(&mut rest) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                Err(error).context("the connection is still open")
            }
            _ => Ok(rest),
        }
    }
}

fn split(bytes: &[u8]) -> Result<Option<(Packet, usize)>> {
    let (mut length, mut at) = (0, 1);
    loop {
        let Some(byte) = bytes.get(at) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        ensure!(at <= 4, "a packet whose length has no end");
    }
    let Some(body) = bytes.get(at..at + length) else { return Ok(None) };
    Ok(Some((Packet { head: bytes[0], body: body.to_vec() }, at + length)))
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("texts of this client are short");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    let mut length = body.len();
    loop {
        let digit = u8::try_from(length & 0x7f).expect("seven bits");
        length >>= 7;
        bytes.push(if length > 0 { digit | 0x80 } else { digit });
        if length == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_cut_where_they_end() {
        let bytes = [packet(0x30, &[1; 200]), vec![0xd0, 0, 0x40]].concat();
        let (first, length) = split(&bytes).expect("valid").expect("whole");
        assert_eq!((first.head, first.body.len(), length), (0x30, 200, 203));
        let (second, length) = split(&bytes[203..]).expect("valid").expect("whole");
        assert_eq!((second.head, second.body.len(), length), (0xd0, 0, 2));
        assert_eq!(split(&bytes[205..]).expect("valid"), None);
        assert!(split(&[0x30, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
    }

    #[test]
    fn a_connect_is_that_of_the_specification() {
        let connect = Connect { version: 4, client_id: "a", credentials: Some(("u", "p")) };
        let expected = b"\x10\x13\0\x04MQTT\x04\xc2\0\x3c\0\x01a\0\x01u\0\x01p";
        assert_eq!(connect.encode(), expected);
    }
}
