//! A made-up network with made-up hosts, all of it from one seed.
//!
//! Datagrams are lost, late, doubled and out of order; partitions cut both ways or one way; hosts crash,
//! start again at the same address, leave, and stall. Connections fail where datagrams would not get
//! through, and where the other process is gone. Nothing here knows how the protocol works.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ratatosk_clock::{Epoch, Instant, Timestamp};
use ratatosk_cluster::protocol::machine::{Effects, Input, Machine, Setup, Side};
use ratatosk_cluster::{
    ClusterId, Count, Counters, Event, FRAME_MAX, Host, HostId, KeyRing, Labels, PACKET_MAX,
    Refusal, Sources, Tuning,
};

/// When the world begins, by the wall clock.
const DAWN_MS: u64 = 1_700_000_000_000;
/// How long a connection attempt takes to fail.
const STREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// What the network does to a datagram.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// How many of 1000 are lost.
    pub(crate) lost: u32,
    /// How many of 1000 come twice.
    pub(crate) doubled: u32,
    /// How long they take.
    pub(crate) delay: std::ops::Range<Duration>,
}

impl Weather {
    pub(crate) fn fair() -> Weather {
        let delay = Duration::from_micros(500)..Duration::from_millis(1);
        Weather { lost: 0, doubled: 0, delay }
    }
}

/// A place for hosts, one after the other.
pub(crate) struct Slot {
    pub(crate) address: SocketAddr,
    pub(crate) machine: Option<Machine>,
    /// Counts on from process to process.
    pub(crate) counters: Arc<Counters>,
    pub(crate) events: Vec<(Instant, Event)>,
    effects: Effects,
    stalled_until: Instant,
    /// How much its wall clock is behind.
    pub(crate) clock_behind_ms: u64,
    pub(crate) setup: SlotSetup,
    /// Where it says that it is, if not where it is.
    pub(crate) claimed: Option<SocketAddr>,
    /// When it is next due, as it is filed.
    due: Option<Instant>,
}

/// What differs from host to host.
#[derive(Clone)]
pub(crate) struct SlotSetup {
    pub(crate) environment: String,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) keys: Option<KeyRing>,
    pub(crate) sources: Sources,
    pub(crate) seeds: Vec<SocketAddr>,
    pub(crate) tuning: Tuning,
}

enum Happening {
    Datagram { from: usize, to: usize, bytes: Vec<u8> },
    Frame { from: End, to: End, side: Side, bytes: Vec<u8> },
    StreamFailed { to: End },
}

/// An end of a connection: a process, not a place.
#[derive(Copy, Clone)]
struct End {
    slot: usize,
    host: HostId,
}

/// The world.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) slots: Vec<Slot>,
    pub(crate) weather: Weather,
    /// Pairs that do not get through, from and to.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    pub(crate) rng: StdRng,
    /// Datagrams on the wire: counted, and a digest of all of them.
    pub(crate) datagrams: u64,
    pub(crate) digest: u64,
    /// Who sent what to whom, if that is to be kept.
    pub(crate) tapped: Option<Vec<(usize, usize, Vec<u8>)>>,
    queue: BTreeMap<(Instant, u64), Happening>,
    queued: u64,
    due: BTreeSet<(Instant, usize)>,
    started: u64,
    seed: u64,
}

pub(crate) fn address(slot: usize) -> SocketAddr {
    let last = u8::try_from(slot + 1).expect("at most 255 hosts");
    SocketAddr::from(([10, 0, 0, last], 7883))
}

fn line(text: &str) -> String {
    text.bytes().cycle().take(32).map(|byte| format!("{byte:02x}")).collect()
}

/// A key.
pub(crate) fn key(text: &str) -> Option<KeyRing> {
    Some(KeyRing::parse(&line(text)).expect("a key"))
}

/// Two keys, of which the first seals.
pub(crate) fn both(first: &str, second: &str) -> Option<KeyRing> {
    let text = format!("{}\n{}", line(first), line(second));
    Some(KeyRing::parse(&text).expect("two keys"))
}

