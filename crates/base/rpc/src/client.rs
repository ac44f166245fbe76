//! The caller's side: single calls here, pipelines and streams in their own files.

mod pipeline;
mod stream;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use http::Uri;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::balance::Target;
use crate::call::Call;
use crate::error::{Delivery, Error};
use crate::identity::Tenant;
use crate::method::{Message, Method, MethodKind};
use crate::metrics::{MethodMetrics, Side};
use crate::node::{Hosted, Node, Shared};
use crate::protocol::{Frame, Head, Kind, decode_error, put_message, put_open};
use crate::service::Responder;
use crate::transport::{FrameReader, FrameWriter, Opened};
use crate::view::{Seat, View, Way, link};

pub use pipeline::{Answer, Pipeline, PipelineLimits};
pub use stream::{Event, Stream};

/// Servers that a single call is tried at, as long as nothing of it has left.
const ATTEMPTS: usize = 3;

/// The way to the servers of one service. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    node: Node,
    views: watch::Receiver<Arc<View>>,
    methods: Arc<RwLock<BTreeMap<&'static str, Arc<Called>>>>,
}

/// A method that was called before.
#[derive(Debug)]
struct Called {
    uri: Uri,
    metrics: Arc<MethodMetrics>,
}

impl Client {
    pub(crate) fn new(node: Node, views: watch::Receiver<Arc<View>>) -> Self {
        Self { node, views, methods: Arc::default() }
    }

    /// Calls a method with one question and one answer. A call without a deadline of its own has
    /// that of [`crate::Config::call_timeout`]. Dropping the future gives the call up, at the
    /// server too.
    ///
    /// With [`Target::Random`] and [`Target::RoundRobin`] a call that could not leave for one
    /// server is tried at up to two others; what may have arrived is never sent again.
    ///
    /// # Errors
    /// As [`Error`] says; [`Error::is_in_doubt`] tells whether it may have been carried out.
    ///
    /// # Panics
    /// When the method is not unary: a bug of the caller.
    pub async fn call<Q: Message, A: Message>(
        &self,
        method: &Method<Q, A>,
        call: Call,
        target: &Target,
        question: Q,
    ) -> Result<A, Error> {
        assert!(method.kind() == MethodKind::Unary, "{method:?} is not unary");
        let called = self.called(method);
        let measured = called.metrics.begin();
        let deadline = self.deadline(&call);
        let mut progress = Delivery::NotSent;
        let attempts =
            self.attempts(&called, method, call.until(deadline), target, question, &mut progress);
        let result = timeout_at(deadline, attempts).await;
        let result = result.unwrap_or(Err(Error::Deadline(progress)));
        measured.end(&result);
        result
    }

    fn deadline(&self, call: &Call) -> Instant {
        call.deadline().unwrap_or_else(|| Instant::now() + self.shared().config.call_timeout)
    }

    async fn attempts<Q: Message, A: Message>(
        &self,
        called: &Called,
        method: &Method<Q, A>,
        call: Call,
        target: &Target,
        question: Q,
        progress: &mut Delivery,
    ) -> Result<A, Error> {
        let is_free = matches!(target, Target::Random | Target::RoundRobin);
        let mut attempt = 1;
        loop {
            let seat = self.pick(method.service(), call.tenant(), target)?;
            let result = match &seat.way {
                Way::Here(hosted) => {
                    *progress = Delivery::InDoubt;
                    return self.call_here(hosted, method, call, question).await;
                }
                Way::There(..) => self.call_there(called, &seat, &call, &question, progress).await,
                Way::Nowhere => Err(Error::not_sent("its process does not listen")),
            };
            let is_elsewhere = matches!(&result, Err(Error::Lost { .. } | Error::NoServer { .. }));
            let may_go_on = is_free && is_elsewhere && *progress == Delivery::NotSent;
            if !may_go_on || attempt == ATTEMPTS {
                return result;
            }
            attempt += 1;
        }
    }

