//! The node: services built from the configuration, run until the operator stops them.
//!
//! Order: bind everything, say ready, serve; at SIGHUP take over what can be; at SIGTERM stop in
//! phases.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ratatosk_admin::{Check, Service, Sources as AdminSources};
use ratatosk_telemetry::memory::{self, Accountant, NODE_TENANT, Pressure, Share, machine};
use ratatosk_telemetry::metric::{self, Descriptor, Kind, Registry};
use ratatosk_telemetry::{ByteCount, log};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use ratatosk_mqtt::transport::Watch;

use crate::allocator::{self, Free};
use crate::broker::Broker;
use crate::configuration::{Configuration, Sources};
use crate::exit::Code;
use crate::signals::{Order, Signals};
use crate::systemd::{Manager, State, monotonic_us};

/// How often the process's size is looked at: as much as comes in between may go unseen.
const MEMORY_INTERVAL: Duration = Duration::from_millis(50);
/// How often free memory is given back while there is enough.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(1);

/// What the process gives its node.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// To load the configuration again.
    pub(crate) sources: Sources,
    pub(crate) log: log::Handle,
    pub(crate) manager: Manager,
}

/// Runs the node until it is told to stop.
pub(crate) fn run(
    configuration: Configuration,
    surroundings: &Surroundings,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(configuration, surroundings))
}

async fn serve(
    configuration: Configuration,
    surroundings: &Surroundings,
) -> anyhow::Result<ExitCode> {
    // Before anything else, so that an early signal is not lost.
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let registry = Registry::new(configuration.metrics_tenants_max);
    let accountant = Accountant::new(configuration.memory_limit);
    memory::register(&accountant, &registry);
    register_log(&surroundings.log, &registry);
    let mut broker = tokio::select! {
        started = Broker::start(&configuration, &registry, &accountant) => started?,
        () = told_to_stop(&mut signals) => {
            tracing::info!("stopped before the start was done");
            return Ok(Code::Clean.into());
        }
    };
    let admin = admin(&configuration, &registry, &broker).await?;
    // What the process takes before anybody comes is nobody's but its own.
    // But what services read back from the store is charged already.
    let before = machine::resident().map_or(0, ByteCount::bytes);
    let before = before.saturating_sub(accountant.charged().bytes());
    let before = usize::try_from(before).unwrap_or(usize::MAX);
    let _own = accountant.account(NODE_TENANT).hold(Share::Process, before);
    surroundings.manager.tell(State::Ready("serving"));
    tracing::info!("ready");

    let (stop, stopped) = oneshot::channel::<()>();
    let admin = async {
        let Some(service) = admin else { return anyhow::Ok(()) };
        Ok(service.run(async { drop(stopped.await) }).await?)
    };
    let failure = broker.failure();
    let supervised = async {
        let deadline = configuration.limits.shutdown_timeout;
        let supervised = supervise(configuration, surroundings, signals, &accountant, &broker);
        tokio::select! {
            () = supervised => {}
            // What is in memory may be ahead of the disk now: nobody is told anything any more.
            reason = failed(failure) => anyhow::bail!("{reason}"),
        }
        surroundings.manager.tell(State::Stopping);
        tracing::info!("stopping");
        broker.stop(deadline).await;
        // Without a service nobody waits for it.
        let _ = stop.send(());
        anyhow::Ok(())
    };
    tokio::try_join!(admin, supervised)?;
    tracing::info!("stopped");
    Ok(Code::Clean.into())
}

/// Waits for the order to stop; there is nothing yet to take a new configuration over.
async fn told_to_stop(signals: &mut Signals) {
    while !matches!(signals.next().await, Order::Stop) {}
}

