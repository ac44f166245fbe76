//! Pressure: how close the process is to its limit, and what must be shed at each level.
//!
//! Levels include those below them. A level is entered at once when its upper mark is reached and
//! left only below its lower mark, five hundredths of the limit deeper, so that shedding does not
//! flutter: `leave(level) < enter(level)`, and both ascend with the level.

use crate::ByteCount;

/// What must be shed, in the fixed order of the design.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pressure {
    /// Nothing.
    #[default]
    None,
    /// Caches are emptied and not refilled.
    Caches,
    /// QoS 0 messages that would have to wait are dropped, and counted.
    Qos0,
    /// The connections that bring the most are no longer read.
    PauseReaders,
    /// New connections are refused, and reported.
    RefuseConnect,
}

impl Pressure {
    /// All levels, lowest first.
    pub const ALL: [Self; 5] =
        [Self::None, Self::Caches, Self::Qos0, Self::PauseReaders, Self::RefuseConnect];

    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Caches => "caches",
            Self::Qos0 => "qos0",
            Self::PauseReaders => "pause_readers",
            Self::RefuseConnect => "refuse_connect",
        }
    }

    /// The level at so much use, coming from this one.
    #[must_use]
    pub fn next(self, used: ByteCount, limit: ByteCount) -> Self {
        let holds = |level: &&Self| {
            let mark = if **level <= self { level.leave_percent() } else { level.enter_percent() };
            u128::from(used.bytes()) * 100 >= u128::from(limit.bytes()) * u128::from(mark)
        };
        Self::ALL.iter().rev().find(holds).copied().unwrap_or(Self::None)
    }

    /// The use at which the level begins.
    #[must_use]
    pub fn enters_at(self, limit: ByteCount) -> ByteCount {
        let mark = u128::from(limit.bytes()) * u128::from(self.enter_percent()) / 100;
        ByteCount::new(u64::try_from(mark).unwrap_or(u64::MAX))
    }

    /// The share of the limit at which the level begins.
    const fn enter_percent(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Caches => 75,
            Self::Qos0 => 85,
            Self::PauseReaders => 90,
            Self::RefuseConnect => 95,
        }
    }

    /// The share of the limit below which the level ends.
    const fn leave_percent(self) -> u8 {
        self.enter_percent().saturating_sub(5)
    }

    pub(super) const fn from_index(index: u8) -> Self {
        match index {
            0 => Self::None,
            1 => Self::Caches,
            2 => Self::Qos0,
            3 => Self::PauseReaders,
            _ => Self::RefuseConnect,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pressure::{self, Caches, None, PauseReaders, Qos0, RefuseConnect};
    use crate::ByteCount;

    fn check(from: Pressure, used: u64, expected: Pressure) {
        let next = from.next(ByteCount::new(used), ByteCount::new(1_000));
        assert_eq!(next, expected, "from {from:?} at {used}");
    }

    /// MEM-001: the order is caches, QoS 0, pause readers, refuse CONNECT.
    #[test]
    fn levels_rise_in_the_documented_order() {
        for (used, level) in [
            (0, None),
            (749, None),
            (750, Caches),
            (849, Caches),
            (850, Qos0),
            (900, PauseReaders),
            (949, PauseReaders),
            (950, RefuseConnect),
            (5_000, RefuseConnect),
        ] {
            check(None, used, level);
        }
    }

    #[test]
    fn a_level_is_left_only_below_its_lower_mark() {
        check(RefuseConnect, 900, RefuseConnect);
        check(RefuseConnect, 899, PauseReaders);
        check(PauseReaders, 849, Qos0);
        check(Qos0, 799, Caches);
        check(Caches, 700, Caches);
        check(Caches, 699, None);
        check(RefuseConnect, 0, None);
    }

    #[test]
    fn a_limit_of_nothing_sheds_everything() {
        assert_eq!(None.next(ByteCount::ZERO, ByteCount::ZERO), RefuseConnect);
    }

    #[test]
    fn indexes_and_levels_are_the_same() {
        for level in Pressure::ALL {
            assert_eq!(Pressure::from_index(level as u8), level);
        }
    }
}
