//! The sessions of other hosts, as this inbox has them: a proxy for each, which is its owner here.
//!
//! A proxy belongs to a host, not to a stream: a stream may break. It goes when its session is left, has
//! another owner, or its host is over.
//!
//! Locks: that of the desk is never held while the inbox is called, because the inbox calls back.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use ratatosk_clock::Instant;
use ratatosk_contract::inbox::{Claim, InboxId, Sequence};
use ratatosk_contract::{SessionRef, ShardId};
use ratatosk_rpc::HostId;

use crate::ask::Credit;
use crate::link::Link;

/// The shard number of proxies. No data plane has it.
pub(crate) const PROXY_SHARD: ShardId = ShardId(u8::MAX);

const _: () = assert!(
    crate::link::LINK_SHARD.0 as usize >= ShardId::COUNT_MAX,
    "neither is one of a data plane"
);

/// See the module.
#[derive(Default)]
pub(crate) struct Desk {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_inbox: HashMap<InboxId, u32>,
    /// By the numbers of their references.
    links: HashMap<u32, Arc<Link>>,
    /// The stream of a host whose turn it is.
    turns: HashMap<HostId, u32>,
    last_link: u32,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    proxy: Option<Proxy>,
}

/// A session of another host.
pub(crate) struct Proxy {
    host: HostId,
    link: u32,
    /// `None` while it attaches.
    claim: Option<Claim>,
    /// What was handed out.
    after: Sequence,
    credit: Credit,
}

/// What may be handed to a session now.
#[derive(Clone)]
pub(crate) struct Due {
    pub(crate) claim: Claim,
    pub(crate) after: Sequence,
    pub(crate) credit: Credit,
}

/// A session's proxy that is gone, and whoever was to be told of it.
pub(crate) struct Gone {
    pub(crate) claim: Claim,
    pub(crate) link: Option<Arc<Link>>,
}

impl Desk {
    /// A host has opened a stream: what it opened before has no more turn.
    pub(crate) fn open(&self, host: HostId, make: impl FnOnce(u32) -> Link) -> Arc<Link> {
        let mut state = self.state.lock();
        state.last_link = state.last_link.wrapping_add(1);
        let number = state.last_link;
        let link = Arc::new(make(number));
        state.links.insert(number, Arc::clone(&link));
        if let Some(before) = state.turns.insert(host, number) {
            state.links.remove(&before);
        }
        link
    }

    /// A stream has ended.
    pub(crate) fn close(&self, link: &Link) {
        let mut state = self.state.lock();
        let number = link.number();
        state.links.remove(&number);
        if state.turns.get(&link.host) == Some(&number) {
            state.turns.remove(&link.host);
        }
    }

    /// Whether it is a stream's turn.
    pub(crate) fn has_turn(&self, link: &Link) -> bool {
        self.state.lock().turns.get(&link.host) == Some(&link.number())
    }

    /// The stream that a reference names.
    pub(crate) fn link(&self, reference: SessionRef) -> Option<Arc<Link>> {
        self.state.lock().links.get(&reference.slot).cloned()
    }

    /// A proxy for a session that is about to be taken over.
    pub(crate) fn begin(&self, link: &Link) -> SessionRef {
        let mut state = self.state.lock();
        let slot = state.free.pop().unwrap_or_else(|| {
            state.slots.push(Slot::default());
            u32::try_from(state.slots.len() - 1).expect("fewer than four billion sessions")
        });
        let place = &mut state.slots[slot as usize];
        place.proxy = Some(Proxy {
            host: link.host,
            link: link.number(),
            claim: None,
            after: Sequence(0),
            credit: Credit::default(),
        });
        SessionRef { shard: PROXY_SHARD, slot, generation: place.generation }
    }

    /// The session is the proxy's. Whoever had it before at this desk has not any more.
    pub(crate) fn own(&self, proxy: SessionRef, claim: Claim, after: Sequence) -> Option<Gone> {
        let mut state = self.state.lock();
        let held = state.proxy(proxy)?;
        held.claim = Some(claim);
        held.after = after;
        let before = state.by_inbox.insert(claim.inbox, proxy.slot);
        state.remove(before.filter(|before| *before != proxy.slot)?)
    }

    /// It is nobody's.
    pub(crate) fn give_up(&self, proxy: SessionRef) {
        let mut state = self.state.lock();
        if state.proxy(proxy).is_some() {
            state.remove(proxy.slot);
        }
    }

    /// The proxy with a claim goes on by another stream; `None` if there is none.
    pub(crate) fn resume(&self, claim: Claim, link: &Link, handed: Sequence) -> Option<SessionRef> {
        let mut state = self.state.lock();
        let slot = *state.by_inbox.get(&claim.inbox)?;
        let place = &mut state.slots[slot as usize];
        let generation = place.generation;
        let proxy = place.proxy.as_mut().filter(|proxy| proxy.claim == Some(claim))?;
        (proxy.host, proxy.link) = (link.host, link.number());
        (proxy.after, proxy.credit) = (handed, Credit::default());
        Some(SessionRef { shard: PROXY_SHARD, slot, generation })
    }

    /// The session of a claim is left, or has another owner.
    pub(crate) fn leave(&self, claim: Claim) -> Option<Gone> {
        let mut state = self.state.lock();
        let slot = state.slot_of(claim)?;
        state.remove(slot)
    }

