//! How effects become keys.
//!
//! The coprocessor knows no session: it carries out what the service decided, on every replica
//! alike. What it keeps in memory follows from the data and is derived anew by `reset`: which
//! entries share which message, and the largest number that ended, per partition. A message goes
//! with the last entry that refers to it.
//!
//! A range is parted between two partitions only, and not while an entry of the one side has its message on
//! the other. Under reigns none has, for messages are stored once in each partition; what was stored
//! before goes in its time.
//!
//! Each number that ended without a key is a number that could be given again: so the largest of
//! each partition leaves a mark.

use std::collections::BTreeMap;

use bytes::Bytes;
use hashbrown::HashMap;
use ratatosk_client::ReignHook;
use ratatosk_contract::inbox::InboxId;
use ratatosk_engine::{Error, KeyRange, wire::Malformed};
use ratatosk_store::coprocessor::{
    Coprocessor, Position as LogPosition, Reader, Reign, Writer, scan_all,
};

use crate::{
    effect::{self, Effect, End, Target},
    partition::PARTITION_COUNT,
    schema::{EntryRecord, Key, Place, Position, TurnRecord, partition_keys},
};

/// The inbox's part of a range.
#[derive(Debug, Default)]
pub struct InboxCoprocessor {
    /// Which body an entry refers to, of those that refer to one. Looked up, never listed.
    bodies: HashMap<Slot, Slot, foldhash::fast::RandomState>,
    /// How many entries refer to a body.
    references: HashMap<Slot, u32, foldhash::fast::RandomState>,
    /// How many entries have their messages in another partition, by the two, the smaller first.
    spans: HashMap<(u64, u64), u32, foldhash::fast::RandomState>,
    /// The largest number that ended, by partition.
    marks: BTreeMap<u64, InboxId>,
    /// Who is told of reigns.
    hook: Option<ReignHook>,
}

/// An entry, or the body under it.
type Slot = (InboxId, u64);

/// What is answered to a command that makes no sense. To others the answer is empty.
pub(crate) const MALFORMED: &[u8] = b"\x01";

impl InboxCoprocessor {
    /// One that knows of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that tells of the reigns over its range.
    #[must_use]
    pub fn reigning(hook: ReignHook) -> Self {
        Self { hook: Some(hook), ..Self::default() }
    }

    fn carry_out(&mut self, command: &Bytes, effect: Effect<'_>, writer: &mut Writer<'_>) {
        let key = |inbox, place| Key::new(inbox, place).to_bytes();
        match effect {
            Effect::Session { inbox, record } => {
                writer.put(key(inbox, Place::Session), command.slice_ref(record));
            }
            Effect::End(end) => self.end(&end, writer),
            Effect::Subscription { inbox, ordinal, record } => {
                writer.put(key(inbox, Place::Subscription(ordinal)), command.slice_ref(record));
            }
            Effect::Unsubscribed { inbox, ordinal } => {
                writer.remove(key(inbox, Place::Subscription(ordinal)));
            }
            Effect::Entry { inbox, sequence, record } => {
                writer.insert(key(inbox, Place::Entry(sequence)), command.slice_ref(record));
            }
            Effect::Fan { targets, message } => {
                self.fan(&targets, command.slice_ref(message), writer);
            }
            Effect::Removed { inbox, sequences, position } => {
                for sequence in sequences {
                    writer.remove(key(inbox, Place::Entry(sequence)));
                    self.forget((inbox, sequence), writer);
                }
                put_position(inbox, position, writer);
            }
            Effect::Position { inbox, position } => put_position(inbox, position, writer),
            Effect::Received { inbox, sequence } => {
                let mut record = Vec::new();
                EntryRecord::Received.encode(&mut record);
                writer.put(key(inbox, Place::Entry(sequence)), record);
                self.forget((inbox, sequence), writer);
            }
            Effect::Accepted { inbox, packet_id } => {
                writer.put(key(inbox, Place::Inbound(packet_id)), Bytes::new());
            }
            Effect::Released { inbox, packet_id } => {
                writer.remove(key(inbox, Place::Inbound(packet_id)));
            }
            Effect::Will { will, record } => {
                writer.put(key(will, Place::Will), command.slice_ref(record));
            }
            Effect::WillEnd { will } => {
                writer.remove(key(will, Place::Will));
                self.mark(will, writer);
            }
            Effect::Sweep { key } => self.sweep(key, writer),
            once => carry_out_once(once, writer),
        }
    }

