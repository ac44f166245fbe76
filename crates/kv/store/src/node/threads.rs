//! What the threads of a store do. Each ends when it is told to, or with the reason why it cannot go
//! on.

use std::time::Duration;

use ratatosk_clock::SystemClock;
use ratatosk_engine::{DurableEngine, Haste};

use super::{Reply, Shared};
use crate::host::{self, Alone, Answered, Done, Host};
use crate::log::DurableLog;
use crate::machine::{Input, Machine, Output};

/// How often the log is cut.
const PURGE_INTERVAL: Duration = Duration::from_secs(10);
/// How often the free room of the disk is looked at, and the size of the overlay, under load.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often the engine is asked whether much of it is waste.
const RECLAIM_INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn run_log(
    shared: &Shared,
    mut machine: Machine<DurableLog, Reply>,
) -> Result<(), String> {
    let clock = SystemClock::new();
    let mut inputs = Vec::new();
    let mut output = Output::default();
    let mut next_purge = clock.now() + PURGE_INTERVAL;
    let mut next_look = clock.now();
    loop {
        let wait = match machine.is_dirty() {
            true => Duration::ZERO,
            false => {
                let next = machine.next_tick().unwrap_or(next_purge).min(next_purge);
                next.since(clock.now())
            }
        };
        let is_closed = shared.inbox.take(wait, &mut inputs);
        if is_closed && inputs.is_empty() && !machine.is_dirty() {
            return Ok(());
        }
        // A checkpoint may take so long that its thread does not look meanwhile.
        if clock.now() >= next_look {
            shared.look();
            next_look = clock.now() + LOOK_INTERVAL;
        }
        let stepped = machine.step(clock.now(), inputs.drain(..), &mut output);
        stepped.map_err(|error| error.to_string())?;
        // One store has nobody to send to.
        output.messages.clear();
        shared.events.extend(&mut output.events);
        if clock.now() >= next_purge {
            machine.purge().map_err(|error| error.to_string())?;
            next_purge = clock.now() + PURGE_INTERVAL;
        }
    }
}

pub(super) fn run_apply(shared: &Shared, mut host: Host<DurableEngine>) -> Result<(), String> {
    let mut events = Vec::new();
    let mut done = Done::default();
    loop {
        let is_closed = shared.events.take(Duration::MAX, &mut events);
        if is_closed && events.is_empty() {
            return Ok(());
        }
        host.run(events.drain(..), &Alone, &mut done).map_err(|error| error.to_string())?;
        for Answered { ticket, answers } in done.answered.drain(..) {
            ticket(answers);
        }
        shared.inbox.add_quietly(done.inputs.drain(..));
        if !done.leads.is_empty() {
            shared.leads.lock().append(&mut done.leads);
            shared.is_led.notify_all();
        }
    }
}

pub(super) fn run_checkpoints(shared: &Shared) -> Result<(), String> {
    let clock = SystemClock::new();
    let groups: Vec<_> = shared.ranges.iter().map(|(descriptor, _)| descriptor.group).collect();
    let mut next = clock.now() + shared.checkpoint_interval;
    while !shared.alarm.wait(LOOK_INTERVAL) {
        let has_room = shared.look();
        let is_due = clock.now() >= next
            || shared.overlay.memory_bytes() >= shared.admission.checkpoint_bytes();
        if !is_due || !has_room {
            continue;
        }
        let durable = host::checkpoint(&shared.overlay, groups.iter().copied());
        let durable = durable.map_err(|error| error.to_string())?;
        let told = durable.into_iter().map(|(group, index)| Input::Checkpointed { group, index });
        shared.inbox.add_quietly(told);
        next = clock.now() + shared.checkpoint_interval;
    }
    Ok(())
}

pub(super) fn run_reclaim(shared: &Shared) -> Result<(), String> {
    while !shared.alarm.wait(RECLAIM_INTERVAL) {
        let haste = if shared.admission.is_short() { Haste::Now } else { Haste::InTime };
        let reclaimed = shared.overlay.engine().reclaim(shared.admission.free_bytes(), haste);
        reclaimed.map_err(|error| error.to_string())?;
    }
    Ok(())
}
