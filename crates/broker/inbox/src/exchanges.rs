//! Messages of a session that go into several queues by several commands: begun before, accepted behind.
//!
//! Each has a number, which counts up and is not given again as long as the session lasts. While it is begun,
//! whoever brings it again is given the same number, so that those who have it know it: see
//! [`notes`](crate::notes). Numbers below [`Exchanges::low`] never come again: their messages are accepted, or
//! given up.
//!
//! What is answered to [`InboxService::begin_exchange`] follows from what is submitted before, and is told once
//! that is durable, for one range carries its commands out in their order. So a number counts as accepted only
//! where that is durable.

use ratatosk_codec::PacketId;
use ratatosk_contract::{
    ReplyTo,
    call::Promised,
    inbox::{Claim, InboxId, StaleClaim},
    serving::Once,
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

    /// The number of a message, and whether it is a new one.
    fn begin(&mut self, packet_id: PacketId, mark: u64) -> (BegunRecord, bool) {
        let at = self.position(packet_id);
        if let Ok(at) = at
            && self.begun[at].1.mark == mark
        {
            return (self.begun[at].1, false);
        }
        self.last += 1;
        let record = BegunRecord { number: self.last, mark };
        match at {
            // Its publisher has given the other one up.
            Ok(at) => self.begun[at].1 = record,
            Err(at) => self.begun.insert(at, (packet_id, record)),
        }
        (record, true)
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
        size_of::<Self>() + self.begun.capacity() * size_of::<(PacketId, BegunRecord)>()
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
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<Once>, StaleClaim> {
        let inbox = claim.inbox;
        let mut partition = self.partitions.lock_of(inbox);
        let session = partition.claimed(claim)?;
        let exchanges = session.exchanges.get_or_insert_default();
        let (record, is_new) = exchanges.begin(packet_id, mark);
        let once = Once { publisher: inbox, number: record.number, low: exchanges.low() };
        session.recharge();
        // Also if it was begun before: that may not be durable yet.
        Ok(self.promise(once, inbox, reply_to, |effects| {
            if is_new {
                effects.push(&Effect::Begun { inbox, packet_id, record });
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: u16) -> PacketId {
        PacketId::new(value).unwrap()
    }

    /// DUR-010: what is begun again has its number until it is accepted, another message never has.
    #[test]
    fn a_number_stays_with_its_message_until_it_is_accepted() {
        let mut exchanges = Exchanges::default();
        assert_eq!(exchanges.low(), 1);
        let mut begin = |packet_id, mark| {
            let (record, is_new) = exchanges.begin(id(packet_id), mark);
            (record.number, is_new, exchanges.low())
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
        assert_eq!(exchanges.begin(id(9), 72).0.number, 4, "accepted, so it is another one");
    }
}
