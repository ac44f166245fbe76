//! The runs in which publishers and subscribers work at once: warm up, measure, drain, judge.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::bench::{Bench, Moment, Progress};
use crate::clock::{self, SECOND_NS, seconds};
use crate::connections::subscribe_figures;
use crate::disk;
use crate::load::{Load, latency_histogram};
use crate::machine::figure::Figures;
use crate::machine::window::Window;
use crate::net::Net;
use crate::plan::Plan;
use crate::publisher::{Gate, intended_ns};
use crate::report::Report;

/// Draining ends when nothing came for this long.
const DRAIN_IDLE_NS: u64 = 2 * SECOND_NS;
/// Draining ends at the latest after this.
const DRAIN_MAX_NS: u64 = 30 * SECOND_NS;
/// How long one turn waits at most.
const TURN_MAX_NS: u64 = SECOND_NS / 20;

/// The even schedule of an open loop.
#[derive(Debug)]
struct Schedule {
    first_ns: u64,
    interval_ns: f64,
    next: u64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) moment: Moment,
    sent: u64,
    acked: u64,
    received: u64,
}

/// A steady load under way.
pub(crate) struct Run<'a> {
    pub(crate) bench: &'a mut Bench,
    pub(crate) net: Net,
    pub(crate) load: Load,
    schedule: Option<Schedule>,
    phase: &'static str,
    /// Latencies of what was measured.
    pub(crate) total: Histogram<u64>,
    tick_ns: u64,
    connections: usize,
    pub(crate) before: Moment,
    connected: Moment,
    subscribed: Moment,
}

/// Carries out a steady plan.
pub(crate) fn run(bench: &mut Bench, plan: &Plan) -> anyhow::Result<Report> {
    let mut run = Run::begin(bench, plan)?;
    let (from, to) = run.measure(plan)?;
    run.drain()?;
    let mut report = run.report(plan, from, to);
    if plan.persistent {
        // Over the whole run, so that the writing that the broker put off is in it.
        let settled = disk::settle(run.bench, &mut run.net, &mut run.load)?;
        let user_bytes = run.load.sent() * plan.payload_size as u64;
        disk::settled_figures(&mut report.figures, run.before, settled, user_bytes);
        disk::space_figures(&mut report.figures, run.before, settled);
    }
    if let Some(before) = run.before.broker {
        report.figures.set_count("rss_before", before.rss);
    }
    if plan.filters(0).len() > 1 {
        subscribe_figures(&mut report.figures, &run.load, run.connected, run.subscribed);
    }
    if report.failure.is_none() {
        run.leave(plan)?;
    }
    Ok(report)
}

impl<'a> Run<'a> {
    /// All connected and subscribed, nothing sent yet.
    pub(crate) fn begin(bench: &'a mut Bench, plan: &Plan) -> anyhow::Result<Self> {
        let before = bench.moment();
        let (mut net, mut load) = bench.open(plan)?;
        let dials = bench.subscriber_dials(plan);
        bench.connect(&mut net, &mut load, plan, &dials)?;
        let connected = bench.moment();
        bench.subscribe(&mut net, &mut load, plan)?;
        let subscribed = bench.moment();
        let fanout = load.ledger.fanout();
        let gate = |index: usize| match plan.rate {
            None => Gate::Window(Window::new(plan.window, fanout)),
            // Filled in when the schedule starts.
            Some(_) => Gate::Schedule { due: 0, first_ns: index as u64, step_ns: 0.0 },
        };
        bench.connect_publishers(&mut net, &mut load, plan, gate)?;
        Ok(Self {
            bench,
            net,
            load,
            schedule: None,
            phase: "warm-up",
            total: latency_histogram(),
            tick_ns: 0,
            connections: plan.publishers + plan.subscribers,
            before,
            connected,
            subscribed,
        })
    }

    /// All leave, and what their sessions held is given up.
    pub(crate) fn leave(mut self, plan: &Plan) -> anyhow::Result<()> {
        self.bench.leave(&mut self.net, &mut self.load)?;
        if plan.persistent {
            self.bench.forget_sessions(plan)?;
        }
        Ok(())
    }

    /// Warm-up and measurement; what is between the two marks counts.
    fn measure(&mut self, plan: &Plan) -> anyhow::Result<(Mark, Mark)> {
        let from = self.warm_up(plan)?;
        self.drive(from.moment.at_ns + plan.duration_ns)?;
        Ok((from, self.mark()))
    }

