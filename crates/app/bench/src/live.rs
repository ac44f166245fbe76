//! What is shown while a run goes on: a bar while connecting, a line per second afterwards.

use std::io::{self, IsTerminal, Write};

use hdrhistogram::Histogram;

use crate::clock::SECOND_NS;
use crate::load::Load;
use crate::machine::figure::{Unit, display};

/// Lines between two headings.
const LINES_PER_HEADING: u32 = 20;
/// Characters of the bar.
const BAR_SIZE: usize = 40;
/// The bar is drawn at most this often.
const BAR_EVERY_NS: u64 = SECOND_NS / 10;

/// Two lines are at least this far apart.
const LINE_MIN_NS: u64 = SECOND_NS / 5;

/// Where progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Nowhere.
    Nothing,
    /// On standard output.
    Out,
    /// On standard error, when standard output carries JSON.
    Error,
}

/// The display.
#[derive(Debug)]
pub(crate) struct Live {
    show: Show,
    lines: u32,
    bar_ns: u64,
    last: Counts,
    last_ns: u64,
}

/// What the lines show the differences of.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    sent: u64,
    acked: u64,
    received: u64,
}

impl Live {
    pub(crate) fn new(show: Show) -> Self {
        Self { show, lines: 0, bar_ns: 0, last: Counts::default(), last_ns: 0 }
    }

    /// Starts the table of a new run.
    pub(crate) fn begin(&mut self, now_ns: u64) {
        self.lines = 0;
        self.last = Counts::default();
        self.last_ns = now_ns;
    }

    /// Draws the bar: `done` of `total` since `start_ns`.
    pub(crate) fn bar(&mut self, what: &str, done: usize, total: usize, elapsed_ns: u64) {
        let finished = done >= total;
        if self.show == Show::Nothing
            || !io::stderr().is_terminal()
            || (!finished && elapsed_ns < self.bar_ns.saturating_add(BAR_EVERY_NS))
        {
            return;
        }
        self.bar_ns = if finished { 0 } else { elapsed_ns };
        let filled = (BAR_SIZE * done).checked_div(total).unwrap_or(BAR_SIZE).min(BAR_SIZE);
        let rate = per_second(done as u64, elapsed_ns);
        let end = if finished { "\n" } else { "" };
        let (full, rest) = ("#".repeat(filled), "·".repeat(BAR_SIZE - filled));
        let mut error = io::stderr();
        // A terminal that went away is no reason to stop measuring.
        let _ = write!(error, "\r{what} [{full}{rest}] {done}/{total}, {rate}/s   {end}");
        let _ = error.flush();
    }

    /// One line: what happened since the last one, per second. Nothing if that was only just now.
    pub(crate) fn line(&mut self, now_ns: u64, phase: &str, load: &Load, latency: &Histogram<u64>) {
        let elapsed_ns = now_ns.saturating_sub(self.last_ns);
        if self.show == Show::Nothing || elapsed_ns < LINE_MIN_NS {
            return;
        }
        self.last_ns = now_ns;
        if self.lines.is_multiple_of(LINES_PER_HEADING) {
            let columns = ["sent/s", "acked/s", "received/s"].map(|name| format!("{name:>12}"));
            let counts =
                ["overtaken", "dup", "disorder", "closed"].map(|name| format!("{name:>10}"));
            let times = ["p50", "p99"].map(|name| format!("{name:>12}"));
            self.print(&format!(
                "{:<8}{}{}{}",
                "",
                columns.concat(),
                counts.concat(),
                times.concat()
            ));
        }
        self.lines += 1;
        let counts =
            Counts { sent: load.sent(), acked: load.tally.acked, received: load.ledger.unique };
        let time = |quantile: f64| {
            if latency.is_empty() {
                return "–".to_owned();
            }
            #[expect(clippy::cast_precision_loss, reason = "for display")]
            let value = latency.value_at_quantile(quantile) as f64;
            display(Unit::Time, value)
        };
        self.print(&format!(
            "{phase:<8}{:>12}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}{:>12}{:>12}",
            per_second(counts.sent - self.last.sent, elapsed_ns),
            per_second(counts.acked - self.last.acked, elapsed_ns),
            per_second(counts.received - self.last.received, elapsed_ns),
            load.ledger.overtaken(),
            load.ledger.duplicates,
            load.ledger.out_of_order,
            load.tally.closed,
            time(0.5),
            time(0.99),
        ));
        self.last = counts;
    }

    fn print(&self, line: &str) {
        // As above: a closed pipe must not end the run.
        let _ = match self.show {
            Show::Nothing => Ok(()),
            Show::Out => writeln!(io::stdout(), "{line}"),
            Show::Error => writeln!(io::stderr(), "{line}"),
        };
    }
}

/// Things per second.
fn per_second(count: u64, elapsed_ns: u64) -> u128 {
    u128::from(count) * u128::from(SECOND_NS) / u128::from(elapsed_ns.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_whatever_the_distance() {
        assert_eq!(per_second(300, 2 * SECOND_NS), 150);
        assert_eq!(per_second(300, SECOND_NS / 2), 600);
        assert_eq!(per_second(0, 0), 0);
    }
}