/// Why the node can go on no more, once it cannot.
async fn failed(failure: Option<oneshot::Receiver<String>>) -> String {
    match failure {
        Some(failure) => match failure.await {
            Ok(reason) => reason,
            // It was closed in good order.
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn admin(
    configuration: &Configuration,
    registry: &Registry,
    broker: &Broker,
) -> anyhow::Result<Option<Service>> {
    if !configuration.roles.admin {
        return Ok(None);
    }
    let registry = registry.clone();
    let expiry = broker.expiry();
    let mut sources = AdminSources::new()
        .with_metrics(metric::CONTENT_TYPE, move || registry.render())
        .with_checks(|| vec![Check { name: "mqtt".to_owned(), state: Ok(()) }])
        .with_status(|| serde_json::json!({"version": env!("CARGO_PKG_VERSION")}))
        .with_expiry(move |tenant, what| expiry(tenant, what));
    if let Some(operations) = broker.operations() {
        sources = sources.with_cluster(Arc::new(operations));
    }
    let service = Service::bind(&configuration.admin, sources).await?;
    tracing::info!(address = %service.address(), "management api listening");
    Ok(Some(service))
}

fn register_log(log: &log::Handle, registry: &Registry) {
    let log = log.clone();
    let descriptor = Descriptor {
        name: "ratatosk_log_dropped_lines_total",
        help: "Log lines that did not fit into the queue because nobody read the output.",
    };
    registry.collect(descriptor, Kind::Counter, &[], move |samples| {
        samples.push(&[], log.dropped() as f64);
    });
}

/// Watches memory and obeys the operator until the order to stop.
async fn supervise(
    mut configuration: Configuration,
    surroundings: &Surroundings,
    mut signals: Signals,
    accountant: &Accountant,
    broker: &Broker,
) {
    let (changed, mut changes) = tokio::sync::mpsc::channel(1);
    // Kept while the node runs: dropping it ends the watch.
    let _watch = watch(broker, changed);
    let mut store = accountant.account(NODE_TENANT).hold(Share::Overlay, 0);
    let mut ticks = tokio::time::interval(MEMORY_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calm = tokio::time::interval(GIVE_BACK_INTERVAL);
    calm.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // All are cancel-safe: a tick or a signal that is not taken comes again.
        tokio::select! {
            _ = ticks.tick() => {
                store.resize(broker.store_bytes());
                observe_memory(accountant);
            }
            _ = calm.tick() => allocator::give_back(Free::Old),
            Some(()) = changes.recv() => broker.reload_certificates(),
            order = signals.next() => match order {
                Order::Stop => return,
                Order::Reload => {
                    let monotonic_us = monotonic_us();
                    surroundings.manager.tell(State::Reloading { monotonic_us });
                    configuration = reload(configuration, surroundings);
                    broker.reload(&configuration);
                    surroundings.manager.tell(State::Ready("serving"));
                }
            },
        }
    }
}

/// Watches certificates and keys; a change is told once it is whole.
fn watch(broker: &Broker, changed: tokio::sync::mpsc::Sender<()>) -> Option<Watch> {
    let files = broker.watched_files();
    if files.is_empty() {
        return None;
    }
    // A full channel means that a reload is due anyway.
    let tell = move || {
        let _ = changed.try_send(());
    };
    match Watch::start(&files, tell) {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!(%error, "certificates are not watched: send SIGHUP when they change");
            None
        }
    }
}

fn observe_memory(accountant: &Accountant) {
    // This thread ends sessions and collects messages, too.
    memory::post_changes();
    let before = accountant.pressure();
    // Where the machine does not say it, charges alone count.
    let Ok(resident) = machine::resident() else { return };
    if accountant.observe_rss(resident) == Pressure::None {
        return;
    }
    // Only what is not free is short.
    allocator::give_back(Free::All);
    let Ok(resident) = machine::resident() else { return };
    let pressure = accountant.observe_rss(resident);
    if pressure > before {
        let (limit, level) = (accountant.limit(), pressure.name());
        tracing::warn!(%resident, %limit, level, "memory is short");
    }
}

/// Takes over what can be; a configuration that is refused changes nothing.
fn reload(current: Configuration, surroundings: &Surroundings) -> Configuration {
    let later = match Configuration::load(&surroundings.sources) {
        Ok(later) => later,
        Err(refused) => {
            tracing::error!(problems = %refused, "configuration not reloaded: the current one stays");
            return current;
        }
    };
    for change in current.effective.changes(&later.effective) {
        let (key, value) = (&change.path, change.value.as_deref().unwrap_or("unset"));
        if change.effective {
            tracing::info!(key, value, origin = %change.origin, "configuration changed");
        } else {
            tracing::warn!(key, value, origin = %change.origin, "change needs a restart");
        }
    }
    surroundings.log.refilter(&later.log.filter);
    tracing::info!("configuration reloaded");
    later
}
