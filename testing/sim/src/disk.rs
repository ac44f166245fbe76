//! A disk with two files, the log's and the engine's, that forgets what was not synced, and a folder for
//! what no crash is to leave.
//!
//! What is written is seen at once by the process and by the next one, if only the process dies.
//! When the power goes, each file keeps some of its unsynced batches, from the first one on, and the
//! two know nothing of each other: what is younger in one may be there while what is older in the
//! other is gone. A write may fail, which leaves its batch among the unsynced ones; from then on
//! nothing is written until the process was started again.

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use parking_lot::Mutex;
use ratatosk_testkit::dice::Dice;

use crate::engine::SimEngine;
use crate::folder::SimFolder;
use crate::log::SimLog;
use crate::planted::Planted;

/// See the module.
pub(crate) struct Disk {
    pub(crate) power: Arc<Power>,
    pub(crate) log: Arc<SimLog>,
    pub(crate) engine: SimEngine,
    pub(crate) folder: SimFolder,
    /// Whether a store was whole here once: a file that is replaced as a whole.
    pub(crate) has_identity: bool,
}

/// What goes down.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process: all that was written is there, and synced only by a later sync.
    Process,
    /// The machine: what was not synced is gone from some batch on, in each file.
    Machine,
}

/// Whether the disk takes writes.
#[derive(Debug, Default)]
pub(crate) struct Power(Mutex<State>);

#[derive(Copy, Clone, Debug, Default)]
enum State {
    #[default]
    Good,
    /// So many writes and syncs, then one fails.
    Armed(usize),
    Full,
    Failed,
}

/// What becomes of a write.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It succeeds.
    Done,
    /// It fails on its way: perhaps all of it is on the disk.
    Torn,
    /// It fails, and nothing of it is on the disk.
    Refused,
}

impl Disk {
    /// An empty one.
    pub(crate) fn new(planted: Option<Planted>) -> Self {
        let power = Arc::new(Power::default());
        let log = Arc::new(SimLog::new(Arc::clone(&power), planted));
        let engine = SimEngine::new(Arc::clone(&power), planted);
        let folder = SimFolder::new(Arc::clone(&power));
        Disk { power, log, engine, folder, has_identity: false }
    }

    /// Leaves what a crash leaves, and takes writes again, but perhaps if it was full.
    pub(crate) fn crash(&mut self, crash: Crash, dice: &mut Dice) -> String {
        let mut lost = String::new();
        if crash == Crash::Machine {
            let (log, engine) = (self.log.lose(dice), self.engine.lose(dice));
            self.folder.lose(dice);
            lost = format!(", the log lost {log} batches and the engine {engine}");
        }
        let mut state = self.power.0.lock();
        if !(matches!(*state, State::Full) && dice.once_in(2)) {
            *state = State::Good;
        }
        lost
    }

    /// Another disk with the same content, all of it synced, without faults.
    pub(crate) fn copy(&self) -> Self {
        let power = Arc::new(Power::default());
        let log = Arc::new(self.log.copy(Arc::clone(&power)));
        let engine = self.engine.copy(Arc::clone(&power));
        let folder = SimFolder::new(Arc::clone(&power));
        Disk { power, log, engine, folder, has_identity: self.has_identity }
    }
}

impl Power {
    /// Lets the write or sync after so many fail.
    pub(crate) fn arm(&self, count: usize) {
        let mut state = self.0.lock();
        if matches!(*state, State::Good) {
            *state = State::Armed(count);
        }
    }

    /// Refuses everything, for there is no room.
    pub(crate) fn fill(&self) {
        *self.0.lock() = State::Full;
    }

    /// Takes writes from now on.
    pub(crate) fn mend(&self) {
        *self.0.lock() = State::Good;
    }

    /// Whether it refused something, or would.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(*self.0.lock(), State::Full | State::Failed)
    }

    /// One write or sync.
    pub(crate) fn spend(&self) -> Fate {
        let mut state = self.0.lock();
        match *state {
            State::Good => Fate::Done,
            State::Armed(0) => {
                *state = State::Failed;
                Fate::Torn
            }
            State::Armed(count) => {
                *state = State::Armed(count - 1);
                Fate::Done
            }
            State::Full | State::Failed => Fate::Refused,
        }
    }
}

/// What the system says of a write that failed.
pub(crate) fn failed() -> Error {
    Error::new(ErrorKind::StorageFull, "the simulated disk takes no more")
}
