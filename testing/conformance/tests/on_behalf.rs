//! Subscriptions that somebody else makes and ends on behalf of a client, from another node.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::thread::JoinHandle;

use ratatosk_client::{Keyspace, held::HeldKeyspace};
use ratatosk_codec::{Qos, ReasonCode, RetainHandling, SubscriptionOptions};
use ratatosk_conformance::{Broker, Event, PermissionBy, Reply, Setup, Store};
use ratatosk_contract::inbox::Subscription;
use ratatosk_contract::session_dict::{Change, Changed};
use ratatosk_contract::{ClientId, SessionIdentity, TenantId, TenantSettings};
use ratatosk_inbox::InboxCoprocessor;
use ratatosk_mqtt::Config;
use ratatosk_plugin::{
    answer::Answer,
    permission::{Action, Verdict},
};
use tokio::sync::Semaphore;

use crate::cases::{QOS0, QOS1, QOS2, VERSIONS, assert_quiet};
use crate::nodes::{dict, nodes, until};

/// Has a session changed from a node, and waits for the answer.
fn change(from: &Broker, id: &str, change: Change) -> Changed {
    begin(from, id, change).join().expect("it is answered")
}

/// The same without waiting.
fn begin(from: &Broker, id: &str, change: Change) -> JoinHandle<Changed> {
    let (dict, client) = (dict(from).clone(), ClientId::new(id));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let identity = SessionIdentity { tenant: TenantId::new("default"), user: None, client };
        runtime.expect("a runtime").block_on(dict.change(&identity, change))
    })
}

fn subscribe(filter: &str, qos: Qos) -> Change {
    subscribe_as(filter, SubscriptionOptions::new(qos), None)
}

fn subscribe_as(filter: &str, options: SubscriptionOptions, id: Option<u32>) -> Change {
    Change::Subscribe(Subscription { filter: filter.into(), options, subscription_id: id })
}

fn unsubscribe(filter: &str) -> Change {
    Change::Unsubscribe(filter.into())
}

/// DICT-002: a session is subscribed from any node, and has what is retained and what is published then; its
/// client is told nothing else. Unsubscribed, it has nothing more.
#[test]
fn a_session_is_subscribed_and_unsubscribed_from_another_node() {
    let nodes = nodes(2, Setup::default());
    let mut publisher = nodes[0].v5("publisher").connect();
    publisher.retain("t/old", "old", QOS1);
    publisher.ping();
    for (number, version) in VERSIONS.into_iter().cycle().take(4).enumerate() {
        let connector = nodes[0].client(version, "c");
        let connector = if number < 2 { connector } else { connector.persistent() };
        let mut client = connector.connect();
        for from in &nodes {
            let id = version.is_v5().then_some(9);
            let wanted = subscribe_as("t/#", SubscriptionOptions::new(QOS1), id);
            assert_eq!(change(from, "c", wanted), Changed::Granted(QOS1));
            let message = client.message();
            assert_eq!((message.text(), message.qos, message.retain), ("old", QOS1, true));
            assert_eq!(message.subscription_ids, Vec::from_iter(id));
            assert_eq!(publisher.deliver("t/1", "new", QOS2), ReasonCode::Success);
            let message = client.message();
            assert_eq!((message.text(), message.qos, message.retain), ("new", QOS1, false));
            // The same filter again has its new options, and nothing retained if it wants none.
            let options = SubscriptionOptions {
                retain_handling: RetainHandling::SendIfNew,
                ..SubscriptionOptions::new(QOS0)
            };
            let again = change(from, "c", subscribe_as("t/#", options, None));
            assert_eq!(again, Changed::Granted(QOS0));
            assert_eq!(publisher.deliver("t/1", "next", QOS1), ReasonCode::Success);
            let message = client.message();
            assert_eq!((message.text(), message.qos), ("next", QOS0));
            assert_eq!(change(from, "c", unsubscribe("t/#")), Changed::Removed);
            publisher.publish("t/1", "late", QOS0);
            assert_quiet(&mut publisher, &mut client);
            assert_eq!(change(from, "c", unsubscribe("t/#")), Changed::NotFound);
            assert_eq!(change(from, "nobody", unsubscribe("t")), Changed::NotConnected);
        }
        client.disconnect(ReasonCode::Success);
        until("it has gone", || dict(&nodes[0]).stats().sessions == 1);
        assert_eq!(change(&nodes[1], "c", subscribe("t", QOS0)), Changed::NotConnected);
    }
}