    /// Sends, and measures from here on.
    pub(crate) fn warm_up(&mut self, plan: &Plan) -> anyhow::Result<Mark> {
        let start_ns = clock::now_ns();
        self.bench.live.begin(start_ns);
        self.tick_ns = start_ns + SECOND_NS;
        self.schedule = plan.rate.map(|rate| self.schedule(start_ns, 1e9 / rate));
        self.load.list_all();
        self.drive(start_ns + plan.warmup_ns)?;
        self.show(clock::now_ns());
        self.phase = "measure";
        let from = self.mark();
        self.tick_ns = from.moment.at_ns + SECOND_NS;
        Ok(from)
    }

    fn schedule(&mut self, start_ns: u64, interval_ns: f64) -> Schedule {
        let count = self.load.publishers.len();
        #[expect(clippy::cast_precision_loss, reason = "few publishers")]
        let step = interval_ns * count as f64;
        for (index, publisher) in self.load.publishers.iter_mut().enumerate() {
            let first = intended_ns(start_ns, interval_ns, index as u64);
            publisher.gate = Gate::Schedule { due: 0, first_ns: first, step_ns: step };
        }
        Schedule { first_ns: start_ns, interval_ns, next: 0 }
    }

    /// Runs until `until_ns`, or until all connections are lost.
    pub(crate) fn drive(&mut self, until_ns: u64) -> anyhow::Result<()> {
        loop {
            let now_ns = clock::now_ns();
            if now_ns >= until_ns || self.load.tally.closed >= self.connections {
                return Ok(());
            }
            self.turn(now_ns, until_ns)?;
            self.tick(now_ns);
        }
    }

    fn turn(&mut self, now_ns: u64, until_ns: u64) -> anyhow::Result<()> {
        if let Some(schedule) = &mut self.schedule {
            let publishers = self.load.publishers.len() as u64;
            loop {
                let due_ns = intended_ns(schedule.first_ns, schedule.interval_ns, schedule.next);
                if due_ns > now_ns {
                    self.net.wake_after(due_ns - now_ns)?;
                    break;
                }
                let index = usize::try_from(schedule.next % publishers.max(1)).unwrap_or(0);
                if let Some(publisher) = self.load.publishers.get_mut(index)
                    && let Gate::Schedule { due, .. } = &mut publisher.gate
                {
                    *due += 1;
                }
                self.load.list(index);
                schedule.next += 1;
            }
        }
        self.load.fill(&mut self.net.links, now_ns);
        self.net.flush(&mut self.load);
        let wait_ns = if self.load.is_eager() || self.net.has_unflushed() {
            0
        } else {
            TURN_MAX_NS.min(until_ns.saturating_sub(now_ns))
        };
        self.net.turn(&mut self.load, Duration::from_nanos(wait_ns))
    }

    /// Once a second: a line, and what is lost no longer holds windows back.
    fn tick(&mut self, now_ns: u64) {
        if now_ns < self.tick_ns {
            return;
        }
        self.tick_ns += SECOND_NS;
        self.show(now_ns);
        self.load.give_up_stalled();
        // Cheap enough to do far more often than any keep-alive asks for.
        if self.load.keep_alive.is_some_and(|seconds| seconds < 60) {
            self.ping();
        }
    }

    /// A line, and the latencies since the last one go to the total if they were measured.
    fn show(&mut self, now_ns: u64) {
        self.bench.live.line(now_ns, self.phase, &self.load, &self.load.latency);
        if self.phase == "measure" {
            // Both have the same bounds, so this cannot fail.
            let _ = self.total.add(&self.load.latency);
        }
        self.load.latency.reset();
    }

    fn ping(&mut self) {
        let links: Vec<_> = self.load.ready_links().map(|(link, _)| link).collect();
        for link in links {
            let out = self.net.links.buffer(link);
            out.extend_from_slice(&crate::machine::wire::PINGREQ_BYTES);
        }
    }

    /// The counts now; all latencies so far are in the total.
    pub(crate) fn mark(&mut self) -> Mark {
        let mark = Mark {
            moment: self.bench.moment(),
            sent: self.load.sent(),
            acked: self.load.tally.acked,
            received: self.load.ledger.unique,
        };
        self.show(mark.moment.at_ns);
        mark
    }

