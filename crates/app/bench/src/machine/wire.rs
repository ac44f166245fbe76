//! Control packets, the few that a generator and its forwarder need.
//!
//! Kept apart and minimal: everything here is off the hot path. PUBLISH is in `template` (out) and
//! `scan` (in). Topics, client ids and credentials come from the command line and are cut at 65,535
//! bytes by refusing them when the plan is made.

use crate::machine::scan::{Frame, Malformed, variable_integer};

/// CONNECT, the first packet of a client.
pub(crate) const CONNECT: u8 = 1;
/// CONNACK, the broker's answer to CONNECT.
pub(crate) const CONNACK: u8 = 2;
/// PUBLISH, an application message.
pub(crate) const PUBLISH: u8 = 3;
/// PUBACK ends a flow of QoS 1.
pub(crate) const PUBACK: u8 = 4;
/// PUBREC, the first answer of QoS 2.
pub(crate) const PUBREC: u8 = 5;
/// PUBREL, the sender's release of QoS 2.
pub(crate) const PUBREL: u8 = 6;
/// PUBCOMP ends a flow of QoS 2.
pub(crate) const PUBCOMP: u8 = 7;
/// SUBSCRIBE.
pub(crate) const SUBSCRIBE: u8 = 8;
/// SUBACK, one code a filter.
pub(crate) const SUBACK: u8 = 9;
/// PINGREQ.
pub(crate) const PINGREQ: u8 = 12;
/// PINGRESP.
pub(crate) const PINGRESP: u8 = 13;
/// DISCONNECT.
pub(crate) const DISCONNECT: u8 = 14;

/// PINGREQ as bytes.
pub(crate) const PINGREQ_BYTES: [u8; 2] = [PINGREQ << 4, 0];
/// PINGRESP as bytes.
pub(crate) const PINGRESP_BYTES: [u8; 2] = [PINGRESP << 4, 0];
/// A normal DISCONNECT as bytes, in both versions.
pub(crate) const DISCONNECT_BYTES: [u8; 2] = [DISCONNECT << 4, 0];

/// The protocol version that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 3.1.1
    V311,
    /// MQTT 5.0
    V5,
}

/// What a CONNECT says.
#[derive(Debug, Clone)]
pub(crate) struct Connect<'a> {
    pub(crate) version: Version,
    pub(crate) client_id: &'a str,
    /// Clean session (3.1.1) or clean start (5).
    pub(crate) clean: bool,
    /// How long the session outlives the connection; only in 5.
    pub(crate) expiry_seconds: u32,
    pub(crate) username: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
}

/// What matters of a CONNACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connack {
    pub(crate) session_present: bool,
    /// 0 is success; the meaning of the others depends on the version.
    pub(crate) code: u8,
    /// QoS 1 and 2 messages that the broker takes unacknowledged.
    pub(crate) receive_maximum: u16,
    /// The highest QoS that the broker supports.
    pub(crate) qos_max: u8,
    /// Keep-alive that the broker imposes, in seconds.
    pub(crate) keep_alive: Option<u16>,
}

/// How long a persistent session of MQTT 5 outlives its connection.
pub(crate) const SESSION_EXPIRY_SECONDS: u32 = 24 * 3600;

/// The CONNECT packet. No keep-alive: runs are short and a subscriber that only listens need not ping.
pub(crate) fn connect(connect: &Connect<'_>) -> Option<Vec<u8>> {
    let mut flags = u8::from(connect.clean) << 1;
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T'];
    body.push(if connect.version == Version::V5 { 5 } else { 4 });
    flags |= u8::from(connect.username.is_some()) << 7;
    // A password without a user name is forbidden in 3.1.1. [MQTT3-3.1.2-22]
    let password =
        connect.password.filter(|_| connect.username.is_some() || connect.version == Version::V5);
    flags |= u8::from(password.is_some()) << 6;
    body.push(flags);
    body.extend_from_slice(&[0, 0]);
    if connect.version == Version::V5 {
        if connect.expiry_seconds == 0 {
            body.push(0);
        } else {
            body.extend_from_slice(&[5, 0x11]);
            body.extend_from_slice(&connect.expiry_seconds.to_be_bytes());
        }
    }
    put_string(&mut body, connect.client_id)?;
    for field in [connect.username, password].into_iter().flatten() {
        put_string(&mut body, field)?;
    }
    packet(CONNECT << 4, &body)
}

/// A SUBSCRIBE packet with all of `filters` at one QoS.
pub(crate) fn subscribe(
    version: Version,
    packet_id: u16,
    filters: &[String],
    qos: u8,
) -> Option<Vec<u8>> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        put_string(&mut body, filter)?;
        body.push(qos);
    }
    packet(SUBSCRIBE << 4 | 2, &body)
}

/// A four-byte acknowledgement: PUBACK, PUBREC, PUBREL or PUBCOMP of success.
#[inline]
pub(crate) fn acknowledgement(packet_type: u8, packet_id: u16) -> [u8; 4] {
    let [high, low] = packet_id.to_be_bytes();
    // PUBREL has its flags fixed at 2. [MQTT-3.6.1-1]
    let flags = if packet_type == PUBREL { 2 } else { 0 };
    [packet_type << 4 | flags, 2, high, low]
}

