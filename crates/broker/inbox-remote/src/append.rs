//! Messages for sessions that are served by several hosts.
//!
//! A message is cut by the places of its targets; each host gets it once. It is settled once, with the worst
//! of its parts. That the message of an exchange was accepted is noted behind all other parts: were it noted
//! before them and they were lost, its publisher would not send it again.
//!
//! Its publisher waits while sessions are served by nobody, or move: parts that were not taken are sent where
//! their sessions are served next, and so are those of which it is not known, as far as that does no harm.
//! What is held for one partition keeps its order: nothing for it overtakes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ratatosk_clock::Instant;
use ratatosk_codec::{PacketId, Qos};
use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{Claim, DirectDelivery, SharedRoute, Targets};
use ratatosk_contract::serving::Once;
use ratatosk_contract::{
    Call, Message, ReplyTo, SessionRef, ShardId, StoredMessage, TenantId, Ticket,
};

use crate::ask::{CallId, Intent, encode_message, put_append};
use crate::choices::Wanted;
use crate::cluster_inbox::Shared;
use crate::desk::PROXY_SHARD;
use crate::jobs::{Group, JobId, PartId, Step};
use crate::lane::{Lane, Question, Waiting};
use crate::placing::Place;
use crate::seats::partition_of;
use crate::spread::Spread;
use crate::taking::{Left, append_part, left};
use crate::turn::Turn;

/// The shard number of parts that this host serves itself, as those who are told when they are durable. No
/// data plane has it.
pub(crate) const JOIN_SHARD: ShardId = ShardId(u8::MAX - 2);

const _: () = assert!(JOIN_SHARD.0 as usize >= ShardId::COUNT_MAX, "no data plane has it");

/// Parts of messages that wait for a place, in their order.
pub(crate) type Held = VecDeque<PartId>;

/// Whom a message is for at one place.
struct Cut {
    place: Place,
    group: Group,
}