    /// One message for several entries, under the first of them.
    fn fan(&mut self, targets: &[Target<'_>], message: Bytes, writer: &mut Writer<'_>) {
        let Some(first) = targets.first() else { return };
        let body = (first.inbox, first.sequence);
        writer.insert(Key::new(body.0, Place::Body(body.1)).to_bytes(), message);
        for target in targets {
            let head = target.head;
            let mut record = Vec::new();
            EntryRecord::Elsewhere { head, inbox: body.0, sequence: body.1 }.encode(&mut record);
            let key = Key::new(target.inbox, Place::Entry(target.sequence));
            writer.insert(key.to_bytes(), record);
            self.refer((target.inbox, target.sequence), body);
        }
    }

    fn end(&mut self, end: &End, writer: &mut Writer<'_>) {
        let mut remove = |place| writer.remove(Key::new(end.inbox, place).to_bytes());
        remove(Place::Session);
        remove(Place::Position);
        end.ordinals.iter().for_each(|ordinal| remove(Place::Subscription(*ordinal)));
        end.inbound.iter().for_each(|packet_id| remove(Place::Inbound(*packet_id)));
        for sequence in end.first..end.first.saturating_add(end.count.into()) {
            writer.remove(Key::new(end.inbox, Place::Entry(sequence)).to_bytes());
            self.forget((end.inbox, sequence), writer);
        }
        self.mark(end.inbox, writer);
    }

    fn refer(&mut self, entry: Slot, body: Slot) {
        if self.bodies.insert(entry, body).is_none() {
            *self.references.entry(body).or_insert(0) += 1;
            if let Some(span) = span(entry, body) {
                *self.spans.entry(span).or_insert(0) += 1;
            }
        }
    }

    /// An entry refers to nothing any more; the last one takes the message with it.
    fn forget(&mut self, entry: Slot, writer: &mut Writer<'_>) {
        let Some(body) = self.bodies.remove(&entry) else { return };
        if let Some(span) = span(entry, body)
            && let Some(count) = self.spans.get_mut(&span)
        {
            *count -= 1;
            if *count == 0 {
                self.spans.remove(&span);
            }
        }
        let Some(count) = self.references.get_mut(&body) else { return };
        *count -= 1;
        if *count == 0 {
            self.references.remove(&body);
            writer.remove(Key::new(body.0, Place::Body(body.1)).to_bytes());
        }
    }

    /// Notes that a number was used, if no larger one is noted.
    fn mark(&mut self, inbox: InboxId, writer: &mut Writer<'_>) {
        let known = self.marks.get(&partition(inbox)).copied();
        if known.is_some_and(|known| known >= inbox) {
            return;
        }
        if let Some(known) = known {
            writer.remove(Key::new(known, Place::Mark).to_bytes());
        }
        writer.put(Key::new(inbox, Place::Mark).to_bytes(), Bytes::new());
        self.marks.insert(partition(inbox), inbox);
    }

    /// Removes a key that the service found to belong to nobody. Bodies only without references.
    fn sweep(&mut self, key: &[u8], writer: &mut Writer<'_>) {
        let Ok(Key { inbox, place }) = Key::parse(key) else { return };
        let is_needed = match place {
            Place::Body(sequence) => self.references.contains_key(&(inbox, sequence)),
            Place::Mark => true,
            _ => false,
        };
        if is_needed {
            return;
        }
        writer.remove(Bytes::copy_from_slice(key));
        if let Place::Entry(sequence) = place {
            self.forget((inbox, sequence), writer);
        }
        self.mark(inbox, writer);
    }
}

impl Coprocessor for InboxCoprocessor {
    fn reset(&mut self, boundary: &KeyRange, reader: &dyn Reader) -> Result<(), Error> {
        *self = Self { hook: self.hook.take(), ..Self::new() };
        scan_all(reader, boundary, |key, value| {
            let key = Key::parse(key).map_err(|malformed| corrupt(key, malformed))?;
            match key.place {
                Place::Entry(sequence) => {
                    let record = EntryRecord::decode(value);
                    let record = record.map_err(|malformed| corrupt(&key.to_bytes(), malformed))?;
                    if let EntryRecord::Elsewhere { inbox, sequence: at, .. } = record {
                        self.refer((key.inbox, sequence), (inbox, at));
                    }
                }
                Place::Mark => {
                    self.marks.insert(partition(key.inbox), key.inbox);
                }
                _ => {}
            }
            Ok(())
        })
    }

