//! Messages of QoS 1 and 2 without an outcome: which parts are under way, which wait for a place.
//!
//! A message goes in parts, each to one host, and is settled once, with the worst of them. A part whose
//! outcome is in doubt, since its host or its inbox is over, or that nobody serves at the moment, is held
//! until its sessions are served, and sent again: see [`append`](crate::append).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ratatosk_clock::Instant;
use ratatosk_codec::{PacketId, Qos};
use ratatosk_contract::call::Settlement;
use ratatosk_contract::dist::InboxRoute;
use ratatosk_contract::inbox::Claim;
use ratatosk_contract::serving::{Begun, Once, Wish};
use ratatosk_contract::{Call, Message, ReplyTo, StoredMessage, TenantId};
use ratatosk_telemetry::memory::{Account, Share};

use crate::append::Past;
use crate::choices::{Gone, Wanted};
use crate::seats::{PARTITION_COUNT, partition_of};
use crate::turn::Due;

const _: () = assert!(PARTITION_COUNT == u64::BITS as usize, "a set of partitions is a number");

/// How long what was refused rests.
const REST: Duration = Duration::from_millis(20);

/// Names a part of a message.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PartId(pub(crate) u64);

/// Names a message.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct JobId(pub(crate) u64);

/// Whom a message is for, and the exchange that is noted with it.
#[derive(Clone, Default)]
pub(crate) struct Group {
    pub(crate) routes: Vec<InboxRoute>,
    pub(crate) shared: Vec<Wanted>,
    pub(crate) exchange: Option<(Claim, PacketId)>,
    /// Under which number it goes, if not that of its message.
    pub(crate) number: Option<u64>,
}

impl Group {
    /// The partitions of all of them.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = usize> {
        let routes = self.routes.iter().map(|route| route.inbox);
        let shared = self.shared.iter().map(|wanted| wanted.route.inbox);
        let exchange = self.exchange.iter().map(|(claim, _)| claim.inbox);
        routes.chain(shared).chain(exchange).map(|inbox| partition_of(inbox.0))
    }

    /// The same as a set: a bit for each.
    pub(crate) fn set(&self) -> u64 {
        self.partitions().fold(0, |set, number| set | 1 << number)
    }
}

/// A message.
pub(crate) struct Job {
    /// Nobody waits for a will, say; it is brought to its sessions all the same.
    pub(crate) reply_to: Option<ReplyTo>,
    pub(crate) tenant: TenantId,
    pub(crate) message: Arc<StoredMessage>,
    /// Until when its parts are sent.
    pub(crate) due: Instant,
    /// Which message it is, if it was begun: then its parts may be sent again.
    pub(crate) once: Option<Once>,
    /// Whoever has its exchange says that it is to be begun.
    pub(crate) is_to_begin: bool,
    /// Parts without an outcome, and what is being cut anew.
    open: usize,
    worst: Settlement,
    /// What follows when all others are done: the part with the exchange.
    last: Option<Group>,
    /// Whoever brought it was told that its outcome comes later.
    is_promised: bool,
    account: Account,
    bytes: usize,
}

/// A part of a message.
pub(crate) struct Part {
    pub(crate) job: JobId,
    pub(crate) group: Group,
    /// It is under way.
    is_open: bool,
    /// Perhaps it was taken.
    pub(crate) is_in_doubt: bool,
    /// It is not sent again before: whoever refused it may take a moment to know who serves its sessions.
    pub(crate) rests_until: Instant,
    /// The message is begun before any of it is sent.
    beginning: Option<Beginning>,
}

/// What is known of a message that is begun: it is sent once both are.
struct Beginning {
    begun: Option<Begun>,
    is_durable: bool,
    /// What became of it before.
    past: Past,
    /// Members in whose stead others are chosen.
    gone: Vec<Gone>,
}

