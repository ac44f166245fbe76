//! Proposals for a store that is elsewhere, in the order of the calls, and questions to it.
//!
//! What was sent and has no answer when the stream breaks is in doubt: its reply is dropped. What was not
//! sent is refused, as by a store that does not lead. On a new stream nothing of an older one can follow:
//! the store closes the older one first, by the turn in the hello. What waits is bounded; what does not
//! fit is refused. As long as somebody has not heard that he is refused, so is whoever comes behind him:
//! else a later entry would overtake an earlier one that is proposed again.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_engine::wire::{self, Malformed, Parser};
use ratatosk_rpc::{Error, Sender};
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::node::Reply;
use ratatosk_store::range::Version;
use tokio::sync::Notify;

use crate::order::{put_refusal, take_refusal};
use crate::proto::Frame;
use crate::record::take_key;
use crate::talk::{Speech, Talk, send};
use ratatosk_rpc::frames::FRAME_BYTES;

/// Proposals that are sent and not answered.
pub(crate) const WINDOW: usize = 4_096;
/// Proposals that wait to be sent.
const QUEUED_MAX: usize = 16_384;

const ENTRY: u8 = 0;
const ANSWER: u8 = 1;

const APPLIED: u8 = 0;
const REFUSED: u8 = 1;
const IN_DOUBT: u8 = 2;

/// See the module.
pub(crate) struct Line {
    state: Mutex<State>,
    filled: Notify,
    /// Something is to be refused.
    spilled: Notify,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    next_id: u64,
    queued: VecDeque<Queued>,
    queued_bytes: usize,
    waiting: BTreeMap<u64, Reply>,
    /// To be refused, as nobody may be answered while asking.
    refused: Vec<Reply>,
    /// Somebody is being told that he is refused.
    is_refusing: bool,
    /// Nobody is reached, as far as is known.
    is_lost: bool,
}

struct Queued {
    wish: Wish,
    reply: Reply,
}

/// What is wanted of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// An entry in a range's log, if it leads in this term.
    Entry { term: u64, group: GroupId, data: Vec<u8> },
    /// An answer of a range's coprocessor, if it leads the range in this version.
    Answer { group: GroupId, version: Version, question: Bytes },
}

/// A wish on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) wish: Wish,
}

/// What became of a wish; `None` if that will never be known.
pub(crate) type Outcome = Option<Result<Vec<Bytes>, Refusal>>;

impl Line {
    /// Has so many bytes wait to be sent.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let state = Mutex::default();
        Self { state, filled: Notify::new(), spilled: Notify::new(), bytes_max }
    }

    /// Wishes for something. Never calls `reply` itself.
    pub(crate) fn wish(&self, wish: Wish, reply: Reply) {
        let bytes = wish.bytes();
        let mut state = self.state.lock();
        let is_full = state.queued.len() >= QUEUED_MAX
            || (state.queued_bytes > 0 && state.queued_bytes + bytes > self.bytes_max);
        let is_behind = state.is_refusing || !state.refused.is_empty();
        if state.is_lost || is_full || is_behind {
            // With as many as that nobody takes them any more: the rest is in doubt.
            if state.refused.len() < QUEUED_MAX {
                state.refused.push(reply);
            }
            drop(state);
            self.spilled.notify_one();
            return;
        }
        state.queued_bytes += bytes;
        state.queued.push_back(Queued { wish, reply });
        drop(state);
        self.filled.notify_one();
    }

    /// What goes next, once there is something and room for its answers. Cancel-safe.
    async fn next(&self) -> Bytes {
        loop {
            let filled = self.filled.notified();
            if let Some(batch) = self.take() {
                return batch;
            }
            filled.await;
        }
    }

    fn take(&self) -> Option<Bytes> {
        let mut state = self.state.lock();
        let mut batch = Vec::new();
        while state.waiting.len() < WINDOW && batch.len() < FRAME_BYTES {
            let Some(Queued { wish, reply }) = state.queued.pop_front() else { break };
            state.queued_bytes -= wish.bytes();
            state.next_id += 1;
            let id = state.next_id;
            wish.put(id, &mut batch);
            state.waiting.insert(id, reply);
        }
        (!batch.is_empty()).then(|| batch.into())
    }

    fn refuse(&self) {
        loop {
            let mut state = self.state.lock();
            let refused = std::mem::take(&mut state.refused);
            state.is_refusing = !refused.is_empty();
            if refused.is_empty() {
                return;
            }
            drop(state);
            refused.into_iter().for_each(|reply| reply(Err(Refusal::NotLeader)));
        }
    }
}

