//! The inbox of this host for the sessions of others: obeys their words, and tells them what they wait for.

use std::sync::{Arc, Weak};

use ratatosk_clock::Instant;
use ratatosk_codec::{PacketId, Qos};
use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{
    Attach, Attached, Claim, Detach, Entry, FetchBudget, Sequence, StaleClaim, SubscribeOutcome,
};
use ratatosk_contract::serving::{Refusal, Serving, Wish};
use ratatosk_contract::{Call as Answer, SessionIdentity, SessionRef, StoredMessage};
use ratatosk_rpc::{Call, Error, HostId, Receiver, Sender};

use crate::ask::{self, Ask, CallId, Credit, Open, Order};
use crate::choices::{Wanted, find_group};
use crate::cluster_inbox::Shared;
use crate::desk::{Desk, Due, Gone, PROXY_SHARD};
use crate::jobs::Group;
use crate::link::{Link, Owed};
use crate::proto::{Frame, Inbox};
use crate::seats::partition_of;
use crate::taking::{Left, append_part, is_left_to_owner, left};
use crate::tell::{Outcome, Resumed, Taken, Tell};
use ratatosk_rpc::frames::{Joiner, cut};

/// Messages that are handed to a session at a time.
const FETCH_MESSAGES: u32 = 64;
/// Bytes, about.
const FETCH_BYTES: u32 = 64 << 10;
/// Entries that are looked at together when a session goes on.
const CATCH_UP: usize = 1_024;

/// The service. It does not keep what it works on: what calls it may live longer.
pub(crate) struct Server {
    shared: Weak<Shared>,
}

impl Server {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::downgrade(shared) }
    }
}

impl Inbox for Server {
    async fn serve(
        &self,
        call: Call,
        mut questions: Receiver<Frame>,
        answers: Sender<Frame>,
    ) -> Result<(), Error> {
        let shared = self.shared.upgrade();
        let shared = shared.ok_or_else(|| Error::Internal { why: "the host stops".to_owned() })?;
        let caller = call.caller().ok_or_else(|| refused("nobody knows whose it is"))?;
        let clerk = Clerk::begin(&shared, caller);
        let mut joiner = Joiner::new(shared.config.whole_bytes_max);
        let hear = async {
            while let Some(frame) = questions.next().await {
                let joined =
                    joiner.take(frame.into()).map_err(|_| refused("more than may go together"))?;
                let Some(data) = joined else { continue };
                let words = ask::take_all(&data, shared.clock.now());
                let words = words.map_err(|_| refused("words that make no sense"))?;
                for word in words {
                    clerk.obey(word).ok_or_else(|| refused("a later stream came"))?;
                    tokio::task::coop::consume_budget().await;
                }
            }
            Ok(())
        };
        let speak = async {
            loop {
                let batch = clerk.link.next().await;
                for part in cut(batch) {
                    if answers.send(part.into()).await.is_err() {
                        return Ok(());
                    }
                }
            }
        };
        let pump = async {
            loop {
                for slot in clerk.link.stirred().await {
                    clerk.pump(shared.desk.due(slot, &clerk.link));
                    tokio::task::coop::consume_budget().await;
                }
            }
        };
        // Whoever ends first ends the stream; what was not said is said on the next one.
        tokio::select! {
            heard = hear => heard,
            spoken = speak => spoken,
            () = pump => Ok(()),
        }
    }
}

/// Works on one stream.
struct Clerk<'a> {
    shared: &'a Shared,
    link: Arc<Link>,
}

impl Drop for Clerk<'_> {
    fn drop(&mut self) {
        self.shared.desk.close(&self.link);
    }
}

impl<'a> Clerk<'a> {
    fn begin(shared: &'a Shared, caller: HostId) -> Self {
        let (now, account) = (shared.clock.now(), shared.accountant.account(""));
        let link = shared.desk.open(caller, |number| Link::new(caller, number, now, &account));
        Self { shared, link }
    }

    fn inbox(&self) -> &dyn Serving {
        &*self.shared.local
    }

    fn desk(&self) -> &Desk {
        &self.shared.desk
    }

    fn tell(&self, tell: &Tell) {
        self.link.tell(tell, self.shared.clock.now());
    }

    fn answer(&self, call: CallId, owed: Owed, is_durable: bool) {
        self.link.answer(call, owed, is_durable, self.shared.clock.now());
    }

