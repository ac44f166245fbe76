//! What connections do with persistent sessions, and whether they are answered as promised.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::inbox::{
    Attach, Attached, Claim, Detach, Inbox as _, QueueLimits, SubscribeOutcome, Subscription,
};
use ratatosk_contract::{
    ClientId, Message, PublisherId, SessionIdentity, SessionRef, ShardId, StoredMessage, TenantId,
};

use crate::ledger::{CLIENTS, FILTERS, Ledger, Session, Will};
use crate::node::{TENANT, at_once};
use crate::planted::Planted;
use crate::simulation::{Checked, Simulation};

/// So wide that no queue meets them: what is dropped for a limit is not what is looked for here.
pub(crate) const LIMITS: QueueLimits = QueueLimits {
    messages_max: 100_000,
    filters_max: 100,
    members_max: 100,
    qos0_drop_oldest: false,
    qos0_when_offline: false,
};

/// A connection of a client.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) claim: Claim,
    /// Up to which sequence it has fetched.
    pub(crate) cursor: u64,
    /// What it has and did not confirm, with the QoS.
    pub(crate) taken: BTreeMap<u64, u8>,
    /// The planted fault: a will that is not kept yet, and at which step it is.
    late: Option<(String, u32, u32)>,
}

/// Who a client is.
pub(crate) fn identity(client: &str) -> SessionIdentity {
    SessionIdentity { tenant: TenantId::new(TENANT), user: None, client: ClientId::new(client) }
}

impl Simulation {
    /// A client connects, perhaps while an older connection of it is there.
    pub(crate) fn attach(&mut self) -> Checked {
        let client = self.dice.below(CLIENTS.len());
        let is_clean = self.dice.once_in(12);
        let expiry_s = [None, Some(6), Some(60), Some(3_600)][self.dice.below(4)];
        let delay_s = [0, 2, 20][self.dice.below(3)];
        let text = self.dice.once_in(2).then(|| format!("w{}", self.fresh()));
        let (ticket, reply_to) = self.ticket();
        let Some(node) = &self.node else { return Ok(()) };
        let is_late = self.plan.planted == Some(Planted::WillLate);
        let will = text.as_ref().filter(|_| !is_late);
        let owner = SessionRef { shard: ShardId(0), slot: 0, generation: 0 };
        let attach = Attach {
            identity: &identity(CLIENTS[client]),
            owner,
            is_clean,
            expiry_s,
            limits: LIMITS,
            will: will.map(|text| (will_message(text), delay_s)),
            now: node.now(),
        };
        let attached = at_once(node.inbox.attach(&attach, reply_to))?.answer;
        let name = CLIENTS[client];
        self.trace.note(&format!(
            "attach {name} clean {is_clean} expiry {expiry_s:?} will {text:?}/{delay_s} {ticket}: {:?}",
            attached.claim
        ));
        let mut ledger = self.ledgers.now().clone();
        self.note_attached(&mut ledger, client, is_clean, expiry_s, &attached)?;
        let inbox = Some(attached.claim.inbox.0);
        if let Some(text) = text.clone() {
            ledger.wills.insert(text, Will::held(inbox, delay_s));
        }
        self.decide(ledger, Some(ticket));
        let late = text.filter(|_| is_late).map(|text| (text, delay_s, self.trace.step + 5));
        self.links[client] =
            Some(Link { claim: attached.claim, cursor: 0, taken: BTreeMap::new(), late });
        Ok(())
    }

    fn note_attached(
        &mut self,
        ledger: &mut Ledger,
        client: usize,
        is_clean: bool,
        expiry_s: Option<u32>,
        attached: &Attached,
    ) -> Checked {
        let now_ms = self.clock.millis();
        let is_to_end = |session: &Rc<Session>| is_clean || session.is_over(now_ms);
        if ledger.sessions.get(&client).is_some_and(is_to_end) {
            ledger.replace(client, now_ms);
        }
        ledger.cancel(client, now_ms);
        let claim = attached.claim;
        let Some(session) = ledger.session(client) else {
            let made = self.ledgers.last() + 1;
            if attached.is_present || self.inboxes.insert(claim.inbox.0, made).is_some() {
                return Err(format!("{claim:?} is to be new"));
            }
            let session = Session::new(claim.inbox.0, expiry_s);
            ledger.sessions.insert(client, Rc::new(session));
            return Ok(());
        };
        session.version += 1;
        (session.expiry_s, session.detached_ms) = (expiry_s, None);
        let inbound: Vec<u16> = attached.inbound.iter().map(|id| id.value()).collect();
        let is_it = attached.is_present
            && (claim.inbox.0, claim.version) == (session.inbox, session.version)
            && inbound.iter().eq(&session.inbound)
            && attached.subscriptions.len() == session.subscriptions.len();
        if is_it { Ok(()) } else { Err(format!("{attached:?} is to be {session:?}")) }
    }

