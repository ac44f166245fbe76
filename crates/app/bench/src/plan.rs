//! What a run does: the named scenarios as a table, and the free form.
//!
//! A plan that exists can be carried out: sizes, counts and topics were checked against each other, so
//! the load generator has no such errors of its own.

use crate::machine::ledger::{Ledger, Routing};
use crate::machine::stamp::STAMP_SIZE;
use crate::machine::wire::Version;

/// Filters of one SUBSCRIBE packet.
pub(crate) const FILTERS_PER_PACKET: usize = 100;
/// Wildcard filters of S8.
pub(crate) const SCATTER_FILTERS: u32 = 100_000;
/// Connections that one run may have.
const CONNECTIONS_MAX: usize = 1_000_000;

/// The names that `--scenario` takes.
pub(crate) const SCENARIOS: &[&str] = &[
    "S1", "S2", "S2b", "S2v5", "S3", "S3b", "S4", "S5", "S5b", "S5k", "S6", "S7", "S8", "S9", "k1",
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
    /// The topic or group is not valid as such.
    #[error("{0:?} is not a topic name: it is empty, too long, or has +, # or a zero character")]
    Topic(String),
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
}

impl Plan {
    /// The scenario called `name`, in any case.
    pub(crate) fn scenario(name: &str, frame: Frame) -> Result<Self, Error> {
        let base = |title: &str, qos, payload_size| Self::pairs(title, qos, payload_size, frame);
        let shapes: Self = match name.to_ascii_lowercase().as_str() {
            "s1" => base("1:1, 50 pairs, QoS 0, 32 B, closed loop", 0, 32),
            "s2" => base("1:1, 50 pairs, QoS 1, 32 B, closed loop", 1, 32),
            "s2b" => base("1:1, 50 pairs, QoS 2, 32 B, closed loop", 2, 32),
            "s2v5" => Self {
                version: Version::V5,
                ..base("1:1, 50 pairs, QoS 1, 32 B, closed loop, MQTT 5", 1, 32)
            },
            "k1" => Self { window: 1, ..base("1:1, 50 pairs, QoS 0, 32 B, window of one", 0, 32) },
            "s3" => fan_out(base("fan-out 1 to 1000, QoS 0, 256 B, closed loop", 0, 256)),
            "s3b" => fan_out(base("fan-out 1 to 1000, QoS 1, 256 B, closed loop", 1, 256)),
            "s4" => Self {
                publishers: 1000,
                subscribers: 5,
                routing: Routing::Shared,
                naming: Naming::Pattern("bench/{i}".to_owned()),
                group: Some("g".to_owned()),
                window: 10,
                unacknowledged: 10,
                ..base("1000 publishers to 5 shared subscribers, QoS 1, 256 B", 1, 256)
            },
            "s5" => Self {
                persistent: true,
                ..base("1:1, 50 pairs, QoS 1, 256 B, persistent sessions online", 1, 256)
            },
            "s5b" => queue(base("200,000 messages queued for 50 sessions, then drained", 1, 256)),
            "s5k" => Self {
                kind: Kind::Queue { killed: true },
                ..queue(base("as S5b with kill -9 between fill and drain", 1, 256))
            },
            "s6" => Self {
                kind: Kind::Connections,
                publishers: 0,
                subscribers: 10_000,
                // A level of its own for each: a filter that shares all levels but the last would
                // flatter brokers that keep children in their parent's table.
                naming: Naming::Pattern("bench/{i}/t".to_owned()),
                ..base("10,000 connections, then a subscription each", 0, 32)
            },
            "s7" => Self {
                rate: Some(5000.0),
                unacknowledged: u16::MAX,
                ..base("1:1, 50 pairs, QoS 1, 256 B, 5,000 msg/s evenly spaced", 1, 256)
            },
            "s8" => Self {
                publishers: 20,
                subscribers: 100,
                routing: Routing::Scattered,
                naming: Naming::Scatter,
                ..base("100,000 wildcard filters on 100 connections, QoS 0, 32 B", 0, 32)
            },
            "s9" => Self {
                kind: Kind::Retained,
                publishers: 10,
                subscribers: 1,
                naming: Naming::Grid,
                retain: true,
                messages: 100_000,
                ..base("100,000 retained messages, then one reader", 1, 64)
            },
            _ => return Err(Error::Unknown(name.to_owned())),
        };
        let known = SCENARIOS.iter().find(|known| known.eq_ignore_ascii_case(name));
        let name = known.map_or_else(|| name.to_owned(), |known| (*known).to_owned());
        let version = frame.version.unwrap_or(shapes.version);
        let messages = frame.messages.unwrap_or(shapes.messages);
        let mut plan = Self { name, version, messages, ..shapes };
        if plan.kind == Kind::Retained {
            plan.routing = Routing::Stored(plan.messages_each());
        }
        plan.check()
    }

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
        if matches!(self.kind, Kind::Queue { .. } | Kind::Retained)
            && !(1..=100_000_000).contains(&self.messages_each())
        {
            let value = self.messages.to_string();
            return range("messages", value, "at least one per publisher, at most 100,000,000");
        }
        let names = [self.topic(0)].into_iter().chain(self.group.clone());
        for name in names {
            let valid = !name.is_empty() && name.len() < 60_000 && !name.contains(['+', '#', '\0']);
            if !valid {
                return Err(Error::Topic(name));
            }
        }
        let Self { publishers, subscribers, .. } = self;
        if Ledger::new(self.routing, publishers, subscribers).is_none() {
            return Err(Error::Streams { publishers, subscribers });
        }
        Ok(self)
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
        }
    }

    /// Bytes of the largest packet, generously.
    pub(crate) fn packet_max(&self) -> usize {
        self.payload_size + self.topic(0).len() + 64
    }
}

fn fan_out(plan: Plan) -> Plan {
    Plan {
        publishers: 1,
        subscribers: 1000,
        routing: Routing::FanOut,
        naming: Naming::Pattern("bench/all".to_owned()),
        window: 16,
        unacknowledged: 16,
        ..plan
    }
}

fn queue(plan: Plan) -> Plan {
    Plan { kind: Kind::Queue { killed: false }, persistent: true, messages: 200_000, ..plan }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame { version: None, warmup_ns: 1, duration_ns: 5, messages: None };

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
