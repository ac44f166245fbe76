//! What a run does: the named scenarios as a table, and the free form.
//!
//! A plan that exists can be carried out: sizes, counts and topics were checked against each other, so
//! the load generator has no such errors of its own.

mod scenario;

use crate::machine::ledger::{Ledger, Routing};
use crate::machine::stamp::STAMP_SIZE;
use crate::machine::wire::Version;

/// Filters of one SUBSCRIBE packet.
pub(crate) const FILTERS_PER_PACKET: usize = 100;
/// Wildcard filters of S8.
pub(crate) const SCATTER_FILTERS: u32 = 100_000;
/// Topics of which each goes to one session, by the digits of their numbers.
pub(crate) const DEALT_TOPICS_MAX: usize = 1_000_000;
/// Publishers of retained messages in R1 and C1.
const RETAINERS: usize = 10;
/// Sessions that F1, R1 and C1 have at least.
const SESSIONS_MIN: usize = 10;
/// Connections that one run may have.
const CONNECTIONS_MAX: usize = 1_000_000;

/// The names that `--scenario` takes.
pub(crate) const SCENARIOS: &[&str] = &[
    "S1", "S2", "S2b", "S2v5", "S3", "S3b", "S4", "S5", "S5b", "S5k", "S6", "S7", "S8", "S9", "k1",
    "F1", "R1", "C1",
];

/// How a run proceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Publishers and subscribers at once, for a while.
    Steady,
    /// Messages are queued for sessions that are away, then delivered.
    Queue {
        /// The broker is killed between the two phases.
        killed: bool,
    },
    /// Connections, then a subscription each.
    Connections,
    /// Messages are retained, then read by one new subscriber.
    Retained,
    /// One topic, many sessions, most of them away.
    Absent,
    /// Much is stored, the broker is killed, some sessions return at once.
    Restart,
    /// Sessions come and go beside a steady load.
    Churn,
}

/// How topics are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Naming {
    /// The same topic for all, or one per publisher where `{i}` stands for its number.
    Pattern(String),
    /// `d/{k}/x/t/y` for random k; filters `d/{k}/+/t/#`.
    Scatter,
    /// `r/{a}/{b}`, each once; filter `r/#`.
    Grid,
    /// `m/{n}`, a topic for each subscriber, numbered from `first`.
    Dealt {
        /// Number of the first subscriber's topic.
        first: u64,
    },
}

/// A run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) kind: Kind,
    pub(crate) version: Version,
    pub(crate) qos: u8,
    pub(crate) payload_size: usize,
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    pub(crate) routing: Routing,
    pub(crate) naming: Naming,
    /// The group of shared subscriptions.
    pub(crate) group: Option<String>,
    /// Messages of a publisher not yet delivered end to end.
    pub(crate) window: u32,
    /// Messages of a publisher not yet acknowledged.
    pub(crate) unacknowledged: u16,
    /// Messages per second of all publishers together; `None` is a closed loop.
    pub(crate) rate: Option<f64>,
    /// Subscribers keep their sessions.
    pub(crate) persistent: bool,
    pub(crate) retain: bool,
    /// Messages in all, where the kind has a fixed number.
    pub(crate) messages: u64,
    /// Messages that are retained besides.
    pub(crate) retained: u64,
    pub(crate) warmup_ns: u64,
    pub(crate) duration_ns: u64,
}

