//! Messages both ways, until the handler ends.

use std::sync::Arc;

use crate::channel::{End, converse, over_network};
use crate::error::Error;
use crate::method::Message;
use crate::protocol::put_error;
use crate::serve::{Inbound, begin_answer, finish};
use crate::service::Conversation;

/// Serves one stream.
pub(crate) async fn serve_stream<Q: Message, A: Message>(
    conversation: Arc<Conversation<Q, A>>,
    inbound: Inbound,
) {
    let Inbound { call, mut reader, answer, hosted: _hosted, metrics, config } = inbound;
    let measured = metrics.begin();
    let Some(mut writer) = begin_answer(answer, &metrics) else { return };
    let (questions, answers, far) = over_network::<Q, A>(config.stream_window);
    let mut result = None;
    let carried = {
        let handler = conversation.converse(call, questions, answers);
        let carrying = converse(End::Server, &mut reader, &mut writer, far, &config);
        tokio::pin!(handler, carrying);
        loop {
            // The handler's end closes its ends of the stream, and so ends the carrying, once
            // what it sent is written. An end of the carrying before that drops the handler.
            tokio::select! {
                ended = &mut handler, if result.is_none() => result = Some(ended),
                carried = &mut carrying => break carried,
            }
        }
    };
    let result: Result<(), Error> = match (carried, result) {
        (Ok(()), Some(result)) => result,
        (Err(error), _) => Err(error),
        // It has let go of both ends and goes on by itself, which nobody is there to wait for.
        (Ok(()), None) => Ok(()),
    };
    if let Err(error) = &result {
        put_error(writer.buffer(), error);
    }
    finish(writer, &config).await;
    measured.end(&result);
}
