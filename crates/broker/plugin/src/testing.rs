//! What the tests of this crate share.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use ratatosk_codec::ProtocolVersion;

use crate::answer::Answer;
use crate::auth::{AuthRequest, AuthStage, ConnectionId};
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
    static TURN: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _turn = TURN.lock();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = run();
    std::panic::set_hook(hook);
    result
}