    /// The planted fault: wills that were acknowledged are kept now.
    pub(crate) fn keep_late_wills(&mut self) {
        let Some(node) = &self.node else { return };
        for (client, link) in (0..).zip(&mut self.links) {
            let Some(link) = link else { continue };
            let step = self.trace.step;
            if let Some((text, delay_s, _)) = link.late.take_if(|late| late.2 <= step) {
                let owner = SessionRef { shard: ShardId(0), slot: 0, generation: 0 };
                let identity = identity(CLIENTS[client]);
                let message = will_message(&text);
                let _ = node.inbox.keep_will(&identity, owner, &message, delay_s, None);
            }
        }
    }

    /// A connection ends: with the session or not, with its will or not.
    pub(crate) fn detach(&mut self) -> Checked {
        let Some((client, link)) = self.any_link() else { return Ok(()) };
        let claim = link.claim;
        let expiry_s = [None, None, Some(0), Some(10)][self.dice.below(4)];
        let delay_s = [0, 2, 20][self.dice.below(3)];
        let held = self.ledgers.now().held_will(client);
        let text =
            self.dice.once_in(2).then(|| held.unwrap_or_else(|| format!("w{}", self.fresh())));
        let (ticket, reply_to) = self.ticket();
        let Some(node) = &self.node else { return Ok(()) };
        let will = text.as_ref().map(|text| (will_message(text), delay_s));
        let detach = Detach { expiry_s, will, now: node.now() };
        if node.inbox.detach(claim, detach, reply_to).is_err() {
            return Err(format!("{claim:?} is stale at its end"));
        }
        let name = CLIENTS[client];
        self.trace
            .note(&format!("detach {name} expiry {expiry_s:?} will {text:?}/{delay_s} {ticket}"));
        self.links[client] = None;
        let now_ms = self.clock.millis();
        let mut ledger = self.ledgers.now().clone();
        if let Some(held) = ledger.held_will(client) {
            ledger.wills.remove(&held);
        }
        let Some(session) = ledger.session(client) else {
            return Err(format!("{name} has no session to leave"));
        };
        session.expiry_s = expiry_s.or(session.expiry_s);
        session.detached_ms = Some(now_ms);
        let (inbox, due_ms) = (Some(session.inbox), Some(now_ms + session.wait_ms(delay_s)));
        if session.expiry_s == Some(0) {
            ledger.sessions.remove(&client);
        }
        if let Some(text) = text {
            let stored_due_ms = due_ms;
            ledger.wills.insert(text, Will { stored_due_ms, due_ms, ..Will::held(inbox, delay_s) });
        }
        self.decide(ledger, Some(ticket));
        Ok(())
    }

    /// A client starts clean, with a transient session.
    pub(crate) fn discard(&mut self) -> Checked {
        let client = self.dice.below(CLIENTS.len());
        let (ticket, reply_to) = self.ticket();
        let Some(node) = &self.node else { return Ok(()) };
        let discarded = node.inbox.discard(&identity(CLIENTS[client]), node.now(), reply_to);
        let promised = at_once(discarded)?;
        self.trace.note(&format!("discard {} {ticket}: {promised:?}", CLIENTS[client]));
        self.links[client] = None;
        let mut ledger = self.ledgers.now().clone();
        if promised.answer != ledger.sessions.contains_key(&client) {
            return Err(format!("{promised:?} of {}", CLIENTS[client]));
        }
        if promised.is_durable {
            let is_gone = self.ledgers.vouch(|ledger| !ledger.sessions.contains_key(&client));
            return match is_gone {
                true => Ok(()),
                false => Err(format!("{} is called gone", CLIENTS[client])),
            };
        }
        ledger.replace(client, self.clock.millis());
        self.decide(ledger, Some(ticket));
        Ok(())
    }

