//! A persistent session that was accepted once is there whenever its client comes back; one that
//! was never asked for is not.

use super::{Property, Subject, Violation};
use crate::history::{History, What};

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// CONNECTs without an answer so far: the broker may have made a session for one of them.
    unanswered: u32,
    is_accepted: bool,
}

pub(super) fn judge(history: &History, violations: &mut Vec<Violation>) {
    let mut known = vec![Known::default(); history.clients.len()];
    for (index, event) in history.events.iter().enumerate() {
        let Some(client) = event.client.filter(|client| history.client(*client).is_persistent)
        else {
            continue;
        };
        let known = &mut known[client.0 as usize];
        match event.what {
            What::ConnectSent { .. } => known.unanswered += 1,
            What::Connected { is_present } => {
                let name = &history.client(client).name;
                let text = match is_present {
                    false if known.is_accepted => format!("the session of {name} is gone"),
                    true if !known.is_accepted && known.unanswered == 1 => {
                        format!("{name} is told of a session that it never had")
                    }
                    _ => String::new(),
                };
                *known = Known { unanswered: 0, is_accepted: true };
                if !text.is_empty() {
                    violations.push(Violation {
                        property: Property::Session,
                        round: event.round,
                        client: Some(client),
                        subject: Subject::Event(index),
                        text,
                    });
                }
            }
            _ => {}
        }
    }
}
