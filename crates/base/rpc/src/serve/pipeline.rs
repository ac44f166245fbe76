//! Questions one behind the other, answers in their order.
//!
//! What is under way is bounded by the window: while that is full, or the peer does not take its
//! answers, no more questions are read, and HTTP/2 stops the peer. A peer that breaks the protocol
//! has its stream reset: an answer in words would be taken for that of another question.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::call::Call;
use crate::error::Error;
use crate::method::Message;
use crate::metrics::Measured;
use crate::protocol::{Frame, Kind, decode_item, put_error, put_message};
use crate::serve::{Inbound, Ordered, begin_answer, finish, with_head};
use crate::service::Responder;
use crate::transport::Broken;

/// Serves one pipeline.
pub(crate) async fn serve_pipeline<Q: Message, A: Message>(
    responder: Arc<Responder<Q, A>>,
    inbound: Inbound,
) {
    let Inbound { call, mut reader, answer, hosted: _hosted, metrics, config } = inbound;
    let Some(mut writer) = begin_answer(answer, &metrics) else { return };
    let mut handlers: Ordered<A> = Ordered::new();
    let mut measured: VecDeque<Measured> = VecDeque::new();
    let (mut is_open, window) = (true, config.pipeline_window.max(1));
    while is_open || !handlers.is_empty() {
        let may_read = is_open && handlers.len() < window && writer.has_room();
        let may_answer = !handlers.is_empty() && writer.has_room();
        // All three are cancel-safe. What is there is read and answered before anything is
        // written, so that one write carries many answers.
        tokio::select! {
            biased;
            frame = reader.next(), if may_read => match frame {
                Ok(None) => is_open = false,
                Ok(Some(frame)) => {
                    let now = Instant::now();
                    match question(&call, frame, now) {
                        Ok((call, question)) => {
                            measured.push_back(metrics.begin_at(now));
                            handlers.push(responder.respond(call, question));
                        }
                        Err(error) => return metrics.begin().end::<()>(&Err(error)),
                    }
                }
                Err(Broken::Http(_)) => return,
                Err(broken) => return metrics.begin().end::<()>(&Err(Error::refused(broken))),
            },
            result = handlers.next(), if may_answer => {
                let result = result.and_then(|message| {
                    let put = put_message(writer.buffer(), &message, config.message_bytes_max);
                    put.map_err(|error| Error::Internal { why: error.to_string() })
                });
                if let Err(error) = &result {
                    put_error(writer.buffer(), error);
                }
                if let Some(measured) = measured.pop_front() {
                    measured.end(&result);
                }
            },
            progress = writer.progress() => if progress.is_err() {
                return;
            },
        }
        tokio::task::coop::consume_budget().await;
    }
    finish(writer, &config).await;
}

fn question<Q: Message>(call: &Call, frame: Frame, now: Instant) -> Result<(Call, Q), Error> {
    if frame.kind != Kind::Item {
        return Err(Error::refused("a pipeline has items only"));
    }
    let (head, question) = decode_item(frame.body).map_err(Error::refused)?;
    Ok((with_head(call.clone(), head, now), question))
}
