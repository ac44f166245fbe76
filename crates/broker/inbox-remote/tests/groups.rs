//! Messages of QoS 2 for shared groups, which are brought again while others would be chosen.

use std::sync::Arc;

use ratatosk_codec::PacketId;
use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{Claim, InboxId};
use ratatosk_rpc::MemoryDiscovery;

use crate::model::Store;
use crate::support::{Host, partition, stored_so, texts};

const PUBLISHER: &str = "near";
/// Two members of the group.
const ONE: &str = "far";
const OTHER: &str = "other";

/// Three hosts: the first serves the publisher, the second one member, the third everything else.
struct Stage {
    store: Arc<Store>,
    hosts: Vec<Option<Host>>,
    publisher: Claim,
    one: InboxId,
    other: InboxId,
    /// A session that has the topic by itself, of the same partition as the other member.
    plain: InboxId,
}

async fn stage() -> Stage {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(3));
    store.set_seat(partition(PUBLISHER), Some(1));
    store.set_seat(partition(ONE), Some(2));
    let mut hosts = Vec::new();
    for id in 1..=3 {
        hosts.push(Some(Host::start(&discovery, id, &store).await));
    }
    let mut names = (0..).map(|number: u32| number.to_string());
    let plain = names.find(|name| partition(name) == partition(OTHER)).expect("there is one");
    for host in hosts.iter().flatten() {
        host.reaches(64).await;
    }
    let three = hosts[2].as_ref().expect("it is there");
    let mut claims = Vec::new();
    for client in [PUBLISHER, ONE, OTHER, &plain] {
        claims.push(three.attach(client).await.expect("it is served").0.claim);
    }
    let [publisher, one, other, plain] = claims[..] else { panic!("four sessions") };
    let (one, other, plain) = (one.inbox, other.inbox, plain.inbox);
    Stage { store, hosts, publisher, one, other, plain }
}

impl Stage {
    fn host(&self, id: usize) -> &Host {
        self.hosts[id - 1].as_ref().expect("it is there")
    }

    fn know(&self, id: usize, members: &[InboxId]) {
        members.iter().for_each(|member| self.host(id).learn_member(*member));
    }

    fn queued(&self, inbox: InboxId) -> Vec<String> {
        let queue = self.store.stored(inbox).expect("it is there").queue;
        texts(&queue.into_values().collect::<Vec<_>>())
    }

    /// The third host brings a message, has its own sessions queue it, and is over before the member has it. The
    /// publisher turns to the first host.
    async fn lose_the_third(&mut self) {
        let three = self.hosts[2].take().expect("it is there");
        let to = (&[self.plain][..], Some(self.one));
        three.begin_append_once(to, "m", (self.publisher, id(1)));
        stored_so(&self.store, || self.queued(self.plain) == ["m"]).await;
        // Words are answered in their order: by then the second host has refused its part.
        let _ = three.attach(ONE).await.expect("it is served");
        assert!(self.queued(self.one).is_empty() && self.queued(self.other).is_empty());
        drop(three);
        self.store.set_seat(partition(OTHER), Some(1));
        self.turn_to_the_first().await;
    }

    async fn turn_to_the_first(&mut self) {
        let attached = self.host(1).attach(PUBLISHER).await.expect("it is served").0;
        assert!(attached.inbound.is_empty(), "it was not accepted");
        self.publisher = attached.claim;
    }

    /// The first host brings the message again, having chosen a member, and it is accepted.
    async fn bring_again(&self, inboxes: &[InboxId], member: Option<InboxId>) -> u64 {
        let one = self.host(1);
        let reply_to = one.begin_append_once((inboxes, member), "m", (self.publisher, id(1)));
        assert_eq!(one.settled(reply_to.ticket).await, Settlement::Done);
        let publisher = self.store.stored(self.publisher.inbox).expect("it is there");
        assert!(publisher.inbound.contains(&id(1)) && publisher.begun.is_empty());
        reply_to.ticket.0
    }
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not zero")
}

/// DUR-010, DIST-011: the part of the chosen member never went, and the partition of whoever is chosen when the
/// message is brought again has it for another session. The first one has it.
#[tokio::test]
async fn a_message_goes_to_the_member_that_was_chosen_at_first() {
    let mut stage = stage().await;
    let members = [stage.one, stage.other];
    // The second does not know the group, and takes nothing for it.
    [1, 3].iter().for_each(|host| stage.know(*host, &members));
    stage.lose_the_third().await;
    stage.know(2, &members);
    stage.bring_again(&[stage.plain], Some(stage.other)).await;
    assert_eq!(stage.queued(stage.one), ["m"]);
    assert_eq!(stage.queued(stage.other), Vec::<String>::new());
    assert_eq!(stage.queued(stage.plain), ["m"]);
}

