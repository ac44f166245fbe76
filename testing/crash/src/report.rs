//! What a violation looks like to people: the seed, the round, what was lost, and its timeline.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::history::{ClientIndex, Event, History, What};
use crate::oracle::{Property, Subject, Violation};

/// Violations of one property that are shown with their timeline; of the others only the count.
const SHOWN_MAX: usize = 3;
const LINES_MAX: usize = 60;
/// Lines behind the last one that is about the subject.
const LINES_AFTER_MAX: usize = 6;

/// All violations: how many of each property, and the first ones with their timeline.
#[must_use]
pub fn report(history: &History, violations: &[Violation], seed: u64) -> String {
    let mut counts: BTreeMap<Property, usize> = BTreeMap::new();
    let mut text = String::new();
    for violation in violations {
        let count = counts.entry(violation.property).or_default();
        *count += 1;
        if *count <= SHOWN_MAX {
            let _ = writeln!(text, "seed {seed}, {violation}");
            text.push_str(&timeline(history, violation));
        }
    }
    for (property, count) in counts {
        let _ = writeln!(text, "{property:?}: {count} violations");
    }
    text
}

/// What happened to the subject, and to the connections of who was concerned.
#[must_use]
pub fn timeline(history: &History, violation: &Violation) -> String {
    let is_subject = |index: usize, event: &Event| match violation.subject {
        Subject::Message(message) => event.what.message() == Some(message),
        Subject::Will(will) => {
            matches!(event.what, What::WillSet(it) | What::WillDelivered(it) if it == will)
        }
        Subject::Event(subject) => subject == index,
    };
    let events = || history.events.iter().enumerate();
    let mut concerned: Vec<ClientIndex> = violation.client.into_iter().collect();
    concerned.extend(
        events().filter(|(at, event)| is_subject(*at, event)).filter_map(|(_, event)| event.client),
    );
    let first = events().find(|(at, event)| is_subject(*at, event)).map_or(0, |(at, _)| at);
    let last = events().rfind(|(at, event)| is_subject(*at, event)).map_or(first, |(at, _)| at);
    // Where the wronged client stood when it began.
    let is_own = |event: &Event| event.client.is_some() && event.client == violation.client;
    let mut before =
        events().take(first).filter(|(_, event)| is_own(event) && is_life(&event.what));
    let from = before.next_back().map_or(first, |(at, _)| at);
    let mut lines = String::new();
    let (mut count, mut after) = (0, 0);
    for (at, event) in events().skip(from) {
        let is_shown = is_subject(at, event)
            || event.client.is_none()
            || (event.client.is_some_and(|client| concerned.contains(&client))
                && is_life(&event.what));
        if !is_shown {
            continue;
        }
        count += 1;
        if at > last {
            after += 1;
        }
        if count > LINES_MAX || after > LINES_AFTER_MAX {
            lines.push_str("    …\n");
            break;
        }
        let who = event.client.map_or("broker", |client| &history.client(client).name);
        let (round, at) = (event.round, event.at);
        let _ =
            writeln!(lines, "    round {round} {at:>10.3?} {who}: {}", show(history, &event.what));
    }
    lines
}

/// Whether an event is about a client's connection or subscriptions.
fn is_life(what: &What) -> bool {
    matches!(
        what,
        What::Connected { .. }
            | What::Left
            | What::Cut
            | What::Dropped(_)
            | What::Stalled(_)
            | What::Subscribing(_)
            | What::Subscribed(_)
            | What::Unsubscribing(_)
            | What::Unsubscribed(_)
    )
}

fn show(history: &History, what: &What) -> String {
    match what {
        What::Subscribing(filter)
        | What::Subscribed(filter)
        | What::Unsubscribing(filter)
        | What::Unsubscribed(filter) => format!("{what:?} {}", history.filter(*filter).text),
        What::WillSet(will) | What::WillDelivered(will) => {
            format!("{what:?} {}", history.will(*will).kind)
        }
        _ => format!("{what:?}"),
    }
}