/// A plan that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// No scenario has this name.
    #[error("there is no scenario {0:?}; known are {list}", list = SCENARIOS.join(", "))]
    Unknown(String),
    /// The payload cannot hold publisher, sequence number and time.
    #[error("a payload of {0} bytes is too small: it carries a stamp of {STAMP_SIZE} bytes")]
    PayloadSize(usize),
    /// Larger than MQTT can carry.
    #[error("a payload of {0} bytes is too large: this generator sends at most {PAYLOAD_MAX}")]
    PayloadMax(usize),
    /// A topic per publisher, but not a subscriber for each.
    #[error(
        "topic {topic:?} has {{i}}, one topic per pair, but there are {publishers} publishers and \
         {subscribers} subscribers; make them equal, leave {{i}} out, or use --share"
    )]
    Pairs {
        /// The topic.
        topic: String,
        /// Publishers.
        publishers: usize,
        /// Subscribers.
        subscribers: usize,
    },
    /// Too many streams to watch.
    #[error(
        "{publishers} publishers times {subscribers} subscribers are too many streams to watch"
    )]
    Streams {
        /// Publishers.
        publishers: usize,
        /// Subscribers.
        subscribers: usize,
    },
    /// The topic is not valid as such.
    #[error("{0:?} is not a topic name: it is empty, too long, or has +, # or a zero character")]
    Topic(String),
    /// The group of a shared subscription is not valid as such.
    #[error("{0:?} is not the name of a shared group: it is empty, too long, or has +, # or /")]
    Group(String),
    /// No publishers and no subscribers, or far too many.
    #[error("{0} connections cannot be made: between 1 and {CONNECTIONS_MAX} are possible")]
    Connections(usize),
    /// A value outside its range.
    #[error("{name} is {value}, it must be {range}")]
    Range {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        range: &'static str,
    },
}

/// The largest payload.
const PAYLOAD_MAX: usize = 16 * 1024 * 1024;

/// The parts of a free-form run.
#[derive(Debug, Clone)]
pub(crate) struct Free {
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    pub(crate) qos: u8,
    pub(crate) payload_size: usize,
    pub(crate) rate: Option<f64>,
    pub(crate) window: u32,
    pub(crate) unacknowledged: u16,
    pub(crate) topic: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) persistent: bool,
    pub(crate) retain: bool,
}

/// How long a run takes, and in which version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    /// `None` leaves the scenario's own.
    pub(crate) version: Option<Version>,
    pub(crate) warmup_ns: u64,
    pub(crate) duration_ns: u64,
    /// `None` leaves the scenario's own.
    pub(crate) messages: Option<u64>,
    /// Of F1, R1 and C1; `None` leaves the scenario's own.
    pub(crate) sessions: Option<usize>,
    /// Of R1 and C1; `None` leaves the scenario's own.
    pub(crate) retained: Option<u64>,
    /// Of a scenario; `None` leaves its own.
    pub(crate) payload_size: Option<usize>,
}

impl Plan {
    /// A run of one's own.
    pub(crate) fn free(free: Free, frame: Frame) -> Result<Self, Error> {
        let Free { publishers, subscribers, .. } = free;
        let shared = free.group.is_some();
        let topic = free.topic.unwrap_or_else(|| {
            let pairs = shared || publishers == subscribers;
            (if pairs { "bench/{i}" } else { "bench/all" }).to_owned()
        });
        let routing = match (shared, topic.contains("{i}")) {
            (true, _) => Routing::Shared,
            (false, true) if publishers != subscribers && publishers > 0 && subscribers > 0 => {
                return Err(Error::Pairs { topic, publishers, subscribers });
            }
            (false, true) => Routing::Pairs,
            (false, false) => Routing::FanOut,
        };
        let title = format!(
            "{publishers} publishers, {subscribers} subscribers, QoS {}, {} B, {}",
            free.qos,
            free.payload_size,
            free.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{rate} msg/s")),
        );
        let base = Self::pairs(&title, free.qos, free.payload_size, frame);
        Self {
            name: "free".to_owned(),
            publishers,
            subscribers,
            routing,
            naming: Naming::Pattern(topic),
            group: free.group,
            window: free.window,
            unacknowledged: free.unacknowledged,
            rate: free.rate,
            persistent: free.persistent,
            retain: free.retain,
            version: frame.version.unwrap_or(Version::V311),
            ..base
        }
        .check()
    }

