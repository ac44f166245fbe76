//! What a new subscriber is given for a topic is what the last acknowledged message left there, or
//! what a message left that was sent after it.

use std::collections::HashMap;

use super::{Property, Subject, Violation};
use crate::history::{History, MessageIndex, Retention, What};

/// What may be retained for a topic.
#[derive(Clone, Debug, Default)]
struct Candidates {
    /// The last acknowledged message; before the first one, nothing is retained.
    floor: Option<MessageIndex>,
    /// What was sent after it, in order.
    later: Vec<MessageIndex>,
}

impl Candidates {
    fn all(&self) -> impl Iterator<Item = Option<MessageIndex>> + '_ {
        std::iter::once(self.floor).chain(self.later.iter().copied().map(Some))
    }
}

/// Topics for which something must be retained, whatever became of what is not acknowledged.
pub(crate) fn certain(history: &History) -> Vec<&str> {
    let mut topics: HashMap<&str, Candidates> = HashMap::new();
    for event in &history.events {
        note(history, &event.what, &mut topics);
    }
    let is_certain = |(topic, candidates): (_, Candidates)| {
        candidates.all().all(|message| left_by(history, message).is_some()).then_some(topic)
    };
    topics.into_iter().filter_map(is_certain).collect()
}

pub(super) fn judge(history: &History, violations: &mut Vec<Violation>) {
    let mut topics: HashMap<&str, Candidates> = HashMap::new();
    for (index, event) in history.events.iter().enumerate() {
        note(history, &event.what, &mut topics);
        let What::Retained { topic, seen } = &event.what else { continue };
        let candidates = topics.get(topic.as_str()).cloned().unwrap_or_default();
        let left = candidates.all().map(|message| left_by(history, message));
        let left: Vec<Option<MessageIndex>> = left.collect();
        if !left.contains(seen) {
            violations.push(Violation {
                property: Property::Retained,
                round: event.round,
                client: event.client,
                subject: subject(index, &candidates),
                text: text(history, topic, *seen, &candidates),
            });
        }
    }
}

/// Follows what may be retained.
fn note<'a>(history: &'a History, what: &What, topics: &mut HashMap<&'a str, Candidates>) {
    match what {
        What::Sent { message, is_again: false } if is_retained(history, *message) => {
            let topic = history.message(*message).topic.as_str();
            topics.entry(topic).or_default().later.push(*message);
        }
        What::Acked(message) if is_retained(history, *message) => {
            let topic = history.message(*message).topic.as_str();
            let candidates = topics.entry(topic).or_default();
            // Acknowledgements have the order of messages.
            if candidates.floor < Some(*message) {
                candidates.floor = Some(*message);
                candidates.later.retain(|later| later > message);
            }
        }
        _ => {}
    }
}

fn is_retained(history: &History, message: MessageIndex) -> bool {
    history.message(message).retention != Retention::None
}

/// What is retained after a message.
fn left_by(history: &History, message: Option<MessageIndex>) -> Option<MessageIndex> {
    message.filter(|message| history.message(*message).retention == Retention::Update)
}

fn subject(event: usize, candidates: &Candidates) -> Subject {
    candidates.floor.map_or(Subject::Event(event), Subject::Message)
}

fn text(
    history: &History,
    topic: &str,
    seen: Option<MessageIndex>,
    candidates: &Candidates,
) -> String {
    let show = |message: Option<MessageIndex>| match message.map(|index| history.message(index)) {
        None => "nothing".to_owned(),
        Some(message) if message.retention == Retention::Clear => {
            format!("nothing (cleared by {})", message.number)
        }
        Some(message) => format!("message {}", message.number),
    };
    let may: Vec<String> = candidates.all().map(show).collect();
    format!("{} is retained for {topic}, but it may be only: {}", show(seen), may.join(", "))
}
