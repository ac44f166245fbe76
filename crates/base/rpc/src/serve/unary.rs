//! One question, one answer.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::time::timeout;

use crate::error::Error;
use crate::method::Message;
use crate::protocol::{Kind, put_error, put_message};
use crate::serve::{Inbound, begin_answer, finish, slow};
use crate::service::Responder;
use crate::transport::FrameReader;

/// Serves one call.
pub(crate) async fn serve_unary<Q: Message, A: Message>(
    responder: Arc<Responder<Q, A>>,
    inbound: Inbound,
) {
    let Inbound { call, mut reader, mut answer, hosted, metrics, config } = inbound;
    let measured = metrics.begin();
    let work = async {
        let question = timeout(config.transfer_timeout, question(&mut reader)).await;
        let question = question.map_err(|_| slow())??;
        let _permit = hosted.admit()?;
        responder.respond(call, question).await
    };
    // Who loses is dropped for good: that is how a caller cancels.
    let result = tokio::select! {
        biased;
        result = work => result,
        _ = poll_fn(|context| answer.poll_reset(context)) => return,
    };
    let Some(mut writer) = begin_answer(answer, &metrics) else { return };
    let result = result.and_then(|message| {
        let put = put_message(writer.buffer(), &message, config.message_bytes_max);
        put.map_err(|error| Error::Internal { why: format!("the answer cannot be sent: {error}") })
    });
    if let Err(error) = &result {
        put_error(writer.buffer(), error);
    }
    finish(writer, &config).await;
    measured.end(&result);
}

async fn question<Q: Message>(reader: &mut FrameReader) -> Result<Q, Error> {
    let frame = reader.next().await.map_err(Error::refused)?;
    let frame = frame.filter(|frame| frame.kind == Kind::Message);
    let frame = frame.ok_or_else(|| Error::refused("a call has a message"))?;
    frame.message().map_err(Error::refused)
}
