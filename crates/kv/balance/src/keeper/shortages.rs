//! Ranges with too few votes of stores that are to vote for them: counted at once, and told of when it lasts.
//!
//! Each store has those that it leads, so over all stores each is counted and told of once.

use std::collections::BTreeMap;
use std::time::Duration;

use ratatosk_clock::Instant;
use ratatosk_store::log::GroupId;
use ratatosk_telemetry::metric::{Descriptor, Gauge, Registry};

use crate::plan::Shortage;

/// A cluster that starts, or whose ranges move, is short of votes for a while.
const PATIENCE: Duration = Duration::from_secs(10);

const UNDER_REPLICATED: Descriptor = Descriptor {
    name: "ratatosk_balance_under_replicated_ranges",
    help: "Ranges led here that have fewer voters than wanted on stores with the role for them.",
};

/// See the module.
pub(super) struct Shortages {
    count: Gauge,
    known: BTreeMap<GroupId, Known>,
}

/// A range that is short of votes.
struct Known {
    since: Instant,
    keyspace: String,
    /// The votes that it had when that was told.
    told: Option<usize>,
}

/// What is worth a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It lasts, or has changed.
    Short(Shortage),
    /// What was told is over, here at least: another store may lead the range now.
    Over { group: GroupId, keyspace: String },
}

impl Shortages {
    pub(super) fn new(registry: &Registry) -> Self {
        Self { count: registry.gauge(UNDER_REPLICATED), known: BTreeMap::new() }
    }

    /// Heeds what is short by the latest round.
    pub(super) fn heed(&mut self, now: Instant, short: Vec<Shortage>) -> Vec<News> {
        self.count.set(short.len().try_into().unwrap_or(i64::MAX));
        let mut before = std::mem::take(&mut self.known);
        let mut news = Vec::new();
        for shortage in short {
            let Shortage { group, voters, .. } = shortage;
            let unknown = || Known { since: now, keyspace: shortage.keyspace.clone(), told: None };
            let mut known = before.remove(&group).unwrap_or_else(unknown);
            if now.since(known.since) >= PATIENCE && known.told != Some(voters) {
                known.told = Some(voters);
                news.push(News::Short(shortage));
            }
            self.known.insert(group, known);
        }
        let over = before.into_iter().filter(|(_, known)| known.told.is_some());
        news.extend(over.map(|(group, known)| News::Over { group, keyspace: known.keyspace }));
        news
    }
}

impl Drop for Shortages {
    fn drop(&mut self) {
        self.count.set(0);
    }
}

impl News {
    pub(super) fn tell(&self) {
        match self {
            Self::Short(Shortage { group, keyspace, voters, wanted }) => tracing::warn!(
                range = %format!("{:016x}", group.0),
                keyspace,
                voters,
                wanted,
                "a range is under-replicated: too few stores have the role for it"
            ),
            Self::Over { group, keyspace } => tracing::info!(
                range = %format!("{:016x}", group.0),
                keyspace,
                "a range is not known to be under-replicated any more"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(group: u64, voters: usize) -> Shortage {
        Shortage { group: GroupId(group), keyspace: "k".to_owned(), voters, wanted: 3 }
    }

    /// KV-022: who looks at the metric sees it at once; a line is written if it lasts, and once.
    #[test]
    fn a_shortage_is_counted_at_once_and_told_of_when_it_lasts() {
        let registry = Registry::new(1);
        let mut shortages = Shortages::new(&registry);
        let count = |of: usize| {
            let line = format!("{} {of}\n", UNDER_REPLICATED.name);
            assert!(registry.render().contains(&line), "{}", registry.render());
        };
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        assert_eq!(shortages.heed(at(1), vec![short(1, 1), short(2, 2)]), []);
        count(2);
        assert_eq!(shortages.heed(at(10), vec![short(1, 1)]), []);
        assert_eq!(shortages.heed(at(11), vec![short(1, 1)]), [News::Short(short(1, 1))]);
        assert_eq!(shortages.heed(at(12), vec![short(1, 1)]), []);
        assert_eq!(shortages.heed(at(13), vec![short(1, 2)]), [News::Short(short(1, 2))]);
        let over = News::Over { group: GroupId(1), keyspace: "k".to_owned() };
        assert_eq!(shortages.heed(at(14), vec![short(2, 2)]), [over], "the other began anew");
        count(1);
        drop(shortages);
        count(0);
    }
}