    fn apply(
        &mut self,
        _position: LogPosition,
        command: &Bytes,
        writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        // Read to its end before any of it takes effect.
        let Ok(effects) = effect::decode(command) else {
            return Ok(Bytes::from_static(MALFORMED));
        };
        for effect in effects {
            self.carry_out(command, effect, writer);
        }
        Ok(Bytes::new())
    }

    fn query(&self, _question: &Bytes, _reader: &dyn Reader) -> Result<Bytes, Error> {
        Ok(Bytes::new())
    }

    fn lead(&mut self, reign: Option<&Reign>) {
        if let Some(hook) = &mut self.hook {
            hook.lead(reign);
        }
    }

    /// The beginning of a partition: that of the key, or the next one that will do.
    fn parting(&self, boundary: &KeyRange, key: &Bytes) -> Option<Bytes> {
        let at = Key::partition_of(key);
        let may = |number: &usize| {
            let place = *number as u64;
            !self.spans.keys().any(|(first, last)| *first < place && place <= *last)
        };
        let start = |number: usize| partition_keys(number).start;
        let parts = |start: &Bytes| boundary.contains(start) && *start != boundary.start;
        (at.max(1)..PARTITION_COUNT).filter(may).map(start).find(parts)
    }
}

/// Effects by which a message that may come again is queued once.
fn carry_out_once(effect: Effect<'_>, writer: &mut Writer<'_>) {
    let key = |inbox, place| Key::new(inbox, place).to_bytes();
    match effect {
        Effect::Begun { inbox, packet_id, record, turn } => {
            let (mut begun, mut last) = (Vec::new(), Vec::new());
            record.encode(&mut begun);
            TurnRecord(turn).encode(&mut last);
            writer.put(key(inbox, Place::Begun(packet_id)), begun);
            writer.put(key(inbox, Place::Turn), last);
        }
        Effect::Ceased { inbox, packet_ids, is_end } => {
            let mut remove = |place| writer.remove(key(inbox, place));
            packet_ids.into_iter().for_each(|packet_id| remove(Place::Begun(packet_id)));
            if is_end {
                remove(Place::Turn);
            }
        }
        Effect::Noted { inbox, publisher, number, record } => {
            let mut note = Vec::new();
            record.encode(&mut note);
            writer.put(key(inbox, Place::Note { publisher, number }), note);
        }
        Effect::Unnoted { inbox, publisher, numbers } => {
            for number in numbers {
                writer.remove(key(inbox, Place::Note { publisher, number }));
            }
        }
        other => debug_assert!(false, "{other:?} is carried out above"),
    }
}

/// The partitions between which a range may not be parted, if an entry has its message elsewhere.
fn span(entry: Slot, body: Slot) -> Option<(u64, u64)> {
    let (one, other) = (partition(entry.0), partition(body.0));
    (one != other).then_some((one.min(other), one.max(other)))
}

fn put_position(inbox: InboxId, position: Position, writer: &mut Writer<'_>) {
    let mut record = Vec::new();
    position.encode(&mut record);
    writer.put(Key::new(inbox, Place::Position).to_bytes(), record);
}

fn partition(inbox: InboxId) -> u64 {
    inbox.0 % PARTITION_COUNT as u64
}

/// What is on disk is not what was written.
pub(crate) fn corrupt(key: &[u8], malformed: Malformed) -> Error {
    Error::Corrupt { detail: format!("inbox, key {key:02x?}: {malformed}") }
}
