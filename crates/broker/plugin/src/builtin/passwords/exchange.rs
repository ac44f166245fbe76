//! SCRAM-SHA-256 as an exchange of enhanced authentication, at CONNECT and again later.

use std::sync::Arc;

use super::Known;
use crate::answer::Answer;
use crate::auth::{AuthExchange, AuthResult, Challenge, DenialReason};
use crate::builtin::Tenancy;
use crate::scram::{ClientFirst, Flaw, Outcome, ServerFirst};

/// One exchange. The users are those at its begin.
pub(super) struct ScramExchange {
    known: Arc<Known>,
    tenancy: Tenancy,
    state: State,
}

enum State {
    /// Without a nonce no exchange is safe: the machine has no randomness.
    ExpectFirst {
        nonce: Option<[u8; 18]>,
    },
    ExpectLast(Box<ServerFirst>),
    Over,
}

impl ScramExchange {
    pub(super) fn new(known: Arc<Known>, tenancy: Tenancy, nonce: Option<[u8; 18]>) -> Self {
        Self { known, tenancy, state: State::ExpectFirst { nonce } }
    }

    fn advance(&mut self, data: &[u8]) -> Result<AuthResult, Flaw> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::ExpectFirst { nonce: None } => {
                Ok(AuthResult::denied(DenialReason::Error, "no randomness for a nonce"))
            }
            State::ExpectFirst { nonce: Some(nonce) } => {
                let first = ClientFirst::parse(data)?;
                let keys = self.known.users.entry(&first.user).and_then(|e| e.scram.as_ref());
                let server = ServerFirst::new(first, keys, &self.known.mock, &nonce);
                let data = server.message().as_bytes().to_vec();
                self.state = State::ExpectLast(Box::new(server));
                Ok(AuthResult::Continue(Challenge { data, ..Challenge::default() }))
            }
            State::ExpectLast(server) => Ok(match server.finish(data)? {
                Outcome::Proven { user, server_final } => {
                    let mut grant = self.tenancy.grant(&user);
                    grant.auth_data = Some(server_final.into_bytes());
                    AuthResult::Granted(grant)
                }
                Outcome::Wrong => {
                    AuthResult::denied(DenialReason::BadPassword, "unknown user or wrong password")
                }
            }),
            State::Over => Err("exchange is over"),
        }
    }
}

impl AuthExchange for ScramExchange {
    fn step(&mut self, data: &[u8]) -> Answer<AuthResult> {
        let result = self.advance(data);
        Answer::Now(
            result.unwrap_or_else(|flaw| AuthResult::denied(DenialReason::NotAuthorized, flaw)),
        )
    }
}
