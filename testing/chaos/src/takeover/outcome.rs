//! Races for people: a line for each hundred, a table of all, and what did not hold.

use std::fmt::Write as _;
use std::time::Duration;

use ratatosk_crash::history::{History, What};

use super::duel::Races;
use super::verdict::{Breach, Judge, Kind};
use crate::figures::percentile;

/// Breaches that are shown.
const SHOWN_MAX: usize = 20;

/// What came of the races.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What decided.
    pub seed: u64,
    /// Races, and those that were over in calm.
    pub races: [u32; 2],
    /// How often a node was cut off.
    pub storms: u32,
    /// Connections that were replaced, and of them: told so, or closed without a word.
    pub replaced: [usize; 3],
    /// Deeds that they began after they were replaced.
    pub tried: usize,
    /// Messages that were sent, and that were acknowledged.
    pub messages: [usize; 2],
    /// From CONNECT to CONNACK, of whoever took a session over in calm.
    pub spans: Vec<Duration>,
    /// What must not be.
    pub breaches: Vec<Breach>,
}

impl Outcome {
    pub(super) fn new(
        races: &Races,
        judges: &[Judge],
        history: &History,
        (seed, storms, panics): (u64, u32, Vec<String>),
    ) -> Outcome {
        let conduct = |text: String| Breach { kind: Kind::Conduct, is_stormy: false, text };
        let mut breaches: Vec<Breach> =
            judges.iter().flat_map(|judge| judge.breaches.iter().cloned()).collect();
        breaches.extend(races.faults.borrow().iter().cloned().map(conduct));
        breaches.extend(panics.into_iter().map(conduct));
        let count = |is: fn(&What) -> bool| history.events.iter().filter(|it| is(&it.what)).count();
        Outcome {
            seed,
            races: [races.done.get(), races.calm.get()],
            storms,
            replaced: sum(judges),
            tried: judges.iter().map(|judge| judge.tried).sum(),
            messages: [
                count(|what| matches!(what, What::Sent { is_again: false, .. })),
                count(|what| matches!(what, What::Acked(_))),
            ],
            spans: races.spans.borrow().clone(),
            breaches,
        }
    }

    /// Whether all holds that must hold.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.breaches.is_empty()
    }

    /// How often something did not hold, in calm and otherwise.
    #[must_use]
    pub fn count(&self, kind: Kind) -> [usize; 2] {
        count(self.breaches.iter(), kind)
    }

    /// A table of all.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String| _ = writeln!(text, "{name:<52} {value}");
        let [races, calm] = self.races;
        row("races, over in calm", format!("{races}, {calm}"));
        row("times that a node was cut off", self.storms.to_string());
        let [replaced, told, closed] = self.replaced;
        row("connections replaced, told so, closed", format!("{replaced}, {told}, {closed}"));
        let [sent, acked] = self.messages;
        row("messages sent, acknowledged", format!("{sent}, {acked}"));
        row("deeds begun by who was replaced", self.tried.to_string());
        for (kind, name) in NAMES {
            let [calm, stormy] = self.count(kind);
            row(name, format!("{calm} in calm, {stormy} while cut off"));
        }
        row("to take a session over, in calm: p50, p99, max", spans(&self.spans));
        text
    }

    /// What did not hold.
    #[must_use]
    pub fn breaches(&self) -> String {
        let mut text = format!("seed {}\n", self.seed);
        for breach in self.breaches.iter().take(SHOWN_MAX) {
            let when = if breach.is_stormy { "while cut off" } else { "in calm" };
            let _ = writeln!(text, "{:?} {when}: {}", breach.kind, breach.text);
        }
        text
    }
}

const NAMES: [(Kind, &str); 8] = [
    (Kind::ActedLate, "of them, acknowledged"),
    (Kind::DeliveredLate, "messages that came to who was replaced"),
    (Kind::NotTold, "replaced, and not told"),
    (Kind::EndedForNobody, "ended though nobody came"),
    (Kind::Lost, "acknowledged messages lost"),
    (Kind::Twice, "QoS 2 messages that came twice"),
    (Kind::Order, "out of order"),
    (Kind::Conduct, "other breaches"),
];

/// What holds after another hundred races.
pub(super) fn line(races: &Races, judges: &[Judge]) -> String {
    let mut text = format!("race {:>5}  in calm {:>5}", races.done.get(), races.calm.get());
    let [replaced, told, closed] = sum(judges);
    let _ = write!(text, "  replaced {replaced:>5}  told {told:>5}  closed {closed:>3}");
    for (kind, word) in [
        (Kind::ActedLate, "acted late"),
        (Kind::DeliveredLate, "delivered late"),
        (Kind::NotTold, "not told"),
        (Kind::Twice, "twice"),
        (Kind::Order, "out of order"),
    ] {
        let [calm, stormy] = count(judges.iter().flat_map(|judge| &judge.breaches), kind);
        let _ = write!(text, "  {word} {calm}+{stormy}");
    }
    let _ = write!(text, "  take-over {}", spans(&races.spans.borrow()));
    text
}

fn sum(judges: &[Judge]) -> [usize; 3] {
    [0, 1, 2].map(|index| judges.iter().map(|judge| judge.replaced[index]).sum())
}

fn count<'a>(breaches: impl Iterator<Item = &'a Breach>, kind: Kind) -> [usize; 2] {
    let mut counts = [0, 0];
    for breach in breaches.filter(|breach| breach.kind == kind) {
        counts[usize::from(breach.is_stormy)] += 1;
    }
    counts
}

fn spans(values: &[Duration]) -> String {
    if values.is_empty() {
        return "none".to_owned();
    }
    let [p50, p99, max] =
        [50, 99, 100].map(|percent| format!("{:.1?}", percentile(values, percent)));
    format!("{p50}, {p99}, {max}")
}
