//! An answer that is there at once, or comes later.
//!
//! The packet path may not wait needlessly, so a provider that knows its answer gives it as a
//! plain value; only one that must ask a file, a hash or a network gives a future. The future is
//! independent of any runtime and owns all that it needs.

use std::future::Future;
use std::pin::Pin;

/// A future without a borrow, for trait objects.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// What a provider answers.
#[must_use = "an answer that comes later does nothing until it is awaited"]
pub enum Answer<T> {
    /// The answer.
    Now(T),
    /// The answer, once this completes. Dropping it gives up the question.
    Later(BoxFuture<T>),
}

impl<T: Send + 'static> Answer<T> {
    /// An answer that takes a while.
    pub fn later(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }

    /// The answer turned into another, at once if it is there.
    pub fn map<U: Send + 'static>(self, turn: impl FnOnce(T) -> U + Send + 'static) -> Answer<U> {
        match self {
            Self::Now(value) => Answer::Now(turn(value)),
            Self::Later(future) => Answer::later(async move { turn(future.await) }),
        }
    }

    /// The answer as a future, for callers that wait in any case.
    pub async fn wait(self) -> T {
        match self {
            Self::Now(value) => value,
            Self::Later(future) => future.await,
        }
    }
}
