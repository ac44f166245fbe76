//! Frames: how two hosts bring each other up to date.
//!
//! What does not fit into a frame is left for the next comparison, which is then soon.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use foca::{Member, State};
use ratatosk_clock::Instant;

use super::inbound::Way;
use super::{Effects, Machine, Side};
use crate::protocol::frame::{Delta, FRAME_MAX, Frame};
use crate::protocol::identity::{Host, HostId};
use crate::protocol::message::{MESSAGE_MAX, Message};
use crate::protocol::record::{NAME_MAX, RECORD_MAX};
use crate::protocol::refusal::{Count, Refusal};
use crate::protocol::shared_map::{
    BUCKETS, ENTRIES_MAX, KEY_MAX, MapKey, VALUE_MAX, Written, bucket, encode_entry,
};
use crate::protocol::swim::HOSTS_MAX;
use crate::protocol::swim_codec::Update;
use crate::protocol::wire::Reader;

/// Records that are asked for at once.
pub(super) const FETCHES_MAX: usize = 16;
/// How long a record counts as asked for.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// What records, keys and entries leave for the rest of a frame.
const MARGIN: usize = 128 * 1024;

// Members of both sides (46 bytes at most), ids of wanted records, and some numbers.
const _: () = assert!((2 * HOSTS_MAX + 1) * 46 + (HOSTS_MAX + 1) * 16 + 1024 <= MARGIN);
// One of each fits, or a comparison would never come to its end.
const _: () = assert!(RECORD_MAX + VALUE_MAX + KEY_MAX + MESSAGE_MAX + 1024 <= FRAME_MAX - MARGIN);
// And a whole bucket, if keys are spread at all: a quarter of all keys at their longest.
const _: () = assert!(ENTRIES_MAX / 4 * KEY_ROOM <= FRAME_MAX - MARGIN);

/// What a key takes at most, with its space and who wrote it.
const KEY_ROOM: usize = 1 + NAME_MAX + 2 + KEY_MAX + 8 + 16;

/// Bytes that a frame has left.
struct Room {
    left: usize,
    is_cut: bool,
}

impl Room {
    fn new() -> Self {
        Room { left: FRAME_MAX - MARGIN, is_cut: false }
    }

    fn take(&mut self, bytes: usize) -> bool {
        let is_fitting = bytes <= self.left;
        self.left -= if is_fitting { bytes } else { 0 };
        self.is_cut |= !is_fitting;
        is_fitting
    }
}

impl Machine {
    /// Compares everything with a member.
    pub(super) fn sync(&mut self, to: SocketAddr, effects: &mut Effects) {
        let digest = Frame::Digest {
            members: self.member_list(),
            records: self.records.digest(|host| self.known.contains_key(&host)),
            buckets: Box::new(self.map.digest()),
        };
        self.open_stream(to, &digest, effects);
    }

    /// Asks for the record of a host.
    pub(super) fn fetch(
        &mut self,
        now: Instant,
        from: SocketAddr,
        host: HostId,
        version: u64,
        effects: &mut Effects,
    ) {
        self.fetching.retain(|_, (_, asked)| now.since(*asked) < FETCH_TIMEOUT);
        let is_asked = self.fetching.get(&host).is_some_and(|(asked, _)| *asked >= version);
        if is_asked || self.fetching.len() >= FETCHES_MAX {
            return;
        }
        self.fetching.insert(host, (version, now));
        self.open_stream(from, &Frame::Fetch { hosts: vec![host] }, effects);
    }

    pub(super) fn open_stream(&mut self, to: SocketAddr, frame: &Frame, effects: &mut Effects) {
        self.counters.add(Count::StreamsOpened, 1);
        effects.opens.push((to, frame.encode()));
    }

    /// Takes a frame, and says in the effects what to answer.
    pub(super) fn on_frame(
        &mut self,
        now: Instant,
        side: Side,
        bytes: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let frame = Frame::decode(bytes).map_err(|_| Refusal::Malformed)?;
        if self.departure.is_some() {
            return Ok(());
        }
        let reply = match (side, frame) {
            (Side::Answerer, Frame::Digest { members, records, buckets }) => {
                let theirs: Vec<Host> = members.iter().map(|update| *update.member.id()).collect();
                self.swim.apply(now, members)?;
                let mut delta = self.delta(now, records, &buckets);
                delta.members.append(&mut self.swim.dead_among(&theirs));
                Some(Frame::Delta(delta))
            }
            (Side::Asker, Frame::Delta(delta)) => self.on_delta(now, delta, effects)?,
            (Side::Answerer, Frame::Push { records, entries, wanted }) => {
                self.offer_all(now, &records, &entries, effects);
                let entries = self.pick_entries(now, wanted.iter(), &mut Room::new());
                (!entries.is_empty()).then_some(Frame::Rest { entries })
            }
            (Side::Asker, Frame::Rest { entries }) => {
                self.offer_all(now, &[], &entries, effects);
                None
            }
            (Side::Answerer, Frame::Fetch { hosts }) => {
                let records = self.pick_records(now, hosts.into_iter(), &mut Room::new());
                Some(Frame::Delta(Delta { records, ..Delta::default() }))
            }
            (Side::Answerer, Frame::Message(bytes)) => {
                let mut reader = Reader::new(&bytes);
                let message = Message::decode(&mut reader).map_err(|_| Refusal::Malformed)?;
                reader.end().map_err(|_| Refusal::Malformed)?;
                if !self.known.contains_key(&message.from.host) {
                    return Err(Refusal::Stranger);
                }
                self.on_message(&message, effects)?;
                Some(Frame::Taken)
            }
            (Side::Asker, Frame::Taken) => None,
            _ => return Err(Refusal::Malformed),
        };
        effects.reply = reply.map(|frame| frame.encode());
        Ok(())
    }