impl Talk for Line {
    fn speak(&self, questions: Sender<Frame>) -> Speech<'_> {
        self.state.lock().is_lost = false;
        Box::pin(async move {
            loop {
                let batch = self.next().await;
                if !send(&questions, batch).await {
                    return;
                }
            }
        })
    }

    fn hear(&self, data: &Bytes) -> Result<(), Malformed> {
        for (id, outcome) in take_outcomes(data)? {
            let reply = self.state.lock().waiting.remove(&id).ok_or(Malformed)?;
            match outcome {
                Some(answers) => reply(answers),
                None => drop(reply),
            }
        }
        self.filled.notify_one();
        Ok(())
    }

    fn lose(&self, _why: &Error) {
        let mut state = self.state.lock();
        state.is_lost = true;
        state.queued_bytes = 0;
        let in_doubt = std::mem::take(&mut state.waiting);
        let queued = std::mem::take(&mut state.queued);
        state.refused.extend(queued.into_iter().map(|queued| queued.reply));
        drop(state);
        drop(in_doubt);
        self.refuse();
    }

    fn tend(&self) -> Speech<'_> {
        Box::pin(async move {
            loop {
                self.spilled.notified().await;
                self.refuse();
            }
        })
    }
}

impl Wish {
    fn bytes(&self) -> usize {
        match self {
            Self::Entry { data, .. } => data.len(),
            Self::Answer { question, .. } => question.len(),
        }
    }

    fn put(&self, id: u64, into: &mut Vec<u8>) {
        match self {
            Self::Entry { term, group, data } => {
                into.push(ENTRY);
                [id, *term, group.0].iter().for_each(|number| wire::put_u64(into, *number));
                wire::put_bytes(into, data);
            }
            Self::Answer { group, version, question } => {
                into.push(ANSWER);
                [id, group.0, version.boundary, version.config]
                    .iter()
                    .for_each(|number| wire::put_u64(into, *number));
                wire::put_bytes(into, question);
            }
        }
    }
}

impl Request {
    /// The bytes of requests.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn put_all(all: &[Self]) -> Vec<u8> {
        let mut into = Vec::new();
        all.iter().for_each(|Self { id, wish }| wish.put(*id, &mut into));
        into
    }

    /// Reads requests to the end.
    pub(crate) fn take_all(data: &[u8]) -> Result<Vec<Self>, Malformed> {
        let (mut body, mut found) = (Parser::new(data), Vec::new());
        while !body.is_at_end() {
            let (kind, id) = (body.take_u8()?, body.take_u64()?);
            let wish = match kind {
                ENTRY => Wish::Entry {
                    term: body.take_u64()?,
                    group: GroupId(body.take_u64()?),
                    data: body.take_bytes()?.to_vec(),
                },
                ANSWER => Wish::Answer {
                    group: GroupId(body.take_u64()?),
                    version: Version { boundary: body.take_u64()?, config: body.take_u64()? },
                    question: take_key(&mut body)?,
                },
                _ => return Err(Malformed),
            };
            found.push(Self { id, wish });
        }
        Ok(found)
    }
}

/// Appends what became of a wish.
pub(crate) fn put_outcome(into: &mut Vec<u8>, id: u64, outcome: &Outcome) {
    wire::put_u64(into, id);
    match outcome {
        Some(Ok(answers)) => {
            into.push(APPLIED);
            wire::put_u64(into, answers.len() as u64);
            answers.iter().for_each(|answer| wire::put_bytes(into, answer));
        }
        Some(Err(refusal)) => {
            into.push(REFUSED);
            put_refusal(into, refusal);
        }
        None => into.push(IN_DOUBT),
    }
}

pub(crate) fn take_outcomes(data: &[u8]) -> Result<Vec<(u64, Outcome)>, Malformed> {
    let (mut body, mut found) = (Parser::new(data), Vec::new());
    while !body.is_at_end() {
        let id = body.take_u64()?;
        let outcome = match body.take_u8()? {
            APPLIED => {
                let mut answers = Vec::new();
                for _ in 0..body.take_u64()? {
                    answers.push(take_key(&mut body)?);
                }
                Some(Ok(answers))
            }
            REFUSED => Some(Err(take_refusal(&mut body)?)),
            IN_DOUBT => None,
            _ => return Err(Malformed),
        };
        found.push((id, outcome));
    }
    Ok(found)
}

#[cfg(test)]
#[path = "line_test.rs"]
mod tests;
