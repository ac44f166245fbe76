//! One machine for tests: store 1, with a replica of one range, whose log is in memory.

use std::sync::Arc;

use super::{Input, Machine, Opened, Output, begin};
use crate::log::{GroupId, GroupState, LogBatch, MemoryLog, RaftLog as _, Sync, Truncated};
use crate::membership::{Membership, Target};
use crate::range::{BEGIN_INDEX, BEGIN_TERM, Descriptor};
use ratatosk_clock::Instant;

pub(super) const GROUP: GroupId = GroupId(1);
pub(super) const LIFE: u64 = 9;

pub(super) type Small = Machine<MemoryLog, u64>;

/// Store 1, a replica of a range of these stores.
pub(super) fn machine(voters: &[u64], learners: &[u64]) -> Small {
    machine_with(Arc::default(), voters, learners).served_by_replicas(["k".to_owned()].into())
}

/// The same with this log, which is empty, and whose range its leader alone serves.
pub(super) fn machine_with(log: Arc<MemoryLog>, voters: &[u64], learners: &[u64]) -> Small {
    machine_of(log, vec![range(voters, learners)])
}

/// The same of these ranges.
pub(super) fn machine_of(log: Arc<MemoryLog>, ranges: Vec<Descriptor>) -> Small {
    let mut batch = LogBatch::new();
    let opened = ranges.into_iter().map(|range| {
        let mut state = GroupState { replica: 1, ..GroupState::new(range.group) };
        begin(&mut state, Truncated { index: BEGIN_INDEX, term: BEGIN_TERM });
        state.push_beginning(&mut batch);
        let (descriptor, applied) = (Some(range), BEGIN_INDEX);
        Opened { descriptor, applied, ..Opened::without_range(state) }
    });
    let opened: Vec<_> = opened.collect();
    log.write(batch, Sync::Wait).expect("memory");
    Small::open(log, 1, opened, []).expect("whole").with_life(LIFE)
}

/// What these stores keep.
pub(super) fn range(voters: &[u64], learners: &[u64]) -> Descriptor {
    let stores = |stores: &[u64]| stores.iter().copied().collect();
    let target = Target { voters: stores(voters), learners: stores(learners) };
    let mut membership = Membership::alone(1);
    while let Ok(step) = membership.toward(&target) {
        membership = step.membership.left();
    }
    Descriptor { membership, ..Descriptor::whole(GROUP, "k".to_owned(), 1) }
}

/// Tells it something, and lets it work until nothing is left.
pub(super) fn step(machine: &mut Small, millis: u64, inputs: Vec<Input<u64>>) -> Output<u64> {
    let mut output = Output::default();
    machine.step(Instant::from_millis(millis), inputs, &mut output).expect("memory");
    while machine.is_dirty() {
        machine.step(Instant::from_millis(millis), [], &mut output).expect("memory");
    }
    output
}
