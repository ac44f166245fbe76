//! Frames over a stream of HTTP/2.
//!
//! A reader takes from the connection only what it is asked for, and opens the window again as it
//! takes it: whoever does not read stops the sender. A writer keeps what the window has no room
//! for; its owner looks at [`FrameWriter::len`] and adds nothing beyond [`WRITE_BYTES_MAX`]. All
//! waiting here is cancel-safe: what was read or written so far is in the reader or writer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::Error;
use crate::metrics::MethodMetrics;
use crate::protocol::{Assembler, Frame, Malformed};

/// From here on a writer takes no more; one message may go beyond.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Why a stream ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The peer broke the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The stream was reset, or its connection is gone.
    #[error(transparent)]
    Http(#[from] h2::Error),
    /// It ended within a frame, or before what must come.
    #[error("the stream ended too soon")]
    Truncated,
}

impl Broken {
    /// What it means for a call that had left.
    pub(crate) fn error(&self) -> Error {
        match self {
            // The server says so of what it did not look at.
            Self::Http(error) if error.reason() == Some(Reason::REFUSED_STREAM) => {
                Error::not_sent(self)
            }
            _ => Error::in_doubt(self),
        }
    }
}

/// Reads frames of one direction of a stream.
pub(crate) struct FrameReader {
    source: Source,
    assembler: Assembler,
    is_unhandled: bool,
    metrics: Option<Arc<MethodMetrics>>,
    /// Of the caller's link: the place of this call among those at a time.
    _permit: Option<OwnedSemaphorePermit>,
}

enum Source {
    /// The headers of the answer are still to come.
    Response(ResponseFuture),
    Body(RecvStream),
}

impl FrameReader {
    /// Reads what a client sends. Frames longer than `frame_max` are refused.
    pub(crate) fn of_request(body: RecvStream, frame_max: usize) -> Self {
        Self {
            source: Source::Body(body),
            assembler: Assembler::new(frame_max),
            is_unhandled: false,
            metrics: None,
            _permit: None,
        }
    }

    /// Reads what a server answers.
    pub(crate) fn of_response(
        response: ResponseFuture,
        permit: OwnedSemaphorePermit,
        frame_max: usize,
        metrics: &Arc<MethodMetrics>,
    ) -> Self {
        Self {
            source: Source::Response(response),
            assembler: Assembler::new(frame_max),
            is_unhandled: false,
            metrics: Some(Arc::clone(metrics)),
            _permit: Some(permit),
        }
    }

    /// Of an answer: whether the call as a whole reached no handler, so that nothing of it was
    /// done. Known with the first frame.
    pub(crate) const fn is_unhandled(&self) -> bool {
        self.is_unhandled
    }

    /// Counts bytes from now on.
    pub(crate) fn count(&mut self, metrics: &Arc<MethodMetrics>) {
        self.metrics = Some(Arc::clone(metrics));
    }

    /// The next frame; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, Broken> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`FrameReader::next`].
    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame>, Broken>> {
        loop {
            if let Some(frame) = self.assembler.next()? {
                return Poll::Ready(Ok(Some(frame)));
            }
            let body = match &mut self.source {
                Source::Body(body) => body,
                Source::Response(response) => {
                    let response = ready!(Pin::new(response).poll(context))?;
                    self.is_unhandled = response.status() != StatusCode::OK;
                    self.source = Source::Body(response.into_body());
                    continue;
                }
            };
            let Some(piece) = ready!(body.poll_data(context)) else {
                let is_whole = self.assembler.is_between();
                return Poll::Ready(if is_whole { Ok(None) } else { Err(Broken::Truncated) });
            };
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            if let Some(metrics) = &self.metrics {
                metrics.bytes_in.add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            }
            self.assembler.push(piece);
        }
    }
}

/// Writes frames of one direction of a stream. Dropped before it is finished, it resets the
/// stream, which cancels the call at the other side.
pub(crate) struct FrameWriter {
    body: SendStream<Bytes>,
    buffer: BytesMut,
    metrics: Arc<MethodMetrics>,
}

impl FrameWriter {
    pub(crate) fn new(body: SendStream<Bytes>, metrics: &Arc<MethodMetrics>) -> Self {
        Self { body, buffer: BytesMut::new(), metrics: Arc::clone(metrics) }
    }

    /// What is still to be handed to the connection, for more to be appended.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes that are still to be handed to the connection.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether more may be appended.
    pub(crate) fn has_room(&self) -> bool {
        self.buffer.len() < WRITE_BYTES_MAX
    }

    /// Hands over what there is, as the window opens, and then ends this direction.
    pub(crate) async fn finish(mut self) -> Result<(), Broken> {
        poll_fn(|context| self.poll_write(context, true)).await
    }

    /// Hands over what there is, as the window opens. With nothing to hand over it waits until
    /// the other side resets the stream.
    pub(crate) async fn progress(&mut self) -> Result<(), Broken> {
        poll_fn(|context| self.poll_progress(context)).await
    }

    /// As [`FrameWriter::progress`].
    pub(crate) fn poll_progress(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if let Poll::Ready(reset) = self.body.poll_reset(context) {
            return Poll::Ready(Err(Broken::Http(reset.map_or_else(|error| error, Into::into))));
        }
        if self.buffer.is_empty() { Poll::Pending } else { self.poll_write(context, false) }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, is_last: bool) -> Poll<Result<(), Broken>> {
        while !self.buffer.is_empty() {
            self.body.reserve_capacity(self.buffer.len());
            let mut room = self.body.capacity();
            if room == 0 {
                room = ready!(self.body.poll_capacity(context)).ok_or(Broken::Truncated)??;
            }
            let count = room.min(self.buffer.len());
            let is_end = is_last && count == self.buffer.len();
            self.body.send_data(self.buffer.split_to(count).freeze(), is_end)?;
            self.metrics.bytes_out.add(u64::try_from(count).unwrap_or(u64::MAX));
            if is_end {
                return Poll::Ready(Ok(()));
            }
        }
        if is_last {
            self.body.send_data(Bytes::new(), true)?;
        }
        Poll::Ready(Ok(()))
    }
}
