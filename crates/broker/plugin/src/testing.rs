//! What the tests of this crate share.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use parking_lot::Mutex;
use ratatosk_codec::ProtocolVersion;

use crate::answer::{Answer, BoxFuture};
use crate::auth::{AuthRequest, AuthStage, ConnectionId};
use crate::host::Timer;
use crate::permission::Identity;

/// A request of a client without credentials, called `client_id`.
pub(crate) fn request(client_id: &str) -> AuthRequest {
    AuthRequest {
        version: ProtocolVersion::V5,
        client_id: client_id.into(),
        username: None,
        password: None,
        certificate: None,
        peer: ([127, 0, 0, 1], 50_000).into(),
        listener: "mqtt".into(),
        connection: ConnectionId(1),
        user_properties: Vec::new(),
        wants_response_information: false,
        method: None,
        data: None,
        stage: AuthStage::Connect,
    }
}

/// An ordinary client.
pub(crate) fn identity(user: &str, client_id: &str) -> Identity {
    Identity {
        tenant: "default".into(),
        user: user.into(),
        client_id: client_id.into(),
        attributes: Arc::new([]),
        superuser: false,
    }
}

/// The answer, now or later.
pub(crate) fn resolve<T: Send + 'static>(answer: Answer<T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(answer.wait());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}

/// Runs what is expected to panic inside, without the noise of the panic's report.
///
/// The hook is the process's; tests that use it take turns.
pub(crate) fn quietly<T>(run: impl FnOnce() -> T) -> T {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = run();
    std::panic::set_hook(hook);
    result
}

/// A timer whose time passes only when a test says so.
#[derive(Default)]
pub(crate) struct ManualTimer(Arc<Mutex<ManualTime>>);

#[derive(Default)]
struct ManualTime {
    now: Duration,
    sleepers: Vec<(Duration, Waker)>,
}

impl ManualTimer {
    /// Lets time pass and wakes who slept until then.
    pub(crate) fn advance(&self, span: Duration) {
        let mut time = self.0.lock();
        time.now += span;
        let now = time.now;
        let (due, later) = time.sleepers.drain(..).partition(|(until, _)| *until <= now);
        time.sleepers = later;
        drop(time);
        let due: Vec<(Duration, Waker)> = due;
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// How many sleepers there are.
    pub(crate) fn sleeping(&self) -> usize {
        self.0.lock().sleepers.len()
    }

    /// Waits on another thread until somebody sleeps, then lets the time pass.
    pub(crate) fn tick_in_background(self: &Arc<Self>, span: Duration) -> JoinHandle<()> {
        let timer = self.clone();
        std::thread::spawn(move || {
            while timer.sleeping() == 0 {
                std::thread::yield_now();
            }
            timer.advance(span);
        })
    }
}

impl Timer for ManualTimer {
    fn now(&self) -> Duration {
        self.0.lock().now
    }

    fn sleep(&self, span: Duration) -> BoxFuture<()> {
        let time = self.0.clone();
        let until = time.lock().now + span;
        Box::pin(std::future::poll_fn(move |context| {
            let mut time = time.lock();
            if time.now >= until {
                return Poll::Ready(());
            }
            time.sleepers.push((until, context.waker().clone()));
            Poll::Pending
        }))
    }
}

/// A directory that is gone with its owner.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ratatosk-plugin-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What stays behind hurts nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
