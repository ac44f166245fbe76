//! The HTTP request with which a WebSocket connection begins, and its answer.
//!
//! Guarantees: the request head is held only up to [`HEAD_MAX`] and scanned once; whatever is
//! not an upgrade to MQTT on the configured path is answered with 400 and a reason.
//! Deliberately absent: extensions (none is negotiated), origins, authentication, other paths.

use std::net::{IpAddr, SocketAddr};

use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, Response, create_response, write_response};
use tungstenite::http::{HeaderMap, HeaderValue};

use crate::transport::error::Error;
use crate::transport::peer;

/// The longest request head that is accepted.
pub(super) const HEAD_MAX: usize = 16 * 1024;

/// The sub-protocols that are spoken here, MQTT 5.0 and 3.1.1 under the first name.
const SUB_PROTOCOLS: [&str; 3] = ["mqtt", "mqttv3.1", "mqttv3.1.1"];

const HEAD_END: &[u8] = b"\r\n\r\n";

/// The request head as far as it has arrived.
#[derive(Default)]
pub(super) struct RequestHead {
    bytes: Vec<u8>,
}

/// What the request established.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Upgrade {
    /// From `X-Real-IP` and `X-Real-Port`, if they may be believed and are present.
    pub(super) real_address: Option<SocketAddr>,
}

/// Whether `X-Real-IP` and `X-Real-Port` are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RealAddress {
    /// The TCP peer is a trusted proxy and gave no PROXY header.
    Believe,
    /// Anybody could have written them.
    Ignore,
}

impl RequestHead {
    /// Takes bytes up to the end of the head; says how many when it is complete. The answer is
    /// appended to `reply` in any case but an incomplete head.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        path: &str,
        real_address: RealAddress,
        reply: &mut Vec<u8>,
    ) -> Result<Option<(Upgrade, usize)>, Error> {
        self.collect(bytes)
            .and_then(|complete| match complete {
                None => Ok(None),
                Some(taken) => Ok(Some((self.answer(path, real_address, reply)?, taken))),
            })
            .map_err(|reason| {
                write_refusal(reason, reply);
                Error::UpgradeRefused { reason }
            })
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Appends up to the end of the head and says how many bytes that took.
    fn collect(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        let held = self.bytes.len();
        let room = HEAD_MAX - held;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        // What cannot be a method is refused at once: an MQTT or TLS client on the wrong port
        // would otherwise wait for the deadline.
        if self.bytes.first().is_some_and(|first| !first.is_ascii_uppercase()) {
            return Err("this port expects an HTTP request");
        }
        let unscanned = held.saturating_sub(HEAD_END.len() - 1);
        let end = self.bytes[unscanned..].windows(HEAD_END.len()).position(|w| w == HEAD_END);
        match end {
            Some(at) => {
                let size = unscanned + at + HEAD_END.len();
                self.bytes.truncate(size);
                Ok(Some(size - held))
            }
            None if self.bytes.len() == HEAD_MAX => Err("the request head is too large"),
            None => Ok(None),
        }
    }

    fn answer(
        &self,
        path: &str,
        real_address: RealAddress,
        reply: &mut Vec<u8>,
    ) -> Result<Upgrade, &'static str> {
        let malformed = "the request is not a WebSocket upgrade by GET over HTTP/1.1";
        let (size, request) =
            Request::try_parse(&self.bytes).ok().flatten().ok_or(malformed)?;
        // A lenient parser may see an earlier end, such as bare line feeds: what follows would be
        // taken for a second request by a proxy in between.
        if size != self.bytes.len() {
            return Err(malformed);
        }
        if request.uri().path() != path {
            return Err("no MQTT is served on this path");
        }
        let mut response = create_response(&request).map_err(|_| malformed)?;
        select_sub_protocol(request.headers(), &mut response)?;
        let real_address = match real_address {
            RealAddress::Believe => read_real_address(request.headers())?,
            RealAddress::Ignore => None,
        };
        write_response(reply, &response).map_err(|_| malformed)?;
        Ok(Upgrade { real_address })
    }
}

/// [MQTT-6.0.0-4] The first offered name that is known here is returned. A client that offers
/// none is accepted without; one that offers only others is refused.
fn select_sub_protocol(
    headers: &HeaderMap,
    response: &mut Response,
) -> Result<(), &'static str> {
    const NAME: &str = "Sec-WebSocket-Protocol";
    let mut offered = false;
    for header in headers.get_all(NAME) {
        offered = true;
        let names = header.to_str().map_err(|_| "the sub-protocol header is malformed")?;
        let known = names.split(',').map(str::trim).find_map(|offer| {
            SUB_PROTOCOLS.into_iter().find(|known| *known == offer)
        });
        if let Some(name) = known {
            response.headers_mut().insert(NAME, HeaderValue::from_static(name));
            return Ok(());
        }
    }
    if offered {
        return Err("none of the offered sub-protocols is mqtt, mqttv3.1 or mqttv3.1.1");
    }
    Ok(())
}

/// A proxy that is trusted and sends nonsense is refused: rules on addresses would otherwise see
/// the proxy's own address.
fn read_real_address(headers: &HeaderMap) -> Result<Option<SocketAddr>, &'static str> {
    let Some(address) = single(headers, "X-Real-IP")? else {
        return Ok(None);
    };
    let address: IpAddr = address.trim().parse().map_err(|_| "X-Real-IP is no IP address")?;
    let port = match single(headers, "X-Real-Port")? {
        None => 0,
        Some(port) => port.trim().parse().map_err(|_| "X-Real-Port is no port")?,
    };
    Ok(Some(peer::canonical(SocketAddr::new(address, port))))
}

/// The value of a header that may occur once: with two it is unclear which the proxy wrote.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, &'static str> {
    let mut values = headers.get_all(name).into_iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err("X-Real-IP or X-Real-Port occurs twice");
    }
    value.to_str().map(Some).map_err(|_| "X-Real-IP or X-Real-Port is malformed")
}

fn write_refusal(reason: &str, reply: &mut Vec<u8>) {
    let response = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Sec-WebSocket-Version: 13\r\nConnection: close\r\n\r\n{reason}\n",
        reason.len() + 1
    );
    reply.extend_from_slice(response.as_bytes());
}
