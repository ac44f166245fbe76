//! The few packets that attackers and neighbours send, written by hand: an attacker's packets need
//! not be valid, so the codec is no help.

/// A CONNECT of MQTT 5.0 that starts clean and takes topic aliases and any number of messages.
#[must_use]
pub fn connect(client: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x05\x02\x00\x3c".to_vec();
    // Receive Maximum 65,535; Topic Alias Maximum 65,535.
    body.extend_from_slice(b"\x06\x21\xff\xff\x22\xff\xff");
    string(&mut body, client);
    packet(0x10, &body)
}

/// A SUBSCRIBE of MQTT 5.0 with these filters.
#[must_use]
pub fn subscribe<'a>(filters: impl Iterator<Item = &'a str>, qos: u8) -> Vec<u8> {
    let mut body = b"\x00\x01\x00".to_vec();
    for filter in filters {
        string(&mut body, filter);
        body.push(qos);
    }
    packet(0x82, &body)
}

/// A PUBLISH of MQTT 5.0. `properties` are encoded ones.
#[must_use]
pub fn publish(topic: &str, id: Option<u16>, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(topic.len() + properties.len() + payload.len() + 16);
    string(&mut body, topic);
    if let Some(id) = id {
        body.extend_from_slice(&id.to_be_bytes());
    }
    length(&mut body, properties.len());
    body.extend_from_slice(properties);
    body.extend_from_slice(payload);
    packet(if id.is_some() { 0x32 } else { 0x30 }, &body)
}

/// A PUBACK.
#[must_use]
pub fn puback(id: u16) -> Vec<u8> {
    packet(0x40, &id.to_be_bytes())
}

/// User properties of about `bytes` bytes.
#[must_use]
pub fn user_properties(bytes: usize) -> Vec<u8> {
    let mut properties = Vec::with_capacity(bytes);
    while properties.len() + 16 < bytes {
        properties.push(0x26);
        string(&mut properties, "name");
        string(&mut properties, "value");
    }
    properties
}

/// A packet with its fixed header.
#[must_use]
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 5);
    bytes.push(first);
    length(&mut bytes, body.len());
    bytes.extend_from_slice(body);
    bytes
}

/// Splits the first whole packet off: its first byte, its body, and how long it is.
#[must_use]
pub fn split(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let start = index + 2;
            return Some((bytes[0], bytes.get(start..start + value)?, start + value));
        }
    }
    None
}

fn string(bytes: &mut Vec<u8>, text: &str) {
    let count = u16::try_from(text.len()).expect("a string has at most 65,535 bytes");
    bytes.extend_from_slice(&count.to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

fn length(bytes: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        bytes.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_split_off_when_it_is_whole() {
        for size in [0, 1, 127, 128, 20_000, 3_000_000] {
            let mut bytes = packet(0x30, &vec![7; size]);
            let whole = bytes.len();
            bytes.push(0xff);
            let (first, body, taken) = split(&bytes).expect("it is whole");
            assert_eq!((first, body.len(), taken), (0x30, size, whole));
            assert_eq!(split(&bytes[..whole - 1]), None);
        }
    }
}
