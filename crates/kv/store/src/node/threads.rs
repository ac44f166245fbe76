//! What the threads of a store do. Each ends when it is told to, or with the reason why it cannot go
//! on.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ratatosk_clock::SystemClock;
use ratatosk_engine::{DurableEngine, Error, Haste};

use super::{Move, Reply, Shared, Word, located};
use crate::host::{self, Answered, Done, Host};
use crate::log::{DurableLog, GroupId, RaftLog as _};
use crate::machine::{Event, Input, Machine, Output};
use crate::snapshot::folder::DiskFile;
use crate::snapshot::receiver::{Shelf, Told};
use crate::snapshot::sender::Parcel;

/// How often the log is cut.
const PURGE_INTERVAL: Duration = Duration::from_secs(10);
/// How long what nobody waits for is left lying at most: how far a checkpoint came.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// How often the free room of the disk is looked at, and the size of the overlay, under load.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often the engine is asked whether much of it is waste.
const RECLAIM_INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn run_log(
    shared: &Shared,
    mut machine: Machine<DurableLog, Reply>,
) -> Result<(), String> {
    let clock = shared.clock;
    let mut words = Vec::new();
    let (mut told, mut announced, mut asked) = (Told::default(), Vec::new(), Vec::new());
    let mut output = Output::default();
    let mut next_look = clock.now();
    loop {
        let wait = match machine.is_dirty() {
            true => Duration::ZERO,
            false => {
                let next = machine.next_tick().map(|next| next.since(clock.now()));
                next.unwrap_or(QUIET_MAX).min(QUIET_MAX)
            }
        };
        let is_closed = shared.inbox.take(wait, &mut words);
        if is_closed && words.is_empty() && !machine.is_dirty() {
            return Ok(());
        }
        // A checkpoint may take so long that its thread does not look meanwhile.
        if clock.now() >= next_look {
            shared.look();
            next_look = clock.now() + LOOK_INTERVAL;
        }
        let inputs = words.drain(..).filter_map(|word| match word {
            Word::Input(input) => Some(input),
            Word::Arrived { from, envelope } => {
                told.note(&envelope);
                Some(Input::Message { from, envelope })
            }
            Word::Announced { from, parcel } => {
                announced.push((from, parcel));
                None
            }
            Word::Asked(told) => {
                asked.push(told);
                None
            }
        });
        let begun = machine.begin(clock.now(), inputs, &mut output);
        begun.map_err(|error| error.to_string())?;
        for (from, parcel) in announced.drain(..) {
            let is_wanted = match &parcel {
                Parcel::Begin { envelope, .. } => machine.wants(envelope),
                Parcel::Piece { .. } => true,
            };
            shared.moves.push(Move::Parcel { from, parcel, is_wanted });
        }
        asked.drain(..).for_each(|told| told(machine.status()));
        told.settle(&output.events).for_each(|settled| shared.moves.push(Move::Settled(settled)));
        // What waits for no disk of this store goes before it is waited for.
        shared.hand_out(&mut output);
        machine.finish(&mut output).map_err(|error| error.to_string())?;
        shared.hand_out(&mut output);
    }
}

impl Shared {
    /// Passes on what came of a step.
    fn hand_out(&self, output: &mut Output<Reply>) {
        for (to, packets) in output.take_packets(|| self.transport.stores()) {
            self.transport.send(to, packets);
        }
        let departs = output.snapshots.drain(..).map(Move::Depart);
        let sends = output.messages.drain(..).map(|(to, envelope)| Move::Send { to, envelope });
        let follows = output.events.iter().filter_map(|event| match event {
            Event::Follows { group } => Some(Move::Forget(*group)),
            _ => None,
        });
        self.moves.extend(&mut departs.chain(sends).chain(follows).collect());
        self.events.extend(&mut output.events);
    }
}

