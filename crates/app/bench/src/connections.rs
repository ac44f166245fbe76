//! S6: many connections, then a subscription of its own for each: rates, CPU time, memory.

use crate::bench::{Bench, Moment};
use crate::clock::{SECOND_NS, seconds};
use crate::load::Load;
use crate::machine::figure::Figures;
use crate::plan::Plan;
use crate::queue::judge;
use crate::report::Report;

/// Memory is read after this long, when accepting has settled.
const SETTLE_NS: u64 = SECOND_NS / 2;
/// How long the idle broker is watched.
const IDLE_NS: u64 = SECOND_NS;

/// Carries out the plan.
pub(crate) fn run(bench: &mut Bench, plan: &Plan) -> anyhow::Result<Report> {
    let (mut net, mut load) = bench.open(plan)?;
    let dials = bench.subscriber_dials(plan);
    let before = bench.moment();
    bench.connect(&mut net, &mut load, plan, &dials)?;
    let connected = bench.moment();
    bench.rest(&mut net, &mut load, SETTLE_NS)?;
    let settled = bench.moment();
    bench.rest(&mut net, &mut load, IDLE_NS)?;
    let idle = bench.moment();
    bench.subscribe(&mut net, &mut load, plan)?;
    let subscribed = bench.moment();
    bench.rest(&mut net, &mut load, SETTLE_NS)?;
    let end = bench.moment();

    let mut report = Report {
        scenario: plan.name.clone(),
        title: plan.title.clone(),
        target: bench.target.clone(),
        ..Report::default()
    };
    let figures = &mut report.figures;
    connect_figures(figures, &load, before, connected, settled);
    subscribe_figures(figures, &load, idle, subscribed);
    memory_figures(figures, &load, before, settled, end);
    idle_figures(figures, settled, idle);
    judge(&mut report, &load, dials.len());
    if report.failure.is_none() {
        bench.leave(&mut net, &mut load)?;
    }
    Ok(report)
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn connect_figures(
    figures: &mut Figures,
    load: &Load,
    before: Moment,
    connected: Moment,
    settled: Moment,
) {
    let count = load.tally.ready as f64;
    figures.set_count("connections", load.tally.ready as u64);
    figures.set_ratio("connects_rate", count, seconds(connected.at_ns - before.at_ns));
    if let (Some(first), Some(last)) = (before.broker, settled.broker) {
        let cpu_ns = last.cpu_ns.saturating_sub(first.cpu_ns);
        figures.set_ratio("cpu_per_connect", cpu_ns as f64, count);
    }
}

/// Figures of all filters that were subscribed to between two moments.
#[expect(clippy::cast_precision_loss, reason = "for display")]
pub(crate) fn subscribe_figures(figures: &mut Figures, load: &Load, from: Moment, to: Moment) {
    let count = load.tally.subscribed as f64;
    figures.set_count("subscribed", load.tally.subscribed);
    figures.set_count("subscribes_refused", load.tally.subscribes_refused);
    figures.set_ratio("subscribes_rate", count, seconds(to.at_ns - from.at_ns));
    if let (Some(first), Some(last)) = (from.broker, to.broker) {
        let cpu_ns = last.cpu_ns.saturating_sub(first.cpu_ns);
        figures.set_ratio("cpu_per_subscribe", cpu_ns as f64, count);
        let grown = last.rss as f64 - first.rss as f64;
        figures.set_ratio("bytes_per_subscription", grown, count);
    }
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn memory_figures(
    figures: &mut Figures,
    load: &Load,
    before: Moment,
    connected: Moment,
    subscribed: Moment,
) {
    let (Some(before), Some(connected), Some(subscribed)) =
        (before.broker, connected.broker, subscribed.broker)
    else {
        return;
    };
    let count = load.tally.ready as f64;
    let grown = |rss: u64| rss as f64 - before.rss as f64;
    figures.set_count("rss_before", before.rss);
    figures.set_count("rss", subscribed.rss);
    figures.set_ratio("bytes_per_connection", grown(connected.rss), count);
    figures.set_ratio("bytes_per_subscribed", grown(subscribed.rss), count);
}

fn idle_figures(figures: &mut Figures, from: Moment, to: Moment) {
    if let (Some(first), Some(last)) = (from.broker, to.broker) {
        let cpu_ns = last.cpu_ns.saturating_sub(first.cpu_ns);
        figures.set_ratio("idle_cores", seconds(cpu_ns), seconds(to.at_ns - from.at_ns));
    }
}
