//! Messages for sessions that are served by several hosts.
//!
//! A message is cut by the places of its targets; each host gets it once. It is settled once, with the worst
//! of its parts. That the message of an exchange was accepted is noted behind all other parts: were it noted
//! before them and they were lost, its publisher would not send it again.

use std::collections::HashMap;
use std::sync::Arc;

use ratatosk_codec::PacketId;
use ratatosk_contract::call::Settlement;
use ratatosk_contract::dist::InboxRoute;
use ratatosk_contract::inbox::{Claim, DirectDelivery, SharedRoute, Targets};
use ratatosk_contract::{
    Call, Message, ReplyTo, SessionRef, ShardId, StoredMessage, TenantId, Ticket,
};

use crate::ask::{CallId, Chosen, encode_message, put_append};
use crate::cluster_inbox::Shared;
use crate::desk::PROXY_SHARD;
use crate::lane::{Lane, Question, Reply, Waiting};
use crate::placing::Place;
use crate::seats::partition_of;

/// The shard number of messages with several parts, as those who are told when a part is durable. No data
/// plane has it.
pub(crate) const JOIN_SHARD: ShardId = ShardId(u8::MAX - 2);

const _: () = assert!(JOIN_SHARD.0 as usize >= ShardId::COUNT_MAX, "no data plane has it");

/// Messages whose parts are under way.
#[derive(Default)]
pub(crate) struct Joins {
    last: u64,
    by_number: HashMap<u64, Join>,
}

struct Join {
    reply_to: ReplyTo,
    left: usize,
    worst: Settlement,
    /// What follows when all of them are done.
    last: Option<Last>,
}

/// The part with the exchange.
struct Last {
    tenant: TenantId,
    part: Part,
    exchange: (Claim, PacketId),
    message: StoredMessage,
}

/// A part of a message: whom it is for at one place.
#[derive(Default)]
struct Part {
    /// `None`: this host.
    lane: Option<Arc<Lane>>,
    routes: Vec<InboxRoute>,
    shared: Vec<SharedRoute>,
}

/// A message, cut.
struct Cut {
    here: Part,
    there: Vec<Part>,
    /// Whether somebody's place is not known.
    is_incomplete: bool,
}

impl Part {
    fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.shared.is_empty()
    }

    fn is_at(&self, lane: &Arc<Lane>) -> bool {
        self.lane.as_ref().is_some_and(|at| Arc::ptr_eq(at, lane))
    }
}

