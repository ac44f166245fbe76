//! Owners over a move: a session that is served by another node from now on keeps its owner, if he lives.
//!
//! What is read back under a reign may have had an owner. Such a session is *awaited*: its owner comes
//! and goes on with the claim that he has ([`InboxService::resume`]), or it is known that he cannot
//! ([`InboxService::abandon`]), or nobody came in time. Then it is as if its connection had ended without a word:
//! its will is due by its delay, and its expiry runs. So is the will of a transient session, which has
//! nothing else here. INBOX-012, INBOX-013

use std::{sync::Arc, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_codec::PacketId;
use ratatosk_contract::{
    Call, Message, ReplyTo, SessionIdentity, SessionRef, StoredMessage,
    call::{Promised, Settlement},
    inbox::{
        Attached, Claim, Detach, DirectDelivery, DueWill, Inbox as _, InboxId, NotServed,
        StaleClaim, Targets, WillId,
    },
    serving::{Begun, Refusal, Serving, Terms, Wish},
};
use ratatosk_engine::wire::Malformed;

use crate::{
    InboxService,
    handover::keep,
    journal::{Effects, WillOrder},
    partition::{Guest, Partition},
    partitions::{Locks, Sequel, number_of, partition_number, partition_of},
    restore::{Origin, Sessions},
    schema::{MessageRecord, WillRecord},
    session::HeldWill,
};

/// Why an owner does not go on.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ResumeError {
    /// Another node is to be asked, or this one later.
    NotServed,
    /// He is not the owner any more. INBOX-002
    Stale,
}

impl From<NotServed> for ResumeError {
    fn from(NotServed: NotServed) -> Self {
        Self::NotServed
    }
}

impl InboxService {
    /// The term in which a partition is served here, if it is. Without reigns all are, in term 0.
    pub fn serves(&self, partition: usize) -> Option<u64> {
        match self.seats() {
            Some(seats) => seats.serving(partition).map(|reign| reign.term()),
            None => Some(0),
        }
    }

    /// The owner of a session goes on where it is served now, under the claim that he has, as `owner`. What
    /// he has fetched and not committed he may fetch again. Nothing is stored.
    ///
    /// # Errors
    /// See [`ResumeError`]; nothing was changed.
    pub fn resume(&self, claim: Claim, owner: SessionRef) -> Result<Attached, ResumeError> {
        let mut partition = self.partitions.lock_of(claim.inbox);
        partition.owned(claim)?;
        partition.awaited.sessions.remove(&claim.inbox);
        let session = partition.sessions.get_mut(&claim.inbox).ok_or(ResumeError::Stale)?;
        // Whoever resumes again waits for what he waited for.
        if session.owner != Some(owner) {
            session.own(owner);
            session.note_room();
        }
        Ok(session.attached(claim.inbox, true))
    }

    /// The owner of a session is no more, and has not said how his connection ended: the session has none
    /// from now on, and the will that it came with is due by its delay. INBOX-012
    ///
    /// # Errors
    /// See [`ResumeError`]; nothing was changed.
    pub fn abandon(&self, claim: Claim, now: Instant) -> Result<(), ResumeError> {
        let mut locks = self.lock_session(claim.inbox);
        locks.of(claim.inbox).owned(claim)?;
        self.abandon_session(locks, claim.inbox, now);
        Ok(())
    }

    /// The transient session whose will this is lives, where the will is kept from now on.
    ///
    /// # Errors
    /// See [`ResumeError`]: stale is a will that is gone, or due.
    pub fn resume_will(&self, will: WillId) -> Result<(), ResumeError> {
        let mut partition = self.partitions.lock_of(number_of(will));
        partition.asked()?;
        partition.awaited.wills.remove(&will);
        partition.guests.contains_key(&will).then_some(()).ok_or(ResumeError::Stale)
    }

    /// The transient session whose will this is has ended with its host: the will is due by its delay.
    ///
    /// # Errors
    /// As of [`resume_will`](Self::resume_will).
    pub fn abandon_will(&self, will: WillId, now: Instant) -> Result<(), ResumeError> {
        let mut partition = self.partitions.lock_of(number_of(will));
        partition.asked()?;
        let guest = self.let_go(&mut partition, will, now);
        guest.then_some(()).ok_or(ResumeError::Stale)
    }

