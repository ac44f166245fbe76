//! A service as its process has it: a handler for each method, callable over the network and,
//! with the types that it was made of, within the process.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures_util::FutureExt;
use tokio::time::{Instant, timeout_at};
use tracing::error;

use crate::call::Call;
use crate::channel::{Receiver, Sender};
use crate::error::{Delivery, Error};
use crate::method::{Message, Method, MethodKind};
use crate::serve::{Inbound, serve_pipeline, serve_stream, serve_unary};

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The handlers of a service. What is generated of a `.proto` makes one of an implementation.
#[derive(Clone)]
pub struct Service {
    name: &'static str,
    entries: Arc<BTreeMap<&'static str, Entry>>,
}

#[derive(Clone)]
struct Entry {
    endpoint: Arc<dyn Endpoint>,
    /// The same by its own type.
    typed: Arc<dyn Any + Send + Sync>,
}

/// A method that can be called over the network.
pub(crate) trait Endpoint: Send + Sync {
    /// Serves one call, or one pipeline or stream, from its first message to its end.
    fn serve(self: Arc<Self>, inbound: Inbound) -> BoxFuture<()>;
}

/// The handler of a method that answers one question with one answer.
pub(crate) struct Responder<Q, A> {
    kind: MethodKind,
    respond: Box<Respond<Q, A>>,
}

type Respond<Q, A> = dyn Fn(Call, Q) -> BoxFuture<Result<A, Error>> + Send + Sync;

/// The handler of a method with messages both ways.
pub(crate) struct Conversation<Q, A> {
    converse: Box<Converse<Q, A>>,
}

type Converse<Q, A> =
    dyn Fn(Call, Receiver<Q>, Sender<A>) -> BoxFuture<Result<(), Error>> + Send + Sync;

impl Service {
    /// The service called `name`, without any method yet.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, entries: Arc::default() }
    }

    /// Its full name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Answers a method of one question and one answer, in a pipeline or each by itself.
    ///
    /// Of a pipeline, handlers begin in the order of the questions: what a handler does before it
    /// first waits is done in that order. Then up to [`crate::Config::pipeline_window`] of them
    /// go on beside each other, and their answers leave in the order of the questions. The handler
    /// is dropped where it waits when its caller gives up or the deadline passes: work that must
    /// be finished belongs into a task. An error that it returns is taken at its word: one that
    /// says that nothing was done, as [`Error::Busy`], is only for handlers that did nothing.
    ///
    /// # Panics
    /// When the method is of another service, is a stream, or has a handler: a bug of the caller.
    #[must_use]
    pub fn answer<Q, A, H, F>(self, method: &Method<Q, A>, handler: H) -> Self
    where
        Q: Message,
        A: Message,
        H: Fn(Call, Q) -> F + Send + Sync + 'static,
        F: Future<Output = Result<A, Error>> + Send + 'static,
    {
        assert!(method.kind() != MethodKind::Stream, "{method:?} is a stream");
        let respond = move |call: Call, question| -> BoxFuture<Result<A, Error>> {
            let deadline = call.deadline();
            Box::pin(guarded(deadline, handler(call, question)))
        };
        let responder = Responder { kind: method.kind(), respond: Box::new(respond) };
        self.with(method, Arc::new(responder))
    }

    /// Holds the conversations of a method with messages both ways. The conversation ends with
    /// the handler; a deadline of the call bounds it as a whole.
    ///
    /// # Panics
    /// When the method is of another service, is no stream, or has a handler: a bug of the caller.
    #[must_use]
    pub fn converse<Q, A, H, F>(self, method: &Method<Q, A>, handler: H) -> Self
    where
        Q: Message,
        A: Message,
        H: Fn(Call, Receiver<Q>, Sender<A>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        assert!(method.kind() == MethodKind::Stream, "{method:?} is no stream");
        let converse = move |call: Call, questions, answers| -> BoxFuture<Result<(), Error>> {
            let deadline = call.deadline();
            Box::pin(guarded(deadline, handler(call, questions, answers)))
        };
        self.with(method, Arc::new(Conversation { converse: Box::new(converse) }))
    }

    fn with<Q, A, E>(mut self, method: &Method<Q, A>, endpoint: Arc<E>) -> Self
    where
        E: Endpoint + Any,
    {
        assert_eq!(method.service(), self.name, "the method is of another service");
        let entry = Entry { endpoint: Arc::clone(&endpoint) as _, typed: endpoint };
        let replaced = Arc::make_mut(&mut self.entries).insert(method.name(), entry);
        assert!(replaced.is_none(), "{method:?} has two handlers");
        self
    }

    /// The names of its methods.
    pub(crate) fn methods(&self) -> impl Iterator<Item = &'static str> {
        self.entries.keys().copied()
    }

    /// The method of this name, for calls over the network.
    pub(crate) fn endpoint(&self, method: &str) -> Option<&Arc<dyn Endpoint>> {
        self.entries.get(method).map(|entry| &entry.endpoint)
    }

    /// The handler of a method by its type, for calls within the process.
    pub(crate) fn typed<E: Any + Send + Sync>(&self, method: &str) -> Result<Arc<E>, Error> {
        let entry = self.entries.get(method).ok_or_else(|| no_method(method))?;
        Arc::clone(&entry.typed)
            .downcast()
            .map_err(|_| Error::refused(format_args!("method {method} has other types")))
    }
}

