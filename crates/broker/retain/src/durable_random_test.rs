//! Random histories of retained messages: crashes and restarts against a naive reader of the log.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use ratatosk_client::Keyspace;
use ratatosk_clock::Instant;

use crate::durable_fixture::Process;

/// What happens in a random history.
#[derive(Clone, Debug)]
enum Step {
    Set {
        tenant: usize,
        topic: usize,
        until_ms: Option<u64>,
    },
    Clear {
        tenant: usize,
        topic: usize,
    },
    /// Time passes, and what has expired is collected.
    Collect {
        after_ms: u64,
        count_max: usize,
    },
    Settle {
        count: usize,
    },
    Crash {
        after_ms: u64,
    },
}

const TENANTS: [&str; 4] = ["", "a", "ab", "b\0"];
const TOPICS: [&str; 5] = ["a", "a/b", "/", "$x", "ab"];

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..TENANTS.len(), 0..TOPICS.len());
    prop_oneof![
        6 => (place(), prop::option::of(0..600_u64)).prop_map(|((tenant, topic), until_ms)| {
            Step::Set { tenant, topic, until_ms }
        }),
        3 => place().prop_map(|(tenant, topic)| Step::Clear { tenant, topic }),
        2 => (0..100_u64, 1..6_usize).prop_map(|(after_ms, count_max)| {
            Step::Collect { after_ms, count_max }
        }),
        2 => (1..8_usize).prop_map(|count| Step::Settle { count }),
        1 => (0..300_u64).prop_map(|after_ms| Step::Crash { after_ms }),
    ]
}

/// What a naive reader of the log would have: payload and deadline by tenant and topic.
type Model = BTreeMap<(usize, usize), (String, Option<u64>)>;

/// What a command does to the model, by tenant and topic. A collection removes only what nobody
/// sees: it does nothing.
type Change = Option<((usize, usize), Option<(String, Option<u64>)>)>;

fn change(model: &mut Model, changes: impl IntoIterator<Item = Change>) {
    for (place, message) in changes.into_iter().flatten() {
        match message {
            Some(message) => model.insert(place, message),
            None => model.remove(&place),
        };
    }
}

/// Compares what a process shows at a moment of the wall clock.
fn check_against(model: &Model, process: &Process, now_ms: u64) {
    process.service.check_invariants();
    for (tenant, name) in TENANTS.iter().enumerate() {
        let own = model.iter().filter(|((owner, _), _)| *owner == tenant);
        let live = own.filter(|(_, (_, until))| until.is_none_or(|until_ms| until_ms > now_ms));
        let live: BTreeSet<_> = live
            .map(|((_, topic), (payload, _))| (TOPICS[*topic].to_owned(), payload.clone()))
            .filter(|(topic, _)| !topic.starts_with('$'))
            .collect();
        let shown: BTreeSet<_> = process.read(name, process.at(now_ms)).into_iter().collect();
        assert_eq!(shown, live, "tenant {name:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// DUR-002, RET-006: crashes lose what was not settled and nothing else; data alone say the
    /// same as the log; the log applied twice says the same as once.
    #[test]
    fn a_crash_is_survived_by_what_was_settled(steps in prop::collection::vec(step(), 0..60)) {
        let (mut process, mut now_ms) = (Process::new(), 0);
        let (mut decided, mut durable) = (Model::new(), Model::new());
        let mut waiting: Vec<Change> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let before = process.keyspace.waiting();
            let mut effect = None;
            match step {
                Step::Set { tenant, topic, until_ms } => {
                    let message = (number.to_string(), until_ms.map(|until_ms| now_ms + until_ms));
                    process.store_until(TENANTS[tenant], TOPICS[topic], &message.0, message.1);
                    effect = Some(((tenant, topic), Some(message)));
                }
                Step::Clear { tenant, topic } => {
                    process.store_until(TENANTS[tenant], TOPICS[topic], "", None);
                    effect = Some(((tenant, topic), None));
                }
                Step::Collect { after_ms, count_max } => {
                    now_ms += after_ms;
                    process.service.collect(process.at(now_ms), count_max);
                }
                Step::Settle { count } => {
                    process.keyspace.settle_some(count);
                    change(&mut durable, waiting.drain(..count.min(before)));
                    prop_assert_eq!(process.keyspace.waiting(), waiting.len());
                    continue;
                }
                Step::Crash { after_ms } => {
                    now_ms += after_ms;
                    process = process.crash(now_ms);
                    waiting.clear();
                    decided = durable.clone();
                }
            }
            change(&mut decided, [effect.clone()]);
            check_against(&decided, &process, now_ms);
            let written = process.keyspace.waiting().saturating_sub(before);
            waiting.extend((0..written).map(|_| effect.clone()));
        }
        process.keyspace.settle();
        let log = process.keyspace.log();
        let (crashed, reopened) = (process.crash(now_ms), process.reopen(now_ms));
        check_against(&decided, &crashed, now_ms);
        check_against(&decided, &reopened, now_ms);
        prop_assert_eq!(crashed.keyspace.content(), reopened.keyspace.content());
        for command in &log {
            reopened.keyspace.submit(&[], command.clone(), Box::new(|_| {}));
        }
        reopened.keyspace.settle();
        prop_assert_eq!(crashed.keyspace.content(), reopened.keyspace.content());
        while crashed.service.collect(Instant::ZERO, 2) > 0 {}
        crashed.keyspace.settle();
        let kept = crashed.service.stats().topics;
        prop_assert_eq!(crashed.keyspace.content().len(), kept, "no trace of what expired");
    }
}
