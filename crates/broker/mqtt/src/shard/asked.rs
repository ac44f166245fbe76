//! What a session asked its inbox, and is told later.
//!
//! An inbox on another host answers when it has heard from there. A claim waits for it as it waits for a
//! predecessor (`claim.rs`). A SUBSCRIBE is brought again when all that was asked of its filters is
//! known; what is not known in time is refused, and taken back should it come about all the same. What
//! others want on behalf of the client (`on_behalf.rs`) waits by itself.
//!
//! `questions ≤ QUESTIONS_MAX`.

use ratatosk_clock::Instant;
use ratatosk_contract::{
    Call, ReplyTo, SessionRef, Ticket,
    inbox::{Answer, Claim, SubscribeOutcome, Subscription},
};
use ratatosk_session::{ON_BEHALF, Subscribed};

use super::{
    Shard,
    hands::{CHANGE, FIRST_QUESTION},
    link::Link,
};

/// How many subscriptions of one session are unanswered at a time, those that nobody waits for any more
/// included.
const QUESTIONS_MAX: usize = 1024;

/// The questions of one session about subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    questions: Vec<Question>,
}

#[derive(Debug)]
struct Question {
    ticket: Ticket,
    /// The filter's place in the packet that waits, [`ON_BEHALF`] if there is none; `None` once that was
    /// answered without it.
    place: Option<usize>,
    filter: Box<str>,
    /// When the packet is answered without it.
    by: Instant,
    /// The client was told that an earlier question about the filter had come to nothing.
    is_new: bool,
    outcome: Option<SubscribeOutcome>,
}

impl Question {
    /// A packet waits for its answer.
    fn is_of_packet(&self) -> bool {
        self.place.is_some_and(|place| place != ON_BEHALF)
    }
}

/// What is known of a filter of the packet at hand.
enum Known {
    /// Nothing yet, and it is waited for until then.
    Later(Instant),
    /// It was waited for long enough.
    Over,
    Outcome(SubscribeOutcome),
}

impl Asked {
    /// About how many bytes it holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.questions.capacity() * size_of::<Question>()
            + self.questions.iter().map(|question| question.filter.len()).sum::<usize>()
    }

    /// Whether a packet waits for answers.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.questions.iter().any(Question::is_of_packet)
    }

    /// The packet at hand is answered: nobody waits for what is still to come.
    pub(super) fn release(&mut self) {
        self.questions.retain_mut(|question| {
            if question.is_of_packet() {
                question.place = None;
            }
            question.place.is_some() || question.outcome.is_none()
        });
    }

    /// What is known of the filter at `place`, if it was asked for.
    fn take(&mut self, place: usize, now: Instant) -> Option<Known> {
        let at = self.questions.iter().position(|question| question.place == Some(place))?;
        let question = &mut self.questions[at];
        if let Some(outcome) = question.outcome {
            self.questions.swap_remove(at);
            return Some(Known::Outcome(outcome));
        }
        if question.by > now || !question.is_of_packet() {
            return Some(Known::Later(question.by));
        }
        question.place = None;
        Some(Known::Over)
    }

    fn told(&mut self, ticket: Ticket, outcome: SubscribeOutcome) -> Told {
        let Some(at) = self.questions.iter().position(|question| question.ticket == ticket) else {
            return Told::Nobody;
        };
        let outcome = match outcome {
            SubscribeOutcome::Done { route, .. } if self.questions[at].is_new => {
                SubscribeOutcome::Done { route, existed: false }
            }
            outcome => outcome,
        };
        if self.questions[at].place.is_some() {
            self.questions[at].outcome = Some(outcome);
            if !self.questions[at].is_of_packet() {
                return Told::Change;
            }
            let is_open =
                |question: &Question| question.is_of_packet() && question.outcome.is_none();
            return if self.questions.iter().any(is_open) { Told::Nobody } else { Told::Packet };
        }
        let filter = self.questions.swap_remove(at).filter;
        if !matches!(outcome, SubscribeOutcome::Done { existed: false, .. }) {
            return Told::Nobody;
        }
        // Questions are answered in their order.
        let later = self.questions.iter_mut().filter(|question| question.filter == filter);
        match later.min_by_key(|question| question.ticket) {
            Some(next) => {
                next.is_new = true;
                Told::Nobody
            }
            None => Told::Refused(filter),
        }
    }
}

/// Whom an answer matters to.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// Nobody, or not yet.
    Nobody,
    /// The packet that waits: all is known.
    Packet,
    /// What somebody else wants.
    Change,
    /// The client was told that there is no such subscription.
    Refused(Box<str>),
}

