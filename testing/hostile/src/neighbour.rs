//! Clients that behave well: each publishes to itself ten times a second and measures the round
//! trip. They run on a thread of their own, so that what they see is the broker's doing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::packet;

const PAUSE: Duration = Duration::from_millis(100);
/// Who waits longer was not served, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What neighbours saw.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// Round trips, sorted.
    pub round_trips: Vec<Duration>,
    /// Those that took longer than half a second, and when they ended.
    pub slow: Vec<(Duration, Duration)>,
    /// What went wrong.
    pub failures: Vec<String>,
}

impl Served {
    /// The round trip that so many of a thousand stay below.
    #[must_use]
    pub fn at(&self, thousandth: usize) -> Duration {
        let last = self.round_trips.len().saturating_sub(1);
        self.round_trips.get(last * thousandth / 1000).copied().unwrap_or(PATIENCE)
    }

    /// The longest round trip.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.at(1000)
    }

    /// Whether all were served, each within `limit`.
    ///
    /// # Errors
    /// Says what went wrong.
    pub fn check(&self, limit: Duration) -> Result<()> {
        if let Some(failure) = self.failures.first() {
            bail!("{} neighbours failed; one says: {failure}", self.failures.len());
        }
        ensure!(!self.round_trips.is_empty(), "no neighbour made a round trip");
        ensure!(self.max() < limit, "a round trip took {:?}: {:?}", self.max(), self.slow);
        Ok(())
    }
}

/// Neighbours at work.
#[derive(Debug)]
pub struct Neighbours {
    is_over: Arc<AtomicBool>,
    round_trips: Arc<AtomicU64>,
    thread: JoinHandle<Result<Served>>,
}

impl Neighbours {
    /// Connects `count` of them and lets them work.
    ///
    /// # Errors
    /// If the system gives no thread, or they do not come in within 30 s.
    pub fn start(address: SocketAddr, count: usize) -> Result<Neighbours> {
        let is_over = Arc::new(AtomicBool::new(false));
        let round_trips = Arc::new(AtomicU64::new(0));
        let shared = (Arc::clone(&is_over), Arc::clone(&round_trips));
        let thread =
            std::thread::Builder::new().name("neighbours".to_owned()).spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(live(address, count, &shared.0, &shared.1))
            })?;
        let neighbours = Neighbours { is_over, round_trips, thread };
        let started = Instant::now();
        while neighbours.round_trips() < count as u64 {
            ensure!(started.elapsed() < PATIENCE, "the neighbours do not come in");
            std::thread::sleep(PAUSE);
        }
        Ok(neighbours)
    }

    /// How many round trips there were so far.
    #[must_use]
    pub fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }

    /// Ends them.
    ///
    /// # Errors
    /// If their thread came to grief.
    pub fn finish(self) -> Result<Served> {
        self.is_over.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(served) => served,
            Err(_) => bail!("the neighbours' thread panicked"),
        }
    }
}

async fn live(
    address: SocketAddr,
    count: usize,
    is_over: &Arc<AtomicBool>,
    round_trips: &Arc<AtomicU64>,
) -> Result<Served> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let (is_over, round_trips) = (Arc::clone(is_over), Arc::clone(round_trips));
        tasks.spawn(async move {
            let mut seen = Vec::new();
            let result = neighbour(address, number, &is_over, &round_trips, &mut seen).await;
            (seen, result)
        });
    }
    let mut served = Served::default();
    while let Some(task) = tasks.join_next().await {
        let (seen, result) = task?;
        let slow = seen.iter().filter(|(_, trip)| *trip > Duration::from_millis(500));
        served.slow.extend(slow.map(|(at, trip)| (at.duration_since(started), *trip)));
        served.round_trips.extend(seen.into_iter().map(|(_, trip)| trip));
        served.failures.extend(result.err().map(|error| format!("{error:#}")));
    }
    served.round_trips.sort_unstable();
    Ok(served)
}

async fn neighbour(
    address: SocketAddr,
    number: usize,
    is_over: &AtomicBool,
    round_trips: &AtomicU64,
    seen: &mut Vec<(Instant, Duration)>,
) -> Result<()> {
    let mut client = Client::connect(address, &format!("neighbour-{number}")).await?;
    let topic = format!("calm/{number}");
    client.send(&packet::subscribe([topic.as_str()].into_iter(), 1)).await?;
    client.receive_until(|first, _| first == 0x90).await.context("waiting for SUBACK")?;
    for turn in 1_u64.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let sent = Instant::now();
        let id = u16::try_from(turn % 60_000 + 1)?;
        client.send(&packet::publish(&topic, Some(id), b"", &turn.to_be_bytes())).await?;
        let body = client
            .receive_until(|first, body| first >> 4 == 3 && body.ends_with(&turn.to_be_bytes()))
            .await
            .with_context(|| format!("waiting for round trip {turn}"))?;
        seen.push((Instant::now(), sent.elapsed()));
        round_trips.fetch_add(1, Ordering::Relaxed);
        // The topic may have been replaced by an alias.
        let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        client.send(&packet::puback(u16::from_be_bytes([body[at], body[at + 1]]))).await?;
        tokio::time::sleep(PAUSE).await;
    }
    client.send(b"\xe0\x00").await
}

/// A client that reads and writes whole packets.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    held: Vec<u8>,
}

impl Client {
    /// Connects and is accepted.
    pub(crate) async fn connect(address: SocketAddr, id: &str) -> Result<Client> {
        let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
        let stream = connected.context("not accepted within 30 s")??;
        stream.set_nodelay(true)?;
        let mut client = Client { stream, held: Vec::new() };
        client.send(&packet::connect(id)).await?;
        let connack = client.receive_until(|first, _| first == 0x20).await;
        let connack = connack.context("waiting for CONNACK")?;
        ensure!(connack.get(1) == Some(&0), "CONNECT was answered with {connack:02x?}");
        Ok(client)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await;
        Ok(sent.context("nothing is taken for 30 s")??)
    }

    /// The body of the first packet that is meant.
    pub(crate) async fn receive_until(
        &mut self,
        is_meant: impl Fn(u8, &[u8]) -> bool,
    ) -> Result<Vec<u8>> {
        let search = async {
            loop {
                while let Some((first, body, taken)) = packet::split(&self.held) {
                    let found = is_meant(first, body).then(|| body.to_vec());
                    self.held.drain(..taken);
                    if let Some(body) = found {
                        return Ok(body);
                    }
                }
                let count = self.stream.read_buf(&mut self.held).await?;
                ensure!(count > 0, "the broker closed the connection");
            }
        };
        tokio::time::timeout(PATIENCE, search).await.context("nothing came for 30 s")?
    }
}
