//! Subscriptions that somebody else makes and ends on behalf of the client.

use ratatosk_clock::Instant;
use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::TenantSettings;
use ratatosk_contract::inbox::Subscription;
use ratatosk_contract::session_dict::{Change, Changed};
use ratatosk_session::{Farewell, ON_BEHALF, OnBehalf, Permit, Subscribed, Unsubscribed};

use crate::harness::{ALL, Peer, V5};

fn subscribe(filter: &str) -> Change {
    let options = SubscriptionOptions::new(Qos::AtLeastOnce);
    Change::Subscribe(Subscription { filter: filter.into(), options, subscription_id: None })
}

/// What becomes of it at last, and how often it had to be brought again.
fn change(peer: &mut Peer, change: &Change) -> (Changed, usize) {
    let (mut wanted, mut waits) = (OnBehalf::new(change.clone()), 0);
    loop {
        match peer.session.change(&mut wanted, &mut peer.broker) {
            Some(changed) => return (changed, waits),
            None => waits += 1,
        }
    }
}

/// DICT-002: what is known later is asked for again, and whatever becomes of it, the client is told nothing.
#[test]
fn what_is_wanted_for_a_client_is_done_once_all_is_known_and_says_nothing() {
    let later = Subscribed::Later { by: Instant::from_millis(20_000) };
    let (wanted, end) = (subscribe("a/+"), Change::Unsubscribe("a/+".into()));
    for version in ALL {
        let mut peer = Peer::live(version, &TenantSettings::default());
        // Once it is permitted that is not asked again.
        peer.broker.permits.extend([Permit::Later, Permit::Allowed]);
        peer.broker.subscribe_outcomes.extend([later, Subscribed::Granted]);
        let granted = (Changed::Granted(Qos::AtLeastOnce), 2);
        assert_eq!(change(&mut peer, &wanted), granted);
        assert_eq!(peer.broker.places, [ON_BEHALF, ON_BEHALF]);
        peer.broker.permits.push_back(Permit::Denied);
        assert_eq!(change(&mut peer, &wanted), (Changed::NotPermitted, 0));
        for (outcome, expected) in [
            (Subscribed::TooManyFilters, Changed::QuotaExceeded),
            (Subscribed::GroupFull, Changed::QuotaExceeded),
            (Subscribed::Busy, Changed::Busy),
        ] {
            peer.broker.subscribe_outcomes.push_back(outcome);
            assert_eq!(change(&mut peer, &wanted), (expected, 0));
        }
        peer.broker.permits.extend([Permit::Later, Permit::Error, Permit::Denied]);
        assert_eq!(change(&mut peer, &end), (Changed::Busy, 1));
        assert_eq!(change(&mut peer, &end), (Changed::NotPermitted, 0));
        assert!(peer.broker.unsubscribed.is_empty());
        for (outcome, expected) in [
            (Unsubscribed::Removed, Changed::Removed),
            (Unsubscribed::NotFound, Changed::NotFound),
            (Unsubscribed::Busy, Changed::Busy),
        ] {
            peer.broker.unsubscribe_outcomes.push_back(outcome);
            assert_eq!(change(&mut peer, &end), (expected, 0));
        }
        assert!(peer.out().is_empty() && peer.session.is_live());
    }
}

/// DICT-002: before its CONNACK a session has no subscriptions that others could change.
#[test]
fn nothing_is_done_for_a_client_that_is_not_let_in() {
    let mut peer = Peer::fresh(V5);
    assert_eq!(change(&mut peer, &subscribe("a")), (Changed::NotConnected, 0));
    assert!(peer.broker.subscriptions.is_empty());
}

/// DICT-002, INBOX-002: a session that has another owner by now is not changed, and its connection ends: the
/// other one may be asked.
#[test]
fn nothing_is_done_for_a_client_whose_session_has_another_owner() {
    for wanted in [subscribe("a"), Change::Unsubscribe("a".into())] {
        let mut peer = Peer::live(V5, &TenantSettings::default());
        peer.broker.subscribe_outcomes.push_back(Subscribed::Stale);
        peer.broker.unsubscribe_outcomes.push_back(Unsubscribed::Stale);
        assert_eq!(change(&mut peer, &wanted), (Changed::Busy, 0));
        assert_eq!(peer.session.farewell(), Some(&Farewell::StaleClaim));
    }
}
