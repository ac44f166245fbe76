//! Handlers of a pipeline: begun in order, at work beside each other, answered in order.

use std::task::Context;

use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt, future};

use crate::error::Error;
use crate::service::BoxFuture;

/// Answers that are still to come, in order.
pub(crate) struct Ordered<A> {
    futures: FuturesOrdered<BoxFuture<Result<A, Error>>>,
}

impl<A: Send + 'static> Ordered<A> {
    pub(crate) fn new() -> Self {
        Self { futures: FuturesOrdered::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.futures.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.futures.is_empty()
    }

    /// Begins the handler, now: what it does before it waits is done behind those before it.
    pub(crate) fn push(&mut self, mut handler: BoxFuture<Result<A, Error>>) {
        // Whoever is woken by nobody is polled again: a future that is pushed is polled first.
        let begun = handler.poll_unpin(&mut Context::from_waker(std::task::Waker::noop()));
        self.futures.push_back(match begun {
            std::task::Poll::Ready(result) => Box::pin(future::ready(result)),
            std::task::Poll::Pending => handler,
        });
    }

    /// The next answer; never when there is none to come. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<A, Error> {
        match self.futures.next().await {
            Some(answer) => answer,
            None => future::pending().await,
        }
    }
}
