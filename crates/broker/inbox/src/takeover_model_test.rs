//! Random histories of groups: no message is in two queues or in none, none waits at a member that
//! is away while another could have it, and a publisher's order holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;
use ratatosk_client::held::HeldKeyspace;
use ratatosk_codec::Qos;
use ratatosk_contract::{
    Message, PublisherId, ReplyTo, StoredMessage, Ticket,
    call::Settlement,
    dist::InboxRoute,
    group::{Group, Member, MemberTarget},
    inbox::{Claim, FetchBudget, Inbox, InboxId, Sequence, SharedRoute, Targets},
};

use crate::{
    durable_fixture::{T0, coprocessor, epoch},
    fake::{BUDGET, Bench, bench_in, message, owner, payloads, tenant},
    queue::Origin,
    stranded::Place,
};

const CLIENTS: [&str; 3] = ["c", "d", "e"];
const FILTERS: [&str; 2] = ["$share/g/a", "$oshare/h/a"];

#[derive(Clone, Debug)]
enum Step {
    /// Of a client that is there, it leaves; with `is_end` its session ends.
    Turn {
        client: usize,
        is_end: bool,
    },
    /// Leaves a group, or joins it.
    Member {
        client: usize,
        filter: usize,
        is_in: bool,
    },
    /// To the member that is chosen, or to one that was chosen before something changed.
    Publish {
        publisher: u64,
        filter: usize,
        late: Option<prop::sample::Index>,
        qos: u8,
    },
    Read {
        client: usize,
        count: usize,
        is_confirmed: bool,
    },
    Settle(usize),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS.len();
    let late = || prop::option::weighted(0.2, any::<prop::sample::Index>());
    prop_oneof![
        5 => (client(), prop::bool::weighted(0.05))
            .prop_map(|(client, is_end)| Step::Turn { client, is_end }),
        1 => (client(), 0..FILTERS.len(), any::<bool>())
            .prop_map(|(client, filter, is_in)| Step::Member { client, filter, is_in }),
        8 => (0..3_u64, 0..FILTERS.len(), late(), 1..3_u8).prop_map(
            |(publisher, filter, late, qos)| Step::Publish { publisher, filter, late, qos }
        ),
        6 => (client(), 1..6_usize, any::<bool>()).prop_map(|(client, count, is_confirmed)| {
            Step::Read { client, count, is_confirmed }
        }),
        4 => (1..5_usize).prop_map(Step::Settle),
        1 => Just(Step::Crash),
    ]
}

/// A client that is there.
#[derive(Copy, Clone, Debug)]
struct Online {
    claim: Claim,
    cursor: u64,
}

struct Run {
    bench: Bench,
    keyspace: Arc<HeldKeyspace>,
    online: [Option<Online>; 3],
    count: u64,
    /// Its publisher was told that it is kept.
    kept: BTreeSet<String>,
    /// Somebody has confirmed it.
    confirmed: BTreeSet<String>,
    /// Handed out, in this order.
    seen: Vec<String>,
}

impl Run {
    fn new(messages_max: u32) -> Self {
        let keyspace = HeldKeyspace::new(coprocessor());
        let bench = bench_in(&keyspace, epoch(), T0);
        let mut run = Run {
            bench,
            keyspace,
            online: [None; 3],
            count: 0,
            kept: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            seen: Vec::new(),
        };
        run.bench.limits.messages_max = messages_max;
        for client in 0..CLIENTS.len() {
            run.turn(client, false);
            FILTERS.iter().for_each(|filter| run.join(client, filter));
        }
        (0..CLIENTS.len()).for_each(|client| run.turn(client, false));
        run.keyspace.settle();
        run
    }

    fn turn(&mut self, client: usize, is_end: bool) {
        if let Some(Online { claim, .. }) = self.online[client].take() {
            self.bench.detach_as(claim, T0, is_end.then_some(0), None);
            return;
        }
        let claim = self.bench.attach_as(CLIENTS[client], T0, false, None).claim;
        self.online[client] = Some(Online { claim, cursor: 0 });
    }

    fn join(&self, client: usize, filter: &str) {
        if let Some(Online { claim, .. }) = self.online[client] {
            self.bench.subscribe(claim, filter, Qos::ExactlyOnce);
        }
    }

