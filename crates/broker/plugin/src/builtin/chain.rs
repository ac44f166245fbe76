//! Several auth providers, asked in order until one does not abstain.
//!
//! A denial ends the chain like a grant does: who fails with a password is not let in as
//! anonymous.

use std::sync::Arc;

use crate::answer::Answer;
use crate::auth::{AuthExchange, AuthProvider, AuthRequest, AuthResult};
use crate::plugin::Plugin;

/// A chain of auth providers.
#[derive(Clone)]
pub struct Chain {
    providers: Arc<[Arc<dyn AuthProvider>]>,
}

impl Chain {
    /// A chain that asks in this order. An empty one abstains always.
    pub fn new(providers: impl IntoIterator<Item = Arc<dyn AuthProvider>>) -> Self {
        Self { providers: providers.into_iter().collect() }
    }
}

impl Plugin for Chain {
    fn name(&self) -> &str {
        "chain"
    }

    fn start(&self) -> anyhow::Result<()> {
        for (index, provider) in self.providers.iter().enumerate() {
            if let Err(error) = provider.start() {
                self.providers[..index].iter().for_each(|started| started.stop());
                return Err(error.context(format!("auth provider {}", provider.name())));
            }
        }
        Ok(())
    }

    /// Reloads all; the first error is reported after the last of them had its turn.
    fn reload(&self) -> anyhow::Result<()> {
        self.providers.iter().map(|provider| provider.reload()).fold(Ok(()), Result::and)
    }

    fn stop(&self) {
        self.providers.iter().for_each(|provider| provider.stop());
    }
}

impl AuthProvider for Chain {
    fn authenticate(&self, request: AuthRequest) -> Answer<AuthResult> {
        ask(self.providers.clone(), 0, request)
    }

    fn begin(&self, request: &AuthRequest) -> Option<Box<dyn AuthExchange>> {
        self.providers.iter().find_map(|provider| provider.begin(request))
    }

    fn epoch(&self) -> u64 {
        self.providers.iter().map(|provider| provider.epoch()).sum()
    }
}

fn ask(
    providers: Arc<[Arc<dyn AuthProvider>]>,
    first: usize,
    request: AuthRequest,
) -> Answer<AuthResult> {
    for index in first..providers.len() {
        match providers[index].authenticate(request.clone()) {
            Answer::Now(AuthResult::Abstained) => {}
            Answer::Now(result) => return Answer::Now(result),
            Answer::Later(later) => {
                return Answer::later(async move {
                    match later.await {
                        AuthResult::Abstained => ask(providers, index + 1, request).wait().await,
                        result => result,
                    }
                });
            }
        }
    }
    Answer::Now(AuthResult::Abstained)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{DenialReason, Grant};
    use crate::testing::{request, resolve};

    struct Fixed {
        result: AuthResult,
        later: bool,
    }

    impl Plugin for Fixed {
        fn name(&self) -> &str {
            "fixed"
        }
    }

    impl AuthProvider for Fixed {
        fn authenticate(&self, _request: AuthRequest) -> Answer<AuthResult> {
            let result = self.result.clone();
            if self.later {
                return Answer::later(async { result });
            }
            Answer::Now(result)
        }

        fn epoch(&self) -> u64 {
            1
        }
    }

    fn granted(user: &str) -> AuthResult {
        AuthResult::Granted(Grant { user: user.to_owned(), ..Grant::default() })
    }

    fn check(results: &[AuthResult], expected: &AuthResult) {
        for later in [false, true] {
            let providers =
                results.iter().map(|result| Arc::new(Fixed { result: result.clone(), later }) as _);
            let chain = Chain::new(providers);
            assert_eq!(&resolve(chain.authenticate(request("c"))), expected, "{results:?}");
            assert_eq!(chain.epoch(), results.len() as u64);
        }
    }

    #[test]
    fn the_first_that_does_not_abstain_decides() {
        let denied = AuthResult::denied(DenialReason::BadPassword, "wrong");
        let abstained = AuthResult::Abstained;
        check(&[], &abstained);
        check(&[abstained.clone(), abstained.clone()], &abstained);
        check(&[abstained.clone(), granted("a"), granted("b")], &granted("a"));
        check(&[abstained.clone(), denied.clone(), granted("b")], &denied);
        check(&[granted("a"), denied], &granted("a"));
    }
}
