//! Random histories: what a crash or a restart leaves is what lived.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;
use ratatosk_client::held::HeldKeyspace;
use ratatosk_clock::Instant;
use ratatosk_codec::{PacketId, Qos, SubscriptionOptions};
use ratatosk_contract::{
    Call, Message, ReplyTo, Ticket,
    dist::InboxRoute,
    group::MemberTarget,
    inbox::{
        Attach, Claim, Detach, FetchBudget, Inbox, Sequence, SharedRoute, Subscription, Targets,
    },
};

use crate::{
    durable_fixture::{T0, coprocessor, epoch},
    fake::{BUDGET, Bench, bench_in, identity, message, owner, seconds, tenant},
    schema::{Key, Place},
};

const CLIENTS: [&str; 3] = ["c", "d", "e"];
const FILTERS: [&str; 4] = ["a", "b/#", "$share/g/a", "$oshare/h/a"];

#[derive(Clone, Debug)]
enum Step {
    Attach {
        client: usize,
        is_clean: bool,
        has_will: bool,
    },
    Detach {
        client: usize,
        is_end: bool,
        has_will: bool,
    },
    Discard(usize),
    Subscribe {
        client: usize,
        filter: usize,
        qos: u8,
    },
    Unsubscribe {
        client: usize,
        filter: usize,
    },
    /// With a deadline, or so late that others are over theirs.
    Append {
        qos: u8,
        is_brief: bool,
        exchange: Option<(usize, u16)>,
    },
    AppendShared {
        group: prop::sample::Index,
        member: prop::sample::Index,
    },
    Fetch {
        client: usize,
        count: usize,
        is_late: bool,
    },
    Commit {
        client: usize,
        entry: prop::sample::Index,
    },
    Receive {
        client: usize,
        entry: prop::sample::Index,
    },
    Inbound {
        client: usize,
        packet_id: u16,
        is_released: bool,
    },
    Settle(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS.len();
    let any_index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (client(), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(client, is_clean, has_will)| Step::Attach { client, is_clean, has_will }),
        2 => (client(), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(client, is_end, has_will)| Step::Detach { client, is_end, has_will }),
        1 => client().prop_map(Step::Discard),
        4 => (client(), 0..FILTERS.len(), 1..3_u8)
            .prop_map(|(client, filter, qos)| Step::Subscribe { client, filter, qos }),
        1 => (client(), 0..FILTERS.len())
            .prop_map(|(client, filter)| Step::Unsubscribe { client, filter }),
        6 => (0..3_u8, any::<bool>(), prop::option::weighted(0.3, (client(), 1..5_u16)))
            .prop_map(|(qos, is_brief, exchange)| Step::Append { qos, is_brief, exchange }),
        2 => (any_index(), any_index())
            .prop_map(|(group, member)| Step::AppendShared { group, member }),
        4 => (client(), 1..5_usize, prop::bool::weighted(0.3))
            .prop_map(|(client, count, is_late)| Step::Fetch { client, count, is_late }),
        4 => (client(), any_index()).prop_map(|(client, entry)| Step::Commit { client, entry }),
        2 => (client(), any_index()).prop_map(|(client, entry)| Step::Receive { client, entry }),
        2 => (client(), 1..5_u16, any::<bool>()).prop_map(|(client, packet_id, is_released)| {
            Step::Inbound { client, packet_id, is_released }
        }),
        4 => (1..6_usize).prop_map(Step::Settle),
    ]
}