impl Cut {
    fn part(&mut self, place: &Place) -> Option<&mut Part> {
        match place {
            Place::Here(_) => Some(&mut self.here),
            Place::There { lane, .. } => {
                let at = self.there.iter().position(|part| part.is_at(lane));
                let at = at.unwrap_or_else(|| {
                    self.there.push(Part { lane: Some(Arc::clone(lane)), ..Part::default() });
                    self.there.len() - 1
                });
                Some(&mut self.there[at])
            }
            Place::Nobody => {
                self.is_incomplete = true;
                None
            }
        }
    }
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
        if self.is_all_here(&targets, exchange) {
            let call = self.local.append(targets, message, exchange, reply_to, direct);
            self.send_proxies(targets.tenant, message, direct);
            return call;
        }
        let (mut cut, last) = self.cut(&targets, exchange);
        let is_asked_for = reply_to.is_some();
        if cut.is_incomplete && (is_asked_for || cut.here.is_empty() && cut.there.is_empty()) {
            self.metrics.refuse("nobody");
            return Call::Ready(Settlement::Busy);
        }
        let bytes = encode_message(message, self.clock.now());
        if let Some(refusal) = self.refusal(&cut, last.as_ref(), bytes.len()) {
            return Call::Ready(refusal);
        }
        let here = std::mem::take(&mut cut.here);
        let Some(reply_to) = reply_to else {
            debug_assert!(last.is_none(), "whoever has an exchange waits for the outcome");
            for part in &cut.there {
                self.send(part, targets.tenant, (None, &bytes), None);
            }
            return self.append_here(&here, targets.tenant, message, None, direct);
        };
        let parts = cut.there.len() + usize::from(!here.is_empty());
        if let ([part], true, None) = (&cut.there[..], here.is_empty(), &last) {
            self.send(part, targets.tenant, (None, &bytes), Some(Reply::Session(reply_to)));
            return Call::Pending;
        }
        let last = last.zip(exchange).map(|(part, exchange)| Last {
            tenant: targets.tenant.clone(),
            part,
            exchange,
            message: message.to_stored(),
        });
        if parts == 0 {
            return match last {
                Some(last) => self.finish(last, reply_to),
                None => Call::Ready(Settlement::Done),
            };
        }
        let number = self.joins.lock().begin(reply_to, parts, last);
        if !here.is_empty() {
            let part = Some(part_of(number));
            match self.append_here(&here, targets.tenant, message, part, direct) {
                Call::Pending => {}
                Call::Ready(Settlement::Done) => self.settle_part(number, Settlement::Done),
                Call::Ready(refused) => {
                    // Nothing went to anybody else yet.
                    self.joins.lock().by_number.remove(&number);
                    return Call::Ready(refused);
                }
            }
        }
        for part in &cut.there {
            self.send(part, targets.tenant, (None, &bytes), Some(Reply::Join(number)));
        }
        Call::Pending
    }

    fn is_all_here(&self, targets: &Targets<'_>, exchange: Option<(Claim, PacketId)>) -> bool {
        let places = self.places.read();
        let is_here = |number: u64| matches!(places[partition_of(number)], Place::Here(_));
        targets.routes.iter().all(|route| is_here(route.inbox.0))
            && targets.shared.iter().all(|shared| is_here(shared.route.inbox.0))
            && exchange.is_none_or(|(claim, _)| is_here(claim.inbox.0))
    }

    /// Cuts a message by the places of its targets. The part at the place of the exchange comes second.
    fn cut(
        &self,
        targets: &Targets<'_>,
        exchange: Option<(Claim, PacketId)>,
    ) -> (Cut, Option<Part>) {
        let places = self.places.read();
        let mut cut = Cut { here: Part::default(), there: Vec::new(), is_incomplete: false };
        for route in targets.routes {
            if let Some(part) = cut.part(&places[partition_of(route.inbox.0)]) {
                part.routes.push(*route);
            }
        }
        for shared in targets.shared {
            if let Some(part) = cut.part(&places[partition_of(shared.route.inbox.0)]) {
                part.shared.push(shared.clone());
            }
        }
        let home = exchange.map(|(claim, _)| &places[partition_of(claim.inbox.0)]);
        let last = home.and_then(|place| {
            let part = std::mem::take(cut.part(place)?);
            match place {
                Place::There { lane, .. } => {
                    cut.there.retain(|part| part.lane.is_some());
                    Some(Part { lane: Some(Arc::clone(lane)), ..part })
                }
                Place::Here(_) | Place::Nobody => Some(part),
            }
        });
        (cut, last)
    }

    /// Why a message is not taken at all.
    fn refusal(&self, cut: &Cut, last: Option<&Part>, bytes: usize) -> Option<Settlement> {
        if bytes > self.config.whole_bytes_max / 2 {
            self.metrics.refuse("long");
            return Some(Settlement::QuotaExceeded);
        }
        let lanes = cut.there.iter().chain(last).filter_map(|part| part.lane.as_ref());
        let is_full = |lane: &Arc<Lane>| {
            let held = lane.bytes();
            held > 0 && held + bytes > self.config.lane_bytes_max
        };
        if lanes.into_iter().any(is_full) {
            self.metrics.refuse("full");
            return Some(Settlement::Busy);
        }
        None
    }

    fn append_here(
        &self,
        part: &Part,
        tenant: &TenantId,
        message: &Message<'_>,
        reply_to: Option<ReplyTo>,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement> {
        if part.is_empty() {
            return Call::Ready(Settlement::Done);
        }
        let targets = Targets { tenant, routes: &part.routes, shared: &part.shared };
        let call = self.local.append(targets, message, None, reply_to, direct);
        self.send_proxies(tenant, message, direct);
        call
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

    fn send(
        &self,
        part: &Part,
        tenant: &TenantId,
        (exchange, message): (Option<(Claim, PacketId)>, &[u8]),
        reply: Option<Reply>,
    ) {
        let Some(lane) = &part.lane else { return };
        let shared: Vec<Chosen> =
            part.shared.iter().filter_map(|shared| self.chosen(tenant, shared)).collect();
        let targets = (&part.routes[..], &shared[..]);
        let Some(reply) = reply else {
            lane.outbox.put(|into| {
                put_append(into, CallId(0), tenant, targets, exchange, message);
            });
            return;
        };
        let call = self.next_call();
        let account = self.accountant.account(tenant.as_str());
        let waiting = Waiting::Append { reply, bytes: message.len(), account };
        let due = self.clock.now() + self.config.change_patience;
        let question = Question { call, due, waiting };
        lane.ask(question, |into| put_append(into, call, tenant, targets, exchange, message));
        if !lane.is_open() {
            // It broke meanwhile, and what was asked of it is answered already, or is now.
            lane.answer(call).into_iter().for_each(|question| self.give_up(&question));
        }
    }

    /// A member of a group, by names that mean the same on every host.
    fn chosen(&self, tenant: &TenantId, shared: &SharedRoute) -> Option<Chosen> {
        let mut filter = String::new();
        let group = &shared.group;
        let is_there = self.dist.tenant(tenant).filter_text(group.route, &mut filter);
        is_there.then(|| Chosen {
            route: shared.route,
            filter: filter.into(),
            group: (*group.name).into(),
            is_ordered: group.is_ordered,
        })
    }

    /// A part of a message has its outcome.
    pub(crate) fn settle_part(&self, number: u64, settlement: Settlement) {
        let Some((reply_to, worst, last)) = self.joins.lock().settle(number, settlement) else {
            return;
        };
        let settlement = match last.filter(|_| worst == Settlement::Done) {
            Some(last) => self.finish(last, reply_to).ready(),
            None => Some(worst),
        };
        if let Some(settlement) = settlement {
            self.home.settle(reply_to.session, reply_to.ticket, settlement);
        }
    }

    pub(crate) fn settle_reply(&self, reply: Reply, settlement: Settlement) {
        match reply {
            Reply::Session(reply_to) => {
                self.home.settle(reply_to.session, reply_to.ticket, settlement);
            }
            Reply::Join(number) => self.settle_part(number, settlement),
        }
    }

    /// All others have the message: now for the part with the exchange.
    fn finish(&self, last: Last, reply_to: ReplyTo) -> Call<Settlement> {
        let Last { tenant, part, exchange, message } = last;
        let message = message.as_message();
        if part.lane.is_some() {
            let bytes = encode_message(&message, self.clock.now());
            let reply = Some(Reply::Session(reply_to));
            self.send(&part, &tenant, (Some(exchange), &bytes), reply);
            return Call::Pending;
        }
        let targets = Targets { tenant: &tenant, routes: &part.routes, shared: &part.shared };
        let mut direct = Vec::new();
        let call =
            self.local.append(targets, &message, Some(exchange), Some(reply_to), &mut direct);
        self.hand_direct(&tenant, &direct, &message);
        call
    }
}

/// Who is told what became of a part at this host.
fn part_of(number: u64) -> ReplyTo {
    let session = SessionRef { shard: JOIN_SHARD, slot: 0, generation: 0 };
    ReplyTo { session, ticket: Ticket(number) }
}

impl Joins {
    fn begin(&mut self, reply_to: ReplyTo, left: usize, last: Option<Last>) -> u64 {
        self.last += 1;
        let join = Join { reply_to, left, worst: Settlement::Done, last };
        self.by_number.insert(self.last, join);
        self.last
    }

    /// Notes the outcome of a part; answers once all are there.
    fn settle(
        &mut self,
        number: u64,
        settlement: Settlement,
    ) -> Option<(ReplyTo, Settlement, Option<Last>)> {
        let join = self.by_number.get_mut(&number)?;
        join.worst = join.worst.max(settlement);
        join.left -= 1;
        if join.left > 0 {
            return None;
        }
        let join = self.by_number.remove(&number)?;
        Some((join.reply_to, join.worst, join.last))
    }
}