/// Packet id and reason code (0 if absent) of an acknowledgement.
#[inline]
pub(crate) fn read_acknowledgement(frame: Frame<'_>) -> Result<(u16, u8), Malformed> {
    let (id, rest) = frame
        .body
        .split_first_chunk::<2>()
        .ok_or(Malformed::Truncated { packet_type: frame.packet_type() })?;
    Ok((u16::from_be_bytes(*id), rest.first().copied().unwrap_or(0)))
}

/// Reads a CONNACK.
pub(crate) fn read_connack(frame: Frame<'_>, version: Version) -> Result<Connack, Malformed> {
    let truncated = Malformed::Truncated { packet_type: CONNACK };
    let (head, rest) = frame.body.split_first_chunk::<2>().ok_or(truncated)?;
    let mut connack = Connack {
        session_present: head[0] & 1 == 1,
        code: head[1],
        receive_maximum: u16::MAX,
        qos_max: 2,
        keep_alive: None,
    };
    // A broker that refuses the version may answer in the format of 3.1.1.
    if version == Version::V5 && !rest.is_empty() {
        let (length, width) = variable_integer(rest)?.ok_or(truncated)?;
        let mut properties = rest.get(width..width + length).ok_or(truncated)?;
        while let Some((&id, rest)) = properties.split_first() {
            let size = property_size(id, rest).filter(|&size| size <= rest.len());
            let (value, rest) = rest.split_at(size.ok_or(truncated)?);
            match (id, value) {
                (0x21, &[high, low]) => {
                    connack.receive_maximum = u16::from_be_bytes([high, low]);
                }
                (0x13, &[high, low]) => {
                    connack.keep_alive = Some(u16::from_be_bytes([high, low]));
                }
                (0x24, &[qos]) => connack.qos_max = qos,
                _ => {}
            }
            properties = rest;
        }
    }
    Ok(connack)
}

/// Packet id and codes of a SUBACK.
pub(crate) fn read_suback(frame: Frame<'_>, version: Version) -> Result<(u16, &[u8]), Malformed> {
    let truncated = Malformed::Truncated { packet_type: SUBACK };
    let (id, mut codes) = frame.body.split_first_chunk::<2>().ok_or(truncated)?;
    if version == Version::V5 {
        let (length, width) = variable_integer(codes)?.ok_or(truncated)?;
        codes = codes.get(width + length..).ok_or(truncated)?;
    }
    Ok((u16::from_be_bytes(*id), codes))
}

/// Bytes of the value of property `id`, `None` if there is no such property.
fn property_size(id: u8, rest: &[u8]) -> Option<usize> {
    let string = |rest: &[u8]| {
        rest.first_chunk::<2>().map(|size| 2 + usize::from(u16::from_be_bytes(*size)))
    };
    match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => Some(1),
        0x13 | 0x21 | 0x22 | 0x23 => Some(2),
        0x02 | 0x11 | 0x18 | 0x27 => Some(4),
        0x0b => variable_integer(rest).ok()?.map(|(_, width)| width),
        0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => string(rest),
        0x26 => {
            let name = string(rest)?;
            Some(name + string(rest.get(name..)?)?)
        }
        _ => None,
    }
}

/// What a CONNACK or DISCONNECT code means.
pub(crate) fn code_name(version: Version, code: u8) -> &'static str {
    match (version, code) {
        (_, 0) => "success",
        (_, 1) => "unacceptable protocol version",
        (Version::V311, 2) => "client id refused",
        (Version::V311, 3) => "server unavailable",
        (Version::V311, 4) => "bad user name or password",
        (Version::V311, 5) => "not authorized",
        (_, 0x80) => "unspecified error",
        (_, 0x81) => "malformed packet",
        (_, 0x82) => "protocol error",
        (_, 0x83) => "implementation specific error",
        (_, 0x84) => "unsupported protocol version",
        (_, 0x85) => "client id refused",
        (_, 0x86) => "bad user name or password",
        (_, 0x87) => "not authorized",
        (_, 0x88) => "server unavailable",
        (_, 0x89) => "server busy",
        (_, 0x8a) => "banned",
        (_, 0x8b) => "server shutting down",
        (_, 0x8c) => "bad authentication method",
        (_, 0x8d) => "keep alive timeout",
        (_, 0x8e) => "session taken over",
        (_, 0x8f) => "topic filter invalid",
        (_, 0x90) => "topic name invalid",
        (_, 0x93) => "receive maximum exceeded",
        (_, 0x95) => "packet too large",
        (_, 0x96) => "message rate too high",
        (_, 0x97) => "quota exceeded",
        (_, 0x98) => "administrative action",
        (_, 0x9a) => "retain not supported",
        (_, 0x9b) => "quality of service not supported",
        (_, 0x9c) => "use another server",
        (_, 0x9d) => "server moved",
        (_, 0x9e) => "shared subscriptions not supported",
        (_, 0x9f) => "connection rate exceeded",
        (_, 0xa2) => "wildcard subscriptions not supported",
        _ => "unknown code",
    }
}