/// DICT-002: what a client may not, others may not for it; it is told nothing, nothing is subscribed, and it
/// goes on.
#[test]
fn what_a_client_may_not_is_refused_to_others() {
    let permission = PermissionBy::new(|_, action| match action {
        Action::Subscribe { filter: "secret", .. } | Action::Unsubscribe { filter: "secret" } => {
            Answer::Now(Verdict::denied("rule"))
        }
        _ => Answer::Now(Verdict::Allowed),
    });
    let settings = TenantSettings {
        max_topic_filters_per_inbox: 2,
        wildcard_subscription_enabled: false,
        ..TenantSettings::default()
    };
    let nodes = nodes(2, Setup { settings, permission, ..Setup::default() });
    for is_stored in [false, true] {
        let connector = nodes[0].v5("c");
        let connector = if is_stored { connector.persistent() } else { connector };
        let mut client = connector.connect();
        let no_local = SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(QOS0) };
        let plain = SubscriptionOptions::new(QOS0);
        for (wanted, expected) in [
            (subscribe("a/#/b", QOS0), Changed::Invalid),
            (subscribe("", QOS0), Changed::Invalid),
            (subscribe_as("$share/g/a", no_local, None), Changed::Invalid),
            (subscribe_as("a", plain, Some(0)), Changed::Invalid),
            (unsubscribe("a/#/b"), Changed::Invalid),
            (subscribe("a/#", QOS0), Changed::NotSupported),
            (subscribe("secret", QOS0), Changed::NotPermitted),
            (unsubscribe("secret"), Changed::NotPermitted),
            (subscribe("a", QOS2), Changed::Granted(QOS2)),
            (subscribe("b", QOS0), Changed::Granted(QOS0)),
            (subscribe("c", QOS0), Changed::QuotaExceeded),
            (subscribe("$share/g/c", QOS0), Changed::QuotaExceeded),
            (unsubscribe("b"), Changed::Removed),
        ] {
            assert_eq!(change(&nodes[1], "c", wanted.clone()), expected, "{wanted:?}");
        }
        let mut publisher = nodes[0].v5("publisher").connect();
        for topic in ["secret", "c", "b"] {
            publisher.publish(topic, "x", QOS0);
        }
        assert_quiet(&mut publisher, &mut client);
        client.disconnect(ReasonCode::Success);
        publisher.disconnect(ReasonCode::Success);
        until("they have gone", || dict(&nodes[0]).stats().sessions == 0);
    }
}

/// DICT-002: what is wanted waits for the permission, and what is wanted after it waits for that.
#[test]
fn what_is_wanted_for_a_client_waits_for_its_permission() {
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (closed, count) = (Arc::clone(&gate), Arc::clone(&asked));
    let permission = PermissionBy::new(move |_, action| match action {
        Action::Subscribe { filter: "later", .. } => {
            count.fetch_add(1, Ordering::SeqCst);
            let gate = Arc::clone(&closed);
            Answer::later(async move {
                gate.acquire().await.expect("stays open").forget();
                Verdict::Allowed
            })
        }
        Action::Subscribe { .. } => Answer::later(async { Verdict::denied("rule") }),
        _ => Answer::Now(Verdict::Allowed),
    });
    let nodes = nodes(2, Setup { permission, ..Setup::default() });
    let mut client = nodes[0].v5("c").connect();
    let first = begin(&nodes[1], "c", subscribe("later", QOS1));
    until("the permission is asked for", || asked.load(Ordering::SeqCst) == 1);
    let next = begin(&nodes[1], "c", unsubscribe("later"));
    client.ping();
    assert!(!first.is_finished() && !next.is_finished());
    gate.add_permits(1);
    assert_eq!(first.join().expect("it is answered"), Changed::Granted(QOS1));
    assert_eq!(next.join().expect("it is answered"), Changed::Removed);
    assert_eq!(change(&nodes[1], "c", subscribe("no", QOS1)), Changed::NotPermitted);
    client.ping();
}

