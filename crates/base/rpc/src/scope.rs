//! Tasks that end together. Those of a node are all spawned in one, and none outlives the node:
//!
//! | task | lives as long as |
//! | --- | --- |
//! | the acceptor of a listener | the listener |
//! | one for each connection that came in | the connection |
//! | one for each call on such a connection | the call |
//! | one for each connection that was made | its server is in a landscape |
//! | one for each service that is called | the node |
//! | one for each pipeline, one for each opening of a stream | the pipeline, the opening |

use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Tasks that end together, on one runtime, whoever spawns them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TaskScope {
    runtime: Handle,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl TaskScope {
    /// A scope without tasks, on this runtime.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, tracker: TaskTracker::new(), token: CancellationToken::new() }
    }

    /// Runs a task until it ends or the scope does; then it is dropped at its next await.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        let task = async move {
            // Both are cancel-safe: what is dropped is never polled again.
            tokio::select! {
                biased;
                () = token.cancelled() => {}
                () = task => {}
            }
        };
        self.tracker.spawn_on(task, &self.runtime);
    }

    /// Ends all tasks when it is dropped.
    #[must_use]
    pub fn guard(&self) -> DropGuard {
        self.token.clone().drop_guard()
    }

    /// Ends all tasks and waits until they are gone.
    pub async fn end(&self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
