//! Three voters whose disks can be held: what is in whose log when a proposal counts as committed.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;
use ratatosk_clock::Instant;
use ratatosk_store::log::{
    GroupState, LogBatch, LogChange, MemoryLog, RaftLog as _, Sync, Truncated,
};
use ratatosk_store::machine::{Envelope, Event, Input, Machine, Opened, Output, TICK};
use ratatosk_store::membership::{Membership, Target};
use ratatosk_store::range::{BEGIN_INDEX, Descriptor};

use crate::fixture::{GROUP, commands};

const STORES: [u64; 3] = [1, 2, 3];

/// A store, its machine in the middle of a step while its disk is held.
struct Voter {
    log: Arc<MemoryLog>,
    machine: Machine<MemoryLog, u64>,
    is_held: bool,
    /// A step of it has begun and waits for the disk.
    is_writing: bool,
    inbox: Vec<Input<u64>>,
}

struct Voters {
    now: Instant,
    voters: Vec<Voter>,
    /// Proposals that count as committed, in order.
    committed: Vec<u64>,
}

fn descriptor() -> Descriptor {
    let alone = Membership::alone(STORES[0]);
    let target = Target { voters: STORES.into(), ..Target::default() };
    let joint = alone.toward(&target).expect("two more").membership;
    let whole = Descriptor::whole(GROUP, "counter".to_owned(), STORES[0]);
    Descriptor { membership: joint.left(), ..whole }
}

impl Voter {
    /// One with the range and an empty log.
    fn new(store: u64, descriptor: &Descriptor) -> Self {
        let log = Arc::new(MemoryLog::default());
        let replica = descriptor.membership.of_store(store).expect("a member").id;
        let mut batch = LogBatch::new();
        let beginning = Truncated { index: BEGIN_INDEX, term: BEGIN_INDEX };
        batch.push(GROUP, LogChange::Restart(beginning));
        batch.push(GROUP, LogChange::Replica(replica));
        log.write(batch, Sync::Wait).expect("memory");
        let state: GroupState = log.groups().expect("memory").remove(0);
        let (descriptor, applied) = (Some(descriptor.clone()), BEGIN_INDEX);
        let opened = Opened { state, descriptor, applied, is_interrupted: false };
        let machine = Machine::open(Arc::clone(&log), store, [opened], []).expect("whole");
        Self { log, machine, is_held: false, is_writing: false, inbox: Vec::new() }
    }

    fn last_index(&self) -> u64 {
        self.log.groups().expect("memory")[0].last_index
    }
}

impl Voters {
    /// The first store leads.
    fn new() -> Self {
        let descriptor = descriptor();
        let voters = STORES.map(|store| Voter::new(store, &descriptor)).into();
        let mut voters = Self { now: Instant::ZERO, voters, committed: Vec::new() };
        for _ in 0..200 {
            voters.run();
            voters.now = voters.now + TICK;
            voters.voters[0].inbox.push(Input::Transfer { group: GROUP, to: STORES[0] });
            voters.give(1, Input::Transfer { group: GROUP, to: STORES[0] });
            voters.give(2, Input::Transfer { group: GROUP, to: STORES[0] });
        }
        voters.run();
        voters
    }

    fn give(&mut self, place: usize, input: Input<u64>) {
        self.voters[place].inbox.push(input);
    }

    fn propose(&mut self, ticket: u64) {
        let data = commands(&["a"]);
        self.give(0, Input::Propose { group: GROUP, term: None, data, ticket });
        self.run();
    }

    /// Steps until nothing more comes, without time.
    fn run(&mut self) {
        loop {
            let mut packets = VecDeque::new();
            for place in 0..self.voters.len() {
                packets.extend(self.step(place));
            }
            if packets.is_empty() && self.voters.iter().all(Voter::is_idle) {
                return;
            }
            for (from, to, envelope) in packets {
                let place = STORES.iter().position(|store| *store == to).expect("one of three");
                let envelope = Box::new(envelope);
                self.give(place, Input::Message { from, envelope });
            }
        }
    }

    /// As much of a step as the disk lets it; what goes to others.
    fn step(&mut self, place: usize) -> Vec<(u64, u64, Envelope)> {
        let (voter, from) = (&mut self.voters[place], STORES[place]);
        let mut output = Output::default();
        if voter.is_idle() {
            return Vec::new();
        }
        if !voter.is_writing {
            let inputs = std::mem::take(&mut voter.inbox);
            voter.machine.begin(self.now, inputs, &mut output).expect("memory");
            voter.is_writing = true;
        }
        if !voter.is_held {
            voter.machine.finish(&mut output).expect("memory");
            voter.is_writing = false;
        }
        for event in output.events {
            let Event::Committed(committed) = event else { continue };
            let told = committed.entries.into_iter().filter_map(|(entry, ticket)| {
                let ticket = ticket?;
                let logs = || self.voters.iter().map(Voter::last_index);
                let durable = logs().filter(|last| *last >= entry.index).count();
                assert!(
                    durable >= 2,
                    "{ticket} is in {durable} logs: {:?}",
                    logs().collect::<Vec<_>>()
                );
                Some(ticket)
            });
            let told: Vec<_> = told.collect();
            self.committed.extend(told);
        }
        output.messages.into_iter().map(|(to, envelope)| (from, to, envelope)).collect()
    }
}

impl Voter {
    /// Nothing can be done with it before its disk is let go.
    fn is_idle(&self) -> bool {
        match self.is_writing {
            true => self.is_held,
            false => self.inbox.is_empty() && !self.machine.is_dirty(),
        }
    }
}

proptest! {
    /// DUR-001: a proposal counts when the logs of two of three voters have it on their disks, whichever two
    /// these are, and not before.
    #[test]
    fn what_counts_is_on_the_disks_of_a_majority(
        held in Just([0_usize, 1, 2]).prop_shuffle(),
        count in 1..5_u64,
    ) {
        let mut voters = Voters::new();
        voters.committed.clear();
        let [first, second, third] = held;
        for place in [first, second] {
            voters.voters[place].is_held = true;
        }
        (1..=count).for_each(|ticket| voters.propose(ticket));
        prop_assert_eq!(&voters.committed, &[], "one disk has it, {}", third);
        let all: Vec<_> = (1..=count).collect();
        voters.voters[second].is_held = false;
        voters.run();
        // A leader that waits for its own disk hears nobody.
        let expected = if first == 0 { &[] } else { &all[..] };
        prop_assert_eq!(&voters.committed[..], expected, "two disks have it, not {}", first);
        voters.voters[first].is_held = false;
        voters.run();
        prop_assert_eq!(&voters.committed, &all);
        let last: Vec<_> = voters.voters.iter().map(Voter::last_index).collect();
        prop_assert!(last.iter().all(|index| *index == last[0]), "all have it: {:?}", last);
    }
}
