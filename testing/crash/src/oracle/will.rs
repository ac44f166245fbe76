//! The will of a client that does not come back reaches every subscription that was in force since
//! the client was accepted, at least once. The will of one that always came back in time does not.

use std::collections::{HashMap, HashSet};

use super::facts::{Facts, matches, pattern};
use super::{Property, Subject, Violation};
use crate::history::{ClientIndex, History, Promise, What, WillIndex};

pub(super) fn judge(history: &History, facts: &Facts, violations: &mut Vec<Violation>) {
    let mut set: HashMap<WillIndex, (usize, u32)> = HashMap::new();
    let mut came: HashSet<(ClientIndex, WillIndex)> = HashSet::new();
    for (index, event) in history.events.iter().enumerate() {
        match (&event.what, event.client) {
            (What::WillSet(will), _) => {
                set.entry(*will).or_insert((index, event.round));
            }
            (What::WillDelivered(will), Some(client)) => {
                came.insert((client, *will));
            }
            _ => {}
        }
    }
    let mut set: Vec<_> = set.into_iter().collect();
    set.sort_unstable();
    for (index, (since, round)) in set {
        let will = history.will(index);
        for (filter_index, filter) in history.filters.iter().enumerate() {
            let is_matching = matches(pattern(filter), &will.topic);
            if !is_matching || !facts.is_in_since(filter_index, since) {
                continue;
            }
            let name = &history.client(filter.client).name;
            let (kind, topic) = (will.kind, &will.topic);
            let text = match (will.promise, came.contains(&(filter.client, index))) {
                (Promise::Sent, false) => format!("the will {topic} ({kind}) never reached {name}"),
                (Promise::Kept, true) => {
                    format!(
                        "the will {topic} ({kind}) reached {name} although its client came back"
                    )
                }
                _ => continue,
            };
            violations.push(Violation {
                property: Property::Will,
                round,
                client: Some(filter.client),
                subject: Subject::Will(index),
                text,
            });
        }
    }
}
