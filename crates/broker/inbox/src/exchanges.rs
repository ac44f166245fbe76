//! Messages of a session that go into several queues by several commands: begun before, accepted behind.
//!
//! Each has a number, which counts up and is not given again as long as the session lasts. While it is begun,
//! whoever brings it again is given the same number, so that those who have it know it: see
//! [`notes`](crate::notes). Numbers below [`Exchanges::low`] never come again: their messages are accepted, or
//! given up.
//!
//! With it is kept whom it goes to of shared groups: whoever brings it again has it go there, too. Those that are
//! chosen later have a number of their own, for their partitions may have the message for others.
//!
//! What is answered to [`InboxService::begin_exchange`] follows from what is submitted before, and is told once
//! that is durable, for one range carries its commands out in their order. So a number counts as accepted only
//! where that is durable.

use ratatosk_codec::PacketId;
use ratatosk_contract::{
    ReplyTo,
    call::Promised,
    inbox::{Claim, InboxId, StaleClaim},
    serving::{Begun, Choice, Once, Wish},
};

use crate::{
    InboxService, effect::Effect, journal::Effects, schema::BegunRecord, session::Session,
};

/// What a session has begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exchanges {
    /// The last number that was given.
    last: u64,
    /// Rising by their identifiers.
    begun: Vec<(PacketId, BegunRecord)>,
}

impl Exchanges {
    /// As it was stored.
    pub(crate) fn restored(last: u64, begun: Vec<(PacketId, BegunRecord)>) -> Self {
        Exchanges { last, begun }
    }

    /// Has a message begun: it as it is stored, the number of those that were chosen now, and whether this
    /// changed anything.
    fn begin(
        &mut self,
        packet_id: PacketId,
        mark: u64,
        wished: &[Wish],
    ) -> (&BegunRecord, u64, bool) {
        let (at, next) = (self.position(packet_id), self.last + 1);
        let (at, is_changed) = match at {
            Ok(at) if self.begun[at].1.mark == mark => (at, self.begun[at].1.choose(wished, next)),
            Ok(at) => {
                // Its publisher has given the other one up.
                self.begun[at].1 = BegunRecord::new(next, mark, wished);
                (at, true)
            }
            Err(at) => {
                self.begun.insert(at, (packet_id, BegunRecord::new(next, mark, wished)));
                (at, true)
            }
        };
        self.last += u64::from(is_changed);
        let record = &self.begun[at].1;
        (record, if is_changed { next } else { record.number }, is_changed)
    }

    /// The smallest number that may come again.
    fn low(&self) -> u64 {
        self.begun.iter().map(|(_, record)| record.number).min().unwrap_or(self.last + 1)
    }

    /// Whether a message is begun under a number.
    fn has(&self, packet_id: PacketId, number: u64) -> bool {
        self.position(packet_id).is_ok_and(|at| self.begun[at].1.number == number)
    }

    /// A message is begun no longer; false if it was not.
    fn cease(&mut self, packet_id: PacketId) -> bool {
        let at = self.position(packet_id);
        at.is_ok_and(|at| {
            self.begun.remove(at);
            true
        })
    }

    /// What is begun.
    pub(crate) fn packet_ids(&self) -> impl Iterator<Item = PacketId> {
        self.begun.iter().map(|(packet_id, _)| *packet_id)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let choices = self.begun.iter().map(|(_, record)| record.choices.capacity());
        let own = self.begun.capacity() * size_of::<(PacketId, BegunRecord)>();
        size_of::<Self>() + own + choices.sum::<usize>() * size_of::<Choice>()
    }

    fn position(&self, packet_id: PacketId) -> Result<usize, usize> {
        self.begun.binary_search_by_key(&packet_id, |begun| begun.0)
    }
}

impl Session {
    /// Whether the message of an exchange is what was begun, if it had to be.
    pub(crate) fn may_accept(&self, packet_id: PacketId, once: Option<Once>) -> bool {
        let has = |once: Once| {
            self.exchanges.as_ref().is_some_and(|known| known.has(packet_id, once.number))
        };
        once.is_none_or(has)
    }

    /// Notes that the message of an exchange was accepted; answers whether it was begun.
    pub(crate) fn accept(&mut self, packet_id: PacketId) -> bool {
        let was_begun = self.exchanges.as_mut().is_some_and(|known| known.cease(packet_id));
        self.note_inbound(packet_id, false);
        was_begun
    }
}

impl Effects {
    /// The message of an exchange was accepted.
    pub(crate) fn accepted(&mut self, inbox: InboxId, packet_id: PacketId, was_begun: bool) {
        self.push(&Effect::Accepted { inbox, packet_id });
        if was_begun {
            let packet_ids = vec![packet_id];
            self.push(&Effect::Ceased { inbox, packet_ids, is_end: false });
        }
    }
}

