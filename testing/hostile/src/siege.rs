//! The attack on memory: many clients, each making the broker hold as much for it as it can.
//!
//! They never read what they subscribed to, leave large packets one byte short, name long topics
//! by aliases, subscribe to a thousand filters and publish lists of properties; some fire at full
//! speed at those who do not read. Who is thrown out comes again a second later.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{Neighbours, Served, Target, packet, target::Listener};

/// Four publishers fire at those who do not read.
const SHOOTERS: usize = 4;
/// Their kind; those before it hold memory.
const SHOOTER: usize = 6;
/// How often the size of the process is looked at.
const LOOK: Duration = Duration::from_millis(50);
const RETURN_MAX: Duration = Duration::from_secs(20);

/// How large the siege is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Connections of attackers.
    pub connections: usize,
    /// How long it lasts at least, from when the first came.
    pub span: Duration,
    /// How long it goes on beyond that for the first reader to be paused: attackers that get little
    /// of a busy machine need more time until they are felt.
    pub span_max: Duration,
    /// Neighbours that must not notice it.
    pub neighbours: usize,
    /// Only this kind of attacker comes, besides the shooters: to find out what a kind does.
    pub only: Option<usize>,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The resident size before, in bytes.
    pub resident_before: u64,
    /// The largest resident size meanwhile.
    pub resident_max: u64,
    /// The largest resident size of each second.
    pub curve: Vec<u64>,
    /// The resident size when all attackers had gone for a while.
    pub resident_after: u64,
    /// Descriptors before and after.
    pub descriptors: (usize, usize),
    /// Connections when the attackers had gone.
    pub connections_after: f64,
    /// The most connections at one time.
    pub connections_max: f64,
    /// Charged by the accountant and resident at one time while loaded: the last look.
    pub charged_and_resident: (f64, f64),
    /// Times that readers were paused, and connections ended for memory.
    pub paused_and_ended: (f64, f64),
    /// Messages that were dropped for whatever reason.
    pub dropped: f64,
    /// How often each step of shedding was taken.
    pub shed: Vec<(String, f64)>,
    /// What the neighbours saw.
    pub served: Served,
}

/// Besieges the broker.
///
/// # Errors
/// If the broker or the neighbours cannot be watched.
pub fn run(target: &Target, plan: Plan) -> Result<Outcome> {
    let neighbours = Neighbours::start(target.address(Listener::Tcp), plan.neighbours)?;
    let resident_before = target.resident()?;
    let descriptors_before = target.descriptors()?;
    let address = target.address(Listener::Tcp);
    let started = Instant::now();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let attackers = std::thread::Builder::new().name("attackers".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            // All connections are closed when the crowd is dropped.
            tokio::select! {
                () = besiege(address, plan) => {}
                _ = stopped => {}
            }
        });
        anyhow::Ok(())
    })?;
    let mut curve = Vec::new();
    let mut charged_and_resident = (0.0, 0.0);
    let mut connections_max: f64 = 0.0;
    let mut is_felt = false;
    while started.elapsed() < plan.span || (!is_felt && started.elapsed() < plan.span_max) {
        let resident = target.resident()?;
        let second = usize::try_from(started.elapsed().as_secs())?;
        if curve.len() <= second {
            curve.resize(second + 1, 0);
            let charged = target.metric("ratatosk_memory_charged_bytes").unwrap_or(0.0);
            let open = target.metric("ratatosk_mqtt_open_connections").unwrap_or(0.0);
            connections_max = connections_max.max(open);
            is_felt |=
                target.metric("ratatosk_mqtt_paused_reads_total").is_ok_and(|count| count > 0.0);
            #[expect(clippy::cast_precision_loss, reason = "sizes of processes")]
            let now = (charged, target.resident()? as f64);
            charged_and_resident = now;
        }
        curve[second] = curve[second].max(resident);
        std::thread::sleep(LOOK);
    }
    drop(stop);
    attackers.join().map_err(|_| anyhow::anyhow!("the attackers panicked"))??;
    let resident_max = curve.iter().copied().max().context("it was too short to be seen")?;
    let is_left = |target: &Target| {
        let open = target.metric("ratatosk_mqtt_open_connections");
        open.is_ok_and(|open| open <= plan.neighbours as f64)
    };
    target.until(RETURN_MAX, is_left);
    std::thread::sleep(Duration::from_secs(3));
    Ok(Outcome {
        resident_before,
        resident_max,
        curve,
        resident_after: target.resident()?,
        descriptors: (descriptors_before, target.descriptors()?),
        connections_after: target.metric("ratatosk_mqtt_open_connections")?,
        connections_max,
        charged_and_resident,
        paused_and_ended: (
            target.metric("ratatosk_mqtt_paused_reads_total")?,
            target.metric("ratatosk_mqtt_ended_for_memory_connections_total")?,
        ),
        dropped: target.metric("ratatosk_mqtt_dropped_messages_total")?,
        shed: target.samples("ratatosk_mqtt_shed_actions_total", "step")?,
        served: neighbours.finish()?,
    })
}