/// A session, as far as it survives.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    inbox: u64,
    version: u64,
    expiry_s: Option<u32>,
    subscriptions: Vec<Subscription>,
    inbound: Vec<PacketId>,
    entries: Vec<KnownEntry>,
    next: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct KnownEntry {
    sequence: u64,
    qos: Qos,
    is_received: bool,
    /// Nobody asks for that of a message that was received.
    message: Option<KnownMessage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct KnownMessage {
    payload: String,
    retain: bool,
    subscription_id: Option<u32>,
    deadline: Option<Instant>,
    group: Option<(String, bool)>,
}

fn sessions(bench: &Bench) -> BTreeMap<String, Known> {
    let mut all = BTreeMap::new();
    for partition in bench.inbox.partitions.iter() {
        for (inbox, session) in &partition.lock().sessions {
            let entry = |(sequence, item, is_received): (u64, crate::queue::Item, bool)| {
                let payload = String::from_utf8(item.message.payload.to_vec()).unwrap();
                let group = item.origin.map(|origin| (origin.name.to_string(), origin.is_ordered));
                let message = KnownMessage {
                    payload,
                    retain: item.retain,
                    subscription_id: item.subscription_id,
                    deadline: item.message.deadline,
                    group,
                };
                KnownEntry {
                    sequence,
                    qos: item.qos,
                    is_received,
                    message: (!is_received).then_some(message),
                }
            };
            let known = Known {
                inbox: inbox.0,
                version: session.version,
                expiry_s: session.expiry_s,
                subscriptions: session.subscriptions().to_vec(),
                inbound: session.inbound().to_vec(),
                entries: session.queue.contents().into_iter().map(entry).collect(),
                next: session.queue.sequences().end,
            };
            all.insert(session.identity.to_string(), known);
        }
    }
    all
}

/// A node with its history, beside what the clients know.
struct Run {
    bench: Bench,
    keyspace: Arc<HeldKeyspace>,
    claims: [Option<Claim>; 3],
    cursors: [u64; 3],
    /// The wills that are to be published if the node dies now.
    wills: [Option<String>; 3],
    /// Wills that are due.
    due: BTreeSet<String>,
    count: u64,
    /// What is to be settled, by ticket.
    appended: BTreeMap<u64, String>,
}

impl Run {
    fn new() -> Self {
        let keyspace = HeldKeyspace::new(coprocessor());
        let mut bench = bench_in(&keyspace, epoch(), T0);
        bench.limits.messages_max = 8;
        Run {
            bench,
            keyspace,
            claims: [None; 3],
            cursors: [0; 3],
            wills: [None, None, None],
            due: BTreeSet::new(),
            count: 0,
            appended: BTreeMap::new(),
        }
    }

    fn attach(&mut self, client: usize, is_clean: bool, has_will: bool) {
        self.count += 1;
        let text = format!("w{}", self.count);
        let will = Arc::new(message(&text, Qos::AtMostOnce).to_stored());
        let attach = Attach {
            identity: &identity(CLIENTS[client]),
            owner: owner(u32::try_from(client).unwrap()),
            is_clean,
            expiry_s: Some(1_000),
            limits: self.bench.limits,
            will: has_will.then_some((will, 500)),
            now: T0,
        };
        self.claims[client] = Some(self.bench.inbox.attach_owner(&attach, None).answer.claim);
        self.wills[client] = has_will.then_some(text);
        self.cursors[client] = 0;
    }

    fn detach(&mut self, client: usize, is_end: bool, has_will: bool) {
        let Some(claim) = self.claims[client].take() else { return };
        self.count += 1;
        let text = format!("w{}", self.count);
        let will = Arc::new(message(&text, Qos::AtMostOnce).to_stored());
        let detach = Detach {
            expiry_s: is_end.then_some(0),
            will: has_will.then_some((will, 500)),
            now: T0,
        };
        assert!(self.bench.inbox.detach(claim, detach, None).is_ok());
        self.wills[client] = None;
        match (has_will, is_end) {
            (true, true) => drop(self.due.insert(text)),
            (true, false) => self.wills[client] = Some(text),
            (false, _) => {}
        }
    }

    fn append(&mut self, qos: u8, is_brief: bool, exchange: Option<(usize, u16)>) {
        self.count += 1;
        let (text, ticket) = (self.count.to_string(), Ticket(self.count));
        let routes: Vec<_> = self.bench.routes.inboxes.lock().iter().map(|held| held.1).collect();
        let exchange = exchange.and_then(|(client, packet_id)| {
            Some((self.claims[client]?, PacketId::new(packet_id)?))
        });
        let qos = if exchange.is_some() { 2 } else { qos };
        let message = Message {
            retain: is_brief,
            accepted: if is_brief { T0 } else { seconds(30) },
            deadline: is_brief.then_some(seconds(20)),
            ..message(&text, Qos::try_from(qos).unwrap())
        };
        let targets = Targets { tenant: &tenant(), routes: &routes, shared: &[] };
        let reply_to = Some(ReplyTo { session: owner(9), ticket });
        let mut direct = Vec::new();
        let call = self.bench.inbox.append(targets, &message, exchange, reply_to, &mut direct);
        if call == Call::Pending {
            self.appended.insert(ticket.0, text);
        }
    }

    fn append_shared(&mut self, group: prop::sample::Index, member: prop::sample::Index) {
        let groups = self.bench.routes.groups.lock().clone();
        if groups.is_empty() {
            return;
        }
        let group = group.get(&groups);
        let member = member.get(&group.members);
        let MemberTarget::Inbox(inbox) = member.target else { return };
        let route = InboxRoute {
            inbox,
            incarnation: member.incarnation,
            options: member.options,
            subscription_id: member.subscription_id,
        };
        self.count += 1;
        let text = format!("s{}", self.count);
        let shared = SharedRoute { route, group: Arc::clone(group) };
        self.bench.append_shared(shared, &message(&text, Qos::ExactlyOnce));
    }

    /// A sequence that was handed out.
    fn sent(&self, client: usize, entry: prop::sample::Index) -> Option<(Claim, Sequence)> {
        let claim = self.claims[client]?;
        let known = sessions(&self.bench);
        let entries = &known.get(&format!("t/{}", CLIENTS[client]))?.entries;
        let sent: Vec<_> =
            entries.iter().filter(|entry| entry.sequence <= self.cursors[client]).collect();
        let at = (!sent.is_empty()).then(|| entry.index(sent.len()))?;
        Some((claim, Sequence(sent[at].sequence)))
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Attach { client, is_clean, has_will } => self.attach(client, is_clean, has_will),
            Step::Detach { client, is_end, has_will } => self.detach(client, is_end, has_will),
            Step::Discard(client) => {
                let _ = self.bench.inbox.discard_session(&identity(CLIENTS[client]), T0, None);
                (self.claims[client], self.wills[client]) = (None, None);
            }
            Step::Subscribe { client, filter, qos } => {
                let Some(claim) = self.claims[client] else { return };
                let qos_max = Qos::try_from(qos).unwrap();
                let retain_as_published = qos == 1;
                let options = SubscriptionOptions {
                    retain_as_published,
                    ..SubscriptionOptions::new(qos_max)
                };
                let subscription_id = (qos == 2).then_some(7);
                let filter = FILTERS[filter].into();
                let subscription = Subscription { filter, options, subscription_id };
                let _ = self.bench.inbox.put_subscription(claim, &subscription, None);
            }
            Step::Unsubscribe { client, filter } => {
                let Some(claim) = self.claims[client] else { return };
                assert!(self.bench.inbox.unsubscribe(claim, FILTERS[filter], None).is_ok());
            }
            Step::Append { qos, is_brief, exchange } => self.append(qos, is_brief, exchange),
            Step::AppendShared { group, member } => self.append_shared(group, member),
            Step::Fetch { client, count, is_late } => {
                let Some(claim) = self.claims[client] else { return };
                let now = if is_late { seconds(25) } else { T0 };
                let budget = FetchBudget { messages_max: count, now, ..BUDGET };
                let entries = self.bench.fetch(claim, Sequence(self.cursors[client]), budget);
                let last = entries.iter().map(|entry| entry.sequence.0).max();
                self.cursors[client] = self.cursors[client].max(last.unwrap_or(0));
            }
            Step::Commit { client, entry } => {
                let Some((claim, sequence)) = self.sent(client, entry) else { return };
                self.bench.inbox.commit(claim, sequence).unwrap();
            }
            Step::Receive { client, entry } => {
                let Some((claim, sequence)) = self.sent(client, entry) else { return };
                assert!(self.bench.inbox.received(claim, sequence, None).is_ok());
            }
            Step::Inbound { client, packet_id, is_released } => {
                let Some(claim) = self.claims[client] else { return };
                let packet_id = PacketId::new(packet_id).unwrap();
                assert!(self.bench.inbox.inbound(claim, packet_id, is_released, None).is_ok());
            }
            Step::Settle(count) => self.keyspace.settle_some(count),
        }
    }

    fn expected_wills(&self) -> BTreeSet<String> {
        self.wills.iter().flatten().chain(&self.due).cloned().collect()
    }
}

