//! `[cluster]`: what it says, and what of it is refused.

use crate::configuration::tests::{Place, check_refused};

const KEY: &str = "8f4d1c5b7a90e2634175c8d9fa0b1e2c3d4f5a6978877665544332211f0e0d0c";

/// CLU-001, CFG-001: without the section a node stands alone, and with it the defaults are for one machine.
#[test]
fn a_section_makes_a_node_one_of_several() {
    assert!(Place::new("").valid().cluster.is_none());
    let cluster = Place::new("[cluster]").valid().cluster.expect("a cluster");
    assert_eq!(cluster.address, "127.0.0.1:7883".parse().unwrap());
    assert_eq!(cluster.calls, "127.0.0.1:7884".parse().unwrap());
    assert_eq!((cluster.name.as_str(), cluster.expect), ("ratatosk", None));
    assert!(cluster.join.is_empty() && cluster.keys.is_none() && cluster.tls.is_none());
    let joining = Place::new("").with_flag("cluster.join", "127.0.0.1:7883,localhost:1");
    let cluster = joining.valid().cluster.expect("a cluster");
    assert_eq!(cluster.join, ["127.0.0.1:7883", "localhost:1"]);
}

/// CFG-002: among others, a node may have some services only.
#[test]
fn a_node_among_others_may_have_some_of_the_services() {
    let store = "roles = [\"inbox\", \"retain\"]\n[cluster]";
    for beside in ["join = [\"127.0.0.1:1\"]", "expect = 3"] {
        let roles = Place::new(&format!("{store}\n{beside}")).valid().roles;
        assert!(roles.inbox && roles.retain);
        assert!(!roles.mqtt && !roles.session_dict && !roles.dist);
        assert_eq!(roles.words(), ["inbox", "retain"]);
    }
    check_refused(
        store,
        "r.toml:1:1: roles: a node that has nobody to join cannot do without dist, session-dict: add it, or cluster.join",
    );
    let first = "roles = [\"dist\", \"inbox\", \"retain\", \"session-dict\"]\n[cluster]";
    assert!(!Place::new(first).valid().roles.mqtt, "clients come to other nodes");
}

/// CLU-012: what can be reached by others needs a key and certificates, or a word that says it need not.
#[test]
fn an_address_that_others_reach_is_protected_or_allowed_by_name() {
    let head = "[cluster]\naddress = \"10.0.0.1:7883\"\n";
    let refused = Place::new(head).problems();
    assert!(
        refused.contains("r.toml:2:1: cluster.address: 10.0.0.1:7883 can be reached"),
        "{refused}"
    );
    assert!(refused.contains("cluster.key_file"), "{refused}");
    let keyed = format!("{head}key_file = \"DIR/key\"\n");
    let refused = Place::new(&keyed).with_file("key", KEY).problems();
    assert!(refused.contains("cluster.calls_address: 10.0.0.1:7884 can be reached"), "{refused}");
    let allowed = Place::new(&format!("{head}exposed = true")).valid();
    assert!(allowed.cluster.is_some_and(|cluster| cluster.is_exposed));
    let made = rcgen::generate_simple_self_signed(vec!["ratatosk".to_owned()]).unwrap();
    let (certificate, private) = (made.cert.pem(), made.signing_key.serialize_pem());
    let tls = "tls = { certificate = \"DIR/c\", key = \"DIR/k\", ca = \"DIR/c\" }";
    let place = Place::new(&format!("{keyed}{tls}")).with_file("key", KEY);
    let cluster = place.with_file("c", &certificate).with_file("k", &private).valid().cluster;
    assert!(cluster.is_some_and(|cluster| cluster.keys.is_some() && cluster.tls.is_some()));
}

/// CFG-007, CFG-009: what contradicts itself is refused, with what to do.
#[test]
fn what_cannot_be_reached_or_joined_is_refused() {
    for (text, expected) in [
        ("join = [\"host\"]", "r.toml:2:1: cluster.join: \"host\" is no node: write host:port"),
        ("join = []", "r.toml:2:1: cluster.join: [] is not a list of texts"),
        (
            "calls_address = \"127.0.0.1:7883\"",
            "r.toml:2:1: cluster.calls_address: is the same as cluster.address",
        ),
        (
            "address = \"127.0.0.1:65535\"",
            "r.toml:1:2: cluster.calls_address: is missing: there is no port after that of cluster.address",
        ),
        (
            "join = [\"10.0.0.1:7883\"]",
            "r.toml:1:2: cluster.address: 127.0.0.1:7883 cannot be reached from 10.0.0.1:7883, which is to be joined: \
             set the address by which it reaches this machine",
        ),
        (
            "exposed = true\naddress = \"0.0.0.0:7883\"",
            "r.toml:1:2: cluster.advertise: is missing: cluster.address is 0.0.0.0:7883, which is every address of this \
             machine; set the one by which other nodes reach it",
        ),
        ("expect = 0", "r.toml:2:1: cluster.expect: 0 is not a whole number from 1 to 100"),
    ] {
        check_refused(&format!("[cluster]\n{text}"), expected);
    }
    let short = Place::new("[cluster]\nkey_file = \"DIR/key\"").with_file("key", "ab").problems();
    assert!(short.contains("line 1: a key has 64 hexadecimal digits"), "{short}");
}

/// CFG-008: what is shown is a file that says the same: one of a node alone has no cluster.
#[test]
fn what_is_shown_of_a_node_alone_has_no_cluster() {
    let shown = |text: &str| {
        let configuration = Place::new(text).valid();
        configuration.effective.render(crate::configuration::Origins::Hidden)
    };
    assert!(!shown("").contains("cluster"));
    let among = shown("[cluster]\nzone = \"a\"");
    assert!(among.contains("[cluster]") && among.contains("zone = \"a\""), "{among}");
    assert!(Place::new(&among).valid().cluster.is_some_and(|cluster| cluster.zone == "a"));
}