impl World {
    /// `count` places without hosts; all of them have the first two for seeds.
    pub(crate) fn new(seed: u64, count: usize) -> World {
        let setup = SlotSetup {
            environment: "test".into(),
            cluster: ClusterId::from_number(1),
            keys: None,
            sources: Sources::Exact,
            seeds: (0..count.min(2)).map(address).collect(),
            tuning: Tuning::default(),
        };
        let slot = |index| Slot {
            address: address(index),
            machine: None,
            counters: Arc::new(Counters::default()),
            events: Vec::new(),
            effects: Effects::default(),
            stalled_until: Instant::ZERO,
            clock_behind_ms: 0,
            setup: setup.clone(),
            claimed: None,
            due: None,
        };
        World {
            now: Instant::ZERO,
            slots: (0..count).map(slot).collect(),
            weather: Weather::fair(),
            cut: BTreeSet::new(),
            rng: StdRng::seed_from_u64(seed),
            datagrams: 0,
            digest: 0,
            tapped: None,
            queue: BTreeMap::new(),
            queued: 0,
            due: BTreeSet::new(),
            started: 0,
            seed,
        }
    }

    /// Starts a process in a place, instead of the one that is there, if any: kill -9.
    pub(crate) fn start(&mut self, index: usize) {
        self.started += 1;
        let mut rng = StdRng::seed_from_u64(self.seed << 20 | self.started);
        let now = self.now;
        let slot = &mut self.slots[index];
        let wall = DAWN_MS + now.as_millis() - slot.clock_behind_ms.min(DAWN_MS);
        let setup = Setup {
            host: Host {
                address: slot.claimed.unwrap_or(slot.address),
                generation: wall,
                id: HostId::from_bytes(rng.random()),
            },
            environment: slot.setup.environment.clone(),
            cluster: slot.setup.cluster,
            keys: slot.setup.keys.clone(),
            sources: slot.setup.sources,
            labels: Labels { zone: format!("zone-{}", index % 3), software: "1".into() },
            tuning: slot.setup.tuning.clone(),
            seed: rng.random(),
            epoch: Epoch::new(now, Timestamp::from_millis(wall)),
            counters: slot.counters.clone(),
        };
        let mut machine = Machine::new(now, setup).expect("short labels");
        let seeds = slot.setup.seeds.clone();
        machine.step(now, Input::Seeds(seeds), &mut slot.effects);
        slot.machine = Some(machine);
        slot.stalled_until = Instant::ZERO;
        self.settle(index);
    }

    /// Ends the process in a place without a word.
    pub(crate) fn crash(&mut self, index: usize) {
        self.slots[index].machine = None;
        self.slots[index].effects = Effects::default();
    }

    /// Lets a process do something.
    pub(crate) fn order<T>(
        &mut self,
        index: usize,
        order: impl FnOnce(&mut Machine, Instant, &mut Effects) -> T,
    ) -> Option<T> {
        let now = self.now;
        let slot = &mut self.slots[index];
        let done = slot.machine.as_mut().map(|machine| order(machine, now, &mut slot.effects));
        self.settle(index);
        done
    }

    /// Lets a process leave; it ends by itself when it has said farewell.
    pub(crate) fn leave(&mut self, index: usize) {
        self.order(index, Machine::leave);
    }

    /// A process does nothing for a while.
    pub(crate) fn stall(&mut self, index: usize, time: Duration) {
        self.slots[index].stalled_until = self.now + time;
    }

    pub(crate) fn is_up(&self, index: usize) -> bool {
        self.slots[index].machine.is_some()
    }

    pub(crate) fn machine(&self, index: usize) -> &Machine {
        self.slots[index].machine.as_ref().expect("a process")
    }

    /// A datagram of nobody, from a place.
    pub(crate) fn inject(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        self.file(self.now, Happening::Datagram { from, to, bytes });
    }

    pub(crate) fn count(&self, count: Count) -> u64 {
        self.slots.iter().map(|slot| slot.counters.count(count)).sum()
    }

    /// How often a place refused something for this reason.
    pub(crate) fn refused(&self, index: usize, refusal: Refusal) -> u64 {
        self.slots[index].counters.refused(refusal)
    }

    /// Starts a process everywhere and waits until all agree.
    pub(crate) fn form(&mut self) {
        (0..self.slots.len()).for_each(|index| self.start(index));
        let formed = self.run_while(Duration::from_secs(30), |world| !world.agrees());
        assert!(formed.is_some(), "{:?}", self.disagreement());
        // And until nothing is told any more.
        self.run(Duration::from_secs(10));
        self.slots.iter_mut().for_each(|slot| slot.events.clear());
    }

