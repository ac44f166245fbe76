//! The way to the inbox of one host: words that wait, and questions that have no answer yet.
//!
//! Every question that somebody waits for is answered once: by the host, by the clock, or when the stream
//! breaks. Whether what was sent was done is not known then; what can be asked again without harm is.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use ratatosk_clock::Instant;
use ratatosk_contract::ReplyTo;
use ratatosk_contract::inbox::{Claim, WillId};
use ratatosk_telemetry::memory::{Account, Share};

use crate::ask::{Ask, CallId};
use crate::jobs::PartId;
use crate::outbox::Outbox;

/// See the module.
pub(crate) struct Lane {
    pub(crate) outbox: Outbox,
    calls: Mutex<Calls>,
    is_open: AtomicBool,
    /// How often a stream was opened.
    turn: AtomicU64,
}

#[derive(Default)]
struct Calls {
    waiting: HashMap<CallId, Question>,
    due: BTreeSet<(Instant, CallId)>,
    append_bytes: usize,
}

/// A question without an answer.
pub(crate) struct Question {
    pub(crate) call: CallId,
    pub(crate) due: Instant,
    pub(crate) waiting: Waiting,
}

/// Who waits for what.
pub(crate) enum Waiting {
    Attach {
        reply_to: ReplyTo,
        filters_max: u32,
    },
    Discard {
        reply_to: ReplyTo,
    },
    /// Of a session; may be asked again.
    Subscribe {
        reply_to: ReplyTo,
        claim: Claim,
        ask: Ask,
    },
    /// Of a session; may be asked again.
    Change {
        reply_to: Option<ReplyTo>,
        claim: Claim,
        ask: Ask,
    },
    Append {
        part: PartId,
        bytes: usize,
        account: Account,
    },
    Will {
        reply_to: Option<ReplyTo>,
        alias: WillId,
    },
}

impl Lane {
    pub(crate) fn new(account: &Account) -> Self {
        Self {
            outbox: Outbox::new(account),
            calls: Mutex::default(),
            is_open: AtomicBool::new(false),
            turn: AtomicU64::new(0),
        }
    }

    /// A stream was opened.
    pub(crate) fn open(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
        self.is_open.store(true, Ordering::SeqCst);
    }

    /// Whether there is a stream.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::SeqCst)
    }

    /// Names the stream that is open.
    pub(crate) fn turn(&self) -> u64 {
        self.turn.load(Ordering::SeqCst)
    }

    /// Notes who waits, and says what `write` writes.
    pub(crate) fn ask(&self, question: Question, write: impl FnOnce(&mut Vec<u8>)) {
        let mut calls = self.calls.lock();
        calls.due.insert((question.due, question.call));
        if let Waiting::Append { bytes, account, .. } = &question.waiting {
            calls.append_bytes += bytes;
            account.charge(Share::Queues, *bytes);
        }
        calls.waiting.insert(question.call, question);
        drop(calls);
        self.outbox.put(write);
    }

    /// Bytes of messages that wait for the host, or for its answer.
    pub(crate) fn bytes(&self) -> usize {
        self.calls.lock().append_bytes + self.outbox.bytes()
    }

    /// The question that an answer is for, if somebody waits for it.
    pub(crate) fn answer(&self, call: CallId) -> Option<Question> {
        self.calls.lock().take(call)
    }

    /// Questions that have waited for long enough.
    pub(crate) fn expire(&self, now: Instant) -> Vec<Question> {
        let mut calls = self.calls.lock();
        let mut late = Vec::new();
        while let Some((_, call)) = calls.due.first().copied().filter(|(due, _)| *due <= now) {
            late.extend(calls.take(call));
        }
        late
    }

    /// The stream broke: all that has no answer, in its order. What waited is forgotten.
    pub(crate) fn lose(&self) -> Vec<Question> {
        self.is_open.store(false, Ordering::SeqCst);
        let mut calls = self.calls.lock();
        let mut lost: Vec<CallId> = calls.waiting.keys().copied().collect();
        lost.sort_unstable();
        let lost = lost.into_iter().filter_map(|call| calls.take(call)).collect();
        drop(calls);
        self.outbox.clear();
        lost
    }
}

impl Calls {
    fn take(&mut self, call: CallId) -> Option<Question> {
        let question = self.waiting.remove(&call)?;
        self.due.remove(&(question.due, call));
        if let Waiting::Append { bytes, account, .. } = &question.waiting {
            self.append_bytes -= bytes;
            account.release(Share::Queues, *bytes);
        }
        Some(question)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // What is charged is given back.
        drop(self.lose());
    }
}

#[cfg(test)]
mod tests {
    use ratatosk_telemetry::memory::Accountant;

    use super::*;

    fn question(number: u64, due_ms: u64, account: &Account) -> Question {
        let waiting =
            Waiting::Append { part: PartId(number), bytes: 100, account: account.clone() };
        Question { call: CallId(number), due: Instant::from_millis(due_ms), waiting }
    }

    fn calls(questions: &[Question]) -> Vec<u64> {
        questions.iter().map(|question| question.call.0).collect()
    }

    /// MEM-001: every question ends once, by its answer, by the clock or with the stream, and gives back
    /// what was charged for it.
    #[test]
    fn a_question_ends_once() {
        let memory = Accountant::default();
        let account = memory.account("t");
        let lane = Lane::new(&memory.account(""));
        lane.open();
        for (number, due_ms) in [(1, 50), (2, 20), (3, 40), (4, 40), (5, 90)] {
            lane.ask(question(number, due_ms, &account), |into| into.push(0));
        }
        assert_eq!(lane.bytes(), 505);
        assert_eq!(lane.answer(CallId(3)).map(|found| found.call), Some(CallId(3)));
        assert!(lane.answer(CallId(3)).is_none());
        assert_eq!(calls(&lane.expire(Instant::from_millis(40))), [2, 4]);
        assert!(lane.answer(CallId(2)).is_none());
        assert_eq!(calls(&lane.lose()), [1, 5], "in their order");
        assert!(!lane.is_open() && lane.expire(Instant::from_millis(999)).is_empty());
        assert_eq!(lane.bytes(), 0);
        ratatosk_telemetry::memory::post_changes();
        assert_eq!(memory.charged(), ratatosk_telemetry::ByteCount::ZERO);
    }
}
