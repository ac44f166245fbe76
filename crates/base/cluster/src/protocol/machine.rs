//! A host of the cluster as a state machine: who the others are, what runs on them, what is shared.
//!
//! What came in goes into [`Machine::step`], what the process itself wants into methods of their own;
//! both leave in [`Effects`] what is to be done. Time, random numbers and addresses are arguments.
//!
//! - *gate*: opens datagrams; the handshake, replays, refusals
//! - *inbound*: takes what is in them
//! - *exchange*: frames over connections
//! - *rounds*: what is done from time to time
//! - *orders*: what the process itself wants
//!
//! Always: members `known` = those that SWIM counts as alive; a body that was sent fits a datagram, a
//! frame fits [`FRAME_MAX`](super::frame::FRAME_MAX); nothing is sent after the departure but the
//! farewell.

mod exchange;
mod gate;
mod inbound;
mod orders;
mod rounds;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use foca::State;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ratatosk_clock::{Epoch, Instant, Timestamp};

use super::contact::Nonces;
use super::envelope::{EnvironmentTag, Sealer, environment_tag};
use super::identity::{ClusterId, Host, HostId};
use super::key::KeyRing;
use super::record::{AgentAddress, Labels, Record, RecordError};
use super::records::{Landscape, Records};
use super::refusal::{Count, Counters, Refusal};
use super::replay::Peers;
use super::rumours::{Rumours, Topic};
use super::shared_map::SharedMap;
use super::swim::Swim;
use super::tuning::Tuning;
use super::wire::canonical;

pub use orders::SendError;

/// What a datagram's body is.
mod kind {
    pub(super) const SWIM: u8 = 1;
    pub(super) const GOSSIP: u8 = 2;
    pub(super) const MESSAGE: u8 = 3;
    pub(super) const HELLO: u8 = 4;
    pub(super) const WELCOME: u8 = 5;
    pub(super) const CONFIRM: u8 = 6;
    pub(super) const HEARD: u8 = 7;
    pub(super) const OUTRANKED: u8 = 8;
}

/// Addresses that are asked for a cluster.
pub const SEEDS_MAX: usize = 256;

/// Whether a datagram has to come from the address that its sender tells of itself.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// It has to. The default without a key, where nothing else speaks for the sender.
    Exact,
    /// It may come from anywhere, as behind address translation. The default with a key.
    Any,
}

/// What a host is made of.
#[derive(Debug)]
pub struct Setup {
    /// This host.
    pub host: Host,
    /// Hosts of another environment are not heard. CLU-003
    pub environment: String,
    /// The cluster, if this host was in one or makes one.
    pub cluster: Option<ClusterId>,
    /// The keys, if traffic is to be encrypted.
    pub keys: Option<KeyRing>,
    /// What senders have to prove.
    pub sources: Sources,
    /// What the host tells of itself.
    pub labels: Labels,
    /// Times and numbers.
    pub tuning: Tuning,
    /// What every random number of the host follows from.
    pub seed: [u8; 32],
    /// Relates the machine's time to the wall clock.
    pub epoch: Epoch,
    /// Where is counted.
    pub counters: Arc<Counters>,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// Time went by.
    Tick,
    /// A datagram came.
    Datagram {
        /// From here.
        from: SocketAddr,
        /// This.
        bytes: &'a [u8],
    },
    /// Where seeds are, as far as it is known now. At most [`SEEDS_MAX`] count.
    Seeds(Vec<SocketAddr>),
    /// A frame came over a connection. If [`Effects::reply`] is empty then, the connection is over.
    Frame {
        /// Of this host's end.
        side: Side,
        /// Opened.
        bytes: &'a [u8],
    },
    /// A connection that this host opened came to no end.
    StreamFailed,
}

/// Which end of a connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// That which opened it, and speaks first.
    Asker,
    /// The other one.
    Answerer,
}

/// What is to be done. Whoever does it empties it.
#[derive(Debug, Default)]
pub struct Effects {
    /// Datagrams, and where to.
    pub datagrams: Vec<(SocketAddr, Vec<u8>)>,
    /// Connections to open, each with its first frame.
    pub opens: Vec<(SocketAddr, Vec<u8>)>,
    /// The next frame over the connection from which one was just taken.
    pub reply: Option<Vec<u8>>,
    /// What the process should know.
    pub events: Vec<Event>,
    /// Records became visible, hidden or changed: landscapes may be others.
    pub is_landscape_changed: bool,
    /// The shared map changed.
    pub is_map_changed: bool,
}

/// A member, as this host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who and where.
    pub host: Host,
    /// Somebody did not reach it, and it has not refuted that yet.
    pub is_suspect: bool,
    /// What it tells of itself, once that is known.
    pub labels: Option<Labels>,
}

