//! What all clients share: the history, and the gate that says which brokers are there.
//!
//! There is one broker, or several of one cluster, each behind a *door*. Clients of several are
//! each at one of them, go to another when they lose it, and take turns at all.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::history::{ClientIndex, History, What};

/// How long a client waits for an answer of a broker that lives. It is a bound against standing
/// still: the machine may be busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long it waits for one that is being harmed, before it goes elsewhere.
const PATIENCE_HARMED: Duration = Duration::from_secs(3);

/// What clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only the probe is let in.
    Inspect,
    /// All do as they like.
    Load,
    /// Nothing new is begun, everybody is connected and takes what there is.
    Drain,
}

impl Mode {
    /// Whether all are let in.
    fn is_open(self) -> bool {
        matches!(self, Mode::Load | Mode::Drain)
    }
}

/// What can be expected of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It serves.
    Open,
    /// It is there for its clients, but may not be able to serve: nobody goes there, and nobody is
    /// surprised who loses it.
    Harmed,
    /// The same, and no packet goes to or from its clients: they notice by their keep-alive.
    Dark,
    /// It is not there.
    Closed,
}

/// A broker, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it is there.
    pub access: Access,
    /// Grows whenever something was done to it: who was connected before may lose it any time.
    pub epoch: u32,
    /// Connections of epochs before this one are ended by their clients.
    cut_below: u32,
}

/// What clients are to do, and with which brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// What they are to do.
    pub mode: Mode,
    /// The brokers; none ever goes.
    pub doors: Vec<Door>,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Which door it is behind, from 0.
    pub door: usize,
    /// That door's epoch when it came.
    pub epoch: u32,
}

impl Gate {
    /// The door of a seat.
    pub(crate) fn door(&self, seat: Seat) -> Door {
        self.doors[seat.door]
    }

    /// Whether a client has to end its connection, for the network has failed.
    pub(crate) fn is_cut(&self, seat: Seat) -> bool {
        seat.epoch < self.door(seat).cut_below
    }

    /// Whether nobody is surprised by the end of a connection.
    fn is_excused(&self, seat: Seat) -> bool {
        let door = self.door(seat);
        door.epoch != seat.epoch || door.access != Access::Open
    }
}

/// What all clients share.
#[derive(Debug)]
pub struct Stage {
    /// What they did and saw.
    pub history: RefCell<History>,
    started: Instant,
    gate: watch::Sender<Gate>,
    /// Where each client was last.
    last: RefCell<HashMap<ClientIndex, usize>>,
    progress: Notify,
}

impl Stage {
    /// A stage with these brokers, none of which is there yet.
    #[must_use]
    pub fn new(history: History, addresses: &[SocketAddr]) -> Stage {
        let doors = addresses.iter().map(|address| closed(*address)).collect();
        let (gate, _) = watch::channel(Gate { mode: Mode::Inspect, doors });
        Stage {
            history: RefCell::new(history),
            started: Instant::now(),
            gate,
            last: RefCell::default(),
            progress: Notify::new(),
        }
    }

    /// Another broker, which is not there yet. Gives its number.
    pub fn add_door(&self, address: SocketAddr) -> usize {
        self.gate.send_modify(|gate| gate.doors.push(closed(address)));
        self.gate.borrow().doors.len() - 1
    }

    /// How long the stage stands.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Writes down what happened to a client.
    pub fn record(&self, client: ClientIndex, what: What) {
        self.history.borrow_mut().record(self.elapsed(), Some(client), what);
        self.progress.notify_one();
    }

    /// Writes down what happened to a broker.
    pub fn record_broker(&self, what: What) {
        self.history.borrow_mut().record(self.elapsed(), None, what);
    }

    /// Follows what clients are to do.
    pub(crate) fn follow(&self) -> watch::Receiver<Gate> {
        self.gate.subscribe()
    }

    /// A broker as clients see it now.
    #[must_use]
    pub fn door(&self, door: usize) -> Door {
        self.gate.borrow().doors[door]
    }

