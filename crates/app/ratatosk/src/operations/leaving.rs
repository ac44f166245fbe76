//! A node that leaves: its store is emptied, then its process ends as by an order to stop.

use std::sync::Weak;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use ratatosk_admin::cluster::Refused;
use ratatosk_balance::landscape::{Standing, StoreId};

use super::Parts;

/// How often it is looked what is left. Nobody tells.
const LOOK: Duration = Duration::from_millis(200);

/// Waits on a thread of its own until the store is empty. Dropped, it is taken back.
pub(super) struct Leaving {
    taking_back: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Leaving {
    pub(super) fn start(parts: Weak<Parts>, store: StoreId) -> Result<Self, Refused> {
        let (taking_back, taken_back) = mpsc::sync_channel::<()>(1);
        let work = move || {
            while taken_back.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let Some(parts) = parts.upgrade() else { return };
                if parts.is_empty(store) {
                    tracing::info!("the store is empty: this node leaves the cluster");
                    return end();
                }
            }
        };
        let thread = std::thread::Builder::new().name("leaving".to_owned()).spawn(work);
        let thread = thread.map_err(|error| {
            Refused::Unavailable(format!("cannot start a thread to leave with: {error}"))
        })?;
        Ok(Self { taking_back: Some(taking_back), thread: Some(thread) })
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        drop(self.taking_back.take());
        let Some(thread) = self.thread.take() else { return };
        // It may be the one that lets go of the last of all this.
        if thread.thread().id() != std::thread::current().id() {
            // Its panic was told already.
            let _ = thread.join();
        }
    }
}

impl Parts {
    /// Whether a store that is marked has nothing any more, by what is told.
    fn is_empty(&self, store: StoreId) -> bool {
        let landscape = self.words.landscape();
        let Some(held) = landscape.stores.get(&store) else { return false };
        // The mark may be on its way still.
        let is_marked = held.standing != Standing::Member;
        is_marked && held.replicas.is_empty() && self.drain(&landscape, store).is_over()
    }
}

/// Has the process stop as a service manager would, so that there is one way to stop.
fn end() {
    let process = rustix::process::getpid();
    if let Err(error) = rustix::process::kill_process(process, rustix::process::Signal::TERM) {
        tracing::error!(%error, "this process cannot tell itself to stop: stop it");
    }
}