impl Shared {
    /// See [`Inbox::append`](ratatosk_contract::inbox::Inbox::append).
    pub(crate) fn append(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        exchange: Option<(Claim, PacketId)>,
        reply_to: Option<ReplyTo>,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement> {
        if reply_to.is_none() && message.qos == Qos::AtMostOnce {
            debug_assert!(exchange.is_none(), "whoever has an exchange waits for the outcome");
            return self.append_unasked(&targets, message, direct);
        }
        let whole = self.group_of(&targets, exchange);
        if let Some(refusal) = self.refusal(&whole, message) {
            return Call::Ready(refusal);
        }
        let account = self.accountant.account(targets.tenant.as_str());
        let due = self.clock.now() + self.config.change_patience;
        let job = self.jobs.lock().begin(reply_to, (targets.tenant, account), message, due);
        if self.may_go(&whole) {
            self.dispatch(job, whole, Past::None, direct);
        } else {
            let parts = self.jobs.lock().add(job, vec![whole], None, false);
            parts.into_iter().for_each(|part| self.hold(part));
        }
        self.send_proxies(targets.tenant, message, direct);
        self.jobs.lock().conclude(job)
    }

    fn group_of(&self, targets: &Targets<'_>, exchange: Option<(Claim, PacketId)>) -> Group {
        let shared = self.wanted(targets.tenant, targets.shared);
        Group { routes: targets.routes.to_vec(), shared, exchange, number: None }
    }

    /// Whether a group overtakes nothing if it is sent now.
    pub(crate) fn may_go(&self, group: &Group) -> bool {
        group.set() & self.held_for.load(Ordering::Acquire) == 0
            && self.jobs.lock().may_go(group, |number| self.places.read()[number].name())
    }

    /// Sends what nobody waits for to whoever can be reached.
    fn append_unasked(
        &self,
        targets: &Targets<'_>,
        message: &Message<'_>,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement> {
        let (cuts, _) = self.cut(self.group_of(targets, None));
        if cuts.is_empty() && !(targets.routes.is_empty() && targets.shared.is_empty()) {
            self.metrics.refuse("nobody");
            return Call::Ready(Settlement::Busy);
        }
        let (mut call, mut bytes) = (Call::Ready(Settlement::Done), None);
        for Cut { place, group } in cuts {
            match place {
                Place::There { lane, .. } => {
                    let now = self.clock.now();
                    let bytes = bytes.get_or_insert_with(|| encode_message(message, now));
                    if self.is_full(&lane, bytes.len()) {
                        self.metrics.refuse("full");
                        continue;
                    }
                    let shared = self.all_chosen(targets.tenant, &group.shared);
                    let intent = Intent::default();
                    lane.outbox.put(|into| {
                        let to = (&group.routes[..], &shared[..]);
                        put_append(into, CallId(0), targets.tenant, to, intent, bytes);
                    });
                }
                Place::Here(_) => {
                    let members = group.shared.iter().map(Wanted::shared_route);
                    let shared: Vec<SharedRoute> = members.collect();
                    let (tenant, routes) = (targets.tenant, &group.routes[..]);
                    let here = Targets { tenant, routes, shared: &shared };
                    call = self.local.append(here, message, None, None, direct);
                    self.send_proxies(targets.tenant, message, direct);
                }
                Place::Nobody => {}
            }
        }
        call
    }

    /// Why a message is not taken at all.
    fn refusal(&self, whole: &Group, message: &Message<'_>) -> Option<Settlement> {
        let bytes = message.payload.len() + message.topic.len() + message.properties.len();
        if bytes > self.config.whole_bytes_max / 2 {
            self.metrics.refuse("long");
            return Some(Settlement::QuotaExceeded);
        }
        let is_full = if whole.set() & self.held_for.load(Ordering::Acquire) == 0 {
            let places = self.places.read();
            whole.partitions().any(|number| match &places[number] {
                Place::There { lane, .. } => self.is_full(lane, bytes),
                Place::Here(_) | Place::Nobody => false,
            })
        } else {
            self.jobs.lock().bytes() + bytes > self.config.lane_bytes_max
        };
        is_full.then(|| {
            self.metrics.refuse("full");
            Settlement::Busy
        })
    }

    fn is_full(&self, lane: &Lane, bytes: usize) -> bool {
        let held = lane.bytes();
        held > 0 && held + bytes > self.config.lane_bytes_max
    }

    /// Cuts a group by the places of its targets, and says whether all have one.
    fn cut(&self, group: Group) -> (Vec<Cut>, bool) {
        let places = self.places.read();
        let (mut cuts, mut is_whole): (Vec<Cut>, bool) = (Vec::new(), true);
        let mut at = |number: u64| {
            let place = &places[partition_of(number)];
            if *place == Place::Nobody {
                is_whole = false;
                return None;
            }
            let known = cuts.iter().position(|cut| cut.place.is_with(place));
            Some(known.unwrap_or_else(|| {
                let part = Group { number: group.number, ..Group::default() };
                cuts.push(Cut { place: place.clone(), group: part });
                cuts.len() - 1
            }))
        };
        let routes: Vec<_> = group.routes.iter().map(|route| at(route.inbox.0)).collect();
        let shared: Vec<_> = group.shared.iter().map(|it| at(it.route.inbox.0)).collect();
        let exchange = group.exchange.and_then(|(claim, _)| at(claim.inbox.0));
        for (route, at) in group.routes.into_iter().zip(routes) {
            at.into_iter().for_each(|at| cuts[at].group.routes.push(route));
        }
        for (member, at) in group.shared.into_iter().zip(shared) {
            at.into_iter().for_each(|at| cuts[at].group.shared.push(member.clone()));
        }
        exchange.into_iter().for_each(|at| cuts[at].group.exchange = group.exchange);
        (cuts, is_whole)
    }

    /// Sends a group of a message to whoever serves it, or holds it.
    pub(crate) fn dispatch(
        &self,
        job: JobId,
        group: Group,
        past: Past,
        direct: &mut Vec<DirectDelivery>,
    ) {
        let is_in_doubt = past == Past::InDoubt;
        let (cuts, is_whole) = self.cut(group.clone());
        if !is_whole {
            let parts = self.jobs.lock().add(job, vec![group], None, is_in_doubt);
            parts.into_iter().for_each(|part| self.hold(part));
            return;
        }
        if !is_in_doubt && self.must_begin(job, &group) {
            let part = self.jobs.lock().add_beginning(job, group, past, Vec::new());
            part.into_iter().for_each(|part| self.begin(part));
            return;
        }
        let (mut groups, mut places) = (Vec::new(), Vec::new());
        let (mut last, count) = (None, cuts.len());
        for Cut { place, group } in cuts {
            if group.exchange.is_some() && count > 1 {
                last = Some(group);
            } else {
                groups.push(group);
                places.push(place);
            }
        }
        let parts = self.jobs.lock().add(job, groups, last, is_in_doubt);
        let mut bytes = None;
        for (part, place) in parts.into_iter().zip(places) {
            self.send(part, (&place, past), &mut bytes, direct);
        }
    }

    /// Sends a part to a place.
    fn send(
        &self,
        part: PartId,
        (place, past): (&Place, Past),
        bytes: &mut Option<Vec<u8>>,
        direct: &mut Vec<DirectDelivery>,
    ) {
        let mut jobs = self.jobs.lock();
        let Some((known, job)) = jobs.both(part) else { return };
        let group = known.group.clone();
        let numbered = |once: Once| Once { number: group.number.unwrap_or(once.number), ..once };
        let (exchange, once) = (group.exchange, job.once.map(numbered));
        let is_again = known.is_in_doubt;
        let first = (past != Past::None).then(|| jobs.first_of(&group)).flatten();
        let intent = Intent { exchange, once, is_again, turn: Turn::new(known.job, first) };
        let (tenant, message, due) = (job.tenant.clone(), Arc::clone(&job.message), job.due);
        let name = place.name();
        jobs.open(part, |_| name);
        drop(jobs);
        match place {
            Place::Here(_) => {
                self.append_here(part, (&tenant, &group), &message, intent, direct);
            }
            Place::There { lane, .. } => {
                let now = self.clock.now();
                let bytes = bytes.get_or_insert_with(|| encode_message(&message.as_message(), now));
                let shared = self.all_chosen(&tenant, &group.shared);
                let call = self.next_call();
                let account = self.accountant.account(tenant.as_str());
                let waiting = Waiting::Append { part, bytes: bytes.len(), account };
                lane.ask(Question { call, due, waiting }, |into| {
                    put_append(into, call, &tenant, (&group.routes, &shared), intent, bytes);
                });
                if !lane.is_open() && lane.answer(call).is_some() {
                    // It broke meanwhile, before anything of this was said.
                    self.hold(part);
                }
            }
            Place::Nobody => self.hold(part),
        }
    }

    fn append_here(
        &self,
        part: PartId,
        (tenant, group): (&TenantId, &Group),
        message: &StoredMessage,
        intent: Intent,
        direct: &mut Vec<DirectDelivery>,
    ) {
        let (to, reply_to) = ((tenant, group), Some(part_of(part)));
        let message = message.as_message();
        let call = append_part(&*self.local, to, &message, (intent, reply_to), direct);
        let Call::Ready(settlement) = call else { return };
        match left(&*self.local, (group, intent), settlement) {
            Some(why) => {
                if why == Left::ToBegin {
                    self.jobs.lock().note_to_begin(part);
                }
                self.hold(part);
            }
            None => self.finish_part(part, settlement),
        }
    }

    /// Sends what is for sessions of other hosts to them; what is for those of this host stays.
    fn send_proxies(
        &self,
        tenant: &TenantId,
        message: &Message<'_>,
        direct: &mut Vec<DirectDelivery>,
    ) {
        let is_proxy = |delivery: &mut DirectDelivery| delivery.owner.shard == PROXY_SHARD;
        let proxies: Vec<DirectDelivery> = direct.extract_if(.., is_proxy).collect();
        self.hand_direct(tenant, &proxies, message);
    }

    /// A part of a message has its outcome, or it is in doubt.
    pub(crate) fn settle_part(&self, part: PartId, settlement: Settlement) {
        if settlement == Settlement::Done && self.jobs.lock().is_beginning(part) {
            return self.note_begun(part, None, true);
        }
        if settlement != Settlement::Unknown || !self.doubt(part) {
            self.finish_part(part, settlement);
            return;
        }
        let mut held = self.held.lock();
        self.note_held(&mut held, part);
        drop(held);
        self.stir.notify_one();
    }

    /// A part is in doubt; false if it must not be sent again.
    pub(crate) fn doubt(&self, part: PartId) -> bool {
        let mut jobs = self.jobs.lock();
        let may = jobs.may_repeat(part, self.clock.now());
        if let Some(part) = jobs.part(part).filter(|_| may) {
            part.doubt();
        }
        may
    }

    pub(crate) fn finish_part(&self, part: PartId, settlement: Settlement) {
        let step = self.jobs.lock().settle(part, settlement);
        self.follow(step);
    }

    pub(crate) fn follow(&self, step: Step) {
        match step {
            Step::Wait => {}
            Step::Tell(ReplyTo { session, ticket }, settlement) => {
                self.home.settle(session, ticket, settlement);
            }
            Step::Last(job, group) => self.dispatch_later(job, group, Past::None),
        }
    }

    /// Sends a group of a message when nobody is there any more who hands out what goes past the queues. The
    /// message is released then.
    pub(crate) fn dispatch_later(&self, job: JobId, group: Group, past: Past) {
        self.cut_anew(job, |direct| self.dispatch(job, group, past, direct));
    }

    /// The same for whatever `dispatch` sends.
    pub(crate) fn cut_anew(&self, job: JobId, dispatch: impl FnOnce(&mut Vec<DirectDelivery>)) {
        let (mut direct, known) = (Vec::new(), {
            let jobs = self.jobs.lock();
            jobs.job(job).map(|job| (job.tenant.clone(), Arc::clone(&job.message)))
        });
        dispatch(&mut direct);
        if let Some((tenant, message)) = known {
            self.hand_direct(&tenant, &direct, &message.as_message());
        }
        let step = self.jobs.lock().release(job);
        self.follow(step);
    }

    /// Holds a part that was not taken.
    pub(crate) fn hold(&self, part: PartId) {
        let mut held = self.held.lock();
        self.note_held(&mut held, part);
        drop(held);
        self.metrics.held.increment();
    }

    /// The same for whoever has the lock.
    pub(crate) fn note_held(&self, held: &mut Held, part: PartId) {
        let set = self.jobs.lock().hold(part, self.clock.now());
        held.push_back(part);
        self.held_for.fetch_or(set, Ordering::AcqRel);
    }

    /// Sends what is held to where it is served now, and ends what is late. By one at a time, whenever places
    /// have changed, and from time to time.
    pub(crate) fn drain(&self) {
        let parts = std::mem::take(&mut *self.held.lock());
        if parts.is_empty() {
            return;
        }
        let (now, mut kept, mut blocked) = (self.clock.now(), Held::new(), 0);
        let parts = self.jobs.lock().in_order(parts);
        for part in parts {
            let Some((set, look)) = self.look_at(part, now) else { continue };
            match look {
                Look::Late(settlement) => {
                    self.metrics.late.increment();
                    self.finish_part(part, settlement);
                }
                Look::Ready if set & blocked == 0 && self.resend(part).is_some() => {}
                Look::Ready | Look::NotYet => {
                    blocked |= set;
                    kept.push_back(part);
                }
            }
        }
        let mut held = self.held.lock();
        let sets = held.iter().filter_map(|part| Some(self.jobs.lock().part(*part)?.group.set()));
        let came = sets.fold(0, |all, set| all | set);
        kept.append(&mut held);
        *held = kept;
        self.held_for.store(blocked | came, Ordering::Release);
    }

    /// The partitions of a part that is held, and whether it may go.
    fn look_at(&self, part: PartId, now: Instant) -> Option<(u64, Look)> {
        let jobs = self.jobs.lock();
        let (part, job) = jobs.both(part)?;
        let may_go = {
            let places = self.places.read();
            let is_placed = part.group.partitions().all(|number| places[number] != Place::Nobody);
            is_placed && jobs.may_go(&part.group, |number| places[number].name())
        };
        let look = match job.due <= now {
            true if part.is_in_doubt => Look::Late(Settlement::Unknown),
            true => Look::Late(Settlement::Busy),
            // What was sent before may be refused yet, and goes first then.
            false if may_go && part.rests_until <= now => Look::Ready,
            false => Look::NotYet,
        };
        Some((part.group.set(), look))
    }

    /// The group of a part that is known by its exchange alone, if it is in doubt: only one command can be.
    fn known_by_exchange(&self, part: PartId) -> Option<Group> {
        let jobs = self.jobs.lock();
        let (known, job) = jobs.both(part)?;
        let is_once = job.message.qos == Qos::ExactlyOnce && job.once.is_none();
        (known.is_in_doubt && is_once).then(|| known.group.clone())
    }

    /// Sends a part that was held; `None`: it is held on.
    fn resend(&self, part: PartId) -> Option<()> {
        match self.known_by_exchange(part).map(|group| self.spread(&group)) {
            Some(Spread::NotKnown) => return None,
            Some(Spread::Several) => self.finish_part(part, Settlement::Unknown),
            Some(Spread::One) | None => {}
        }
        if let Some(part) = { self.jobs.lock().replace(part) } {
            self.metrics.repeated.increment();
            let past = if part.is_in_doubt { Past::InDoubt } else { Past::Held };
            self.dispatch_later(part.job, part.group, past);
        }
        Some(())
    }
}

/// What became of a part before.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    /// It is new.
    None,
    /// It was held.
    Held,
    /// It was held, and perhaps taken.
    InDoubt,
}

/// What is to be done with a part that is held.
enum Look {
    /// Its time is over.
    Late(Settlement),
    /// Some of its sessions are served by nobody, or something for them is under way.
    NotYet,
    /// It can be sent.
    Ready,
}

/// Who is told what became of a part at this host.
pub(crate) fn part_of(PartId(number): PartId) -> ReplyTo {
    let session = SessionRef { shard: JOIN_SHARD, slot: 0, generation: 0 };
    ReplyTo { session, ticket: Ticket(number) }
}
