//! The header of the PROXY protocol, versions 1 and 2.
//!
//! [`parse`] looks at everything received so far and never consumes what is not a header: MQTT
//! begins with 0x10, TLS with 0x16, HTTP with `G`; none of them is a prefix of a signature.
//! Guarantees: `Incomplete` is answered only for fewer than [`HEADER_MAX`] bytes, so the caller
//! holds no more; the result does not depend on how the bytes were cut.
//! Deliberately absent: trust (the pipeline decides), TLVs and their checksum (skipped), the
//! meaning of addresses of datagram and unix sockets (the TCP peer's address stays).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str;

/// The longest version 1 header with its line end, as the protocol defines it.
pub const V1_MAX: usize = 107;
/// The longest address block with TLVs of a version 2 header that is accepted.
pub const V2_BODY_MAX: usize = 4096;
/// No header is longer.
pub const HEADER_MAX: usize = V2_PREFIX + V2_BODY_MAX;

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const V2_PREFIX: usize = 16;
const V2_IPV4: usize = 12;
const V2_IPV6: usize = 36;
const V2_UNIX: usize = 216;

const _: () = assert!(V1_MAX <= HEADER_MAX, "one limit bounds what is held for both versions");
const _: () = assert!(V2_UNIX <= V2_BODY_MAX, "the largest address block must be acceptable");

/// What the bytes so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detection {
    /// They may be or are the beginning of a header: ask again with more.
    Incomplete,
    /// They are no header: all of them belong to the next layer.
    Absent,
    /// A header of `size` bytes; what follows belongs to the next layer.
    Header {
        /// What it says.
        origin: Origin,
        /// Its bytes, TLVs included.
        size: usize,
    },
}

/// On whose behalf the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The proxy's own health check: there is no client (version 2, LOCAL).
    HealthCheck,
    /// A client whose address the proxy does not know or cannot express.
    Unknown,
    /// A client at this address.
    Client(SocketAddr),
}

/// How a header breaks the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No line end within [`V1_MAX`] bytes.
    #[error("version 1 header is longer than {V1_MAX} bytes")]
    LineOversized,
    /// The words of the line are not those of the protocol.
    #[error("version 1 header is not TCP4, TCP6 or UNKNOWN with two addresses and two ports")]
    Line,
    /// Only version 2 has this signature.
    #[error("version {0} of the binary header is unknown")]
    Version(u8),
    /// Neither LOCAL nor PROXY.
    #[error("command {0} of the version 2 header is unknown")]
    Command(u8),
    /// Not a combination that the protocol defines.
    #[error("family and protocol {0:#04x} of the version 2 header are unknown")]
    Family(u8),
    /// More than [`V2_BODY_MAX`].
    #[error("version 2 header announces {0} bytes, more than {V2_BODY_MAX}")]
    BodyOversized(usize),
    /// Too short for the addresses of its family.
    #[error("version 2 header announces {0} bytes, too few for its addresses")]
    BodyShort(usize),
}

/// Looks for a header at the start of a connection's bytes.
pub fn parse(bytes: &[u8]) -> Result<Detection, Malformed> {
    if bytes.is_empty() {
        return Ok(Detection::Incomplete);
    }
    if let Some(rest) = bytes.strip_prefix(V1_SIGNATURE) {
        return parse_line(rest);
    }
    if bytes.starts_with(V2_SIGNATURE) {
        return parse_binary(bytes);
    }
    if V1_SIGNATURE.starts_with(bytes) || V2_SIGNATURE.starts_with(bytes) {
        return Ok(Detection::Incomplete);
    }
    Ok(Detection::Absent)
}

