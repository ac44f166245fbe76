//! Questions to whoever leads a range: answered from all that was acknowledged before they were asked. KV-009
//!
//! Nothing is changed by a question, so what is not answered is asked again, for as long as a command is
//! tried.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_store::host::Refusal;

use crate::pipe::{RETRY, Shared, TRIED};
use crate::{Outcome, Pipe};

/// Told the coprocessor's answer; `None` if there was none in time.
pub type Told = Box<dyn FnOnce(Option<Bytes>) + Send>;

/// Who waits for an answer.
pub(crate) struct Question {
    key: Bytes,
    question: Bytes,
    asked: Instant,
    /// When it is asked again.
    due: Instant,
    told: Told,
}

impl Pipe {
    /// Asks the leader of the range that has `key`. Returns at once and never calls `told` itself. The answer
    /// shows whatever was acknowledged before, to whomever; what this pipe has submitted and is not done may
    /// be missing.
    pub fn ask(&self, key: &[u8], question: Bytes, told: Told) {
        let asked = self.shared.clock.now();
        let key = Bytes::copy_from_slice(key);
        self.shared.ask(Question { key, question, asked, due: asked, told });
    }
}

impl Shared {
    fn ask(self: &Arc<Self>, question: Question) {
        let routes = self.ranges.routes(&self.keyspace);
        let holds = |route: &&crate::Route| route.descriptor.boundary.contains(&question.key);
        let Some(route) = routes.iter().find(holds) else { return self.ask_later(question) };
        let (shared, asked) = (Arc::clone(self), question.question.clone());
        let answer = move |outcome| match outcome {
            Outcome::Applied(mut answers) => (question.told)(answers.pop()),
            Outcome::Refused(Refusal::Version(now)) => {
                shared.ranges.learn(*now);
                shared.ask_later(question);
            }
            Outcome::Refused(_) | Outcome::Unknown => shared.ask_later(question),
        };
        self.ranges.query(route, asked, Box::new(answer));
    }

    fn ask_later(&self, question: Question) {
        let due = self.clock.now() + RETRY;
        self.questions.lock().push(Question { due, ..question });
    }

    /// Asks again what is due; what was asked too long ago is given up.
    pub(crate) fn ask_again(self: &Arc<Self>, now: Instant) {
        let is_due = |question: &mut Question| question.due <= now;
        let due: Vec<_> = self.questions.lock().extract_if(.., is_due).collect();
        for question in due {
            match now.since(question.asked) > TRIED {
                true => (question.told)(None),
                false => self.ask(question),
            }
        }
    }
}