/// DUR-010, DIST-011: who had a message before its publisher lost its host is the only one of the group who has
/// it, also if it would be one command for whoever is chosen then.
#[tokio::test]
async fn a_member_that_has_a_message_is_the_only_one() {
    for inboxes in [true, false] {
        let mut stage = stage().await;
        let members = [stage.one, stage.other];
        [1, 2, 3].iter().for_each(|host| stage.know(*host, &members));
        // The third ends before the exchange: the second does not say that it is done.
        stage.store.keep_silent(Some(2));
        let three = stage.hosts[2].take().expect("it is there");
        let plain = [stage.plain];
        let to = (&plain[..usize::from(inboxes)], Some(stage.one));
        three.begin_append_once(to, "m", (stage.publisher, id(1)));
        stored_so(&stage.store, || stage.queued(stage.one) == ["m"]).await;
        drop(three);
        stage.store.keep_silent(None);
        stage.store.set_seat(partition(OTHER), Some(1));
        stage.turn_to_the_first().await;
        stage.bring_again(to.0, Some(stage.other)).await;
        assert_eq!(stage.queued(stage.one), ["m"]);
        assert_eq!(stage.queued(stage.other), Vec::<String>::new());
        assert_eq!(stage.queued(stage.plain).len(), usize::from(inboxes));
    }
}

/// DUR-010: the member that was chosen is gone, and nobody has the message: whoever is chosen in its stead has it,
/// although its partition has it for another session.
#[tokio::test]
async fn who_is_chosen_in_the_stead_of_one_that_is_gone_has_the_message() {
    let mut stage = stage().await;
    let members = [stage.one, stage.other];
    [1, 3].iter().for_each(|host| stage.know(*host, &members));
    stage.lose_the_third().await;
    stage.host(1).forget_member(stage.one);
    stage.bring_again(&[stage.plain], Some(stage.other)).await;
    assert_eq!(stage.queued(stage.one), Vec::<String>::new());
    assert_eq!(stage.queued(stage.other), ["m"]);
    assert_eq!(stage.queued(stage.plain), ["m"]);
}

/// DUR-010, DIST-011: a transient session is chosen when the message is brought again. Who was chosen before has
/// it, and its data plane is told.
#[tokio::test]
async fn a_transient_member_is_spared_what_was_for_another() {
    let mut stage = stage().await;
    let members = [stage.one, stage.other];
    [1, 3].iter().for_each(|host| stage.know(*host, &members));
    stage.lose_the_third().await;
    stage.know(2, &members);
    let ticket = stage.bring_again(&[], None).await;
    assert_eq!(stage.queued(stage.one), ["m"]);
    assert_eq!(stage.queued(stage.other), Vec::<String>::new());
    let told = stage.host(1).home.chosen_before.borrow().clone();
    assert_eq!(told, [(ticket, "g".to_owned())]);
}

/// DUR-010: a transient session was chosen, which has nothing before the exchange is durable: whoever is chosen
/// then has the message, although its partition has it for another session.
#[tokio::test]
async fn who_is_chosen_after_a_transient_one_has_the_message() {
    let mut stage = stage().await;
    let members = [stage.one, stage.other];
    [1, 2, 3].iter().for_each(|host| stage.know(*host, &members));
    stage.store.keep_silent(Some(2));
    let three = stage.hosts[2].take().expect("it is there");
    three.begin_append_once((&[stage.one, stage.plain], None), "m", (stage.publisher, id(1)));
    stored_so(&stage.store, || stage.queued(stage.one) == ["m"]).await;
    stored_so(&stage.store, || stage.queued(stage.plain) == ["m"]).await;
    drop(three);
    stage.store.keep_silent(None);
    stage.store.set_seat(partition(OTHER), Some(1));
    stage.turn_to_the_first().await;
    stage.bring_again(&[stage.one, stage.plain], Some(stage.other)).await;
    assert_eq!([stage.one, stage.plain, stage.other].map(|it| stage.queued(it)), [["m"]; 3]);
}
