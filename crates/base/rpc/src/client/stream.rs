//! A stream: messages both ways with one server at a time, opened again elsewhere when the
//! landscape or the connection says so.
//!
//! Each opening is told, and has a sender of its own: what was sent to one server never reaches
//! another, and whoever has a position or a subscription to tell can tell it anew. What one
//! server had sent and was not received when the stream moved is lost with it.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backoff::Backoff;
use crate::balance::Target;
use crate::call::Call;
use crate::channel::{End, Receiver, Sender, converse, local, over_network};
use crate::client::{Called, Client, head};
use crate::error::{Delivery, Error};
use crate::identity::ServerId;
use crate::method::{Message, Method, MethodKind};
use crate::metrics::MethodMetrics;
use crate::protocol::put_open;
use crate::service::{BoxFuture, Conversation};
use crate::view::{Seat, View, Way};

/// What happens on a stream.
#[derive(Debug)]
pub enum Event<Q, A> {
    /// It is open at a server, for the first time or anew. Of an earlier opening nothing follows.
    Opened {
        /// Where it is.
        server: ServerId,
        /// Sends to this server, and to no other.
        questions: Sender<Q>,
    },
    /// The server sent a message.
    Message(A),
    /// It is not open: nobody works for the call, or the connection or the server failed. It is
    /// opened again by itself. Told once for each time that it fails.
    Lost(Error),
}

/// A stream of messages both ways. It lives in its owner's [`Stream::next`]; dropped, it is given
/// up at the server, too.
pub struct Stream<Q, A> {
    client: Client,
    views: watch::Receiver<Arc<View>>,
    method: Method<Q, A>,
    called: Arc<Called>,
    call: Call,
    target: Target,
    state: State<Q, A>,
    backoff: Backoff,
    /// Whether it was open before.
    was_open: bool,
}

enum State<Q, A> {
    /// Until then, or until the landscape changes.
    Waiting(Option<Instant>),
    Opening(Opening<Q, A>),
    Open(Talk<Q, A>),
    Ended,
}

type Opening<Q, A> = BoxFuture<Result<Talk<Q, A>, Error>>;

/// A stream that is open at a server.
struct Talk<Q, A> {
    seat: Arc<Seat>,
    /// Until it was told.
    questions: Option<Sender<Q>>,
    answers: Receiver<A>,
    outcome: oneshot::Receiver<Result<(), Error>>,
    _cancel: DropGuard,
}

impl Client {
    /// A stream for a tenant. It opens with the first [`Stream::next`]; a deadline of the call
    /// bounds every opening of it as a whole.
    ///
    /// # Panics
    /// When the method is no stream: a bug of the caller.
    #[must_use]
    pub fn stream<Q: Message, A: Message>(
        &self,
        method: &Method<Q, A>,
        call: Call,
        target: Target,
    ) -> Stream<Q, A> {
        assert!(method.kind() == MethodKind::Stream, "{method:?} is no stream");
        let (base, limit) = self.shared().config.reconnect_delay;
        Stream {
            client: self.clone(),
            views: self.views.clone(),
            method: *method,
            called: self.called(method),
            call,
            target,
            state: State::Waiting(Some(Instant::now())),
            backoff: Backoff::new(base, limit),
            was_open: false,
        }
    }
}

impl<Q, A> fmt::Debug for Stream<Q, A> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Stream").field("method", &self.method).finish_non_exhaustive()
    }
}