fn all_wills(bench: &Bench) -> BTreeSet<String> {
    bench.expire(seconds(100_000)).into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// MQTT-043, DUR-002: sessions, subscriptions, queues, packet identifiers and wills, from the log
    /// or from the data alone; and the same log makes the same data.
    #[test]
    fn what_comes_back_is_what_lived(steps in prop::collection::vec(step(), 1..120)) {
        let mut run = Run::new();
        for step in &steps {
            run.apply(step);
            run.bench.inbox.check_invariants();
        }
        run.keyspace.settle();
        let lived = sessions(&run.bench);
        let crashed = run.keyspace.crash(coprocessor());
        prop_assert_eq!(crashed.content(), run.keyspace.content(), "the same log, the same data");
        let reopened = run.keyspace.reopen(coprocessor());
        for keyspace in [crashed, reopened] {
            let bench = bench_in(&keyspace, epoch(), T0);
            prop_assert_eq!(sessions(&bench), lived.clone());
            prop_assert_eq!(bench.routes.inboxes.lock().len(), run.bench.routes.inboxes.lock().len());
            bench.check_conservation();
            keyspace.settle();
            prop_assert_eq!(all_wills(&bench), run.expected_wills());
            // Everything has ended with its time: wills that nobody confirmed are left, and marks.
            bench.check_conservation();
            keyspace.settle();
            for (key, _) in keyspace.content() {
                let place = Key::parse(&key).unwrap().place;
                prop_assert!(matches!(place, Place::Mark | Place::Will), "{place:?} is left");
            }
        }
    }

    /// DUR-002, DUR-003, INBOX-007: wherever the node stops, what comes back is what was decided up
    /// to the last command that is durable; nothing that survives changes without a command.
    #[test]
    fn a_crash_at_any_point_leaves_what_was_durable(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut run = Run::new();
        let mut decided = BTreeMap::from([(0, sessions(&run.bench))]);
        for step in &steps {
            run.apply(step);
            let submitted = run.keyspace.log().len() + run.keyspace.waiting();
            let now = sessions(&run.bench);
            let before = decided.insert(submitted, now.clone());
            prop_assert!(before.is_none_or(|before| before == now), "{step:?} is in the log");
        }
        let mut settled = BTreeSet::new();
        loop {
            let told = run.bench.sessions.take_settled();
            settled.extend(told.iter().map(|(ticket, _)| run.appended[ticket].clone()));
            let keyspace = run.keyspace.crash(coprocessor());
            let left = sessions(&bench_in(&keyspace, epoch(), T0));
            if let Some(decided) = decided.get(&run.keyspace.log().len()) {
                prop_assert_eq!(&left, decided);
            }
            if run.keyspace.waiting() == 0 {
                break;
            }
            run.keyspace.settle_some(1);
        }
        prop_assert_eq!(settled, run.appended.into_values().collect(), "each once it is durable");
    }
}

