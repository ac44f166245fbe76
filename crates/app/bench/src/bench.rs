//! One target and what every scenario does with it: connect, subscribe, measure, leave.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::clock::{self, SECOND_NS};
use crate::disk;
use crate::doors::Doors;
use crate::limits;
use crate::live::{Live, Show};
use crate::load::{Load, Role};
use crate::machine::flow::Flow;
use crate::machine::ledger::Ledger;
use crate::machine::template::{Shape, Template};
use crate::machine::wire::{self, Connect};
use crate::meter::{Meter, Sample};
use crate::net::{LinkIndex, Net};
use crate::plan::{FILTERS_PER_PACKET, Naming, Plan};
use crate::publisher::{Gate, Publisher, Topic};

/// Connections that are being made at a time.
pub(crate) const DIALING_MAX: usize = 64;
/// Connections that stand at a time where sessions are made or ended one wave after the other.
const WAVE: usize = 2000;
/// A phase in which nothing happens for this long has failed.
const PATIENCE_NS: u64 = 30 * SECOND_NS;
/// Leaving ends when the broker closed no more connections for this long.
const LEAVE_NS: u64 = 3 * SECOND_NS;
/// How long one turn waits when nothing else limits it.
const TURN_MS: u64 = 50;

/// The target of a run.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) target: String,
    pub(crate) doors: Doors,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    /// The broker's process, if it is known.
    pub(crate) broker: Option<Meter>,
    /// When that process was started, if we did it.
    pub(crate) started_ns: Option<u64>,
    /// The broker's directory, if it is on this machine and known.
    pub(crate) directory: Option<PathBuf>,
    pub(crate) own: Meter,
    pub(crate) live: Live,
    pub(crate) stop: Arc<AtomicBool>,
    /// What tells this run's messages from others.
    pub(crate) run: u32,
}

/// A connection to be made.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    pub(crate) role: Role,
    pub(crate) client_id: String,
    /// An earlier session is ended; in MQTT 3.1.1 the new one too, with the connection.
    pub(crate) clean: bool,
    /// How long the session outlives the connection, in MQTT 5.
    pub(crate) expiry_seconds: u32,
}

/// Both processes at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) at_ns: u64,
    pub(crate) broker: Option<Sample>,
    pub(crate) own: Sample,
    /// Bytes on disk of the broker's directory.
    pub(crate) used: Option<u64>,
}

