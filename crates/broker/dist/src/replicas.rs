//! Where every node has the routes of persistent sessions: as the ranges' replicas here have applied them.
//!
//! Nothing is decided in the tables then. Whoever wants a route to come or to go submits that, from whatever
//! node, and is told once all replicas have it that may answer; the tables follow. So two changes of one
//! route that come from two nodes have the order of the log, whichever was asked for first.
//!
//! What may be acted upon is another question: this node's replicas may be behind. They know, and are
//! asked once for all that was read at once. DUR-012, KV-010

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use ratatosk_client::{Fate, Keyspace, Replicas, Serving};
use ratatosk_contract::dist::RouteTold;

use crate::coprocessor::Answer;
use crate::effect::Draft;

/// See the module.
#[derive(Default)]
pub(crate) struct Replication {
    keyspace: OnceLock<Arc<dyn Keyspace>>,
    /// What is here.
    pub(crate) serving: Serving,
}

impl Replication {
    /// The way to the log, and to what is here. The first one counts.
    pub(crate) fn connect(&self, keyspace: Arc<dyn Keyspace>, replicas: Box<dyn Replicas>) {
        let is_first = self.keyspace.set(keyspace).is_ok();
        debug_assert!(is_first, "a service is connected once");
        self.serving.connect(replicas);
    }

    /// The log; `None` before there is a way to it.
    pub(crate) fn keyspace(&self) -> Option<&dyn Keyspace> {
        self.keyspace.get().map(|keyspace| &**keyspace)
    }

    /// Puts commands into the log, and tells somebody what became of all. False if there is no way to it:
    /// then nobody is told.
    pub(crate) fn submit(&self, drafts: Vec<Draft<'_>>, told: RouteTold) -> bool {
        let Some(keyspace) = self.keyspace() else { return false };
        let told = Arc::new(Joint {
            open: AtomicUsize::new(drafts.len()),
            is_done: AtomicBool::new(true),
            told: Mutex::new(Some(told)),
        });
        for draft in drafts {
            let ((key, command), told) = (draft.finish(), Arc::clone(&told));
            keyspace.submit(&key, command, Box::new(move |fate| told.add(&fate)));
        }
        true
    }
}

/// Who is told of several commands.
struct Joint {
    open: AtomicUsize,
    is_done: AtomicBool,
    told: Mutex<Option<RouteTold>>,
}

impl Joint {
    fn add(&self, fate: &Fate) {
        let is_done = matches!(fate, Fate::Applied(answer) if Answer::is_done(answer));
        self.is_done.fetch_and(is_done, Ordering::AcqRel);
        if self.open.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let told = self.told.lock().take();
        if let Some(told) = told {
            told(self.is_done.load(Ordering::Acquire));
        }
    }
}

impl fmt::Debug for Replication {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Replication").finish_non_exhaustive()
    }
}
