//! Handlers of a pipeline: begun in order, at work beside each other, answered in order.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt, future};

use crate::error::Error;
use crate::service::BoxFuture;

/// Answers that are still to come, in order: those of `ready`, then those of `futures`.
pub(crate) struct Ordered<A> {
    /// Handlers that never waited, and had nobody waiting before them.
    ready: VecDeque<Result<A, Error>>,
    futures: FuturesOrdered<BoxFuture<Result<A, Error>>>,
}

impl<A: Send + 'static> Ordered<A> {
    pub(crate) fn new() -> Self {
        Self { ready: VecDeque::new(), futures: FuturesOrdered::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.ready.len() + self.futures.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins the handler, now: what it does before it waits is done behind those before it.
    pub(crate) fn push(&mut self, mut handler: BoxFuture<Result<A, Error>>) {
        // Nobody is to be woken: what waits here is polled again once it lies among the others.
        match handler.poll_unpin(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) if self.futures.is_empty() => self.ready.push_back(result),
            Poll::Ready(result) => self.futures.push_back(Box::pin(future::ready(result))),
            Poll::Pending => self.futures.push_back(handler),
        }
    }

    /// The next answer; never when there is none to come. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<A, Error> {
        if let Some(result) = self.ready.pop_front() {
            return result;
        }
        match self.futures.next().await {
            Some(answer) => answer,
            None => future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::FutureExt;
    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::*;

    proptest! {
        /// RPC-007: handlers begin and are answered in order, whichever of them wait, and however
        /// pushing and taking alternate.
        #[test]
        fn handlers_begin_and_answer_in_order(
            steps in prop::collection::vec((any::<bool>(), any::<bool>()), 1..50),
        ) {
            let begun = Arc::new(Mutex::new(Vec::new()));
            let gate = Arc::new(Semaphore::new(0));
            let mut handlers = Ordered::new();
            let mut answered = Vec::new();
            for (number, (waits, takes)) in steps.iter().enumerate() {
                let (begun, gate, waits) = (Arc::clone(&begun), Arc::clone(&gate), *waits);
                handlers.push(Box::pin(async move {
                    begun.lock().expect("alone").push(number);
                    if waits {
                        gate.acquire().await.expect("open").forget();
                    }
                    Ok(number)
                }));
                if *takes {
                    answered.extend(handlers.next().now_or_never().transpose().expect("no errors"));
                }
            }
            gate.add_permits(steps.len());
            while !handlers.is_empty() {
                answered.extend(handlers.next().now_or_never().transpose().expect("no errors"));
            }
            let all: Vec<usize> = (0..steps.len()).collect();
            prop_assert_eq!(&*begun.lock().expect("alone"), &all);
            prop_assert_eq!(answered, all);
        }
    }
}