/// What a caller is told of a method that is not there.
pub(crate) fn no_method(method: &str) -> Error {
    Error::refused(format_args!("there is no method {method:?}"))
}

impl fmt::Debug for Service {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Service")
            .field("name", &self.name)
            .field("methods", &self.entries.keys())
            .finish_non_exhaustive()
    }
}

impl<Q: Message, A: Message> Responder<Q, A> {
    /// Answers one question. A panic of the handler is an error, and the deadline is kept.
    pub(crate) fn respond(&self, call: Call, question: Q) -> BoxFuture<Result<A, Error>> {
        (self.respond)(call, question)
    }
}

impl<Q: Message, A: Message> Endpoint for Responder<Q, A> {
    fn serve(self: Arc<Self>, inbound: Inbound) -> BoxFuture<()> {
        match self.kind {
            MethodKind::Pipeline => Box::pin(serve_pipeline(self, inbound)),
            MethodKind::Unary | MethodKind::Stream => Box::pin(serve_unary(self, inbound)),
        }
    }
}

impl<Q: Message, A: Message> Conversation<Q, A> {
    /// Holds one conversation, as [`Responder::respond`] answers.
    pub(crate) fn converse(
        &self,
        call: Call,
        questions: Receiver<Q>,
        answers: Sender<A>,
    ) -> BoxFuture<Result<(), Error>> {
        (self.converse)(call, questions, answers)
    }
}

impl<Q: Message, A: Message> Endpoint for Conversation<Q, A> {
    fn serve(self: Arc<Self>, inbound: Inbound) -> BoxFuture<()> {
        Box::pin(serve_stream(self, inbound))
    }
}

/// A handler that keeps its deadline, and whose panic ends its own call only.
async fn guarded<T>(
    deadline: Option<Instant>,
    handler: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    // What the handler shared may be half changed: that is its matter, as with an error.
    let mut handler = pin!(AssertUnwindSafe(handler).catch_unwind());
    // Many handlers never wait, and need no timer.
    let outcome = match poll_fn(|context| Poll::Ready(handler.as_mut().poll(context))).await {
        Poll::Ready(outcome) => Ok(outcome),
        Poll::Pending => match deadline {
            Some(deadline) => timeout_at(deadline, handler).await,
            None => Ok(handler.await),
        },
    };
    outcome.map_err(|_| Error::Deadline(Delivery::InDoubt))?.unwrap_or_else(|panic| {
        let why = text(&*panic);
        error!(why, "a handler of a call panicked");
        Err(Error::Internal { why: "the handler panicked".into() })
    })
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text")
}
