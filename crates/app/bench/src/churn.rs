//! C1: sessions and retained messages come and go beside a steady load.
//!
//! The churn runs on a thread of its own, so that its bursts do not delay the reading of the steady load,
//! whose latency is the point; it makes a round a second at most, so that it loads the machine but does not
//! fill it. A round makes sessions, sends to them while they are away, lets them return and read, and ends
//! them: by a clean start in even rounds, by their expiry in odd ones. When all is over nothing is live, so
//! what the broker's directory takes then is what it cannot give back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, bail};

use crate::absent::receive;
use crate::bench::{Bench, Moment};
use crate::clock::{self, SECOND_NS};
use crate::disk;
use crate::load::latency_histogram;
use crate::machine::figure::{Figures, Unit, display};
use crate::net::Interrupted;
use crate::plan::Plan;
use crate::publisher::Gate;
use crate::queue::{publish_quotas, report_of};
use crate::report::Report;
use crate::steady::{Mark, Run};

/// Parts of the duration, of which the first and the last are compared.
const PARTS: u64 = 6;
/// The directory is looked at this often.
const LOOK_NS: u64 = SECOND_NS;
/// A round takes at least this long.
const ROUND_NS: u64 = SECOND_NS;
/// How long sessions outlive their connection that end by their expiry.
const BRIEF_SECONDS: u32 = 1;
/// Nothing happens for this long before the directory is looked at last.
const QUIET_NS: u64 = 8 * SECOND_NS;
/// Where there is no directory to look at, only the last sessions have to expire.
const EXPIRY_NS: u64 = 2 * SECOND_NS;
/// How long a reader waits for retained messages that should not be there.
const LEFT_NS: u64 = SECOND_NS;
/// Between two looks at whether to go on.
const PAUSE: Duration = Duration::from_millis(10);

/// What the churn did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    rounds: u64,
    /// Messages to sessions that were acknowledged.
    acked: u64,
    expected: u64,
    received: u64,
    duplicates: u64,
    out_of_order: u64,
    foreign: u64,
    sessions_present: u64,
    /// Retained messages that were set, and later cleared.
    retained: u64,
}

/// What was seen while both went on.
#[derive(Debug)]
struct Watch {
    from: Mark,
    to: Mark,
    /// At the end of each part.
    parts: Vec<Part>,
    used_max: Option<u64>,
}

/// One part of the duration.
#[derive(Debug, Clone, Copy)]
struct Part {
    p99: u64,
    rss: Option<u64>,
    used: Option<u64>,
}

/// Carries out the plan.
pub(crate) fn run(bench: &mut Bench, plan: &Plan) -> anyhow::Result<Vec<Report>> {
    let steady = plan.steady_part();
    let mut beside = bench.beside()?;
    let done = AtomicBool::new(false);
    let mut run = Run::begin(bench, &steady)?;
    let (watched, churned) = thread::scope(|scope| {
        let churn = scope.spawn(|| churn(&mut beside, plan, &done));
        let watched = watch(&mut run, &steady);
        done.store(true, Ordering::Relaxed);
        (watched, churn.join())
    });
    let watch = watched?;
    let tally = match churned {
        Ok(tally) => tally,
        Err(_) => bail!("the thread of the churn failed"),
    };
    run.drain()?;
    let mut report = run.report(&steady, watch.from, watch.to);
    report.scenario = format!("{}-steady", plan.name);
    let (before, sent) = (run.before, run.load.sent());
    if report.failure.is_some() {
        return Ok(vec![report]);
    }
    run.leave(&steady)?;
    let tally = tally?;
    let quiet = quiet(bench, plan)?;
    report.notes.extend(series(&watch.parts));
    watch_figures(&mut report.figures, &watch, before, quiet);
    let part = plan.retained_part();
    let user_bytes =
        (sent + tally.acked) * plan.payload_size as u64 + tally.retained * part.payload_size as u64;
    disk::settled_figures(&mut report.figures, before, quiet, user_bytes);

    let mut churned = report_of(bench, plan, "churn");
    tally_figures(&mut churned.figures, tally);
    left_figures(bench, plan, tally.rounds, &mut churned.figures)?;
    Ok(vec![report, churned])
}