    /// Something is about to be done to a broker: who loses it from now on is not surprised.
    pub fn shut(&self, door: usize, access: Access) {
        self.gate.send_modify(|gate| gate.doors[door].access = access);
    }

    /// A broker serves again, or for the first time. Who was connected to it before is not surprised
    /// to lose it.
    pub fn open(&self, door: usize) {
        self.gate.send_modify(|gate| {
            let door = &mut gate.doors[door];
            (door.access, door.epoch) = (Access::Open, door.epoch + 1);
        });
    }

    /// The same, and who was connected to it before finds that the network has failed.
    pub(crate) fn reopen(&self, door: usize) {
        self.gate.send_modify(|gate| {
            let door = &mut gate.doors[door];
            (door.access, door.epoch) = (Access::Open, door.epoch + 1);
            door.cut_below = door.epoch;
        });
    }

    /// What clients are to do from now on.
    pub fn turn(&self, mode: Mode) {
        self.gate.send_modify(|gate| gate.mode = mode);
    }

    /// Waits until all are let in and a broker serves, and gives the next one for a client: another
    /// one than last time if there is another.
    pub(crate) async fn admission(&self, client: ClientIndex) -> usize {
        let mut gate = self.follow();
        loop {
            let is_any = |door: &Door| door.access == Access::Open;
            // The sender lives as long as the stage.
            let found = gate.wait_for(|gate| gate.mode.is_open() && gate.doors.iter().any(is_any));
            let Ok(gate) = found.await else { continue };
            let count = gate.doors.len();
            let mut last = self.last.borrow_mut();
            let first = last.get(&client).map_or(client.0 as usize, |last| last + 1);
            let mut turns = (first..first + count).map(|turn| turn % count);
            if let Some(door) = turns.find(|door| is_any(&gate.doors[*door])) {
                last.insert(client, door);
                return door;
            }
        }
    }

    /// Waits until who was not let in may try again: at another broker after a while, at the same
    /// one only if something was done to it, so that it is not besieged.
    pub(crate) async fn turned_away(&self, seat: Seat, pause: Duration) {
        let mut gate = self.follow();
        let is_other = gate.wait_for(|gate| gate.door(seat).epoch != seat.epoch);
        // Either end is as good.
        let _ = match self.is_one_of_several() {
            true => timeout(pause, is_other).await.is_ok(),
            false => is_other.await.is_ok(),
        };
    }

    /// How long a client waits for an answer; `None` if there is no use in waiting.
    pub(crate) fn patience(&self, seat: Seat) -> Option<Duration> {
        match self.door(seat.door).access {
            Access::Open => Some(PATIENCE),
            Access::Harmed | Access::Dark => Some(PATIENCE_HARMED),
            Access::Closed => None,
        }
    }

    /// Whether clients can go elsewhere.
    pub(crate) fn is_one_of_several(&self) -> bool {
        self.gate.borrow().doors.len() > 1
    }

    /// Waits until nobody has anything to write down for a while, or the limit is reached.
    pub async fn quiet(&self, pause: Duration, limit: Duration) {
        let is_quiet = async { while timeout(pause, self.progress.notified()).await.is_ok() {} };
        // At the limit the caller judges what there is.
        let _ = timeout(limit, is_quiet).await;
    }

    /// Writes down why a connection ended, as a surprise if the broker lives.
    pub(crate) fn ended(&self, client: ClientIndex, seat: Seat, why: String) {
        let is_excused = self.gate.borrow().is_excused(seat);
        self.record(client, if is_excused { What::Cut } else { What::Dropped(why) });
    }

    /// Writes down that an answer did not come in time, as a surprise if the broker should serve.
    pub(crate) fn stalled(&self, client: ClientIndex, seat: Seat, what: String) {
        let is_excused = self.door(seat.door).access != Access::Open;
        self.record(client, if is_excused { What::Cut } else { What::Stalled(what) });
    }
}

fn closed(address: SocketAddr) -> Door {
    Door { address, access: Access::Closed, epoch: 0, cut_below: 0 }
}
