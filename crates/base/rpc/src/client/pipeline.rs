//! A pipeline: questions leave in the order of their submission, answers match them in order.
//!
//! One task drives it. What was submitted waits in `queued`, what was sent in `waiting`:
//!
//! ```text
//! queued ≤ queue_max     waiting ≤ in_flight_max     answers come for the front of `waiting`
//! ```
//!
//! When the landscape sends the pipeline elsewhere, nothing more is sent, what is waiting is
//! answered or, after [`PipelineLimits::move_timeout`], in doubt, and only then the new server is
//! turned to. So no question overtakes another, and nothing is ever sent twice.

mod leg;

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::balance::Target;
use crate::call::{Call, Trace};
use crate::client::pipeline::leg::Leg;
use crate::client::{Called, Client};
use crate::error::{Delivery, Error};
use crate::method::{Message, Method, MethodKind};
use crate::metrics::Measured;
use crate::view::{Seat, View};

/// Questions that are taken from the callers at a time.
const BATCH: usize = 256;

/// The bounds of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipelineLimits {
    /// Questions that wait to be sent; more are answered with [`Error::Busy`].
    pub queue_max: usize,
    /// Questions that are sent and not answered yet.
    pub in_flight_max: usize,
    /// How long a server that the pipeline moves away from has to answer what it was sent.
    pub move_timeout: Duration,
}

impl Default for PipelineLimits {
    fn default() -> Self {
        Self { queue_max: 1_024, in_flight_max: 256, move_timeout: Duration::from_secs(5) }
    }
}

/// A pipeline to one server at a time. Clones submit to the same; when all are dropped, what was
/// submitted is still sent and answered.
pub struct Pipeline<Q, A> {
    items: mpsc::Sender<Item<Q, A>>,
    room: Arc<Semaphore>,
    called: Arc<Called>,
    call_timeout: Duration,
}

/// The answer to come. Dropped, the question is not sent if it still waits; if it was sent, its
/// answer is thrown away.
#[derive(Debug)]
pub struct Answer<A> {
    answer: oneshot::Receiver<Result<A, Error>>,
}

/// A question on its way.
struct Item<Q, A> {
    question: Q,
    deadline: Instant,
    trace: Option<Trace>,
    reply: Reply<A>,
}

/// Where an answer goes.
struct Reply<A> {
    answer: oneshot::Sender<Result<A, Error>>,
    measured: Measured,
}

/// A question that was sent. Its place is kept when its caller is gone, so that the next answer
/// is not taken for its own.
struct Sent<A> {
    deadline: Instant,
    reply: Option<Reply<A>>,
}

impl<Q, A> Clone for Pipeline<Q, A> {
    fn clone(&self) -> Self {
        Self {
            items: self.items.clone(),
            room: Arc::clone(&self.room),
            called: Arc::clone(&self.called),
            call_timeout: self.call_timeout,
        }
    }
}

impl<Q, A> fmt::Debug for Pipeline<Q, A> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let room = self.room.available_permits();
        out.debug_struct("Pipeline").field("room", &room).finish_non_exhaustive()
    }
}

impl Client {
    /// A pipeline for the tenant and under the trace of `call`, whose deadline says nothing: each
    /// question has its own, or that of [`crate::Config::call_timeout`]. It connects with the
    /// first question.
    ///
    /// # Panics
    /// When the method is no pipeline: a bug of the caller.
    #[must_use]
    pub fn pipeline<Q: Message, A: Message>(
        &self,
        method: &Method<Q, A>,
        call: Call,
        target: Target,
        limits: PipelineLimits,
    ) -> Pipeline<Q, A> {
        assert!(method.kind() == MethodKind::Pipeline, "{method:?} is no pipeline");
        let called = self.called(method);
        let call_timeout = self.shared().config.call_timeout;
        let (sender, items) = mpsc::channel(limits.queue_max.max(1));
        let room = Arc::new(Semaphore::new(limits.queue_max.max(1)));
        let driver = Driver {
            client: self.clone(),
            views: self.views.clone(),
            method: *method,
            called: Arc::clone(&called),
            call: call.endless(),
            target,
            limits,
            items,
            is_open: true,
            room: Arc::clone(&room),
            queued: VecDeque::new(),
            waiting: VecDeque::new(),
            due: None,
        };
        self.shared().scope.spawn(driver.run());
        Pipeline { items: sender, room, called, call_timeout }
    }
}