    /// A client subscribes.
    pub(crate) fn subscribe(&mut self) -> Checked {
        let Some((client, link)) = self.any_link() else { return Ok(()) };
        let claim = link.claim;
        let (filter, level) = (self.dice.below(FILTERS.len()), 1 + self.dice.below(2));
        let qos = if level == 1 { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
        let (ticket, reply_to) = self.ticket();
        let Some(node) = &self.node else { return Ok(()) };
        let subscription = Subscription {
            filter: FILTERS[filter].into(),
            options: SubscriptionOptions::new(qos),
            // Tells the routes of one session apart.
            subscription_id: u32::try_from(filter + 1).ok(),
        };
        let subscribed = node.inbox.subscribe(claim, &subscription, reply_to);
        let outcome = subscribed.ready().ok_or("it answers later")?.answer;
        let (name, text) = (CLIENTS[client], FILTERS[filter]);
        self.trace.note(&format!("subscribe {name} {text} {qos:?} {ticket}: {outcome:?}"));
        match outcome {
            SubscribeOutcome::Done { .. } => {}
            SubscribeOutcome::Busy => return Ok(()),
            other => return Err(format!("a subscription of {name}: {other:?}")),
        }
        self.change(client, ticket, |session| {
            session.subscriptions.insert(filter, qos as u8);
        });
        Ok(())
    }

    /// A client unsubscribes, from what it has or not.
    pub(crate) fn unsubscribe(&mut self) -> Checked {
        let Some((client, link)) = self.any_link() else { return Ok(()) };
        let claim = link.claim;
        let filter = self.dice.below(FILTERS.len());
        let (ticket, reply_to) = self.ticket();
        let Some(node) = &self.node else { return Ok(()) };
        let Ok(promised) = node.inbox.unsubscribe(claim, FILTERS[filter], reply_to) else {
            return Err(format!("{claim:?} is stale at an UNSUBSCRIBE"));
        };
        let (name, text) = (CLIENTS[client], FILTERS[filter]);
        self.trace.note(&format!("unsubscribe {name} {text} {ticket}: {}", promised.answer));
        self.change(client, ticket, |session| {
            session.subscriptions.remove(&filter);
        });
        Ok(())
    }

    /// A connection that is there.
    pub(crate) fn any_link(&mut self) -> Option<(usize, &mut Link)> {
        let linked = (0..CLIENTS.len()).filter(|client| self.links[*client].is_some());
        let linked: Vec<_> = linked.collect();
        let client = *self.dice.pick(&linked)?;
        Some((client, self.links[client].as_mut()?))
    }

    /// Notes a change of a session that is told under a ticket.
    pub(crate) fn change(&mut self, client: usize, ticket: u64, change: impl FnOnce(&mut Session)) {
        let mut ledger = self.ledgers.now().clone();
        if let Some(session) = ledger.session(client) {
            change(session);
        }
        self.decide(ledger, Some(ticket));
    }
}

impl Session {
    fn new(inbox: u64, expiry_s: Option<u32>) -> Self {
        Session {
            inbox,
            version: 1,
            expiry_s,
            detached_ms: None,
            subscriptions: BTreeMap::new(),
            inbound: std::collections::BTreeSet::new(),
            queue: BTreeMap::new(),
            next: 1,
        }
    }
}

impl Will {
    /// One of a connection that is there.
    pub(crate) fn held(inbox: Option<u64>, delay_s: u32) -> Self {
        Will { inbox, delay_s, stored_due_ms: None, due_ms: None, id: None, is_handed_out: false }
    }
}

/// A will with a payload that no other has.
pub(crate) fn will_message(text: &str) -> Arc<StoredMessage> {
    let message = Message {
        topic: "w",
        payload: text.as_bytes(),
        shared: None,
        properties: &[],
        qos: Qos::AtLeastOnce,
        retain: false,
        publisher: PublisherId(1),
        accepted: ratatosk_clock::Instant::ZERO,
        deadline: None,
    };
    Arc::new(message.to_stored())
}
