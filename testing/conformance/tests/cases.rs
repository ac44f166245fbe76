//! The cases that most behaviours are tested in: versions, and one shard or two.

use std::sync::{
    Arc, Mutex, mpsc,
    mpsc::{Receiver, SyncSender, sync_channel},
};

use ratatosk_codec::{ProtocolVersion, Qos};
use ratatosk_conformance::{Broker, Client, Connector, PermissionBy, Setup};
use ratatosk_plugin::{
    answer::Answer,
    event::{Event, EventCollector, EventCollectors},
    permission::{Action, Verdict},
    plugin::Plugin,
};

pub(crate) const QOS0: Qos = Qos::AtMostOnce;
pub(crate) const QOS1: Qos = Qos::AtLeastOnce;
pub(crate) const QOS2: Qos = Qos::ExactlyOnce;
pub(crate) const ALL_QOS: [Qos; 3] = [QOS0, QOS1, QOS2];

/// The versions that differ in what the broker does.
pub(crate) const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V311, ProtocolVersion::V5];

/// A broker with two clients, for each version, on one shard and on two.
pub(crate) struct Case {
    pub(crate) broker: Broker,
    pub(crate) version: ProtocolVersion,
    pub(crate) is_across: bool,
    /// Told when an assertion fails.
    pub(crate) name: String,
}

impl Case {
    /// All cases, each with a broker of its own.
    pub(crate) fn all(setup: impl Fn() -> Setup) -> impl Iterator<Item = Case> {
        let each = VERSIONS.into_iter().flat_map(|version| [(version, false), (version, true)]);
        each.map(move |(version, is_across)| Case {
            broker: Broker::with(setup()),
            version,
            is_across,
            name: format!("{version}, {} shards", 1 + u8::from(is_across)),
        })
    }

    /// A client of the case's version to be.
    pub(crate) fn client(&self, client_id: &str) -> Connector {
        self.broker.client(self.version, client_id)
    }

    /// Two clients, placed as the case says. The third keeps the second's place.
    #[expect(clippy::needless_pass_by_value, reason = "callers make them in place")]
    pub(crate) fn pair(&self, first: Connector, second: Connector) -> (Client, Client, Guard) {
        let first = first.connect();
        let between = (!self.is_across).then(|| self.broker.v4("between").connect());
        (first, second.connect(), Guard(between))
    }
}

/// Keeps a shard's count of connections as it is.
pub(crate) struct Guard(#[expect(dead_code, reason = "held, not used")] Option<Client>);

/// A provider that lets a shard stand still: whoever publishes to "block" holds it up until what
/// comes first is dropped. It has to go before the broker, whose shards do not stop otherwise.
pub(crate) fn standstill() -> (mpsc::Sender<()>, Arc<PermissionBy>) {
    let (hold, held) = mpsc::channel();
    let held = Mutex::new(held);
    let permission = PermissionBy::new(move |_, action| {
        if matches!(action, Action::Publish { topic: "block", .. }) {
            let _ = held.lock().expect("one waits").recv();
        }
        Answer::Now(Verdict::Allowed)
    });
    (hold, permission)
}

/// Nothing is on its way to `receiver`: what `sender` publishes last comes next. The receiver
/// subscribes to the fence for it.
pub(crate) fn assert_quiet(sender: &mut Client, receiver: &mut Client) {
    receiver.subscribe("$fence", QOS0);
    sender.publish("$fence", "end", QOS0);
    let message = receiver.message();
    assert_eq!((message.topic.as_str(), message.text()), ("$fence", "end"));
    receiver.unsubscribe(&["$fence"]);
}

/// Tells the names of events.
struct Names(SyncSender<&'static str>);

impl Plugin for Names {
    fn name(&self) -> &str {
        "names"
    }
}

impl EventCollector for Names {
    fn report(&self, event: &Event<'_>) {
        self.0.send(event.kind.event_type().name()).expect("the test reads");
    }
}

/// Collectors that tell the names of events; few enough that nobody waits for the test to read.
pub(crate) fn event_names() -> (EventCollectors, Receiver<&'static str>) {
    let (names, told) = sync_channel(1000);
    let names: Arc<dyn EventCollector> = Arc::new(Names(names));
    (EventCollectors::new([names]), told)
}
