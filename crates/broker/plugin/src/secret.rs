//! Bytes that must not be seen: a password, a token, the data of an authentication exchange.
//!
//! A `Secret` never prints its bytes, compares in constant time, and is wiped when dropped. It
//! cannot keep copies from being made by others: the read buffer that it came from is not its
//! business.

use std::fmt;

use zeroize::Zeroize;

/// Bytes that are wiped when dropped and never printed.
#[derive(Clone, Default)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes. Whoever asks answers for where they go.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        equal_in_constant_time(&self.0, &other.0)
    }
}

impl Eq for Secret {}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

/// Compares without telling by its time where the first difference is. The length is no secret.
pub(crate) fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let difference = left.iter().zip(right).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SEC-007: a secret prints as a fixed word, whatever it holds.
    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::from("hunter2");
        assert_eq!(
            format!("{secret:?} {:?} {secret:#?}", Some(&secret)),
            "[secret] Some([secret]) [secret]"
        );
    }

    #[test]
    fn comparison_sees_every_byte_and_the_length() {
        assert_eq!(Secret::from("abc"), Secret::from("abc"));
        for other in ["abd", "bbc", "ab", "abcd", ""] {
            assert_ne!(Secret::from("abc"), Secret::from(other), "{other}");
        }
    }
}
