//! Sessions and their owners: how an ownership begins and ends, and how a session does.
//!
//! A session that ends gives what it may to other members of its groups first, under the locks of
//! all partitions: in the log its own end stands behind that.

use std::sync::{Arc, atomic::Ordering};

use ratatosk_clock::Instant;
use ratatosk_contract::{
    ReplyTo, SessionIdentity,
    call::Promised,
    inbox::{Attach, Attached, Claim, Detach, InboxId, NotServed, StaleClaim, WillId},
};

use crate::{
    InboxService,
    effect::Effect,
    handover::Source,
    journal::{Change, Effects, WillOrder},
    partition::{Ended, Partition},
    partitions::{Locks, PartitionSet, number_of, partition_number, partition_of},
    session::{HeldWill, PendingWill, Session},
};

impl InboxService {
    /// See [`Inbox::attach`](ratatosk_contract::inbox::Inbox::attach).
    pub(crate) fn attach_here(
        &self,
        attach: &Attach<'_>,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<Attached>, NotServed> {
        let is_to_end = |session: &Session| attach.is_clean || session.is_over(attach.now);
        let number = partition_of(attach.identity);
        let mut locks = self.lock_for(number, |partition| {
            let found = partition.find(attach.identity).and_then(|id| partition.sessions.get(&id));
            found.is_some_and(|session| is_to_end(session) && session.queue.has_shared())
        });
        let (mut change, mut effects) = (Change::default(), self.effects());
        let partition = locks.at(number);
        partition.asked()?;
        let mut found = partition.find(attach.identity);
        // [MQTT-3.1.2-4]
        if let Some(id) = found
            && partition.sessions.get(&id).is_some_and(|session| is_to_end(session))
        {
            let is_over = partition.sessions.get(&id).is_some_and(|held| held.is_over(attach.now));
            partition.stats.expired_sessions += u64::from(is_over);
            found = None;
            if let Some(ended) = partition.replace(id, attach.now) {
                self.bury(&mut locks, ended, &mut effects, &mut change);
            }
        }
        let partition = locks.at(number);
        let id = found.unwrap_or_else(|| {
            self.partitions.count.fetch_add(1, Ordering::Relaxed);
            let account = self.memory.account(attach.identity.tenant.as_str());
            let incarnation = self.next_incarnation(attach.now);
            partition.insert(Session::new(attach, incarnation, &account))
        });
        let Some((attached, cancelled)) = partition.attach(id, attach) else {
            unreachable!("inbox {id:?} was found or made under the same lock");
        };
        if let Some(effects) = &mut effects {
            for will in cancelled {
                effects.push(&Effect::WillEnd { will: number_of(will) });
            }
            note_attached(partition, id, attach, effects, self.seats().is_some());
        }
        let promised = self.promise_change(attached, (partition, id), effects, &change, reply_to);
        drop(locks);
        self.finish(change);
        Ok(promised)
    }

    /// See [`Inbox::detach`](ratatosk_contract::inbox::Inbox::detach).
    pub(crate) fn detach_owner(
        &self,
        claim: Claim,
        detach: &Detach,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        let id = claim.inbox;
        let mut locks = self.lock_for(partition_number(id.0), |partition| {
            partition.sessions.get(&id).is_some_and(|session| session.queue.has_shared())
        });
        // He may be awaited: to leave, he need not come.
        locks.of(id).owned(claim).map_err(|_| StaleClaim)?;
        Ok(self.detach_session(locks, claim.inbox, detach, reply_to))
    }

    /// Ends the ownership of a session that is there, and gives the locks up: those of all partitions if
    /// messages may be handed over.
    pub(crate) fn detach_session(
        &self,
        mut locks: Locks<'_>,
        id: InboxId,
        detach: &Detach,
        reply_to: Option<ReplyTo>,
    ) -> Promised<()> {
        let (mut change, mut effects) = (Change::default(), self.effects());
        let partition = locks.of(id);
        // Of the connection's will, or a new one.
        let spare = detach.will.as_ref().map(|_| WillId(partition.next_number()));
        partition.awaited.sessions.remove(&id);
        let Some(session) = partition.sessions.get_mut(&id) else { return Promised::kept(()) };
        session.expiry_s = detach.expiry_s.or(session.expiry_s);
        session.detach();
        session.away_since = self.epoch().stamp(detach.now);
        let is_over = session.lifetime().is_some_and(|lifetime| lifetime.is_zero());
        leave_will(session, id, detach, spare, &mut effects);
        session.recharge();
        if is_over {
            if let Some(ended) = partition.end(id) {
                self.bury(&mut locks, ended, &mut effects, &mut change);
            }
        } else {
            let transfers = self.take_shared(id, session);
            let position = session.queue.position();
            if let Some(effects) = &mut effects {
                let detached = Some(effects.epoch().stamp(detach.now));
                effects.session(id, &session.record(detached));
                effects.push(&Effect::Position { inbox: id, position });
            }
            let (tenant, publisher) = (session.identity.tenant.clone(), session.publisher);
            let filters = session.subscriptions().iter().map(|held| &*held.filter);
            self.nudge_heirs(&tenant, filters, &mut change);
            partition.strand(id);
            partition.tallies.of(&tenant).moved += transfers.len() as u64;
            partition.schedule(id, detach.now);
            let source = Source { tenant: &tenant, publisher, inbox: id, position };
            self.hand_over(&mut locks, &source, &transfers, &mut change);
        }
        let promised = self.promise_change((), (locks.of(id), id), effects, &change, reply_to);
        drop(locks);
        self.finish(change);
        promised
    }