/// Drives the steady load for its duration, and looks at the broker meanwhile.
fn watch(run: &mut Run<'_>, plan: &Plan) -> anyhow::Result<Watch> {
    let from = run.warm_up(plan)?;
    let mut whole = latency_histogram();
    let mut parts = Vec::new();
    let mut used_max = from.moment.used;
    let mut to = from;
    for part in 1..=PARTS {
        let until_ns = from.moment.at_ns + plan.duration_ns / PARTS * part;
        loop {
            let now_ns = clock::now_ns();
            if now_ns >= until_ns {
                break;
            }
            run.drive(until_ns.min(now_ns + LOOK_NS))?;
            let used = run.bench.directory.as_deref().map(disk::used);
            used_max = used_max.max(used);
        }
        to = run.mark();
        used_max = used_max.max(to.moment.used);
        parts.push(Part {
            p99: run.total.value_at_quantile(0.99),
            rss: to.moment.broker.map(|broker| broker.rss),
            used: to.moment.used,
        });
        // Both have the same bounds, so this cannot fail.
        let _ = whole.add(&run.total);
        run.total.reset();
    }
    run.total = whole;
    Ok(Watch { from, to, parts, used_max })
}

/// Makes rounds until `done`.
fn churn(bench: &mut Bench, plan: &Plan, done: &AtomicBool) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    while !done.load(Ordering::Relaxed) {
        let end_ns = clock::now_ns() + ROUND_NS;
        round(bench, &plan.round_part(tally.rounds), &mut tally)?;
        while clock::now_ns() < end_ns && !done.load(Ordering::Relaxed) {
            if bench.stop.load(Ordering::Relaxed) {
                return Err(Interrupted.into());
            }
            thread::sleep(PAUSE);
        }
    }
    Ok(tally)
}

/// One round: sessions and retained messages come and go.
fn round(bench: &mut Bench, plan: &Plan, tally: &mut Tally) -> anyhow::Result<()> {
    let expires = tally.rounds % 2 == 1;
    // What comes twice from an earlier round is foreign to this one.
    bench.run = bench.run.wrapping_add(1);
    bench.make_sessions(plan)?;
    tally.acked += publish(bench, plan)?;
    let retained = plan.retained_part();
    tally.retained += publish(bench, &retained)?;

    let mut dials = bench.subscriber_dials(plan);
    if expires {
        for dial in &mut dials {
            dial.expiry_seconds = BRIEF_SECONDS;
        }
    }
    let total = plan.messages_each() * plan.publishers as u64;
    let (mut net, mut load) = bench.open_for(plan, dials.len())?;
    bench.connect(&mut net, &mut load, plan, &dials)?;
    receive(bench, &mut net, &mut load, total)?;
    net.flush(&mut load);
    if load.tally.closed > 0 {
        let closed = load.tally.closed;
        bail!("{closed} of {} connections were closed: {}", dials.len(), load.notes().join("; "));
    }
    bench.leave(&mut net, &mut load)?;
    if !expires {
        bench.forget_sessions(plan)?;
    }
    publish(bench, &Plan { payload_size: 0, ..retained })?;

    tally.rounds += 1;
    tally.expected += total;
    tally.received += load.ledger.unique;
    tally.duplicates += load.ledger.duplicates;
    tally.out_of_order += load.ledger.out_of_order;
    tally.foreign += load.tally.foreign;
    tally.sessions_present += load.tally.sessions_present as u64;
    Ok(())
}

/// Publishes what `plan` has; how many were acknowledged, which is all.
fn publish(bench: &mut Bench, plan: &Plan) -> anyhow::Result<u64> {
    let (mut net, mut load) = bench.open_for(plan, plan.publishers)?;
    let each = plan.messages_each();
    let total = each * plan.publishers as u64;
    bench.connect_publishers(&mut net, &mut load, plan, |_| Gate::Quota(each))?;
    publish_quotas(bench, &mut net, &mut load, total)?;
    if load.tally.acked < total || load.tally.refused > 0 {
        let (acked, refused) = (load.tally.acked, load.tally.refused);
        return Err(anyhow!(
            "{acked} of {total} messages were acknowledged, {refused} of them refused: {}",
            load.notes().join("; ")
        ));
    }
    bench.leave(&mut net, &mut load)?;
    Ok(total)
}

