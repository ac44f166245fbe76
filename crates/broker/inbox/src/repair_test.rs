//! Behaviour of the start where routes are not as the sessions have them.

use std::sync::Arc;

use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::{
    Call,
    dist::{InboxRoute, RESTORED_LIFE, Receiver, StoredRoute, TenantRoutes},
    group::{Member, MemberTarget},
    inbox::InboxId,
    sessions::Sessions,
};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{
    InboxService, Repaired,
    durable_fixture::{T0, coprocessor, epoch, node},
    fake::{FakeDist, FakeRoutes, FakeSessions, identity},
};

/// A route that an earlier process left.
fn leave(routes: &FakeRoutes, text: &str, inbox: InboxId, member: u64, qos: Qos) {
    let filter = TopicFilter::parse(text, &TopicLimits::PROTOCOL).unwrap();
    let (options, incarnation) = (SubscriptionOptions::new(qos), RESTORED_LIFE);
    let (subscription_id, target) = (None, MemberTarget::Inbox(inbox));
    let receiver = match filter.share() {
        None => Receiver::Inbox(InboxRoute { inbox, incarnation, options, subscription_id }),
        Some(_) => Receiver::Member {
            member: Member {
                id: member,
                incarnation,
                target,
                options,
                subscription_id,
                state: Arc::default(),
            },
            members_max: 9,
        },
    };
    assert!(matches!(routes.add(&filter, receiver), Call::Ready(Ok(_))));
}

fn held(routes: &FakeRoutes) -> Vec<(String, u64, u8)> {
    let mut found = Vec::new();
    assert_eq!(routes.stored(0, &mut found), None);
    let of = |held: StoredRoute| {
        (held.filter.into_string(), held.route.inbox.0, held.route.options.qos.value())
    };
    let mut held: Vec<_> = found.into_iter().map(of).collect();
    held.sort();
    held
}

/// DIST-014, DUR-002: what no session has goes, what one has comes, what is right is let be.
#[test]
fn routes_are_made_what_the_sessions_say() {
    let before = node();
    let claim = before.bench.attach("c", T0).claim;
    for text in ["right", "changed", "missing", "$share/g/right", "$share/g/other"] {
        before.bench.subscribe(claim, text, Qos::AtLeastOnce);
    }
    before.keyspace.settle();
    let (own, id) = (claim.inbox, identity("c").publisher().0);
    let gone = InboxId(own.0 + 64 * 1_000);

    let (dist, sessions) = (FakeDist::default(), Arc::new(FakeSessions::default()));
    let routes = Arc::clone(&dist.0);
    leave(&routes, "right", own, id, Qos::AtLeastOnce);
    leave(&routes, "right", gone, id, Qos::AtLeastOnce);
    leave(&routes, "changed", own, id, Qos::ExactlyOnce);
    leave(&routes, "stale", own, id, Qos::AtLeastOnce);
    leave(&routes, "$share/g/right", own, id, Qos::AtLeastOnce);
    leave(&routes, "$share/g/right", own, id + 1, Qos::AtLeastOnce);
    leave(&routes, "$share/g/other", gone, id, Qos::AtLeastOnce);
    leave(&routes, "$oshare/g/right", own, id, Qos::AtLeastOnce);

    let inbox = InboxService::new(Arc::new(dist), Arc::clone(&sessions) as Arc<dyn Sessions>)
        .kept_in(before.keyspace.crash(coprocessor()), epoch());
    let repaired = inbox.restore(T0).unwrap();
    // Changed and missing, and the member of another life; two of strangers, two of no subscription.
    assert_eq!(repaired, Repaired { added: 3, removed: 4 });
    let texts = ["$share/g/other", "$share/g/right", "changed", "missing", "right"];
    assert_eq!(held(&routes), texts.map(|text| (text.to_owned(), own.0, 1)));

    // A number that only a route had is not given again.
    let bench = crate::fake::Bench::around(inbox, routes, sessions);
    bench.attach_as("c", T0, true, Some(100));
    let again = bench.attach_as("c", T0, true, Some(100));
    assert!(again.claim.inbox > gone, "{:?} is not behind {gone:?}", again.claim);
}
