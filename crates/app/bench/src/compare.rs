//! Brokers side by side: each run with a fresh process and directory, targets alternating.
//!
//! Alternation spreads what changes on the machine over all targets; medians with their spread and the
//! ratio to the first target are what may be quoted. A run that fails is reported and does not end the
//! comparison; an interruption does, and leaves no broker behind.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use crate::args::{CompareArgs, Format, Phase};
use crate::bench::Bench;
use crate::broker::{Broker, Directory, Target};
use crate::live::Show;
use crate::machine::figure::{self, Figures, NAMES, Unit};
use crate::meter::Meter;
use crate::net::Interrupted;
use crate::plan::Plan;
use crate::report::{Report, number, print};
use crate::run::{frame, perform, usage};

/// What one target did in one scenario.
#[derive(Debug, Default)]
struct Results {
    runs: Vec<Figures>,
    failures: Vec<String>,
}

/// One scenario or phase, with the results by target.
#[derive(Debug)]
struct Section {
    scenario: String,
    title: String,
    results: Vec<Results>,
}

/// Median and range.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Summary {
    median: f64,
    lowest: f64,
    highest: f64,
}

/// Carries out the comparison.
pub(crate) fn run(request: &CompareArgs, stop: Arc<AtomicBool>) -> anyhow::Result<ExitCode> {
    let targets: Result<Vec<Target>, _> =
        request.targets.iter().map(|text| Target::parse(text)).collect();
    let targets = match targets {
        Ok(targets) => targets,
        Err(error) => return Ok(usage(&error.to_string())),
    };
    let frame = frame(&request.frame);
    let plans: Result<Vec<Plan>, _> =
        request.scenario.iter().map(|name| Plan::scenario(name, frame)).collect();
    let plans = match plans {
        Ok(plans) => plans,
        Err(error) => return Ok(usage(&error.to_string())),
    };
    crate::limits::raise_descriptors()?;
    let mut comparison = Comparison { request, targets, stop, sections: Vec::new() };
    for plan in &plans {
        comparison.scenario(plan)?;
    }
    let text = match request.format {
        Format::Json => serde_json::to_string_pretty(&comparison.to_json())? + "\n",
        Format::Table => comparison.to_table(),
    };
    print(&text)?;
    let failed = comparison.sections.iter().flat_map(|section| &section.results);
    let failed = failed.map(|results| results.failures.len()).sum::<usize>();
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Comparison<'a> {
    request: &'a CompareArgs,
    targets: Vec<Target>,
    stop: Arc<AtomicBool>,
    sections: Vec<Section>,
}

impl Comparison<'_> {
    fn scenario(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let runs = self.request.runs;
        for run in 1..=runs {
            for index in 0..self.targets.len() {
                let name = self.targets[index].name.clone();
                match self.once(plan, index) {
                    Ok(reports) => {
                        for report in reports {
                            eprintln!(
                                "{} {name} {run}/{runs}: {}",
                                report.scenario,
                                brief(&report)
                            );
                            for note in &report.notes {
                                eprintln!("  note: {note}");
                            }
                            self.book(index, report);
                        }
                    }
                    Err(error) if error.is::<Interrupted>() => return Err(error),
                    Err(error) => {
                        eprintln!("{} {name} {run}/{runs} failed: {error:#}", plan.name);
                        let failure = Some(format!("{error:#}"));
                        let (scenario, title) = (plan.name.clone(), plan.title.clone());
                        self.book(index, Report { scenario, title, failure, ..Report::default() });
                    }
                }
            }
        }
        Ok(())
    }

    /// One run of one target, from an empty directory to the end of its process.
    fn once(&self, plan: &Plan, index: usize) -> anyhow::Result<Vec<Report>> {
        let directory = Directory::create()?;
        let (broker, mut bench) = self.start(index, &directory)?;
        let phase = plan.is_killed().then_some(Phase::Fill);
        let mut reports = perform(&mut bench, plan, phase)?;
        if let Some(report) = reports.first_mut() {
            report.figures.set_count("start_time", broker.start_ns);
        }
        // A drain after a failed fill would judge what the broker never took.
        let failed = reports.iter().any(|report| report.failure.is_some());
        if !plan.is_killed() || failed {
            return Ok(reports);
        }
        broker.crash();
        let (broker, mut bench) = self.start(index, &directory)?;
        let mut after = perform(&mut bench, plan, Some(Phase::Drain))?;
        if let Some(report) = after.first_mut() {
            report.figures.set_count("start_time", broker.start_ns);
        }
        reports.append(&mut after);
        Ok(reports)
    }

    fn start(&self, index: usize, directory: &Directory) -> anyhow::Result<(Broker, Bench)> {
        let request = self.request;
        let target = &self.targets[index];
        let broker =
            Broker::start(target, request.port, directory, request.start_timeout, &self.stop)?;
        let stop = Arc::clone(&self.stop);
        let mut bench = Bench::new("127.0.0.1", request.port, Show::Nothing, stop)?;
        bench.broker = Some(Meter::new(broker.pid(), true).context("measuring the broker")?);
        bench.started_ns = Some(broker.begun_ns);
        bench.directory = Some(directory.data());
        Ok((broker, bench))
    }

    fn book(&mut self, index: usize, report: Report) {
        let known = self.sections.iter().position(|one| one.scenario == report.scenario);
        let at = known.unwrap_or_else(|| {
            let results = self.targets.iter().map(|_| Results::default()).collect();
            let (scenario, title) = (report.scenario.clone(), report.title.clone());
            self.sections.push(Section { scenario, title, results });
            self.sections.len() - 1
        });
        let results = &mut self.sections[at].results[index];
        match report.failure {
            Some(failure) => results.failures.push(failure),
            None => results.runs.push(report.figures),
        }
    }

    fn to_table(&self) -> String {
        let mut text = String::new();
        for section in &self.sections {
            text.push_str(&format!("{}  {}\n", section.scenario, section.title));
            text.push_str(&format!("  {:<24}", ""));
            for target in &self.targets {
                text.push_str(&format!("{:>44}", target.name));
            }
            text.push('\n');
            for &(name, unit, _) in NAMES {
                let row = section.row(name);
                if row.iter().all(Option::is_none) {
                    continue;
                }
                text.push_str(&format!("  {name:<24}"));
                for (index, summary) in row.iter().enumerate() {
                    let first = if index > 0 { row[0] } else { None };
                    text.push_str(&format!("{:>44}", cell(*summary, first, unit)));
                }
                text.push('\n');
            }
            for (target, results) in self.targets.iter().zip(&section.results) {
                for failure in &results.failures {
                    text.push_str(&format!("  FAILED {}: {failure}\n", target.name));
                }
            }
            text.push('\n');
        }
        text
    }

    fn to_json(&self) -> Value {
        let sections = self.sections.iter().map(|section| {
            let targets = self.targets.iter().enumerate().map(|(index, target)| {
                let results = &section.results[index];
                let mut figures = Map::new();
                for &(name, unit, _) in NAMES {
                    let row = section.row(name);
                    let Some(summary) = row[index] else { continue };
                    let ratio = row[0].and_then(|first| ratio(summary, first));
                    let value = json!({
                        "median": number(summary.median),
                        "lowest": number(summary.lowest),
                        "highest": number(summary.highest),
                        "ratio_to_first": ratio,
                    });
                    figures.insert(figure::json_key(name, unit), value);
                }
                json!({
                    "name": target.name,
                    "runs": results.runs.len(),
                    "failures": results.failures,
                    "figures": figures,
                })
            });
            json!({
                "scenario": section.scenario,
                "title": section.title,
                "targets": targets.collect::<Vec<_>>(),
            })
        });
        json!({ "scenarios": sections.collect::<Vec<_>>() })
    }
}