impl Link<'_> {
    /// Asks the inbox for a subscription, or takes the answer to what was asked before.
    pub(super) fn ask_inbox(
        &mut self,
        claim: Claim,
        place: usize,
        subscription: Subscription,
    ) -> Result<SubscribeOutcome, Subscribed> {
        let now = self.shard.now;
        if let Some(rare) = &mut self.local.rare {
            match rare.asked.take(place, now) {
                Some(Known::Outcome(outcome)) => return Ok(outcome),
                Some(Known::Later(by)) => return Err(Subscribed::Later { by }),
                Some(Known::Over) => return Err(Subscribed::Busy),
                None if rare.asked.questions.len() >= QUESTIONS_MAX => {
                    return Err(Subscribed::Busy);
                }
                None => {}
            }
        }
        self.shard.questions += 1;
        let ticket = Ticket(FIRST_QUESTION.0 + self.shard.questions);
        debug_assert!(ticket < super::hands::RETAINED, "there are 2^63 of them");
        let reply_to = ReplyTo { session: self.session, ticket };
        match self.shard.node.inbox.subscribe(claim, &subscription, Some(reply_to)) {
            Call::Ready(promised) => Ok(self.local.promised(promised)),
            Call::Pending => {
                let by = now + self.shard.node.inbox_patience;
                let filter = subscription.filter;
                let question = Question {
                    ticket,
                    place: Some(place),
                    filter,
                    by,
                    is_new: false,
                    outcome: None,
                };
                self.local.rare().asked.questions.push(question);
                Err(Subscribed::Later { by })
            }
        }
    }
}

impl Shard {
    /// A session's inbox answers.
    pub(super) fn answered(&mut self, reply_to: ReplyTo, answer: Answer) {
        let ReplyTo { session, ticket } = reply_to;
        match answer {
            Answer::Attached(attached) => self.attached(session, attached),
            Answer::Discarded(discarded) => self.discarded(session, discarded),
            Answer::Subscribed(outcome) => self.subscribed(session, ticket, outcome),
        }
    }

    fn subscribed(&mut self, session: SessionRef, ticket: Ticket, outcome: SubscribeOutcome) {
        let Some(connection) = self.connection(session) else { return };
        let claim = connection.local.claim.as_deref().copied();
        let Some(rare) = &mut connection.local.rare else { return };
        match (rare.asked.told(ticket, outcome), claim) {
            (Told::Packet, _) => self.retry(session),
            (Told::Change, _) => self.go_on_changing(session),
            (Told::Refused(filter), Some(claim)) => {
                let reply_to = Some(ReplyTo { session, ticket: CHANGE });
                let removed = self.node.inbox.unsubscribe(claim, &filter, reply_to);
                if let Some(connection) = self.connection(session)
                    && let Ok(removed) = removed
                {
                    connection.local.promised(removed);
                }
            }
            (Told::Refused(_) | Told::Nobody, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_millis(1_000);
    const BY: Instant = Instant::from_millis(2_000);

    fn done(existed: bool) -> SubscribeOutcome {
        SubscribeOutcome::Done { route: None, existed }
    }

    /// Questions with tickets from 1 on, for filters of one packet.
    fn asked(filters: &[&str]) -> Asked {
        let question = |(place, filter): (usize, &&str)| Question {
            ticket: Ticket(place as u64 + 1),
            place: Some(place),
            filter: (*filter).into(),
            by: BY,
            is_new: false,
            outcome: None,
        };
        Asked { questions: filters.iter().enumerate().map(question).collect() }
    }

    #[test]
    fn a_packet_is_brought_again_when_all_of_it_is_known() {
        let mut asked = asked(&["a", "b"]);
        assert_eq!(asked.told(Ticket(2), done(false)), Told::Nobody);
        assert_eq!(asked.told(Ticket(9), done(false)), Told::Nobody, "nobody asked");
        assert_eq!(asked.told(Ticket(1), SubscribeOutcome::Busy), Told::Packet);
        let is_known = |known| matches!(known, Some(Known::Outcome(SubscribeOutcome::Done { .. })));
        assert!(is_known(asked.take(1, BY)), "what is known is not over");
        assert!(matches!(asked.take(0, NOW), Some(Known::Outcome(SubscribeOutcome::Busy))));
        assert!(asked.take(0, NOW).is_none() && !asked.is_waited_for());
    }

    #[test]
    fn what_others_want_neither_waits_for_a_packet_nor_keeps_it() {
        let mut asked = asked(&["a", "b"]);
        asked.questions[1].place = Some(ON_BEHALF);
        assert!(matches!(asked.take(ON_BEHALF, BY), Some(Known::Later(_))), "it has no time");
        assert_eq!(asked.told(Ticket(1), done(false)), Told::Packet);
        assert!(asked.take(0, BY).is_some() && !asked.is_waited_for());
        asked.release();
        assert_eq!(asked.told(Ticket(2), done(false)), Told::Change);
        asked.release();
        let known = asked.take(ON_BEHALF, BY);
        assert!(matches!(known, Some(Known::Outcome(SubscribeOutcome::Done { .. }))));
        assert!(asked.questions.is_empty());
    }

    #[test]
    fn what_comes_about_after_its_packet_was_refused_is_taken_back() {
        let mut given_up = asked(&["a", "b", "c", "a"]);
        assert!(matches!(given_up.take(0, NOW), Some(Known::Later(BY))));
        assert!(matches!(given_up.take(0, BY), Some(Known::Over)));
        given_up.release();
        assert!(!given_up.is_waited_for());
        assert_eq!(given_up.told(Ticket(2), done(true)), Told::Nobody, "it was there before");
        assert_eq!(given_up.told(Ticket(3), SubscribeOutcome::Busy), Told::Nobody);
        assert_eq!(given_up.told(Ticket(1), done(false)), Told::Nobody, "it was asked for again");
        let last = given_up.told(Ticket(4), done(true));
        assert_eq!(last, Told::Refused("a".into()), "that one had come to nothing, too");
        assert!(given_up.questions.is_empty());
    }
}