    /// See [`Inbox::keep_will`](ratatosk_contract::inbox::Inbox::keep_will).
    pub(crate) fn keep_will_here(
        &self,
        identity: &SessionIdentity,
        (message, delay_s): (&Arc<StoredMessage>, u32),
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<WillId>, NotServed> {
        let mut locks = self.partitions.lock_one(partition_of(identity));
        let partition = locks.at(partition_of(identity));
        partition.asked()?;
        let id = WillId(partition.next_number());
        if self.seats().is_some() {
            let (identity, will) = (identity.clone(), HeldWill::of(message, delay_s));
            partition.guests.insert(id, Guest { identity, will });
        }
        let order = WillOrder { identity, session: None, delay_s, due: None, message };
        Ok(self.promise(id, number_of(id), reply_to, |effects| {
            effects.will(number_of(id), &order);
        }))
    }

    /// Gives up whose owners did not come in time, so many in each partition.
    pub(crate) fn abandon_awaited(&self, now: Instant, count_max: usize) {
        if self.seats().is_none() {
            return;
        }
        for number in 0..crate::partition::PARTITION_COUNT {
            let mut locks = self.partitions.lock_one(number);
            let partition = locks.at(number);
            if !partition.is_served || partition.awaited.until > now {
                continue;
            }
            let awaited = &partition.awaited;
            let late: Vec<InboxId> = awaited.sessions.iter().take(count_max).copied().collect();
            let wills: Vec<WillId> = awaited.wills.iter().take(count_max).copied().collect();
            for will in wills {
                self.let_go(partition, will, now);
            }
            drop(locks);
            for id in late {
                let mut locks = self.lock_session(id);
                let session = locks.of(id).sessions.get(&id);
                if session.is_some_and(|session| session.is_awaited) && locks.of(id).is_served {
                    self.abandon_session(locks, id, now);
                }
            }
        }
    }

    /// Detaches a session that is there, in its owner's stead.
    fn abandon_session(&self, mut locks: Locks<'_>, id: InboxId, now: Instant) {
        let Some(session) = locks.of(id).sessions.get_mut(&id) else { return };
        let will = session.held.take().map(|held| {
            let due = session.will_due(held.delay_s, now);
            (held.due_at(due, session.account()), held.delay_s)
        });
        let detach = Detach { expiry_s: None, will, now };
        let _ = self.detach_session(locks, id, &detach, None);
    }

    /// A will of a transient session is due by its delay; false if it is not there.
    fn let_go(&self, partition: &mut Partition, id: WillId, now: Instant) -> bool {
        partition.awaited.wills.remove(&id);
        let Some(Guest { identity, will }) = partition.guests.remove(&id) else { return false };
        let due = now + Duration::from_secs(u64::from(will.delay_s));
        let account = self.memory.account(identity.tenant.as_str());
        let message = will.due_at(due, &account);
        if let Some(journal) = &self.journal {
            let (identity, delay_s) = (&identity, will.delay_s);
            let due = Some(journal.epoch.stamp(due));
            let order = WillOrder { identity, session: None, delay_s, due, message: &message };
            let mut effects = Effects::new(journal.epoch);
            effects.will(number_of(id), &order);
            journal.submit(number_of(id), effects, Sequel::default());
        }
        partition.put_late_will(due, DueWill { id, identity, message });
        true
    }

    /// Keeps a will that was read back for an owner who is awaited; false if nobody is.
    pub(crate) fn keep_back(
        &self,
        origin: &Origin<'_>,
        id: WillId,
        record: &WillRecord<'_>,
        sessions: &Sessions,
    ) -> Result<bool, Malformed> {
        if origin.reign.is_none() || record.due.is_some() {
            return Ok(false);
        }
        let message = MessageRecord::decode(record.message)?;
        let span = message.deadline_ms.map(Duration::from_millis);
        let message = MessageRecord { deadline_ms: None, ..message };
        let account = self.memory.account(record.identity.tenant.as_str());
        let kept = message.to_message(origin.journal.epoch, origin.now);
        let (message, delay_s) = (Arc::new(keep(&kept, &account)), record.delay_s);
        let will = HeldWill { message, delay_s, span };
        let mut partition = self.partitions.lock_of(number_of(id));
        let Some(inbox) = record.session else {
            partition.awaited.wills.insert(id);
            partition.guests.insert(id, Guest { identity: record.identity.clone(), will });
            return Ok(true);
        };
        let is_there = sessions.contains_key(&inbox);
        let session = partition.sessions.get_mut(&inbox).filter(|_| is_there);
        let Some(session) = session.filter(|session| session.is_awaited) else { return Ok(false) };
        session.held_will = Some(id);
        session.held = Some(Box::new(will));
        session.recharge();
        Ok(true)
    }

    fn lock_session(&self, id: InboxId) -> Locks<'_> {
        self.lock_for(partition_number(id.0), |partition| {
            partition.sessions.get(&id).is_some_and(|session| session.queue.has_shared())
        })
    }
}