    /// Stops sending and waits for what is under way.
    pub(crate) fn drain(&mut self) -> anyhow::Result<()> {
        let fanout = u64::from(self.load.ledger.fanout());
        self.phase = "drain";
        self.schedule = None;
        for publisher in &mut self.load.publishers {
            publisher.stop();
        }
        let start_ns = clock::now_ns();
        let mut progress = Progress::new(start_ns);
        loop {
            let now_ns = clock::now_ns();
            let complete = self.load.ledger.unique >= self.load.sent() * fanout
                && self.load.unacknowledged() == 0;
            let moved = self.load.ledger.unique + self.load.tally.acked;
            if complete
                || progress.idle_ns(moved, now_ns) > DRAIN_IDLE_NS
                || now_ns > start_ns + DRAIN_MAX_NS
                || self.load.tally.closed >= self.connections
            {
                return Ok(());
            }
            self.turn(now_ns, now_ns + TURN_MAX_NS)?;
            self.tick(now_ns);
        }
    }

    pub(crate) fn report(&self, plan: &Plan, from: Mark, to: Mark) -> Report {
        let fanout = u64::from(self.load.ledger.fanout());
        let mut figures = Figures::default();
        throughput(&mut figures, from, to);
        latencies(&mut figures, &self.total);
        delivery(&mut figures, &self.load, fanout);
        let closed = self.load.tally.closed;
        let failure = (closed > 0).then(|| {
            format!("{closed} of {} connections were closed by the broker", self.connections)
        });
        let mut notes = self.load.notes();
        if self.load.acks_out_of_turn() > 0 {
            notes.push(format!("{} acknowledgements out of turn", self.load.acks_out_of_turn()));
        }
        if self.load.tally.unknown_acks > 0 {
            notes.push(format!("{} acknowledgements of nothing", self.load.tally.unknown_acks));
        }
        Report {
            scenario: plan.name.clone(),
            title: plan.title.clone(),
            target: self.bench.target.clone(),
            figures,
            notes,
            failure,
        }
    }
}

/// Rates and CPU time between two marks.
#[expect(clippy::cast_precision_loss, reason = "for display")]
fn throughput(figures: &mut Figures, from: Mark, to: Mark) {
    let elapsed = seconds(to.moment.at_ns - from.moment.at_ns);
    let received = (to.received - from.received) as f64;
    figures.set_ratio("rate", received, elapsed);
    figures.set_ratio("sent_rate", (to.sent - from.sent) as f64, elapsed);
    if to.acked > 0 {
        figures.set_ratio("acked_rate", (to.acked - from.acked) as f64, elapsed);
    }
    let own_ns = to.moment.own.cpu_ns.saturating_sub(from.moment.own.cpu_ns);
    figures.set_ratio("load_cores", seconds(own_ns), elapsed);
    if let (Some(first), Some(last)) = (from.moment.broker, to.moment.broker) {
        let cpu_ns = last.cpu_ns.saturating_sub(first.cpu_ns);
        figures.set_ratio("deliveries_per_cpu_s", received, seconds(cpu_ns));
        figures.set_ratio("cpu_per_message", cpu_ns as f64, received);
        figures.set_ratio("broker_cores", seconds(cpu_ns), elapsed);
        figures.set_count("rss", last.rss);
    }
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
pub(crate) fn latencies(figures: &mut Figures, latency: &Histogram<u64>) {
    if latency.is_empty() {
        return;
    }
    let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];
    for (name, quantile) in quantiles {
        figures.set(name, latency.value_at_quantile(quantile) as f64);
    }
    figures.set("max", latency.max() as f64);
}

/// Loss, duplicates and order of the whole run, warm-up and drain included.
#[expect(clippy::cast_precision_loss, reason = "for display")]
pub(crate) fn delivery(figures: &mut Figures, load: &Load, fanout: u64) {
    let expected = load.sent() * fanout;
    let sent = |index: usize| load.publishers.get(index).map_or(0, |found| found.sent);
    let loss = if fanout == 0 { 0 } else { load.ledger.missing(sent) };
    figures.set_count("sent", load.sent());
    if load.publishers.iter().any(|publisher| publisher.flow.is_some()) {
        figures.set_count("acked", load.tally.acked);
        figures.set_count("refused", load.tally.refused);
    }
    figures.set_count("expected", expected);
    figures.set_count("received", load.ledger.unique);
    figures.set_count("loss", loss);
    figures.set_ratio("loss_ratio", loss as f64, expected as f64);
    figures.set_count("dup", load.ledger.duplicates);
    figures.set_count("out_of_order", load.ledger.out_of_order);
    for (name, count) in [
        ("misrouted", load.ledger.misrouted),
        ("foreign", load.tally.foreign),
        ("stalls", load.tally.stalls),
        ("closed", load.tally.closed as u64),
    ] {
        if count > 0 {
            figures.set_count(name, count);
        }
    }
}