/// Appends a variable byte integer; `None` if it needs more than four bytes.
pub(crate) fn put_variable_integer(out: &mut Vec<u8>, value: usize) -> Option<()> {
    if value >= 1 << 28 {
        return None;
    }
    let mut rest = value;
    loop {
        let low = u8::try_from(rest & 0x7f).ok()?;
        rest >>= 7;
        if rest == 0 {
            out.push(low);
            return Some(());
        }
        out.push(low | 0x80);
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) -> Option<()> {
    out.extend_from_slice(&u16::try_from(text.len()).ok()?.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Some(())
}

fn packet(first: u8, body: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = vec![first];
    put_variable_integer(&mut bytes, body.len())?;
    bytes.extend_from_slice(body);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::scan;

    #[test]
    fn connect_carries_identity_and_credentials() {
        let packet = connect(&Connect {
            version: Version::V311,
            client_id: "a",
            clean: true,
            expiry_seconds: 0,
            username: Some("u"),
            password: Some("p"),
        })
        .unwrap();
        assert_eq!(packet, b"\x10\x13\0\x04MQTT\x04\xc2\0\0\0\x01a\0\x01u\0\x01p");
    }

    #[test]
    fn persistent_session_of_version_five_has_an_expiry() {
        let packet = connect(&Connect {
            version: Version::V5,
            client_id: "a",
            clean: false,
            expiry_seconds: SESSION_EXPIRY_SECONDS,
            username: None,
            password: None,
        })
        .unwrap();
        assert_eq!(packet, b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\x01\x51\x80\0\x01a");
    }

    /// [MQTT-3.1.2-4]
    #[test]
    fn clean_start_of_version_five_may_keep_its_session() {
        let packet = connect(&Connect {
            version: Version::V5,
            client_id: "a",
            clean: true,
            expiry_seconds: 1,
            username: None,
            password: None,
        })
        .unwrap();
        assert_eq!(packet, b"\x10\x13\0\x04MQTT\x05\x02\0\0\x05\x11\0\0\0\x01\0\x01a");
    }

    /// [MQTT3-3.1.2-22]
    #[test]
    fn password_without_user_is_left_out_in_version_three() {
        let mut request = Connect {
            version: Version::V311,
            client_id: "",
            clean: true,
            expiry_seconds: 0,
            username: None,
            password: Some("p"),
        };
        assert_eq!(connect(&request).unwrap()[9], 0x02);
        request.version = Version::V5;
        assert_eq!(connect(&request).unwrap()[9], 0x42);
    }

    #[test]
    fn connack_properties_are_understood() {
        let bytes = b"\x20\x0f\x01\x00\x0c\x21\x00\x14\x24\x01\x1f\x00\x01x\x13\x00\x1e";
        let frame = scan::frame(bytes).unwrap().unwrap();
        let expected = Connack {
            session_present: true,
            code: 0,
            receive_maximum: 20,
            qos_max: 1,
            keep_alive: Some(30),
        };
        assert_eq!(read_connack(frame, Version::V5), Ok(expected));
    }

    #[test]
    fn damaged_connack_is_malformed() {
        for bytes in [
            &b"\x20\x01\x00"[..],
            b"\x20\x03\x00\x00\x05",
            b"\x20\x05\x00\x00\x02\x21\x00",
            b"\x20\x05\x00\x00\x02\x7f\x00",
            b"\x20\x06\x00\x00\x03\x26\x00\x09",
        ] {
            let frame = scan::frame(bytes).unwrap().unwrap();
            let malformed = Err(Malformed::Truncated { packet_type: CONNACK });
            assert_eq!(read_connack(frame, Version::V5), malformed, "{bytes:?}");
        }
    }

    #[test]
    fn suback_codes_are_read_in_both_versions() {
        let old = scan::frame(b"\x90\x04\x00\x07\x01\x80").unwrap().unwrap();
        assert_eq!(read_suback(old, Version::V311), Ok((7, &[1, 0x80][..])));
        let new = scan::frame(b"\x90\x04\x00\x07\x00\x87").unwrap().unwrap();
        assert_eq!(read_suback(new, Version::V5), Ok((7, &[0x87][..])));
    }

    /// [MQTT-3.6.1-1], [MQTT-3.8.1-1]
    #[test]
    fn flags_of_release_and_subscribe_are_fixed() {
        assert_eq!(acknowledgement(PUBREL, 258), [0x62, 2, 1, 2]);
        assert_eq!(acknowledgement(PUBACK, 1), [0x40, 2, 0, 1]);
        let filters = ["a/#".to_owned(), "b".to_owned()];
        let packet = subscribe(Version::V311, 9, &filters, 1).unwrap();
        assert_eq!(packet, b"\x82\x0c\0\x09\0\x03a/#\x01\0\x01b\x01");
    }
}
