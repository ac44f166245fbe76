//! What everybody has acknowledged does not come again, at no QoS, when the broker is killed a good
//! while after.

use super::{Property, Subject, Violation};
use crate::history::{History, What};

pub(super) fn judge(history: &History, violations: &mut Vec<Violation>) {
    let drained = history.events.iter().position(|event| event.what == What::Drained);
    for event in history.events.iter().skip(drained.unwrap_or(usize::MAX)) {
        let (What::Delivered { message, .. } | What::Repeated(message)) = event.what else {
            continue;
        };
        let name = event.client.map_or("nobody", |client| &history.client(client).name);
        let number = history.message(message).number;
        violations.push(Violation {
            property: Property::Settled,
            round: event.round,
            client: event.client,
            subject: Subject::Message(message),
            text: format!("message {number} came to {name} again, who had acknowledged it"),
        });
    }
}
