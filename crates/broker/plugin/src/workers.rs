//! A few threads for work that takes milliseconds of computing: password hashes.
//!
//! Bounded in threads and in queued jobs; what does not fit is refused at once. A job whose asker
//! has gone is skipped, so clients that connect and leave cannot pile work up.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;

use parking_lot::Mutex;

/// The job will not be done: the queue is full, the pool has stopped, or the job panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    Full,
    Stopped,
    Panicked,
}

type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads. Dropping it ends them once their current job is done.
pub(crate) struct Workers {
    queue: Mutex<Option<SyncSender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    is_stopping: Arc<AtomicBool>,
}

impl Workers {
    /// Starts the threads.
    pub(crate) fn start(name: &str, threads: usize, queue_max: usize) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel::<Job>(queue_max);
        let receiver = Arc::new(Mutex::new(receiver));
        let workers = Self {
            queue: Mutex::new(Some(sender)),
            threads: Mutex::new(Vec::new()),
            is_stopping: Arc::new(AtomicBool::new(false)),
        };
        for index in 0..threads {
            let receiver = receiver.clone();
            let is_stopping = workers.is_stopping.clone();
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || work(&receiver, &is_stopping))?;
            workers.threads.lock().push(thread);
        }
        Ok(workers)
    }

    /// Hands a job to the pool. The promise never waits for a place in the queue.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Promise<T>, Lost> {
        let slot = Arc::new(Slot { state: Mutex::new(State { outcome: None, waker: None }) });
        // Whatever becomes of the job, its keeper fulfils the promise.
        let keeper = Keeper { slot: slot.clone(), outcome: Err(Lost::Stopped) };
        let job = move || {
            let mut keeper = keeper;
            if Arc::strong_count(&keeper.slot) == 1 {
                return;
            }
            keeper.outcome = catch_unwind(AssertUnwindSafe(job)).map_err(|_| Lost::Panicked);
        };
        match self.queue.lock().as_ref().map(|queue| queue.try_send(Box::new(job))) {
            Some(Ok(())) => Ok(Promise(slot)),
            Some(Err(TrySendError::Full(_))) => Err(Lost::Full),
            Some(Err(TrySendError::Disconnected(_))) | None => Err(Lost::Stopped),
        }
    }

    /// Ends the threads; what is queued is given up.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.queue.lock().take();
        for thread in self.threads.lock().drain(..) {
            // Jobs do not unwind out of their thread; there is nothing to learn from it.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work(receiver: &Mutex<Receiver<Job>>, is_stopping: &AtomicBool) {
    loop {
        let next = receiver.lock().recv();
        match next {
            Ok(job) if !is_stopping.load(Ordering::Relaxed) => job(),
            // Dropped: its promise is told.
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// The outcome of a job, once it is done.
pub(crate) struct Promise<T>(Arc<Slot<T>>);

struct Slot<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    outcome: Option<Result<T, Lost>>,
    waker: Option<Waker>,
}

struct Keeper<T> {
    slot: Arc<Slot<T>>,
    outcome: Result<T, Lost>,
}

impl<T> Drop for Keeper<T> {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Err(Lost::Stopped));
        let mut state = self.slot.state.lock();
        state.outcome = Some(outcome);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Promise<T> {
    type Output = Result<T, Lost>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state.lock();
        if let Some(outcome) = state.outcome.take() {
            return Poll::Ready(outcome);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Answer;
    use crate::testing::{quietly, resolve};

    fn outcome<T: Send + 'static>(promise: Promise<T>) -> Result<T, Lost> {
        resolve(Answer::later(promise))
    }

    /// A pool of one thread that is busy until the returned sender says so.
    fn busy(queue_max: usize) -> (Workers, SyncSender<()>, Promise<()>) {
        let workers = Workers::start("test", 1, queue_max).unwrap();
        let (release, gate) = sync_channel::<()>(1);
        let (begun, has_begun) = sync_channel::<()>(1);
        let first = workers
            .run(move || {
                begun.send(()).unwrap();
                let _ = gate.recv();
            })
            .unwrap();
        has_begun.recv().unwrap();
        (workers, release, first)
    }

    #[test]
    fn jobs_run_and_answer() {
        let workers = Workers::start("test", 2, 8).unwrap();
        let promises: Vec<_> = (0..8).map(|n| workers.run(move || n * n).unwrap()).collect();
        let squares: Vec<_> =
            promises.into_iter().map(|promise| outcome(promise).unwrap()).collect();
        assert_eq!(squares, [0, 1, 4, 9, 16, 25, 36, 49]);
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        let (workers, release, first) = busy(1);
        let queued = workers.run(|| 1).unwrap();
        assert_eq!(workers.run(|| 2).err(), Some(Lost::Full));
        release.send(()).unwrap();
        assert_eq!(outcome(first), Ok(()));
        assert_eq!(outcome(queued), Ok(1));
    }

    #[test]
    fn a_job_that_nobody_waits_for_is_skipped() {
        let (workers, release, first) = busy(2);
        let ran = Arc::new(AtomicBool::new(false));
        let seen = ran.clone();
        drop(workers.run(move || seen.store(true, Ordering::Relaxed)).unwrap());
        let last = workers.run(|| ()).unwrap();
        release.send(()).unwrap();
        assert_eq!((outcome(first), outcome(last)), (Ok(()), Ok(())));
        assert!(!ran.load(Ordering::Relaxed));
    }

    #[test]
    fn a_panicking_job_is_lost_and_its_thread_goes_on() {
        let workers = Workers::start("test", 1, 2).unwrap();
        let job = || -> u32 { panic!("job") };
        let lost = quietly(|| outcome(workers.run(job).unwrap()));
        assert_eq!(lost, Err(Lost::Panicked));
        assert_eq!(outcome(workers.run(|| 5).unwrap()), Ok(5));
    }

    #[test]
    fn stopping_gives_up_what_is_queued() {
        let (workers, release, first) = busy(1);
        let queued = workers.run(|| 1).unwrap();
        let is_stopping = workers.is_stopping.clone();
        let releasing = std::thread::spawn(move || {
            while !is_stopping.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            release.send(()).unwrap();
        });
        workers.stop();
        releasing.join().unwrap();
        assert_eq!(outcome(first), Ok(()));
        assert_eq!(outcome(queued), Err(Lost::Stopped));
        assert_eq!(workers.run(|| 2).err(), Some(Lost::Stopped));
    }
}
