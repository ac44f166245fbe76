//! `ratatosk dev`: a cluster on this machine, of processes like any other node, in one command.
//!
//! All is checked before anything starts. Nodes end with this process, however that ends: in good order if it
//! is told to stop. A node that dies is told of with its reason, and the others go on, as in a real cluster.

mod child;
mod plan;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use ratatosk_clock::SystemClock;
use rustix::process::Signal;
use tokio::sync::mpsc;

use self::child::{Child, Event};
use self::plan::Node;
use crate::command::api::Api;
use crate::command::{assignment, start};
use crate::configuration::Sources;
use crate::exit::Code;
use crate::signals::{Order, Signals};

/// The hidden command that a node is started with.
pub(crate) const NODE_COMMAND: &str = "dev-node";

/// How long the nodes are given to become ready.
const READY_MAX: Duration = Duration::from_secs(60);
/// How often they are asked.
const LOOK: Duration = Duration::from_millis(100);
/// How long a node is given to say whether it is ready.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How long they are given to stop, before they are made to.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Who asks again so much later does it on purpose.
const ASKED_AGAIN_MIN: Duration = Duration::from_millis(500);
/// Events that wait; who has more to tell waits.
const EVENTS_MAX: usize = 64;

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// How many nodes, 1 to 9
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Where each keeps its data, in node-1, node-2, ...
    #[arg(long, value_name = "DIR", default_value = "./ratatosk-dev")]
    data_dir: PathBuf,
    /// Takes ports that are free [default: 1883, 18083, 7883 and 7884, and those that follow]
    #[arg(long)]
    free_ports: bool,
    /// Sets a key of the configuration of every node; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

/// Runs a cluster until it is told to stop.
pub(crate) fn run(args: &DevArgs) -> anyhow::Result<ExitCode> {
    let nodes = plan::nodes(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // A node is told when the thread that started it has ended: this one, which stays.
    runtime.block_on(tend(&nodes)).map(ExitCode::from)
}

/// One of its nodes, which ends in good order when the process of [`run`] has gone.
pub(crate) fn run_node(sources: &Sources) -> anyhow::Result<ExitCode> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .context("cannot ask to be told of the end of `ratatosk dev`")?;
    start::run(sources)
}

/// What the nodes are doing.
struct Cluster<'a> {
    nodes: &'a [Node],
    children: Vec<Option<Child>>,
    is_ready: bool,
}

async fn tend(nodes: &[Node]) -> anyhow::Result<Code> {
    let clock = SystemClock::new();
    let begun = clock.now();
    // Before anything starts, so that an early signal is not lost.
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let (tell, mut events) = mpsc::channel(EVENTS_MAX);
    let mut cluster = Cluster { nodes, children: Vec::new(), is_ready: false };
    for node in nodes {
        cluster.children.push(Some(Child::start(node, &tell)?));
    }
    let _probe = Probe::start(nodes, tell, clock)?;
    let outcome = loop {
        // Both are cancel-safe: a signal or an event that is not taken stays.
        tokio::select! {
            order = signals.next() => match order {
                Order::Stop => break Code::Clean,
                Order::Reload => cluster.signal(Signal::HUP),
            },
            Some(event) = events.recv() => {
                if let Event::Ready = event {
                    cluster.is_ready = true;
                    let took = clock.now().since(begun);
                    print!("{}", plan::welcome(nodes, &cluster.processes(), took));
                }
                if let Some(code) = cluster.take(event) {
                    break code;
                }
            }
        }
    };
    println!("stopping");
    cluster.signal(Signal::TERM);
    let stopping = async {
        while cluster.children.iter().any(Option::is_some) {
            let Some(event) = events.recv().await else { return };
            if let Event::Ended { node } = event {
                cluster.children[node].take().into_iter().for_each(|child| drop(child.reap()));
            }
        }
    };
    tokio::select! {
        () = stopping => {}
        () = tokio::time::sleep(STOP_MAX) => println!("some nodes do not stop: they are killed"),
        () = asked_again(&mut signals) => println!("killed"),
    }
    Ok(outcome)
}

/// Whoever asks twice does not want to wait. One order may come as two signals.
async fn asked_again(signals: &mut Signals) {
    let clock = SystemClock::new();
    let begun = clock.now();
    while signals.next().await != Order::Stop || clock.now().since(begun) < ASKED_AGAIN_MIN {}
}

impl Cluster<'_> {
    fn signal(&self, signal: Signal) {
        self.children.iter().flatten().for_each(|child| child.signal(signal));
    }

    /// The numbers of those that have not ended.
    fn processes(&self) -> Vec<u32> {
        self.children.iter().flatten().map(Child::number).collect()
    }

    /// Takes note of something; the code to end with, if that is to be.
    fn take(&mut self, event: Event) -> Option<Code> {
        match event {
            Event::Ready => None,
            Event::Late { waiting } => {
                println!("not ready after {READY_MAX:?}: {waiting}");
                Some(Code::Failure)
            }
            Event::Ended { node } => {
                let child = self.children[node].take()?;
                println!("{} has ended: {}", self.nodes[node].name, child.reap());
                let is_alone = self.children.iter().all(Option::is_none);
                if !self.is_ready || is_alone {
                    return Some(Code::Failure);
                }
                println!("the others go on; to have it back:\n\n  {}\n", self.nodes[node].line());
                None
            }
        }
    }
}

/// Asks the nodes whether they are ready, until all are.
struct Probe(Arc<AtomicBool>);

impl Probe {
    fn start(
        nodes: &[Node],
        tell: mpsc::Sender<Event>,
        clock: SystemClock,
    ) -> anyhow::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stopping);
        let apis: Vec<_> = nodes
            .iter()
            .map(|node| (node.name.clone(), Api::at(node.ports.admin(), ANSWER_MAX)))
            .collect();
        let work = move || {
            let end = clock.now() + READY_MAX;
            while !stops.load(Ordering::Relaxed) {
                let Some(waiting) = apis.iter().find_map(|(name, api)| awaited(name, api)) else {
                    // Nobody listens any more: it ends already.
                    return drop(tell.blocking_send(Event::Ready));
                };
                if clock.now() >= end {
                    return drop(tell.blocking_send(Event::Late { waiting }));
                }
                std::thread::sleep(LOOK);
            }
        };
        std::thread::Builder::new()
            .name("probe".to_owned())
            .spawn(work)
            .context("cannot start a thread")?;
        Ok(Self(stopping))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a node waits for, if it is not ready.
fn awaited(name: &str, api: &Api) -> Option<String> {
    match api.ask("GET", "/readyz", None) {
        Ok(answer) if answer.status == 200 => None,
        Ok(answer) => Some(format!("{name}: {}", answer.body.trim_end().replace('\n', "; "))),
        Err(error) => Some(format!("{name}: {}", crate::cause::line(&error))),
    }
}
