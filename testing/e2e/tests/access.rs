//! Users and access rules from files, as an operator makes and changes them.

use ratatosk_e2e::{Broker, Connect, Packet, Place, Raw, Request, Transport};

const ACL: &str = "user alice\ntopic readwrite #\nuser bob\ntopic read home/#\ntopic read end\n";
const PUBLISH: u8 = 0x30;
const PUBLISH_QOS1: u8 = 0x32;

fn start() -> Broker {
    let place = Place::new().expect("makes");
    for (user, password) in [("alice", "wonder\n"), ("bob", "builder\n")] {
        let added = place.ratatosk(&["passwd", "users", user], password).expect("runs");
        assert_eq!(added.code, Some(0), "{}", added.output);
    }
    place.write("acl", ACL).expect("writes");
    let settings = ["auth.password_file=users", "auth.acl_file=acl"];
    Broker::start_in(place, &[Transport::Tcp], &settings)
        .unwrap_or_else(|error| panic!("{error:#}"))
}

fn connect(broker: &Broker, version: u8, credentials: Option<(&str, &str)>) -> (Raw, Packet) {
    let client_id = credentials.map_or("nobody", |(user, _)| user);
    let connect = Connect { version, client_id, credentials };
    Raw::connect(broker.port(Transport::Tcp), &connect).expect("answers")
}

fn open(broker: &Broker, version: u8, client_id: &str, user: &str, password: &str) -> Raw {
    let connect = Connect { version, client_id, credentials: Some((user, password)) };
    let (raw, connack) = Raw::connect(broker.port(Transport::Tcp), &connect).expect("answers");
    assert_eq!((connack.head, connack.body[1]), (0x20, 0));
    raw
}

fn bob(broker: &Broker, version: u8) -> Raw {
    open(broker, version, "bob", "bob", "builder")
}

/// Who cannot prove who he is gets the code of his version, and the connection ends.
#[test]
fn wrong_credentials_are_refused_in_either_version() {
    let broker = start();
    for (credentials, code_5, code_4) in
        [(Some(("alice", "wander")), 0x86, 4), (Some(("eve", "wonder")), 0x86, 4), (None, 0x87, 5)]
    {
        for (version, code) in [(5, code_5), (4, code_4)] {
            let (mut raw, connack) = connect(&broker, version, credentials);
            assert_eq!((connack.head, connack.body[0]), (0x20, 0), "{credentials:?}");
            assert_eq!(connack.body[1], code, "{credentials:?} in version {version}");
            assert_eq!(raw.read_to_end().expect("closes"), b"");
        }
    }
}

/// MQTT-066: what is not permitted is refused as QoS and version allow, and is not delivered.
#[test]
fn a_publish_that_is_not_permitted_is_refused() {
    let broker = start();
    let mut watcher = open(&broker, 5, "watcher", "alice", "wonder");
    watcher.write(&Request { version: 5 }.subscribe("home/#")).expect("sends");
    assert_eq!(watcher.packet().expect("answers").head, 0x90);

    let request = Request { version: 5 };
    let mut raw = bob(&broker, 5);
    for (qos, head) in [(1, 0x40), (2, 0x50)] {
        raw.write(&request.publish("home/door", "open", qos)).expect("sends");
        let answer = raw.packet().expect("answers");
        assert_eq!((answer.head, &answer.body[..3]), (head, &[0, 7, 0x87][..]));
    }
    raw.write(&request.publish("home/door", "open", 0)).expect("sends");
    let answer = raw.packet().expect("answers");
    assert_eq!((answer.head, answer.body[0]), (0xe0, 0x87));
    assert_eq!(raw.read_to_end().expect("closes"), b"");
    for qos in [0, 1, 2] {
        let mut raw = bob(&broker, 4);
        raw.write(&Request { version: 4 }.publish("home/door", "open", qos)).expect("sends");
        assert_eq!(raw.read_to_end().expect("closes"), b"", "QoS {qos}");
    }

    let mut publisher = open(&broker, 4, "publisher", "alice", "wonder");
    publisher.write(&Request { version: 4 }.publish("home/end", "end", 1)).expect("sends");
    let message = watcher.packet().expect("delivers");
    assert!(message.body.ends_with(b"end"), "{message:?}");
}

