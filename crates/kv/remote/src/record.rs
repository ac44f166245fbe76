//! What stores tell of themselves, as bytes: of each group what is known of it, and of the store what is
//! the same for all.
//!
//! What is behind the known fields of a record is passed over: a later version may say more. Points in
//! time are of the sender's clock, whose time is in the head; the reader makes them its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ratatosk_balance::landscape::{
    Birth, Fanout, Leading, Lineage, Load, LogEnd, Progress, Report, Standing, Store, TakenIn,
};
use ratatosk_clock::Instant;
use ratatosk_engine::wire::{self, Malformed, Parser};
use ratatosk_store::edition::Supported;
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::{self, Status};
use ratatosk_store::range::{Descriptor, Version};

use crate::editions;

/// What a store's word says of the store, but for its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The sender's time.
    pub(crate) now: Instant,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) standing: Standing,
    pub(crate) keyspaces: BTreeSet<String>,
    pub(crate) editions: Supported,
    pub(crate) copies: BTreeSet<String>,
}

/// What a store says of its groups beside what is known of them.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// Nothing should be proposed.
    pub(crate) is_short: bool,
}

impl Head {
    pub(crate) fn of(store: &Store, now: Instant) -> Self {
        let Store { labels, standing, keyspaces, editions, copies, .. } = store.clone();
        Self { now, labels, standing, keyspaces, editions, copies }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut into = Vec::new();
        wire::put_u64(&mut into, self.now.as_millis());
        into.push(match self.standing {
            Standing::Member => 0,
            Standing::Draining => 1,
            Standing::GivenUp => 2,
        });
        wire::put_u64(&mut into, self.labels.len() as u64);
        for (name, value) in &self.labels {
            wire::put_bytes(&mut into, name.as_bytes());
            wire::put_bytes(&mut into, value.as_bytes());
        }
        put_names(&mut into, &self.keyspaces);
        editions::put(&mut into, &self.editions);
        put_names(&mut into, &self.copies);
        into.into()
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut body = Parser::new(data);
        let mut head = Self { now: Instant::from_millis(body.take_u64()?), ..Self::default() };
        head.standing = match body.take_u8()? {
            0 => Standing::Member,
            1 => Standing::Draining,
            2 => Standing::GivenUp,
            _ => return Err(Malformed),
        };
        for _ in 0..body.take_u64()? {
            head.labels.insert(body.take_str()?.to_owned(), body.take_str()?.to_owned());
        }
        head.keyspaces = take_names(&mut body)?;
        head.editions = editions::take(&mut body)?;
        // A store of an earlier version has nothing more to say.
        if !body.is_at_end() {
            head.copies = take_names(&mut body)?;
        }
        Ok(head)
    }
}

fn put_names(into: &mut Vec<u8>, names: &BTreeSet<String>) {
    wire::put_u64(into, names.len() as u64);
    names.iter().for_each(|name| wire::put_bytes(into, name.as_bytes()));
}

fn take_names(body: &mut Parser<'_>) -> Result<BTreeSet<String>, Malformed> {
    (0..body.take_u64()?).map(|_| Ok(body.take_str()?.to_owned())).collect()
}

