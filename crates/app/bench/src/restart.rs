//! R1: many stored sessions and retained messages, a broker that is killed, and its start.
//!
//! Fill and drain share nothing but names and topics, as in S5k. What was stored is not removed at the end:
//! the scenario is for a broker whose directory goes with it.

use std::thread;
use std::time::Duration;

use anyhow::Context as _;

use crate::absent::{read_figures, receive};
use crate::bench::{Bench, Dial, Moment};
use crate::clock::{self, SECOND_NS, seconds};
use crate::load::Role;
use crate::net::Interrupted;
use crate::plan::Plan;
use crate::publisher::Gate;
use crate::queue::{judge, publish_all, report_of};
use crate::report::Report;
use crate::retained;

/// Marks messages of this scenario, in whatever process they were sent.
const RUN: u32 = 0x5265_7374;
/// Of so many sessions one returns after the start.
const RETURN_EVERY: usize = 20;
/// How long the broker may refuse connections while it starts.
const START_PATIENCE_NS: u64 = 120 * SECOND_NS;
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(5);

/// Makes the sessions in waves, publishes to them, and has as many messages retained.
pub(crate) fn fill(bench: &mut Bench, plan: &Plan) -> anyhow::Result<Vec<Report>> {
    bench.run = RUN;
    let before = bench.moment();
    bench.make_sessions(plan).context("making the sessions")?;
    let made = bench.moment();

    let (mut net, mut load) = bench.open_for(plan, plan.publishers)?;
    let each = plan.messages_each();
    bench.connect_publishers(&mut net, &mut load, plan, |_| Gate::Quota(each))?;
    let mut report = report_of(bench, plan, "fill");
    report.figures.set_count("subscribed", plan.subscribers as u64);
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    let sessions = plan.subscribers as f64;
    report.figures.set_ratio("sessions_rate", sessions, seconds(made.at_ns - before.at_ns));
    publish_all(bench, &mut net, &mut load, plan, &mut report)?;
    judge(&mut report, &load, plan.publishers);
    if report.failure.is_some() {
        return Ok(vec![report]);
    }
    bench.leave(&mut net, &mut load)?;

    let part = plan.retained_part();
    let (mut net, mut load) = bench.open(&part)?;
    let mut stored = report_of(bench, plan, "retain");
    retained::store(bench, &mut net, &mut load, &part, &mut stored)?;
    judge(&mut stored, &load, part.publishers);
    if stored.failure.is_none() {
        bench.leave(&mut net, &mut load)?;
    }
    Ok(vec![report, stored])
}

/// Waits until the broker serves, lets some sessions return at once, and reads what is retained.
pub(crate) fn drain(bench: &mut Bench, plan: &Plan) -> anyhow::Result<Vec<Report>> {
    bench.run = RUN;
    let mut report = report_of(bench, plan, "return");
    let serving_ns = await_serving(bench, plan)?;
    if let Some(started_ns) = bench.started_ns {
        report.figures.set_count("serving_time", serving_ns - started_ns);
    }
    let from = bench.moment();
    if let Some(broker) = from.broker {
        report.figures.set_count("rss_before", broker.rss);
    }
    if let Some(used) = from.used {
        report.figures.set_count("disk_used", used);
    }

    let mut dials = bench.subscriber_dials(plan);
    dials.retain(|dial| matches!(dial.role, Role::Subscriber(one) if one % RETURN_EVERY == 0));
    let rounds = plan.messages_each() / (plan.subscribers / plan.publishers) as u64;
    let expected = rounds * dials.len() as u64;
    let (mut net, mut load) = bench.open_for(plan, dials.len())?;
    bench.connect_by(&mut net, &mut load, plan, (&dials, dials.len()))?;
    let connected_ns = clock::now_ns();
    let last_ns = receive(bench, &mut net, &mut load, expected)?;
    net.flush(&mut load);
    let to = Moment { at_ns: last_ns, ..bench.moment() };
    let each = plan.messages_each();
    let loss = dials.iter().map(|dial| match dial.role {
        Role::Subscriber(index) => load.ledger.missing_in(index, |_| each),
        Role::Publisher(_) => 0,
    });
    let figures = &mut report.figures;
    read_figures(figures, load.ledger.unique, (expected, loss.sum()), from, to);
    figures.set_count("dup", load.ledger.duplicates);
    figures.set_count("out_of_order", load.ledger.out_of_order);
    figures.set_count("sessions_present", load.tally.sessions_present as u64);
    figures.set_count("connections", load.tally.ready as u64);
    figures.set_count("connects_time", connected_ns - from.at_ns);
    judge(&mut report, &load, dials.len());
    if report.failure.is_some() {
        return Ok(vec![report]);
    }
    bench.leave(&mut net, &mut load)?;

    let part = plan.retained_part();
    let (mut net, mut load) = bench.open(&part)?;
    let mut read = report_of(bench, plan, "read");
    retained::read(bench, &mut net, &mut load, &part, &mut read)?;
    judge(&mut read, &load, part.subscribers);
    if read.failure.is_none() {
        bench.leave(&mut net, &mut load)?;
    }
    Ok(vec![report, read])
}

/// When the broker first accepted a connection. That its port answers may mean less.
fn await_serving(bench: &mut Bench, plan: &Plan) -> anyhow::Result<u64> {
    let client_id = format!("rb-{:08x}-first", bench.run);
    let dial = Dial { role: Role::Subscriber(0), client_id, clean: true, expiry_seconds: 0 };
    let begun_ns = clock::now_ns();
    loop {
        let (mut net, mut load) = bench.open_for(plan, 1)?;
        match bench.connect(&mut net, &mut load, plan, std::slice::from_ref(&dial)) {
            Ok(()) => {
                let serving_ns = clock::now_ns();
                bench.leave(&mut net, &mut load)?;
                return Ok(serving_ns);
            }
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) if clock::now_ns() - begun_ns > START_PATIENCE_NS => {
                return Err(error).context("the broker does not serve after its start");
            }
            Err(_) => thread::sleep(RETRY),
        }
    }
}
