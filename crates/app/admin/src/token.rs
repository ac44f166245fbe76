//! The bearer token of the API: never printed, compared in constant time.

use std::fmt;

const LENGTH_MIN: usize = 16;
const LENGTH_MAX: usize = 1024;

/// The token that a caller must present.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: Box<str>,
}

/// The operator's token cannot be used. The message does not show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Short tokens are guessed, very long ones do not fit into a header.
    #[error("a token has {LENGTH_MIN} to {LENGTH_MAX} characters, this one has {length}")]
    Length {
        /// Its length.
        length: usize,
    },
    /// A header cannot carry it.
    #[error("a token consists of printable ascii characters without spaces")]
    Characters,
}

impl Token {
    /// Takes a token that can be sent in a header and not be guessed.
    ///
    /// # Errors
    /// [`TokenError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if !(LENGTH_MIN..=LENGTH_MAX).contains(&text.len()) {
            return Err(TokenError::Length { length: text.len() });
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Characters);
        }
        Ok(Self { text: text.into() })
    }

    /// Its text, for whoever presents it to an API.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Compares without telling by its time where the difference is. The length is no secret.
    #[must_use]
    pub fn admits(&self, presented: &[u8]) -> bool {
        let expected = self.text.as_bytes();
        if expected.len() != presented.len() {
            return false;
        }
        let difference = expected.iter().zip(presented).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(<secret>)")
    }
}

#[cfg(test)]
mod tests {
    use super::{Token, TokenError};

    /// SEC-007: neither the token nor an error about it shows it.
    #[test]
    fn a_token_is_never_printed() {
        let token = Token::parse("correct-horse-battery").unwrap();
        assert!(!format!("{token:?}").contains("horse"));
        let error = Token::parse("horse battery staple").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("horse"));
    }

    #[test]
    fn only_the_same_bytes_are_admitted() {
        let token = Token::parse("0123456789abcdef").unwrap();
        assert!(token.admits(b"0123456789abcdef"));
        for other in [&b"0123456789abcdeg"[..], b"1123456789abcdef", b"0123456789abcde", b""] {
            assert!(!token.admits(other));
        }
    }

    #[test]
    fn tokens_that_are_guessed_or_do_not_fit_are_refused() {
        assert_eq!(Token::parse("short"), Err(TokenError::Length { length: 5 }));
        assert_eq!(Token::parse(&"x".repeat(2000)), Err(TokenError::Length { length: 2000 }));
        assert_eq!(Token::parse("with a space inside"), Err(TokenError::Characters));
    }
}
