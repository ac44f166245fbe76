//! How a server is told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ratatosk_clock::{Instant, Timestamp};
use ratatosk_contract::{ClientId, SessionIdentity, SessionRef, ShardId, TenantId};

use crate::protocol::{
    Begun, Effect, Effects, Host, Question, Reply, Roster, Stamp, Time, Tuning, View,
};

const ME: Host = Host(1);
const SERVER: Host = Host(2);

/// A node with sessions, and a server that answers at once.
struct Stage {
    roster: Roster,
    now: Duration,
    registered: usize,
    commits: usize,
    begun: Begun,
}

impl Stage {
    /// The node had its sessions before it saw the server.
    fn new(sessions: u32, tuning: Tuning) -> Self {
        let roster = Roster::new(ME, tuning);
        let now = Duration::from_secs(1);
        let mut stage = Self { roster, now, registered: 0, commits: 0, begun: Begun::All };
        let mut effects = Effects::new();
        for slot in 0..sessions {
            let session = SessionRef { shard: ShardId(0), slot, generation: 0 };
            let time = stage.time();
            assert!(stage.roster.claim(time, &identity(slot), session, &mut effects));
        }
        stage
    }

    fn time(&self) -> Time {
        let now = Instant::ZERO + self.now;
        Time { now, wall: Timestamp::from_millis(now.as_millis()) }
    }

    fn sees(&mut self, servers: &[Host]) {
        let nodes: BTreeSet<Host> = servers.iter().copied().chain([ME]).collect();
        let view = View::new(&servers.iter().copied().collect(), &nodes);
        let (time, mut effects) = (self.time(), Effects::new());
        self.roster.set_members(time, view, &nodes, &mut effects);
        self.answer(effects);
    }

    fn tick(&mut self) {
        self.now += Duration::from_millis(20);
        let mut effects = Effects::new();
        let time = self.time();
        self.roster.tick(time, &mut effects);
        self.answer(effects);
    }

    fn answer(&mut self, mut effects: Effects) {
        while let Some(effect) = effects.pop_front() {
            let Effect::Ask(server, question) = effect else { panic!("{effect:?}") };
            let reply = match &question {
                Question::Register { stamp, is_claim, .. } => {
                    assert!(!is_claim);
                    self.registered += 1;
                    let (stamp, others) = (*stamp, Vec::new());
                    Reply::Registered { stamp, others, is_complete: false }
                }
                Question::Begin { .. } => Reply::Begun(self.begun, 7),
                Question::Commit { round, .. } => {
                    assert_eq!(*round, 7);
                    self.commits += 1;
                    Reply::Committed
                }
                Question::Remove { .. } => Reply::Removed,
            };
            let time = self.time();
            self.roster.replied(time, server, &question, Some(reply), &mut effects);
        }
        self.roster.check_invariants();
    }
}

fn identity(number: u32) -> Arc<SessionIdentity> {
    let client = ClientId::new(&format!("c{number}"));
    Arc::new(SessionIdentity { tenant: TenantId::new("t"), user: None, client })
}

/// DICT-004: a new server is told all sessions, at a bounded rate, and nobody is ended for it.
#[test]
fn a_server_is_told_all_at_a_bounded_rate() {
    let tuning = Tuning { sync_per_second: 10_000, ..Tuning::default() };
    let mut stage = Stage::new(10_000, tuning);
    stage.sees(&[SERVER]);
    let begun = stage.now;
    while stage.commits == 0 {
        stage.tick();
        let elapsed_ms = (stage.now - begun).as_millis() as usize;
        assert!(
            stage.registered <= 10 * elapsed_ms + 2_000,
            "{} in {elapsed_ms}",
            stage.registered
        );
        assert!(elapsed_ms <= 1_200, "{} in {elapsed_ms}", stage.registered);
    }
    assert_eq!(stage.registered, 10_000);
    assert!(stage.roster.is_synced());
    stage.begun = Begun::Nothing;
    (0..200).for_each(|_| stage.tick());
    assert_eq!((stage.registered, stage.commits), (10_000, 1), "a beat tells nothing again");
}

/// DICT-004: a server that had all by the view before is told only what has become its own.
#[test]
fn only_sessions_whose_server_has_changed_are_told() {
    let mut stage = Stage::new(3_000, Tuning::default());
    stage.sees(&[SERVER, Host(3)]);
    (0..50).for_each(|_| stage.tick());
    assert_eq!((stage.registered, stage.commits), (3_000, 2));
    stage.begun = Begun::Rest;
    stage.sees(&[SERVER]);
    (0..50).for_each(|_| stage.tick());
    let moved = stage.registered - 3_000;
    assert!((1_300..1_700).contains(&moved), "{moved}");
    assert_eq!(stage.commits, 3);
}

/// What fails is told again, and all of it.
#[test]
fn a_server_that_failed_is_told_all_again() {
    let mut stage = Stage::new(100, Tuning::default());
    stage.sees(&[SERVER]);
    (0..10).for_each(|_| stage.tick());
    assert_eq!((stage.registered, stage.commits), (100, 1));
    let question = Question::Remove { identity: identity(0), host: ME, stamp: Some(Stamp(1)) };
    let (time, mut effects) = (stage.time(), Effects::new());
    stage.roster.replied(time, SERVER, &question, None, &mut effects);
    assert!(!stage.roster.is_synced());
    (0..30).for_each(|_| stage.tick());
    assert_eq!((stage.registered, stage.commits), (200, 2));
    assert!(stage.roster.is_synced());
}