    /// See [`Inbox::discard`](ratatosk_contract::inbox::Inbox::discard).
    pub(crate) fn discard_here(
        &self,
        identity: &SessionIdentity,
        now: Instant,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<bool>, NotServed> {
        let number = partition_of(identity);
        let mut locks = self.lock_for(number, |partition| {
            let found = partition.find(identity).and_then(|id| partition.sessions.get(&id));
            found.is_some_and(|session| session.queue.has_shared())
        });
        let (mut change, mut effects) = (Change::default(), self.effects());
        let partition = locks.at(number);
        partition.asked()?;
        let id = partition.find(identity);
        if let Some(ended) = id.and_then(|id| partition.replace(id, now)) {
            self.bury(&mut locks, ended, &mut effects, &mut change);
        } else if partition.ends_under_way == 0 && self.seats().is_none() {
            return Ok(Promised::kept(false));
        }
        // Nothing was there, but perhaps its end is not durable yet: then an empty command waits
        // behind it. Under reigns it shows that nobody else knows more.
        let partition = locks.at(number);
        let at = id.unwrap_or(InboxId(number as u64));
        let promised =
            self.promise_change(id.is_some(), (partition, at), effects, &change, reply_to);
        drop(locks);
        self.finish(change);
        Ok(promised)
    }

    /// Ends one session whose time is over; false if it is not any more.
    pub(crate) fn end_over(&self, id: InboxId, now: Instant) -> bool {
        let has_shared = |partition: &Partition| {
            partition.sessions.get(&id).is_some_and(|session| session.queue.has_shared())
        };
        let mut locks = self.lock_for(partition_number(id.0), has_shared);
        let partition = locks.of(id);
        let is_over = partition.sessions.get(&id).is_some_and(|session| session.is_over(now));
        let Some(ended) = is_over.then(|| partition.end(id)).flatten() else { return false };
        partition.stats.expired_sessions += 1;
        let (mut change, mut effects) = (Change::default(), self.effects());
        self.bury(&mut locks, ended, &mut effects, &mut change);
        let _ = self.promise_change((), (locks.of(id), id), effects, &change, None);
        drop(locks);
        self.finish(change);
        true
    }

    /// The lock of a partition, or those of all if what is to be done there may hand messages over.
    pub(crate) fn lock_for(
        &self,
        number: usize,
        hands_over: impl Fn(&Partition) -> bool,
    ) -> Locks<'_> {
        let mut locks = self.partitions.lock_one(number);
        if !hands_over(locks.at(number)) {
            return locks;
        }
        drop(locks);
        self.partitions.lock(PartitionSet::ALL)
    }

    /// Hands over what a session leaves, and notes what its end takes with it. INBOX-010
    fn bury(
        &self,
        locks: &mut Locks<'_>,
        ended: Ended,
        effects: &mut Option<Effects>,
        change: &mut Change,
    ) {
        let source = Source {
            tenant: &ended.tenant,
            publisher: ended.publisher,
            inbox: ended.inbox,
            position: ended.position,
        };
        self.hand_over(locks, &source, &ended.transfers, change);
        if let Some(effects) = effects {
            for will in &ended.cancelled {
                effects.push(&Effect::WillEnd { will: number_of(*will) });
            }
            effects.push(&Effect::End(ended.end.clone()));
            if let Some(packet_ids) = ended.begun.clone() {
                effects.push(&Effect::Ceased { inbox: ended.inbox, packet_ids, is_end: true });
            }
        }
        change.ended.push(ended);
    }

    /// Numbers a life by the clock, or by one more than the last. Lives of transient sessions have
    /// numbers of the same clock.
    fn next_incarnation(&self, now: Instant) -> u64 {
        let next = |last: u64| now.as_nanos().max(last + 1);
        let last = self
            .incarnation
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(last.unwrap_or_else(|last| last))
    }
}

/// Notes a session with its new owner, and the will of the connection.
fn note_attached(
    partition: &mut Partition,
    id: InboxId,
    attach: &Attach<'_>,
    effects: &mut Effects,
    keeps_will: bool,
) {
    let will = attach.will.as_ref().map(|_| WillId(partition.next_number()));
    let Some(session) = partition.sessions.get_mut(&id) else { return };
    effects.session(id, &session.record(None));
    session.held_will = will;
    if let (Some(will), Some((message, delay_s))) = (will, &attach.will) {
        let (identity, session) = (attach.identity, Some(id));
        let order = WillOrder { identity, session, delay_s: *delay_s, due: None, message };
        effects.will(number_of(will), &order);
    }
    let kept = attach.will.as_ref().filter(|_| keeps_will);
    session.held = kept.map(|(message, delay_s)| Box::new(HeldWill::of(message, *delay_s)));
    session.recharge();
}

/// Leaves a session with the will that its connection gave, or without one. MQTT-049
fn leave_will(
    session: &mut Session,
    id: InboxId,
    detach: &Detach,
    spare: Option<WillId>,
    effects: &mut Option<Effects>,
) {
    let held = session.held_will.take();
    session.held = None;
    if let (Some((message, delay_s)), Some(will)) = (&detach.will, held.or(spare)) {
        let due = session.will_due(*delay_s, detach.now);
        let message = Arc::clone(message);
        if let Some(effects) = effects {
            let (identity, due) = (&session.identity, Some(effects.epoch().stamp(due)));
            let (session, delay_s) = (Some(id), *delay_s);
            let order = WillOrder { identity, session, delay_s, due, message: &message };
            effects.will(number_of(will), &order);
        }
        session.will = Some(Box::new(PendingWill { id: will, due, message }));
    } else if let (Some(effects), Some(held)) = (effects, held) {
        effects.push(&Effect::WillEnd { will: number_of(held) });
    }
}
