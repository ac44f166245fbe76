//! What a round came to: counted and measured from the history, which knows only what clients saw.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ratatosk_crash::history::{ClientIndex, Event, History, What, WillIndex};
use ratatosk_crash::oracle::{Property, Subject, Violation};

/// A stretch of the history, by the indices of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When the round began.
    pub begin: usize,
    /// When the harm began.
    pub harm: usize,
    /// When publishers were told to stop, long after the harm.
    pub calm: usize,
    /// When all was taken.
    pub end: usize,
}

/// What a round came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Which round.
    pub round: u32,
    /// What was done.
    pub act: String,
    /// Messages that were sent, and that were acknowledged.
    pub sent: usize,
    /// See above.
    pub acked: usize,
    /// Clients of nodes that nothing was done to, and lost their connection.
    pub dropped: usize,
    /// Attempts to be let in that came to nothing, which is not forbidden.
    pub turned_away: usize,
    /// Messages that were refused, which a publisher is told and may try again.
    pub refused: usize,
    /// Breaches by property.
    pub violations: BTreeMap<Property, usize>,
    /// Of those who had a message of QoS 2 twice: sessions that end with their connection.
    pub twice_transient: usize,
    /// Of each publisher: the longest time without any acknowledgement, from the harm on.
    pub outages: Vec<Duration>,
    /// Of each will of a client that was at a node which died: from the death until somebody had it.
    pub wills: Vec<Duration>,
    /// How long it took after the harm until all replicas were there and leaders were even; `None` if
    /// there is one node alone.
    pub settled: Option<Duration>,
}

impl Figures {
    /// Counts and measures. `victims` are the nodes whose clients lost them at once.
    #[must_use]
    pub fn of(
        history: &History,
        window: Window,
        victims: &[usize],
        violations: &[Violation],
    ) -> Figures {
        let events = &history.events[window.begin..window.end];
        let count =
            |is_meant: fn(&What) -> bool| events.iter().filter(|it| is_meant(&it.what)).count();
        let mut figures = Figures {
            sent: count(|what| matches!(what, What::Sent { is_again: false, .. })),
            acked: count(|what| matches!(what, What::Acked(_))),
            dropped: count(|what| matches!(what, What::Dropped(_))),
            turned_away: count(|what| matches!(what, What::TurnedAway(_))),
            refused: count(|what| matches!(what, What::Refused(..))),
            outages: outages(history, window),
            wills: wills(history, window, victims),
            ..Figures::default()
        };
        let is_transient = |client: Option<ClientIndex>| {
            client.is_some_and(|it| !history.client(it).is_persistent)
        };
        for violation in violations {
            let is_twice = violation.property == Property::ExactlyOnce;
            figures.twice_transient += usize::from(is_twice && is_transient(violation.client));
            *figures.violations.entry(violation.property).or_default() += 1;
        }
        figures
    }

    /// Whether all holds that must hold.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.dropped == 0
    }

    /// How often a property was broken.
    #[must_use]
    pub fn count(&self, property: Property) -> usize {
        self.violations.get(&property).copied().unwrap_or(0)
    }
}

/// Whether a violation is no more than a message that was refused: what one broker has no reason for,
/// several may have while nobody leads.
#[must_use]
pub fn is_refusal(history: &History, violation: &Violation) -> bool {
    let Subject::Event(event) = violation.subject else { return false };
    matches!(history.events.get(event), Some(Event { what: What::Refused(..), .. }))
}

/// Of each publisher, the longest time from the harm, or one of its acknowledgements, to the next, or
/// the end.
fn outages(history: &History, window: Window) -> Vec<Duration> {
    let events = &history.events[window.harm..window.calm];
    let (Some(first), Some(last)) = (events.first(), events.last()) else { return Vec::new() };
    // Each publisher's last acknowledgement, and its longest time without.
    let mut spans: BTreeMap<ClientIndex, (Duration, Duration)> = BTreeMap::new();
    for message in &history.messages {
        spans.insert(message.publisher, (first.at, Duration::ZERO));
    }
    let is_ack = |event: &&Event| matches!(event.what, What::Acked(_));
    for event in events.iter().filter(is_ack) {
        if let Some(span) = event.client.and_then(|client| spans.get_mut(&client)) {
            extend(span, event.at);
        }
    }
    spans.values_mut().for_each(|span| extend(span, last.at));
    spans.into_values().map(|(_, longest)| longest).collect()
}

fn extend((since, longest): &mut (Duration, Duration), at: Duration) {
    *longest = at.saturating_sub(*since).max(*longest);
    *since = at;
}

/// From the harm to the first delivery of each will whose client was at a victim.
fn wills(history: &History, window: Window, victims: &[usize]) -> Vec<Duration> {
    let Some(harm) = history.events.get(window.harm) else { return Vec::new() };
    let doors = doors(&history.events[..window.harm]);
    let mut due: HashMap<WillIndex, Option<Duration>> = HashMap::new();
    for event in &history.events[..window.harm] {
        let (What::WillSet(will), Some(client)) = (&event.what, event.client) else { continue };
        let is_victim = doors.get(&client).is_some_and(|door| victims.contains(door));
        if is_victim {
            due.insert(*will, None);
        }
    }
    for event in &history.events[window.harm..window.end] {
        let What::WillDelivered(will) = event.what else { continue };
        if let Some(came) = due.get_mut(&will) {
            came.get_or_insert(event.at.saturating_sub(harm.at));
        }
    }
    let mut came: Vec<Duration> = due.into_values().flatten().collect();
    came.sort_unstable();
    came
}

