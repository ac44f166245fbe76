//! A store that is slow, busy or full, as a test wishes.
//!
//! It stands before the inbox and the retained messages. What it takes is there at once, as in any
//! store that shows what is pending; only the answer is late. So it is with what an inbox on another
//! host answers: claims of sessions, and their subscriptions.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ratatosk_clock::Instant;
use ratatosk_codec::PacketId;
use ratatosk_contract::{
    Call, Message, ReplyTo, SessionIdentity, SessionRef, StoredMessage, TenantId,
    call::{Promised, Settlement},
    inbox::{
        Answer, Attach, Attached, Claim, Detach, DirectDelivery, DueWill, Entry, FetchBudget,
        Inbox, NotServed, Sequence, StaleClaim, SubscribeOutcome, Subscription, Targets,
        TooManyOrders, WillId,
    },
    retain::{Cursor, Page, Retain, RetainLimits, StoreOutcome, TenantRetained},
    sessions::Sessions,
};
use ratatosk_topic::TopicFilter;

use crate::PATIENCE;

/// What work is answered.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Reply {
    /// As the service does.
    #[default]
    Prompt,
    /// When the test says so.
    Late,
    /// This at once, and nothing is done.
    Refused(Settlement),
}

/// See the module.
#[derive(Default)]
pub struct Store {
    append: Mutex<Reply>,
    retain: Mutex<Reply>,
    claims: Mutex<Reply>,
    subscriptions: Mutex<Reply>,
    waiting: Mutex<Vec<ReplyTo>>,
    refused_claims: AtomicUsize,
    unanswered: Mutex<Vec<(ReplyTo, Answer)>>,
    refused: AtomicUsize,
    sessions: Mutex<Option<Arc<dyn Sessions>>>,
}

impl Store {
    /// One that does as the services do until it is told otherwise.
    pub fn new() -> Arc<Store> {
        Arc::default()
    }

    /// How appends are answered from now on.
    pub fn append(&self, reply: Reply) {
        *lock(&self.append) = reply;
    }

    /// How sessions are answered that attach or are discarded, from now on. To refuse them is to say that
    /// nobody serves them.
    pub fn claims(&self, reply: Reply) {
        *lock(&self.claims) = reply;
    }

    /// How subscriptions are answered from now on. To refuse them is to be busy.
    pub fn subscriptions(&self, reply: Reply) {
        *lock(&self.subscriptions) = reply;
    }