    fn pairs(title: &str, qos: u8, payload_size: usize, frame: Frame) -> Self {
        Self {
            name: String::new(),
            title: title.to_owned(),
            kind: Kind::Steady,
            version: Version::V311,
            qos,
            payload_size,
            publishers: 50,
            subscribers: 50,
            routing: Routing::Pairs,
            naming: Naming::Pattern("bench/{i}".to_owned()),
            group: None,
            window: 256,
            unacknowledged: 64,
            rate: None,
            persistent: false,
            retain: false,
            messages: 0,
            retained: 0,
            warmup_ns: frame.warmup_ns,
            duration_ns: frame.duration_ns,
        }
    }

    fn check(self) -> Result<Self, Error> {
        if self.payload_size < STAMP_SIZE {
            return Err(Error::PayloadSize(self.payload_size));
        }
        if self.payload_size > PAYLOAD_MAX {
            return Err(Error::PayloadMax(self.payload_size));
        }
        let connections = self.publishers.saturating_add(self.subscribers);
        if connections == 0 || connections > CONNECTIONS_MAX {
            return Err(Error::Connections(connections));
        }
        let range = |name, value: String, range| Err(Error::Range { name, value, range });
        if self.qos > 2 {
            return range("qos", self.qos.to_string(), "0, 1 or 2");
        }
        if self.window == 0 || self.window > 1 << 20 {
            return range("window", self.window.to_string(), "between 1 and 1048576");
        }
        if self.unacknowledged == 0 {
            return range("inflight", "0".to_owned(), "between 1 and 65535");
        }
        if let Some(rate) = self.rate.filter(|rate| !(*rate > 0.0 && *rate <= 1e8)) {
            return range("rate", rate.to_string(), "above 0 and at most 100,000,000");
        }
        if self.duration_ns == 0 {
            return range("duration", "0".to_owned(), "above 0");
        }
        let is_counted = !matches!(self.kind, Kind::Steady | Kind::Connections);
        if is_counted && !(1..=100_000_000).contains(&self.messages_each()) {
            let value = self.messages.to_string();
            return range("messages", value, "at least one per publisher, at most 100,000,000");
        }
        self.check_scale()?;
        let valid = |name: &str| {
            !name.is_empty() && name.len() < 60_000 && !name.contains(['+', '#', '\0'])
        };
        if !valid(&self.topic(0)) {
            return Err(Error::Topic(self.topic(0)));
        }
        // [MQTT-4.8.2-1] A group's name is one level.
        if let Some(group) =
            self.group.as_ref().filter(|group| !valid(group) || group.contains('/'))
        {
            return Err(Error::Group(group.clone()));
        }
        let Self { publishers, subscribers, .. } = self;
        if Ledger::new(self.routing, publishers, subscribers).is_none() {
            return Err(Error::Streams { publishers, subscribers });
        }
        Ok(self)
    }

    /// Sessions and retained messages where their number is an option.
    fn check_scale(&self) -> Result<(), Error> {
        if !matches!(self.kind, Kind::Absent | Kind::Restart | Kind::Churn) {
            return Ok(());
        }
        let range = |name, value: String, range| Err(Error::Range { name, value, range });
        if self.version != Version::V5 {
            return range(
                "protocol-version",
                "3.1.1".to_owned(),
                "5: sessions are given an expiry",
            );
        }
        if !(SESSIONS_MIN..=DEALT_TOPICS_MAX).contains(&self.subscribers) {
            let value = self.subscribers.to_string();
            return range("sessions", value, "between 10 and 1,000,000");
        }
        let few = self.kind != Kind::Absent && self.retained < RETAINERS as u64;
        if few || self.retained > 100_000_000 {
            return range("retained", self.retained.to_string(), "between 10 and 100,000,000");
        }
        if self.kind == Kind::Restart && self.messages < self.subscribers as u64 {
            return range("messages", self.messages.to_string(), "at least one per session");
        }
        Ok(())
    }

