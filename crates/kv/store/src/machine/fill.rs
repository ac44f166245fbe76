//! Snapshots that come: whether they are worth their way, and those that bring a replica its data and
//! leave it its log.
//!
//! A replica may have a log and no data: a crash came while data took the place of other data, or before
//! a split was durable. If its log has the entry that a snapshot ends with, the data goes below the log,
//! and the group goes on as after a restart: `truncated ≤ snapshot ≤ last`. The library would give up
//! the entries behind the snapshot, which were acknowledged.

use raft::eraftpb::Message;

use super::{Envelope, Error, Event, Machine, Opened, Output};
use crate::log::{GroupId, RaftLog};
use crate::range::Descriptor;

impl<L: RaftLog, T> Machine<L, T> {
    /// Whether the data that a message announces would have a place here, as things are: asked before it
    /// is sent, and decided once more when it has come.
    #[must_use]
    pub fn wants(&mut self, envelope: &Envelope) -> bool {
        let Envelope { group, message } = envelope;
        let is_for_us = match self.groups.get(group) {
            // A former replica goes before the data comes.
            Some(held) => held.replica <= message.to,
            None => self.left.get(group).is_none_or(|left| *left < message.to),
        };
        if let Some(held) = self.groups.get(group)
            && held.descriptor.is_none()
            && let Some(descriptor) = super::described(*group, message.get_snapshot())
        {
            self.announced.insert(*group, descriptor);
        }
        is_for_us && self.fits(*group, message)
    }

    /// Has the host take in the data of a snapshot below the log; false if that is not what it is for.
    pub(super) fn fill(
        &mut self,
        group: GroupId,
        message: &Message,
        output: &mut Output<T>,
    ) -> bool {
        let Some(held) =
            self.groups.get_mut(&group).filter(|held| held.is_at_work() && !held.has_snapshot())
        else {
            return false;
        };
        let Some((descriptor, at)) = held.begin_filling(message) else { return false };
        output.events.push(Event::Install {
            descriptor: Box::new(descriptor),
            at,
            keeps_log: true,
        });
        true
    }

    /// The host has the data below the log: the group goes on with both.
    pub(super) fn filled(
        &mut self,
        descriptor: Descriptor,
        output: &mut Output<T>,
    ) -> Result<(), Error> {
        let Some(held) = self.groups.remove(&descriptor.group) else { return Ok(()) };
        let (state, applied) = (held.state(), held.filled_to().unwrap_or(0));
        held.give_up(output);
        let descriptor = Some(descriptor);
        self.open_again(Opened { descriptor, applied, ..Opened::without_range(state) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use raft::eraftpb::{MessageType, Snapshot};
    use ratatosk_engine::KeyRange;

    use super::*;
    use crate::log::{GroupState, MemoryLog};
    use crate::range::Edges;

    const STORE: u64 = 7;

    /// The keys from one to another, where the edges were made by these boundary versions; the later one
    /// is that of the range.
    fn range(group: u64, keys: (&str, Option<&str>), edges: Edges) -> Descriptor {
        let mut range = Descriptor::whole(GroupId(group), "register".to_owned(), STORE);
        let bytes = |key: &str| Bytes::copy_from_slice(key.as_bytes());
        range.boundary = KeyRange { start: bytes(keys.0), end: keys.1.map(bytes) };
        range.version.boundary = edges.start.max(edges.end);
        range.edges = edges;
        range
    }

    fn wants(here: &[&Descriptor], comes: &Descriptor) -> bool {
        let opened = |range: &&Descriptor| {
            let state = GroupState { replica: 1, ..GroupState::new(range.group) };
            Opened { descriptor: Some((*range).clone()), ..Opened::without_range(state) }
        };
        let groups: Vec<_> = here.iter().map(opened).collect();
        let machine = Machine::<_, u64>::open(Arc::new(MemoryLog::default()), STORE, groups, []);
        let snapshot = Snapshot { data: comes.encode(), ..Snapshot::default() };
        let mut message = Message { from: 2, to: 1, term: 9, ..Message::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        message.set_snapshot(snapshot);
        let envelope = Envelope { group: comes.group, message };
        machine.expect("whole").wants(&envelope)
    }

    /// KV-015, KV-018: a part that was taken in elsewhere stays as long as it is to be taken in here.
    #[test]
    fn a_snapshot_does_not_take_the_part_that_a_neighbour_still_has_to_take_in() {
        let edges = |start, end| Edges { start, end };
        let left = range(1, ("", Some("p")), edges(0, 4));
        let part = range(2, ("p", None), edges(4, 0));
        // The left one took the part in, and was split there again.
        let comes = range(3, ("p", None), edges(7, 0));
        assert!(wants(&[], &comes), "nobody is here");
        assert!(wants(&[&part], &comes), "it has taken the part in");
        assert!(!wants(&[&left, &part], &comes), "the left one here is behind");
        let left_now = range(1, ("", Some("p")), edges(0, 7));
        assert!(wants(&[&left_now, &part], &comes), "it has come to it");
        assert!(!wants(&[&comes], &part), "what is here is later");
    }

    /// KV-015, KV-018: or two ranges whose neighbour has taken both in would keep its data out for ever.
    #[test]
    fn a_snapshot_takes_two_neighbours_that_are_both_a_part_of_it() {
        let edges = |start, end| Edges { start, end };
        let behind = range(1, ("", Some("g")), edges(0, 1));
        let middle = range(2, ("g", Some("m")), edges(1, 2));
        let last = range(3, ("m", None), edges(2, 0));
        let comes = range(1, ("", Some("o")), edges(0, 6));
        assert!(wants(&[&behind, &middle, &last], &comes));
        let young = range(2, ("g", Some("m")), edges(8, 2));
        assert!(!wants(&[&behind, &young, &last], &comes), "it is later than what comes");
    }
}