impl Room {
    pub(crate) fn encode(self) -> Bytes {
        Bytes::copy_from_slice(&[u8::from(self.is_short)])
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, Malformed> {
        Ok(Self { is_short: take_flag(&mut Parser::new(data))? })
    }
}

/// What is known of a group.
pub(crate) fn encode_status(status: &Status) -> Bytes {
    let mut into = Vec::new();
    wire::put_bytes(&mut into, &status.descriptor.encode());
    for number in [status.term, status.last.0, status.last.1] {
        wire::put_u64(&mut into, number);
    }
    put_option(&mut into, status.leader.as_ref(), |into, leader| wire::put_u64(into, *leader));
    into.push(u8::from(status.is_asleep));
    put_option(&mut into, status.followers.as_ref(), |into, followers| {
        wire::put_u64(into, followers.len() as u64);
        for (store, progress) in followers {
            wire::put_u64(into, *store);
            into.push(match progress {
                machine::Progress::CaughtUp => 0,
                machine::Progress::Lagging => 1,
                machine::Progress::Snapshot => 2,
                machine::Progress::Silent => 3,
            });
        }
    });
    into.into()
}

pub(crate) fn decode_status(group: GroupId, data: &[u8]) -> Result<Status, Malformed> {
    let mut body = Parser::new(data);
    Ok(Status {
        group,
        descriptor: Descriptor::decode(group, body.take_bytes()?)?,
        term: body.take_u64()?,
        last: (body.take_u64()?, body.take_u64()?),
        leader: take_option(&mut body, take_number)?,
        is_asleep: take_flag(&mut body)?,
        followers: take_option(&mut body, |body| {
            let mut followers = Vec::new();
            for _ in 0..body.take_u64()? {
                let progress = |code| match code {
                    0 => Ok(machine::Progress::CaughtUp),
                    1 => Ok(machine::Progress::Lagging),
                    2 => Ok(machine::Progress::Snapshot),
                    3 => Ok(machine::Progress::Silent),
                    _ => Err(Malformed),
                };
                followers.push((body.take_u64()?, progress(body.take_u8()?)?));
            }
            Ok(followers)
        })?,
    })
}

/// What a store's word says of a replica.
pub(crate) fn encode_report(report: &Report) -> Bytes {
    let mut into = Vec::new();
    wire::put_bytes(&mut into, &report.descriptor.encode());
    for number in [report.term, report.log.term, report.log.index] {
        wire::put_u64(&mut into, number);
    }
    put_birth(&mut into, report.lineage.birth);
    wire::put_u64(&mut into, report.lineage.taken_in.len() as u64);
    for (group, TakenIn { version, birth, boundary }) in &report.lineage.taken_in {
        for number in [group.0, version.boundary, version.config] {
            wire::put_u64(&mut into, number);
        }
        put_birth(&mut into, *birth);
        wire::put_u64(&mut into, *boundary);
    }
    put_option(&mut into, report.leading.as_ref(), put_leading);
    into.into()
}

pub(crate) fn decode_report(group: GroupId, data: &[u8]) -> Result<Report, Malformed> {
    let mut body = Parser::new(data);
    let descriptor = Descriptor::decode(group, body.take_bytes()?)?;
    let term = body.take_u64()?;
    let log = LogEnd { term: body.take_u64()?, index: body.take_u64()? };
    let mut lineage = Lineage { birth: take_birth(&mut body)?, ..Lineage::default() };
    for _ in 0..body.take_u64()? {
        let other = GroupId(body.take_u64()?);
        let version = Version { boundary: body.take_u64()?, config: body.take_u64()? };
        let (birth, boundary) = (take_birth(&mut body)?, body.take_u64()?);
        lineage.taken_in.insert(other, TakenIn { version, birth, boundary });
    }
    let leading = take_option(&mut body, take_leading)?;
    Ok(Report { descriptor, term, log, lineage, leading })
}

fn put_birth(into: &mut Vec<u8>, birth: Option<Birth>) {
    put_option(into, birth.as_ref(), |into, Birth { parent, index, boundary }| {
        [parent.0, *index, *boundary].iter().for_each(|number| wire::put_u64(into, *number));
    });
}

fn take_birth(body: &mut Parser<'_>) -> Result<Option<Birth>, Malformed> {
    take_option(body, |body| {
        Ok(Birth {
            parent: GroupId(body.take_u64()?),
            index: body.take_u64()?,
            boundary: body.take_u64()?,
        })
    })
}

fn put_leading(into: &mut Vec<u8>, leading: &Leading) {
    wire::put_u64(into, leading.progress.len() as u64);
    for (store, progress) in &leading.progress {
        wire::put_u64(into, *store);
        into.push(match progress {
            Progress::CaughtUp => 0,
            Progress::Lagging => 1,
            Progress::Snapshot => 2,
            Progress::Silent => 3,
        });
    }
    put_load(into, &leading.load);
    put_option(into, leading.idle_since.as_ref(), |into, since| {
        wire::put_u64(into, since.as_millis());
    });
}

fn take_leading(body: &mut Parser<'_>) -> Result<Leading, Malformed> {
    let mut progress = BTreeMap::new();
    for _ in 0..body.take_u64()? {
        let store = body.take_u64()?;
        let held = match body.take_u8()? {
            0 => Progress::CaughtUp,
            1 => Progress::Lagging,
            2 => Progress::Snapshot,
            3 => Progress::Silent,
            _ => return Err(Malformed),
        };
        progress.insert(store, held);
    }
    let load = take_load(body)?;
    let idle_since = take_option(body, |body| Ok(Instant::from_millis(body.take_u64()?)))?;
    Ok(Leading { progress, load, idle_since })
}

fn put_load(into: &mut Vec<u8>, load: &Load) {
    let latency = u64::try_from(load.io_latency.as_micros()).unwrap_or(u64::MAX);
    let numbers = [
        load.entries_per_second,
        load.written_bytes_per_second,
        load.queries_per_second,
        load.io_density,
        latency,
        load.cpu_permille,
        load.size_bytes,
    ];
    numbers.iter().for_each(|number| wire::put_u64(into, *number));
    put_option(into, load.middle.as_ref(), |into, key| wire::put_bytes(into, key));
    wire::put_u64(into, load.samples.len() as u64);
    for (key, count) in &load.samples {
        wire::put_bytes(into, key);
        wire::put_u64(into, *count);
    }
    put_option(into, load.fanout.as_ref(), |into, Fanout { receivers, key }| {
        wire::put_u64(into, *receivers);
        wire::put_bytes(into, key);
    });
}

fn take_load(body: &mut Parser<'_>) -> Result<Load, Malformed> {
    let mut load = Load {
        entries_per_second: body.take_u64()?,
        written_bytes_per_second: body.take_u64()?,
        queries_per_second: body.take_u64()?,
        io_density: body.take_u64()?,
        io_latency: Duration::from_micros(body.take_u64()?),
        cpu_permille: body.take_u64()?,
        size_bytes: body.take_u64()?,
        middle: take_option(body, take_key)?,
        ..Load::default()
    };
    for _ in 0..body.take_u64()? {
        load.samples.insert(take_key(body)?, body.take_u64()?);
    }
    load.fanout =
        take_option(body, |body| Ok(Fanout { receivers: body.take_u64()?, key: take_key(body)? }))?;
    Ok(load)
}

fn take_number(body: &mut Parser<'_>) -> Result<u64, Malformed> {
    body.take_u64()
}

pub(crate) fn take_key(body: &mut Parser<'_>) -> Result<Bytes, Malformed> {
    Ok(Bytes::copy_from_slice(body.take_bytes()?))
}

pub(crate) fn put_option<T>(
    into: &mut Vec<u8>,
    value: Option<&T>,
    put: impl FnOnce(&mut Vec<u8>, &T),
) {
    into.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(into, value);
    }
}

pub(crate) fn take_option<T>(
    body: &mut Parser<'_>,
    take: impl FnOnce(&mut Parser<'_>) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    if take_flag(body)? { take(body).map(Some) } else { Ok(None) }
}

pub(crate) fn take_flag(body: &mut Parser<'_>) -> Result<bool, Malformed> {
    match body.take_u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
#[path = "record_test.rs"]
mod tests;