    /// More may be handed to a session; answers what.
    pub(crate) fn credit(&self, claim: Claim, more: Credit) -> Option<Due> {
        let mut state = self.state.lock();
        let slot = state.slot_of(claim)?;
        let proxy = state.slots[slot as usize].proxy.as_mut()?;
        let credit = &mut proxy.credit;
        credit.messages = credit.messages.saturating_add(more.messages);
        credit.bytes = credit.bytes.saturating_add(more.bytes);
        proxy.due()
    }

    /// What may be handed to the session of a slot by a stream.
    pub(crate) fn due(&self, slot: u32, link: &Link) -> Option<Due> {
        let state = self.state.lock();
        let proxy = state.slots.get(slot as usize)?.proxy.as_ref()?;
        if proxy.link == link.number() { proxy.due() } else { None }
    }

    /// So much was handed to a session by a stream; answers what more may be, or false if it is not the
    /// stream's any more: then it was not handed over.
    pub(crate) fn hand(
        &self,
        link: &Link,
        claim: Claim,
        through: Sequence,
        used: Credit,
    ) -> Result<Option<Due>, NotYours> {
        let mut state = self.state.lock();
        let slot = state.slot_of(claim).ok_or(NotYours)?;
        let proxy = state.slots[slot as usize].proxy.as_mut().ok_or(NotYours)?;
        if proxy.link != link.number() {
            return Err(NotYours);
        }
        proxy.after = proxy.after.max(through);
        proxy.credit.messages = proxy.credit.messages.saturating_sub(used.messages);
        proxy.credit.bytes = proxy.credit.bytes.saturating_sub(used.bytes);
        Ok(proxy.due())
    }

    /// The stream of a proxy, and its claim.
    pub(crate) fn find(&self, proxy: SessionRef) -> Option<(Arc<Link>, Claim)> {
        let mut state = self.state.lock();
        let held = state.proxy(proxy)?;
        let (link, claim) = (held.link, held.claim?);
        Some((Arc::clone(state.links.get(&link)?), claim))
    }

    /// The inbox of a proxy has more.
    pub(crate) fn stir(&self, proxy: SessionRef) {
        let mut state = self.state.lock();
        let Some(held) = state.proxy(proxy) else { return };
        let link = held.link;
        if let Some(link) = state.links.get(&link).cloned() {
            drop(state);
            link.stir(proxy.slot);
        }
    }

    /// The sessions of hosts of which `is_over` holds: they are nobody's from now on.
    pub(crate) fn bury(&self, is_over: impl Fn(HostId) -> bool) -> Vec<Claim> {
        let mut state = self.state.lock();
        let over = |slot: &u32| {
            let proxy = state.slots[*slot as usize].proxy.as_ref();
            proxy.is_some_and(|proxy| proxy.claim.is_some() && is_over(proxy.host))
        };
        let slots: Vec<u32> = state.by_inbox.values().copied().filter(over).collect();
        slots.into_iter().filter_map(|slot| state.remove(slot)).map(|gone| gone.claim).collect()
    }

    /// The sessions that their hosts do not know of: they opened a stream long ago, and did not go on with
    /// them. They are nobody's from now on.
    pub(crate) fn forget_unclaimed(&self, is_long_ago: impl Fn(Instant) -> bool) -> Vec<Claim> {
        let mut state = self.state.lock();
        let is_unclaimed = |slot: &u32| {
            let proxy = state.slots[*slot as usize].proxy.as_ref()?;
            let turn = state.turns.get(&proxy.host).filter(|turn| **turn != proxy.link)?;
            Some(is_long_ago(state.links.get(turn)?.since))
        };
        let all = state.by_inbox.values().copied();
        let slots: Vec<u32> = all.filter(|slot| is_unclaimed(slot) == Some(true)).collect();
        slots.into_iter().filter_map(|slot| state.remove(slot)).map(|gone| gone.claim).collect()
    }

    /// How many sessions there are.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().by_inbox.len()
    }
}

/// Another stream has the session by now, or nobody.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotYours;

impl Proxy {
    fn due(&self) -> Option<Due> {
        let (claim, after, credit) = (self.claim?, self.after, self.credit);
        (credit.messages > 0 && credit.bytes > 0).then_some(Due { claim, after, credit })
    }
}

impl State {
    fn proxy(&mut self, reference: SessionRef) -> Option<&mut Proxy> {
        let place = self.slots.get_mut(reference.slot as usize)?;
        if place.generation == reference.generation { place.proxy.as_mut() } else { None }
    }

    fn slot_of(&self, claim: Claim) -> Option<u32> {
        let slot = *self.by_inbox.get(&claim.inbox)?;
        let proxy = self.slots[slot as usize].proxy.as_ref()?;
        (proxy.claim == Some(claim)).then_some(slot)
    }

    fn remove(&mut self, slot: u32) -> Option<Gone> {
        let place = &mut self.slots[slot as usize];
        let proxy = place.proxy.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(slot);
        let claim = proxy.claim?;
        if self.by_inbox.get(&claim.inbox) == Some(&slot) {
            self.by_inbox.remove(&claim.inbox);
        }
        Some(Gone { claim, link: self.links.get(&proxy.link).cloned() })
    }
}
