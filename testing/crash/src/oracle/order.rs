//! For each subscriber, first occurrences of a publisher's messages to one topic ascend, and each
//! comes at the QoS of the subscription: one that was restored is as it was.
//!
//! Members of a group are left out: what one could not take, another gets later. So is a message
//! that was on its way while the subscription changed: its first PUBLISH may have come too early
//! for it, and the repetition comes behind a later message that was in time. A session that ends with its
//! connection may have lost the first PUBLISH on the way from another node, and have the repetition alone.

use std::collections::{HashMap, HashSet};

use super::delivery::qos_due;
use super::facts::{Delivery, Facts};
use super::{Property, Subject, Violation};
use crate::history::{ClientIndex, History, MessageIndex};

pub(super) fn judge(history: &History, facts: &Facts, violations: &mut Vec<Violation>) {
    let in_groups: HashSet<ClientIndex> = history
        .filters
        .iter()
        .filter(|filter| filter.text.starts_with("$share/"))
        .map(|filter| filter.client)
        .collect();
    for (index, deliveries) in facts.deliveries.iter().enumerate() {
        let client = ClientIndex(u32::try_from(index).unwrap_or(u32::MAX));
        if !in_groups.contains(&client) {
            judge_client(history, facts, client, violations);
        }
        for delivery in deliveries {
            judge_qos(history, client, delivery, violations);
        }
    }
}

fn judge_client(
    history: &History,
    facts: &Facts,
    client: ClientIndex,
    violations: &mut Vec<Violation>,
) {
    let mut seen: HashSet<MessageIndex> = HashSet::new();
    let mut last: HashMap<(ClientIndex, &str), MessageIndex> = HashMap::new();
    let is_lasting = history.client(client).is_persistent;
    for delivery in &facts.deliveries[client.0 as usize] {
        let is_first = seen.insert(delivery.message);
        let fate = facts.fates[delivery.message.0 as usize];
        let may_be_late = !is_lasting && fate.is_some_and(|fate| fate.is_again);
        if !is_first || may_be_late || !facts.is_subscribed(history, client, delivery.message) {
            continue;
        }
        let message = history.message(delivery.message);
        let key = (message.publisher, message.topic.as_str());
        let last = last.entry(key).or_insert(delivery.message);
        // The numbers of one publisher ascend as the indices do.
        if delivery.message < *last {
            let publisher = &history.client(message.publisher).name;
            let (number, topic) = (message.number, &message.topic);
            let later = history.message(*last).number;
            let text = format!(
                "message {number} of {publisher} to {topic} reached {} after message {later}",
                history.client(client).name
            );
            violations.push(Violation {
                property: Property::Order,
                round: history.events[delivery.event].round,
                client: Some(client),
                subject: Subject::Message(delivery.message),
                text,
            });
        }
        *last = delivery.message.max(*last);
    }
}

fn judge_qos(
    history: &History,
    client: ClientIndex,
    delivery: &Delivery,
    violations: &mut Vec<Violation>,
) {
    let due = qos_due(history, client, delivery.message);
    if let Some(due) = due.filter(|due| *due != delivery.qos) {
        let name = &history.client(client).name;
        let text = format!("{name} was sent a message at {:?} instead of {due:?}", delivery.qos);
        violations.push(Violation {
            property: Property::Conduct,
            round: history.events[delivery.event].round,
            client: Some(client),
            subject: Subject::Message(delivery.message),
            text,
        });
    }
}
