//! SCRAM-SHA-256 (RFC 5802, RFC 7677) on the server's side. Pure: nonces come from outside.
//!
//! The server stores no password but keys from which none can be computed, and proves to the
//! client that it has them. Guarantees: the nonce of the client's last message must be that of
//! this exchange; a user that does not exist is answered like one that does, up to the same
//! failure at the end. Channel binding is not offered, so a client that insists on it is refused.
//!
//! Not here: SASLprep. Names and passwords are compared as the UTF-8 that was sent.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::secret::{Secret, equal_in_constant_time};

/// The name of the method in MQTT and in password files.
pub const METHOD: &str = "SCRAM-SHA-256";

/// Iterations of new keys: four times the least that RFC 7677 wants, because it is the client,
/// often a small one, that must compute them at each connect.
pub const ITERATIONS_DEFAULT: u32 = 16_384;

const ITERATIONS_MIN: u32 = 4_096;
const ITERATIONS_MAX: u32 = 10_000_000;
const SALT_BYTES_MAX: usize = 64;
const NONCE_BYTES_MAX: usize = 256;
const MESSAGE_BYTES_MAX: usize = 4_096;

/// What the server stores of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

// Stored keys allow to try passwords: they are not printed either.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{METHOD} keys of {} iterations", self.iterations)
    }
}

impl Keys {
    /// The keys of a password. Takes as long as the iterations take.
    pub fn derive(password: &Secret, salt: &[u8], iterations: u32) -> Self {
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(password.expose(), salt, iterations, &mut salted);
        let client_key = mac(&salted, &[b"Client Key"]);
        Self {
            iterations,
            salt: salt.to_owned(),
            stored_key: Sha256::digest(client_key).into(),
            server_key: mac(&salted, &[b"Server Key"]),
        }
    }

    /// How costly the keys are for the client.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Keys for a user that does not exist: always the same for a name, and for nobody else to
    /// foresee.
    fn mock(user: &str, mock_key: &[u8; 32], iterations: u32) -> Self {
        let part = |label: &[u8]| mac(mock_key, &[label, b":", user.as_bytes()]);
        Self {
            iterations,
            salt: part(b"salt")[..16].to_vec(),
            stored_key: part(b"stored"),
            server_key: part(b"server"),
        }
    }

    /// The keys as stored in a password file.
    pub fn to_line(&self) -> String {
        format!(
            "{METHOD}${}:{}${}:{}",
            self.iterations,
            BASE64.encode(&self.salt),
            BASE64.encode(self.stored_key),
            BASE64.encode(self.server_key)
        )
    }
}

impl FromStr for Keys {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "not SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey";
        let rest =
            text.strip_prefix(METHOD).and_then(|rest| rest.strip_prefix('$')).ok_or(SHAPE)?;
        let (parameters, keys) = rest.split_once('$').ok_or(SHAPE)?;
        let (iterations, salt) = parameters.split_once(':').ok_or(SHAPE)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(SHAPE)?;
        let iterations = iterations.parse().map_err(|_| "iterations are not a number")?;
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err("iterations are not in 4096 to 10000000");
        }
        let salt = BASE64.decode(salt).map_err(|_| "salt is not base64")?;
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return Err("salt is not 1 to 64 bytes");
        }
        let key = |text: &str| {
            let bytes = BASE64.decode(text).map_err(|_| "key is not base64")?;
            <[u8; 32]>::try_from(bytes).map_err(|_| "key is not 32 bytes")
        };
        Ok(Self { iterations, salt, stored_key: key(stored_key)?, server_key: key(server_key)? })
    }
}

/// The client's first message, understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst {
    pub(crate) user: String,
    nonce: String,
    /// The header as sent: the client repeats it at the end.
    header: String,
    bare: String,
}

/// What is wrong with a message. The client is refused; the text is for the log.
pub(crate) type Flaw = &'static str;

impl ClientFirst {
    pub(crate) fn parse(message: &[u8]) -> Result<Self, Flaw> {
        let text = text_of(message)?;
        let rest = if let Some(rest) = text.strip_prefix("n,") {
            rest
        } else if let Some(rest) = text.strip_prefix("y,") {
            // The client could bind and thinks that the server cannot, which is true.
            rest
        } else if text.starts_with("p=") {
            return Err("channel binding is not offered");
        } else {
            return Err("first message has no header");
        };
        let (authorization, bare) = rest.split_once(',').ok_or("first message has no header")?;
        let header = text[..text.len() - bare.len()].to_owned();
        if bare.starts_with("m=") {
            return Err("mandatory extension is not supported");
        }
        let (user, rest) = bare
            .strip_prefix("n=")
            .and_then(|rest| rest.split_once(','))
            .ok_or("first message has no user name")?;
        let user = unescaped(user)?;
        let nonce = rest.strip_prefix("r=").ok_or("first message has no nonce")?;
        let nonce = nonce.split(',').next().unwrap_or_default();
        check_nonce(nonce)?;
        let acts_for = match authorization {
            "" => None,
            other => Some(unescaped(other.strip_prefix("a=").ok_or("header is malformed")?)?),
        };
        if acts_for.is_some_and(|other| other != user) {
            return Err("acting for another user is not supported");
        }
        Ok(Self { user, nonce: nonce.to_owned(), header, bare: bare.to_owned() })
    }
}

