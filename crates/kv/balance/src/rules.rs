//! What a keyspace is to be like, as operators may change it at run time. KV-025
//!
//! [`Rules`] that exist make sense: they are made of [`Settings`] by a check that names the field
//! that is wrong. The check also sees to it that ranges that were merged are far from being split
//! again, and the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::time::Duration;

use crate::plan::Balancer;

/// The most voters that a range may have.
pub const VOTERS_MAX: usize = 7;
/// A merged range has at most this part of the size at which it would be split.
pub const MERGED_PART: u64 = 4;
/// The shortest time that a range has to be idle before it is merged.
pub const IDLE_MIN: Duration = Duration::from_secs(60);

/// Who learns of a range without a vote.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Learners {
    /// Nobody, but for a copy in place of a voter that would make their number even.
    None,
    /// Every store of the keyspace that does not vote.
    Everywhere,
}

/// When a range is split. KV-023
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Operations of the engine for an entry.
    pub io_density_max: u64,
    /// How long one of them takes.
    pub io_latency_max: Duration,
    /// Thousandths of a core that applying takes.
    pub cpu_permille_max: u64,
    /// Bytes of its data.
    pub size_bytes_max: u64,
    /// Receivers below one key, as the service counts them; `None` where it does not.
    pub fanout_max: Option<u64>,
}

/// When neighbours become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// How long both were without work.
    pub idle_min: Duration,
    /// The most bytes that they have together.
    pub size_bytes_max: u64,
}

/// What operators say of a keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Voters of a range, where there are stores enough.
    pub voters: usize,
    /// Voters that stay where stores are lost and nobody can take their place. A range that keeps
    /// more of them than are up does not write.
    pub voters_kept: usize,
    /// Who else has the data.
    pub learners: Learners,
    /// Ranges of the keyspace that splits may make.
    pub ranges_max: usize,
    /// When to split.
    pub split: Split,
    /// When to merge.
    pub merge: Merge,
    /// How long a store is out of reach before it is taken for lost. KV-020
    pub unreachable_after: Duration,
    /// The label of stores whose values voters are to spread over.
    pub zone_label: Option<String>,
    /// By how many leaders two stores may differ.
    pub leaders_apart: usize,
    /// Balancers that do nothing in this keyspace. KV-025
    pub paused: BTreeSet<Balancer>,
}

/// Settings that make sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Settings);

/// The rules of each keyspace. What has none here has the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleBook {
    keyspaces: BTreeMap<String, Rules>,
    default: Rules,
}

/// Settings that make no sense; those before stay in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Half of an even number is no majority.
    #[error("voters is {0}, but has to be odd, from 1 to {VOTERS_MAX}")]
    Voters(usize),
    /// The same of those that stay.
    #[error("voters_kept is {kept}, but has to be odd, from 1 to voters, which is {voters}")]
    VotersKept {
        /// As set.
        kept: usize,
        /// As set.
        voters: usize,
    },
    /// A limit of nothing.
    #[error("{0} is 0, but has to be at least 1")]
    Zero(&'static str),
    /// What is merged would soon be split.
    #[error(
        "merge.size_bytes_max is {merge}, but has to be at most a quarter of split.size_bytes_max, which is {split}"
    )]
    MergeSize {
        /// As set.
        merge: u64,
        /// As set.
        split: u64,
    },
    /// A pause is not idleness.
    #[error("merge.idle_min is {0:?}, but has to be at least {IDLE_MIN:?}")]
    IdleMin(Duration),
    /// A label without a name.
    #[error("zone_label is empty; leave it out to spread over no zones")]
    ZoneLabel,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            voters: 3,
            voters_kept: 1,
            learners: Learners::None,
            ranges_max: 64,
            split: Split {
                io_density_max: 100,
                io_latency_max: Duration::from_micros(30),
                cpu_permille_max: 800,
                size_bytes_max: 8 << 30,
                fanout_max: None,
            },
            merge: Merge { idle_min: Duration::from_secs(3600), size_bytes_max: 256 << 20 },
            unreachable_after: Duration::from_secs(300),
            zone_label: Some("zone".to_owned()),
            leaders_apart: 1,
            paused: BTreeSet::new(),
        }
    }
}

impl TryFrom<Settings> for Rules {
    type Error = Error;