impl InboxService {
    /// See [`Serving::begin`](ratatosk_contract::serving::Serving::begin).
    pub(crate) fn begin_exchange(
        &self,
        (claim, packet_id): (Claim, PacketId),
        mark: u64,
        wished: &[Wish],
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<Begun>, StaleClaim> {
        let inbox = claim.inbox;
        let mut partition = self.partitions.lock_of(inbox);
        let session = partition.claimed(claim)?;
        let exchanges = session.exchanges.get_or_insert_default();
        let (record, others, is_changed) = exchanges.begin(packet_id, mark, wished);
        let record = record.clone();
        let once = Once { publisher: inbox, number: record.number, low: exchanges.low() };
        let (begun, turn) =
            (Begun { once, choices: record.choices.clone(), others }, exchanges.last);
        session.recharge();
        // Also if it was begun before: that may not be durable yet.
        Ok(self.promise(begun, inbox, reply_to, |effects| {
            if is_changed {
                effects.push(&Effect::Begun { inbox, packet_id, record, turn });
            }
        }))
    }

    /// See [`Serving::is_begun`](ratatosk_contract::serving::Serving::is_begun).
    pub(crate) fn is_begun_exchange(&self, (claim, packet_id): (Claim, PacketId)) -> bool {
        let mut partition = self.partitions.lock_of(claim.inbox);
        let known = partition.claimed(claim).ok().and_then(|session| session.exchanges.as_ref());
        known.is_some_and(|known| known.position(packet_id).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use ratatosk_contract::serving::GroupMark;

    use super::*;
    use crate::schema::CHOICES_MAX;

    fn id(value: u16) -> PacketId {
        PacketId::new(value).unwrap()
    }

    /// DUR-010: what is begun again has its number until it is accepted, another message never has.
    #[test]
    fn a_number_stays_with_its_message_until_it_is_accepted() {
        let mut exchanges = Exchanges::default();
        assert_eq!(exchanges.low(), 1);
        let mut begin = |packet_id, mark| {
            let (record, others, is_new) = exchanges.begin(id(packet_id), mark, &[]);
            assert_eq!(record.number, others);
            (others, is_new, exchanges.low())
        };
        assert_eq!(begin(9, 70), (1, true, 1));
        assert_eq!(begin(4, 71), (2, true, 1));
        assert_eq!(begin(9, 70), (1, false, 1), "it is brought again");
        assert_eq!(begin(9, 72), (3, true, 2), "the client has given up the other");
        assert!(exchanges.has(id(9), 3) && !exchanges.has(id(9), 1));
        assert!(exchanges.cease(id(4)) && !exchanges.cease(id(4)));
        assert_eq!(exchanges.low(), 3);
        assert!(exchanges.cease(id(9)));
        assert_eq!(exchanges.low(), 4);
        let number = exchanges.begin(id(9), 72, &[]).0.number;
        assert_eq!(number, 4, "accepted, so it is another one");
    }

    fn wish(group: u64, inbox: u64, instead_of: Option<u64>) -> Wish {
        let (group, inbox) = (GroupMark(group), InboxId(inbox));
        Wish { group, inbox, instead_of: instead_of.map(InboxId) }
    }

    fn choices(record: &BegunRecord) -> Vec<(u64, u64, u64)> {
        record.choices.iter().map(|it| (it.group.0, it.inbox.0, it.number)).collect()
    }

    /// DUR-010, DIST-011: who was chosen first stays chosen, unless gone; who is chosen later has a later number.
    #[test]
    fn a_choice_stays_while_its_member_does() {
        let mut exchanges = Exchanges::default();
        let mut begin = |wished: &[Wish]| {
            let (record, others, is_changed) = exchanges.begin(id(9), 70, wished);
            (choices(record), others, is_changed)
        };
        let first = vec![(5, 71, 1), (6, 72, 1)];
        assert_eq!(begin(&[wish(5, 71, None), wish(6, 72, None)]), (first.clone(), 1, true));
        assert_eq!(begin(&[wish(5, 80, None)]), (first.clone(), 1, false));
        assert_eq!(begin(&[wish(5, 80, Some(79))]), (first, 1, false), "another one is gone");
        let second = vec![(5, 80, 2), (6, 72, 1)];
        for is_changed in [true, false] {
            let others = if is_changed { 2 } else { 1 };
            assert_eq!(begin(&[wish(5, 80, Some(71))]), (second.clone(), others, is_changed));
        }
        let third = vec![(5, 80, 2), (6, 72, 1), (7, 90, 3)];
        assert_eq!(begin(&[wish(6, 73, None), wish(7, 90, None)]), (third, 3, true));
        assert_eq!(exchanges.low(), 1);
        assert_eq!(exchanges.begin(id(4), 70, &[]).0.number, 4);
    }

    /// MEM-001: so many choices at most are kept; others are of a number of their own each time.
    #[test]
    fn choices_are_bounded_and_the_rest_is_sent_anew() {
        let mut exchanges = Exchanges::default();
        let count = CHOICES_MAX as u64 + 2;
        let wished: Vec<Wish> = (0..count).map(|group| wish(group, 70 + group, None)).collect();
        for others in [1, 2, 3] {
            let (record, number, is_changed) = exchanges.begin(id(9), 70, &wished);
            assert_eq!((record.choices.len(), number, is_changed), (CHOICES_MAX, others, true));
            assert_eq!(record.last(), 1);
        }
        assert!(exchanges.memory_bytes() >= CHOICES_MAX * size_of::<Choice>());
    }
}
