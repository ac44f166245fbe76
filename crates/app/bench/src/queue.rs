//! S5b and S5k: messages queued for sessions that are away, then delivered when they return.
//!
//! Two phases that share nothing but the names of clients and topics, so they may be two processes
//! with the broker killed in between. What the acknowledgements were worth is the loss of the drain.

use std::time::Duration;

use crate::bench::{Bench, Moment, Progress};
use crate::clock::{self, SECOND_NS, seconds};
use crate::disk::{self, Kept};
use crate::load::Load;
use crate::machine::figure::Figures;
use crate::net::Net;
use crate::plan::Plan;
use crate::publisher::Gate;
use crate::report::Report;

/// Marks messages of these scenarios, in whatever process they were sent.
const RUN: u32 = 0x5161_7565;
/// A phase ends when nothing came for this long.
const IDLE_NS: u64 = 5 * SECOND_NS;
/// How long one turn waits.
const TURN: Duration = Duration::from_millis(10);

/// Makes the sessions, lets them leave, publishes to them until all is acknowledged.
pub(crate) fn fill(bench: &mut Bench, plan: &Plan) -> anyhow::Result<Report> {
    bench.run = RUN;
    // Sessions and messages of an earlier attempt would spoil the count.
    bench.forget_sessions(plan)?;
    let (mut net, mut load) = bench.open(plan)?;
    let dials = bench.subscriber_dials(plan);
    bench.connect(&mut net, &mut load, plan, &dials)?;
    bench.subscribe(&mut net, &mut load, plan)?;
    bench.leave(&mut net, &mut load)?;

    let (mut net, mut load) = bench.open(plan)?;
    let each = plan.messages_each();
    bench.connect_publishers(&mut net, &mut load, plan, |_| Gate::Quota(each))?;
    let mut report = report_of(bench, plan, "fill");
    publish_all(bench, &mut net, &mut load, plan, &mut report)?;
    judge(&mut report, &load, plan.publishers);
    if report.failure.is_none() {
        bench.leave(&mut net, &mut load)?;
    }
    Ok(report)
}

/// Lets the sessions return and counts what they get.
pub(crate) fn drain(bench: &mut Bench, plan: &Plan) -> anyhow::Result<Report> {
    bench.run = RUN;
    let expected = plan.messages_each() * plan.publishers as u64;
    let from = bench.moment();
    let (mut net, mut load) = bench.open(plan)?;
    let dials = bench.subscriber_dials(plan);
    bench.connect(&mut net, &mut load, plan, &dials)?;
    let mut progress = Progress::new(clock::now_ns());
    let mut last = bench.moment();
    let mut tick_ns = from.at_ns + SECOND_NS;
    loop {
        net.flush(&mut load);
        net.turn(&mut load, TURN)?;
        let now_ns = clock::now_ns();
        let received = load.ledger.unique;
        let idle_ns = progress.idle_ns(received, now_ns);
        if idle_ns == 0 {
            last.at_ns = now_ns;
        }
        if now_ns >= tick_ns {
            tick_ns += SECOND_NS;
            bench.live.line(now_ns, "drain", &load, &load.latency);
        }
        if received >= expected || idle_ns > IDLE_NS || load.tally.closed >= dials.len() {
            break;
        }
    }
    last = Moment { at_ns: last.at_ns, ..bench.moment() };
    // The last acknowledgements are still in the buffers.
    net.flush(&mut load);
    let mut report = report_of(bench, plan, "drain");
    drain_figures(&mut report.figures, &load, plan, from, last);
    // What is consumed is written too: that it is gone.
    let settled = disk::settle(bench, &mut net, &mut load)?;
    let user_bytes = load.ledger.unique * plan.payload_size as u64;
    disk::settled_figures(&mut report.figures, from, settled, user_bytes);
    disk::space_figures(&mut report.figures, from, settled);
    judge(&mut report, &load, dials.len());
    if report.failure.is_none() {
        bench.leave(&mut net, &mut load)?;
        bench.forget_sessions(plan)?;
    }
    Ok(report)
}