/// Version 1, after the signature.
fn parse_line(rest: &[u8]) -> Result<Detection, Malformed> {
    let window = &rest[..rest.len().min(V1_MAX - V1_SIGNATURE.len())];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        if window.len() < V1_MAX - V1_SIGNATURE.len() {
            return Ok(Detection::Incomplete);
        }
        return Err(Malformed::LineOversized);
    };
    let size = V1_SIGNATURE.len() + end + 2;
    let line = str::from_utf8(&window[..end]).map_err(|_| Malformed::Line)?;
    // What follows UNKNOWN must be ignored.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(Detection::Header { origin: Origin::Unknown, size });
    }
    let mut words = line.split(' ');
    let mut next = || words.next().ok_or(Malformed::Line);
    let (family, source, target, source_port, target_port) =
        (next()?, next()?, next()?, next()?, next()?);
    if words.next().is_some() {
        return Err(Malformed::Line);
    }
    let (source, _) = match family {
        "TCP4" => (address::<Ipv4Addr>(source)?, address::<Ipv4Addr>(target)?),
        "TCP6" => (address::<Ipv6Addr>(source)?, address::<Ipv6Addr>(target)?),
        _ => return Err(Malformed::Line),
    };
    let port = port(source_port)?;
    self::port(target_port)?;
    Ok(Detection::Header { origin: Origin::Client(SocketAddr::new(source, port)), size })
}

fn address<A: str::FromStr + Into<IpAddr>>(word: &str) -> Result<IpAddr, Malformed> {
    word.parse::<A>().map(Into::into).map_err(|_| Malformed::Line)
}

/// Decimal digits only: the standard parser would also take a plus sign.
fn port(word: &str) -> Result<u16, Malformed> {
    if !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed::Line);
    }
    word.parse().map_err(|_| Malformed::Line)
}

/// Version 2, from its first byte; the signature is complete.
fn parse_binary(bytes: &[u8]) -> Result<Detection, Malformed> {
    let Some(&[version_command, family, length_high, length_low]) =
        bytes.get(V2_SIGNATURE.len()..V2_PREFIX)
    else {
        return Ok(Detection::Incomplete);
    };
    if version_command >> 4 != 2 {
        return Err(Malformed::Version(version_command >> 4));
    }
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    if length > V2_BODY_MAX {
        return Err(Malformed::BodyOversized(length));
    }
    let local = match version_command & 0x0f {
        0 => true,
        1 => false,
        command => return Err(Malformed::Command(command)),
    };
    let size = V2_PREFIX + length;
    let Some(body) = bytes.get(V2_PREFIX..size) else {
        return Ok(Detection::Incomplete);
    };
    // The family of a LOCAL header has no meaning and must be skipped.
    let origin = if local { Origin::HealthCheck } else { binary_origin(family, body)? };
    Ok(Detection::Header { origin, size })
}

fn binary_origin(family: u8, body: &[u8]) -> Result<Origin, Malformed> {
    let short = Malformed::BodyShort(body.len());
    match family {
        // Unspecified, or datagrams, which cannot carry this connection: the address says nothing.
        0x00 => Ok(Origin::Unknown),
        0x12 if body.len() >= V2_IPV4 => Ok(Origin::Unknown),
        0x22 if body.len() >= V2_IPV6 => Ok(Origin::Unknown),
        0x31 | 0x32 if body.len() >= V2_UNIX => Ok(Origin::Unknown),
        0x11 => {
            let block: &[u8; V2_IPV4] = body.first_chunk().ok_or(short)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *block;
            let source = Ipv4Addr::new(a, b, c, d);
            let port = u16::from_be_bytes([high, low]);
            Ok(Origin::Client(SocketAddr::new(source.into(), port)))
        }
        0x21 => {
            let block: &[u8; V2_IPV6] = body.first_chunk().ok_or(short)?;
            let source: &[u8; 16] = block.first_chunk().ok_or(short)?;
            let port = u16::from_be_bytes([block[32], block[33]]);
            Ok(Origin::Client(SocketAddr::new(Ipv6Addr::from(*source).into(), port)))
        }
        0x12 | 0x22 | 0x31 | 0x32 => Err(short),
        _ => Err(Malformed::Family(family)),
    }
}