    /// Whom a place has taken for dead since it was last asked, and whether they had said that they go.
    pub(crate) fn losses(&self, index: usize) -> Vec<(Host, bool)> {
        let events = self.slots[index].events.iter();
        let losses = events.filter_map(|(_, event)| match event {
            Event::Down { host, has_left } => Some((*host, *has_left)),
            _ => None,
        });
        losses.collect()
    }

    /// Goes on until a time.
    pub(crate) fn run_until(&mut self, end: Instant) {
        loop {
            let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
            let due = self.due.first().map(|(at, _)| *at);
            let Some(next) = queued.into_iter().chain(due).min().filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            // What has arrived is read before the clock is looked at.
            if queued == Some(next) {
                let (_, happening) = self.queue.pop_first().expect("is there");
                self.happen(happening);
            } else if let Some((_, index)) = self.due.pop_first() {
                self.slots[index].due = None;
                self.step(index, |_| Input::Tick);
            }
        }
        self.now = self.now.max(end);
    }

    pub(crate) fn run(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Goes on until something is so, for `max` at most; says how long it took.
    pub(crate) fn run_while(
        &mut self,
        max: Duration,
        is_so: impl Fn(&World) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        loop {
            if !is_so(self) {
                return Some(self.now.since(begin));
            }
            if self.now.since(begin) >= max {
                return None;
            }
            self.run(Duration::from_millis(100));
        }
    }

    fn file(&mut self, at: Instant, happening: Happening) {
        self.queued += 1;
        self.queue.insert((at, self.queued), happening);
    }

    fn happen(&mut self, happening: Happening) {
        let index = match &happening {
            Happening::Datagram { to, .. } => *to,
            Happening::Frame { to, .. } | Happening::StreamFailed { to } => to.slot,
        };
        let stalled_until = self.slots[index].stalled_until;
        if stalled_until > self.now {
            self.file(stalled_until, happening);
            return;
        }
        match happening {
            Happening::Datagram { from, bytes, .. } => {
                let from = self.slots[from].address;
                self.step(index, |_| Input::Datagram { from, bytes: &bytes });
            }
            Happening::Frame { from, to, side, bytes } => {
                if self.is_there(to) {
                    self.step(index, |_| Input::Frame { side, bytes: &bytes });
                    if let Some(reply) = self.slots[index].effects.reply.take() {
                        let side = match side {
                            Side::Asker => Side::Answerer,
                            Side::Answerer => Side::Asker,
                        };
                        self.send_frame(to, from, side, reply);
                    }
                }
            }
            Happening::StreamFailed { to } if self.is_there(to) => {
                self.step(index, |_| Input::StreamFailed);
            }
            Happening::StreamFailed { .. } => {}
        }
    }

    fn is_there(&self, end: End) -> bool {
        let machine = self.slots[end.slot].machine.as_ref();
        machine.is_some_and(|machine| machine.host().id == end.host)
    }

    fn step<'a>(&mut self, index: usize, input: impl FnOnce(&mut World) -> Input<'a>) {
        let stalled_until = self.slots[index].stalled_until;
        if stalled_until > self.now {
            self.slots[index].due = Some(stalled_until);
            self.due.insert((stalled_until, index));
            return;
        }
        let input = input(self);
        let (now, members) = (self.now, (self.slots.len() as u64 / 2).max(1));
        let slot = &mut self.slots[index];
        if let Some(machine) = &mut slot.machine {
            machine.step(now, input, &mut slot.effects);
            // In a large world not after each step: it looks at all members.
            if self.queued.is_multiple_of(members) {
                machine.check_invariants();
            }
        }
        self.settle(index);
    }

