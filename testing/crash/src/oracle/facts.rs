//! What several oracles need to know of a history, gathered in one pass.
//!
//! A subscription is *in* from its SUBACK until UNSUBSCRIBE is written, and *out* from its UNSUBACK
//! (or from the beginning) until SUBSCRIBE is written. Between these it may be either.

use std::collections::HashMap;

use ratatosk_codec::Qos;

use crate::history::{ClientIndex, Filter, History, MessageIndex, What};

/// When what a message went through happened, as indices of events.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fate {
    /// PUBLISH was written first.
    pub(super) sent: usize,
    /// In which round that was.
    pub(super) round: u32,
    /// PUBACK or PUBREC came.
    pub(super) acked: Option<usize>,
    /// PUBLISH was written again.
    pub(super) is_again: bool,
}

impl Fate {
    /// When it was over at the latest: it is not routed after its acknowledgement.
    fn end(&self) -> usize {
        self.acked.unwrap_or(usize::MAX)
    }
}

/// A message came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    pub(super) message: MessageIndex,
    pub(super) qos: Qos,
    pub(super) event: usize,
}

/// How often a message came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    /// At any QoS.
    pub(super) all: u32,
    /// At QoS 2.
    pub(super) exactly_once: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    In,
    Out,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    state: State,
    from: usize,
    to: usize,
}

/// What is known of a history.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Of each message.
    pub(super) fates: Vec<Option<Fate>>,
    /// Of each client, in order.
    pub(super) deliveries: Vec<Vec<Delivery>>,
    counts: Vec<HashMap<MessageIndex, Count>>,
    /// Of each filter, in order.
    spans: Vec<Vec<Span>>,
}

impl Facts {
    pub(super) fn of(history: &History) -> Facts {
        let never = Span { state: State::Out, from: 0, to: usize::MAX };
        let mut facts = Facts {
            fates: vec![None; history.messages.len()],
            deliveries: vec![Vec::new(); history.clients.len()],
            counts: vec![HashMap::new(); history.clients.len()],
            spans: vec![vec![never]; history.filters.len()],
        };
        for (index, event) in history.events.iter().enumerate() {
            match &event.what {
                What::Sent { message, is_again: false } => {
                    let round = event.round;
                    let fate = Fate { sent: index, round, ..Fate::default() };
                    facts.fates[message.0 as usize] = Some(fate);
                }
                What::Sent { message, is_again: true } => {
                    let fate = facts.fates[message.0 as usize].as_mut();
                    fate.expect("it was sent").is_again = true;
                }
                What::Acked(message) => {
                    let fate = facts.fates[message.0 as usize].as_mut();
                    fate.expect("it was sent").acked.get_or_insert(index);
                }
                What::Delivered { message, qos, .. } => {
                    let client = event.client.expect("somebody receives").0 as usize;
                    let delivery = Delivery { message: *message, qos: *qos, event: index };
                    facts.deliveries[client].push(delivery);
                    let count = facts.counts[client].entry(*message).or_default();
                    count.all += 1;
                    count.exactly_once += u32::from(*qos == Qos::ExactlyOnce);
                }
                What::Subscribing(filter) => facts.end(filter.0, State::Out, index),
                What::Subscribed(filter) => facts.begin(filter.0, State::In, index),
                What::Unsubscribing(filter) => facts.end(filter.0, State::In, index),
                What::Unsubscribed(filter) => facts.begin(filter.0, State::Out, index),
                _ => {}
            }
        }
        facts
    }

    fn end(&mut self, filter: u32, state: State, at: usize) {
        let last = self.spans[filter as usize].last_mut();
        if let Some(span) = last.filter(|span| span.state == state && span.to == usize::MAX) {
            span.to = at;
        }
    }

    fn begin(&mut self, filter: u32, state: State, from: usize) {
        let spans = &mut self.spans[filter as usize];
        // A client whose session was lost subscribes again: for it the subscription never ended.
        let goes_on = spans.last().is_some_and(|span| span.state == state && span.to == usize::MAX);
        if !goes_on {
            spans.push(Span { state, from, to: usize::MAX });
        }
    }

    /// How often a client was sent a message.
    pub(super) fn count(&self, client: ClientIndex, message: MessageIndex) -> Count {
        self.counts[client.0 as usize].get(&message).copied().unwrap_or_default()
    }

    /// Whether the subscription was in force all the time that the message was on its way.
    pub(super) fn is_in(&self, filter: usize, fate: &Fate) -> bool {
        self.is_all_the_time(filter, State::In, fate.sent, fate.end())
    }

    /// Whether a subscription of the client was in force all the time that the message was on its
    /// way.
    pub(super) fn is_subscribed(
        &self,
        history: &History,
        client: ClientIndex,
        message: MessageIndex,
    ) -> bool {
        let Some(fate) = self.fates[message.0 as usize] else { return false };
        let topic = &history.message(message).topic;
        history.filters.iter().enumerate().any(|(index, filter)| {
            filter.client == client && matches(pattern(filter), topic) && self.is_in(index, &fate)
        })
    }

    /// Whether the subscription was not in force at any time that the message was on its way.
    pub(super) fn is_out(&self, filter: usize, fate: &Fate) -> bool {
        self.is_all_the_time(filter, State::Out, fate.sent, fate.end())
    }

    /// Whether the subscription was in force from this event to the end.
    pub(super) fn is_in_since(&self, filter: usize, event: usize) -> bool {
        self.is_all_the_time(filter, State::In, event, usize::MAX)
    }

    fn is_all_the_time(&self, filter: usize, state: State, from: usize, to: usize) -> bool {
        let spans = &self.spans[filter];
        let after = spans.partition_point(|span| span.from <= from);
        let span = after.checked_sub(1).map(|index| spans[index]);
        span.is_some_and(|span| span.state == state && span.to >= to)
    }
}

/// The part of a filter that topics are matched with.
pub(super) fn pattern(filter: &Filter) -> &str {
    match filter.text.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
        Some((_, pattern)) => pattern,
        None => &filter.text,
    }
}

/// Whether a topic matches a filter; neither begins with `$`.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_specification_says() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/b/c", "a/b", false),
            ("a/+/c", "a/b/c", true),
            ("a/+", "a/b/c", false),
            ("a/#", "a/b/c", true),
            ("a/#", "a", true),
            ("a/#", "b", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }
}