/// A message that is begun, durably.
pub(crate) struct Known {
    pub(crate) job: JobId,
    /// For whom.
    pub(crate) group: Group,
    pub(crate) begun: Begun,
    pub(crate) past: Past,
    pub(crate) gone: Vec<Gone>,
}

impl Part {
    /// The partitions that it is asked of.
    pub(crate) fn asked(&self) -> Vec<usize> {
        match (&self.beginning, self.group.exchange) {
            (Some(_), Some((claim, _))) => vec![partition_of(claim.inbox.0)],
            _ => self.group.partitions().collect(),
        }
    }

    /// Whom somebody chose of groups, if a message is begun by it.
    pub(crate) fn wished(&self) -> Vec<Wish> {
        let gone = self.beginning.as_ref().map_or(&[][..], |beginning| &beginning.gone);
        let named = self.group.shared.iter().filter(|wanted| !wanted.filter.is_empty());
        let wish = |wanted: &Wanted| {
            let (group, inbox) = (wanted.mark(), wanted.route.inbox);
            let instead_of = gone.iter().find(|gone| gone.0 == group).map(|gone| gone.1);
            Wish { group, inbox, instead_of }
        };
        named.map(wish).collect()
    }

    /// Notes that nobody knows what became of it. To begin a message again is always right.
    pub(crate) fn doubt(&mut self) {
        self.is_in_doubt |= self.beginning.is_none();
    }
}

/// What is under way for sessions of one partition.
#[derive(Copy, Clone, Default)]
struct Open {
    parts: u32,
    /// Names where to, while there are some.
    place: u64,
    /// One of them was held: the others may be, too, and go before what comes.
    is_troubled: bool,
}

/// What follows when a part has its outcome.
pub(crate) enum Step {
    /// Nothing yet.
    Wait,
    /// The last part is to be sent, and then the message [released](Jobs::release).
    Last(JobId, Group),
    /// Whoever waits is told.
    Tell(ReplyTo, Settlement),
}

/// All of them.
#[derive(Default)]
pub(crate) struct Jobs {
    last: u64,
    by_id: HashMap<JobId, Job>,
    parts: HashMap<PartId, Part>,
    open: Vec<Open>,
    due: Due,
    bytes: usize,
}