    /// Carries out what a process wants.
    fn settle(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(machine) = &slot.machine else { return };
        let (host, due) = (machine.host().id, machine.next_due());
        let reply = slot.effects.reply.take();
        let effects = std::mem::take(&mut slot.effects);
        slot.effects.reply = reply;
        let is_departed = effects.events.contains(&Event::Departed);
        let now = self.now;
        slot.events.extend(effects.events.into_iter().map(|event| (now, event)));
        if slot.due.is_none_or(|filed| due < filed) {
            if let Some(filed) = slot.due.replace(due) {
                self.due.remove(&(filed, index));
            }
            self.due.insert((due, index));
        }
        for (to, bytes) in effects.datagrams {
            self.send(index, to, &bytes);
        }
        let from = End { slot: index, host };
        for (to, frame) in effects.opens {
            let there = self.slots.iter().position(|slot| slot.address == to);
            let process = there.and_then(|there| self.slots[there].machine.as_ref());
            match there.zip(process.map(|machine| machine.host().id)) {
                Some((slot, host)) => {
                    self.send_frame(from, End { slot, host }, Side::Answerer, frame);
                }
                None => self.file(now + STREAM_TIMEOUT, Happening::StreamFailed { to: from }),
            }
        }
        if is_departed {
            self.crash(index);
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, bytes: &[u8]) {
        assert!(bytes.len() <= PACKET_MAX, "a datagram of {} bytes", bytes.len());
        self.datagrams += 1;
        for byte in bytes {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let Some(to) = self.slots.iter().position(|slot| slot.address == to) else { return };
        if let Some(tapped) = &mut self.tapped {
            tapped.push((from, to, bytes.to_vec()));
        }
        let copies = 1 + u32::from(self.chance(self.weather.doubled));
        for _ in 0..copies {
            let is_lost = self.chance(self.weather.lost);
            let at = self.now + self.delay();
            if !is_lost && !self.cut.contains(&(from, to)) {
                self.file(at, Happening::Datagram { from, to, bytes: bytes.to_vec() });
            }
        }
    }

    fn send_frame(&mut self, from: End, to: End, side: Side, bytes: Vec<u8>) {
        assert!(bytes.len() <= FRAME_MAX, "a frame of {} bytes", bytes.len());
        let pair = (from.slot, to.slot);
        let is_cut = self.cut.contains(&pair) || self.cut.contains(&(pair.1, pair.0));
        if is_cut {
            let asker = if side == Side::Answerer { from } else { to };
            self.file(self.now + STREAM_TIMEOUT, Happening::StreamFailed { to: asker });
        } else {
            let at = self.now + self.delay();
            self.file(at, Happening::Frame { from, to, side, bytes });
        }
    }

    fn delay(&mut self) -> Duration {
        let delay = self.weather.delay.clone();
        self.rng.random_range(delay)
    }

    pub(crate) fn chance(&mut self, permille: u32) -> bool {
        permille > 0 && self.rng.random_range(0..1000) < permille
    }

    /// Cuts between two groups of places.
    pub(crate) fn partition(&mut self, one: &[usize], two: &[usize], is_one_way: bool) {
        for from in one {
            for to in two {
                self.cut.insert((*from, *to));
                if !is_one_way {
                    self.cut.insert((*to, *from));
                }
            }
        }
    }

    /// The processes that there are.
    pub(crate) fn up(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|index| self.is_up(*index)).collect()
    }

    /// Why not everybody sees the same, if so.
    pub(crate) fn disagreement(&self) -> Option<String> {
        let up = self.up();
        let hosts: BTreeSet<Host> = up.iter().map(|index| self.machine(*index).host()).collect();
        for index in &up {
            let machine = self.machine(*index);
            let mut seen: BTreeSet<Host> =
                machine.members().into_iter().map(|member| member.host).collect();
            seen.insert(machine.host());
            if seen != hosts {
                let more: Vec<_> = seen.difference(&hosts).map(|host| host.address).collect();
                let less: Vec<_> = hosts.difference(&seen).map(|host| host.address).collect();
                return Some(format!("{index} sees wrongly {more:?}, and not {less:?}"));
            }
            if machine.members().iter().any(|member| member.labels.is_none()) {
                return Some(format!("{index} lacks labels"));
            }
        }
        let (first, rest) = up.split_first()?;
        let first = self.machine(*first);
        for index in rest {
            let machine = self.machine(*index);
            if machine.landscape("service") != first.landscape("service") {
                return Some(format!("{index} has another landscape"));
            }
            if machine.space("rules") != first.space("rules") {
                return Some(format!("{index} has another map"));
            }
        }
        None
    }

    pub(crate) fn agrees(&self) -> bool {
        self.disagreement().is_none()
    }
}