    async fn call_here<Q: Message, A: Message>(
        &self,
        hosted: &Hosted,
        method: &Method<Q, A>,
        call: Call,
        question: Q,
    ) -> Result<A, Error> {
        let responder = hosted.service.typed::<Responder<Q, A>>(method.name())?;
        let measured = hosted.metrics.get(method.name()).map(MethodMetrics::begin);
        let call = call.from(self.shared().config.identity.host);
        let result = match hosted.admit() {
            Ok(_permit) => responder.respond(call, question).await,
            Err(error) => Err(error),
        };
        if let Some(measured) = measured {
            measured.end(&result);
        }
        result
    }

    async fn call_there<Q: Message, A: Message>(
        &self,
        called: &Called,
        seat: &Seat,
        call: &Call,
        question: &Q,
        progress: &mut Delivery,
    ) -> Result<A, Error> {
        let config = &self.shared().config;
        let deadline = self.deadline(call);
        // Encoded before anything is opened: a message beyond the limit reaches nobody.
        let mut message = BytesMut::new();
        put_message(&mut message, question, config.message_bytes_max).map_err(Error::refused)?;
        let (mut reader, mut writer) = self.open(called, seat, deadline).await?;
        *progress = Delivery::InDoubt;
        put_open(writer.buffer(), &seat.id, call.tenant(), head(call));
        writer.buffer().unsplit(message);
        // A server that refuses early answers before it has read everything: then what is left
        // to be sent fails, and the answer says why.
        let _ = writer.finish().await;
        let result = match reader.next().await {
            Ok(Some(frame)) => answer(frame),
            Ok(None) => Err(Error::in_doubt("the server ended without an answer")),
            Err(broken) => Err(broken.error()),
        };
        // What a handler says of calls of its own is not about this one.
        let is_untouched = matches!(result, Err(Error::Lost { delivery: Delivery::NotSent, .. }));
        if is_untouched || reader.is_unhandled() {
            *progress = Delivery::NotSent;
        }
        result
    }

    async fn open(
        &self,
        called: &Called,
        seat: &Seat,
        deadline: Instant,
    ) -> Result<(FrameReader, FrameWriter), Error> {
        let Way::There(links, turn) = &seat.way else {
            return Err(Error::not_sent("its process does not listen"));
        };
        let link = link(links, turn).ok_or_else(|| Error::not_sent("there is no link"))?;
        let Opened { response, stream, permit } = link.open(&called.uri, deadline).await?;
        let frame_max = self.shared().config.frame_bytes_max();
        let reader = FrameReader::of_response(response, permit, frame_max, &called.metrics);
        Ok((reader, FrameWriter::new(stream, &called.metrics)))
    }

    fn pick(&self, service: &str, tenant: &Tenant, target: &Target) -> Result<Arc<Seat>, Error> {
        let view = self.views.borrow();
        let seat = view.pick(tenant, target, &self.shared().draws);
        seat.cloned().map_err(|nobody| nobody.error(service))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.node.shared
    }

    fn called<Q, A>(&self, method: &Method<Q, A>) -> Arc<Called> {
        if let Some(called) = self.methods.read().get(method.name()) {
            return Arc::clone(called);
        }
        let uri = format!("http://rpc/{}/{}", method.service(), method.name());
        let metrics = self.shared().metrics.method(method.service(), method.name(), Side::Client);
        let uri = uri.parse().expect("the names of a .proto make a path");
        let called = Arc::new(Called { uri, metrics });
        self.methods.write().insert(method.name(), Arc::clone(&called));
        called
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("view", &*self.views.borrow()).finish_non_exhaustive()
    }
}

/// What travels with a call that begins now.
fn head(call: &Call) -> Head {
    let now = Instant::now();
    let remaining_ms = call.deadline().map(|deadline| remaining_ms(deadline, now));
    Head { remaining_ms, trace: call.trace() }
}

/// The time that is left, rounded up: who has a moment left has at least a millisecond.
fn remaining_ms(deadline: Instant, now: Instant) -> u32 {
    let left = deadline.saturating_duration_since(now);
    u32::try_from(left.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX)
}

/// A frame that answers.
fn answer<A: Message>(frame: Frame) -> Result<A, Error> {
    match frame.kind {
        Kind::Message => frame.message().map_err(Error::in_doubt),
        Kind::Error => Err(decode_error(&frame.body).unwrap_or_else(Error::in_doubt)),
        _ => Err(Error::in_doubt("a frame out of its place")),
    }
}