/// MQTT-080: a rule that is taken away ends delivery; what is still permitted goes on.
#[test]
fn a_withdrawn_permission_ends_delivery() {
    let broker = start();
    let mut subscriber = bob(&broker, 5);
    for filter in ["home/#", "end"] {
        subscriber.write(&Request { version: 5 }.subscribe(filter)).expect("sends");
        let suback = subscriber.packet().expect("answers");
        assert_eq!((suback.head, suback.body.last()), (0x90, Some(&1)), "{filter}");
    }
    let mut publisher = open(&broker, 4, "publisher", "alice", "wonder");
    let mut publish = |topic: &str, payload: &str| {
        publisher.write(&Request { version: 4 }.publish(topic, payload, 1)).expect("sends");
        assert_eq!(publisher.packet().expect("answers").head, 0x40);
    };
    publish("home/door", "before");
    let message = subscriber.packet().expect("delivers");
    assert_eq!(message.head & 0xf0, PUBLISH, "{message:?}");
    assert!(message.body.ends_with(b"before"), "{message:?}");

    broker.place().write("acl", &ACL.replace("topic read home/#\n", "")).expect("writes");
    broker.signal("HUP").expect("is told");
    broker.wait_for_log("access rules reloaded", 1).expect("reloads");
    // What was permitted is looked at again within a second or so; until then it may come.
    let mut round = 0;
    let is_over = ratatosk_e2e::until(std::time::Duration::from_secs(65), || {
        round += 1;
        publish("home/door", "after");
        publish("end", &round.to_string());
        let first = subscriber.packet()?;
        if first.body.ends_with(b"after") {
            subscriber.packet()?;
            return Ok(None);
        }
        assert_eq!(first.head, PUBLISH_QOS1, "{first:?}");
        assert!(first.body.ends_with(round.to_string().as_bytes()), "{first:?}");
        Ok(Some(()))
    });
    assert!(is_over.expect("delivers").is_some(), "still delivered after the cache's age");
    // The rule comes back, the subscription does not: the client has to ask again.
    broker.place().write("acl", ACL).expect("writes");
    broker.signal("HUP").expect("is told");
    broker.wait_for_log("access rules reloaded", 2).expect("reloads");
    publish("home/door", "removed");
    publish("end", "removed too?");
    let message = subscriber.packet().expect("delivers");
    assert!(message.body.ends_with(b"removed too?"), "{message:?}");
    subscriber.write(&Request { version: 5 }.subscribe("home/#")).expect("sends");
    assert_eq!(subscriber.packet().expect("answers").body.last(), Some(&1));
    publish("home/door", "again");
    let message = subscriber.packet().expect("delivers");
    assert!(message.body.ends_with(b"again"), "{message:?}");
}

/// A user who is added while the broker runs is let in after SIGHUP, one who is removed is not.
#[test]
fn users_change_while_it_runs() {
    let broker = start();
    let place = broker.place();
    assert_eq!(
        place.ratatosk(&["passwd", "users", "carol"], "sings\n").expect("runs").code,
        Some(0)
    );
    assert_eq!(place.ratatosk(&["passwd", "users", "bob", "-D"], "").expect("runs").code, Some(0));
    let code = |user, password| connect(&broker, 5, Some((user, password))).1.body[1];
    assert_eq!((code("carol", "sings"), code("bob", "builder")), (0x86, 0));
    broker.signal("HUP").expect("is told");
    broker.wait_for_log("password file reloaded", 1).expect("reloads");
    assert_eq!((code("carol", "sings"), code("bob", "builder")), (0, 0x86));
}

/// SEC-007: passwords, right or wrong, are in no log line, however much is logged.
#[test]
fn passwords_are_in_no_log() {
    let place = Place::new().expect("makes");
    let added = place.ratatosk(&["passwd", "users", "alice"], "hunter2right\n").expect("runs");
    assert_eq!(added.code, Some(0), "{}", added.output);
    let settings =
        ["auth.password_file=users", "log.level=trace", "admin.token=hunter2token-0123456789"];
    let broker = Broker::start_in(place, &[Transport::Tcp], &settings)
        .unwrap_or_else(|error| panic!("{error:#}"));
    for (password, code) in [("hunter2right", 0), ("hunter2wrong", 0x86)] {
        let (_, connack) = connect(&broker, 5, Some(("alice", password)));
        assert_eq!(connack.body[1], code);
    }
    broker.signal("HUP").expect("is told");
    broker.wait_for_log("password file reloaded", 1).expect("reloads");
    let log = broker.log().expect("reads");
    assert!(log.contains("client connected") && log.contains("unknown user or wrong password"));
    for secret in ["hunter2", "$argon2"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}
