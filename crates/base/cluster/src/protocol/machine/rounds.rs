//! What is done from time to time.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rand::seq::{IndexedRandom, IteratorRandom};
use ratatosk_clock::Instant;

use super::{Effects, Event, Machine, SEEDS_MAX, kind};
use crate::protocol::envelope::BODY_MAX;
use crate::protocol::identity::{Host, HostId};
use crate::protocol::records::Records;
use crate::protocol::rumours::{ITEM_MAX, Item, Rumours, Topic};
use crate::protocol::shared_map::{SharedMap, encode_entry};
use crate::protocol::wire::{canonical, is_reachable};

/// Addresses that a host without company calls at once.
const CALLS_MAX: usize = 16;
/// How often a host that leaves says so to each member.
const FAREWELLS: u8 = 3;

impl Machine {
    pub(super) fn tick(&mut self, now: Instant, effects: &mut Effects) {
        if self.departure.is_some() {
            self.depart(now, effects);
            return;
        }
        self.swim.tick(now);
        self.settle(now, effects);
        if self.due.gossip.is_some_and(|due| due <= now) {
            self.gossip(now, effects);
        }
        if self.due.announce <= now {
            self.due.announce = now + self.once_or_twice(self.tuning.announce_alone);
            if self.swim.is_alone(now) {
                self.call_everybody(now, effects);
            }
        }
        if self.due.seed <= now {
            self.due.seed = now + self.about(self.tuning.seed_interval);
            self.call_seeds(now, effects);
        }
        if self.due.sync <= now {
            self.compare(now, effects);
        }
        if self.due.tidy <= now {
            self.due.tidy = now + self.tuning.probe_interval * 5;
            self.swim.forget(now);
            self.expire_records(now);
            let wall = self.wall(now);
            self.map.expire(wall, self.tuning.tombstone_memory);
        }
    }

    /// A time, and up to a fifth more or less: so that hosts do not do the same at the same time.
    fn about(&mut self, time: Duration) -> Duration {
        time.mul_f64(self.rng.random_range(0.8..1.2))
    }

    /// A time, and up to as much again.
    fn once_or_twice(&mut self, time: Duration) -> Duration {
        time.mul_f64(self.rng.random_range(1.0..2.0))
    }

    pub(super) fn on_seeds(&mut self, now: Instant, addresses: Vec<SocketAddr>) {
        let me = self.swim.host().address;
        let mut seeds: Vec<SocketAddr> = addresses.into_iter().map(canonical).collect();
        seeds.retain(|address| is_reachable(*address) && *address != me);
        seeds.sort_unstable();
        seeds.dedup();
        seeds.truncate(SEEDS_MAX);
        if self.seeds != seeds {
            self.seeds = seeds;
            self.due.announce = now;
        }
    }

    /// Tells the news.
    fn gossip(&mut self, now: Instant, effects: &mut Effects) {
        let targets: Vec<SocketAddr> = self
            .known
            .values()
            .map(|host| host.address)
            .sample(&mut self.rng, self.tuning.gossip_fanout);
        if targets.is_empty() {
            // Who comes will compare.
            self.rumours = Rumours::default();
        }
        for target in targets {
            let mut body = Vec::new();
            let (records, map) = (&self.records, &self.map);
            let write = |topic: &Topic, out: &mut Vec<u8>| write_item(records, map, topic, out);
            self.rumours.fill(&mut body, BODY_MAX - 1, self.tuning.transmissions, write);
            if !body.is_empty() {
                self.send(target, kind::GOSSIP, &body, effects);
            }
        }
        let is_silent = self.rumours.is_empty();
        self.due.gossip = (!is_silent).then_some(now + self.tuning.gossip_interval);
    }

    /// Calls seeds and all addresses that were ever heard of, some at a time. Their hosts may hold this
    /// one for dead, or for one that it no longer is, and this one them.
    fn call_everybody(&mut self, now: Instant, effects: &mut Effects) {
        if !self.tuning.reannounce && self.has_joined {
            return;
        }
        self.call_seeds(now, effects);
        self.swim.go_on(now);
        let remembered = self.swim.remembered().map(|host| host.address);
        let remembered: Vec<SocketAddr> = remembered.sample(&mut self.rng, CALLS_MAX);
        for address in remembered {
            self.swim.announce(now, address);
        }
    }

    /// Asks seeds that are no members who is there: clusters that were started apart meet so.
    fn call_seeds(&mut self, now: Instant, effects: &mut Effects) {
        let members: BTreeSet<SocketAddr> = self.known.values().map(|host| host.address).collect();
        let strangers = self.seeds.iter().copied().filter(|seed| !members.contains(seed));
        for seed in strangers.sample(&mut self.rng, CALLS_MAX) {
            self.hello(now, seed, effects);
        }
    }

    /// Compares everything with a member: from time to time, and often while there are members that have
    /// told nothing of themselves yet. With these, then, or with somebody who may have heard of many.
    fn compare(&mut self, now: Instant, effects: &mut Effects) {
        let members = self.known.values().copied();
        let silent = members.filter(|host| self.records.version(host.id) == 0);
        let silent: Vec<Host> = silent.collect();
        let chosen = self.sync_with.take().and_then(|id| self.known.get(&id)).copied();
        let is_asking = self.rng.random();
        let chosen = chosen
            .or_else(|| silent.choose(&mut self.rng).copied().filter(|_| is_asking))
            .or_else(|| self.known.values().copied().choose(&mut self.rng));
        let wait = match silent.is_empty() {
            true => self.about(self.tuning.sync_interval),
            false => self.once_or_twice(self.tuning.announce_alone),
        };
        self.due.sync = now + wait;
        if let Some(host) = chosen {
            self.sync(host.address, effects);
        }
    }

    /// Says farewell again, or that it was said.
    fn depart(&mut self, now: Instant, effects: &mut Effects) {
        let Some(departure) = &mut self.departure else { return };
        if now < departure.again_at {
            return;
        }
        departure.again_at = now + self.tuning.gossip_interval;
        departure.times = departure.times.saturating_add(1);
        if departure.times == FAREWELLS || departure.members.is_empty() {
            effects.events.push(Event::Departed);
        }
        if departure.times < FAREWELLS {
            self.say_farewell(effects);
        }
    }

    /// Tells every member that this host goes.
    pub(super) fn say_farewell(&mut self, effects: &mut Effects) {
        let Some(departure) = &self.departure else { return };
        let mut body = Vec::new();
        let me: HostId = self.records.own().host;
        write_item(&self.records, &self.map, &Topic::Record(me), &mut body);
        for member in departure.members.clone() {
            self.send(member, kind::GOSSIP, &body, effects);
        }
    }
}

/// Appends news of a topic as it is now; false if there is none.
fn write_item(records: &Records, map: &SharedMap, topic: &Topic, out: &mut Vec<u8>) -> bool {
    match topic {
        Topic::Record(host) => {
            let Some(bytes) = records.bytes(*host) else { return false };
            let version = records.version(*host);
            let notice = Item::Notice { host: *host, version };
            let item = if bytes.len() <= ITEM_MAX { Item::Record(bytes) } else { notice };
            item.encode(out);
        }
        Topic::Entry(key) => {
            let Some(entry) = map.entry(key) else { return false };
            let mut bytes = Vec::new();
            encode_entry(key, entry, &mut bytes);
            let item = if bytes.len() <= ITEM_MAX { Item::Entry(&bytes) } else { Item::Entries };
            item.encode(out);
        }
    }
    true
}
