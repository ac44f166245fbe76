//! S9: retained messages on many topics, then one new subscriber of them all.

use std::time::Duration;

use crate::bench::{Bench, Moment, Progress};
use crate::clock::{self, SECOND_NS, seconds};
use crate::load::Load;
use crate::machine::figure::Figures;
use crate::net::Net;
use crate::plan::Plan;
use crate::publisher::Gate;
use crate::queue::{judge, publish_all};
use crate::report::Report;

/// Reading ends when nothing came for this long.
const IDLE_NS: u64 = 3 * SECOND_NS;
/// How long one turn waits.
const TURN: Duration = Duration::from_millis(10);

/// Carries out the plan.
pub(crate) fn run(bench: &mut Bench, plan: &Plan) -> anyhow::Result<Report> {
    let (mut net, mut load) = bench.open(plan)?;
    let mut report = Report {
        scenario: plan.name.clone(),
        title: plan.title.clone(),
        target: bench.target.clone(),
        ..Report::default()
    };
    store(bench, &mut net, &mut load, plan, &mut report)?;
    read(bench, &mut net, &mut load, plan, &mut report)?;
    judge(&mut report, &load, plan.publishers + plan.subscribers);
    if report.failure.is_none() {
        bench.leave(&mut net, &mut load)?;
    }
    Ok(report)
}

/// Publishes the messages.
pub(crate) fn store(
    bench: &mut Bench,
    net: &mut Net,
    load: &mut Load,
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<()> {
    let each = plan.messages_each();
    bench.connect_publishers(net, load, plan, |_| Gate::Quota(each))?;
    publish_all(bench, net, load, plan, report)
}

/// Reads them all by one new subscriber.
pub(crate) fn read(
    bench: &mut Bench,
    net: &mut Net,
    load: &mut Load,
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<()> {
    let total = plan.messages_each() * plan.publishers as u64;
    let dials = bench.subscriber_dials(plan);
    bench.connect(net, load, plan, &dials)?;
    let start = bench.moment();
    // Not waited for by itself: retained messages may follow the SUBACK in the same read.
    bench.subscribe(net, load, plan)?;
    let mut progress = Progress::new(start.at_ns);
    let mut last_ns = clock::now_ns();
    loop {
        let now_ns = clock::now_ns();
        let received = load.ledger.unique;
        let idle_ns = progress.idle_ns(received, now_ns);
        if idle_ns == 0 {
            last_ns = now_ns;
        }
        if received >= total || idle_ns > IDLE_NS || load.tally.closed > 0 {
            break;
        }
        net.flush(load);
        net.turn(load, TURN)?;
    }
    let end = Moment { at_ns: last_ns, ..bench.moment() };
    read_figures(&mut report.figures, load, total, start, end);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn read_figures(figures: &mut Figures, load: &Load, total: u64, from: Moment, to: Moment) {
    let received = load.ledger.unique as f64;
    let loss = total.saturating_sub(load.ledger.unique);
    figures.set_count("expected", total);
    figures.set_count("received", load.ledger.unique);
    figures.set_count("loss", loss);
    figures.set_ratio("loss_ratio", loss as f64, total as f64);
    figures.set_count("dup", load.ledger.duplicates);
    if load.tally.foreign > 0 {
        figures.set_count("foreign", load.tally.foreign);
    }
    if load.ledger.unique > 0 {
        figures.set_count("read_time", to.at_ns - from.at_ns);
    }
    figures.set_ratio("read_rate", received, seconds(to.at_ns - from.at_ns));
    if let (Some(first), Some(last)) = (from.broker, to.broker) {
        let cpu_ns = last.cpu_ns.saturating_sub(first.cpu_ns);
        figures.set_ratio("cpu_per_read", cpu_ns as f64, received);
    }
}