/// Nothing happens for a while.
fn quiet(bench: &mut Bench, plan: &Plan) -> anyhow::Result<Moment> {
    let (mut net, mut load) = bench.open_for(plan, 1)?;
    let span_ns = if bench.sees_broker() { QUIET_NS } else { EXPIRY_NS };
    bench.rest(&mut net, &mut load, span_ns)?;
    Ok(bench.moment())
}

/// What each part ended with: whether something grows or has grown shows only in the series.
fn series(parts: &[Part]) -> Vec<String> {
    let line = |(number, part): (usize, &Part)| {
        #[expect(clippy::cast_precision_loss, reason = "for display")]
        let shown = |unit, value: u64| display(unit, value as f64);
        let mut text = format!("part {}: p99 {}", number + 1, shown(Unit::Time, part.p99));
        if let Some(rss) = part.rss {
            text += &format!(", resident {}", shown(Unit::Bytes, rss));
        }
        if let Some(used) = part.used {
            text += &format!(", on disk {}", shown(Unit::Bytes, used));
        }
        text
    };
    parts.iter().enumerate().map(line).collect()
}

fn watch_figures(figures: &mut Figures, watch: &Watch, before: Moment, quiet: Moment) {
    let (first, last) = (watch.parts.first(), watch.parts.last());
    for (name, value) in [
        ("p99_first", first.map(|part| part.p99)),
        ("p99_last", last.map(|part| part.p99)),
        ("rss_before", before.broker.map(|broker| broker.rss)),
        ("rss_first", first.and_then(|part| part.rss)),
        ("disk_used_before", before.used),
        ("disk_used_first", first.and_then(|part| part.used)),
        ("disk_used_max", watch.used_max),
        ("disk_used", quiet.used),
        // All sessions were ended and all retained messages cleared.
        ("live_bytes", quiet.used.map(|_| 0)),
    ] {
        if let Some(value) = value {
            figures.set_count(name, value);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn tally_figures(figures: &mut Figures, tally: Tally) {
    let loss = tally.expected.saturating_sub(tally.received);
    figures.set_count("rounds", tally.rounds);
    figures.set_count("acked", tally.acked + tally.retained);
    figures.set_count("expected", tally.expected);
    figures.set_count("received", tally.received);
    figures.set_count("loss", loss);
    figures.set_ratio("loss_ratio", loss as f64, tally.expected as f64);
    figures.set_count("dup", tally.duplicates);
    figures.set_count("out_of_order", tally.out_of_order);
    figures.set_count("foreign", tally.foreign);
    figures.set_count("sessions_present", tally.sessions_present);
}

/// Looks for sessions of the last two rounds and for retained messages; none should be there.
fn left_figures(
    bench: &mut Bench,
    plan: &Plan,
    rounds: u64,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let mut left = 0;
    for round in rounds.saturating_sub(2)..rounds {
        let plan = plan.round_part(round);
        let mut dials = bench.subscriber_dials(&plan);
        for dial in &mut dials {
            dial.expiry_seconds = 0;
        }
        let (mut net, mut load) = bench.open_for(&plan, dials.len())?;
        bench.connect(&mut net, &mut load, &plan, &dials)?;
        left += load.tally.sessions_present as u64;
        bench.leave(&mut net, &mut load)?;
    }
    figures.set_count("sessions_left", left);

    let part = plan.retained_part();
    let (mut net, mut load) = bench.open(&part)?;
    let dials = bench.subscriber_dials(&part);
    bench.connect(&mut net, &mut load, &part, &dials)?;
    bench.subscribe(&mut net, &mut load, &part)?;
    bench.rest(&mut net, &mut load, LEFT_NS)?;
    figures.set_count("retained_left", load.tally.foreign + load.ledger.unique);
    bench.leave(&mut net, &mut load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_tells_what_is_known() {
        let part = |rss, used| Part { p99: 2_000_000, rss, used };
        let lines = series(&[part(Some(1024), Some(2048)), part(None, None)]);
        let expected =
            ["part 1: p99 2.00 ms, resident 1.0 KiB, on disk 2.0 KiB", "part 2: p99 2.00 ms"];
        assert_eq!(lines, expected);
    }
}
