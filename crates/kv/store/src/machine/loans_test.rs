//! What is lent, by whom, and for how long: one machine, and what others say to it.

use raft::eraftpb::{Message, MessageType};

use super::*;
use crate::command::Commands;
use crate::machine::fixture::{GROUP, LIFE, Small, machine, step};
use crate::machine::{Envelope, Input};
use crate::range::{BEGIN_INDEX, BEGIN_TERM, Version};

/// Of store 2, where it leads.
const TERM: u64 = 6;
/// The entry with which store 1 begins to lead.
const FIRST: u64 = BEGIN_INDEX + 1;

/// Store 1 follows store 2.
fn follower() -> Small {
    let mut machine = machine(&[1, 2, 3], &[]);
    let mut message = Message { from: 2, to: 1, term: TERM, ..Message::default() };
    message.set_msg_type(MessageType::MsgHeartbeat);
    let envelope = Box::new(Envelope { group: GROUP, message });
    step(&mut machine, 2_000, vec![Input::Message { from: 2, envelope }]);
    machine
}

fn wants(ticket: u64) -> Input<u64> {
    Input::Serve { group: GROUP, ticket: Some(ticket) }
}

fn lends(replica: u64, index: u64, token: Token) -> Input<u64> {
    Input::Loan { from: 2, loan: Loan::Lends { group: GROUP, replica, index, token } }
}

fn asks(from: u64, replica: u64, applied: u64) -> Input<u64> {
    let token = Token { life: 77, asked: Instant::from_millis(5) };
    Input::Loan { from, loan: Loan::Asks { group: GROUP, replica, applied, token } }
}

fn reached(index: u64) -> Input<u64> {
    Input::Loan { from: 2, loan: Loan::Reached { group: GROUP, replica: 2, index } }
}

/// Until when it may serve, in milliseconds, and who is told so.
fn served(output: &Output<u64>) -> Vec<(u64, Vec<u64>)> {
    let served = output.events.iter().filter_map(|event| match event {
        Event::Serve { until, tickets, .. } => Some((until.as_millis(), tickets.clone())),
        _ => None,
    });
    served.collect()
}

/// Behind which entries nobody is to be answered.
fn withheld(output: &Output<u64>) -> Vec<u64> {
    let withheld = output.events.iter().filter_map(|event| match event {
        Event::Withhold { behind, .. } => Some(*behind),
        _ => None,
    });
    withheld.collect()
}

/// From which entries on others were lent to.
fn lent(output: &Output<u64>) -> Vec<u64> {
    let lent = output.loans.iter().filter_map(|(to, loan)| match loan {
        Loan::Lends { index, .. } => Some((*to, *index)),
        _ => None,
    });
    lent.map(|(to, index)| if to == 2 { index } else { 0 }).collect()
}

fn token(asked: u64) -> Token {
    Token { life: LIFE, asked: Instant::from_millis(asked) }
}

/// KV-010: what comes late is good for less.
#[test]
fn a_loan_counts_from_when_it_was_asked_for() {
    let mut machine = follower();
    let output = step(&mut machine, 2_100, vec![wants(5)]);
    let asked = Loan::Asks { group: GROUP, replica: 1, applied: BEGIN_INDEX, token: token(2_100) };
    assert_eq!(output.loans, [(2, asked)]);
    let output = step(&mut machine, 2_700, vec![lends(1, BEGIN_INDEX, token(2_100))]);
    assert_eq!(served(&output), [(3_100, vec![5])]);
    let output = step(&mut machine, 2_800, vec![lends(1, BEGIN_INDEX, token(1_700))]);
    assert_eq!(served(&output), [], "it is over already");
}

/// KV-010: a replica serves nothing before it has what was committed when it was lent to.
#[test]
fn a_loan_counts_once_all_is_applied_that_was_committed() {
    let mut machine = follower();
    step(&mut machine, 2_100, vec![wants(5)]);
    let output = step(&mut machine, 2_110, vec![lends(1, BEGIN_INDEX + 1, token(2_100))]);
    assert_eq!(served(&output), []);
    let mut message = Message { from: 2, to: 1, term: TERM, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppend);
    (message.index, message.log_term) = (BEGIN_INDEX, BEGIN_TERM);
    let entry = raft::eraftpb::Entry { index: FIRST, term: TERM, ..Default::default() };
    (message.entries, message.commit) = (vec![entry].into(), FIRST);
    let envelope = Box::new(Envelope { group: GROUP, message });
    let output = step(&mut machine, 2_200, vec![Input::Message { from: 2, envelope }]);
    assert_eq!(served(&output), [(3_100, vec![5])]);
    let place = |wanted: fn(&Event<u64>) -> bool| output.events.iter().position(wanted);
    let applied = place(|event| matches!(event, Event::Committed(_)));
    assert!(
        applied < place(|event| matches!(event, Event::Serve { .. })),
        "it is handed over first"
    );
    // From now on the leader waits for it.
    let applied = Input::Applied { group: GROUP, index: FIRST };
    let told = Loan::Reached { group: GROUP, replica: 1, index: FIRST };
    assert_eq!(step(&mut machine, 2_210, vec![applied]).loans, [(2, told)]);
}