/// The server's side of one exchange after the client's first message.
pub(crate) struct ServerFirst {
    first: ClientFirst,
    keys: Keys,
    is_known: bool,
    nonce: String,
    message: String,
}

/// The outcome of the client's last message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The client has the password; this proves that the server has the keys.
    Proven { user: String, server_final: String },
    /// It has not, or the user does not exist.
    Wrong,
}

impl ServerFirst {
    /// Answers the first message. `keys` are those of the user, if it exists.
    pub(crate) fn new(
        first: ClientFirst,
        keys: Option<&Keys>,
        mock: &Mock,
        server_nonce: &[u8],
    ) -> Self {
        let is_known = keys.is_some();
        let keys = match keys {
            Some(keys) => keys.clone(),
            None => Keys::mock(&first.user, &mock.key, mock.iterations),
        };
        let nonce = format!("{}{}", first.nonce, BASE64.encode(server_nonce));
        let message = format!("r={nonce},s={},i={}", BASE64.encode(&keys.salt), keys.iterations);
        Self { first, keys, is_known, nonce, message }
    }

    /// The server's first message.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Judges the client's last message.
    pub(crate) fn finish(&self, message: &[u8]) -> Result<Outcome, Flaw> {
        let text = text_of(message)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or("last message has no proof")?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|attribute| attribute.strip_prefix("c="));
        let expected = BASE64.encode(&self.first.header);
        if binding != Some(expected.as_str()) {
            return Err("last message repeats another header");
        }
        let nonce = attributes.next().and_then(|attribute| attribute.strip_prefix("r="));
        if nonce != Some(self.nonce.as_str()) {
            return Err("last message has another nonce");
        }
        let proof = BASE64.decode(proof).map_err(|_| "proof is not base64")?;
        let proof = <[u8; 32]>::try_from(proof).map_err(|_| "proof is not 32 bytes")?;

        let exchange = [&self.first.bare, ",", &self.message, ",", without_proof].concat();
        let signature = mac(&self.keys.stored_key, &[exchange.as_bytes()]);
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
        let stored_key: [u8; 32] = Sha256::digest(client_key).into();
        let server_signature = mac(&self.keys.server_key, &[exchange.as_bytes()]);
        let is_proven = equal_in_constant_time(&stored_key, &self.keys.stored_key);
        if !(is_proven && self.is_known) {
            return Ok(Outcome::Wrong);
        }
        let server_final = format!("v={}", BASE64.encode(server_signature));
        Ok(Outcome::Proven { user: self.first.user.clone(), server_final })
    }
}

/// How users that do not exist are answered.
#[derive(Clone)]
pub(crate) struct Mock {
    pub(crate) key: [u8; 32],
    pub(crate) iterations: u32,
}

/// HMAC-SHA-256 over the parts in a row.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes keys of any length, so this cannot fail; see RFC 2104, section 2.
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key)
        .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn text_of(message: &[u8]) -> Result<&str, Flaw> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err("message is too long");
    }
    let text = std::str::from_utf8(message).map_err(|_| "message is not UTF-8")?;
    if text.contains('\0') {
        return Err("message holds a null");
    }
    Ok(text)
}

fn unescaped(name: &str) -> Result<String, Flaw> {
    let mut pieces = name.split('=');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (sign, rest) = match (piece.strip_prefix("2C"), piece.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return Err("user name is not escaped"),
        };
        text.push(sign);
        text.push_str(rest);
    }
    if text.is_empty() {
        return Err("user name is empty");
    }
    Ok(text)
}

fn check_nonce(nonce: &str) -> Result<(), Flaw> {
    if nonce.is_empty() || nonce.len() > NONCE_BYTES_MAX {
        return Err("nonce is empty or too long");
    }
    if !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("nonce is not printable");
    }
    Ok(())
}

#[cfg(test)]
#[path = "scram_test.rs"]
pub(crate) mod tests;
