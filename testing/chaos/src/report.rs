//! A run for people: a line for each round, a table of all, and what did not hold with its timeline.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use ratatosk_crash::history::What;
use ratatosk_crash::oracle::Property;
use ratatosk_crash::report;

use crate::figures::{Figures, percentile};
use crate::rounds::Outcome;

/// Ends of connections that are shown.
const SHOWN_MAX: usize = 10;

/// One round.
#[must_use]
pub fn line(figures: &Figures) -> String {
    let mut text = format!("round {:>2}  {:<44}", figures.round, figures.act);
    let _ = write!(
        text,
        " sent {:>5}  acked {:>5}  lost {}  twice {}  dropped {}  refused {:>2}  turned away {:>3}",
        figures.sent,
        figures.acked,
        figures.count(Property::Delivery),
        figures.count(Property::ExactlyOnce),
        figures.dropped,
        figures.refused,
        figures.turned_away,
    );
    let _ = write!(
        text,
        "  outage {} max {}",
        shown(&figures.outages, 50),
        shown(&figures.outages, 100)
    );
    if figures.twice_transient > 0 {
        let _ = write!(text, "  twice to transient sessions {}", figures.twice_transient);
    }
    if !figures.wills.is_empty() {
        let _ = write!(text, "  wills {} in {}", figures.wills.len(), shown(&figures.wills, 100));
    }
    if let Some(span) = figures.settled {
        let _ = write!(text, "  even after {span:.1?}");
    }
    text
}

fn shown(values: &[Duration], percent: usize) -> String {
    format!("{:.0?}", percentile(values, percent))
}

/// All rounds together.
#[must_use]
pub fn summary(outcome: &Outcome) -> String {
    let rounds = &outcome.rounds;
    let sum = |of: fn(&Figures) -> usize| rounds.iter().map(of).sum::<usize>();
    let all = |of: fn(&Figures) -> &Vec<Duration>| -> Vec<Duration> {
        rounds.iter().flat_map(of).copied().collect()
    };
    let (outages, wills) = (all(|it| &it.outages), all(|it| &it.wills));
    let broken = |property| rounds.iter().map(|it| it.count(property)).sum::<usize>();
    let mut text = String::new();
    let mut row = |name: &str, value: String| _ = writeln!(text, "{name:<44} {value}");
    row("rounds", rounds.len().to_string());
    row("messages sent, acknowledged", format!("{}, {}", sum(|it| it.sent), sum(|it| it.acked)));
    row("acknowledged messages lost", broken(Property::Delivery).to_string());
    row("QoS 2 messages that came twice", broken(Property::ExactlyOnce).to_string());
    row("of them to transient sessions", sum(|it| it.twice_transient).to_string());
    row("connections to other nodes that ended", sum(|it| it.dropped).to_string());
    row("messages refused, which may be", sum(|it| it.refused).to_string());
    row("attempts to be let in that failed", sum(|it| it.turned_away).to_string());
    row("out of order", broken(Property::Order).to_string());
    row("sessions lost, retained wrong, wills wrong", {
        let [sessions, retained, wills] =
            [Property::Session, Property::Retained, Property::Will].map(broken);
        format!("{sessions}, {retained}, {wills}")
    });
    row("other breaches", {
        let others = [Property::Settled, Property::Unsubscribed, Property::Conduct];
        others.map(broken).iter().sum::<usize>().to_string()
    });
    row("without acknowledgement: p50, p99, max", spans(&outages));
    row("wills of a dead node's clients: p50, p99, max", spans(&wills));
    row("wills that came again, which may be", outcome.history.wills_again().to_string());
    text
}

fn spans(values: &[Duration]) -> String {
    if values.is_empty() {
        return "none".to_owned();
    }
    let [p50, p99, max] = [50, 99, 100].map(|percent| shown(values, percent));
    format!("{p50}, {p99}, {max}")
}

/// What did not hold.
#[must_use]
pub fn breaches(outcome: &Outcome) -> String {
    let mut text = report::report(&outcome.history, &outcome.violations, outcome.seed);
    text.push_str(&by_client(outcome));
    let dropped = outcome.history.events.iter().filter_map(|event| match &event.what {
        What::Dropped(why) => Some((event, why)),
        _ => None,
    });
    for (event, why) in dropped.take(SHOWN_MAX) {
        let client = event.client.map(|client| outcome.history.client(client).name.as_str());
        let who = client.unwrap_or("nobody");
        let _ = writeln!(
            text,
            "round {} {:?}: {who} lost its connection: {why}",
            event.round, event.at
        );
    }
    text
}

/// All that happened, a line each, and all that did not hold.
#[must_use]
pub fn history(outcome: &Outcome) -> String {
    let history = &outcome.history;
    let mut text = String::new();
    for event in &history.events {
        let who = event.client.map_or("nodes", |client| &history.client(client).name);
        let (round, at, what) = (event.round, event.at.as_secs_f64(), &event.what);
        let _ = writeln!(text, "{round} {at:.4} {who}: {what:?}");
    }
    for (index, message) in history.messages.iter().enumerate() {
        let _ = writeln!(text, "message {index}: {message:?}");
    }
    for violation in &outcome.violations {
        let _ = writeln!(text, "{violation:?}");
    }
    text
}

/// Who was wronged how often.
fn by_client(outcome: &Outcome) -> String {
    let mut counts: BTreeMap<(Property, &str), usize> = BTreeMap::new();
    for violation in &outcome.violations {
        let client = violation.client.map(|client| outcome.history.client(client).name.as_str());
        *counts.entry((violation.property, client.unwrap_or("several"))).or_default() += 1;
    }
    let mut text = String::new();
    for ((property, client), count) in counts {
        let _ = writeln!(text, "{property:?}, {client}: {count}");
    }
    text
}

#[cfg(test)]
mod tests {
    use ratatosk_crash::history::History;

    use super::*;

    #[test]
    fn a_round_is_one_line_with_all_that_must_be_zero() {
        let figures = Figures {
            round: 3,
            act: "kill node 1 for 2.0s".to_owned(),
            sent: 12,
            acked: 11,
            dropped: 4,
            violations: BTreeMap::from([(Property::Delivery, 2), (Property::ExactlyOnce, 1)]),
            outages: vec![Duration::from_millis(30), Duration::from_millis(900)],
            wills: vec![Duration::from_secs(2)],
            settled: Some(Duration::from_secs(1)),
            ..Figures::default()
        };
        let line = line(&figures);
        for part in [
            "round  3",
            "lost 2",
            "twice 1",
            "dropped 4",
            "30ms max 900ms",
            "wills 1 in 2s",
            "even after 1.0s",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        let (history, violations) = (History::default(), Vec::new());
        let outcome = Outcome { history, violations, rounds: vec![figures], seed: 1 };
        let table = summary(&outcome);
        assert!(table.contains("30ms, 900ms, 900ms"), "{table}");
        assert!(!outcome.is_good());
    }
}
