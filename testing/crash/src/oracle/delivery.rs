//! What was acknowledged is delivered, QoS 2 once; what was unsubscribed brings nothing.
//!
//! A message must reach a subscription that was in force from its first PUBLISH to its
//! acknowledgement. It must not reach a client none of whose matching subscriptions was in force
//! at any time from its first PUBLISH to its acknowledgement. A group is one subscriber. A session that
//! ends with its connection is owed nothing, as that may be over before the message comes; and what was
//! brought again may be on its way to it from the node that had it first, whoever acknowledged it.

use std::collections::BTreeMap;

use ratatosk_codec::Qos;

use super::facts::{Facts, Fate, matches, pattern};
use super::{Property, Subject, Violation};
use crate::history::{ClientIndex, History, MessageIndex, Retention};

/// Who is owed messages together: a client, or a group.
struct Receiver {
    name: String,
    members: Vec<ClientIndex>,
    filters: Vec<usize>,
}

pub(super) fn judge(history: &History, facts: &Facts, violations: &mut Vec<Violation>) {
    let receivers = receivers(history);
    let fates = facts.fates.iter().enumerate();
    let sent = fates.filter_map(|(index, fate)| Some((index, fate.as_ref()?)));
    for (index, fate) in sent {
        let message = MessageIndex(u32::try_from(index).unwrap_or(u32::MAX));
        if history.message(message).retention != Retention::None {
            continue;
        }
        for receiver in &receivers {
            judge_one(history, facts, receiver, (message, fate), violations);
        }
    }
}

fn judge_one(
    history: &History,
    facts: &Facts,
    receiver: &Receiver,
    (index, fate): (MessageIndex, &Fate),
    violations: &mut Vec<Violation>,
) {
    let message = history.message(index);
    let is_matching = |filter: &usize| matches(pattern(&history.filters[*filter]), &message.topic);
    let matching: Vec<usize> = receiver.filters.iter().copied().filter(is_matching).collect();
    let counts = receiver.members.iter().map(|client| facts.count(*client, index));
    let (all, exactly_once) = counts.fold((0, 0), |(all, exactly_once), count| {
        (all + count.all, exactly_once + count.exactly_once)
    });
    let is_lasting = |client: &ClientIndex| history.client(*client).is_persistent;
    let has_lasting = receiver.members.iter().any(is_lasting);
    let is_owed = fate.acked.is_some()
        && has_lasting
        && matching.iter().any(|filter| facts.is_in(*filter, fate));
    let may_be_late = fate.is_again && !has_lasting;
    let is_unwanted = !may_be_late && matching.iter().all(|filter| facts.is_out(*filter, fate));
    let name = &receiver.name;
    let publisher = &history.client(message.publisher).name;
    let what = format!("message {} of {publisher} to {}", message.number, message.topic);
    let (property, text) = if is_owed && all == 0 {
        (Property::Delivery, format!("{what} was acknowledged and never reached {name}"))
    } else if is_unwanted && all > 0 {
        (Property::Unsubscribed, format!("{what} reached {name}, who has not subscribed to it"))
    } else if exactly_once > 1 {
        (Property::ExactlyOnce, format!("{what} reached {name} {exactly_once} times at QoS 2"))
    } else {
        return;
    };
    let client = match receiver.members.as_slice() {
        [alone] => Some(*alone),
        _ => None,
    };
    let subject = Subject::Message(index);
    violations.push(Violation { property, round: fate.round, client, subject, text });
}

/// Clients that subscribe, those with filters of a group as one.
fn receivers(history: &History) -> Vec<Receiver> {
    let mut receivers = BTreeMap::new();
    for (index, filter) in history.filters.iter().enumerate() {
        let name = match filter.text.starts_with("$share/") {
            true => format!("the group {}", filter.text),
            false => history.client(filter.client).name.clone(),
        };
        let new = || Receiver { name: name.clone(), members: Vec::new(), filters: Vec::new() };
        let receiver: &mut Receiver = receivers.entry(name.clone()).or_insert_with(new);
        receiver.filters.push(index);
        if !receiver.members.contains(&filter.client) {
            receiver.members.push(filter.client);
        }
    }
    receivers.into_values().collect()
}

/// The QoS at which a client is sent a message, if one filter alone decides it.
pub(super) fn qos_due(
    history: &History,
    client: ClientIndex,
    message: MessageIndex,
) -> Option<Qos> {
    let message = history.message(message);
    let own = history.filters.iter().filter(|filter| filter.client == client);
    let mut matching = own.filter(|filter| matches(pattern(filter), &message.topic));
    let filter = matching.next()?;
    matching.next().is_none().then(|| filter.qos.min(message.qos))
}
