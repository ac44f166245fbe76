//! What operators ask, from any node.

use ratatosk_codec::{Qos, RetainHandling, SubscriptionOptions};
use ratatosk_contract::inbox::Subscription;
use ratatosk_contract::session_dict::{Change, Changed, EndCause, SessionDict};
use ratatosk_contract::{ClientId, SessionIdentity, TenantId};
use ratatosk_rpc::MemoryDiscovery;
use ratatosk_session_dict::Victims;

use crate::support::{Word, identity, session, three};

/// DICT-002, DICT-005: from every node every session is found, and the listing has each once, in
/// order, page by page.
#[tokio::test]
async fn sessions_are_found_and_listed_from_every_node() {
    let discovery = MemoryDiscovery::new();
    let nodes = three(&discovery).await;
    let mut expected = Vec::new();
    for client in 0..90_u32 {
        let node = &nodes[usize::try_from(client % 3).expect("small")];
        let name = format!("c{client:02}");
        node.own(&name, client).await;
        expected.push((identity(&name), node.owner(client)));
    }
    let identities: Vec<_> = expected.iter().map(|(identity, _)| identity.clone()).collect();
    let owners: Vec<_> = expected.iter().map(|(_, owner)| Some(*owner)).collect();
    let unknown = [identity("nobody")];
    for node in &nodes {
        assert_eq!(node.dict.locate(&identities).await, owners);
        assert_eq!(node.dict.locate(&unknown).await, [None]);
        assert_eq!(node.dict.locate(&[]).await, []);
        let mut listed: Vec<(SessionIdentity, _)> = Vec::new();
        loop {
            let after = listed.last().map(|(identity, _)| identity.clone());
            let page = node.dict.listing(&TenantId::new("t"), after.as_ref(), 7).await;
            assert!(page.is_whole && page.sessions.len() <= 7);
            listed.extend(page.sessions);
            if !page.has_more {
                break;
            }
        }
        assert_eq!(listed, expected);
        let own = node.dict.list(&TenantId::new("t"), None, 1_000);
        let is_own = |(_, owner): &&(_, ratatosk_session_dict::Owner)| owner.host == node.host();
        let of_it = expected.iter().filter(is_own);
        assert!(own.iter().map(|(identity, _)| identity).eq(of_it.map(|(identity, _)| identity)));
    }
    assert!(nodes[0].registry.render().contains("ratatosk_session_dict_registrations"));
}

/// DICT-002, DICT-003: what an operator ends on one node ends on all of them, and nothing else does.
#[tokio::test]
async fn sessions_of_one_client_a_user_or_a_tenant_are_ended_on_all_nodes() {
    let discovery = MemoryDiscovery::new();
    let nodes = three(&discovery).await;
    let of = |tenant: &str, user: Option<&str>, client: &str| SessionIdentity {
        tenant: TenantId::new(tenant),
        user: user.map(Into::into),
        client: ClientId::new(client),
    };
    let sessions = [
        of("a", Some("u"), "1"),
        of("a", Some("u"), "2"),
        of("a", Some("v"), "1"),
        of("a", None, "1"),
        of("b", Some("u"), "1"),
        of("b", None, "2"),
    ];
    for (node, first) in nodes.iter().zip([0_u32, 10, 20]) {
        for (slot, identity) in (first..).zip(&sessions) {
            let mut identity = identity.clone();
            identity.client = ClientId::new(&format!("{}-{first}", identity.client));
            let _ = node.dict.register(&std::sync::Arc::new(identity), session(slot));
        }
    }
    let kicked = |expected: &[u32]| {
        for (node, first) in nodes.iter().zip([0_u32, 10, 20]) {
            for slot in 0..6 {
                let words = node.desk.words(session(first + slot));
                let is_kicked = words.contains(&Word::Ended(EndCause::Kicked));
                assert_eq!(is_kicked, expected.contains(&(first + slot)), "{first} {slot}");
            }
        }
    };
    let whom = Victims::Session(of("a", Some("v"), "1-20"));
    let killed = nodes[0].dict.kill(&whom).await;
    assert_eq!((killed.count, killed.is_whole), (1, true));
    kicked(&[22]);
    let whom = Victims::User(TenantId::new("a"), "u".into());
    assert_eq!(nodes[1].dict.kill(&whom).await.count, 6);
    kicked(&[22, 0, 1, 10, 11, 20, 21]);
    let killed = nodes[2].dict.kill(&Victims::Tenant(TenantId::new("b"))).await;
    assert_eq!((killed.count, killed.is_whole), (6, true));
    kicked(&[22, 0, 1, 10, 11, 20, 21, 4, 5, 14, 15, 24, 25]);
    let nobody = Victims::Session(of("a", None, "nobody"));
    assert_eq!(nodes[0].dict.kill(&nobody).await.count, 0);
}

/// DICT-002: whichever node is asked, what is wanted of a session's subscriptions goes to the node that has
/// it, word for word, and so does the answer come back.
#[tokio::test]
async fn a_session_is_subscribed_and_unsubscribed_by_the_node_that_has_it() {
    let discovery = MemoryDiscovery::new();
    let nodes = three(&discovery).await;
    nodes[1].own("c", 5).await;
    let options = SubscriptionOptions {
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
        ..SubscriptionOptions::new(Qos::ExactlyOnce)
    };
    let filter: Box<str> = "a/#".into();
    let subscribe = |subscription_id| {
        Change::Subscribe(Subscription { filter: filter.clone(), options, subscription_id })
    };
    let outcomes = [
        Changed::Granted(Qos::ExactlyOnce),
        Changed::Granted(Qos::AtMostOnce),
        Changed::Removed,
        Changed::NotFound,
        Changed::NotConnected,
        Changed::Invalid,
        Changed::NotSupported,
        Changed::NotPermitted,
        Changed::QuotaExceeded,
        Changed::Busy,
        Changed::InDoubt,
    ];
    let end = Change::Unsubscribe(filter.clone());
    let desk = &nodes[1].desk;
    for node in &nodes {
        for outcome in outcomes {
            for change in [subscribe(Some(7)), subscribe(None), end.clone()] {
                desk.outcomes.lock().push_back(outcome);
                assert_eq!(node.dict.change(&identity("c"), change.clone()).await, outcome);
                let wanted = std::mem::take(&mut *desk.wanted.lock());
                assert_eq!(wanted, [(session(5), change)]);
            }
        }
        // Nobody answers.
        assert_eq!(node.dict.change(&identity("c"), end.clone()).await, Changed::InDoubt);
        desk.wanted.lock().clear();
        let unknown = node.dict.change(&identity("nobody"), end.clone()).await;
        assert_eq!(unknown, Changed::NotConnected);
    }
    assert!(nodes.iter().all(|node| node.desk.wanted.lock().is_empty()), "nobody else is asked");
}
