//! What people are shown, as it stands on their screens.

use ratatosk_admin::cluster::{Bounds, Node, Stuck};

use super::*;

fn host(number: u8, state: HostState) -> Host {
    Host {
        id: format!("{number:032x}"),
        address: format!("127.0.0.1:78{number}3").parse().unwrap(),
        calls: (number != 9).then(|| format!("127.0.0.1:78{number}4").parse().unwrap()),
        state,
        zone: if number == 8 { "a".to_owned() } else { String::new() },
        version: "0.1.0".to_owned(),
        stores: vec![format!("{number}a0000000000000b")],
    }
}

fn held(number: u8) -> Store {
    Store {
        id: format!("{number}a0000000000000b"),
        host: Some(format!("{number:032x}")),
        reach: Reach::Up,
        away_seconds: None,
        standing: Standing::Member,
        labels: [("roles".to_owned(), "inbox retain".to_owned())].into(),
        leads: 1,
        votes: 3,
        learns: 0,
        stuck: Vec::new(),
    }
}

fn seen() -> Cluster {
    Cluster {
        cluster: Some("00000000000000c1".to_owned()),
        name: "prod".to_owned(),
        node: Node { host: format!("{:032x}", 8), store: None, leaving: false },
        quorum: true,
        without_leader: Vec::new(),
        overlapping: Vec::new(),
        under_replicated: Vec::new(),
        clash: None,
        hosts: vec![host(8, HostState::Alive), host(9, HostState::Suspect)],
        stores: vec![held(8), held(9)],
    }
}

#[test]
fn a_cluster_is_two_tables() {
    let expected = "\
cluster prod 00000000000000c1: every range is led

NODE              CALLS           STATE    ZONE  VERSION  STORE
127.0.0.1:7883 *  127.0.0.1:7884  alive    a     0.1.0    8a00
127.0.0.1:7893    -               suspect  -     0.1.0    9a00

STORE            NODE            REACH  STANDING  ROLES         LEADS  VOTES  LEARNS
8a0000000000000b  127.0.0.1:7883  up     member    inbox retain  1      3      0
9a0000000000000b  127.0.0.1:7893  up     member    inbox retain  1      3      0
";
    let text = cluster(&seen());
    assert_eq!(
        text,
        expected.replace("STORE            NODE", "STORE             NODE"),
        "\n{text}"
    );
}

#[test]
fn what_needs_the_operator_comes_first() {
    let stuck = vec![Stuck { range: "0c".to_owned(), why: "nobody takes it".to_owned() }];
    let away = Store {
        reach: Reach::Away,
        away_seconds: Some(34),
        host: None,
        standing: Standing::GivenUp,
        stuck: stuck.clone(),
        ..held(9)
    };
    let troubled = Cluster {
        quorum: false,
        without_leader: vec!["dist.route 0d".to_owned()],
        overlapping: vec!["inbox.session 0e and 0f".to_owned()],
        under_replicated: vec!["retain.message 0a: 2 of 3 voters".to_owned()],
        clash: Some("store 8a is served by another process".to_owned()),
        node: Node { leaving: true, ..seen().node },
        hosts: vec![host(8, HostState::Alive)],
        stores: vec![away],
        ..seen()
    };
    let expected = "\
cluster prod 00000000000000c1: NOT every range is led
  no leader: dist.route 0d
  overlap: inbox.session 0e and 0f
  under-replicated: retain.message 0a: 2 of 3 voters
  clash: store 8a is served by another process
  this node is about to leave

NODE              CALLS           STATE  ZONE  VERSION  STORE
127.0.0.1:7883 *  127.0.0.1:7884  alive  a     0.1.0    8a00

STORE             NODE  REACH      STANDING  ROLES         LEADS  VOTES  LEARNS
9a0000000000000b  -     away 34 s  given up  inbox retain  1      3      0
store 9a0000000000000b keeps range 0c: nobody takes it
";
    let text = cluster(&troubled);
    assert_eq!(text, expected, "\n{text}");
    let draining = Store { standing: Standing::Draining, stuck, ..held(8) };
    assert_eq!(
        store(&draining),
        "store 8a0000000000000b (draining) leads 1, votes in 3 and learns of 0 ranges\n\
         store 8a0000000000000b keeps range 0c: nobody takes it\n"
    );
    let empty = Store { leads: 0, votes: 0, ..held(8) };
    assert_eq!(store(&empty), "store 8a0000000000000b (member) has nothing\n");
}

/// KV-027: what would be lost is said before anything is, with the order that accepts it.
#[test]
fn losses_come_with_the_order_that_accepts_them() {
    let loss = |range: &str, lost: &[&str]| Loss {
        range: range.to_owned(),
        keyspace: "dist.route".to_owned(),
        keys: Bounds { from: String::new(), to: None },
        survivor: "8a".to_owned(),
        log_term: 3,
        log_index: 40,
        lost: lost.iter().map(|store| (*store).to_owned()).collect(),
    };
    let text = losses(&[loss("0c", &["9a", "9b"]), loss("0d", &["9a"])], &["0".to_owned()]);
    let expected = "\
RANGE  KEYSPACE    GOES ON WITH STORE  ITS LAST ENTRY  LOST WITH STORES
0c     dist.route  8a                  40 of term 3    9a 9b
0d     dist.route  8a                  40 of term 3    9a

Nothing was done. What only those stores have is lost for good: messages, sessions and subscriptions that were acknowledged.
If they can be started again, do that instead. To go on without them:

  ratatosk cluster recover 0 --accept-loss-of 9a,9b
";
    assert_eq!(text, expected, "\n{text}");
    assert!(losses(&[loss("0c", &["9a"])], &[]).ends_with("recover --accept-loss-of 9a\n"));
    let done = Recovered { range: "0c".to_owned(), survivor: "8a".to_owned(), error: None };
    let not = Recovered { error: Some("it is led".to_owned()), ..done.clone() };
    let expected = "range 0c goes on with store 8a\nrange 0c does not go on: it is led\n";
    assert_eq!(recovered(&[done, not]), expected);
}
