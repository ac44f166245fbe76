//! The bound of one call: contained panics, a deadline, a limit of answers awaited, counters.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use super::Timer;
use crate::answer::{Answer, BoxFuture};

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Panicked,
    TimedOut,
    Crowded,
}

impl Failure {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Panicked => "provider panicked",
            Self::TimedOut => "provider did not answer in time",
            Self::Crowded => "too many answers are awaited from the provider",
        }
    }
}

/// How the calls of one kind went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// Calls made.
    pub calls: u64,
    /// Calls that ended in a panic.
    pub panics: u64,
    /// Calls whose answer did not come in time.
    pub timeouts: u64,
    /// Calls that were refused because too many answers were awaited.
    pub refusals: u64,
    /// Nanoseconds from question to answer, summed over calls that were answered.
    pub nanos: u64,
    /// Answers that are awaited now.
    pub pending: u32,
}

impl CallCounts {
    /// Calls without an answer, for whatever reason.
    pub fn failures(&self) -> u64 {
        self.panics + self.timeouts + self.refusals
    }
}

/// Bounds and counts the calls of one kind.
pub(super) struct Calls {
    timer: Arc<dyn Timer>,
    timeout: Duration,
    pending_max: u32,
    calls: AtomicU64,
    panics: AtomicU64,
    timeouts: AtomicU64,
    refusals: AtomicU64,
    nanos: AtomicU64,
    pending: AtomicU32,
}

impl Calls {
    pub(super) fn new(timer: Arc<dyn Timer>, timeout: Duration, pending_max: u32) -> Self {
        Self {
            timer,
            timeout,
            pending_max,
            calls: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            pending: AtomicU32::new(0),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.timer.now()
    }

    /// Asks, and waits for the answer under the bounds.
    pub(super) fn run<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce() -> Answer<T>,
    ) -> Answer<Result<T, Failure>> {
        let asked_at = self.timer.now();
        self.calls.fetch_add(1, Ordering::Relaxed);
        match contained(ask) {
            Err(failure) => Answer::Now(self.done(asked_at, Err(failure))),
            Ok(Answer::Now(value)) => Answer::Now(self.done(asked_at, Ok(value))),
            Ok(Answer::Later(future)) => {
                let Some(pending) = Pending::enter(self) else {
                    return Answer::Now(self.done(asked_at, Err(Failure::Crowded)));
                };
                Answer::later(async move {
                    let deadline = pending.0.timer.sleep(pending.0.timeout);
                    let outcome = Bounded { future, deadline }.await;
                    pending.0.done(asked_at, outcome)
                })
            }
        }
    }

    fn done<T>(&self, asked_at: Duration, outcome: Result<T, Failure>) -> Result<T, Failure> {
        let (counter, amount) = match outcome {
            Err(Failure::Panicked) => (&self.panics, 1),
            Err(Failure::TimedOut) => (&self.timeouts, 1),
            Err(Failure::Crowded) => (&self.refusals, 1),
            Ok(_) => {
                let span = self.timer.now().saturating_sub(asked_at);
                (&self.nanos, u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
            }
        };
        counter.fetch_add(amount, Ordering::Relaxed);
        outcome
    }

    pub(super) fn counts(&self) -> CallCounts {
        CallCounts {
            calls: self.calls.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
            timeouts: self.timeouts.load(Ordering::Relaxed),
            refusals: self.refusals.load(Ordering::Relaxed),
            nanos: self.nanos.load(Ordering::Relaxed),
            pending: self.pending.load(Ordering::Relaxed),
        }
    }
}

/// A place among the awaited answers; given back when the answer came or nobody waits any more.
struct Pending(Arc<Calls>);

impl Pending {
    fn enter(calls: &Arc<Calls>) -> Option<Self> {
        let before = calls.pending.fetch_add(1, Ordering::Relaxed);
        let entered = Self(calls.clone());
        // Dropping the place takes the count back.
        (before < calls.pending_max).then_some(entered)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a call of a provider; a panic in it is a failure of the provider alone.
pub(super) fn contained<T>(ask: impl FnOnce() -> T) -> Result<T, Failure> {
    // What a provider leaves inconsistent by its panic is its own state, not the host's.
    catch_unwind(AssertUnwindSafe(ask)).map_err(|_| Failure::Panicked)
}

/// The answer, a panic of its maker, or the deadline, whichever comes first.
struct Bounded<T> {
    future: BoxFuture<T>,
    deadline: BoxFuture<()>,
}

impl<T> Future for Bounded<T> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match contained(|| self.future.as_mut().poll(context)) {
            Err(failure) => return Poll::Ready(Err(failure)),
            Ok(Poll::Ready(value)) => return Poll::Ready(Ok(value)),
            Ok(Poll::Pending) => {}
        }
        self.deadline.as_mut().poll(context).map(|()| Err(Failure::TimedOut))
    }
}
