//! The handshake before HTTP/2: who is there, and whether the two belong together.
//!
//! The client says who it is and whom it expects; the server judges and answers, also when it
//! refuses, so that the other side's operator reads why. A stranger is told nothing of the
//! cluster but the version that its node speaks.

use bytes::{BufMut, BytesMut};

use crate::identity::{ClusterId, Environment, HostId, Identity, Version};
use crate::protocol::Malformed;
use crate::protocol::reader::Reader;

/// First bytes of both sides.
const MAGIC: [u8; 4] = *b"RTRP";

/// The magic bytes and the length of what follows.
pub(crate) const PREAMBLE_BYTES: usize = 6;

/// Longest body of a handshake: those of today have at most 309.
pub(crate) const HELLO_BYTES_MAX: usize = 1_024;

/// What a client says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Who it is.
    pub(crate) identity: Identity,
    /// Whom it wants to speak with.
    pub(crate) expected: HostId,
}

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// HTTP/2 may begin.
    Welcome,
    /// Too far apart.
    Version(Version),
    /// Not of this cluster.
    Cluster,
    /// Not of this environment.
    Environment,
    /// The client expects another process at this address.
    Host,
}

impl Verdict {
    /// A word for metrics and messages.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Welcome => "welcome",
            Self::Version(_) => "version",
            Self::Cluster => "cluster",
            Self::Environment => "environment",
            Self::Host => "host",
        }
    }
}

/// What `own` thinks of a client. The version comes first: it decides what the rest means.
pub(crate) fn judge(own: &Identity, hello: &Hello) -> Verdict {
    let peer = &hello.identity;
    if !own.version.speaks_with(peer.version) {
        return Verdict::Version(own.version);
    }
    if own.cluster != peer.cluster {
        return Verdict::Cluster;
    }
    if own.environment != peer.environment {
        return Verdict::Environment;
    }
    if own.host != hello.expected {
        return Verdict::Host;
    }
    Verdict::Welcome
}

/// The length of the body that the first bytes announce.
pub(crate) fn body_length(preamble: [u8; PREAMBLE_BYTES]) -> Result<usize, Malformed> {
    let [a, b, c, d, high, low] = preamble;
    if [a, b, c, d] != MAGIC {
        return Err(Malformed::Unknown { what: "a handshake" });
    }
    let bytes = usize::from(u16::from_be_bytes([high, low]));
    if bytes > HELLO_BYTES_MAX {
        return Err(Malformed::Long { what: "a handshake", bytes, limit: HELLO_BYTES_MAX });
    }
    Ok(bytes)
}

impl Hello {
    /// Preamble and body.
    pub(crate) fn encode(&self) -> BytesMut {
        let Identity { cluster, environment, host, version } = &self.identity;
        let mut body = BytesMut::new();
        put_version(&mut body, *version);
        body.put_u128(cluster.0);
        body.put_u128(host.0);
        body.put_u128(self.expected.0);
        body.put_u8(u8::try_from(environment.as_str().len()).unwrap_or(u8::MAX));
        body.put_slice(environment.as_str().as_bytes());
        framed(&body)
    }

    /// The same back from the body. What follows its fields is ignored: a later version may say
    /// more.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "a handshake");
        let version = version(&mut reader)?;
        let cluster = ClusterId(reader.u128()?);
        let host = HostId(reader.u128()?);
        let expected = HostId(reader.u128()?);
        let environment = Environment::new(reader.text()?).map_err(|_| reader.unknown())?;
        Ok(Self { identity: Identity { cluster, environment, host, version }, expected })
    }
}

impl Verdict {
    /// Preamble and body.
    pub(crate) fn encode(self) -> BytesMut {
        let mut body = BytesMut::new();
        body.put_u8(match self {
            Self::Welcome => 0,
            Self::Version(_) => 1,
            Self::Cluster => 2,
            Self::Environment => 3,
            Self::Host => 4,
        });
        if let Self::Version(own) = self {
            put_version(&mut body, own);
        }
        framed(&body)
    }