/// Publishes what the quotas say, waits until all is acknowledged or nothing moves any more, and reports
/// what it took and did to the disk.
pub(crate) fn publish_all(
    bench: &mut Bench,
    net: &mut Net,
    load: &mut Load,
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<()> {
    let from = bench.moment();
    publish_quotas(bench, net, load, plan.messages_each() * plan.publishers as u64)?;
    let to = bench.moment();
    stored_figures(&mut report.figures, load, from, to);
    let settled = disk::settle(bench, net, load)?;
    let messages = load.tally.acked;
    let user_bytes = messages * plan.payload_size as u64;
    disk::settled_figures(&mut report.figures, from, settled, user_bytes);
    disk::used_figures(&mut report.figures, from, settled, Kept { messages, sessions: 1 });
    Ok(())
}

/// Publishes until `total` is acknowledged, or nothing moves any more.
pub(crate) fn publish_quotas(
    bench: &mut Bench,
    net: &mut Net,
    load: &mut Load,
    total: u64,
) -> anyhow::Result<()> {
    load.list_all();
    let start_ns = clock::now_ns();
    let mut progress = Progress::new(start_ns);
    let mut tick_ns = start_ns + SECOND_NS;
    loop {
        let now_ns = clock::now_ns();
        let done = load.tally.acked;
        let idle_ns = progress.idle_ns(done, now_ns);
        if done >= total || idle_ns > IDLE_NS || load.tally.closed >= load.publishers.len() {
            return Ok(());
        }
        if now_ns >= tick_ns {
            tick_ns += SECOND_NS;
            bench.live.line(now_ns, "publish", load, &load.latency);
        }
        load.fill(&mut net.links, now_ns);
        net.flush(load);
        let wait = if load.is_eager() { Duration::ZERO } else { TURN };
        net.turn(load, wait)?;
    }
}

/// Figures of messages that were given to the broker to keep.
#[expect(clippy::cast_precision_loss, reason = "for display")]
pub(crate) fn stored_figures(figures: &mut Figures, load: &Load, from: Moment, to: Moment) {
    let acked = load.tally.acked as f64;
    figures.set_count("sent", load.sent());
    figures.set_count("acked", load.tally.acked);
    figures.set_count("refused", load.tally.refused);
    figures.set_ratio("acked_rate", acked, seconds(to.at_ns - from.at_ns));
    if let (Some(first), Some(last)) = (from.broker, to.broker) {
        let cpu_ns = last.cpu_ns.saturating_sub(first.cpu_ns);
        figures.set_ratio("cpu_per_store", cpu_ns as f64, acked);
        figures.set_ratio("bytes_per_stored", last.rss as f64 - first.rss as f64, acked);
        figures.set_count("rss_before", first.rss);
        figures.set_count("rss", last.rss);
    }
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn drain_figures(figures: &mut Figures, load: &Load, plan: &Plan, from: Moment, to: Moment) {
    let expected = plan.messages_each() * plan.publishers as u64;
    let received = load.ledger.unique as f64;
    let loss = load.ledger.missing(|_| plan.messages_each());
    figures.set_count("expected", expected);
    figures.set_count("received", load.ledger.unique);
    figures.set_count("loss", loss);
    figures.set_ratio("loss_ratio", loss as f64, expected as f64);
    figures.set_count("dup", load.ledger.duplicates);
    figures.set_count("out_of_order", load.ledger.out_of_order);
    figures.set_count("sessions_present", load.tally.sessions_present as u64);
    if load.ledger.unique > 0 {
        figures.set_count("read_time", to.at_ns - from.at_ns);
    }
    figures.set_ratio("read_rate", received, seconds(to.at_ns - from.at_ns));
    if let (Some(first), Some(last)) = (from.broker, to.broker) {
        let cpu_ns = last.cpu_ns.saturating_sub(first.cpu_ns);
        figures.set_ratio("cpu_per_read", cpu_ns as f64, received);
    }
}

/// An empty report of one phase.
pub(crate) fn report_of(bench: &Bench, plan: &Plan, phase: &str) -> Report {
    Report {
        scenario: format!("{}-{phase}", plan.name),
        title: plan.title.clone(),
        target: bench.target.clone(),
        ..Report::default()
    }
}

/// A phase in which connections were lost has failed.
pub(crate) fn judge(report: &mut Report, load: &Load, connections: usize) {
    let closed = load.tally.closed;
    report.notes = load.notes();
    if closed > 0 {
        report.failure =
            Some(format!("{closed} of {connections} connections were closed by the broker"));
    }
}
