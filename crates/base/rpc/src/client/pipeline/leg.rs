//! The way of a pipeline to one server: a stream, or the handlers themselves in this process.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::Instant;

use crate::call::{Call, Trace};
use crate::client::{Called, Client, answer, head, remaining_ms};
use crate::error::Error;
use crate::method::{Message, Method};
use crate::metrics::{Measured, MethodMetrics};
use crate::protocol::{Frame, Head, put_item, put_open};
use crate::serve::Ordered;
use crate::service::{BoxFuture, Responder};
use crate::transport::{Broken, FrameReader, FrameWriter};
use crate::view::{Seat, Way};

/// The way to one server. Dropped, it gives up what is under way there.
pub(super) enum Leg<Q, A> {
    /// Over the network.
    There { reader: FrameReader, writer: FrameWriter, message_max: usize },
    /// In this process.
    Here {
        responder: Arc<Responder<Q, A>>,
        call: Call,
        metrics: Option<Arc<MethodMetrics>>,
        handlers: Ordered<A>,
    },
}

impl<Q: Message, A: Message> Leg<Q, A> {
    /// Opens the way. Nothing has left when that fails.
    pub(super) async fn open(
        client: &Client,
        called: &Arc<Called>,
        method: &Method<Q, A>,
        call: &Call,
        seat: &Seat,
        limit: Instant,
    ) -> Result<Self, Error> {
        let config = &client.shared().config;
        if let Way::Here(hosted) = &seat.way {
            return Ok(Self::Here {
                responder: hosted.service.typed(method.name())?,
                call: call.clone().from(config.identity.host),
                metrics: hosted.metrics.get(method.name()).cloned(),
                handlers: Ordered::new(),
            });
        }
        let (reader, mut writer) = client.open(called, seat, limit).await?;
        put_open(writer.buffer(), &seat.id, call.tenant(), head(call));
        Ok(Self::There { reader, writer, message_max: config.message_bytes_max })
    }

    /// Whether another question may be sent.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Self::There { writer, .. } => writer.has_room(),
            Self::Here { .. } => true,
        }
    }

    /// Sends a question, `now`, behind those before it; or says why this one cannot be sent.
    pub(super) fn send(
        &mut self,
        question: Q,
        deadline: Instant,
        trace: Option<Trace>,
        now: Instant,
    ) -> Result<(), Error> {
        match self {
            Self::There { writer, message_max, .. } => {
                let head = Head { remaining_ms: Some(remaining_ms(deadline, now)), trace };
                put_item(writer.buffer(), head, &question, *message_max).map_err(Error::refused)
            }
            Self::Here { responder, call, metrics, handlers } => {
                let call = trace.into_iter().fold(call.clone().until(deadline), Call::traced);
                let measured = metrics.as_ref().map(|metrics| metrics.begin_at(now));
                handlers.push(counted(measured, responder.respond(call, question)));
                Ok(())
            }
        }
    }

    /// The next answer; meanwhile what was sent is handed to the connection. An error means that
    /// the way is broken, and what was sent and not answered is in doubt. Cancel-safe.
    pub(super) async fn work(&mut self) -> Result<Result<A, Error>, Error> {
        let (reader, writer) = match self {
            Self::Here { handlers, .. } => return Ok(handlers.next().await),
            Self::There { reader, writer, .. } => (reader, writer),
        };
        poll_fn(|context| {
            if let Poll::Ready(frame) = reader.poll_next(context) {
                return Poll::Ready(answer_of(reader, frame));
            }
            while writer.len() > 0 {
                match writer.poll_progress(context) {
                    Poll::Ready(Ok(())) => {}
                    // What was answered before the stream was reset is read first, above.
                    Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken.error())),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await
    }
}

fn answer_of<A: Message>(
    reader: &FrameReader,
    frame: Result<Option<Frame>, Broken>,
) -> Result<Result<A, Error>, Error> {
    let frame = frame.map_err(|broken| broken.error())?;
    let frame = frame.ok_or_else(|| Error::in_doubt("the server ended the pipeline"))?;
    let answer = answer(frame);
    match answer {
        // It speaks for all that was sent: the pipeline reached no handler.
        Err(error) if reader.is_unhandled() => Err(error),
        answer => Ok(answer),
    }
}

fn counted<A: Send + 'static>(
    measured: Option<Measured>,
    handler: BoxFuture<Result<A, Error>>,
) -> BoxFuture<Result<A, Error>> {
    Box::pin(async move {
        let result = handler.await;
        if let Some(measured) = measured {
            measured.end(&result);
        }
        result
    })
}
