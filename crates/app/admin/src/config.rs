//! Where the API listens, and that nobody reaches it without credentials.

use std::net::{Ipv4Addr, SocketAddr};

use crate::token::Token;

/// Where to listen and what to ask for. One that exists is safe: on loopback, or with a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    address: SocketAddr,
    token: Option<Token>,
}

/// The operator's choice is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Everybody could manage the node.
    #[error("the management api at {address} can be reached by others and has no token")]
    Unprotected {
        /// Where it would listen.
        address: SocketAddr,
    },
}

impl Config {
    /// Takes an address with its token.
    ///
    /// # Errors
    /// [`ConfigError::Unprotected`] for an address beyond loopback without a token.
    pub fn new(address: SocketAddr, token: Option<Token>) -> Result<Self, ConfigError> {
        if token.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(ConfigError::Unprotected { address });
        }
        Ok(Self { address, token })
    }

    /// The default: 127.0.0.1:18083, no token.
    #[must_use]
    pub fn loopback() -> Self {
        Self { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 18083)), token: None }
    }

    /// Where to listen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The token to ask for, if there is one.
    #[must_use]
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, ConfigError, Token};

    /// SEC-004, API-001: beyond loopback the API has a token or does not exist.
    #[test]
    fn an_address_that_others_reach_needs_a_token() {
        let token = Token::parse("0123456789abcdef").unwrap();
        for address in ["0.0.0.0:18083", "192.0.2.1:80", "[::]:18083", "[2001:db8::1]:1"] {
            let address = address.parse().unwrap();
            assert_eq!(Config::new(address, None), Err(ConfigError::Unprotected { address }));
            assert!(Config::new(address, Some(token.clone())).is_ok());
        }
        for address in ["127.0.0.1:18083", "127.3.2.1:0", "[::1]:18083", "[::ffff:127.0.0.1]:1"] {
            assert!(Config::new(address.parse().unwrap(), None).is_ok(), "{address}");
        }
        assert_eq!(Config::loopback().address().to_string(), "127.0.0.1:18083");
    }
}