    /// Does what a word says; `None`, and nothing, if a later stream of its host has begun.
    fn obey(&self, word: Ask) -> Option<()> {
        if !self.desk().has_turn(&self.link) {
            return None;
        }
        match word {
            Ask::Attach { .. } => self.attach(word),
            Ask::Resume { call, claim, handed, open } => {
                self.resume(call, claim, (handed, &open));
            }
            Ask::Append { call, order } => self.append(call, &order),
            Ask::Begin { call, claim, packet_id, mark, wished } => {
                self.begin_message(call, (claim, packet_id), mark, &wished);
            }
            Ask::More { claim, credit } => self.pump(self.desk().credit(claim, credit)),
            Ask::Commit { claim, sequence } => {
                if self.inbox().commit(claim, sequence).is_err() {
                    self.lost(claim);
                }
            }
            Ask::Discard { call, identity } => {
                let now = self.shared.clock.now();
                match self.inbox().discard(&identity, now, self.link.reply_to(call)) {
                    Answer::Ready(Ok(promised)) => {
                        self.answer(call, Owed::Discarded(promised.answer), promised.is_durable);
                    }
                    _ => self.tell(&Tell::Discarded { call, existed: None }),
                }
            }
            Ask::Subscribe { call, claim, subscription } => {
                match self.inbox().subscribe(claim, &subscription, self.link.reply_to(call)) {
                    Answer::Ready(promised) => {
                        let outcome = self.outcome(claim, promised.answer);
                        self.answer(call, Owed::Subscribed(outcome), promised.is_durable);
                    }
                    Answer::Pending => {
                        self.tell(&Tell::Subscribed { call, outcome: Outcome::Busy });
                    }
                }
            }
            Ask::KeepWill { call, identity, message, delay_s } => {
                self.keep_will(call, &identity, &message, delay_s);
            }
            Ask::EndWill { will } => {
                self.shared.kept_wills.lock().remove(&will);
                self.inbox().withdraw_will(will);
            }
            Ask::ResumeWill { will } => {
                if self.inbox().resume_will(will).is_ok() {
                    self.shared.kept_wills.lock().insert(will, self.link.host);
                }
            }
            change => self.change(change),
        }
        Some(())
    }

    /// Changes a session that has an owner.
    fn change(&self, word: Ask) {
        match word {
            Ask::Detach { call, claim, expiry_s, will } => {
                let detach = Detach { expiry_s, will, now: self.shared.clock.now() };
                let detached = self.inbox().detach(claim, detach, self.link.reply_to(call));
                self.desk().leave(claim);
                match detached {
                    Ok(promised) => self.answer(call, Owed::Nothing, promised.is_durable),
                    // Another owner has it: there is nothing to leave.
                    Err(StaleClaim) if !self.leaves(claim) => self.settle(call, Settlement::Done),
                    Err(StaleClaim) => self.settle(call, Settlement::Unknown),
                }
            }
            Ask::Unsubscribe { call, claim, filter } => {
                let removed = self.inbox().unsubscribe(claim, &filter, self.link.reply_to(call));
                let removed = removed.map(|promised| promised.is_durable);
                self.changed(call, claim, removed);
            }
            Ask::Received { call, claim, sequence } => {
                let noted = self.inbox().received(claim, sequence, self.link.reply_to(call));
                self.changed(call, claim, noted.map(|promised| promised.is_durable));
            }
            Ask::Inbound { call, claim, packet_id, is_released } => {
                let reply_to = self.link.reply_to(call);
                let noted = self.inbox().inbound(claim, packet_id, is_released, reply_to);
                self.changed(call, claim, noted.map(|promised| promised.is_durable));
            }
            _ => debug_assert!(false, "every other word is obeyed above"),
        }
    }

    fn attach(&self, word: Ask) {
        let Ask::Attach { call, identity, is_clean, expiry_s, limits, will } = word else { return };
        let owner = self.desk().begin(&self.link);
        let now = self.shared.clock.now();
        let attach = Attach { identity: &identity, owner, is_clean, expiry_s, limits, will, now };
        let attached = self.inbox().attach(&attach, self.link.reply_to(call));
        let Answer::Ready(Ok(promised)) = attached else {
            self.desk().give_up(owner);
            self.tell(&Tell::Attached { call, attached: None });
            return;
        };
        let Attached { claim, incarnation, is_present, member: _, subscriptions, inbound, sent } =
            promised.answer;
        self.say_gone(self.desk().own(owner, claim, Sequence(0)));
        let taken = Taken { claim, incarnation, is_present, sent, inbound, subscriptions };
        self.answer(call, Owed::Attached(Box::new(taken)), promised.is_durable);
    }

