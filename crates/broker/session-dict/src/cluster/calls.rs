//! The way to another host: what waits to be asked there, in order, and who asks it.
//!
//! Questions for a server go in batches through one pipeline; meetings with a node in batches, each
//! a call of its own, because the answer of one may take longer than that of the next. Both queues
//! are bounded; what has no room was not asked, and whoever wanted it is told so.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use ratatosk_rpc::{Call, Error, PipelineLimits, Target, Tenant};
use tokio::sync::{Semaphore, mpsc};

use super::{Inner, server_id, wire};
use crate::cluster::convert::{self, Malformed};
use crate::protocol::{Host, Meeting, Question, Reply, Verdict};

/// Questions that wait for one server.
const QUESTIONS_MAX: usize = 65_536;
/// Meetings that wait for one node.
const MEETINGS_MAX: usize = 65_536;
/// Of either, how many go in one message.
const BATCH_MAX: usize = 256;
/// And how many bytes, about: more than the longest one.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Messages without an answer, of either kind.
const IN_FLIGHT_MAX: usize = 16;
/// How long an answer may take. A node says within less that it needs longer.
const PATIENCE: Duration = Duration::from_millis(1_400);

/// See the module. Dropped, what waits is still asked.
pub(super) struct Way {
    questions: mpsc::Sender<Question>,
    meetings: mpsc::Sender<Meeting>,
}

/// A question that was not asked.
pub(super) struct NotAsked {
    pub(super) question: Question,
    /// For want of room; otherwise there is no way.
    pub(super) is_full: bool,
}

impl Way {
    pub(super) fn open(inner: &Arc<Inner>, host: Host) -> Self {
        let (questions, to_ask) = mpsc::channel(QUESTIONS_MAX);
        let (meetings, to_meet) = mpsc::channel(MEETINGS_MAX);
        inner.scope.spawn(ask_all(Arc::downgrade(inner), host, to_ask));
        inner.scope.spawn(meet_all(Arc::downgrade(inner), host, to_meet));
        Self { questions, meetings }
    }

    pub(super) fn ask(&self, question: Question) -> Result<(), NotAsked> {
        use mpsc::error::TrySendError;
        self.questions.try_send(question).map_err(|error| match error {
            TrySendError::Full(question) => NotAsked { question, is_full: true },
            TrySendError::Closed(question) => NotAsked { question, is_full: false },
        })
    }

    pub(super) fn meet(&self, meeting: Meeting) -> Result<(), Meeting> {
        self.meetings.try_send(meeting).map_err(mpsc::error::TrySendError::into_inner)
    }
}

fn call() -> Call {
    Call::new(Tenant::none()).within(PATIENCE)
}

async fn ask_all(inner: Weak<Inner>, host: Host, mut waiting: mpsc::Receiver<Question>) {
    let limits = PipelineLimits {
        queue_max: 2 * IN_FLIGHT_MAX,
        in_flight_max: IN_FLIGHT_MAX,
        move_timeout: PATIENCE,
    };
    let Some(client) = inner.upgrade().map(|inner| inner.directories.clone()) else { return };
    let pipeline = client.ask(Call::new(Tenant::none()), Target::Server(server_id(host)), limits);
    let mut in_flight = FuturesOrdered::new();
    let (mut batch, mut next) = (Vec::new(), None);
    let mut is_open = true;
    while is_open || !in_flight.is_empty() {
        // Both are cancel-safe: what was taken is in `batch`.
        tokio::select! {
            biased;
            Some(answered) = in_flight.next(), if !in_flight.is_empty() => {
                let (questions, replies): (Vec<Question>, _) = answered;
                let Some(inner) = inner.upgrade() else { return };
                replied(&inner, host, &questions, replies);
            }
            count = take(&mut waiting, &mut batch, &mut next, question_bytes),
                if is_open && in_flight.len() < IN_FLIGHT_MAX =>
            {
                if count == 0 {
                    is_open = false;
                    continue;
                }
                let questions = std::mem::take(&mut batch);
                let message = wire::Questions {
                    questions: questions.iter().map(convert::question).collect(),
                };
                let answer = pipeline.submit(&call(), message);
                in_flight.push_back(async move {
                    let answer = match answer {
                        Ok(answer) => answer.await,
                        Err(error) => Err(error),
                    };
                    (questions, answer)
                });
            }
        }
    }
}