/// Where clients are connected at the end of some events.
fn doors(events: &[Event]) -> HashMap<ClientIndex, usize> {
    let (mut asked, mut connected) = (HashMap::new(), HashMap::new());
    for event in events {
        let Some(client) = event.client else { continue };
        match event.what {
            What::ConnectSent { door } => {
                asked.insert(client, door);
            }
            What::Connected { .. } => {
                connected.extend(asked.get(&client).map(|door| (client, *door)));
            }
            What::Left | What::Cut | What::Dropped(_) | What::Stalled(_) => {
                connected.remove(&client);
            }
            _ => {}
        }
    }
    connected
}

/// The value that so many percent do not exceed; zero if there is none.
#[must_use]
pub fn percentile(values: &[Duration], percent: usize) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ratatosk_codec::Qos;
    use ratatosk_crash::history::{Message, MessageIndex, Promise, Retention};
    use ratatosk_crash::oracle::judge;

    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn publishes(history: &mut History, publisher: ClientIndex, at: u64, acked: u64) {
        let (number, qos, retention) = (1, Qos::AtLeastOnce, Retention::None);
        let topic = "load/a".to_owned();
        let message = Message { publisher, number, topic, qos, retention };
        let message: MessageIndex = history.add_message(message);
        history.record(ms(at), Some(publisher), What::Sent { message, is_again: false });
        history.record(ms(acked), Some(publisher), What::Acked(message));
    }

    #[test]
    fn an_outage_is_the_longest_time_without_an_acknowledgement() {
        let mut history = History::default();
        let (one, other) = (history.add_client("one", true), history.add_client("other", true));
        publishes(&mut history, one, 10, 20);
        let harm = history.events.len();
        history.record(ms(100), None, What::Harmed("x".to_owned()));
        publishes(&mut history, one, 110, 130);
        publishes(&mut history, other, 110, 400);
        publishes(&mut history, one, 500, 830);
        history.record(ms(900), None, What::Healed("x".to_owned()));
        let calm = history.events.len();
        let window = Window { begin: 0, harm, calm, end: calm };
        assert_eq!(outages(&history, window), [ms(700), ms(500)]);
        let figures = Figures::of(&history, window, &[], &[]);
        assert_eq!((figures.sent, figures.acked, figures.is_good()), (4, 4, true));
    }

    #[test]
    fn wills_of_clients_at_a_node_that_died_are_timed() {
        let mut history = History::default();
        let mut wills_of = Vec::new();
        for door in [0, 1] {
            let client = history.add_client("mortal", true);
            let will = history.add_will(Promise::Sent, "a will");
            history.record(ms(1), Some(client), What::ConnectSent { door });
            history.record(ms(2), Some(client), What::Connected { is_present: false });
            history.record(ms(2), Some(client), What::WillSet(will));
            wills_of.push(will);
        }
        let heir = history.add_client("heir", true);
        let harm = history.events.len();
        history.record(ms(10), None, What::Harmed("x".to_owned()));
        for (will, at) in [(wills_of[1], 40), (wills_of[0], 70), (wills_of[0], 90)] {
            history.record(ms(at), Some(heir), What::WillDelivered(will));
        }
        let end = history.events.len();
        let window = Window { begin: 0, harm, calm: end, end };
        assert_eq!(wills(&history, window, &[0]), [ms(60)]);
        assert_eq!(wills(&history, window, &[]), []);
    }

    #[test]
    fn connections_that_nobody_harmed_are_counted_and_are_not_good() {
        let mut history = History::default();
        let client = history.add_client("somebody", true);
        history.record(ms(1), None, What::Harmed("x".to_owned()));
        history.record(ms(2), Some(client), What::Dropped("why".to_owned()));
        history.record(ms(3), Some(client), What::TurnedAway("why".to_owned()));
        let window = Window { begin: 0, harm: 0, calm: 3, end: 3 };
        let figures = Figures::of(&history, window, &[], &[]);
        assert_eq!((figures.dropped, figures.turned_away, figures.is_good()), (1, 1, false));
    }

    #[test]
    fn a_refusal_is_counted_and_is_no_breach() {
        let mut history = History::default();
        let client = history.add_client("somebody", true);
        publishes(&mut history, client, 1, 2);
        history.record(
            ms(3),
            Some(client),
            What::Sent { message: MessageIndex(0), is_again: false },
        );
        history.record(ms(4), Some(client), What::Refused(MessageIndex(0), 0x83));
        history.record(ms(5), Some(client), What::Stalled("PUBACK".to_owned()));
        let judged = judge(&history);
        let refusals = judged.iter().filter(|it| is_refusal(&history, it));
        assert_eq!((refusals.count(), judged.len()), (1, 2), "{judged:?}");
        let window = Window { begin: 0, harm: 0, calm: 5, end: 5 };
        assert_eq!(Figures::of(&history, window, &[], &[]).refused, 1);
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<Duration> = (1..=100).rev().map(ms).collect();
        assert_eq!(percentile(&values, 50), ms(50));
        assert_eq!(percentile(&values, 99), ms(99));
        assert_eq!(percentile(&values, 100), ms(100));
        assert_eq!(percentile(&values[..1], 50), ms(100));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
