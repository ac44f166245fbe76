//! What is around every datagram: whose it is, of which environment and cluster, and its seal.
//!
//! The bytes are in `docs/formats/gossip.md`. Without keys a datagram is in the clear and proves
//! nothing: environments are then kept apart against mistakes, not against malice.

use ring::{aead, digest};

use super::front::Front;
use super::identity::{ClusterId, HostId};
use super::key::{Key, KeyId, KeyRing, nonce};
use super::refusal::Refusal;
use super::wire::Reader;

/// The most that a datagram takes. Fits what Ethernet carries, with room for tunnels.
pub const PACKET_MAX: usize = 1400;
/// Bytes before the body.
pub(crate) const HEADER: usize = 48;
const TAG: usize = 16;
/// The most that a body takes, its kind included.
pub(crate) const BODY_MAX: usize = PACKET_MAX - HEADER - TAG;

const MAGIC: [u8; 2] = *b"Rk";

/// Tells environments apart: the first bytes of a digest of its name.
pub(crate) type EnvironmentTag = [u8; 8];

/// What stands before the body, in the clear.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The key that sealed the body, if one did.
    pub(crate) key: Option<KeyId>,
    pub(crate) environment: EnvironmentTag,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) host: HostId,
    /// Rises with each datagram of the host.
    pub(crate) counter: u64,
}

/// The tag of an environment's name.
pub(crate) fn environment_tag(name: &str) -> EnvironmentTag {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"ratatosk environment ");
    context.update(name.as_bytes());
    let mut tag = EnvironmentTag::default();
    tag.copy_from_slice(&context.finish().as_ref()[..8]);
    tag
}

impl Header {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let Header { key, environment, cluster, .. } = *self;
        Front { key, environment, cluster }.encode(MAGIC, out);
        out.extend_from_slice(self.host.as_bytes());
        out.extend_from_slice(&self.counter.to_be_bytes());
    }

    /// Reads the front of a datagram.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, Refusal> {
        let malformed = |_| Refusal::Malformed;
        let mut reader = Reader::new(bytes);
        let Front { key, environment, cluster } = Front::decode(MAGIC, &mut reader)?;
        let host = HostId::from_bytes(reader.array().map_err(malformed)?);
        let counter = reader.u64().map_err(malformed)?;
        Ok(Header { key, environment, cluster, host, counter })
    }
}

/// Makes datagrams of one process.
pub(crate) struct Sealer {
    environment: EnvironmentTag,
    host: HostId,
    key: Option<(KeyId, aead::LessSafeKey)>,
    counter: u64,
}

impl Sealer {
    pub(crate) fn new(environment: EnvironmentTag, host: HostId, keys: Option<&KeyRing>) -> Self {
        let key = keys.map(KeyRing::first);
        let key = key.map(|key| (key.id, datagram_key(key, environment, host)));
        Sealer { environment, host, key, counter: 0 }
    }

    /// A datagram with this body, of at most [`BODY_MAX`] bytes.
    pub(crate) fn seal(&mut self, cluster: Option<ClusterId>, body: &[u8]) -> Vec<u8> {
        assert!(body.len() <= BODY_MAX, "a body of {} bytes fits no datagram", body.len());
        self.counter += 1;
        let header = Header {
            key: self.key.as_ref().map(|(id, _)| *id),
            environment: self.environment,
            cluster,
            host: self.host,
            counter: self.counter,
        };
        let mut out = Vec::with_capacity(HEADER + body.len() + TAG);
        header.encode(&mut out);
        debug_assert_eq!(out.len(), HEADER);
        out.extend_from_slice(body);
        if let Some((_, key)) = &self.key {
            let (head, body) = out.split_at_mut(HEADER);
            let aad = aead::Aad::from(&*head);
            let tag = key.seal_in_place_separate_tag(nonce(self.counter), aad, body);
            out.extend_from_slice(tag.expect("a datagram is short enough to be sealed").as_ref());
        }
        out
    }
}

/// The key of all datagrams of one process.
pub(crate) fn datagram_key(
    key: &Key,
    environment: EnvironmentTag,
    host: HostId,
) -> aead::LessSafeKey {
    key.derive(&[b"datagram", &environment, host.as_bytes()])
}

/// The body of a sealed datagram, with the key of its sender.
pub(crate) fn open(
    key: &aead::LessSafeKey,
    counter: u64,
    datagram: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let (head, body) = datagram.split_at_checked(HEADER).ok_or(Refusal::Malformed)?;
    let mut body = body.to_vec();
    let opened = key.open_in_place(nonce(counter), aead::Aad::from(head), &mut body);
    let length = opened.map_err(|_| Refusal::Forged)?.len();
    body.truncate(length);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> KeyRing {
        let text = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        KeyRing::parse(text).expect("a key")
    }

    /// CLU-012: what was sealed opens with the sender's key, and no bit of it can be changed.
    #[test]
    fn a_sealed_datagram_opens_and_no_bit_of_it_can_be_changed() {
        let (ring, tag, host) = (ring(), environment_tag("prod"), HostId::from_bytes([3; 16]));
        let mut sealer = Sealer::new(tag, host, Some(&ring));
        let cluster = ClusterId::from_number(5);
        let datagram = sealer.seal(cluster, b"body");
        let header = Header::decode(&datagram).expect("a header");
        assert_eq!((header.cluster, header.host, header.counter), (cluster, host, 1));
        let key = datagram_key(ring.first(), tag, host);
        assert_eq!(open(&key, 1, &datagram).as_deref(), Ok(&b"body"[..]));
        for at in 0..datagram.len() * 8 {
            let mut changed = datagram.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert_eq!(open(&key, 1, &changed), Err(Refusal::Forged), "bit {at}");
        }
        assert!(!datagram.windows(4).any(|bytes| bytes == b"body"));
        assert_eq!(sealer.seal(cluster, &[0; BODY_MAX]).len(), PACKET_MAX);
    }

    #[test]
    fn a_header_is_read_as_it_was_written_or_refused() {
        let tag = environment_tag("");
        let mut sealer = Sealer::new(tag, HostId::from_bytes([3; 16]), None);
        let datagram = sealer.seal(None, b"x");
        assert_eq!(datagram.len(), HEADER + 1);
        let header = Header::decode(&datagram).expect("a header");
        assert_eq!((header.key, header.cluster, header.environment), (None, None, tag));
        let mut again = Vec::new();
        header.encode(&mut again);
        assert_eq!(again, datagram[..HEADER]);
        for cut in 0..HEADER {
            let expected = if cut < 2 { Refusal::Magic } else { Refusal::Malformed };
            assert_eq!(Header::decode(&datagram[..cut]), Err(expected), "{cut}");
        }
        let changed = |at: usize, byte| {
            let mut datagram = datagram.clone();
            datagram[at] = byte;
            Header::decode(&datagram).expect_err("is refused")
        };
        assert_eq!(changed(0, b'x'), Refusal::Magic);
        assert_eq!(changed(2, 2), Refusal::Version);
        assert_eq!(changed(3, 2), Refusal::Malformed);
        assert_eq!(changed(4, 1), Refusal::Malformed);
    }

    #[test]
    fn environments_have_tags_of_their_own() {
        assert_ne!(environment_tag("prod"), environment_tag("test"));
    }
}
