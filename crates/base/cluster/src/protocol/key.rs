//! The cluster's keys: how they are written in a file, and what is derived from them.
//!
//! A file has a key on each line, 64 hexadecimal digits (32 random bytes); empty lines and lines that
//! begin with `#` are skipped. The first key seals, all of them open, so a key is changed without an
//! outage: add the new one below the old one everywhere, then put it first everywhere, then remove
//! the old one.
//!
//! No traffic is sealed with a key of the file itself. HKDF (RFC 5869) derives one for each process
//! that sends datagrams and one for each direction of each connection, so counters serve as nonces and
//! no two processes have to agree about them.

use ring::{aead, hkdf};
use zeroize::Zeroizing;

/// Keys of a file.
pub const KEYS_MAX: usize = 8;

/// Names a key in a datagram without telling anything of it.
pub(crate) type KeyId = [u8; 4];

/// One key.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) id: KeyId,
    root: hkdf::Prk,
}

/// The keys that a cluster uses now. The first one seals.
#[derive(Clone)]
pub struct KeyRing {
    keys: Vec<Key>,
}

/// A key file that cannot be used. Nothing of its contents is in the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A line of another length.
    #[error("line {line}: a key has 64 hexadecimal digits, this line has {length} characters")]
    Length {
        /// Which, from 1 on.
        line: usize,
        /// Characters without spaces around them.
        length: usize,
    },
    /// A character that is no hexadecimal digit.
    #[error("line {line}: character {column} is not a hexadecimal digit")]
    Digit {
        /// Which, from 1 on.
        line: usize,
        /// Which, from 1 on.
        column: usize,
    },
    /// One byte all over: somebody's placeholder.
    #[error("line {line}: the key is one byte repeated; draw it, as with `openssl rand -hex 32`")]
    Weak {
        /// Which, from 1 on.
        line: usize,
    },
    /// The same key again.
    #[error("line {line}: the key stands on line {first} too")]
    Repeated {
        /// Which, from 1 on.
        line: usize,
        /// The line before.
        first: usize,
    },
    /// More than [`KEYS_MAX`].
    #[error("line {line}: more than {KEYS_MAX} keys")]
    TooMany {
        /// Which, from 1 on.
        line: usize,
    },
    /// No key at all.
    #[error("the file has no key")]
    Empty,
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl KeyRing {
    /// Reads the text of a key file.
    ///
    /// # Errors
    /// Says which line is wrong and why, never what it says.
    pub fn parse(text: &str) -> Result<KeyRing, KeyError> {
        let mut keys: Vec<(usize, Key)> = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let line = index + 1;
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let key = Key::new(&*secret(line, text)?);
            if let Some((first, _)) = keys.iter().find(|(_, other)| other.id == key.id) {
                return Err(KeyError::Repeated { line, first: *first });
            }
            if keys.len() == KEYS_MAX {
                return Err(KeyError::TooMany { line });
            }
            keys.push((line, key));
        }
        if keys.is_empty() {
            return Err(KeyError::Empty);
        }
        Ok(KeyRing { keys: keys.into_iter().map(|(_, key)| key).collect() })
    }

    /// What seals.
    pub(crate) fn first(&self) -> &Key {
        &self.keys[0]
    }

    pub(crate) fn find(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }
}

fn secret(line: usize, text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let length = text.chars().count();
    if length != 64 {
        return Err(KeyError::Length { line, length });
    }
    let mut secret = Zeroizing::new([0; 32]);
    for (at, digit) in text.chars().enumerate() {
        let digit = digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let digit = digit.ok_or(KeyError::Digit { line, column: at + 1 })?;
        secret[at / 2] = secret[at / 2] << 4 | digit;
    }
    let is_weak = secret.iter().all(|byte| *byte == secret[0]);
    if is_weak { Err(KeyError::Weak { line }) } else { Ok(secret) }
}

impl Key {
    fn new(secret: &[u8]) -> Key {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"ratatosk cluster 1").extract(secret);
        let mut id = KeyId::default();
        let okm = root.expand(&[b"id"], Length(id.len())).expect("a short output");
        okm.fill(&mut id).expect("the length asked for");
        Key { id, root }
    }

    /// The key of one use, told apart from all others by `info`.
    pub(crate) fn derive(&self, info: &[&[u8]]) -> aead::LessSafeKey {
        let okm = self.root.expand(info, &aead::CHACHA20_POLY1305).expect("a short output");
        aead::LessSafeKey::new(okm.into())
    }
}

/// The nonce of a counter. No counter is used twice with one key.
pub(crate) fn nonce(counter: u64) -> aead::Nonce {
    let mut bytes = [0; aead::NONCE_LEN];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    aead::Nonce::assume_unique_for_key(bytes)
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "KeyRing({} keys)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const TWO: &str = "100102030405060708090A0B0C0D0E0F101112131415161718191a1b1c1d1e1f";

    fn error(text: &str) -> KeyError {
        KeyRing::parse(text).expect_err("is refused")
    }

    /// CLU-012: keys come from a file; what is wrong with it is said by line, without its contents.
    #[test]
    fn a_key_file_says_by_line_what_is_wrong_with_it() {
        let ring = KeyRing::parse(&format!("# the cluster's\n\n {ONE} \r\n{TWO}\n")).expect("two");
        assert_eq!(ring.keys.len(), 2);
        assert_eq!(ring.first().id, KeyRing::parse(ONE).expect("one").first().id);
        assert_eq!(error(""), KeyError::Empty);
        assert_eq!(error("# nothing\n"), KeyError::Empty);
        assert_eq!(error("abc"), KeyError::Length { line: 1, length: 3 });
        assert_eq!(error(&format!("\n{}x", &ONE[1..])), KeyError::Digit { line: 2, column: 64 });
        assert_eq!(error(&"é".repeat(64)), KeyError::Digit { line: 1, column: 1 });
        assert_eq!(error(&"ab".repeat(32)), KeyError::Weak { line: 1 });
        assert_eq!(error(&format!("{ONE}\n{ONE}")), KeyError::Repeated { line: 2, first: 1 });
        let many: String = (0..9).map(|at| format!("{at}{}\n", &ONE[1..])).collect();
        assert_eq!(error(&many), KeyError::TooMany { line: 9 });
        assert!(!format!("{ring:?} {}", error(&ONE[1..])).contains("1f"));
    }

    #[test]
    fn keys_of_different_uses_open_nothing_of_each_other() {
        let ring = KeyRing::parse(ONE).expect("one");
        let seal = ring.first().derive(&[b"a"]);
        let mut bytes = b"text".to_vec();
        seal.seal_in_place_append_tag(nonce(1), aead::Aad::empty(), &mut bytes).expect("sealed");
        let open = |info: &[u8], counter| {
            let mut bytes = bytes.clone();
            let key = ring.first().derive(&[info]);
            key.open_in_place(nonce(counter), aead::Aad::empty(), &mut bytes).is_ok()
        };
        assert!(open(b"a", 1));
        assert!(!open(b"b", 1));
        assert!(!open(b"a", 2));
    }
}