/// One of many who use the service at once: the same calls as in [`Step`], by a plain sequence of
/// numbers.
fn use_at_random(bench: &Bench, mut state: u64) {
    let mut next = |below: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) % below
    };
    let pick = |number: u64| usize::try_from(number).unwrap();
    let mut claims: [Option<Claim>; 3] = [None; 3];
    for round in 0..400 {
        let client = pick(next(3));
        let Some(claim) = claims[client] else {
            claims[client] = Some(bench.attach(CLIENTS[client], T0).claim);
            continue;
        };
        // Somebody else may have taken the session over meanwhile.
        let is_held = match next(12) {
            0 => bench
                .inbox
                .detach(claim, Detach { expiry_s: None, will: None, now: T0 }, None)
                .is_ok(),
            1 if round % 8 == 0 => {
                let _ = bench.inbox.discard_session(&identity(CLIENTS[client]), T0, None);
                false
            }
            1..4 => {
                let filter = FILTERS[pick(next(4))].into();
                let options = SubscriptionOptions::new(Qos::ExactlyOnce);
                let subscription = Subscription { filter, options, subscription_id: None };
                let _ = bench.inbox.put_subscription(claim, &subscription, None);
                true
            }
            4..6 => {
                bench.append(&round.to_string(), Qos::ExactlyOnce);
                true
            }
            6..8 => {
                let groups = bench.routes.groups.lock().clone();
                let Some(group) = groups.first() else { continue };
                let member = &group.members[pick(next(group.members.len() as u64))];
                let MemberTarget::Inbox(inbox) = member.target else { continue };
                let route = InboxRoute {
                    inbox,
                    incarnation: member.incarnation,
                    options: member.options,
                    subscription_id: None,
                };
                let shared = SharedRoute { route, group: Arc::clone(group) };
                bench.append_shared(shared, &message("shared", Qos::AtLeastOnce));
                true
            }
            _ => {
                let mut entries = Vec::new();
                let fetched = bench.inbox.fetch(claim, Sequence(0), BUDGET, &mut entries);
                let taken = entries.get(pick(next(4))).map(|entry| entry.sequence);
                let is_held = taken.is_none_or(|taken| bench.inbox.commit(claim, taken).is_ok());
                fetched.is_ok() && is_held
            }
        };
        if !is_held {
            claims[client] = None;
        }
    }
}

/// DUR-002: whatever is done at once, the log has it in the order in which it was decided.
#[test]
fn what_many_do_at_once_comes_back_as_it_was_decided() {
    let keyspace = HeldKeyspace::new(coprocessor());
    let bench = bench_in(&keyspace, epoch(), T0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..5)
            .map(|seed| {
                let bench = &bench;
                scope.spawn(move || use_at_random(bench, seed))
            })
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            keyspace.settle_some(7);
        }
    });
    keyspace.settle();
    bench.inbox.check_invariants();
    bench.check_conservation();
    let after = bench_in(&keyspace.crash(coprocessor()), epoch(), T0);
    assert_eq!(sessions(&after), sessions(&bench));
    assert_eq!(after.routes.inboxes.lock().len(), bench.routes.inboxes.lock().len());
}