    /// The same plan with retained messages on as many topics in place of its own messages.
    pub(crate) fn retained_part(&self) -> Self {
        let part = Self {
            kind: Kind::Retained,
            publishers: RETAINERS,
            subscribers: 1,
            naming: Naming::Grid,
            persistent: false,
            retain: true,
            payload_size: 64,
            rate: None,
            messages: self.retained,
            ..self.clone()
        };
        Self { routing: Routing::Stored(part.messages_each()), ..part }
    }

    /// Whether the broker is killed between two phases, which only `bench compare` does by itself.
    pub(crate) fn is_killed(&self) -> bool {
        matches!(self.kind, Kind::Queue { killed: true } | Kind::Restart)
    }

    /// Whether `--phase` may choose a half.
    pub(crate) fn is_phased(&self) -> bool {
        matches!(self.kind, Kind::Queue { .. } | Kind::Restart)
    }

    /// Messages of each publisher where their number is fixed; what does not divide is left out.
    pub(crate) fn messages_each(&self) -> u64 {
        self.messages / (self.publishers.max(1) as u64)
    }

    /// The topic of publisher `index`; where topics change, the first.
    pub(crate) fn topic(&self, index: usize) -> String {
        match &self.naming {
            Naming::Pattern(pattern) => pattern.replace("{i}", &format!("{index:03}")),
            Naming::Scatter => "d/00000/x/t/y".to_owned(),
            Naming::Grid => "r/000000/00".to_owned(),
            Naming::Dealt { .. } => format!("m/{:07}", 0),
        }
    }

    /// The filters of subscriber `index`.
    pub(crate) fn filters(&self, index: usize) -> Vec<String> {
        match (&self.naming, &self.group) {
            (Naming::Pattern(pattern), Some(group)) => {
                // One wildcard level in place of what holds the publisher's number.
                let levels = pattern.split('/');
                let levels = levels.map(|level| if level.contains("{i}") { "+" } else { level });
                vec![format!("$share/{group}/{}", levels.collect::<Vec<_>>().join("/"))]
            }
            (Naming::Pattern(_), None) => vec![self.topic(index)],
            (Naming::Scatter, _) => {
                let step = self.subscribers.max(1);
                let numbers = (0..SCATTER_FILTERS).skip(index).step_by(step);
                numbers.map(|number| format!("d/{number:05}/+/t/#")).collect()
            }
            (Naming::Grid, _) => vec!["r/#".to_owned()],
            (Naming::Dealt { first }, _) => vec![format!("m/{:07}", first + index as u64)],
        }
    }