    fn publish(
        &mut self,
        publisher: u64,
        filter: usize,
        late: Option<prop::sample::Index>,
        qos: u8,
    ) {
        let groups = self.bench.routes.groups.lock().clone();
        let Some(group) = groups.iter().find(|group| group.is_ordered == (filter == 1)) else {
            return;
        };
        self.count += 1;
        let text = format!("{publisher}/{}", self.count);
        let publisher = PublisherId(publisher);
        let chosen = match late {
            Some(index) => index.get(&group.members),
            None => group.choose(publisher, None).unwrap(),
        };
        let shared = shared(group, chosen);
        let message = Message { publisher, ..message(&text, Qos::try_from(qos).unwrap()) };
        let reply_to = Some(ReplyTo { session: owner(99), ticket: Ticket(self.count) });
        let targets = Targets { tenant: &tenant(), routes: &[], shared: &[shared] };
        let _ = self.bench.inbox.append(targets, &message, None, reply_to, &mut Vec::new());
        // Where all are full it is dropped, and counted.
        if !self.queued().contains_key(&text) {
            self.confirmed.insert(text.clone());
        }
    }

    fn read(&mut self, client: usize, count: usize, is_confirmed: bool) -> usize {
        let Some(Online { claim, cursor }) = &mut self.online[client] else { return 0 };
        let budget = FetchBudget { messages_max: count, ..BUDGET };
        let entries = self.bench.fetch(*claim, Sequence(*cursor), budget);
        self.seen.extend(payloads(&entries).iter().map(|text| (*text).to_owned()));
        for entry in &entries {
            *cursor = entry.sequence.0;
            if is_confirmed {
                self.bench.inbox.commit(*claim, entry.sequence).unwrap();
                self.confirmed.insert(text(&entry.message.payload));
            }
        }
        entries.len()
    }

    fn note_kept(&mut self, texts: &BTreeMap<u64, String>) {
        for (ticket, settlement) in self.bench.sessions.take_settled() {
            assert_eq!(settlement, Settlement::Done);
            self.kept.insert(texts[&ticket].clone());
        }
    }

    fn crash(&mut self) {
        let keyspace = self.keyspace.crash(coprocessor());
        let limits = self.bench.limits;
        self.bench = bench_in(&keyspace, epoch(), T0);
        self.bench.limits = limits;
        self.keyspace = keyspace;
        self.online = [None; 3];
    }

    /// Messages with how many queues have them.
    fn queued(&self) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        for partition in self.bench.inbox.partitions.iter() {
            for session in partition.lock().sessions.values() {
                for (_, item, _) in session.queue.contents() {
                    *all.entry(text(&item.message.payload)).or_default() += 1;
                }
            }
        }
        all
    }

    /// Lets every client read until nothing is on its way, and confirm nothing.
    fn come_to_rest(&mut self) {
        loop {
            self.keyspace.settle();
            let read: usize = (0..CLIENTS.len()).map(|client| self.read(client, 3, false)).sum();
            if read == 0 && self.keyspace.waiting() == 0 {
                return;
            }
        }
    }

    /// Nothing waits at a member that is away for one that is there and has room.
    fn check_nothing_strands(&self) {
        let groups = self.bench.routes.groups.lock().clone();
        for Online { claim, .. } in self.online.iter().flatten() {
            let room = self.session_room(claim);
            // All of a publisher's go together.
            let has_room = |place: &Place| match place.publisher {
                Some(publisher) => room >= self.waiting_of(place.inbox, publisher),
                None => room > 0,
            };
            for group in &groups {
                let target = MemberTarget::Inbox(claim.inbox);
                let Some(me) = group.members.iter().find(|member| member.target == target) else {
                    continue;
                };
                for (origin, place) in self.bench.inbox.stranded().contents() {
                    let is_its =
                        (&*origin.name, origin.is_ordered) == (&*group.name, group.is_ordered);
                    let is_mine = place
                        .publisher
                        .is_none_or(|publisher| group.choose(publisher, None).unwrap().id == me.id);
                    let is_wanted = is_its && is_mine && has_room(&place);
                    assert!(!is_wanted, "{place:?} waits for {claim:?}");
                }
            }
        }
    }

    fn waiting_of(&self, inbox: InboxId, publisher: PublisherId) -> usize {
        let partition = self.bench.inbox.partitions.lock_of(inbox);
        let shared = partition.sessions[&inbox].queue.shared();
        let is_its = |origin: &Origin, message: &StoredMessage| {
            origin.is_ordered && message.publisher == publisher
        };
        shared.filter(|(_, origin, message)| is_its(origin, message)).count()
    }

    fn session_room(&self, claim: &Claim) -> usize {
        self.bench.inbox.partitions.lock_of(claim.inbox).sessions[&claim.inbox].room()
    }
}

