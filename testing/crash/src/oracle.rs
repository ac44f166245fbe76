//! What must hold in a history, whatever was killed when. One file for each property.
//!
//! An oracle is asked when all is quiet: publishers wait for no acknowledgement, every persistent
//! session is connected, and what was queued had time to come. It knows only what clients saw.

mod conduct;
mod delivery;
mod facts;
mod order;
pub(crate) mod retained;
mod session;
mod settled;
mod will;

#[cfg(test)]
#[path = "oracle/oracle_test.rs"]
mod oracle_test;

use std::fmt;

use crate::history::{ClientIndex, History, MessageIndex, WillIndex};

/// The property that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Property {
    /// What was acknowledged to the publisher reaches every subscription in force.
    Delivery,
    /// QoS 2 comes once.
    ExactlyOnce,
    /// What subscribers acknowledged, and is settled, does not come again.
    Settled,
    /// What was given up by UNSUBACK brings nothing.
    Unsubscribed,
    /// First occurrences of a publisher's messages to a topic ascend.
    Order,
    /// A persistent session is there when its client comes back.
    Session,
    /// The retained message is the last acknowledged one, or one that was sent after it.
    Retained,
    /// Wills of clients that do not come back are sent, others are not.
    Will,
    /// The broker keeps connections open, answers, and sends what was sent to it.
    Conduct,
}

impl Property {
    /// All of them.
    pub const ALL: [Property; 9] = [
        Property::Delivery,
        Property::ExactlyOnce,
        Property::Settled,
        Property::Unsubscribed,
        Property::Order,
        Property::Session,
        Property::Retained,
        Property::Will,
        Property::Conduct,
    ];
}

/// What a violation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A message.
    Message(MessageIndex),
    /// A will.
    Will(WillIndex),
    /// The event with this index.
    Event(usize),
}

/// One breach of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What does not hold.
    pub property: Property,
    /// In which round it began.
    pub round: u32,
    /// Who was wronged; nobody alone if it is a group.
    pub client: Option<ClientIndex>,
    /// What it is about.
    pub subject: Subject,
    /// What happened, in words.
    pub text: String,
}

impl Violation {
    /// Misconduct that was seen at the end, by nobody in particular.
    #[must_use]
    pub fn of_broker(history: &History, text: String) -> Violation {
        Violation {
            property: Property::Conduct,
            round: history.events.last().map_or(0, |event| event.round),
            client: None,
            subject: Subject::Event(history.events.len().saturating_sub(1)),
            text,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, round {}: {}", self.property, self.round, self.text)
    }
}

/// Every breach of every property.
#[must_use]
pub fn judge(history: &History) -> Vec<Violation> {
    let facts = facts::Facts::of(history);
    let mut violations = Vec::new();
    delivery::judge(history, &facts, &mut violations);
    order::judge(history, &facts, &mut violations);
    session::judge(history, &mut violations);
    settled::judge(history, &mut violations);
    retained::judge(history, &mut violations);
    will::judge(history, &facts, &mut violations);
    conduct::judge(history, &mut violations);
    violations
}