    fn member_list(&self) -> Vec<Update> {
        let me = Member::new(self.swim.host(), 0, State::Alive);
        let members = self.swim.members().cloned().chain([me]);
        members.map(|member| Update { member, has_left: false }).collect()
    }

    /// What is newer here, and what is newer there.
    fn delta(
        &mut self,
        now: Instant,
        theirs: Vec<(HostId, u64)>,
        buckets: &[u64; BUCKETS],
    ) -> Delta {
        let mine = self.records.digest(|host| self.known.contains_key(&host));
        let theirs: BTreeMap<HostId, u64> = theirs.into_iter().collect();
        let newer = mine
            .into_iter()
            .filter(|(host, version)| theirs.get(host).is_none_or(|known| known < version))
            .map(|(host, _)| host);
        let mut room = Room::new();
        let records = self.pick_records(now, newer, &mut room);
        let is_newer = |(host, version): &(&HostId, &u64)| **version > self.records.version(**host);
        let wanted = theirs.iter().filter(is_newer).map(|(host, _)| *host).collect();
        let mut told = 0;
        let mut keys = Vec::new();
        let mut by_bucket: BTreeMap<usize, Vec<(MapKey, Written)>> = BTreeMap::new();
        for (key, entry) in self.map.entries() {
            by_bucket.entry(bucket(key)).or_default().push((key.clone(), entry.written));
        }
        for (index, (here, there)) in self.map.digest().iter().zip(buckets).enumerate() {
            let of_bucket = by_bucket.remove(&index).unwrap_or_default();
            let size = of_bucket.len() * KEY_ROOM;
            if here != there && room.take(size) {
                told |= 1 << index;
                keys.extend(of_bucket);
            }
        }
        self.sync_again(now, &room);
        Delta { members: self.member_list(), records, wanted, buckets: told, keys }
    }

    fn on_delta(
        &mut self,
        now: Instant,
        delta: Delta,
        effects: &mut Effects,
    ) -> Result<Option<Frame>, Refusal> {
        self.swim.apply(now, delta.members)?;
        self.offer_all(now, &delta.records, &[], effects);
        let mut room = Room::new();
        let records = self.pick_records(now, delta.wanted.into_iter(), &mut room);
        let theirs: BTreeMap<MapKey, Written> = delta.keys.into_iter().collect();
        let is_newer = |(key, written): &(&MapKey, &Written)| {
            self.map.entry(key).is_none_or(|entry| entry.written < **written)
        };
        let wanted = theirs.iter().filter(is_newer).map(|(key, _)| key);
        let wanted: Vec<MapKey> = wanted.filter(|_| room.take(KEY_ROOM)).cloned().collect();
        let mine: Vec<MapKey> = self
            .map
            .entries()
            .filter(|(key, _)| delta.buckets >> bucket(key) & 1 == 1)
            .filter(|(key, entry)| theirs.get(key).is_none_or(|it| *it < entry.written))
            .map(|(key, _)| key.clone())
            .collect();
        let entries = self.pick_entries(now, mine.iter(), &mut room);
        let is_empty = records.is_empty() && entries.is_empty() && wanted.is_empty();
        Ok((!is_empty).then_some(Frame::Push { records, entries, wanted }))
    }

    /// Takes what is new; what cannot be taken is counted, and keeps nothing else from being taken.
    fn offer_all(
        &mut self,
        now: Instant,
        records: &[Vec<u8>],
        entries: &[Vec<u8>],
        effects: &mut Effects,
    ) {
        for bytes in records {
            let taken = self.offer_record(now, bytes, Way::Sync, effects);
            self.count(taken);
        }
        for bytes in entries {
            let taken = self.offer_entry(now, bytes, Way::Sync, effects);
            self.count(taken);
        }
    }

    fn pick_records(
        &mut self,
        now: Instant,
        hosts: impl Iterator<Item = HostId>,
        room: &mut Room,
    ) -> Vec<Vec<u8>> {
        let records = hosts.filter_map(|host| self.records.bytes(host));
        let records = records.filter(|bytes| room.take(bytes.len() + 4));
        let records = records.map(|bytes| bytes.to_vec()).collect();
        self.sync_again(now, room);
        records
    }

    fn pick_entries<'a>(
        &mut self,
        now: Instant,
        keys: impl Iterator<Item = &'a MapKey>,
        room: &mut Room,
    ) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        for key in keys {
            if let Some(entry) = self.map.entry(key) {
                let mut bytes = Vec::new();
                encode_entry(key, entry, &mut bytes);
                if room.take(bytes.len() + 4) {
                    entries.push(bytes);
                }
            }
        }
        self.sync_again(now, room);
        entries
    }

    fn sync_again(&mut self, now: Instant, room: &Room) {
        if room.is_cut {
            let soon = now + self.tuning.announce_alone;
            self.due.sync = self.due.sync.min(soon);
        }
    }
}