    /// Whoever had a session has it no more.
    fn say_gone(&self, gone: Option<Gone>) {
        if let Some(Gone { claim, link: Some(link) }) = gone {
            link.tell(&Tell::Stale { claim }, self.shared.clock.now());
        }
    }

    /// A session's owner goes on here.
    fn resume(&self, call: CallId, claim: Claim, (handed, open): (Sequence, &[Open])) {
        let known = self.desk().resume(claim, &self.link, handed);
        let owner = known.unwrap_or_else(|| self.desk().begin(&self.link));
        let resumed = self.inbox().resume(claim, owner);
        let end = match resumed {
            Ok(()) => {
                self.say_gone(self.desk().own(owner, claim, handed));
                Resumed::Done
            }
            Err(refusal) => {
                self.desk().give_up(owner);
                if refusal == Refusal::Stale { Resumed::Stale } else { Resumed::NotServed }
            }
        };
        self.tell(&Tell::Resumed { call, claim, end });
        if end == Resumed::Done {
            let now = self.shared.clock.now();
            let missed = catch_up(self.inbox(), claim, (handed, open), now);
            match missed {
                Ok(entries) => self.hand(claim, entries, Credit::default()),
                Err(StaleClaim) => self.lost(claim),
            }
        }
    }

    /// A change of a session that may have been refused.
    fn changed(&self, call: CallId, claim: Claim, is_durable: Result<bool, StaleClaim>) {
        match is_durable {
            Ok(is_durable) => self.answer(call, Owed::Nothing, is_durable),
            Err(StaleClaim) => {
                self.lost(claim);
                self.settle(call, Settlement::Unknown);
            }
        }
    }

    fn settle(&self, call: CallId, settlement: Settlement) {
        if call != CallId(0) {
            self.tell(&Tell::Settled { call, settlement });
        }
    }

    /// A claim was refused: the session has another owner, is served elsewhere, or its owner has to go on
    /// here first.
    fn lost(&self, claim: Claim) {
        let is_left = self.leaves(claim);
        self.desk().leave(claim);
        self.tell(&match is_left {
            false => Tell::Stale { claim },
            true => Tell::Resumed { call: CallId(0), claim, end: Resumed::NotServed },
        });
    }

    /// Whether a claim that was refused may be good. DICT-004
    fn leaves(&self, claim: Claim) -> bool {
        is_left_to_owner(self.inbox(), claim)
    }

    fn outcome(&self, claim: Claim, outcome: SubscribeOutcome) -> Outcome {
        match outcome {
            SubscribeOutcome::Done { existed: false, .. } => Outcome::Done,
            SubscribeOutcome::Done { existed: true, .. } => Outcome::Existed,
            SubscribeOutcome::TooManyFilters => Outcome::TooManyFilters,
            SubscribeOutcome::GroupFull => Outcome::GroupFull,
            SubscribeOutcome::Busy => Outcome::Busy,
            SubscribeOutcome::Stale => {
                self.lost(claim);
                Outcome::Stale
            }
        }
    }

    fn append(&self, call: CallId, order: &Order) {
        let Order { tenant, routes, shared, intent, message } = order;
        let found = |chosen| find_group(&*self.shared.dist, tenant, chosen);
        let known: Vec<Wanted> = shared.iter().filter_map(found).collect();
        let is_whole = known.len() == shared.len();
        let (routes, exchange) = (routes.clone(), intent.exchange);
        let group = Group { routes, shared: known, exchange, number: None };
        let members = shared.iter().map(|chosen| partition_of(chosen.route.inbox.0));
        let set = members.fold(group.set(), |set, number| set | 1 << number);
        // A group that is not known here yet is: its routes are on their way. DIST-014
        let is_early = !is_whole && call != CallId(0);
        if is_early {
            self.link.close(set, intent.turn);
        }
        if is_early || self.link.refuses(set, intent.turn) {
            self.tell(&Tell::NotServed { call, is_to_begin: false });
            return;
        }
        let (mut direct, message) = (Vec::new(), message.as_message());
        let (to, how) = ((tenant, &group), (*intent, self.link.reply_to(call)));
        let call_of = append_part(self.inbox(), to, &message, how, &mut direct);
        self.shared.hand_direct(tenant, &direct, &message);
        match call_of {
            Answer::Pending => self.answer(call, Owed::Appended(set, intent.turn), false),
            Answer::Ready(_) if call == CallId(0) => {}
            Answer::Ready(settlement) => {
                match (left(self.inbox(), (&group, *intent), settlement), settlement) {
                    (Some(why), _) => {
                        self.link.close(set, intent.turn);
                        let is_to_begin = why == Left::ToBegin;
                        self.tell(&Tell::NotServed { call, is_to_begin });
                    }
                    // The claim of its exchange is stale.
                    (None, Settlement::Unknown) => self.tell(&Tell::NotTaken { call }),
                    (None, settlement) => self.settle(call, settlement),
                }
            }
        }
    }

