//! What a claim does with what it is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use ratatosk_clock::{Instant, Timestamp};
use ratatosk_contract::{ClientId, SessionIdentity, SessionRef, ShardId, TenantId};

use crate::protocol::{
    Effect, Effects, Host, Meeting, Question, Registration, Reply, Roster, Stamp, Time, Tuning,
    Verdict, View,
};

const ME: Host = Host(1);
const SERVER: Host = Host(2);
const OTHER: Host = Host(3);
const SESSION: SessionRef = SessionRef { shard: ShardId(0), slot: 1, generation: 0 };
const TIME: Time = Time { now: Instant::from_millis(5), wall: Timestamp::from_millis(5) };

fn identity() -> Arc<SessionIdentity> {
    let client = ClientId::new("c");
    Arc::new(SessionIdentity { tenant: TenantId::new("t"), user: None, client })
}

/// A node whose claim waits for its server, and what it asked.
fn claiming() -> (Roster, Question) {
    let mut roster = Roster::new(ME, Tuning::default());
    let nodes = BTreeSet::from([ME, SERVER, OTHER]);
    let view = View::new(&BTreeSet::from([SERVER]), &nodes);
    let mut effects = Effects::new();
    roster.set_members(TIME, view, &nodes, &mut effects);
    assert!(!roster.claim(TIME, &identity(), SESSION, &mut effects));
    let Some(Effect::Ask(SERVER, question)) = effects.pop_front() else { panic!("{effects:?}") };
    (roster, question)
}

fn replied(roster: &mut Roster, question: &Question, others: &[u64], is_complete: bool) -> Effects {
    let mut effects = Effects::new();
    let others = others.iter().map(|stamp| Registration {
        host: OTHER,
        session: SESSION,
        stamp: Stamp(*stamp),
    });
    let others = others.collect();
    let reply = Reply::Registered { stamp: Stamp(9 << 16), others, is_complete };
    roster.replied(TIME, SERVER, question, Some(reply), &mut effects);
    roster.check_invariants();
    effects
}

fn meetings(effects: &Effects) -> Vec<(Host, Meeting)> {
    let meeting = |effect: &Effect| match effect {
        Effect::Meet(host, meeting) => Some((*host, meeting.clone())),
        _ => None,
    };
    effects.iter().filter_map(meeting).collect()
}

fn met(roster: &mut Roster, (host, meeting): &(Host, Meeting), verdict: Verdict) -> Effects {
    let mut effects = Effects::new();
    roster.met(TIME, *host, meeting, Some(verdict), &mut effects);
    roster.check_invariants();
    effects
}

const NOTHING: Verdict = Verdict::Gone { was_held: false };

/// MQTT-042: if the server knows all and names nobody the session is free, and nobody else is asked.
#[test]
fn a_claim_that_is_alone_is_granted_by_its_server() {
    let (mut roster, question) = claiming();
    let effects = replied(&mut roster, &question, &[], true);
    assert_eq!(effects, [Effect::Grant(SESSION)]);
}

/// A registration of which its node knows nothing is struck at the server.
#[test]
fn what_a_node_does_not_hold_is_struck_at_the_server() {
    let (mut roster, question) = claiming();
    let asked = meetings(&replied(&mut roster, &question, &[7], true));
    assert_eq!(asked.iter().map(|(host, _)| *host).collect::<Vec<_>>(), [OTHER]);
    let effects = met(&mut roster, &asked[0], NOTHING);
    let (identity, host, stamp) = (identity(), OTHER, Some(Stamp(7)));
    let struck = Effect::Ask(SERVER, Question::Remove { identity, host, stamp });
    assert_eq!(effects, [struck, Effect::Grant(SESSION)]);
}

/// What a node said before it registered something is not about that.
#[test]
fn an_answer_from_before_a_registration_does_not_strike_it() {
    let (mut roster, question) = claiming();
    let asked = meetings(&replied(&mut roster, &question, &[], false));
    assert_eq!(asked.len(), 2, "every node is asked");
    let Question::Register { view, identity, session, stamp, .. } = question else { panic!() };
    let again = Question::Register { view, identity, session, stamp, is_claim: false };
    assert_eq!(replied(&mut roster, &again, &[(9 << 16) + 1], true), []);
    assert_eq!(met(&mut roster, &asked[0], NOTHING), []);
    assert_eq!(met(&mut roster, &asked[1], NOTHING), [Effect::Grant(SESSION)]);
}

/// DICT-001: a claim is newer than what was granted before, whatever the clocks say, and older than a
/// claim with a larger stamp.
#[test]
fn a_claim_overtakes_what_was_granted_and_yields_to_a_newer_claim() {
    let (mut roster, question) = claiming();
    let asked = meetings(&replied(&mut roster, &question, &[7], true));
    let far = Stamp(900 << 16);
    let effects = met(&mut roster, &asked[0], Verdict::Stays { stamp: far, is_live: true });
    let again = meetings(&effects);
    assert!(again.len() == 1 && again[0].1.stamp > far, "{again:?}");
    let newer = Stamp(again[0].1.stamp.0 + 1);
    let effects = met(&mut roster, &again[0], Verdict::Stays { stamp: newer, is_live: false });
    assert_eq!(effects, [Effect::End(SESSION)]);
    assert!(!roster.is_live(&identity()));
    assert!(roster.remove(TIME, &identity(), SESSION, &mut Effects::new()));
    assert!(roster.is_empty());
}