/// DICT-002: of a persistent session the answer waits for an inbox that answers later, as does what is
/// wanted next; of what is unanswered when the connection ends, nobody knows.
#[test]
fn what_is_wanted_for_a_client_waits_for_its_inbox() {
    let store = Store::new();
    let nodes = nodes(2, Setup { store: store.clone(), ..Setup::default() });
    let mut publisher = nodes[0].v5("publisher").connect();
    let mut client = nodes[0].v5("c").persistent().connect();
    store.subscriptions(Reply::Late);
    let first = begin(&nodes[1], "c", subscribe("t", QOS1));
    store.owes_answers(1);
    let next = begin(&nodes[1], "c", unsubscribe("t"));
    client.ping();
    // The client's own neither waits for it nor is mixed up with it.
    let id = client.begin_subscribe(&[("u", SubscriptionOptions::new(QOS2))], None);
    store.owes_answers(2);
    store.give(1);
    let granted = Event::Suback(id, vec![ReasonCode::GrantedQos2]);
    assert_eq!(client.event(), granted);
    assert!(!first.is_finished() && !next.is_finished());
    store.give(0);
    assert_eq!(first.join().expect("it is answered"), Changed::Granted(QOS1));
    assert_eq!(next.join().expect("it is answered"), Changed::Removed);
    assert_eq!(publisher.deliver("u", "x", QOS1), ReasonCode::Success);
    assert_eq!(client.message().text(), "x");
    let busy = begin(&nodes[1], "c", subscribe("t", QOS1));
    store.owes_answers(1);
    store.give_up(0);
    assert_eq!(busy.join().expect("it is answered"), Changed::Busy);
    let lost = begin(&nodes[1], "c", subscribe("t", QOS1));
    store.owes_answers(1);
    client.vanish();
    assert_eq!(lost.join().expect("it is answered"), Changed::InDoubt);
}

/// DICT-002, DUR-009: of a persistent session nothing is said before it is durable.
#[test]
fn what_is_done_for_a_client_is_answered_once_it_is_durable() {
    let keyspace = HeldKeyspace::new(Box::<InboxCoprocessor>::default());
    let config = Config { shards: 1, ..Config::default() };
    let sessions_in: Option<Arc<dyn Keyspace>> = Some(keyspace.clone());
    let nodes = nodes(2, Setup { config, sessions_in, ..Setup::default() });
    keyspace.settle();
    let mut client = nodes[0].v5("c").persistent().open();
    until("the session is about to be durable", || keyspace.waiting() == 1);
    keyspace.settle();
    assert_eq!(client.connack().reason, ReasonCode::Success);
    let _other = nodes[0].v5("other").connect();
    for (wanted, expected) in
        [(subscribe("t", QOS1), Changed::Granted(QOS1)), (unsubscribe("t"), Changed::Removed)]
    {
        let begun = begin(&nodes[1], "c", wanted);
        until("it is about to be durable", || keyspace.waiting() == 1);
        // Others are served meanwhile.
        assert_eq!(change(&nodes[1], "other", subscribe("t", QOS1)), Changed::Granted(QOS1));
        assert!(!begun.is_finished(), "it waits for the disk");
        keyspace.settle();
        assert_eq!(begun.join().expect("it is answered"), expected);
    }
}