pub(super) fn run_apply(
    shared: &Shared,
    mut host: Host<DurableEngine>,
    shelf: &Shelf<DiskFile>,
) -> Result<(), String> {
    let mut events = Vec::new();
    let mut done = Done::default();
    loop {
        let is_closed = shared.events.take(Duration::MAX, &mut events);
        if is_closed && events.is_empty() {
            return Ok(());
        }
        let turned = events.iter().filter_map(turned);
        let mut turned: Vec<GroupId> = turned.collect();
        host.run(events.drain(..), shelf, &mut done).map_err(|error| {
            let is_unsupported = matches!(error, Error::Unsupported { .. });
            shared.is_unsupported.store(is_unsupported, Ordering::Release);
            error.to_string()
        })?;
        turned.append(&mut done.leads);
        let is_reshaped = shared.note(&host, &turned, &done.inputs);
        for Answered { ticket, answers } in done.answered.drain(..) {
            ticket(answers);
        }
        if is_reshaped || done.is_awaited {
            shared.moves.extend(&mut done.inputs.iter().filter_map(moved).collect());
            shared.inbox.extend(&mut done.inputs.drain(..).map(Word::Input).collect());
        } else {
            shared.inbox.add_quietly(done.inputs.drain(..).map(Word::Input));
        }
    }
}

/// The group whose leadership an event is about.
fn turned(event: &Event<Reply>) -> Option<GroupId> {
    match event {
        Event::Leads { group, .. } | Event::Follows { group } => Some(*group),
        _ => None,
    }
}

impl Shared {
    /// Takes note of what the host has carried out; says whether a range is another one now.
    fn note(
        &self,
        host: &Host<DurableEngine>,
        turned: &[GroupId],
        inputs: &[Input<Reply>],
    ) -> bool {
        let mut reshaped = Vec::new();
        let mut touched = self.touched.lock();
        for input in inputs {
            match input {
                Input::Applied { group, .. } => drop(touched.insert(*group)),
                Input::Configured { descriptor, .. }
                | Input::Described { descriptor }
                | Input::Recovered { descriptor, .. }
                | Input::Installed { descriptor } => reshaped.push(descriptor.group),
                Input::Split { left, right } => {
                    reshaped.push(left.group);
                    reshaped.extend(right.iter().map(|right| right.group));
                }
                Input::Merged { whole, right } => reshaped.extend([whole.group, *right]),
                Input::Removed { group, .. } => reshaped.push(*group),
                _ => {}
            }
        }
        drop(touched);
        if !reshaped.is_empty() {
            let mut ranges = self.ranges.write();
            for group in &reshaped {
                match located(host, *group) {
                    Some(located) => drop(ranges.insert(*group, located)),
                    None => drop(ranges.remove(group)),
                }
            }
        }
        if !turned.is_empty() || !reshaped.is_empty() {
            let mut leads = self.leads.lock();
            for group in turned.iter().chain(&reshaped) {
                match host.is_leader(*group) {
                    true => leads.insert(*group),
                    false => leads.remove(group),
                };
            }
            drop(leads);
            self.is_led.notify_all();
        }
        !reshaped.is_empty()
    }
}

/// What an input means for the data that comes and goes.
fn moved(input: &Input<Reply>) -> Option<Move> {
    match input {
        Input::Installed { descriptor } => Some(Move::Installed(descriptor.group)),
        Input::Removed { group, replica } => Some(Move::Left { group: *group, replica: *replica }),
        _ => None,
    }
}

pub(super) fn run_checkpoints(shared: &Shared) -> Result<(), String> {
    let clock = SystemClock::new();
    let mut next = clock.now() + shared.checkpoint_interval;
    let mut next_purge = clock.now() + PURGE_INTERVAL;
    while !shared.alarm.wait(LOOK_INTERVAL) {
        // Here, as files that go hold whoever removes them up. Groups that keep some of them are those
        // without a checkpoint for a while; the next one frees them.
        if clock.now() >= next_purge {
            shared.log.purge().map_err(|error| error.to_string())?;
            next_purge = clock.now() + PURGE_INTERVAL;
        }
        let has_room = shared.look();
        let is_due = clock.now() >= next
            || shared.overlay.memory_bytes() >= shared.admission.checkpoint_bytes();
        if !is_due || !has_room {
            continue;
        }
        // Of the others nothing is new.
        let touched = std::mem::take(&mut *shared.touched.lock());
        let durable = host::checkpoint(&shared.overlay, touched);
        let durable = durable.map_err(|error| error.to_string())?;
        let told = durable.into_iter().map(|(group, index)| Input::Checkpointed { group, index });
        shared.inbox.add_quietly(told.map(Word::Input));
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
