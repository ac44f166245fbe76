//! The broker answers in time, closes no connection while it lives, refuses nothing that is within
//! its limits, and sends what it was sent.

use super::{Property, Subject, Violation};
use crate::history::{History, What};

pub(super) fn judge(history: &History, violations: &mut Vec<Violation>) {
    for (index, event) in history.events.iter().enumerate() {
        let name = || event.client.map_or("the broker", |client| &history.client(client).name);
        let text = match &event.what {
            What::Dropped(why) => format!("the connection of {} was ended: {why}", name()),
            What::Stalled(what) => format!("{} waited in vain for {what}", name()),
            What::Foreign(what) => format!("{} was sent what nobody sent: {what}", name()),
            What::Refused(message, code) => {
                let number = history.message(*message).number;
                format!("message {number} of {} was refused with {code:#04x}", name())
            }
            _ => continue,
        };
        violations.push(Violation {
            property: Property::Conduct,
            round: event.round,
            client: event.client,
            subject: Subject::Event(index),
            text,
        });
    }
    if history.open > 0 {
        violations.push(Violation {
            property: Property::Conduct,
            round: history.events.last().map_or(0, |event| event.round),
            client: None,
            subject: Subject::Event(history.events.len() - 1),
            text: format!("{} messages were not acknowledged", history.open),
        });
    }
}
