//! Retained messages: what should be there, and what clients do with them.

use std::collections::BTreeMap;

use ratatosk_codec::Qos;
use ratatosk_contract::retain::StoreOutcome;
use ratatosk_contract::{Call, Message, PublisherId};

use crate::probe::{self, Shelf};
use crate::simulation::{Checked, Simulation};

/// What is published to be retained.
const TOPICS: [&str; 5] = ["r/1", "r/2", "r/3/x", "s", "t"];

/// What each topic has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topics(BTreeMap<&'static str, Kept>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    payload: String,
    deadline_ms: Option<u64>,
}

impl Kept {
    fn is_over(&self, now_ms: u64) -> bool {
        self.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms)
    }
}

impl Topics {
    /// What is not over at a moment.
    pub(crate) fn shelf(&self, now_ms: u64) -> Shelf {
        let held = self.0.iter().filter(|(_, kept)| !kept.is_over(now_ms));
        held.map(|(topic, kept)| ((*topic).to_owned(), kept.payload.clone())).collect()
    }
}

impl Simulation {
    /// A retained message takes the place of another, or clears its topic.
    pub(crate) fn retain(&mut self) -> Checked {
        let Some(topic) = self.dice.pick(&TOPICS).copied() else { return Ok(()) };
        let is_clear = self.dice.once_in(3);
        let payload = if is_clear { String::new() } else { format!("r{}", self.fresh()) };
        let now_ms = self.clock.millis();
        let deadline_ms = self.dice.once_in(3).then(|| now_ms + 2_000);
        let (ticket, reply_to) = self.ticket();
        let Some(node) = &self.node else { return Ok(()) };
        let message = Message {
            topic,
            payload: payload.as_bytes(),
            shared: None,
            properties: &[],
            qos: Qos::AtLeastOnce,
            retain: true,
            publisher: PublisherId(1),
            accepted: node.now(),
            deadline: deadline_ms.map(|deadline_ms| node.at(deadline_ms)),
        };
        let call = node.retained.store(&message, reply_to);
        self.trace.note(&format!("retain {topic} {payload:?} {ticket}: {call:?}"));
        let mut topics = self.topics.now().clone();
        match call {
            Call::Pending if is_clear => drop(topics.0.remove(topic)),
            Call::Pending => drop(topics.0.insert(topic, Kept { payload, deadline_ms })),
            Call::Ready(StoreOutcome::Busy) => return Ok(()),
            Call::Ready(StoreOutcome::Cleared) if is_clear => {
                let is_over = |kept: &Kept| kept.is_over(now_ms);
                let is_clear = self.topics.vouch(|topics| topics.0.get(topic).is_none_or(is_over));
                return match is_clear {
                    true => Ok(()),
                    false => Err(format!("{topic} is called clear")),
                };
            }
            Call::Ready(other) => return Err(format!("a message to be retained: {other:?}")),
        }
        self.decide_topics(topics, Some(ticket));
        Ok(())
    }

    /// Messages that are over go.
    pub(crate) fn collect(&mut self) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        let (now, now_ms) = (node.now(), self.clock.millis());
        let count = node.retain.collect(now, usize::MAX);
        self.trace.note(&format!("collect: {count}"));
        if count == 0 {
            return Ok(());
        }
        let mut topics = self.topics.now().clone();
        let before = topics.0.len();
        topics.0.retain(|_, kept| !kept.is_over(now_ms));
        // What was cleared after it was over is counted, too.
        if before - topics.0.len() > count {
            return Err(format!(
                "{count} messages were collected, not {}",
                before - topics.0.len()
            ));
        }
        self.decide_topics(topics, None);
        Ok(())
    }

    /// What subscribers are sent now is the latest, durable or not.
    pub(crate) fn check_shelf(&mut self) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        let seen = probe::shelf(&*node.retained, node.now());
        let expected = self.topics.now().shelf(self.clock.millis());
        if seen == expected {
            return Ok(());
        }
        Err(format!("retained is {seen:?}, not {expected:?}"))
    }
}