    fn begin_message(&self, call: CallId, exchange: (Claim, PacketId), mark: u64, wished: &[Wish]) {
        match self.inbox().begin(exchange, mark, wished, self.link.reply_to(call)) {
            Ok(promised) => {
                self.answer(call, Owed::Begun(promised.answer), promised.is_durable);
            }
            Err(StaleClaim) if !self.leaves(exchange.0) => self.tell(&Tell::NotTaken { call }),
            Err(StaleClaim) => self.tell(&Tell::NotServed { call, is_to_begin: false }),
        }
    }

    fn keep_will(
        &self,
        call: CallId,
        identity: &SessionIdentity,
        message: &Arc<StoredMessage>,
        delay_s: u32,
    ) {
        let reply_to = self.link.reply_to(call);
        let owner = SessionRef { shard: PROXY_SHARD, slot: u32::MAX, generation: 0 };
        match self.inbox().keep_will(identity, owner, message, delay_s, reply_to) {
            Ok(promised) => {
                let will = promised.answer;
                self.shared.kept_wills.lock().insert(will, self.link.host);
                self.answer(call, Owed::Will(will), promised.is_durable);
            }
            Err(_) => self.settle(call, Settlement::Unknown),
        }
    }

    /// Hands a session as much as it may have.
    fn pump(&self, due: Option<Due>) {
        let mut due = due;
        while let Some(Due { claim, after, credit }) = due {
            let budget = FetchBudget {
                now: self.shared.clock.now(),
                messages_max: credit.messages.min(FETCH_MESSAGES) as usize,
                bytes_max: credit.bytes.min(FETCH_BYTES) as usize,
            };
            let mut entries = Vec::new();
            if self.inbox().fetch(claim, after, budget, &mut entries).is_err() {
                self.lost(claim);
                return;
            }
            if entries.is_empty() {
                // The inbox says when there is more.
                return;
            }
            let used = used(&entries);
            let through = entries.last().map_or(after, |entry| entry.sequence);
            let Ok(more) = self.desk().hand(&self.link, claim, through, used) else { return };
            self.tell(&Tell::Entries { claim, entries });
            due = more;
        }
    }

    /// Hands entries to a session that were fetched already.
    fn hand(&self, claim: Claim, entries: Vec<Entry>, used: Credit) {
        let Some(through) = entries.last().map(|entry| entry.sequence) else { return };
        if self.desk().hand(&self.link, claim, through, used).is_ok() {
            self.tell(&Tell::Entries { claim, entries });
        }
    }
}

/// What some entries are of a credit.
pub(crate) fn used(entries: &[Entry]) -> Credit {
    let bytes: usize = entries.iter().map(|entry| entry.message.size_bytes()).sum();
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    Credit { messages: count, bytes: u32::try_from(bytes).unwrap_or(u32::MAX) }
}

/// Has the inbox know what the owner of a session did while nobody heard of it: what was handed to it and
/// is not open any more it has confirmed. Answers what it has not been handed.
///
/// # Errors
/// The claim is stale.
pub(crate) fn catch_up(
    inbox: &dyn Serving,
    claim: Claim,
    (handed, open): (Sequence, &[Open]),
    now: Instant,
) -> Result<Vec<Entry>, StaleClaim> {
    let (mut after, mut missed) = (Sequence(0), Vec::new());
    while after < handed && missed.is_empty() {
        let mut entries = Vec::new();
        let budget = FetchBudget { now, messages_max: CATCH_UP, bytes_max: usize::MAX };
        inbox.fetch(claim, after, budget, &mut entries)?;
        let Some(last) = entries.last() else { break };
        after = last.sequence;
        for entry in entries {
            if entry.sequence > handed || entry.qos == Qos::AtMostOnce {
                missed.push(entry);
                continue;
            }
            match open.binary_search_by_key(&entry.sequence, |open| open.sequence) {
                Err(_) => inbox.commit(claim, entry.sequence)?,
                Ok(at) if open[at].is_received && !entry.is_received => {
                    let _ = inbox.received(claim, entry.sequence, None)?;
                }
                Ok(_) => {}
            }
        }
    }
    Ok(missed)
}

/// The peer broke the rules.
fn refused(why: &str) -> Error {
    Error::Refused { why: why.to_owned() }
}
