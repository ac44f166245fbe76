//! F1: one publisher to persistent sessions of which nine in ten are away, and their return.
//!
//! Every session subscribes the one topic, so each message is stored once for all or once for each, which
//! is what the growth of the broker's directory tells. One account runs through both reports: a copy that
//! came while its session was online is a duplicate if it comes again.

use std::time::Duration;

use crate::bench::{Bench, Dial, Moment, Progress};
use crate::clock::{self, SECOND_NS, seconds};
use crate::disk::{self, Kept};
use crate::load::{Load, Role};
use crate::machine::figure::Figures;
use crate::net::Net;
use crate::plan::Plan;
use crate::publisher::Gate;
use crate::queue::{judge, report_of, stored_figures};
use crate::report::Report;
use crate::steady::latencies;

/// Publishing ends when nothing moved for this long: one message may be work for all sessions.
const PUBLISH_IDLE_NS: u64 = 30 * SECOND_NS;
/// Receiving ends when nothing came for this long.
const DRAIN_IDLE_NS: u64 = 10 * SECOND_NS;
/// How long one turn waits.
const TURN: Duration = Duration::from_millis(10);
/// Of so many sessions one stays.
const ONLINE_EVERY: usize = 10;

/// When the last acknowledgement and the last delivery came.
#[derive(Debug, Clone, Copy)]
struct Last {
    acked_ns: u64,
    delivered_ns: u64,
}

fn is_online(subscriber: usize) -> bool {
    subscriber.is_multiple_of(ONLINE_EVERY)
}

/// Carries out the plan.
pub(crate) fn run(bench: &mut Bench, plan: &Plan) -> anyhow::Result<Vec<Report>> {
    let mut dials = bench.subscriber_dials(plan);
    for dial in &mut dials {
        // What an earlier attempt left would spoil the count.
        dial.clean = true;
    }
    let (mut net, mut load) = bench.open(plan)?;
    bench.connect(&mut net, &mut load, plan, &dials)?;
    bench.subscribe(&mut net, &mut load, plan)?;
    let is_away = |role| matches!(role, Role::Subscriber(index) if !is_online(index));
    bench.leave_where(&mut net, &mut load, is_away)?;
    let each = plan.messages_each();
    bench.connect_publishers(&mut net, &mut load, plan, |_| Gate::Quota(each))?;

    let published = publish(bench, &mut net, &mut load, plan)?;
    if published.failure.is_some() {
        return Ok(vec![published]);
    }
    let mut returning: Vec<Dial> = dials;
    returning.retain(|dial| is_away(dial.role));
    for dial in &mut returning {
        dial.clean = false;
    }
    let drained = drain(bench, &mut net, &mut load, plan, &returning)?;
    if drained.failure.is_none() {
        bench.leave(&mut net, &mut load)?;
        bench.forget_sessions(plan)?;
    }
    Ok(vec![published, drained])
}