/// What the process should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A host counts as alive.
    Up(Host),
    /// A host counts as alive no longer.
    Down {
        /// Which.
        host: Host,
        /// It said so itself; otherwise it was not reached.
        has_left: bool,
    },
    /// This host had no cluster and has one now: to be put on disk.
    Adopted(ClusterId),
    /// Another host that runs claims this one's address, and does not give it up: the operator has to give
    /// one of the two another one.
    Contested {
        /// Which.
        address: SocketAddr,
    },
    /// An agent of this host got a message.
    Message {
        /// Which agent.
        to: AgentAddress,
        /// From which one.
        from: AgentAddress,
        /// What.
        body: Bytes,
    },
    /// The farewell of this host has been said.
    Departed,
}

/// A host.
pub struct Machine {
    environment: EnvironmentTag,
    cluster: Option<ClusterId>,
    keys: Option<KeyRing>,
    sources: Sources,
    tuning: Tuning,
    epoch: Epoch,
    counters: Arc<Counters>,
    rng: StdRng,
    swim: Swim,
    records: Records,
    map: SharedMap,
    rumours: Rumours,
    sealer: Sealer,
    peers: Peers,
    nonces: Nonces,
    known: BTreeMap<HostId, Host>,
    seeds: Vec<SocketAddr>,
    due: Due,
    /// The next comparison is with this member.
    sync_with: Option<HostId>,
    /// Records that were asked for: which version, and when.
    fetching: BTreeMap<HostId, (u64, Instant)>,
    departure: Option<Departure>,
    /// There was a member once.
    has_joined: bool,
    /// How often another host had this one's address.
    contests: u32,
}

/// When what is done from time to time is done next.
struct Due {
    gossip: Option<Instant>,
    announce: Instant,
    seed: Instant,
    sync: Instant,
    tidy: Instant,
    /// Not before this is a host asked for its cluster again.
    hello: Instant,
}

struct Departure {
    members: Vec<SocketAddr>,
    /// When the farewell is said again.
    again_at: Instant,
    times: u8,
}

impl Machine {
    /// A host that knows nobody yet.
    ///
    /// # Errors
    /// If its labels are too long.
    ///
    /// # Panics
    /// If the tuning makes no sense.
    pub fn new(now: Instant, setup: Setup) -> Result<Machine, RecordError> {
        assert_eq!(setup.tuning.check(), Ok(()));
        let mut rng = StdRng::from_seed(setup.seed);
        let record = Record::new(setup.host.id, setup.labels);
        record.check()?;
        let environment = environment_tag(&setup.environment);
        let host = Host { address: canonical(setup.host.address), ..setup.host };
        let counters = setup.counters;
        let swim = Swim::new(host, &setup.tuning, rng.random(), counters.clone());
        Ok(Machine {
            environment,
            cluster: setup.cluster,
            sealer: Sealer::new(environment, host.id, setup.keys.as_ref()),
            keys: setup.keys,
            sources: setup.sources,
            epoch: setup.epoch,
            counters,
            swim,
            records: Records::new(record),
            map: SharedMap::default(),
            rumours: Rumours::default(),
            peers: Peers::default(),
            nonces: Nonces::new(now, rng.random()),
            known: BTreeMap::new(),
            seeds: Vec::new(),
            due: Due {
                gossip: None,
                announce: now,
                seed: now + setup.tuning.seed_interval,
                sync: now + setup.tuning.sync_interval,
                tidy: now + setup.tuning.probe_interval,
                hello: now,
            },
            tuning: setup.tuning,
            rng,
            sync_with: None,
            fetching: BTreeMap::new(),
            departure: None,
            has_joined: false,
            contests: 0,
        })
    }

    /// Takes what happened.
    pub fn step(&mut self, now: Instant, input: Input<'_>, effects: &mut Effects) {
        effects.reply = None;
        match input {
            Input::Tick => self.tick(now, effects),
            Input::Datagram { from, bytes } => {
                self.counters.add(Count::DatagramsReceived, 1);
                let taken = self.on_datagram(now, canonical(from), bytes, effects);
                self.count(taken);
            }
            Input::Seeds(addresses) => self.on_seeds(now, addresses),
            Input::Frame { side, bytes } => {
                let taken = self.on_frame(now, side, bytes, effects);
                self.count(taken);
            }
            Input::StreamFailed => {
                self.counters.add(Count::StreamsFailed, 1);
                let soon = now + self.tuning.announce_alone;
                self.due.sync = self.due.sync.min(soon);
            }
        }
        self.settle(now, effects);
    }

    /// When the next tick is due at the latest.
    pub fn next_due(&self) -> Instant {
        if let Some(departure) = &self.departure {
            return departure.again_at;
        }
        let due = &self.due;
        let rounds = due.announce.min(due.seed).min(due.sync).min(due.tidy);
        let others = self.swim.next_due().into_iter().chain(due.gossip);
        others.fold(rounds, Instant::min)
    }

