//! The named scenarios as a table, and what an option changes in them.

use crate::machine::ledger::Routing;
use crate::machine::wire::Version;
use crate::plan::{DEALT_TOPICS_MAX, Error, Frame, Kind, Naming, Plan, SCENARIOS};

/// Sessions of F1, of R1, and of one round of C1.
const ABSENT_SESSIONS: usize = 10_000;
const RESTART_SESSIONS: usize = 100_000;
const CHURN_SESSIONS: usize = 200;
/// Messages that each session of R1 and C1 is sent.
const SESSION_MESSAGES: u64 = 10;
/// Publishers of R1; the sessions are dealt to them evenly.
const RESTART_PUBLISHERS: usize = 10;
/// Messages per second of the steady load of C1.
const CHURN_RATE: f64 = 2000.0;

impl Plan {
    /// The scenario called `name`, in any case.
    pub(crate) fn scenario(name: &str, frame: Frame) -> Result<Self, Error> {
        let shape = Self::shape(name, frame).ok_or_else(|| Error::Unknown(name.to_owned()))?;
        let known = SCENARIOS.iter().find(|known| known.eq_ignore_ascii_case(name));
        let name = known.map_or_else(|| name.to_owned(), |known| (*known).to_owned());
        let version = frame.version.unwrap_or(shape.version);
        let messages = frame.messages.unwrap_or(shape.messages);
        let payload_size = frame.payload_size.unwrap_or(shape.payload_size);
        let mut plan = Self { name, version, messages, payload_size, ..shape };
        if payload_size != shape.payload_size {
            plan.title.push_str(&format!(", payloads of {payload_size} B"));
        }
        if plan.kind == Kind::Retained {
            plan.routing = Routing::Stored(plan.messages_each());
        }
        plan.check()
    }

    /// The table of scenarios.
    fn shape(name: &str, frame: Frame) -> Option<Self> {
        let base = |title: &str, qos, payload_size| Self::pairs(title, qos, payload_size, frame);
        let plan = match name.to_ascii_lowercase().as_str() {
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
            "s9" => retained(base("100,000 retained messages, then one reader", 1, 64)),
            "f1" => absent(base("", 1, 1024), frame),
            "r1" => restart(base("", 1, 256), frame),
            "c1" => churn(base("", 1, 256), frame),
            _ => return None,
        };
        Some(plan)
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

fn retained(plan: Plan) -> Plan {
    Plan {
        kind: Kind::Retained,
        publishers: 10,
        subscribers: 1,
        naming: Naming::Grid,
        retain: true,
        messages: 100_000,
        ..plan
    }
}

fn absent(plan: Plan, frame: Frame) -> Plan {
    let sessions = frame.sessions.unwrap_or(ABSENT_SESSIONS);
    Plan {
        title: format!("1 publisher to {sessions} persistent sessions, nine of ten away, 1 KiB"),
        kind: Kind::Absent,
        version: Version::V5,
        publishers: 1,
        subscribers: sessions,
        routing: Routing::FanOut,
        naming: Naming::Pattern("bench/all".to_owned()),
        unacknowledged: 10,
        persistent: true,
        messages: 100,
        ..plan
    }
}

fn restart(plan: Plan, frame: Frame) -> Plan {
    let sessions = frame.sessions.unwrap_or(RESTART_SESSIONS);
    let sessions = sessions - sessions % RESTART_PUBLISHERS;
    let retained = frame.retained.unwrap_or(1_000_000);
    Plan {
        title: format!("{sessions} sessions with messages and {retained} retained, kill -9, start"),
        kind: Kind::Restart,
        version: Version::V5,
        publishers: RESTART_PUBLISHERS,
        subscribers: sessions,
        routing: Routing::Dealt,
        naming: Naming::Dealt { first: 0 },
        persistent: true,
        messages: sessions as u64 * SESSION_MESSAGES,
        retained,
        ..plan
    }
}

/// Kind and numbers are those of one round; the steady load beside it is [`Plan::steady_part`].
fn churn(plan: Plan, frame: Frame) -> Plan {
    let sessions = frame.sessions.unwrap_or(CHURN_SESSIONS);
    Plan {
        title: "sessions and retained messages come and go beside 2,000 msg/s".to_owned(),
        kind: Kind::Churn,
        version: Version::V5,
        publishers: 1,
        subscribers: sessions,
        routing: Routing::Dealt,
        naming: Naming::Dealt { first: 0 },
        persistent: true,
        messages: sessions as u64 * SESSION_MESSAGES,
        retained: frame.retained.unwrap_or(1000),
        ..plan
    }
}

impl Plan {
    /// The load beside the churn: pairs with persistent sessions, online, at an even rate.
    pub(crate) fn steady_part(&self) -> Self {
        Self {
            kind: Kind::Steady,
            publishers: 50,
            subscribers: 50,
            routing: Routing::Pairs,
            naming: Naming::Pattern("bench/{i}".to_owned()),
            rate: Some(CHURN_RATE),
            unacknowledged: u16::MAX,
            ..self.clone()
        }
    }

    /// Round `round` of the churn: names of its own, since a broker may keep something of each name.
    pub(crate) fn round_part(&self, round: u64) -> Self {
        // After a million topics the numbers begin again.
        let rounds = (DEALT_TOPICS_MAX / self.subscribers.max(1)).max(1) as u64;
        let first = round % rounds * self.subscribers as u64;
        let name = format!("{}-{round}", self.name);
        Self { name, naming: Naming::Dealt { first }, ..self.clone() }
    }
}