fn text(payload: &[u8]) -> String {
    String::from_utf8(payload.to_vec()).unwrap()
}

fn shared(group: &Arc<Group>, member: &Member) -> SharedRoute {
    let MemberTarget::Inbox(inbox) = member.target else { panic!("no transient members here") };
    let route = InboxRoute {
        inbox,
        incarnation: member.incarnation,
        options: member.options,
        subscription_id: member.subscription_id,
    };
    SharedRoute { route, group: Arc::clone(group) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// MQTT-087, DUR-002: whatever members and the node do, a message that is kept and that nobody
    /// confirmed is in exactly one queue; and at rest none waits for a member that is away while
    /// another is there with room.
    #[test]
    fn a_message_of_a_group_is_in_one_queue_and_waits_for_nobody_who_is_away(
        steps in prop::collection::vec(step(), 1..80),
        messages_max in prop_oneof![Just(4_u32), Just(100)],
    ) {
        let mut run = Run::new(messages_max);
        let mut texts = BTreeMap::new();
        for step in &steps {
            match *step {
                Step::Turn { client, is_end } => {
                    // Who ends takes what nobody else may have, or has room for.
                    let before = run.queued();
                    run.turn(client, is_end);
                    let after = run.queued();
                    let gone = before.into_keys().filter(|text| !after.contains_key(text));
                    run.confirmed.extend(gone);
                }
                Step::Member { client, filter, is_in: true } => run.join(client, FILTERS[filter]),
                Step::Member { client, filter, .. } => {
                    if let Some(Online { claim, .. }) = run.online[client] {
                        let done = run.bench.inbox.unsubscribe(claim, FILTERS[filter], None);
                        prop_assert!(done.is_ok());
                    }
                }
                Step::Publish { publisher, filter, late, qos } => {
                    let before = run.count;
                    run.publish(publisher, filter, late, qos);
                    // Where the filter has no member nothing is published.
                    if run.count > before {
                        texts.insert(run.count, format!("{publisher}/{}", run.count));
                    }
                }
                Step::Read { client, count, is_confirmed } => {
                    run.read(client, count, is_confirmed);
                }
                Step::Settle(count) => run.keyspace.settle_some(count),
                Step::Crash => {
                    run.note_kept(&texts);
                    run.crash();
                }
            }
            run.note_kept(&texts);
            run.bench.inbox.check_invariants();
            let queued = run.queued();
            prop_assert!(queued.values().all(|count| *count == 1), "{queued:?} after {step:?}");
            for text in run.kept.difference(&run.confirmed) {
                prop_assert!(queued.contains_key(text), "{text} is lost after {step:?}");
            }
        }
        run.come_to_rest();
        run.check_nothing_strands();
        run.bench.check_conservation();
    }

    /// MQTT-085, DIST-012: in an ordered group that has one member online after the other, each
    /// publisher's messages come in their order, over crashes too.
    #[test]
    fn one_member_after_the_other_gets_a_publisher_s_messages_in_their_order(
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let mut run = Run::new(1_000);
        for step in &steps {
            match *step {
                Step::Turn { client, .. } => {
                    for other in 0..CLIENTS.len() {
                        if other == client || run.online[other].is_some() {
                            run.turn(other, false);
                        }
                    }
                }
                Step::Publish { publisher, .. } => run.publish(publisher, 1, None, 1),
                Step::Read { client, count, is_confirmed } => {
                    run.read(client, count, is_confirmed);
                }
                Step::Settle(count) => run.keyspace.settle_some(count),
                Step::Crash => run.crash(),
                Step::Member { .. } => {}
            }
        }
        run.come_to_rest();
        let (mut known, mut last) = (BTreeSet::new(), BTreeMap::<String, u64>::new());
        for text in &run.seen {
            let (publisher, number) = text.split_once('/').unwrap();
            let number: u64 = number.parse().unwrap();
            if known.insert(text.clone()) {
                let last = last.entry(publisher.to_owned()).or_default();
                prop_assert!(*last < number, "{text} comes late: {:?}", run.seen);
                *last = number;
            }
        }
    }
}
