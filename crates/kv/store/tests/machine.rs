//! Machine and host together, in memory.

use proptest::prelude::*;
use ratatosk_store::command::Commands;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::RaftLog as _;
use ratatosk_store::range::Version;

use crate::fixture::{Small, commands, descriptor, number};

/// SCH-002
#[test]
fn every_command_of_an_entry_has_an_answer_of_its_own_in_order() {
    let mut small = Small::new();
    let answered = small.propose(commands(&["a", "b", "a"]), 1);
    let [answer] = &answered[..] else { panic!("one proposal: {answered:?}") };
    let answers: Vec<u64> =
        answer.answers.as_ref().expect("carried out").iter().map(|answer| number(answer)).collect();
    assert_eq!((answer.ticket, answers), (1, vec![1, 2, 3]));
    assert_eq!(small.counts(), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
}

/// KV-002
#[test]
fn a_command_for_another_version_changes_nothing_and_is_told_the_true_one() {
    let mut small = Small::new();
    let mut stale = Commands::new(Version { boundary: 9, config: 0 });
    stale.push(b"a");
    let answered = small.propose(stale.into_data(), 1);
    assert_eq!(answered[0].answers, Err(Refusal::Version(Box::new(descriptor()))));
    assert_eq!(small.counts(), []);
}

/// KV-006, DUR-002
#[test]
fn a_crash_without_a_checkpoint_applies_the_log_again() {
    let mut small = Small::new();
    small.propose(commands(&["a", "b"]), 1);
    small.propose(commands(&["a"]), 2);
    let after = small.crash();
    assert_eq!(after.counts(), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    assert_eq!(after.total(), 3);
}

/// KV-012
#[test]
fn a_checkpoint_cuts_the_log_and_nothing_is_applied_twice() {
    let mut small = Small::new();
    small.propose(commands(&["a"]), 1);
    let durable = small.checkpoint();
    let state = small.log.groups().expect("memory").remove(0);
    assert_eq!((state.truncated.index, state.durable_applied), (durable, durable));
    small.propose(commands(&["a"]), 2);
    let mut after = small.crash();
    assert_eq!(after.counts(), [("a".to_owned(), 2)]);
    after.propose(commands(&["b"]), 3);
    assert_eq!(after.total(), 3);
}

#[derive(Clone, Debug)]
enum Action {
    Propose(Vec<u8>),
    Checkpoint,
    Crash,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => proptest::collection::vec(0..4_u8, 1..4).prop_map(Action::Propose),
        2 => Just(Action::Checkpoint),
        2 => Just(Action::Crash),
    ]
}

proptest! {
    /// DUR-002
    #[test]
    fn whatever_crashes_and_checkpoints_come_every_command_counts_once(
        actions in proptest::collection::vec(action(), 1..40),
    ) {
        let mut small = Small::new();
        let mut expected = [0_u64; 4];
        for (ticket, action) in (0..).zip(actions) {
            match action {
                Action::Propose(names) => {
                    let mut proposed = Commands::new(Version::default());
                    for name in names {
                        proposed.push(&[b'a' + name]);
                        expected[usize::from(name)] += 1;
                    }
                    let answered = small.propose(proposed.into_data(), ticket);
                    prop_assert_eq!(answered.len(), 1);
                    let last = answered[0].answers.as_ref().expect("carried out").last().map(|last| number(last));
                    prop_assert_eq!(last, Some(expected.iter().sum()));
                }
                Action::Checkpoint => {
                    small.checkpoint();
                }
                Action::Crash => small = small.crash(),
            }
        }
        let counted: Vec<u64> = small.counts().into_iter().map(|(_, count)| count).collect();
        let expected: Vec<u64> = expected.into_iter().filter(|count| *count > 0).collect();
        prop_assert_eq!(counted, expected);
    }
}