    /// The same back from the body.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "the answer to a handshake");
        Ok(match reader.u8()? {
            0 => Self::Welcome,
            1 => Self::Version(version(&mut reader)?),
            2 => Self::Cluster,
            3 => Self::Environment,
            4 => Self::Host,
            _ => return Err(reader.unknown()),
        })
    }
}

fn version(reader: &mut Reader<'_>) -> Result<Version, Malformed> {
    Ok(Version { major: reader.u16()?, minor: reader.u16()? })
}

fn put_version(out: &mut BytesMut, version: Version) {
    out.put_u16(version.major);
    out.put_u16(version.minor);
}

fn framed(body: &[u8]) -> BytesMut {
    assert!(body.len() <= HELLO_BYTES_MAX, "every field of a handshake is bounded");
    let mut out = BytesMut::with_capacity(PREAMBLE_BYTES + body.len());
    out.put_slice(&MAGIC);
    out.put_u16(u16::try_from(body.len()).unwrap_or(u16::MAX));
    out.put_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(cluster: u128, environment: &str, host: u128, minor: u16) -> Identity {
        Identity {
            cluster: ClusterId(cluster),
            environment: Environment::new(environment).expect("an environment"),
            host: HostId(host),
            version: Version { major: 1, minor },
        }
    }

    #[test]
    fn only_hosts_that_belong_together_are_welcome() {
        let own = identity(7, "production", 1, 4);
        let cases = [
            (identity(7, "production", 2, 4), 1, Verdict::Welcome),
            (identity(7, "production", 2, 5), 1, Verdict::Welcome),
            (identity(7, "production", 2, 3), 1, Verdict::Welcome),
            (identity(7, "production", 2, 6), 1, Verdict::Version(own.version)),
            (identity(8, "production", 2, 2), 1, Verdict::Version(own.version)),
            (identity(8, "production", 2, 4), 1, Verdict::Cluster),
            (identity(7, "staging", 2, 4), 1, Verdict::Environment),
            (identity(7, "production", 2, 4), 9, Verdict::Host),
        ];
        for (identity, expected, verdict) in cases {
            let hello = Hello { identity, expected: HostId(expected) };
            assert_eq!(judge(&own, &hello), verdict, "{hello:?}");
        }
    }

    fn split(bytes: &[u8]) -> &[u8] {
        let (preamble, body) = bytes.split_first_chunk().expect("a preamble");
        assert_eq!(body_length(*preamble), Ok(body.len()));
        body
    }

    proptest! {
        #[test]
        fn a_handshake_is_read_as_it_was_written(
            cluster: u128, host: u128, expected: u128, minor: u16, environment in "[a-z]{0,255}",
        ) {
            let identity = identity(cluster, &environment, host, minor);
            let hello = Hello { identity, expected: HostId(expected) };
            prop_assert_eq!(Hello::decode(split(&hello.encode())), Ok(hello));
            let version = Version { major: minor, minor };
            let verdicts = [
                Verdict::Welcome, Verdict::Version(version), Verdict::Cluster,
                Verdict::Environment, Verdict::Host,
            ];
            for verdict in verdicts {
                prop_assert_eq!(Verdict::decode(split(&verdict.encode())), Ok(verdict));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Hello::decode(&bytes);
            let _ = Verdict::decode(&bytes);
        }
    }

    #[test]
    fn other_protocols_are_told_apart_by_their_first_bytes() {
        let unknown = Err(Malformed::Unknown { what: "a handshake" });
        assert_eq!(body_length(*b"GET / "), unknown);
        assert_eq!(body_length(*b"PRI * "), unknown);
        let limit = HELLO_BYTES_MAX;
        let long = Err(Malformed::Long { what: "a handshake", bytes: 0xffff, limit });
        assert_eq!(body_length(*b"RTRP\xff\xff"), long);
    }
}