impl Serving for InboxService {
    fn serves(&self, partition: usize) -> Option<u64> {
        InboxService::serves(self, partition)
    }

    fn range(&self, partition: usize) -> Option<u64> {
        match self.seats() {
            Some(seats) => seats.serving(partition).map(|reign| reign.range().group.0),
            None => Some(0),
        }
    }

    fn begin(
        &self,
        exchange: (Claim, PacketId),
        mark: u64,
        wished: &[Wish],
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<Begun>, StaleClaim> {
        self.begin_exchange(exchange, mark, wished, reply_to)
    }

    fn is_begun(&self, exchange: (Claim, PacketId)) -> bool {
        self.is_begun_exchange(exchange)
    }

    fn append_on(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        terms: Terms,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement> {
        self.append_to(targets, message, terms, direct)
    }

    fn resume(&self, claim: Claim, owner: SessionRef) -> Result<(), Refusal> {
        Ok(InboxService::resume(self, claim, owner).map(drop)?)
    }

    fn is_awaited(&self, claim: Claim) -> bool {
        let partition = self.partitions.lock_of(claim.inbox);
        let session = partition.sessions.get(&claim.inbox);
        let is_it = session.is_some_and(|held| held.version == claim.version && held.is_awaited);
        is_it && partition.is_served
    }

    fn accepted(
        &self,
        claim: Claim,
        packet_id: PacketId,
        reply_to: Option<ReplyTo>,
    ) -> Option<Call<Settlement>> {
        let is_noted = {
            let mut partition = self.partitions.lock_of(claim.inbox);
            partition.claimed(claim).ok()?.inbound().contains(&packet_id)
        };
        // Noted again, as what did it before may not be durable yet.
        let noted = is_noted.then(|| self.inbound(claim, packet_id, false, reply_to))?.ok()?;
        Some(if noted.is_durable { Call::Ready(Settlement::Done) } else { Call::Pending })
    }

    fn abandon(&self, claim: Claim, now: Instant) -> Result<(), Refusal> {
        Ok(InboxService::abandon(self, claim, now)?)
    }

    fn resume_will(&self, will: WillId) -> Result<(), Refusal> {
        Ok(InboxService::resume_will(self, will)?)
    }

    fn abandon_will(&self, will: WillId, now: Instant) -> Result<(), Refusal> {
        Ok(InboxService::abandon_will(self, will, now)?)
    }
}

impl From<ResumeError> for Refusal {
    fn from(error: ResumeError) -> Self {
        match error {
            ResumeError::NotServed => Refusal::NotServed,
            ResumeError::Stale => Refusal::Stale,
        }
    }
}

impl Partition {
    /// Whether anybody may ask for what is here.
    pub(crate) fn asked(&self) -> Result<(), NotServed> {
        if self.is_served { Ok(()) } else { Err(NotServed) }
    }

    /// Whether a claim is that of the session's owner, who is there or awaited.
    pub(crate) fn owned(&mut self, claim: Claim) -> Result<(), ResumeError> {
        self.asked()?;
        let session = self.sessions.get(&claim.inbox);
        if session.is_some_and(|held| held.version == claim.version && !held.is_away()) {
            return Ok(());
        }
        self.stats.stale += 1;
        Err(ResumeError::Stale)
    }
}
