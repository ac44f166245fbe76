//! The server's side of calls: from a stream of HTTP/2 to the handler, and back.
//!
//! A call whose caller gave it up is dropped where it waits, and so is its handler.

mod ordered;
mod pipeline;
mod stream;
mod unary;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response, StatusCode};
use tokio::time::{Instant, timeout};

use crate::call::Call;
use crate::config::Config;
use crate::error::Error;
use crate::identity::HostId;
use crate::metrics::MethodMetrics;
use crate::node::{Hosted, Shared};
use crate::protocol::{Head, Kind, Open, put_error};
use crate::service::no_method;
use crate::transport::{FrameReader, FrameWriter};

pub(crate) use ordered::Ordered;
pub(crate) use pipeline::serve_pipeline;
pub(crate) use stream::serve_stream;
pub(crate) use unary::serve_unary;

/// A stream as it came in.
pub(crate) struct Arrival {
    pub(crate) request: Request<RecvStream>,
    pub(crate) answer: SendResponse<Bytes>,
    /// Who called.
    pub(crate) host: HostId,
}

/// A call whose first frame is read and whose server and method are found.
pub(crate) struct Inbound {
    call: Call,
    reader: FrameReader,
    answer: SendResponse<Bytes>,
    hosted: Arc<Hosted>,
    metrics: Arc<MethodMetrics>,
    config: Arc<Config>,
}

/// Serves one stream to its end.
pub(crate) async fn serve(shared: Arc<Shared>, arrival: Arrival) {
    let Arrival { request, answer, host } = arrival;
    let (head, body) = request.into_parts();
    let mut reader = FrameReader::of_request(body, shared.config.frame_bytes_max());
    let strangers = &shared.strangers;
    let open = match first_frame(&mut reader, shared.config.handshake_timeout).await {
        Ok(open) => open,
        Err(error) => return refuse(answer, strangers, &shared.config, &error).await,
    };
    let path = head.uri.path();
    let names = path.strip_prefix('/').and_then(|path| path.rsplit_once('/'));
    let (service, method) = names.unwrap_or_default();
    let Some(hosted) = shared.hosted(service, open.server.as_str()) else {
        let error = Error::NoServer { service: service.to_owned() };
        return refuse(answer, strangers, &shared.config, &error).await;
    };
    let (Some(endpoint), Some(metrics)) =
        (hosted.service.endpoint(method), hosted.metrics.get(method))
    else {
        return refuse(answer, strangers, &shared.config, &no_method(method)).await;
    };
    reader.count(metrics);
    let (endpoint, metrics) = (Arc::clone(endpoint), Arc::clone(metrics));
    let call = with_head(Call::new(open.tenant).from(host), open.head, Instant::now());
    let config = Arc::clone(&shared.config);
    drop(shared);
    endpoint.serve(Inbound { call, reader, answer, hosted, metrics, config }).await;
}

async fn first_frame(reader: &mut FrameReader, limit: Duration) -> Result<Open, Error> {
    let frame = timeout(limit, reader.next()).await.map_err(|_| slow())?;
    let frame = frame.map_err(Error::refused)?;
    let frame = frame.filter(|frame| frame.kind == Kind::Open);
    let frame = frame.ok_or_else(|| Error::refused("a call begins with its opening"))?;
    Open::decode(&frame.body).map_err(Error::refused)
}

fn slow() -> Error {
    Error::refused("it did not come in time")
}

/// The call that a head makes of another: times count from `now` on.
fn with_head(call: Call, head: Head, now: Instant) -> Call {
    let call = match head.trace {
        Some(trace) => call.traced(trace),
        None => call,
    };
    match head.remaining_ms {
        Some(remaining_ms) => call.until(now + Duration::from_millis(u64::from(remaining_ms))),
        None => call,
    }
}

/// Answers a call that reaches no handler.
async fn refuse(
    answer: SendResponse<Bytes>,
    metrics: &Arc<MethodMetrics>,
    config: &Config,
    error: &Error,
) {
    metrics.begin().end::<()>(&Err(error.clone()));
    if let Some(mut writer) = begin_with(StatusCode::NOT_FOUND, answer, metrics) {
        put_error(writer.buffer(), error);
        finish(writer, config).await;
    }
}

/// Sends the headers of a handler's answer; none if the stream is gone.
fn begin_answer(answer: SendResponse<Bytes>, metrics: &Arc<MethodMetrics>) -> Option<FrameWriter> {
    begin_with(StatusCode::OK, answer, metrics)
}

fn begin_with(
    status: StatusCode,
    mut answer: SendResponse<Bytes>,
    metrics: &Arc<MethodMetrics>,
) -> Option<FrameWriter> {
    let mut head = Response::new(());
    *head.status_mut() = status;
    let stream = answer.send_response(head, false).ok()?;
    Some(FrameWriter::new(stream, metrics))
}

/// Sends what is left of the answer. A peer that does not take it in time loses it.
async fn finish(writer: FrameWriter, config: &Config) {
    // Dropped before its end, the stream is reset; nobody is left to be told.
    let _ = timeout(config.transfer_timeout, writer.finish()).await;
}