impl<Q: Message, A: Message> Pipeline<Q, A> {
    /// Submits a question, now: RPC-012. Questions are sent in the order of their submission.
    ///
    /// # Errors
    /// [`Error::Busy`] when [`PipelineLimits::queue_max`] questions wait; nothing was done.
    pub fn submit(&self, call: &Call, question: Q) -> Result<Answer<A>, Error> {
        let permit = self.room.try_acquire().map_err(|_| Error::Busy);
        let permit = permit.inspect_err(|error| {
            self.called.metrics.begin().end::<()>(&Err(error.clone()));
        })?;
        permit.forget();
        Ok(self.enqueue(call, Instant::now(), question))
    }

    /// Submits a question as soon as there is room, and waits for its answer.
    ///
    /// # Errors
    /// As [`Error`] says; [`Error::is_in_doubt`] tells whether it may have been carried out.
    pub async fn call(&self, call: &Call, question: Q) -> Result<A, Error> {
        let now = Instant::now();
        let permit = timeout_at(self.deadline(call, now), self.room.acquire()).await;
        let permit = permit.map_err(|_| Error::Deadline(Delivery::NotSent))?;
        permit.map_err(|_| ended())?.forget();
        self.enqueue(call, now, question).await
    }

    fn deadline(&self, call: &Call, now: Instant) -> Instant {
        call.deadline().unwrap_or(now + self.call_timeout)
    }

    /// Behind a permit, so that there is room in the channel.
    fn enqueue(&self, call: &Call, now: Instant, question: Q) -> Answer<A> {
        let deadline = self.deadline(call, now);
        let (sender, answer) = oneshot::channel();
        let reply = Reply { answer: sender, measured: self.called.metrics.begin_at(now) };
        let item = Item { question, deadline, trace: call.trace(), reply };
        if let Err(error) = self.items.try_send(item) {
            debug_assert!(matches!(error, mpsc::error::TrySendError::Closed(_)));
            error.into_inner().reply.give(Err(ended()));
        }
        Answer { answer }
    }
}

fn ended() -> Error {
    Error::not_sent("the node has stopped")
}

impl<A> Future for Answer<A> {
    type Output = Result<A, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A driver that is gone answers nobody: the node has stopped in the middle.
        let answer = Pin::new(&mut self.answer).poll(context);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(Error::in_doubt("the node has stopped"))))
    }
}

impl<A> Reply<A> {
    fn give(self, result: Result<A, Error>) {
        self.measured.end(&result);
        // Whoever is gone does not want it.
        let _ = self.answer.send(result);
    }
}

/// How the stay at a server ended.
enum Stay {
    /// All is answered, and another server is to be turned to.
    Moved,
    /// All is answered, and nobody submits any more.
    Done,
    /// The stream broke; what is waiting is in doubt.
    Broken(Error),
}

struct Driver<Q, A> {
    client: Client,
    views: watch::Receiver<Arc<View>>,
    method: Method<Q, A>,
    called: Arc<Called>,
    call: Call,
    target: Target,
    limits: PipelineLimits,
    items: mpsc::Receiver<Item<Q, A>>,
    /// Whether more may be submitted.
    is_open: bool,
    room: Arc<Semaphore>,
    queued: VecDeque<Item<Q, A>>,
    waiting: VecDeque<Sent<A>>,
    /// No deadline of what is queued or waiting is earlier.
    due: Option<Instant>,
}

impl<Q: Message, A: Message> Driver<Q, A> {
    async fn run(mut self) {
        let mut arrivals = Vec::with_capacity(BATCH);
        loop {
            while self.queued.is_empty() {
                if !self.is_open {
                    return;
                }
                let count = self.items.recv_many(&mut arrivals, BATCH).await;
                self.admit(count, &mut arrivals);
            }
            let Some((seat, leg)) = self.depart().await else { continue };
            match self.stay(&seat, leg, &mut arrivals).await {
                Stay::Moved => self.called.metrics.moves.increment(),
                Stay::Done => return,
                Stay::Broken(error) => {
                    for sent in self.waiting.drain(..) {
                        if let Some(reply) = sent.reply {
                            reply.give(Err(error.clone()));
                        }
                    }
                }
            }
        }
    }

    /// Opens a stream to whoever is the one now. If that fails, so does all that is queued.
    async fn depart(&mut self) -> Option<(Arc<Seat>, Leg<Q, A>)> {
        let limit = Instant::now() + self.client.shared().config.call_timeout;
        let limit = self.due.map_or(limit, |due| due.min(limit));
        let view = Arc::clone(&self.views.borrow_and_update());
        let seat = view.pick(self.call.tenant(), &self.target, &self.client.shared().draws);
        let departed = match seat {
            Ok(seat) => {
                let leg =
                    Leg::open(&self.client, &self.called, &self.method, &self.call, seat, limit);
                leg.await.map(|leg| (Arc::clone(seat), leg))
            }
            Err(nobody) => Err(nobody.error(self.method.service())),
        };
        match departed {
            Ok(departed) => Some(departed),
            Err(Error::Deadline(_)) if self.due.is_some_and(|due| due <= Instant::now()) => {
                self.expire();
                None
            }
            Err(error) => {
                self.room.add_permits(self.queued.len());
                self.queued.drain(..).for_each(|item| item.reply.give(Err(error.clone())));
                None
            }
        }
    }

