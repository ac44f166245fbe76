//! The requests about a cluster, over real sockets, with a made-up one behind them.

use std::sync::{Arc, Mutex};

use crate::cluster::{
    Bounds, Cluster, Drain, Following, Host, HostState, Keepers, Later, Leader, Loss, Node,
    Operations, Range, RangeState, Reach, Recover, Recovered, Refused, Replace, Standing, Store,
    Stuck, Version,
};
use crate::service::tests::Running;
use crate::{Check, Sources, Token};

const JSON: &str = "Content-Type: application/json\r\n";
const STORE: &str = "00000000000000ab";

/// A cluster that writes down what it was ordered.
#[derive(Default)]
struct Fake {
    orders: Mutex<Vec<String>>,
}

impl Fake {
    fn note(&self, order: String) -> Result<Store, Refused> {
        self.orders.lock().unwrap().push(order);
        Ok(store())
    }
}

fn store() -> Store {
    let stuck = Stuck { range: "000000000000000c".into(), why: "nobody takes it".into() };
    Store {
        id: STORE.into(),
        host: Some("0f".repeat(16)),
        reach: Reach::Up,
        away_seconds: None,
        standing: Standing::Draining,
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        leads: 1,
        votes: 2,
        learns: 3,
        stuck: vec![stuck],
    }
}

fn range() -> Range {
    Range {
        id: "000000000000000c".into(),
        keyspace: "dist.route".into(),
        keys: Bounds { from: "\\x00a".into(), to: None },
        version: Version { boundary: 1, config: 7 },
        edition: 1,
        state: RangeState::Led,
        leader: Some(Leader { store: STORE.into(), host: None, term: 9 }),
        keepers: Keepers { voters: vec![STORE.into()], learners: Vec::new() },
        goal: None,
        under_replicated: None,
        following: [("00000000000000cd".to_owned(), Following::CaughtUp)].into(),
        size_bytes: Some(77),
        entries_per_second: Some(0),
    }
}

impl Operations for Fake {
    fn cluster(&self) -> Cluster {
        let away = Store {
            id: "00000000000000ef".into(),
            host: None,
            reach: Reach::Away,
            away_seconds: Some(34),
            standing: Standing::GivenUp,
            labels: [].into(),
            leads: 0,
            votes: 0,
            learns: 0,
            stuck: Vec::new(),
        };
        Cluster {
            cluster: Some("0000000000000001".into()),
            name: "prod".into(),
            node: Node { host: "0f".repeat(16), store: Some(STORE.into()), leaving: false },
            quorum: false,
            without_leader: vec!["dist.route 000000000000000d".into()],
            under_replicated: Vec::new(),
            overlapping: Vec::new(),
            clash: None,
            hosts: vec![Host {
                id: "0f".repeat(16),
                address: "127.0.0.1:7883".parse().unwrap(),
                calls: Some("127.0.0.1:7884".parse().unwrap()),
                state: HostState::Alive,
                zone: "a".into(),
                version: "0.1.0".into(),
                stores: vec![STORE.into()],
            }],
            stores: vec![store(), away],
        }
    }

    fn ranges(&self) -> Vec<Range> {
        vec![range()]
    }

    fn checks(&self) -> Later<Vec<Check>> {
        let state = Err("dist.route 000000000000000d has no leader".to_owned());
        Box::pin(async { vec![Check { name: "ranges".to_owned(), state }] })
    }

    fn drain(&self, order: &Drain) -> Result<Store, Refused> {
        match order.store.as_deref() {
            Some("nonsense") => Err(Refused::Senseless("\"nonsense\" is no store".into())),
            Some("0000000000000000") => Err(Refused::Unknown("nobody knows that store".into())),
            _ => self.note(format!("{order:?}")),
        }
    }

    fn leave(&self) -> Result<Store, Refused> {
        self.note("leave".into())
    }

    fn replace(&self, order: &Replace) -> Result<Store, Refused> {
        if order.store == STORE {
            return Err(Refused::Conflict("it is up: drain it".into()));
        }
        self.note(format!("{order:?}"))
    }

    fn losses(&self, ranges: &[String]) -> Result<Vec<Loss>, Refused> {
        if ranges.is_empty() {
            return Err(Refused::Unavailable("not now".into()));
        }
        let loss = |range: &String| Loss {
            range: range.clone(),
            keyspace: "dist.route".into(),
            keys: Bounds { from: String::new(), to: Some("m".into()) },
            survivor: STORE.into(),
            log_term: 3,
            log_index: 40,
            lost: vec!["00000000000000ef".into()],
        };
        Ok(ranges.iter().map(loss).collect())
    }