/// Publishes until all is acknowledged and those online have it.
fn publish(
    bench: &mut Bench,
    net: &mut Net,
    load: &mut Load,
    plan: &Plan,
) -> anyhow::Result<Report> {
    let online = plan.subscribers.div_ceil(ONLINE_EVERY);
    let total = plan.messages_each();
    let from = disk::settle(bench, net, load)?;
    load.latency.reset();
    load.list_all();
    let mut last = Last { acked_ns: from.at_ns, delivered_ns: from.at_ns };
    let (mut acks, mut deliveries) = (Progress::new(from.at_ns), Progress::new(from.at_ns));
    let mut tick_ns = from.at_ns + SECOND_NS;
    loop {
        let now_ns = clock::now_ns();
        if acks.idle_ns(load.tally.acked, now_ns) == 0 {
            last.acked_ns = now_ns;
        }
        if deliveries.idle_ns(load.ledger.unique, now_ns) == 0 {
            last.delivered_ns = now_ns;
        }
        let is_acked = load.tally.acked >= total;
        let is_done = is_acked && load.ledger.unique >= total * online as u64;
        let idle_ns = now_ns - last.acked_ns.max(last.delivered_ns);
        let idle_max_ns = if is_acked { DRAIN_IDLE_NS } else { PUBLISH_IDLE_NS };
        if is_done || idle_ns > idle_max_ns || load.tally.closed > 0 {
            break;
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
    let to = Moment { at_ns: last.acked_ns, ..bench.moment() };
    net.flush(load);
    let mut report = report_of(bench, plan, "publish");
    stored_figures(&mut report.figures, load, from, to);
    publish_figures(&mut report.figures, load, from, to, last);
    online_figures(&mut report.figures, load, total, online);
    let settled = disk::settle(bench, net, load)?;
    let kept = Kept { messages: load.tally.acked, sessions: plan.subscribers };
    let user_bytes = load.tally.acked * plan.payload_size as u64;
    disk::settled_figures(&mut report.figures, from, settled, user_bytes);
    disk::used_figures(&mut report.figures, from, settled, kept);
    judge(&mut report, load, online + plan.publishers);
    if report.failure.is_none() && load.tally.acked < total {
        let acked = load.tally.acked;
        report.failure = Some(format!("only {acked} of {total} messages were acknowledged"));
    }
    Ok(report)
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn publish_figures(figures: &mut Figures, load: &Load, from: Moment, to: Moment, last: Last) {
    if load.tally.acked > 0 {
        figures.set_count("publish_time", last.acked_ns - from.at_ns);
    }
    let elapsed = seconds(last.delivered_ns - from.at_ns);
    figures.set_ratio("rate", load.ledger.unique as f64, elapsed);
    latencies(figures, &load.latency);
    if let (Some(first), Some(after)) = (from.broker, to.broker) {
        let elapsed = seconds(last.acked_ns.max(last.delivered_ns) - from.at_ns);
        let cpu_ns = after.cpu_ns.saturating_sub(first.cpu_ns);
        figures.set_ratio("broker_cores", seconds(cpu_ns), elapsed);
    }
}

/// What those who stayed got.
#[expect(clippy::cast_precision_loss, reason = "for display")]
fn online_figures(figures: &mut Figures, load: &Load, each: u64, online: usize) {
    let expected = each * online as u64;
    let loss = expected.saturating_sub(load.ledger.unique);
    figures.set_count("expected", expected);
    figures.set_count("received", load.ledger.unique);
    figures.set_count("loss", loss);
    figures.set_ratio("loss_ratio", loss as f64, expected as f64);
    figures.set_count("dup", load.ledger.duplicates);
    figures.set_count("out_of_order", load.ledger.out_of_order);
}

/// Lets those who were away return, and counts what they get.
fn drain(
    bench: &mut Bench,
    net: &mut Net,
    load: &mut Load,
    plan: &Plan,
    returning: &[Dial],
) -> anyhow::Result<Report> {
    let each = plan.messages_each();
    let before = load.ledger.unique;
    let (duplicates, disorder) = (load.ledger.duplicates, load.ledger.out_of_order);
    let sessions_present = load.tally.sessions_present;
    let expected = each * returning.len() as u64;
    let from = bench.moment();
    bench.connect(net, load, plan, returning)?;
    let connected_ns = clock::now_ns();
    let last_ns = receive(bench, net, load, before + expected)?;
    let to = Moment { at_ns: last_ns, ..bench.moment() };
    net.flush(load);

    let mut report = report_of(bench, plan, "drain");
    let figures = &mut report.figures;
    let loss = returning.iter().map(|dial| match dial.role {
        Role::Subscriber(index) => load.ledger.missing_in(index, |_| each),
        Role::Publisher(_) => 0,
    });
    read_figures(figures, load.ledger.unique - before, (expected, loss.sum()), from, to);
    figures.set_count("dup", load.ledger.duplicates - duplicates);
    figures.set_count("out_of_order", load.ledger.out_of_order - disorder);
    figures.set_count("sessions_present", (load.tally.sessions_present - sessions_present) as u64);
    figures.set_count("connects_time", connected_ns - from.at_ns);
    // Written and used after the queues are empty.
    let settled = disk::settle(bench, net, load)?;
    let user_bytes = (load.ledger.unique - before) * plan.payload_size as u64;
    disk::settled_figures(&mut report.figures, from, settled, user_bytes);
    disk::space_figures(&mut report.figures, from, settled);
    judge(&mut report, load, returning.len());
    Ok(report)
}

/// Receives until `until` distinct copies are there or nothing comes any more; when the last one came.
pub(crate) fn receive(
    bench: &mut Bench,
    net: &mut Net,
    load: &mut Load,
    until: u64,
) -> anyhow::Result<u64> {
    let mut last_ns = clock::now_ns();
    let mut progress = Progress::new(last_ns);
    let mut tick_ns = last_ns + SECOND_NS;
    loop {
        let now_ns = clock::now_ns();
        let idle_ns = progress.idle_ns(load.ledger.unique, now_ns);
        if idle_ns == 0 {
            last_ns = now_ns;
        }
        if load.ledger.unique >= until || idle_ns > DRAIN_IDLE_NS || load.tally.closed > 0 {
            return Ok(last_ns);
        }
        if now_ns >= tick_ns {
            tick_ns += SECOND_NS;
            bench.live.line(now_ns, "drain", load, &load.latency);
        }
        net.flush(load);
        net.turn(load, TURN)?;
    }
}

/// Figures of stored messages that were read: how many of how many, and what was lost.
#[expect(clippy::cast_precision_loss, reason = "for display")]
pub(crate) fn read_figures(
    figures: &mut Figures,
    received: u64,
    (expected, loss): (u64, u64),
    from: Moment,
    to: Moment,
) {
    figures.set_count("expected", expected);
    figures.set_count("received", received);
    figures.set_count("loss", loss);
    figures.set_ratio("loss_ratio", loss as f64, expected as f64);
    if received > 0 {
        figures.set_count("read_time", to.at_ns - from.at_ns);
    }
    figures.set_ratio("read_rate", received as f64, seconds(to.at_ns - from.at_ns));
    if let (Some(first), Some(last)) = (from.broker, to.broker) {
        let cpu_ns = last.cpu_ns.saturating_sub(first.cpu_ns);
        figures.set_ratio("cpu_per_read", cpu_ns as f64, received as f64);
        figures.set_count("rss", last.rss);
    }
}