    /// Bytes of the largest packet, generously.
    pub(crate) fn packet_max(&self) -> usize {
        self.payload_size + self.topic(0).len() + 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame {
        version: None,
        warmup_ns: 1,
        duration_ns: 5,
        messages: None,
        sessions: None,
        retained: None,
        payload_size: None,
    };

    fn free() -> Free {
        Free {
            publishers: 2,
            subscribers: 2,
            qos: 0,
            payload_size: 32,
            rate: None,
            window: 16,
            unacknowledged: 16,
            topic: None,
            group: None,
            persistent: false,
            retain: false,
        }
    }

    #[test]
    fn every_named_scenario_can_be_carried_out() {
        for name in SCENARIOS {
            let plan = Plan::scenario(name, FRAME).unwrap();
            assert_eq!(plan.name, *name);
            assert_eq!(Plan::scenario(&name.to_lowercase(), FRAME).unwrap().name, *name);
        }
        assert!(Plan::scenario("S99", FRAME).unwrap_err().to_string().contains("S2v5"));
    }

    #[test]
    fn scattered_filters_are_spread_and_complete() {
        let plan = Plan::scenario("S8", FRAME).unwrap();
        let filters: Vec<_> = (0..100).flat_map(|index| plan.filters(index)).collect();
        assert_eq!(filters.len(), 100_000);
        assert_eq!(plan.filters(1)[..2], ["d/00001/+/t/#", "d/00101/+/t/#"]);
    }

    #[test]
    fn scenarios_at_scale_are_made_smaller_by_options() {
        let frame = Frame { sessions: Some(40), retained: Some(100), ..FRAME };
        let plan = Plan::scenario("R1", frame).unwrap();
        assert_eq!((plan.subscribers, plan.messages, plan.retained), (40, 400, 100));
        assert_eq!(plan.filters(39), ["m/0000039"]);
        let part = plan.retained_part();
        assert_eq!((part.routing, part.messages_each()), (Routing::Stored(10), 10));
        let large = Plan::scenario("R1", Frame { payload_size: Some(5_000), ..frame }).unwrap();
        assert!(large.payload_size == 5_000 && large.title.ends_with("payloads of 5000 B"));
        // Sessions are dealt evenly to the publishers.
        let frame = Frame { sessions: Some(47), ..frame };
        assert_eq!(Plan::scenario("R1", frame).unwrap().subscribers, 40);
        assert_eq!(Plan::scenario("F1", frame).unwrap().subscribers, 47);
    }

    #[test]
    fn scale_that_makes_no_sense_is_refused() {
        let message = |name, frame| Plan::scenario(name, frame).unwrap_err().to_string();
        let old = Frame { version: Some(Version::V311), ..FRAME };
        assert!(message("F1", old).contains("protocol-version is 3.1.1"));
        let few = Frame { sessions: Some(9), ..FRAME };
        assert!(message("F1", few).starts_with("sessions is 9"));
        let none = Frame { retained: Some(0), ..FRAME };
        assert!(message("R1", none).starts_with("retained is 0"));
        let short = Frame { messages: Some(99), sessions: Some(100), ..FRAME };
        assert!(message("R1", short).starts_with("messages is 99"));
    }

    #[test]
    fn shared_filter_covers_the_publishers_topics() {
        let plan = Plan::scenario("S4", FRAME).unwrap();
        assert_eq!(plan.topic(17), "bench/017");
        assert_eq!(plan.filters(0), ["$share/g/bench/+"]);
    }

    #[test]
    fn free_form_derives_its_routing() {
        let routing = |change: &dyn Fn(&mut Free)| {
            let mut free = free();
            change(&mut free);
            Plan::free(free, FRAME).map(|plan| plan.routing)
        };
        assert_eq!(routing(&|_| {}), Ok(Routing::Pairs));
        assert_eq!(routing(&|free| free.subscribers = 3), Ok(Routing::FanOut));
        assert_eq!(routing(&|free| free.topic = Some("t".to_owned())), Ok(Routing::FanOut));
        assert_eq!(routing(&|free| free.group = Some("g".to_owned())), Ok(Routing::Shared));
    }

    #[test]
    fn impossible_plans_are_refused_with_their_values() {
        let message = |change: &dyn Fn(&mut Free)| {
            let mut free = free();
            change(&mut free);
            Plan::free(free, FRAME).unwrap_err().to_string()
        };
        assert!(message(&|free| free.payload_size = 8).starts_with("a payload of 8 bytes"));
        assert!(message(&|free| free.qos = 3).starts_with("qos is 3"));
        assert!(message(&|free| free.rate = Some(-1.0)).starts_with("rate is -1"));
        assert!(message(&|free| free.topic = Some("a/#".to_owned())).contains("\"a/#\""));
        assert!(message(&|free| free.group = Some("a/b".to_owned())).contains("shared group"));
        let unequal = message(&|free| {
            free.topic = Some("a/{i}".to_owned());
            free.subscribers = 3;
        });
        assert!(unequal.contains("2 publishers and 3 subscribers"), "{unequal}");
        let many = message(&|free| {
            free.publishers = 9000;
            free.subscribers = 9001;
        });
        assert!(many.contains("too many streams"), "{many}");
    }
}