impl Section {
    /// The figure `name` of every target.
    fn row(&self, name: &str) -> Vec<Option<Summary>> {
        let values = |results: &Results| {
            results.runs.iter().filter_map(|run| run.value(name)).collect::<Vec<f64>>()
        };
        self.results.iter().map(|results| summarize(&values(results))).collect()
    }
}

fn summarize(values: &[f64]) -> Option<Summary> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (&lowest, &highest) = (sorted.first()?, sorted.last()?);
    let half = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[half]
    } else {
        f64::midpoint(sorted[half - 1], sorted[half])
    };
    Some(Summary { median, lowest, highest })
}

fn ratio(summary: Summary, first: Summary) -> Option<f64> {
    (first.median != 0.0).then(|| summary.median / first.median)
}

/// Median, spread in percent, ratio to the first target.
fn cell(summary: Option<Summary>, first: Option<Summary>, unit: Unit) -> String {
    let Some(summary) = summary else { return "–".to_owned() };
    let mut text = figure::display(unit, summary.median);
    if summary.median != 0.0 && summary.lowest < summary.highest {
        let share = |value: f64| (value / summary.median - 1.0) * 100.0;
        text.push_str(&format!(
            " ({:+.0}/{:+.0} %)",
            share(summary.lowest),
            share(summary.highest)
        ));
    }
    if let Some(ratio) = first.and_then(|first| ratio(summary, first)) {
        text.push_str(&format!(" x{ratio:.2}"));
    }
    text
}

/// The few figures that show at a glance whether a run went well.
fn brief(report: &Report) -> String {
    if let Some(failure) = &report.failure {
        return failure.clone();
    }
    let shown = [
        "rate",
        "deliveries_per_cpu_s",
        "acked_rate",
        "read_rate",
        "connects_rate",
        "sessions_rate",
        "bytes_per_connection",
        "p99",
        "loss",
        "disk_bytes_per_user_byte",
        "serving_time",
    ];
    let parts = report.figures.iter().filter(|(name, _, _)| shown.contains(name));
    let parts = parts.map(|(name, unit, value)| format!("{name} {}", figure::display(unit, value)));
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_stands_in_the_middle() {
        let check = |values: &[f64], median| {
            assert_eq!(summarize(values).map(|summary| summary.median), median, "{values:?}");
        };
        check(&[], None);
        check(&[3.0], Some(3.0));
        check(&[9.0, 1.0, 3.0], Some(3.0));
        check(&[9.0, 1.0, 3.0, 4.0], Some(3.5));
    }

    #[test]
    fn cells_show_spread_and_ratio() {
        let summary = summarize(&[90.0, 100.0, 120.0]);
        let first = summarize(&[50.0]);
        assert_eq!(cell(summary, None, Unit::Count), "100 (-10/+20 %)");
        assert_eq!(cell(summary, first, Unit::Count), "100 (-10/+20 %) x2.00");
        assert_eq!(cell(None, first, Unit::Count), "–");
        assert_eq!(cell(first, summarize(&[0.0]), Unit::Count), "50");
    }
}
