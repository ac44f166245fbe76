//! One other host: what it wants, as it is known here, and the way of messages to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_contract::HostNumber;
use ratatosk_engine::wire;
use ratatosk_rpc::{Call, Event, Sender, ServerId, Stream, Target, Tenant};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::host_relay::Shared;
use crate::image::{Image, Refused, Work};
use crate::lane::{Lane, Reports};
use crate::pause::Pause;
use crate::proto::Frame;
use ratatosk_rpc::frames::cut;

/// Time before a stream is opened again that was given up for what was said in it.
const PAUSE: Duration = Duration::from_secs(1);
/// A message is late by so much at most before it is said to be.
const LATE_LOOK: Duration = Duration::from_millis(20);

/// Another host. Its tasks end with it.
pub(crate) struct Peer {
    pub(crate) lane: Arc<Lane>,
    /// None once the host is gone.
    image: Arc<Mutex<Option<Image>>>,
    _end: DropGuard,
}

impl Peer {
    /// Begins to speak with a host.
    pub(crate) fn start(shared: &Arc<Shared>, number: HostNumber, server: &ServerId) -> Self {
        let end = CancellationToken::new();
        let image = Image::new(number, Arc::clone(&shared.dist));
        let image = Arc::new(Mutex::new(Some(image)));
        let lane = Arc::new(Lane::new(number, shared.config.bounds()));
        shared.spawn_until(
            end.clone(),
            follow(Arc::clone(shared), server.clone(), Arc::clone(&image)),
        );
        shared
            .spawn_until(end.clone(), carry(Arc::clone(shared), server.clone(), Arc::clone(&lane)));
        shared.spawn_until(end.clone(), watch(Arc::clone(shared), Arc::clone(&lane)));
        Self { lane, image, _end: end.drop_guard() }
    }

    /// The host is gone: its routes are, and what waits for it is answered. DIST-014
    pub(crate) async fn end(self, shared: &Shared) {
        self.close(shared);
        let image = self.image.lock().take();
        let Some(mut image) = image else { return };
        image.clear();
        while image.work() == Work::More {
            tokio::task::yield_now().await;
        }
    }

    /// Nothing goes to the host any more.
    pub(crate) fn close(&self, shared: &Shared) {
        let mut reports = Reports::new();
        self.lane.close(&mut reports);
        shared.report(&mut reports);
    }
}

/// Keeps a stream of what the host wants.
async fn follow(shared: Arc<Shared>, server: ServerId, image: Arc<Mutex<Option<Image>>>) {
    loop {
        let (call, target) = (Call::new(Tenant::none()), Target::Server(server.clone()));
        let stream = shared.client.follow(call, target);
        if let Some(why) = hear(stream, &image).await {
            shared.metrics.refuse(why);
            tracing::warn!(%server, why, "what a host wants is asked for again");
        }
        sleep(PAUSE).await;
    }
}

/// Hears what a host wants, until it ends, or says what makes no sense: then why.
async fn hear(
    mut stream: Stream<Frame, Frame>,
    image: &Mutex<Option<Image>>,
) -> Option<&'static str> {
    let mut acks: Option<Sender<Frame>> = None;
    loop {
        match stream.next().await? {
            Event::Opened { questions, .. } => {
                image.lock().as_mut()?.restart();
                acks = Some(questions);
            }
            Event::Message(frame) => {
                let applied = image.lock().as_mut()?.apply(&frame.data);
                let mut work = match applied {
                    Ok(Some(work)) => work,
                    Ok(None) => continue,
                    Err(Refused::Gap) => return Some("gap"),
                    Err(Refused::Malformed) => return Some("malformed"),
                };
                let sequence = loop {
                    match work {
                        Work::Done(sequence) => break sequence,
                        Work::More => work = image.lock().as_mut()?.work(),
                    }
                    tokio::task::yield_now().await;
                };
                let mut data = Vec::new();
                wire::put_u64(&mut data, sequence);
                if let Some(acks) = &acks {
                    // Who is gone is told of by the stream.
                    let _ = acks.send(Frame { data: data.into(), goes_on: false }).await;
                }
            }
            Event::Lost(error) => {
                tracing::debug!(%error, "a host cannot be followed");
                acks = None;
            }
        }
        tokio::task::coop::consume_budget().await;
    }
}

/// Keeps a stream of messages to the host.
async fn carry(shared: Arc<Shared>, server: ServerId, lane: Arc<Lane>) {
    loop {
        let (call, target) = (Call::new(Tenant::none()), Target::Server(server.clone()));
        let stream = shared.client.deliver(call, target);
        if let Some(why) = send(&shared, stream, &lane).await {
            shared.metrics.refuse(why);
            tracing::warn!(%server, why, "messages for a host go by another stream");
        }
        let mut reports = Reports::new();
        lane.lose(&mut reports);
        shared.report(&mut reports);
        sleep(PAUSE).await;
    }
}

/// Sends what waits, and hears what becomes of it, until the host ends it, or says what makes no sense:
/// then why.
async fn send(
    shared: &Shared,
    mut stream: Stream<Frame, Frame>,
    lane: &Lane,
) -> Option<&'static str> {
    let mut reports = Reports::new();
    let mut speech = None;
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
                lane.lose(&mut reports);
                speech = Some(Box::pin(speak(lane, questions)));
            }
            Event::Message(frame) => {
                if frame.goes_on || lane.settle(&frame.data, &mut reports).is_err() {
                    return Some("receipt");
                }
            }
            Event::Lost(error) => {
                tracing::debug!(%error, "messages cannot go to a host");
                speech = None;
                lane.lose(&mut reports);
            }
        }
        shared.report(&mut reports);
        tokio::task::coop::consume_budget().await;
    }
}

/// Says what waits, until the other side is gone.
async fn speak(lane: &Lane, questions: Sender<Frame>) {
    let pause = Pause::new();
    loop {
        let batch: Bytes = lane.next(&pause).await;
        for part in cut(batch) {
            if questions.send(part.into()).await.is_err() {
                return;
            }
        }
    }
}

/// Answers what the host is late with, whatever becomes of the stream.
async fn watch(shared: Arc<Shared>, lane: Arc<Lane>) {
    let mut reports = Reports::new();
    loop {
        lane.stirred().await;
        sleep(LATE_LOOK).await;
        lane.expire(shared.clock.now(), &mut reports);
        shared.report(&mut reports);
    }
}

impl Shared {
    /// Tells those who wait.
    pub(crate) fn report(&self, reports: &mut Reports) {
        if reports.is_empty() {
            return;
        }
        if let Some(home) = &*self.home.load() {
            home.outcomes.settled(reports);
        }
        reports.clear();
    }
}