    /// Waits until so many claims and subscriptions were refused.
    ///
    /// # Panics
    /// If they were not in time.
    pub fn refuses_claims(&self, count: usize) {
        let end = std::time::Instant::now() + PATIENCE;
        while self.refused_claims.load(Ordering::SeqCst) < count {
            assert!(std::time::Instant::now() < end, "{count} were not refused");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Waits until so many answers to claims and subscriptions are owed.
    ///
    /// # Panics
    /// If they never are.
    pub fn owes_answers(&self, count: usize) {
        let end = std::time::Instant::now() + PATIENCE;
        while lock(&self.unanswered).len() != count {
            let owed = lock(&self.unanswered).len();
            assert!(std::time::Instant::now() < end, "{owed} answers are owed, not {count}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Gives the answer at this place among those that are owed.
    ///
    /// # Panics
    /// If there is none.
    pub fn give(&self, place: usize) {
        let (reply_to, answer) = lock(&self.unanswered).remove(place);
        self.tell(reply_to, answer);
    }

    /// Says to the claim at this place among what is owed that nobody serves its session.
    ///
    /// # Panics
    /// If there is none.
    pub fn give_up(&self, place: usize) {
        let (reply_to, answer) = lock(&self.unanswered).remove(place);
        let answer = match answer {
            Answer::Attached(_) => Answer::Attached(Err(NotServed)),
            Answer::Discarded(_) => Answer::Discarded(Err(NotServed)),
            Answer::Subscribed(_) => Answer::Subscribed(SubscribeOutcome::Busy),
        };
        self.tell(reply_to, answer);
    }

    fn tell(&self, reply_to: ReplyTo, answer: Answer) {
        let sessions = lock(&self.sessions).clone().expect("the broker was started");
        sessions.answered(reply_to, answer);
    }

    /// How retained writes are answered from now on.
    pub fn retain(&self, reply: Reply) {
        *lock(&self.retain) = reply;
    }

    /// Waits until so many answers are owed.
    ///
    /// # Panics
    /// If they never are.
    pub fn owes(&self, count: usize) {
        let end = std::time::Instant::now() + PATIENCE;
        while lock(&self.waiting).len() != count {
            let owed = lock(&self.waiting).len();
            assert!(std::time::Instant::now() < end, "{owed} answers are owed, not {count}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Waits until work was refused so often.
    ///
    /// # Panics
    /// If it never is.
    pub fn has_refused(&self, count: usize) {
        let end = std::time::Instant::now() + PATIENCE;
        while self.refused.load(Ordering::SeqCst) < count {
            assert!(std::time::Instant::now() < end, "work was refused less than {count} times");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Gives the oldest answer that is owed.
    ///
    /// # Panics
    /// If none is.
    pub fn settle(&self, settlement: Settlement) {
        let reply_to = lock(&self.waiting).remove(0);
        let sessions = lock(&self.sessions).clone().expect("the broker was started");
        sessions.settle(reply_to.session, reply_to.ticket, settlement);
    }

    pub(crate) fn before(
        self: &Arc<Self>,
        inbox: Arc<dyn Inbox>,
        retain: Arc<dyn Retain>,
        sessions: Arc<dyn Sessions>,
    ) -> (Arc<dyn Inbox>, Arc<dyn Retain>) {
        *lock(&self.sessions) = Some(sessions);
        let store = Arc::clone(self);
        let inbox = Arc::new(InboxBehind { store, inbox });
        (inbox, Arc::new(RetainBehind { store: Arc::clone(self), retain }))
    }

    /// The answer to a call of a session, which is done unless it is refused.
    fn later<T>(
        &self,
        reply: Reply,
        reply_to: Option<ReplyTo>,
        refusal: T,
        work: impl FnOnce() -> Call<T>,
        answer: impl FnOnce(T) -> Answer,
    ) -> Call<T> {
        match (reply, reply_to) {
            (Reply::Refused(_), _) => {
                self.refused_claims.fetch_add(1, Ordering::SeqCst);
                Call::Ready(refusal)
            }
            (Reply::Late, Some(reply_to)) => {
                if let Call::Ready(done) = work() {
                    lock(&self.unanswered).push((reply_to, answer(done)));
                }
                Call::Pending
            }
            (Reply::Prompt | Reply::Late, _) => work(),
        }
    }

    /// The answer to work, which is done unless it is refused.
    fn answer<T>(
        &self,
        reply: Reply,
        reply_to: Option<ReplyTo>,
        work: impl FnOnce() -> Call<T>,
    ) -> Result<Call<T>, Settlement> {
        match (reply, reply_to) {
            (Reply::Refused(settlement), _) => {
                self.refused.fetch_add(1, Ordering::SeqCst);
                Err(settlement)
            }
            (Reply::Late, Some(reply_to)) => {
                work();
                lock(&self.waiting).push(reply_to);
                Ok(Call::Pending)
            }
            (Reply::Prompt | Reply::Late, _) => Ok(work()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

struct InboxBehind {
    store: Arc<Store>,
    inbox: Arc<dyn Inbox>,
}

impl Inbox for InboxBehind {
    fn attach(
        &self,
        attach: &Attach<'_>,
        reply_to: Option<ReplyTo>,
    ) -> Call<Result<Promised<Attached>, NotServed>> {
        let reply = *lock(&self.store.claims);
        let work = || self.inbox.attach(attach, None);
        self.store.later(reply, reply_to, Err(NotServed), work, |attached| {
            Answer::Attached(attached.map(|promised| Box::new(promised.answer)))
        })
    }

    fn detach(
        &self,
        claim: Claim,
        detach: Detach,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        self.inbox.detach(claim, detach, reply_to)
    }

    fn discard(
        &self,
        identity: &SessionIdentity,
        now: Instant,
        reply_to: Option<ReplyTo>,
    ) -> Call<Result<Promised<bool>, NotServed>> {
        let reply = *lock(&self.store.claims);
        let work = || self.inbox.discard(identity, now, None);
        self.store.later(reply, reply_to, Err(NotServed), work, |discarded| {
            Answer::Discarded(discarded.map(|promised| promised.answer))
        })
    }

    fn subscribe(
        &self,
        claim: Claim,
        subscription: &Subscription,
        reply_to: Option<ReplyTo>,
    ) -> Call<Promised<SubscribeOutcome>> {
        let reply = *lock(&self.store.subscriptions);
        let told = reply_to.filter(|_| reply == Reply::Prompt);
        let work = || self.inbox.subscribe(claim, subscription, told);
        let busy = Promised::kept(SubscribeOutcome::Busy);
        self.store
            .later(reply, reply_to, busy, work, |promised| Answer::Subscribed(promised.answer))
    }

    fn unsubscribe(
        &self,
        claim: Claim,
        filter: &str,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<bool>, StaleClaim> {
        self.inbox.unsubscribe(claim, filter, reply_to)
    }

    fn append(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        exchange: Option<(Claim, PacketId)>,
        reply_to: Option<ReplyTo>,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement> {
        let reply = *lock(&self.store.append);
        let work = || self.inbox.append(targets, message, exchange, None, direct);
        self.store.answer(reply, reply_to, work).unwrap_or_else(Call::Ready)
    }

    fn fetch(
        &self,
        claim: Claim,
        after: Sequence,
        budget: FetchBudget,
        entries: &mut Vec<Entry>,
    ) -> Result<(), StaleClaim> {
        self.inbox.fetch(claim, after, budget, entries)
    }

    fn commit(&self, claim: Claim, sequence: Sequence) -> Result<(), StaleClaim> {
        self.inbox.commit(claim, sequence)
    }

    fn received(
        &self,
        claim: Claim,
        sequence: Sequence,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        self.inbox.received(claim, sequence, reply_to)
    }

    fn inbound(
        &self,
        claim: Claim,
        packet_id: PacketId,
        is_released: bool,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        self.inbox.inbound(claim, packet_id, is_released, reply_to)
    }

    fn keep_will(
        &self,
        identity: &SessionIdentity,
        owner: SessionRef,
        message: &Arc<StoredMessage>,
        delay_s: u32,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<WillId>, NotServed> {
        self.inbox.keep_will(identity, owner, message, delay_s, reply_to)
    }

    fn withdraw_will(&self, will: WillId) {
        self.inbox.withdraw_will(will);
    }

    fn will_sent(&self, will: WillId) {
        self.inbox.will_sent(will);
    }

    fn expire(&self, now: Instant, due_max: usize, wills: &mut Vec<DueWill>) {
        self.inbox.expire(now, due_max, wills);
    }

    fn expire_inactive(
        &self,
        tenant: &TenantId,
        away_min: Duration,
        now: Instant,
    ) -> Result<usize, TooManyOrders> {
        self.inbox.expire_inactive(tenant, away_min, now)
    }

    fn len(&self) -> usize {
        self.inbox.len()
    }
}

struct RetainBehind {
    store: Arc<Store>,
    retain: Arc<dyn Retain>,
}

impl Retain for RetainBehind {
    fn tenant(&self, tenant: &TenantId) -> Arc<dyn TenantRetained> {
        let tenant = self.retain.tenant(tenant);
        Arc::new(RetainedBehind { store: Arc::clone(&self.store), tenant })
    }
}

struct RetainedBehind {
    store: Arc<Store>,
    tenant: Arc<dyn TenantRetained>,
}

impl TenantRetained for RetainedBehind {
    fn store(&self, message: &Message<'_>, reply_to: Option<ReplyTo>) -> Call<StoreOutcome> {
        let reply = *lock(&self.store.retain);
        let work = || self.tenant.store(message, None);
        let answer = self.store.answer(reply, reply_to, work);
        answer.unwrap_or(Call::Ready(StoreOutcome::Busy))
    }

    fn scan(&self, now: Instant, filter: &TopicFilter<'_>, cursor: &mut Cursor, page: &mut Page) {
        self.tenant.scan(now, filter, cursor, page);
    }

    fn set_limits(&self, limits: RetainLimits) {
        self.tenant.set_limits(limits);
    }

    fn expire_all(&self) -> usize {
        self.tenant.expire_all()
    }

    fn len(&self) -> usize {
        self.tenant.len()
    }
}
