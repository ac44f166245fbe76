//! Waiting until everything was taken, or what is missing does not come any more.

use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::history::ClientIndex;
use crate::oracle::{Property, Violation, judge};
use crate::stage::Stage;

/// Without an event for so long, clients have nothing to do.
pub const QUIET: Duration = Duration::from_millis(400);
/// What did not come after so long without any event is lost.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// What waits for those who were away takes its time on a slow disk; it comes to an end, though.
pub const DRAIN_MAX: Duration = Duration::from_secs(900);

/// Waits for the clients, which were told to drain, and judges. Clients before `end` are there for
/// good, and have to be connected. Again and again it checks that all is well otherwise.
///
/// # Errors
/// Those of the check.
pub async fn drained(
    stage: &Stage,
    end: ClientIndex,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Violation>> {
    let started = Instant::now();
    let mut events = usize::MAX;
    let mut changed = started;
    loop {
        stage.quiet(QUIET, DRAIN_MAX).await;
        check()?;
        let history = stage.history.borrow();
        if history.events.len() != events {
            (events, changed) = (history.events.len(), Instant::now());
        }
        let is_late = changed.elapsed() > LOST_AFTER || started.elapsed() > DRAIN_MAX;
        let mut violations = judge(&history);
        let absent = history.absent(end);
        let is_over = history.open == 0 && absent.is_empty();
        if is_late || (is_over && !is_something_missing(&violations)) {
            for client in absent {
                let text = format!("{} did not come back", history.client(client).name);
                violations.push(Violation::of_broker(&history, text));
            }
            return Ok(violations);
        }
    }
}

/// Whether waiting may help.
#[must_use]
pub fn is_something_missing(violations: &[Violation]) -> bool {
    let may_come = [Property::Delivery, Property::Will];
    violations.iter().any(|violation| may_come.contains(&violation.property))
}

/// Sees that no client came to grief. None but mortals ends by itself.
///
/// # Errors
/// If one has panicked.
pub fn check_clients(tasks: &mut JoinSet<()>) -> Result<()> {
    while let Some(ended) = tasks.try_join_next() {
        ended.map_err(|error| anyhow::anyhow!("a client came to grief: {error}"))?;
    }
    Ok(())
}
