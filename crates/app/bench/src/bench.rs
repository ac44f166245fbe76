//! One target and what every scenario does with it: connect, subscribe, measure, leave.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::clock::{self, SECOND_NS};
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
const DIALING_MAX: usize = 64;
/// A phase in which nothing happens for this long has failed.
const PATIENCE_NS: u64 = 30 * SECOND_NS;
/// How long the broker may take to close connections that have left.
const LEAVE_NS: u64 = 3 * SECOND_NS;
/// How long one turn waits when nothing else limits it.
const TURN_MS: u64 = 50;

/// The target of a run.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) target: String,
    pub(crate) address: SocketAddr,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    /// The broker's process, if it is known.
    pub(crate) broker: Option<Meter>,
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
    /// The session ends with the connection.
    pub(crate) clean: bool,
}

/// Both processes at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) at_ns: u64,
    pub(crate) broker: Option<Sample>,
    pub(crate) own: Sample,
}

impl Bench {
    /// A target that answers on `host` and `port`.
    pub(crate) fn new(
        host: &str,
        port: u16,
        show: Show,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let target = format!("{host}:{port}");
        let address = resolve(host, port)?;
        Ok(Self {
            target,
            address,
            username: None,
            password: None,
            broker: None,
            own: Meter::own()?,
            live: Live::new(show),
            stop,
            run: run_number(),
        })
    }

    /// Measures both processes.
    pub(crate) fn moment(&mut self) -> Moment {
        let broker = self.broker.as_mut().map(Meter::sample);
        Moment { at_ns: clock::now_ns(), broker, own: self.own.sample() }
    }

    /// Event loop and clients for `plan`.
    pub(crate) fn open(&mut self, plan: &Plan) -> anyhow::Result<(Net, Load)> {
        let connections = plan.publishers + plan.subscribers;
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
        let settled = |load: &Load| load.tally.ready + load.tally.failed;
        let (first, failed_before) = (settled(load), load.tally.failed);
        let start_ns = clock::now_ns();
        let mut progress = Progress::new(start_ns);
        let mut begun = 0;
        loop {
            let done = settled(load) - first;
            while begun < dials.len() && begun - done < DIALING_MAX {
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
            username: self.username.as_deref(),
            password: self.password.as_deref(),
        })
        .context("user name or password is longer than 65,535 bytes")?;
        let link =
            net.dial(self.address).with_context(|| format!("connecting to {}", self.target))?;
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
        };
        Ok(Publisher::new(link, gate, flow, template, topic))
    }

    /// Disconnects everyone properly and waits until the broker has closed its side: only then does it
    /// treat a persistent session as away.
    pub(crate) fn leave(&mut self, net: &mut Net, load: &mut Load) -> anyhow::Result<()> {
        let links: Vec<LinkIndex> = load.ready_links().map(|(link, _)| link).collect();
        for &link in &links {
            net.links.buffer(link).extend_from_slice(&wire::DISCONNECT_BYTES);
            net.links.leave(link);
        }
        let end_ns = clock::now_ns() + LEAVE_NS;
        let mut open = links;
        loop {
            net.flush(load);
            open.retain(|&link| net.links.is_open(link));
            if open.is_empty() || clock::now_ns() > end_ns {
                return Ok(());
            }
            net.turn(load, Duration::from_millis(TURN_MS))?;
        }
    }

    /// Ends the sessions that persistent subscribers left behind.
    pub(crate) fn forget_sessions(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let (mut net, mut load) = self.open(plan)?;
        let mut dials = self.subscriber_dials(plan);
        for dial in &mut dials {
            dial.clean = true;
        }
        self.connect(&mut net, &mut load, plan, &dials)?;
        self.leave(&mut net, &mut load)
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

/// The first address of the name that answers, or the only one.
fn resolve(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("the host name {host:?} cannot be resolved"))?
        .collect();
    if let [only] = addresses[..] {
        return Ok(only);
    }
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, Duration::from_secs(3)) {
            Ok(_) => return Ok(address),
            Err(error) => last = Some((address, error)),
        }
    }
    match last {
        Some((address, error)) => Err(error).with_context(|| format!("connecting to {address}")),
        None => bail!("the host name {host:?} has no address"),
    }
}

/// A number that differs from run to run.
fn run_number() -> u32 {
    let mixed = clock::now_ns() ^ u64::from(std::process::id()) << 32;
    let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u32::try_from(mixed >> 32).unwrap_or(u32::MAX)
}