impl<Q: Message, A: Message> Stream<Q, A> {
    /// What happens next; none once the server has ended the stream without an error. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event<Q, A>> {
        loop {
            let event = match &mut self.state {
                State::Ended => return None,
                State::Waiting(until) => {
                    let until = *until;
                    self.depart_at(until).await
                }
                State::Opening(opening) => match opening.await {
                    Ok(talk) => {
                        self.state = State::Open(talk);
                        None
                    }
                    Err(error) => {
                        self.count(&error);
                        Some(self.lose(error))
                    }
                },
                State::Open(_) => self.listen().await,
            };
            if event.is_some() {
                return event;
            }
        }
    }

    /// Begins to open the stream, then or when the landscape changes.
    async fn depart_at(&mut self, until: Option<Instant>) -> Option<Event<Q, A>> {
        // Both are cancel-safe.
        tokio::select! {
            biased;
            () = wait(until) => {}
            changed = self.views.changed() => if changed.is_err() {
                return Some(self.stop(Delivery::NotSent));
            }
        }
        match self.depart() {
            Ok(opening) => {
                self.state = State::Opening(opening);
                None
            }
            Err(error) => {
                self.count(&error);
                // Only another landscape can help.
                self.state = State::Waiting(None);
                Some(Event::Lost(error))
            }
        }
    }

    /// What the server says; or nothing, and the stream is to be opened elsewhere.
    async fn listen(&mut self) -> Option<Event<Q, A>> {
        let State::Open(talk) = &mut self.state else { return None };
        if let Some(questions) = talk.questions.take() {
            let server = talk.seat.id.clone();
            if std::mem::replace(&mut self.was_open, true) {
                self.called.metrics.moves.increment();
            }
            return Some(Event::Opened { server, questions });
        }
        if self.views.has_changed().unwrap_or_default() {
            let view = Arc::clone(&self.views.borrow_and_update());
            let draws = &self.client.shared().draws;
            if !view.keeps(&talk.seat, self.call.tenant(), &self.target, draws) {
                self.state = State::Waiting(Some(Instant::now()));
                return None;
            }
        }
        // Both are cancel-safe. A change of the views is looked for above, too, because messages
        // may always be ready.
        tokio::select! {
            biased;
            message = talk.answers.next() => if let Some(message) = message {
                self.backoff.reset();
                return Some(Event::Message(message));
            },
            changed = self.views.changed() => {
                self.views.mark_changed();
                return changed.is_err().then(|| self.stop(Delivery::InDoubt));
            }
        }
        match (&mut talk.outcome).await {
            Ok(Ok(())) => {
                self.state = State::Ended;
                None
            }
            Ok(Err(error)) => Some(self.lose(error)),
            Err(_) => Some(self.lose(Error::in_doubt("the stream broke"))),
        }
    }

    fn stop(&mut self, delivery: Delivery) -> Event<Q, A> {
        self.state = State::Ended;
        Event::Lost(Error::Lost { delivery, why: "the node has stopped".into() })
    }

    /// An opening that failed is a call that failed.
    fn count(&self, error: &Error) {
        self.called.metrics.begin().end::<()>(&Err(error.clone()));
    }

    fn lose(&mut self, error: Error) -> Event<Q, A> {
        let delay = self.backoff.next(self.client.shared().draws.next());
        self.state = State::Waiting(Some(Instant::now() + delay));
        Event::Lost(error)
    }

    /// Chooses a server and begins to open the stream there.
    fn depart(&mut self) -> Result<Opening<Q, A>, Error> {
        let view = Arc::clone(&self.views.borrow_and_update());
        let client = self.client.clone();
        let seat = view.pick(self.call.tenant(), &self.target, &client.shared().draws);
        let seat = Arc::clone(seat.map_err(|nobody| nobody.error(self.method.service()))?);
        let (method, called, call) = (self.method, Arc::clone(&self.called), self.call.clone());
        Ok(Box::pin(async move {
            if matches!(seat.way, Way::Here(_)) {
                open_here(&client, &called, &method, call, seat)
            } else {
                open_there(&client, &called, call, seat).await
            }
        }))
    }
}

async fn wait(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn open_here<Q: Message, A: Message>(
    client: &Client,
    called: &Called,
    method: &Method<Q, A>,
    call: Call,
    seat: Arc<Seat>,
) -> Result<Talk<Q, A>, Error> {
    let Way::Here(hosted) = &seat.way else { return Err(Error::not_sent("it is elsewhere")) };
    let shared = client.shared();
    let conversation = hosted.service.typed::<Conversation<Q, A>>(method.name())?;
    let (questions, at_server) = local(shared.config.stream_window);
    let (at_handler, answers) = local(shared.config.stream_window);
    let call = call.from(shared.config.identity.host);
    let measured = hosted.metrics.get(method.name()).map(MethodMetrics::begin);
    let own = called.metrics.begin();
    let handler = conversation.converse(call, at_server, at_handler);
    let (tell, outcome) = oneshot::channel();
    let cancelled = CancellationToken::new();
    let cancel = cancelled.clone().drop_guard();
    shared.scope.spawn(async move {
        // Who loses is dropped for good: that is how a caller cancels.
        let result = tokio::select! {
            biased;
            () = cancelled.cancelled() => return,
            result = handler => result,
        };
        if let Some(measured) = measured {
            measured.end(&result);
        }
        own.end(&result);
        let _ = tell.send(result);
    });
    Ok(Talk { seat, questions: Some(questions), answers, outcome, _cancel: cancel })
}

async fn open_there<Q: Message, A: Message>(
    client: &Client,
    called: &Arc<Called>,
    call: Call,
    seat: Arc<Seat>,
) -> Result<Talk<Q, A>, Error> {
    let shared = client.shared();
    let limit = Instant::now() + shared.config.call_timeout;
    let limit = call.deadline().map_or(limit, |deadline| deadline.min(limit));
    let (mut reader, mut writer) = client.open(called, &seat, limit).await?;
    put_open(writer.buffer(), &seat.id, call.tenant(), head(&call));
    let (answers, questions, far) = over_network::<A, Q>(shared.config.stream_window);
    let own = called.metrics.begin();
    let (tell, outcome) = oneshot::channel();
    let cancelled = CancellationToken::new();
    let cancel = cancelled.clone().drop_guard();
    let config = Arc::clone(&shared.config);
    shared.scope.spawn(async move {
        let carrying = converse(End::Client, &mut reader, &mut writer, far, &config);
        let carried = async {
            match call.deadline() {
                Some(deadline) => tokio::time::timeout_at(deadline, carrying)
                    .await
                    .unwrap_or(Err(Error::Deadline(Delivery::InDoubt))),
                None => carrying.await,
            }
        };
        // Who loses is dropped for good, and with the writer the stream is reset.
        let result = tokio::select! {
            biased;
            () = cancelled.cancelled() => return,
            result = carried => result,
        };
        own.end(&result);
        let _ = tell.send(result);
    });
    Ok(Talk { seat, questions: Some(questions), answers, outcome, _cancel: cancel })
}