fn question_bytes(question: &Question) -> usize {
    match question {
        Question::Register { identity, .. } | Question::Remove { identity, .. } => {
            convert::identity_bytes(identity)
        }
        Question::Begin { .. } | Question::Commit { .. } => 32,
    }
}

/// Takes what waits, as much as goes in one message; how many. Zero when no more will come.
async fn take<T>(
    waiting: &mut mpsc::Receiver<T>,
    batch: &mut Vec<T>,
    next: &mut Option<T>,
    bytes_of: impl Fn(&T) -> usize,
) -> usize {
    if next.is_none() {
        *next = waiting.recv().await;
    }
    let mut bytes = 0;
    while let Some(item) = next.take() {
        bytes += bytes_of(&item);
        if !batch.is_empty() && bytes > BATCH_BYTES_MAX {
            *next = Some(item);
            break;
        }
        batch.push(item);
        if batch.len() == BATCH_MAX {
            break;
        }
        *next = waiting.try_recv().ok();
    }
    batch.len()
}

fn replied(
    inner: &Arc<Inner>,
    server: Host,
    questions: &[Question],
    replies: Result<wire::Replies, Error>,
) {
    let replies = replies.and_then(|replies| {
        let read = convert::replies(&replies, questions.len(), inner.clock.wall());
        read.map_err(refused)
    });
    let replies: Vec<Option<Reply>> = match replies {
        Ok(replies) => replies.into_iter().map(Some).collect(),
        Err(error) => {
            tracing::debug!(%server, %error, "a server of the session directory did not answer");
            questions.iter().map(|_| None).collect()
        }
    };
    inner.hear(|roster, time, effects| {
        for (question, reply) in questions.iter().zip(replies) {
            roster.replied(time, server, question, reply, effects);
        }
    });
}

/// What came means nothing: as good as no answer.
pub(super) fn refused(malformed: Malformed) -> Error {
    Error::Refused { why: malformed.to_string() }
}

async fn meet_all(inner: Weak<Inner>, host: Host, mut waiting: mpsc::Receiver<Meeting>) {
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let (mut batch, mut next) = (Vec::new(), None);
    let bytes_of = |meeting: &Meeting| convert::identity_bytes(&meeting.identity);
    while take(&mut waiting, &mut batch, &mut next, bytes_of).await > 0 {
        let meetings = std::mem::take(&mut batch);
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Some(strong) = inner.upgrade() else { return };
        let (client, weak) = (strong.peers.clone(), inner.clone());
        strong.scope.spawn(async move {
            let message =
                wire::Meetings { meetings: meetings.iter().map(convert::meeting).collect() };
            let target = Target::Server(server_id(host));
            let verdicts = client.meet(call(), &target, message).await;
            drop(permit);
            if let Some(inner) = weak.upgrade() {
                met(&inner, host, &meetings, verdicts);
            }
        });
    }
}

fn met(
    inner: &Arc<Inner>,
    host: Host,
    meetings: &[Meeting],
    verdicts: Result<wire::Verdicts, Error>,
) {
    let verdicts = verdicts.and_then(|verdicts| {
        let read = convert::verdicts(&verdicts, meetings.len(), inner.clock.wall());
        read.map_err(refused)
    });
    let verdicts: Vec<Option<Verdict>> = match verdicts {
        Ok(verdicts) => verdicts.into_iter().map(Some).collect(),
        Err(error) => {
            tracing::debug!(%host, %error, "a node of the session directory did not answer");
            meetings.iter().map(|_| None).collect()
        }
    };
    inner.hear(|roster, time, effects| {
        for (meeting, verdict) in meetings.iter().zip(verdicts) {
            roster.met(time, host, meeting, verdict, effects);
        }
    });
}
