//! The command itself: plans are made and checked, runs carried out, the verdict pronounced.
//!
//! Exit codes: 0 all well, 1 a run failed or an assertion does not hold, 2 the request makes no sense.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::{Args, Command, Format, ForwarderArgs, FrameArgs, Phase, RunArgs};
use crate::bench::Bench;
use crate::forwarder::Forwarder;
use crate::live::Show;
use crate::machine::assertion::Outcome;
use crate::meter::Meter;
use crate::net::Interrupted;
use crate::plan::{Error as PlanError, Frame, Free, Kind, Plan};
use crate::report::{Report, print};
use crate::{absent, churn, compare, connections, queue, restart, retained, steady};

/// Usage errors.
const USAGE: u8 = 2;

/// Carries out `args`.
///
/// # Errors
/// Whatever keeps a run from being carried out at all; a run that fails its assertions is not an
/// error but exit code 1.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .context("installing the signal handler")?;
    }
    match args.command {
        Some(Command::Forwarder(forwarder)) => forward(&forwarder, stop),
        Some(Command::Compare(request)) => compare::run(&request, stop),
        None => measure(&args.run, &stop),
    }
}

/// Prints a usage error.
pub(crate) fn usage(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(USAGE)
}

fn forward(args: &ForwarderArgs, stop: Arc<AtomicBool>) -> anyhow::Result<ExitCode> {
    let host: std::net::IpAddr = match args.host.parse() {
        Ok(host) => host,
        Err(_) => return Ok(usage(&format!("{:?} is not an IP address", args.host))),
    };
    let address = (host, args.port).into();
    crate::limits::raise_descriptors()?;
    let mut forwarder =
        Forwarder::bind(address, stop).with_context(|| format!("listening on {address}"))?;
    eprintln!("ideal forwarder on {}; it is no broker", forwarder.address());
    let outcome = forwarder.run();
    if forwarder.dropped() > 0 {
        eprintln!("{} deliveries dropped for subscribers that did not read", forwarder.dropped());
    }
    match outcome {
        Err(error) if error.is::<Interrupted>() => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

fn measure(args: &RunArgs, stop: &Arc<AtomicBool>) -> anyhow::Result<ExitCode> {
    let plans = match plans(args) {
        Ok(plans) => plans,
        Err(error) => return Ok(usage(&error.to_string())),
    };
    if let Some(plan) = plans.iter().find(|plan| !plan.is_phased())
        && args.phase.is_some()
    {
        return Ok(usage(&format!("--phase is for S5b, S5k and R1, not for {}", plan.name)));
    }
    if args.phase.is_none()
        && let Some(plan) = plans.iter().find(|plan| plan.is_killed())
    {
        return Ok(usage(&format!(
            "{} kills the broker between its phases: use --phase fill and --phase drain, or \
             `bench compare`, which starts and kills the broker itself",
            plan.name
        )));
    }
    let mut holds = true;
    for plan in &plans {
        let reports = carry_out(args, plan, stop)?;
        for (index, report) in reports.iter().enumerate() {
            let outcomes = judge(args, &reports, index);
            holds &= pronounce(args, report, &outcomes)?;
        }
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn plans(args: &RunArgs) -> Result<Vec<Plan>, PlanError> {
    let frame = frame(&args.frame);
    if !args.scenario.is_empty() {
        return args.scenario.iter().map(|name| Plan::scenario(name, frame)).collect();
    }
    let free = Free {
        publishers: args.free.publishers,
        subscribers: args.free.subscribers,
        qos: args.free.qos,
        payload_size: args.free.size,
        rate: args.free.rate,
        window: args.free.window,
        unacknowledged: args.free.inflight,
        topic: args.free.topic.clone(),
        group: args.free.share.clone(),
        persistent: args.free.persistent,
        retain: args.free.retain,
    };
    Ok(vec![Plan::free(free, frame)?])
}

/// The lengths of a run in nanoseconds.
pub(crate) fn frame(args: &FrameArgs) -> Frame {
    let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Frame {
        version: args.protocol,
        warmup_ns: ns(args.warmup),
        duration_ns: ns(args.duration),
        messages: args.messages,
        sessions: args.sessions,
        retained: args.retained,
        payload_size: args.payload,
    }
}

fn carry_out(args: &RunArgs, plan: &Plan, stop: &Arc<AtomicBool>) -> anyhow::Result<Vec<Report>> {
    use std::io::IsTerminal as _;
    let show = match args.format {
        Format::Json if args.live => Show::Error,
        Format::Json => Show::Nothing,
        Format::Table if args.live || std::io::stdout().is_terminal() => Show::Out,
        Format::Table => Show::Nothing,
    };
    let target = &args.target;
    let mut bench = Bench::new(&target.host, target.port, show, Arc::clone(stop))?;
    bench.doors.add(&target.also, target.together)?;
    bench.username.clone_from(&target.username);
    bench.password.clone_from(&target.password);
    bench.broker = target.pid.map(|pid| Meter::new(pid, target.children)).transpose()?;
    bench.directory.clone_from(&target.data_dir);
    perform(&mut bench, plan, args.phase)
}

/// Carries out `plan`, or one phase of it.
pub(crate) fn perform(
    bench: &mut Bench,
    plan: &Plan,
    phase: Option<Phase>,
) -> anyhow::Result<Vec<Report>> {
    let reports = match plan.kind {
        Kind::Steady => vec![steady::run(bench, plan)?],
        Kind::Connections => vec![connections::run(bench, plan)?],
        Kind::Retained => vec![retained::run(bench, plan)?],
        Kind::Absent => absent::run(bench, plan)?,
        Kind::Restart => {
            let mut reports = Vec::new();
            if phase != Some(Phase::Drain) {
                reports.append(&mut restart::fill(bench, plan)?);
            }
            if phase != Some(Phase::Fill) {
                reports.append(&mut restart::drain(bench, plan)?);
            }
            reports
        }
        Kind::Churn => churn::run(bench, plan)?,
        Kind::Queue { .. } => {
            let mut reports = Vec::new();
            if phase != Some(Phase::Drain) {
                reports.push(queue::fill(bench, plan)?);
            }
            if phase != Some(Phase::Fill) {
                reports.push(queue::drain(bench, plan)?);
            }
            reports
        }
    };
    Ok(reports)
}

/// Judges the report `index`. An assertion is for the phases that measure its figure; what no phase
/// measures is violated, and said so in the last one.
fn judge(args: &RunArgs, reports: &[Report], index: usize) -> Vec<Outcome> {
    let figures = &reports[index].figures;
    let last = index + 1 == reports.len();
    let assertions = args.assertions.iter().flat_map(|list| &list.0);
    assertions
        .filter(|one| {
            let anywhere = reports.iter().any(|report| one.is_measured(&report.figures));
            one.is_measured(figures) || (last && !anywhere)
        })
        .map(|one| one.judge(figures))
        .collect()
}

/// Prints the report with its verdict; true if all holds.
fn pronounce(args: &RunArgs, report: &Report, outcomes: &[Outcome]) -> anyhow::Result<bool> {
    let text = match args.format {
        Format::Json => serde_json::to_string_pretty(&report.to_json(outcomes))? + "\n",
        Format::Table => {
            let mut text = report.to_table();
            for outcome in outcomes {
                let verdict = if outcome.holds { "holds" } else { "VIOLATED" };
                text += &format!("  assert {:<32} {verdict}: {}\n", outcome.text, outcome.actual);
            }
            text
        }
    };
    print(&text)?;
    Ok(report.failure.is_none() && outcomes.iter().all(|outcome| outcome.holds))
}
