//! Pauses below a millisecond, which the runtime's timer rounds up to one or two.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

/// A timer of the system for one task; where there is none to be had, the runtime's.
pub(crate) struct Pause {
    timer: Option<AsyncFd<OwnedFd>>,
}

impl Pause {
    /// Within a runtime.
    #[expect(
        deprecated,
        reason = "unsound for what changes its descriptor; this one stays, and is ours"
    )]
    pub(crate) fn new() -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let made = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(Into::into);
        let timer = made.and_then(|timer| AsyncFd::with_interest(timer, Interest::READABLE));
        let timer = timer.inspect_err(|error| tracing::warn!(%error, "pauses are longer"));
        Self { timer: timer.ok() }
    }

    /// Waits for `span`, which is below a second and not zero. Cancel-safe: the next one begins anew.
    pub(crate) async fn wait(&self, span: Duration) {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: 0, tv_nsec: span.subsec_nanos().into() };
        let setting = Itimerspec { it_interval: zero, it_value: value };
        let Some(timer) = &self.timer else { return sleep(span).await };
        // This also takes back an expiry that nobody has read.
        if timerfd_settime(timer, TimerfdTimerFlags::empty(), &setting).is_err() {
            return sleep(span).await;
        }
        let mut count = [0; 8];
        // The runtime may remember an expiry of before: then there is nothing to read.
        while let Ok(mut ready) = timer.readable().await {
            let expired = rustix::io::read(timer, &mut count).is_ok();
            ready.clear_ready();
            if expired {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn in_runtime(work: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().expect("a runtime").block_on(work);
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "it is the time of the system that is asked for")]
    fn a_pause_is_never_too_short() {
        in_runtime(async {
            let pause = Pause::new();
            for span in [Duration::from_micros(300), Duration::from_micros(900)] {
                let begin = Instant::now();
                pause.wait(span).await;
                assert!(begin.elapsed() >= span);
            }
        });
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "it is the time of the system that is asked for")]
    fn a_pause_after_one_that_was_given_up_is_as_long_as_any() {
        in_runtime(async {
            let pause = Pause::new();
            let span = Duration::from_micros(500);
            for _ in 0..20 {
                tokio::select! {
                    biased;
                    () = pause.wait(span) => panic!("it takes time"),
                    () = std::future::ready(()) => {}
                }
                std::thread::sleep(span * 2);
                let begin = Instant::now();
                pause.wait(span).await;
                assert!(begin.elapsed() >= span);
            }
        });
    }
}