    /// This host as it calls itself now.
    pub fn host(&self) -> Host {
        self.swim.host()
    }

    /// The cluster that this host is in.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// How well this host does: 0, healthy, to 4. CLU-006
    pub fn score(&self) -> u8 {
        self.swim.score()
    }

    /// The other hosts that count as alive, by id.
    pub fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self
            .swim
            .members()
            .map(|member| Member {
                host: *member.id(),
                is_suspect: member.state() == State::Suspect,
                labels: self.records.labels(member.id().id).cloned(),
            })
            .collect();
        members.sort_by_key(|member| member.host.id);
        members
    }

    /// The agents of a service, on all hosts that count as alive.
    pub fn landscape(&self, service: &str) -> Landscape {
        self.records.landscape(service, |host| self.known.contains_key(&host))
    }

    /// What the shared map has in a space.
    pub fn space(&self, space: &str) -> BTreeMap<Bytes, Bytes> {
        self.map.space(space)
    }

    /// How many hosts' records are kept, those of this host and of hosts that only seem dead included.
    pub fn records_count(&self) -> usize {
        self.records.len() + 1
    }

    /// Fails if what must always hold does not. For tests.
    pub fn check_invariants(&self) {
        if self.departure.is_none() && !self.swim.is_changed {
            let members: Vec<Host> = self.swim.members().map(|member| *member.id()).collect();
            assert_eq!(members.len(), self.known.len());
            assert!(members.iter().all(|host| self.known.get(&host.id) == Some(host)));
            assert!(!self.known.contains_key(&self.host().id));
        }
        assert!(self.peers.len() <= super::replay::PEERS_MAX);
        assert!(self.records.len() <= super::swim::HOSTS_MAX);
        assert!(self.fetching.len() <= exchange::FETCHES_MAX);
        assert_eq!(self.due.gossip.is_none(), self.rumours.is_empty());
    }

    fn wall(&self, now: Instant) -> Timestamp {
        self.epoch.stamp(now)
    }

    fn count(&self, taken: Result<(), Refusal>) {
        if let Err(refusal) = taken {
            self.counters.refuse(refusal);
        }
    }

    /// Sends a body in a datagram.
    fn send(&mut self, to: SocketAddr, kind: u8, body: &[u8], effects: &mut Effects) {
        let mut whole = Vec::with_capacity(1 + body.len());
        whole.push(kind);
        whole.extend_from_slice(body);
        let bytes = self.sealer.seal(self.cluster, &whole);
        self.counters.add(Count::DatagramsSent, 1);
        self.counters.add(Count::BytesSent, bytes.len());
        effects.datagrams.push((to, bytes));
    }

    /// There is news.
    fn tell(&mut self, now: Instant, topic: Topic) {
        self.rumours.add(topic);
        self.due.gossip.get_or_insert(now + self.tuning.gossip_interval);
    }

    /// Carries on what the last step has begun.
    fn settle(&mut self, now: Instant, effects: &mut Effects) {
        for (to, bytes) in std::mem::take(&mut self.swim.sends) {
            self.send(to.address, kind::SWIM, &bytes, effects);
        }
        if std::mem::take(&mut self.swim.is_changed) && self.departure.is_none() {
            self.compare_members(now, effects);
        }
    }

    /// Says who has come and who has gone.
    fn compare_members(&mut self, now: Instant, effects: &mut Effects) {
        let members = self.swim.members().map(|member| (member.id().id, *member.id()));
        let members: BTreeMap<HostId, Host> = members.collect();
        let was_alone = self.known.is_empty();
        let gone = |(id, _): &(&HostId, &Host)| !members.contains_key(id);
        for (id, host) in self.known.iter().filter(gone) {
            let has_left = self.swim.has_left(host);
            if has_left {
                self.records.drop(*id);
            }
            effects.events.push(Event::Down { host: *host, has_left });
            effects.is_landscape_changed = true;
        }
        let mut is_joined = false;
        for (id, host) in members.iter().filter(|(id, _)| !self.known.contains_key(id)) {
            effects.events.push(Event::Up(*host));
            effects.is_landscape_changed = true;
            self.sync_with = Some(*id);
            is_joined = true;
        }
        self.known = members;
        self.has_joined |= is_joined;
        self.expire_records(now);
        if is_joined {
            let soon = now + self.tuning.gossip_interval.mul_f64(self.rng.random());
            self.due.sync = self.due.sync.min(soon);
        }
        if is_joined && was_alone {
            self.tell(now, Topic::Record(self.records.own().host));
        }
    }

    fn expire_records(&mut self, now: Instant) {
        let known = &self.known;
        self.records.expire(now, self.tuning.record_grace, |host| known.contains_key(&host));
    }
}