    async fn stay(
        &mut self,
        seat: &Seat,
        mut leg: Leg<Q, A>,
        arrivals: &mut Vec<Item<Q, A>>,
    ) -> Stay {
        let mut leaving: Option<Instant> = None;
        loop {
            if leaving.is_none() && self.is_sent_elsewhere(seat) {
                leaving = Some(Instant::now() + self.limits.move_timeout);
            }
            if leaving.is_none() {
                self.send(&mut leg);
            }
            let is_done = !self.is_open && self.queued.is_empty();
            if self.waiting.is_empty() && (leaving.is_some() || is_done) {
                return if is_done { Stay::Done } else { Stay::Moved };
            }
            // All are cancel-safe. What is always ready under load comes first, so that the rest
            // costs nothing then; a change of the views is looked for above, too.
            tokio::select! {
                biased;
                answer = leg.work() => match answer {
                    Ok(answer) => {
                        if let Err(error) = self.settle(answer) {
                            return Stay::Broken(error);
                        }
                    }
                    Err(error) => return Stay::Broken(error),
                },
                count = self.items.recv_many(arrivals, BATCH), if self.is_open => {
                    self.admit(count, arrivals);
                }
                changed = self.views.changed(), if leaving.is_none() => {
                    self.views.mark_changed();
                    // Only a node that has stopped has no views.
                    if changed.is_err() {
                        return Stay::Broken(Error::in_doubt("the node has stopped"));
                    }
                }
                () = until(self.due) => self.expire(),
                () = until(leaving) => {
                    return Stay::Broken(Error::in_doubt("the server did not answer before it was left"));
                }
            }
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Whether there is a view that sends the pipeline to another server.
    fn is_sent_elsewhere(&mut self, seat: &Seat) -> bool {
        if !self.views.has_changed().unwrap_or_default() {
            return false;
        }
        let view = Arc::clone(&self.views.borrow_and_update());
        !view.keeps(seat, self.call.tenant(), &self.target, &self.client.shared().draws)
    }

    fn admit(&mut self, count: usize, arrivals: &mut Vec<Item<Q, A>>) {
        self.is_open = count > 0;
        for item in arrivals.drain(..) {
            self.due = Some(self.due.map_or(item.deadline, |due| due.min(item.deadline)));
            self.queued.push_back(item);
        }
    }

    /// Hands over what is queued, as far as there is room.
    fn send(&mut self, leg: &mut Leg<Q, A>) {
        if self.queued.is_empty() {
            return;
        }
        let now = Instant::now();
        if self.due.is_some_and(|due| due <= now) {
            self.expire();
        }
        let before = self.queued.len();
        while self.waiting.len() < self.limits.in_flight_max.max(1) && leg.has_room() {
            let Some(item) = self.queued.pop_front() else { break };
            let Item { question, deadline, trace, reply } = item;
            if reply.answer.is_closed() {
                continue;
            }
            let trace = trace.or(self.call.trace());
            match leg.send(question, deadline, trace, now) {
                Ok(()) => self.waiting.push_back(Sent { deadline, reply: Some(reply) }),
                Err(error) => reply.give(Err(error)),
            }
        }
        self.room.add_permits(before - self.queued.len());
    }

    /// Gives the next answer to whom it belongs.
    fn settle(&mut self, answer: Result<A, Error>) -> Result<(), Error> {
        let unasked = || Error::in_doubt("an answer that nobody waits for");
        let sent = self.waiting.pop_front().ok_or_else(unasked)?;
        if let Some(reply) = sent.reply {
            reply.give(answer);
        }
        Ok(())
    }

    /// Answers what is too late.
    fn expire(&mut self) {
        let now = Instant::now();
        let is_late = |deadline: Instant| deadline <= now;
        for sent in &mut self.waiting {
            if is_late(sent.deadline)
                && let Some(reply) = sent.reply.take()
            {
                reply.give(Err(Error::Deadline(Delivery::InDoubt)));
            }
        }
        let queued = std::mem::take(&mut self.queued);
        for item in queued {
            if is_late(item.deadline) {
                self.room.add_permits(1);
                item.reply.give(Err(Error::Deadline(Delivery::NotSent)));
            } else {
                self.queued.push_back(item);
            }
        }
        let waiting = self.waiting.iter().filter(|sent| sent.reply.is_some());
        let queued = self.queued.iter().map(|item| item.deadline);
        self.due = waiting.map(|sent| sent.deadline).chain(queued).min();
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
