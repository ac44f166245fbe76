//! What all clients share: the history, and the gate that says whether the broker is there.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::history::{ClientIndex, History, What};

/// How long a client waits for an answer of a broker that lives. It is a bound against standing
/// still: the machine may be busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// There is no broker.
    Closed,
    /// Only the probe is let in.
    Inspect,
    /// All do as they like.
    Load,
    /// Nothing new is begun, everybody is connected and takes what there is.
    Drain,
}

impl Mode {
    /// Whether all are let in.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Mode::Load | Mode::Drain)
    }
}

/// What clients are to do, and with which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gate {
    pub(crate) mode: Mode,
    /// The how-manieth process it is.
    pub(crate) epoch: u32,
}

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) history: RefCell<History>,
    pub(crate) address: SocketAddr,
    started: Instant,
    gate: watch::Sender<Gate>,
    progress: Notify,
}

impl Stage {
    pub(crate) fn new(history: History, address: SocketAddr) -> Stage {
        let (gate, _) = watch::channel(Gate { mode: Mode::Closed, epoch: 0 });
        Stage {
            history: RefCell::new(history),
            address,
            started: Instant::now(),
            gate,
            progress: Notify::new(),
        }
    }

    /// Writes down what happened to a client.
    pub(crate) fn record(&self, client: ClientIndex, what: What) {
        self.history.borrow_mut().record(self.started.elapsed(), Some(client), what);
        self.progress.notify_one();
    }

    /// Writes down what happened to the broker.
    pub(crate) fn record_broker(&self, what: What) {
        self.history.borrow_mut().record(self.started.elapsed(), None, what);
    }

    /// What clients are to do now.
    pub(crate) fn gate(&self) -> Gate {
        *self.gate.borrow()
    }

    /// Follows what clients are to do.
    pub(crate) fn follow(&self) -> watch::Receiver<Gate> {
        self.gate.subscribe()
    }

    /// The broker will be killed: who loses a connection from now on is not surprised.
    pub(crate) fn close(&self) {
        self.gate.send_modify(|gate| gate.mode = Mode::Closed);
    }

    /// A new broker is there, for the probe alone.
    pub(crate) fn inspect(&self) {
        self.gate.send_modify(|gate| *gate = Gate { mode: Mode::Inspect, epoch: gate.epoch + 1 });
    }

    /// Another mode with the same broker.
    pub(crate) fn turn(&self, mode: Mode) {
        self.gate.send_modify(|gate| gate.mode = mode);
    }

    /// Waits until nobody has anything to write down for a while, or the limit is reached.
    pub(crate) async fn quiet(&self, pause: Duration, limit: Duration) {
        let is_quiet = async { while timeout(pause, self.progress.notified()).await.is_ok() {} };
        // At the limit the caller judges what there is.
        let _ = timeout(limit, is_quiet).await;
    }

    /// Writes down why a connection ended, as a surprise if the broker lives.
    pub(crate) fn ended(&self, client: ClientIndex, epoch: u32, why: String) {
        let gate = self.gate();
        let is_killed = gate.epoch != epoch || gate.mode == Mode::Closed;
        self.record(client, if is_killed { What::Cut } else { What::Dropped(why) });
    }
}
