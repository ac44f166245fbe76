//! Messages of QoS 2 that go in several commands are begun before anything of them is sent.
//!
//! The inbox of their publisher's session says which message it is, and knows that durably: then each part is
//! queued once, also if it is sent again, by this host or by another one to which the publisher has turned.
//! What one command carries is there as a whole or not at all, and needs none of it.

use std::sync::Arc;

use ratatosk_codec::{PacketId, Qos};
use ratatosk_contract::StoredMessage;
use ratatosk_contract::call::{Promised, Settlement};
use ratatosk_contract::inbox::{Claim, StaleClaim};
use ratatosk_contract::serving::{Begun, Once, Wish};
use xxhash_rust::xxh3::Xxh3;

use crate::append::part_of;
use crate::ask::Ask;
use crate::cluster_inbox::Shared;
use crate::jobs::{Group, JobId, Known, PartId};
use crate::lane::{Question, Waiting};
use crate::placing::Place;
use crate::seats::partition_of;
use crate::spread::Spread;
use crate::tell::Said;

impl Shared {
    /// Whether a message is to be begun before a group of it is sent.
    pub(crate) fn must_begin(&self, job: JobId, group: &Group) -> bool {
        let (is_new, is_to_begin) = match self.jobs.lock().job(job) {
            Some(job) => {
                (job.message.qos == Qos::ExactlyOnce && job.once.is_none(), job.is_to_begin)
            }
            None => return false,
        };
        let is_due = is_new && group.exchange.is_some();
        is_due && (is_to_begin || self.spread(group) != Spread::One)
    }

    /// Begins a message where its publisher's session is served.
    pub(crate) fn begin(&self, part: PartId) {
        let mut jobs = self.jobs.lock();
        let Some((known, job)) = jobs.both(part) else { return };
        let Some((claim, packet_id)) = known.group.exchange else { return };
        let wished = known.wished();
        let (message, due, tenant) = (Arc::clone(&job.message), job.due, job.tenant.clone());
        let place = self.place(partition_of(claim.inbox.0));
        jobs.open(part, |_| place.name());
        drop(jobs);
        let mark = mark_of(&message);
        match place {
            Place::Here(term) => {
                self.begin_here(part, (claim, packet_id), (mark, &wished), term);
            }
            Place::There { lane, .. } => {
                let (call, now) = (self.next_call(), self.clock.now());
                let account = self.accountant.account(tenant.as_str());
                let waiting = Waiting::Append { part, bytes: 0, account };
                let ask = Ask::Begin { call, claim, packet_id, mark, wished };
                lane.ask(Question { call, due, waiting }, |into| ask.put(into, now));
                if !lane.is_open() && lane.answer(call).is_some() {
                    // It broke meanwhile, before anything of this was said.
                    self.hold(part);
                }
            }
            Place::Nobody => self.hold(part),
        }
    }

    fn begin_here(
        &self,
        part: PartId,
        exchange: (Claim, PacketId),
        (mark, wished): (u64, &[Wish]),
        term: u64,
    ) {
        match self.local.begin(exchange, mark, wished, Some(part_of(part))) {
            Ok(Promised { answer, is_durable }) => {
                self.note_begun(part, Some(answer), is_durable);
            }
            Err(StaleClaim) if self.refused(exchange.0, term).is_ok() => self.hold(part),
            Err(StaleClaim) => self.finish_part(part, Settlement::Unknown),
        }
    }

    /// Another host says which message it is, durably.
    pub(crate) fn hear_begun(&self, part: PartId, said: Said) {
        let publisher = {
            let mut jobs = self.jobs.lock();
            jobs.part(part).and_then(|part| part.group.exchange).map(|(claim, _)| claim.inbox)
        };
        let Said { numbers: (number, low), choices, others } = said;
        let begun = publisher.map(|publisher| {
            let once = Once { publisher, number, low };
            Begun { once, choices, others }
        });
        self.note_begun(part, begun, true);
    }

    /// It is known which message it is, or that this is durable: with both it is sent, or begun again if somebody
    /// else is to be chosen.
    pub(crate) fn note_begun(&self, part: PartId, begun: Option<Begun>, is_durable: bool) {
        let known = self.jobs.lock().begun(part, begun, is_durable);
        let Some(Known { job, group, begun, past, gone }) = known else { return };
        let mut plan = self.plan(job, &group, &begun, &gone);
        if !plan.gone.is_empty() {
            let again = self.jobs.lock().add_beginning(job, group, past, plan.gone);
            again.into_iter().for_each(|part| self.begin(part));
            let step = self.jobs.lock().release(job);
            return self.follow(step);
        }
        self.tell_kept(job, &mut plan);
        self.jobs.lock().know(job, begun.once);
        let mut groups = plan.groups;
        if groups.len() > 1 {
            // Its exchange is accepted behind all of them.
            let exchange = groups.iter_mut().find_map(|group| group.exchange.take());
            let last = Group { exchange, ..Group::default() };
            self.jobs.lock().add(job, Vec::new(), Some(last), false);
        }
        self.cut_anew(job, |direct| {
            for group in groups {
                if self.may_go(&group) {
                    self.dispatch(job, group, past, direct);
                    continue;
                }
                // Something for its sessions is held meanwhile.
                let parts = self.jobs.lock().add(job, vec![group], None, false);
                parts.into_iter().for_each(|part| self.hold(part));
            }
        });
    }
}

/// A hash of a message, the same on all hosts: by it one that is sent again is told from another one that has its
/// packet identifier.
fn mark_of(message: &StoredMessage) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(message.topic.as_bytes());
    // No topic has it.
    hash.update(&[0]);
    hash.update(&message.payload);
    hash.digest()
}
