//! A group's part of the log, as the Raft library reads it.

use std::sync::Arc;

use proptest::prelude::*;
use raft::eraftpb::ConfState;
use raft::{GetEntriesContext, Storage as _};
use ratatosk_store::log::{
    GroupId, GroupLog, GroupState, LogBatch, LogChange, MemoryLog, RaftLog, Sync,
};

use crate::model::{Group, Step, step};

const GROUP: GroupId = GroupId(1);

fn written(log: &MemoryLog, change: LogChange) {
    let mut batch = LogBatch::new();
    batch.push(GROUP, change);
    log.write(batch, Sync::Wait).expect("writes");
}

fn open(log: &Arc<MemoryLog>, cache_bytes_max: usize) -> GroupLog<MemoryLog> {
    let known = log.groups().expect("reads").into_iter().next();
    let state = known.unwrap_or(GroupState::new(GROUP));
    GroupLog::open(Arc::clone(log), state, ConfState::default(), cache_bytes_max).expect("opens")
}

fn assert_same(group_log: &GroupLog<MemoryLog>, model: &Group) {
    let (first, last) = (model.truncated.index + 1, model.last_index());
    assert_eq!(group_log.first_index().expect("knows"), first);
    assert_eq!(group_log.last_index().expect("knows"), last);
    assert_eq!(group_log.term(first - 1).expect("knows"), model.truncated.term);
    let state = group_log.initial_state().expect("knows");
    assert_eq!(state.hard_state, model.hard_state);
    let place = |index: u64| usize::try_from(index - first).expect("small");
    for low in first..=last {
        assert_eq!(group_log.term(low).expect("knows"), model.entries[place(low)].term);
        for high in low + 1..=last + 1 {
            for bytes_max in [0, 500, u64::MAX] {
                let context = GetEntriesContext::empty(false);
                let found = group_log.entries(low, high, bytes_max, context).expect("reads");
                let all = &model.entries[place(low)..place(high)];
                assert!(!found.is_empty() && all.starts_with(&found));
                assert!(bytes_max != u64::MAX || found.len() == all.len());
                assert!(bytes_max != 0 || found.len() == 1);
            }
        }
    }
    assert!(group_log.term(last + 1).is_err());
    if first > 1 {
        assert!(
            group_log.entries(first - 1, first, None, GetEntriesContext::empty(false)).is_err()
        );
    }
}

proptest! {
    /// Whatever is in memory and whatever only in the log, a group reads what was appended.
    #[test]
    fn a_group_reads_what_was_appended(
        steps in prop::collection::vec((step(), any::<bool>(), any::<bool>()), 1..20),
        cache_bytes_max in prop_oneof![Just(0_usize), Just(600), Just(1 << 20)],
        known_behind in 0..20_u64,
    ) {
        let log = Arc::new(MemoryLog::default());
        let mut group_log = open(&log, cache_bytes_max);
        let mut model = Group::default();
        for (step, is_released, is_reopened) in &steps {
            if matches!(step, Step::Destroy) {
                continue;
            }
            match model.step(step) {
                Some(LogChange::Append(entries)) => {
                    group_log.append(&entries);
                    written(&log, LogChange::Append(entries));
                }
                Some(LogChange::HardState(state)) => {
                    group_log.set_hard_state(state.clone());
                    written(&log, LogChange::HardState(state));
                }
                Some(LogChange::Truncate(truncated)) => {
                    let told = group_log.truncate(truncated.index).expect("reads");
                    prop_assert_eq!(told, Some(truncated));
                    prop_assert_eq!(group_log.truncate(truncated.index).expect("reads"), None);
                    written(&log, LogChange::Truncate(truncated));
                }
                Some(LogChange::Restart(truncated)) => {
                    group_log.restart(truncated);
                    written(&log, LogChange::Restart(truncated));
                }
                _ => {}
            }
            if *is_released {
                let last = model.last_index();
                group_log.release(last, last.saturating_sub(known_behind));
                prop_assert!(group_log.memory_bytes() <= cache_bytes_max);
                group_log.release(last, last);
                prop_assert!(group_log.memory_bytes() <= cache_bytes_max / 16);
            }
            if *is_reopened {
                group_log = open(&log, cache_bytes_max);
            }
            assert_same(&group_log, &model);
        }
    }
}