impl Bench {
    /// A target that answers on `host` and `port`.
    pub(crate) fn new(
        host: &str,
        port: u16,
        show: Show,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            target: format!("{host}:{port}"),
            doors: Doors::new(host, port)?,
            username: None,
            password: None,
            broker: None,
            started_ns: None,
            directory: None,
            own: Meter::own()?,
            live: Live::new(show),
            stop,
            run: run_number(),
        })
    }

    /// The same target for another thread, which shows and measures nothing.
    pub(crate) fn beside(&self) -> anyhow::Result<Self> {
        Ok(Self {
            target: self.target.clone(),
            doors: self.doors.clone(),
            username: self.username.clone(),
            password: self.password.clone(),
            broker: None,
            started_ns: None,
            directory: None,
            own: Meter::own()?,
            live: Live::new(Show::Nothing),
            stop: Arc::clone(&self.stop),
            run: self.run.wrapping_add(1),
        })
    }

    /// Whether more of the broker is known than what it answers.
    pub(crate) fn sees_broker(&self) -> bool {
        self.broker.is_some() || self.directory.is_some()
    }

    /// Measures both processes.
    pub(crate) fn moment(&mut self) -> Moment {
        let broker = self.broker.as_mut().map(Meter::sample);
        let used = self.directory.as_deref().map(disk::used);
        Moment { at_ns: clock::now_ns(), broker, own: self.own.sample(), used }
    }

    /// Event loop and clients for `plan`.
    pub(crate) fn open(&mut self, plan: &Plan) -> anyhow::Result<(Net, Load)> {
        self.open_for(plan, plan.publishers + plan.subscribers)
    }

    /// The same where no more than `connections` stand at a time.
    pub(crate) fn open_for(
        &mut self,
        plan: &Plan,
        connections: usize,
    ) -> anyhow::Result<(Net, Load)> {
        limits::reserve_descriptors(connections)?;
        let net = Net::new(plan.packet_max(), Arc::clone(&self.stop)).context("event loop")?;
        let ledger = Ledger::new(plan.routing, plan.publishers, plan.subscribers)
            .context("too many streams to watch")?;
        self.live.begin(clock::now_ns());
        Ok((net, Load::new(plan.version, plan.qos, self.run, ledger)))
    }

    /// Connects `dials`, 64 at a time, and waits until all are accepted.
    pub(crate) fn connect(
        &mut self,
        net: &mut Net,
        load: &mut Load,
        plan: &Plan,
        dials: &[Dial],
    ) -> anyhow::Result<()> {
        self.connect_by(net, load, plan, (dials, DIALING_MAX))
    }

    /// The same with as many at a time as the second of the pair says.
    pub(crate) fn connect_by(
        &mut self,
        net: &mut Net,
        load: &mut Load,
        plan: &Plan,
        (dials, dialing_max): (&[Dial], usize),
    ) -> anyhow::Result<()> {
        let settled = |load: &Load| load.tally.ready + load.tally.failed;
        let (first, failed_before) = (settled(load), load.tally.failed);
        let start_ns = clock::now_ns();
        let mut progress = Progress::new(start_ns);
        let mut begun = 0;
        loop {
            let done = settled(load) - first;
            while begun < dials.len() && begun - done < dialing_max {
                self.dial(net, load, plan, &dials[begun])?;
                begun += 1;
            }
            let failed = load.tally.failed - failed_before;
            if failed > 0 {
                let total = dials.len();
                bail!(
                    "{failed} of {total} connections to {} failed: {}",
                    self.target,
                    load.notes().join("; ")
                );
            }
            let now_ns = clock::now_ns();
            self.live.bar("connecting", done, dials.len(), now_ns - start_ns);
            if done == dials.len() {
                return Ok(());
            }
            if progress.is_stuck(done as u64, now_ns) {
                bail!(
                    "no answer from {} for {} s with {done} of {} connections accepted",
                    self.target,
                    PATIENCE_NS / SECOND_NS,
                    dials.len()
                );
            }
            net.flush(load);
            net.turn(load, Duration::from_millis(TURN_MS))?;
            net.flush(load);
        }
    }

    fn dial(&self, net: &mut Net, load: &mut Load, plan: &Plan, dial: &Dial) -> anyhow::Result<()> {
        let hello = wire::connect(&Connect {
            version: plan.version,
            client_id: &dial.client_id,
            clean: dial.clean,
            expiry_seconds: dial.expiry_seconds,
            username: self.username.as_deref(),
            password: self.password.as_deref(),
        })
        .context("user name or password is longer than 65,535 bytes")?;
        let address = self.doors.of(dial.role);
        let link = net.dial(address).with_context(|| format!("connecting to {address}"))?;
        load.enlist(link, dial.role, hello);
        Ok(())
    }

    /// Subscribes every subscriber to its filters and waits for the answers.
    pub(crate) fn subscribe(
        &mut self,
        net: &mut Net,
        load: &mut Load,
        plan: &Plan,
    ) -> anyhow::Result<()> {
        let subscribers: Vec<(LinkIndex, usize)> = load
            .ready_links()
            .filter_map(|(link, role)| match role {
                Role::Subscriber(index) => Some((link, index)),
                Role::Publisher(_) => None,
            })
            .collect();
        let mut total = 0;
        for &(link, index) in &subscribers {
            for filters in plan.filters(index).chunks(FILTERS_PER_PACKET) {
                total += filters.len();
                if !load.subscribe(link, filters) {
                    bail!("the filters of subscriber {index} do not fit into a packet");
                }
            }
        }
        let answered = |load: &Load| load.tally.subscribed + load.tally.subscribes_refused;
        let first = answered(load);
        let start_ns = clock::now_ns();
        let mut progress = Progress::new(start_ns);
        while !load.pump_subscribes(&mut net.links) {
            net.flush(load);
            net.turn(load, Duration::from_millis(TURN_MS))?;
            let now_ns = clock::now_ns();
            let done = answered(load) - first;
            let shown = usize::try_from(done).unwrap_or(usize::MAX);
            self.live.bar("subscribing", shown, total, now_ns - start_ns);
            if progress.is_stuck(done, now_ns) {
                bail!("no answer from {} with {done} of {total} filters accepted", self.target);
            }
        }
        Ok(())
    }

    /// The connections of the plan's subscribers.
    pub(crate) fn subscriber_dials(&self, plan: &Plan) -> Vec<Dial> {
        let clean = !plan.persistent;
        let dial = |index| Dial {
            role: Role::Subscriber(index),
            // A session is found again by its id, so it must not depend on the run.
            client_id: if clean {
                format!("rb-{:08x}-s{index}", self.run)
            } else {
                format!("rb-{}-s{index}", plan.name.to_ascii_lowercase())
            },
            clean,
            expiry_seconds: if clean { 0 } else { wire::SESSION_EXPIRY_SECONDS },
        };
        (0..plan.subscribers).map(dial).collect()
    }

    /// Connects the publishers; `gate` says what holds each back.
    pub(crate) fn connect_publishers(
        &mut self,
        net: &mut Net,
        load: &mut Load,
        plan: &Plan,
        gate: impl Fn(usize) -> Gate,
    ) -> anyhow::Result<()> {
        let dial = |index| Dial {
            role: Role::Publisher(index),
            client_id: format!("rb-{:08x}-p{index}", self.run),
            clean: true,
            expiry_seconds: 0,
        };
        let dials: Vec<Dial> = (0..plan.publishers).map(dial).collect();
        self.connect(net, load, plan, &dials)?;
        let mut links = vec![None; plan.publishers];
        for (link, role) in load.ready_links() {
            if let Role::Publisher(index) = role {
                links[index] = Some(link);
            }
        }
        for (index, link) in links.into_iter().enumerate() {
            let link = link.with_context(|| {
                format!("publisher {index} was disconnected: {}", load.notes().join("; "))
            })?;
            let publisher = self.publisher(plan, index, link, gate(index))?;
            load.add_publisher(publisher);
        }
        Ok(())
    }

    fn publisher(
        &self,
        plan: &Plan,
        index: usize,
        link: LinkIndex,
        gate: Gate,
    ) -> anyhow::Result<Publisher> {
        let template = Template::new(&Shape {
            version: plan.version,
            topic: &plan.topic(index),
            qos: plan.qos,
            retain: plan.retain,
            payload_size: plan.payload_size,
            run: self.run,
            publisher: u32::try_from(index)?,
        })
        .with_context(|| format!("a payload of {} bytes cannot be sent", plan.payload_size))?;
        let flow = (plan.qos > 0).then(|| Flow::new(plan.unacknowledged));
        let topic = match plan.naming {
            Naming::Pattern(_) => Topic::Fixed,
            Naming::Scatter => Topic::Scatter { state: 0x9e37_79b9_7f4a_7c15 ^ index as u64 },
            Naming::Grid => Topic::Grid { first: index as u64 * plan.messages_each() },
            Naming::Dealt { first } => {
                let share = (plan.subscribers / plan.publishers.max(1)).max(1) as u64;
                Topic::Dealt { first: first + index as u64 * share, share }
            }
        };
        Ok(Publisher::new(link, gate, flow, template, topic))
    }

    /// Disconnects everyone properly and waits until the broker has closed its side: only then does it
    /// treat a persistent session as away.
    pub(crate) fn leave(&mut self, net: &mut Net, load: &mut Load) -> anyhow::Result<()> {
        self.leave_where(net, load, |_| true)
    }

    /// The same for those whose role `leaves`.
    pub(crate) fn leave_where(
        &mut self,
        net: &mut Net,
        load: &mut Load,
        leaves: impl Fn(Role) -> bool,
    ) -> anyhow::Result<()> {
        let leaving = load.ready_links().filter(|(_, role)| leaves(*role));
        let mut open: Vec<LinkIndex> = leaving.map(|(link, _)| link).collect();
        for &link in &open {
            net.links.buffer(link).extend_from_slice(&wire::DISCONNECT_BYTES);
            net.links.leave(link);
            load.retire(link);
        }
        let mut progress = Progress::new(clock::now_ns());
        loop {
            net.flush(load);
            open.retain(|&link| net.links.is_open(link));
            let idle_ns = progress.idle_ns(open.len() as u64, clock::now_ns());
            if open.is_empty() || idle_ns > LEAVE_NS {
                return Ok(());
            }
            net.turn(load, Duration::from_millis(TURN_MS))?;
        }
    }

    /// Lets time pass without doing anything but answering.
    pub(crate) fn rest(&self, net: &mut Net, load: &mut Load, span_ns: u64) -> anyhow::Result<()> {
        let end_ns = clock::now_ns() + span_ns;
        loop {
            let now_ns = clock::now_ns();
            if now_ns >= end_ns {
                return Ok(());
            }
            net.flush(load);
            net.turn(load, Duration::from_nanos(end_ns - now_ns))?;
        }
    }

    /// Makes the sessions of the plan's subscribers anew, with their filters, and lets them leave. Needs
    /// MQTT 5, where a clean start does not end the session with its connection.
    pub(crate) fn make_sessions(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let mut dials = self.subscriber_dials(plan);
        for dial in &mut dials {
            dial.clean = true;
        }
        for wave in dials.chunks(WAVE) {
            let (mut net, mut load) = self.open_for(plan, wave.len())?;
            self.connect(&mut net, &mut load, plan, wave)?;
            self.subscribe(&mut net, &mut load, plan)?;
            if load.tally.subscribed < wave.len() as u64 {
                let (made, notes) = (load.tally.subscribed, load.notes().join("; "));
                bail!("{made} of {} sessions were subscribed: {notes}", wave.len());
            }
            self.leave(&mut net, &mut load)?;
        }
        Ok(())
    }

    /// Ends the sessions that persistent subscribers left behind.
    pub(crate) fn forget_sessions(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let mut dials = self.subscriber_dials(plan);
        for dial in &mut dials {
            dial.clean = true;
            dial.expiry_seconds = 0;
        }
        for wave in dials.chunks(WAVE) {
            let (mut net, mut load) = self.open_for(plan, wave.len())?;
            self.connect(&mut net, &mut load, plan, wave)?;
            self.leave(&mut net, &mut load)?;
        }
        Ok(())
    }
}

/// Notices when nothing moves.
#[derive(Debug)]
pub(crate) struct Progress {
    value: u64,
    since_ns: u64,
}

impl Progress {
    pub(crate) fn new(now_ns: u64) -> Self {
        Self { value: 0, since_ns: now_ns }
    }

    /// Nanoseconds since `value` last changed.
    pub(crate) fn idle_ns(&mut self, value: u64, now_ns: u64) -> u64 {
        if value != self.value {
            self.value = value;
            self.since_ns = now_ns;
        }
        now_ns.saturating_sub(self.since_ns)
    }

    fn is_stuck(&mut self, value: u64, now_ns: u64) -> bool {
        self.idle_ns(value, now_ns) > PATIENCE_NS
    }
}

/// A number that differs from run to run.
fn run_number() -> u32 {
    let mixed = clock::now_ns() ^ u64::from(std::process::id()) << 32;
    let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u32::try_from(mixed >> 32).unwrap_or(u32::MAX)
}