/// What an attacker sends, made once for all of them.
struct Arsenal {
    /// A PUBLISH of 1 MiB without its last byte.
    short: Vec<u8>,
    /// A thousand filters.
    filters: Vec<u8>,
    /// Topics of 60,000 bytes for all aliases.
    aliases: Vec<u8>,
    /// A PUBLISH with nothing but properties.
    properties: Vec<u8>,
    /// What shooters fire: small ones and large ones.
    shots: Vec<u8>,
}

impl Arsenal {
    fn new() -> Self {
        let mut short = packet::publish("never", None, b"", &vec![b'x'; 1024 * 1024 - 64]);
        short.pop();
        let filters: Vec<String> =
            (0..1_000).map(|number| format!("{}/{number}/#", "f".repeat(900))).collect();
        let aliases = (1..=32_u16).flat_map(|alias| {
            let [high, low] = alias.to_be_bytes();
            let topic = format!("{alias}/{}", "a".repeat(60_000));
            packet::publish(&topic, None, &[0x23, high, low], b"x")
        });
        let mut shots = Vec::new();
        for size in [100, 2_000, 40_000, 300_000] {
            shots.extend(packet::publish("fire/x", None, b"", &vec![b's'; size]));
            shots.extend(packet::publish("fire/y", Some(7), b"", &vec![b's'; size]));
        }
        Arsenal {
            short,
            filters: packet::subscribe(filters.iter().map(String::as_str), 1),
            aliases: aliases.collect(),
            properties: packet::publish("p", Some(9), &packet::user_properties(1_000_000), b""),
            shots,
        }
    }
}

async fn besiege(address: SocketAddr, plan: Plan) {
    let arsenal = Arc::new(Arsenal::new());
    let mut crowd = JoinSet::new();
    for number in 0..plan.connections {
        let arsenal = Arc::clone(&arsenal);
        let kind = match number {
            0..SHOOTERS => SHOOTER,
            _ => plan.only.unwrap_or(number % SHOOTER),
        };
        crowd.spawn(async move {
            // Come in over a second or three, as far as the backlog goes.
            tokio::time::sleep(Duration::from_micros(300 * number as u64)).await;
            for life in 0_u32.. {
                let id = format!("attacker-{number}-{life}");
                let _ = attack(address, &id, kind, &arsenal).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    while crowd.join_next().await.is_some() {}
}

/// One life of an attacker: until it is thrown out.
async fn attack(
    address: SocketAddr,
    id: &str,
    kind: usize,
    arsenal: &Arsenal,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&packet::connect(id)).await?;
    if kind == SHOOTER {
        let (mut reading, mut writing) = stream.split();
        let fire = async {
            loop {
                writing.write_all(&arsenal.shots).await?;
            }
        };
        let read = async {
            let mut sink = vec![0; 16 * 1024];
            while reading.read(&mut sink).await? > 0 {}
            std::io::Result::Ok(())
        };
        // Both end with the connection, and either ends the other.
        return tokio::select! { result = fire => result, result = read => result };
    }
    match kind {
        0 => stream.write_all(&packet::subscribe(["fire/#"].into_iter(), 0)).await?,
        1 => stream.write_all(&packet::subscribe(["fire/#"].into_iter(), 1)).await?,
        2 => stream.write_all(&arsenal.short).await?,
        3 => stream.write_all(&arsenal.aliases).await?,
        4 => stream.write_all(&arsenal.filters).await?,
        _ => loop {
            stream.write_all(&arsenal.properties).await?;
        },
    }
    // Nothing is read. A byte now and then keeps a short packet company and notices the end.
    let trickle: &[u8] = if kind == 2 { b"" } else { b"\xc0\x00" };
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stream.write_all(trickle).await?;
        let mut one = [0];
        if stream.peek(&mut one).await? == 0 {
            return Ok(());
        }
    }
}
