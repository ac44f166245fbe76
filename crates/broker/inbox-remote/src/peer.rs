//! The stream to the inbox of one host.

use std::sync::Arc;
use std::time::Duration;

use ratatosk_rpc::{Call, Event, Sender, ServerId, Stream, Target, Tenant};
use tokio::time::sleep;

use crate::cluster_inbox::Shared;
use crate::lane::Lane;
use crate::proto::Frame;
use crate::tell;
use ratatosk_rpc::frames::{Joiner, cut};

/// Time before a stream is opened again that was given up for what was said in it.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps a stream to a host.
pub(crate) async fn carry(shared: Arc<Shared>, server: ServerId, lane: Arc<Lane>) {
    loop {
        let (call, target) = (Call::new(Tenant::none()), Target::Server(server.clone()));
        let stream = shared.client.serve(call, target);
        if let Some(why) = converse(&shared, stream, &lane).await {
            shared.metrics.broken.increment();
            tracing::warn!(%server, why, "the inbox of a host is asked by another stream");
        }
        shared.lose(&lane);
        sleep(PAUSE).await;
    }
}

/// Says what waits, and hears what is told, until the host ends it, or says what makes no sense: then why.
async fn converse(
    shared: &Arc<Shared>,
    mut stream: Stream<Frame, Frame>,
    lane: &Arc<Lane>,
) -> Option<&'static str> {
    let mut speech = None;
    let mut joiner = Joiner::new(shared.config.whole_bytes_max);
    loop {
        let speaking = async {
            match &mut speech {
                Some(speech) => std::pin::Pin::as_mut(speech).await,
                None => std::future::pending().await,
            }
        };
        // Both are cancel-safe: a speech goes on where it was.
        let event = tokio::select! {
            biased;
            event = stream.next() => event?,
            () = speaking => {
                speech = None;
                continue;
            }
        };
        match event {
            Event::Opened { questions, .. } => {
                // It may have moved without being lost.
                shared.lose(lane);
                joiner = Joiner::new(shared.config.whole_bytes_max);
                lane.open();
                shared.place_all();
                speech = Some(Box::pin(speak(lane, questions)));
            }
            Event::Message(frame) => {
                let Ok(joined) = joiner.take(frame.into()) else { return Some("long") };
                let Some(data) = joined else { continue };
                let Ok(words) = tell::take_all(&data, shared.clock.now()) else {
                    return Some("malformed");
                };
                for word in words {
                    shared.hear(lane, word);
                    tokio::task::coop::consume_budget().await;
                }
            }
            Event::Lost(error) => {
                tracing::debug!(%error, "the inbox of a host is not reached");
                speech = None;
                shared.lose(lane);
            }
        }
        tokio::task::coop::consume_budget().await;
    }
}

/// Says what waits, until the other side is gone.
async fn speak(lane: &Lane, questions: Sender<Frame>) {
    loop {
        let batch = lane.outbox.next().await;
        for part in cut(batch) {
            if questions.send(part.into()).await.is_err() {
                return;
            }
        }
    }
}