impl Jobs {
    /// The first message that has a part without an outcome for partitions of a group. What follows behind the
    /// others is none yet: who waits for that would wait for whoever serves those.
    pub(crate) fn first_of(&self, group: &Group) -> Option<u64> {
        self.due.first(group.set())
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Bytes of all messages.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A message without parts. [`Jobs::conclude`] follows.
    pub(crate) fn begin(
        &mut self,
        reply_to: Option<ReplyTo>,
        (tenant, account): (&TenantId, Account),
        message: &Message<'_>,
        due: Instant,
    ) -> JobId {
        let message = Arc::new(message.to_stored());
        let bytes = message.size_bytes();
        account.charge(Share::Queues, bytes);
        self.bytes += bytes;
        let job = Job {
            reply_to,
            tenant: tenant.clone(),
            message,
            due,
            once: None,
            is_to_begin: false,
            open: 0,
            worst: Settlement::Done,
            last: None,
            is_promised: false,
            account,
            bytes,
        };
        let id = JobId(self.next());
        self.by_id.insert(id, job);
        id
    }

    /// All parts that are known now were sent or are held: the outcome, if it is known.
    pub(crate) fn conclude(&mut self, id: JobId) -> Call<Settlement> {
        let Some(job) = self.by_id.get_mut(&id) else { return Call::Ready(Settlement::Unknown) };
        if job.open > 0 || job.last.is_some() {
            job.is_promised = true;
            return match job.reply_to {
                Some(_) => Call::Pending,
                None => Call::Ready(Settlement::Done),
            };
        }
        let worst = job.worst;
        self.end(id);
        Call::Ready(worst)
    }

    fn end(&mut self, id: JobId) {
        if let Some(job) = self.by_id.remove(&id) {
            job.account.release(Share::Queues, job.bytes);
            self.bytes -= job.bytes;
        }
    }

    /// More parts of a message; those behind the exchange's are to come first.
    pub(crate) fn add(
        &mut self,
        id: JobId,
        groups: Vec<Group>,
        last: Option<Group>,
        is_in_doubt: bool,
    ) -> Vec<PartId> {
        let Some(job) = self.by_id.get_mut(&id) else { return Vec::new() };
        job.open += groups.len();
        job.last = last.or(job.last.take());
        groups.iter().for_each(|group| self.due.add(id.0, group.set()));
        let part = |group| Part {
            job: id,
            group,
            is_open: false,
            is_in_doubt,
            rests_until: Instant::ZERO,
            beginning: None,
        };
        let parts: Vec<Part> = groups.into_iter().map(part).collect();
        parts
            .into_iter()
            .map(|part| {
                let id = PartId(self.next());
                self.parts.insert(id, part);
                id
            })
            .collect()
    }

    /// The part by which a message is begun that is for a group.
    pub(crate) fn add_beginning(
        &mut self,
        id: JobId,
        group: Group,
        past: Past,
        gone: Vec<Gone>,
    ) -> Option<PartId> {
        let part = self.add(id, vec![group], None, false).pop()?;
        let beginning = Beginning { begun: None, is_durable: false, past, gone };
        self.parts.get_mut(&part)?.beginning = Some(beginning);
        Some(part)
    }

    /// Whether a part is one by which a message is begun.
    pub(crate) fn is_beginning(&self, id: PartId) -> bool {
        self.parts.get(&id).is_some_and(|part| part.beginning.is_some())
    }

    /// Half of what is to be known of a message that is begun. With both it is known, and this part is no more:
    /// its group is to be sent, and its message [released](Jobs::release).
    pub(crate) fn begun(
        &mut self,
        id: PartId,
        begun: Option<Begun>,
        is_durable: bool,
    ) -> Option<Known> {
        let beginning = self.parts.get_mut(&id)?.beginning.as_mut()?;
        beginning.begun = beginning.begun.take().or(begun);
        beginning.is_durable |= is_durable;
        if beginning.begun.is_none() || !beginning.is_durable {
            return None;
        }
        let Part { job, group, beginning, .. } = self.replace(id)?;
        let Beginning { begun, past, gone, .. } = beginning?;
        Some(Known { job, group, begun: begun?, past, gone })
    }

    /// It is known which message it is, and it is sent as that one.
    pub(crate) fn know(&mut self, id: JobId, once: Once) {
        if let Some(job) = self.by_id.get_mut(&id) {
            job.once = Some(once);
        }
    }

    /// A part was not taken, because its message is to be begun. So nobody has it.
    pub(crate) fn note_to_begin(&mut self, id: PartId) {
        let Some(part) = self.parts.get_mut(&id) else { return };
        part.is_in_doubt = false;
        if let Some(job) = self.by_id.get_mut(&part.job) {
            job.is_to_begin = true;
        }
    }

    /// Whether a group may go to where it is served without overtaking anything: what is under way for its sessions
    /// goes to the same place, and none of it was held. `place` names the place of a partition.
    pub(crate) fn may_go(&self, group: &Group, place: impl Fn(usize) -> u64) -> bool {
        group.partitions().all(|number| match self.open.get(number) {
            Some(open) => open.parts == 0 || (!open.is_troubled && open.place == place(number)),
            None => true,
        })
    }

    /// A part is under way from now on.
    pub(crate) fn open(&mut self, id: PartId, place: impl Fn(usize) -> u64) {
        let Some(part) = self.parts.get_mut(&id).filter(|part| !part.is_open) else { return };
        part.is_open = true;
        self.open.resize(PARTITION_COUNT, Open::default());
        for number in part.asked() {
            let open = &mut self.open[number];
            (open.parts, open.place) = (open.parts + 1, place(number));
        }
    }

    /// It is no longer.
    fn close(&mut self, id: PartId, is_held: bool) {
        let Some(part) = self.parts.get_mut(&id).filter(|part| part.is_open) else { return };
        part.is_open = false;
        for number in part.asked() {
            let open = &mut self.open[number];
            open.parts -= 1;
            open.is_troubled = open.parts > 0 && (open.is_troubled || is_held);
        }
    }

    /// A part is held from now on: the set of its partitions.
    pub(crate) fn hold(&mut self, id: PartId, now: Instant) -> u64 {
        let was_open = self.parts.get(&id).is_some_and(|part| part.is_open);
        self.close(id, true);
        let Some(part) = self.parts.get_mut(&id) else { return 0 };
        if was_open {
            part.rests_until = now + REST;
        }
        part.group.set()
    }

    pub(crate) fn job(&self, id: JobId) -> Option<&Job> {
        self.by_id.get(&id)
    }

    pub(crate) fn part(&mut self, id: PartId) -> Option<&mut Part> {
        self.parts.get_mut(&id)
    }

    /// A part, and what it is of.
    pub(crate) fn both(&self, id: PartId) -> Option<(&Part, &Job)> {
        let part = self.parts.get(&id)?;
        Some((part, self.by_id.get(&part.job)?))
    }

    /// Parts that are there, in the order in which their messages came.
    pub(crate) fn in_order(&self, parts: impl IntoIterator<Item = PartId>) -> Vec<PartId> {
        let known = |id: PartId| Some((self.parts.get(&id)?.job.0, id));
        let mut known: Vec<(u64, PartId)> = parts.into_iter().filter_map(known).collect();
        known.sort_by_key(|(job, _)| *job);
        known.into_iter().map(|(_, id)| id).collect()
    }

    /// A part is cut anew: its parts take its place, and then its message is [released](Jobs::release).
    pub(crate) fn replace(&mut self, id: PartId) -> Option<Part> {
        self.close(id, false);
        self.take(id)
    }

    fn take(&mut self, id: PartId) -> Option<Part> {
        let part = self.parts.remove(&id)?;
        self.due.remove(part.job.0, part.group.set());
        Some(part)
    }

    /// What was to be cut anew is.
    pub(crate) fn release(&mut self, id: JobId) -> Step {
        if let Some(job) = self.by_id.get_mut(&id) {
            job.open -= 1;
        }
        self.step(id)
    }

    /// A part has its outcome. One that has it already has no other.
    pub(crate) fn settle(&mut self, id: PartId, settlement: Settlement) -> Step {
        self.close(id, false);
        let Some(part) = self.take(id) else { return Step::Wait };
        let Some(job) = self.by_id.get_mut(&part.job) else { return Step::Wait };
        job.worst = job.worst.max(settlement);
        job.open -= 1;
        self.step(part.job)
    }

    fn step(&mut self, id: JobId) -> Step {
        let Some(job) = self.by_id.get_mut(&id).filter(|job| job.open == 0) else {
            return Step::Wait;
        };
        let last = job.last.take().filter(|_| job.worst == Settlement::Done);
        if let Some(last) = last {
            // Nobody is told before it is sent.
            job.open += 1;
            return Step::Last(id, last);
        }
        if !job.is_promised {
            return Step::Wait;
        }
        let (reply_to, worst) = (job.reply_to, job.worst);
        self.end(id);
        reply_to.map_or(Step::Wait, |reply_to| Step::Tell(reply_to, worst))
    }

    /// Whether a part that may have been taken may be sent again: a message of QoS 1 may come twice, and one of
    /// QoS 2 is known if it was begun, or by the exchange that is noted with it.
    pub(crate) fn may_repeat(&self, id: PartId, now: Instant) -> bool {
        self.both(id).is_some_and(|(part, job)| {
            let is_known = part.group.exchange.is_some()
                || job.once.is_some()
                || job.message.qos != Qos::ExactlyOnce;
            is_known && job.due > now
        })
    }
}