    fn try_from(settings: Settings) -> Result<Self, Error> {
        let is_odd = |count: usize| count % 2 == 1;
        let Settings { voters, voters_kept: kept, split, merge, .. } = &settings;
        if !is_odd(*voters) || *voters > VOTERS_MAX {
            return Err(Error::Voters(*voters));
        }
        if !is_odd(*kept) || kept > voters {
            return Err(Error::VotersKept { kept: *kept, voters: *voters });
        }
        let limits = [
            ("ranges_max", settings.ranges_max == 0),
            ("leaders_apart", settings.leaders_apart == 0),
            ("unreachable_after", settings.unreachable_after.is_zero()),
            ("split.io_density_max", split.io_density_max == 0),
            ("split.io_latency_max", split.io_latency_max.is_zero()),
            ("split.cpu_permille_max", split.cpu_permille_max == 0),
            ("split.size_bytes_max", split.size_bytes_max == 0),
            ("split.fanout_max", split.fanout_max == Some(0)),
        ];
        if let Some((field, _)) = limits.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(Error::Zero(field));
        }
        if merge.size_bytes_max > split.size_bytes_max / MERGED_PART {
            let (merge, split) = (merge.size_bytes_max, split.size_bytes_max);
            return Err(Error::MergeSize { merge, split });
        }
        if merge.idle_min < IDLE_MIN {
            return Err(Error::IdleMin(merge.idle_min));
        }
        match settings.zone_label.as_deref() {
            Some("") => Err(Error::ZoneLabel),
            _ => Ok(Self(settings)),
        }
    }
}

impl Deref for Rules {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.0
    }
}

impl Rules {
    /// Whether a balancer works in the keyspace.
    #[must_use]
    pub fn has(&self, balancer: Balancer) -> bool {
        !self.paused.contains(&balancer)
    }
}

impl RuleBook {
    /// The rules of a keyspace.
    #[must_use]
    pub fn of(&self, keyspace: &str) -> &Rules {
        self.keyspaces.get(keyspace).unwrap_or(&self.default)
    }

    /// Other rules for a keyspace from now on.
    pub fn set(&mut self, keyspace: &str, rules: Rules) {
        self.keyspaces.insert(keyspace.to_owned(), rules);
    }

    /// Pauses a balancer in a keyspace, or lets it go on. The others stay as they are.
    pub fn switch(&mut self, keyspace: &str, balancer: Balancer, to: Switch) {
        let mut rules = self.of(keyspace).clone();
        match to {
            Switch::Off => rules.0.paused.insert(balancer),
            Switch::On => rules.0.paused.remove(&balancer),
        };
        self.set(keyspace, rules);
    }
}

/// Whether a balancer works.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Switch {
    /// It plans.
    On,
    /// It plans nothing.
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// KV-025: what is no rule is refused with the field that is wrong.
    #[test]
    fn settings_that_make_no_sense_are_refused_by_name() {
        fn check(change: impl Fn(&mut Settings), expected: &str) {
            let mut settings = Settings::default();
            change(&mut settings);
            let said = Rules::try_from(settings).err().map(|error| error.to_string());
            assert_eq!(said.as_deref(), Some(expected));
        }
        check(|it| it.voters = 2, "voters is 2, but has to be odd, from 1 to 7");
        check(|it| it.voters = 0, "voters is 0, but has to be odd, from 1 to 7");
        check(|it| it.voters = 9, "voters is 9, but has to be odd, from 1 to 7");
        check(
            |it| it.voters_kept = 5,
            "voters_kept is 5, but has to be odd, from 1 to voters, which is 3",
        );
        check(|it| it.ranges_max = 0, "ranges_max is 0, but has to be at least 1");
        check(|it| it.leaders_apart = 0, "leaders_apart is 0, but has to be at least 1");
        check(
            |it| it.split.fanout_max = Some(0),
            "split.fanout_max is 0, but has to be at least 1",
        );
        check(
            |it| (it.merge.size_bytes_max, it.split.size_bytes_max) = (26, 100),
            "merge.size_bytes_max is 26, but has to be at most a quarter of split.size_bytes_max, which is 100",
        );
        check(
            |it| it.merge.idle_min = Duration::from_secs(59),
            "merge.idle_min is 59s, but has to be at least 60s",
        );
        check(
            |it| it.zone_label = Some(String::new()),
            "zone_label is empty; leave it out to spread over no zones",
        );
        assert_eq!(Rules::try_from(Settings::default()), Ok(Rules::default()));
    }

    /// KV-025: a switch is of one balancer in one keyspace.
    #[test]
    fn a_switch_leaves_the_other_balancers_and_keyspaces_alone() {
        let mut book = RuleBook::default();
        book.switch("a", Balancer::Split, Switch::Off);
        assert!(!book.of("a").has(Balancer::Split) && book.of("a").has(Balancer::Merge));
        assert!(book.of("b").has(Balancer::Split));
        book.switch("a", Balancer::Split, Switch::On);
        assert_eq!(book.of("a"), book.of("b"));
        let own = Rules::try_from(Settings { voters: 5, ..Settings::default() });
        let own = own.expect("they make sense");
        book.set("a", own.clone());
        book.switch("a", Balancer::Merge, Switch::Off);
        assert_eq!(book.of("a").voters, 5, "its other rules hold");
        book.switch("a", Balancer::Merge, Switch::On);
        assert_eq!(*book.of("a"), own);
    }
}
