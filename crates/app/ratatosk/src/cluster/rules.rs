//! What the ranges of each keyspace are to be like in a cluster.

use ratatosk_balance::rules::Learners;
use ratatosk_balance::{RuleBook, Rules, Settings};

use super::ZONE;
use crate::store::Space;

/// Voters are spread over zones. Every node that publishes has the routes and the retained messages: it matches by
/// the ones, and its clients read the others.
pub(super) fn of_all() -> RuleBook {
    let mut book = RuleBook::default();
    for space in Space::ALL {
        let learners = match space {
            Space::Dist | Space::Retain => Learners::Everywhere,
            Space::Inbox => Learners::None,
        };
        let settings =
            Settings { learners, zone_label: Some(ZONE.to_owned()), ..Settings::default() };
        let rules = Rules::try_from(settings).expect("only the zone and the learners are others");
        book.set(space.name(), rules);
    }
    book
}