/// DUR-012: a store that has started anew does not know what it was to wait for.
#[test]
fn what_an_earlier_life_or_another_replica_was_lent_does_not_count() {
    let mut machine = follower();
    step(&mut machine, 2_100, vec![wants(5)]);
    let earlier = Token { life: LIFE - 1, ..token(2_100) };
    let output = step(&mut machine, 2_110, vec![lends(1, BEGIN_INDEX, earlier)]);
    assert_eq!(served(&output), []);
    let output = step(&mut machine, 2_110, vec![lends(4, BEGIN_INDEX, token(2_100))]);
    assert_eq!(served(&output), []);
    let ahead = vec![lends(1, BEGIN_INDEX, token(9_000))];
    assert_eq!(served(&step(&mut machine, 2_110, ahead)), []);
}

/// KV-010: nobody waits for ever for a leader that is not there.
#[test]
fn whoever_waits_is_refused_in_time_and_asked_for_meanwhile() {
    let mut machine = follower();
    step(&mut machine, 2_100, vec![wants(5)]);
    let mut asked = 0;
    let mut refused = None;
    for millis in (2_150..3_500).step_by(50) {
        let output = step(&mut machine, millis, Vec::new());
        asked += output.loans.len();
        let is_refused = |event: &Event<u64>| matches!(event, Event::Refused { ticket: 5, .. });
        if output.events.iter().any(is_refused) {
            refused.get_or_insert(millis);
        }
    }
    assert!((5..=11).contains(&asked), "{asked}");
    assert!(refused.is_some_and(|at| (3_100..=3_250).contains(&at)), "{refused:?}");
}

/// DUR-012: the leader answers what those have who may serve, and the rest once they may not.
#[test]
fn a_leader_waits_for_whom_it_has_lent_to_and_for_no_longer() {
    let mut machine = machine(&[1], &[2]);
    let output = step(&mut machine, 1_000, Vec::new());
    assert_eq!(withheld(&output), [0], "others may have lent before");
    assert_eq!(withheld(&step(&mut machine, 2_150, Vec::new())), []);
    assert_eq!(withheld(&step(&mut machine, 2_300, Vec::new())), [u64::MAX]);
    let output = step(&mut machine, 3_000, vec![asks(2, 2, FIRST)]);
    assert_eq!((lent(&output), withheld(&output)), (vec![FIRST], vec![FIRST]));
    let mut commands = Commands::new(Version::default());
    commands.push(b"x");
    let data = commands.into_data();
    let propose = Input::Propose { group: GROUP, term: None, data, ticket: 8 };
    let output = step(&mut machine, 3_010, vec![propose]);
    assert_eq!(withheld(&output), [], "it has the first one only");
    let output = step(&mut machine, 3_020, vec![reached(FIRST + 1)]);
    assert_eq!(withheld(&output), [FIRST + 1]);
    assert_eq!(withheld(&step(&mut machine, 4_150, Vec::new())), []);
    assert_eq!(withheld(&step(&mut machine, 4_300, Vec::new())), [u64::MAX]);
}

/// DUR-012
#[test]
fn whoever_lags_or_is_no_member_is_not_lent_to() {
    let mut machine = machine(&[1], &[2]);
    step(&mut machine, 1_000, Vec::new());
    assert_eq!(lent(&step(&mut machine, 1_100, vec![asks(3, 2, FIRST)])), []);
    assert_eq!(lent(&step(&mut machine, 1_100, vec![asks(2, 7, FIRST)])), []);
    assert_eq!(lent(&step(&mut machine, 1_200, vec![asks(2, 2, BEGIN_INDEX)])), [FIRST]);
    let output = step(&mut machine, 1_700, vec![asks(2, 2, BEGIN_INDEX)]);
    assert_eq!(lent(&output), [], "it has not come to what it was lent for");
    assert_eq!(lent(&step(&mut machine, 1_710, vec![asks(2, 2, FIRST)])), [FIRST]);
}

/// KV-010: who never shared a range waits for nobody, and may serve for ever.
#[test]
fn a_store_alone_lends_to_itself_and_withholds_nothing() {
    let mut machine = machine(&[1], &[]);
    assert_eq!(withheld(&step(&mut machine, 1_000, Vec::new())), []);
    let output = step(&mut machine, 1_010, vec![wants(4)]);
    assert_eq!(served(&output), [(FOREVER.as_millis(), vec![4])]);
    assert_eq!((withheld(&output), output.loans), (vec![], vec![]));
    assert_eq!(machine.next_tick(), None, "nothing is to be done with time");
}