    fn recover(&self, order: Recover) -> Later<Result<Vec<Recovered>, Refused>> {
        self.orders.lock().unwrap().push(format!("{order:?}"));
        let recovered = |range: String| Recovered {
            range,
            survivor: STORE.into(),
            error: Some("it is led".into()),
        };
        Box::pin(async move { Ok(order.ranges.into_iter().map(recovered).collect()) })
    }
}

fn running(token: Option<&str>) -> (Running, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    let token = token.map(|token| Token::parse(token).unwrap());
    (Running::saying(token, Sources::new().with_cluster(fake.clone())), fake)
}

fn post(running: &Running, target: &str, header: &str, body: &str) -> (u16, String) {
    let header = format!("{header}Content-Length: {}\r\n", body.len());
    split(&running.send("POST", target, &header, body))
}

fn split(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// What is said of a cluster has this shape; what is read means what was written.
#[test]
fn hosts_stores_and_ranges_are_said_in_json() {
    let (running, fake) = running(None);
    let (status, body) = split(&running.ask("/cluster", ""));
    let host = "0f".repeat(16);
    let expected = format!(
        concat!(
            r#"{{"cluster":"0000000000000001","name":"prod","#,
            r#""node":{{"host":"{host}","store":"00000000000000ab","leaving":false}},"#,
            r#""quorum":false,"without_leader":["dist.route 000000000000000d"],"overlapping":[],"#,
            r#""clash":null,"hosts":[{{"id":"{host}","address":"127.0.0.1:7883","#,
            r#""calls":"127.0.0.1:7884","state":"alive","zone":"a","version":"0.1.0","#,
            r#""stores":["00000000000000ab"]}}],"stores":[{{"id":"00000000000000ab","#,
            r#""host":"{host}","reach":"up","standing":"draining","labels":{{"zone":"a"}},"leads":1,"#,
            r#""votes":2,"learns":3,"stuck":[{{"range":"000000000000000c","why":"nobody takes it"}}]}},"#,
            r#"{{"id":"00000000000000ef","host":null,"reach":"away","away_seconds":34,"#,
            r#""standing":"given_up","labels":{{}},"leads":0,"votes":0,"learns":0}}]}}"#,
            "\n"
        ),
        host = host
    );
    assert_eq!((status, body.as_str()), (200, expected.as_str()));
    assert_eq!(serde_json::from_str::<Cluster>(&body).unwrap(), fake.cluster());
    let (status, body) = split(&running.ask("/ranges", ""));
    let expected = concat!(
        r#"[{"id":"000000000000000c","keyspace":"dist.route","keys":{"from":"\\x00a","to":null},"#,
        r#""version":{"boundary":1,"config":7},"edition":1,"state":"led","#,
        r#""leader":{"store":"00000000000000ab","host":null,"term":9},"#,
        r#""keepers":{"voters":["00000000000000ab"],"learners":[]},"goal":null,"#,
        r#""following":{"00000000000000cd":"caught_up"},"size_bytes":77,"entries_per_second":0}]"#,
        "\n"
    );
    assert_eq!((status, body.as_str()), (200, expected));
    assert_eq!(serde_json::from_str::<Vec<Range>>(&body).unwrap(), fake.ranges());
    running.stop();
}

/// Orders arrive as they were given, and what became of them is told.
#[test]
fn orders_are_carried_out_and_answered() {
    let (running, fake) = running(None);
    let drained = serde_json::to_string(&store()).unwrap() + "\n";
    let accepted = |target: &str, body: &str| {
        assert_eq!(post(&running, target, JSON, body), (202, drained.clone()), "{target}");
    };
    accepted("/cluster/drain", "{}");
    accepted("/cluster/drain", r#"{"store":"00000000000000ab","cancel":true}"#);
    accepted("/cluster/leave", "{}");
    accepted("/cluster/replace", r#"{"store":"00000000000000ef"}"#);
    let order = r#"{"ranges":["0c"],"accept_loss_of":["ef"]}"#;
    let answer =
        concat!(r#"[{"range":"0c","survivor":"00000000000000ab","error":"it is led"}]"#, "\n");
    assert_eq!(post(&running, "/cluster/recover", JSON, order), (200, answer.to_owned()));
    let expected = [
        "Drain { store: None, cancel: false }",
        r#"Drain { store: Some("00000000000000ab"), cancel: true }"#,
        "leave",
        r#"Replace { store: "00000000000000ef" }"#,
        r#"Recover { ranges: ["0c"], accept_loss_of: ["ef"] }"#,
    ];
    assert_eq!(*fake.orders.lock().unwrap(), expected);
    let (status, body) = split(&running.ask("/cluster/recover?range=0c", ""));
    let losses: Vec<Loss> = serde_json::from_str(&body).unwrap();
    assert_eq!((status, losses[0].lost.as_slice()), (200, &["00000000000000ef".to_owned()][..]));
    running.stop();
}

/// API-002: what makes no sense is answered with what, where, and what to send instead.
#[test]
fn what_makes_no_sense_is_refused_with_what_to_do() {
    let (running, fake) = running(None);
    let check = |target: &str, header: &str, body: &str, status: u16, said: &[&str]| {
        let (got, text) = post(&running, target, header, body);
        assert_eq!(got, status, "{target} {body}: {text}");
        said.iter().for_each(|part| assert!(text.contains(part), "{part:?} in {text:?}"));
    };
    let drain = "/cluster/drain";
    check(drain, JSON, "{\n \"stroe\": 1}", 400, &["`stroe`", "line 2", "`store`", "send {"]);
    check(drain, JSON, "", 400, &["EOF", "{} for this node"]);
    check(drain, JSON, r#"{"store":7}"#, 400, &["integer `7`", "string"]);
    check(drain, JSON, r#"{"store":"nonsense"}"#, 400, &["\"nonsense\" is no store\n"]);
    check(drain, JSON, r#"{"store":"0000000000000000"}"#, 404, &["nobody knows that store"]);
    check("/cluster/leave", JSON, r#"{"now":true}"#, 400, &["`now`"]);
    check("/cluster/replace", JSON, "{}", 400, &["`store`"]);
    let own = r#"{"store":"00000000000000ab"}"#;
    check("/cluster/replace", JSON, own, 409, &["it is up: drain it"]);
    let silent = r#"{"ranges":[]}"#;
    check("/cluster/recover", JSON, silent, 400, &["`accept_loss_of`", "GET /cluster/recover"]);
    let many = format!(r#"{{"ranges":[{}"1"],"accept_loss_of":[]}}"#, "\"1\",".repeat(256));
    check("/cluster/recover", JSON, &many, 400, &["257 ranges are too many", "at most 256"]);
    running.check("/cluster/recover", "", 503, "not now\n");
    running.check("/cluster/recover?store=1", "", 400, "range=NUMBER is\n");
    running.check("/cluster/drain", "", 405, "");
    assert!(fake.orders.lock().unwrap().is_empty(), "nothing was done");
    running.stop();
}

/// SEC-004, API-004: orders need the token, and a content type that no page of another site may send.
#[test]
fn orders_need_the_token_and_their_content_type() {
    let (guarded, fake) = running(Some("0123456789abcdef"));
    for target in ["/cluster", "/ranges", "/cluster/recover?range=0c"] {
        guarded.check(target, "", 401, "a bearer token is needed\n");
        guarded.check(target, "Authorization: Bearer 0123456789abcdef\r\n", 200, "\n");
    }
    for target in ["drain", "leave", "replace", "recover"] {
        let (status, _) = post(&guarded, &format!("/cluster/{target}"), JSON, "{}");
        assert_eq!(status, 401, "{target}");
    }
    assert!(fake.orders.lock().unwrap().is_empty(), "nothing was done");
    guarded.stop();
    let (open, fake) = running(None);
    for header in ["", "Content-Type: text/plain\r\n", "Content-Type: application/jsonp\r\n"] {
        let (status, text) = post(&open, "/cluster/leave", header, "{}");
        assert_eq!(status, 415, "{header}");
        assert!(text.contains("Content-Type: application/json"), "{text}");
    }
    assert!(fake.orders.lock().unwrap().is_empty(), "nothing was done");
    let charset = "Content-Type: application/json; charset=utf-8\r\n";
    assert_eq!(post(&open, "/cluster/leave", charset, "{}").0, 202);
    open.stop();
}

#[test]
fn a_node_that_stands_alone_says_so_and_one_without_quorum_is_not_ready() {
    let alone = Running::saying(None, Sources::new());
    for target in ["/cluster", "/ranges", "/cluster/recover"] {
        alone.check(
            target,
            "",
            404,
            "this node stands alone: its configuration has no [cluster]\n",
        );
    }
    assert_eq!(post(&alone, "/cluster/leave", JSON, "{}").0, 404);
    alone.check("/readyz", "", 200, "ok\n");
    alone.stop();
    let (running, _) = running(None);
    let body = "\r\n\r\n[-] ranges: dist.route 000000000000000d has no leader\nnot ready\n";
    running.check("/readyz", "", 503, body);
    running.check("/livez", "", 200, "ok\n");
    running.stop();
}
