//! What the inbox of a host tells the host that has the connections, as bytes.
//!
//! Words are made as those of `ask.rs` are; kinds that are not known are passed over. The bytes are in
//! `docs/formats/inbox-calls.md`.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_codec::{PacketId, Qos, SubscriptionOptions};
use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{Claim, Entry, Sequence, Subscription, WillId};
use ratatosk_contract::serving::Choice;
use ratatosk_contract::{StoredMessage, TenantId};
use ratatosk_engine::wire::{Malformed, Parser, put_u64};

use crate::ask::{CallId, put_word, take_count, take_word};
use crate::message;
use crate::parts::{
    put_choices, put_claim, put_flag, put_numbers, put_options, put_packet_id, put_some,
    put_subscription, put_text, take_choices, take_claim, take_flag, take_numbers, take_options,
    take_packet_id, take_some, take_subscription,
};

/// A word of whoever serves the sessions. What answers a question is durable.
#[derive(Clone, Debug)]
pub(crate) enum Tell {
    /// `None`: nobody serves the session here.
    Attached {
        call: CallId,
        attached: Option<Box<Taken>>,
    },
    /// Whether there was a session; `None` as above.
    Discarded {
        call: CallId,
        existed: Option<bool>,
    },
    Subscribed {
        call: CallId,
        outcome: Outcome,
    },
    /// Some of a message's sessions are not served here, or it is to be begun before; nobody has it.
    NotServed {
        call: CallId,
        /// The session that it comes from began something under its identifier, or its sessions are of
        /// several ranges.
        is_to_begin: bool,
    },
    /// The session that a message of an exchange comes from has another owner; nobody has it.
    NotTaken {
        call: CallId,
    },
    Settled {
        call: CallId,
        settlement: Settlement,
    },
    /// A message is begun.
    Begun {
        call: CallId,
        said: Box<Said>,
    },
    WillKept {
        call: CallId,
        will: WillId,
    },
    Resumed {
        call: CallId,
        claim: Claim,
        end: Resumed,
    },
    Entries {
        claim: Claim,
        entries: Vec<Entry>,
    },
    /// A QoS 0 message for a session, past its queue.
    Direct {
        claim: Claim,
        direct: Box<Direct>,
    },
    /// A newer owner has the session, or it is gone.
    Stale {
        claim: Claim,
    },
}

/// What is said of a message that is begun; see `Begun` of the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// Its number, and the smallest that may come again.
    pub(crate) numbers: (u64, u64),
    pub(crate) choices: Vec<Choice>,
    pub(crate) others: u64,
}

/// A session as its new owner sees it; see `Attached` of the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) claim: Claim,
    pub(crate) incarnation: u64,
    pub(crate) is_present: bool,
    pub(crate) sent: Sequence,
    pub(crate) inbound: Vec<PacketId>,
    pub(crate) subscriptions: Vec<Subscription>,
}

/// What became of a subscription.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Existed,
    TooManyFilters,
    GroupFull,
    Busy,
    Stale,
}

/// What became of a session that is to go on here.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resumed {
    Done,
    NotServed,
    Stale,
}

#[derive(Clone, Debug)]
pub(crate) struct Direct {
    pub(crate) tenant: TenantId,
    pub(crate) options: SubscriptionOptions,
    pub(crate) subscription_id: Option<u32>,
    pub(crate) message: Arc<StoredMessage>,
}

const ATTACHED: u8 = 1;
const DISCARDED: u8 = 2;
const SUBSCRIBED: u8 = 3;
const SETTLED: u8 = 4;
const WILL_KEPT: u8 = 5;
const RESUMED: u8 = 6;
const ENTRIES: u8 = 7;
const DIRECT: u8 = 8;
const STALE: u8 = 9;
const NOT_SERVED: u8 = 10;
const NOT_TAKEN: u8 = 11;
const BEGUN: u8 = 12;

const RETAIN: u8 = 0b0000_0100;
const RECEIVED: u8 = 0b0000_1000;

impl Tell {
    /// Appends the word, as of `now`.
    pub(crate) fn put(&self, into: &mut Vec<u8>, now: Instant) {
        match self {
            Tell::Attached { call, attached } => put_word(into, ATTACHED, |into| {
                put_u64(into, call.0);
                put_flag(into, attached.is_some());
                if let Some(taken) = attached {
                    taken.put(into);
                }
            }),
            Tell::Discarded { call, existed } => put_word(into, DISCARDED, |into| {
                put_u64(into, call.0);
                into.push(existed.map_or(0, |existed| 1 + u8::from(existed)));
            }),
            Tell::Subscribed { call, outcome } => put_word(into, SUBSCRIBED, |into| {
                put_u64(into, call.0);
                into.push(*outcome as u8);
            }),
            Tell::NotServed { call, is_to_begin } => put_word(into, NOT_SERVED, |into| {
                put_u64(into, call.0);
                put_flag(into, *is_to_begin);
            }),
            Tell::NotTaken { call } => put_word(into, NOT_TAKEN, |into| put_u64(into, call.0)),
            Tell::Settled { call, settlement } => put_word(into, SETTLED, |into| {
                put_u64(into, call.0);
                into.push(match settlement {
                    Settlement::Done => 0,
                    Settlement::Busy => 1,
                    Settlement::QuotaExceeded => 2,
                    Settlement::Unknown => 3,
                });
            }),
            Tell::Begun { call, said } => put_word(into, BEGUN, |into| {
                put_u64(into, call.0);
                put_numbers(into, said.numbers);
                put_u64(into, said.others);
                put_choices(into, &said.choices);
            }),
            Tell::WillKept { call, will } => put_word(into, WILL_KEPT, |into| {
                put_u64(into, call.0);
                put_u64(into, will.0);
            }),
            Tell::Resumed { call, claim, end } => put_word(into, RESUMED, |into| {
                put_u64(into, call.0);
                put_claim(into, *claim);
                into.push(*end as u8);
            }),
            Tell::Entries { claim, entries } => put_word(into, ENTRIES, |into| {
                put_claim(into, *claim);
                put_u64(into, entries.len() as u64);
                entries.iter().for_each(|entry| put_entry(into, entry, now));
            }),
            Tell::Direct { claim, direct } => put_word(into, DIRECT, |into| {
                put_claim(into, *claim);
                put_text(into, direct.tenant.as_str());
                put_options(into, direct.options, direct.subscription_id);
                message::put(into, &direct.message.as_message(), now);
            }),
            Tell::Stale { claim } => put_word(into, STALE, |into| put_claim(into, *claim)),
        }
    }
}

/// The words in some bytes that came now; those that are not known are left out.
///
/// # Errors
/// [`Malformed`] if one is: then none is to be believed.
pub(crate) fn take_all(data: &Bytes, now: Instant) -> Result<Vec<Tell>, Malformed> {
    let (mut parser, mut all) = (Parser::new(data), Vec::new());
    while !parser.is_at_end() {
        let (kind, mut body) = take_word(&mut parser)?;
        all.extend(take(kind, &mut body, data, now)?);
    }
    Ok(all)
}

fn take(
    kind: u8,
    body: &mut Parser<'_>,
    data: &Bytes,
    now: Instant,
) -> Result<Option<Tell>, Malformed> {
    let call = |body: &mut Parser<'_>| body.take_u64().map(CallId);
    Ok(Some(match kind {
        ATTACHED => {
            let call = call(body)?;
            let is_there = take_flag(body)?;
            let attached = if is_there { Some(Box::new(Taken::take(body)?)) } else { None };
            Tell::Attached { call, attached }
        }
        DISCARDED => {
            let call = call(body)?;
            let existed = match body.take_u8()? {
                0 => None,
                1 => Some(false),
                2 => Some(true),
                _ => return Err(Malformed),
            };
            Tell::Discarded { call, existed }
        }
        SUBSCRIBED => Tell::Subscribed { call: call(body)?, outcome: take_outcome(body)? },
        NOT_SERVED => {
            let call = call(body)?;
            // An earlier version says no more.
            let is_to_begin = !body.is_at_end() && take_flag(body)?;
            Tell::NotServed { call, is_to_begin }
        }
        NOT_TAKEN => Tell::NotTaken { call: call(body)? },
        SETTLED => Tell::Settled { call: call(body)?, settlement: take_settlement(body)? },
        BEGUN => Tell::Begun { call: call(body)?, said: Box::new(take_said(body)?) },
        WILL_KEPT => Tell::WillKept { call: call(body)?, will: WillId(body.take_u64()?) },
        RESUMED => {
            let call = call(body)?;
            let claim = take_claim(body)?;
            let end = match body.take_u8()? {
                0 => Resumed::Done,
                1 => Resumed::NotServed,
                _ => Resumed::Stale,
            };
            Tell::Resumed { call, claim, end }
        }
        ENTRIES => {
            let claim = take_claim(body)?;
            let count = take_count(body)?;
            let entries = (0..count).map(|_| take_entry(body, data, now));
            Tell::Entries { claim, entries: entries.collect::<Result<_, _>>()? }
        }
        DIRECT => {
            let claim = take_claim(body)?;
            let tenant = TenantId::new(body.take_str()?);
            let (options, subscription_id) = take_options(body)?;
            let message = Arc::new(message::take(body, data, now)?);
            let direct = Direct { tenant, options, subscription_id, message };
            Tell::Direct { claim, direct: Box::new(direct) }
        }
        STALE => Tell::Stale { claim: take_claim(body)? },
        _ => return Ok(None),
    }))
}

fn take_said(body: &mut Parser<'_>) -> Result<Said, Malformed> {
    let numbers = take_numbers(body)?;
    // An earlier version says no more.
    let (others, choices) = match body.is_at_end() {
        true => (numbers.0, Vec::new()),
        false => (body.take_u64()?, take_choices(body)?),
    };
    Ok(Said { numbers, choices, others })
}

fn take_outcome(body: &mut Parser<'_>) -> Result<Outcome, Malformed> {
    Ok(match body.take_u8()? {
        0 => Outcome::Done,
        1 => Outcome::Existed,
        2 => Outcome::TooManyFilters,
        3 => Outcome::GroupFull,
        5 => Outcome::Stale,
        // What a later version says beside is that it has not subscribed.
        _ => Outcome::Busy,
    })
}

fn take_settlement(body: &mut Parser<'_>) -> Result<Settlement, Malformed> {
    Ok(match body.take_u8()? {
        0 => Settlement::Done,
        1 => Settlement::Busy,
        2 => Settlement::QuotaExceeded,
        _ => Settlement::Unknown,
    })
}

impl Taken {
    fn put(&self, into: &mut Vec<u8>) {
        put_claim(into, self.claim);
        put_u64(into, self.incarnation);
        put_flag(into, self.is_present);
        put_u64(into, self.sent.0);
        put_u64(into, self.inbound.len() as u64);
        self.inbound.iter().for_each(|packet_id| put_packet_id(into, *packet_id));
        put_u64(into, self.subscriptions.len() as u64);
        self.subscriptions.iter().for_each(|subscription| put_subscription(into, subscription));
    }

    fn take(body: &mut Parser<'_>) -> Result<Self, Malformed> {
        let (claim, incarnation) = (take_claim(body)?, body.take_u64()?);
        let (is_present, sent) = (take_flag(body)?, Sequence(body.take_u64()?));
        let count = take_count(body)?;
        let inbound = (0..count).map(|_| take_packet_id(body)).collect::<Result<_, _>>()?;
        let count = take_count(body)?;
        let subscriptions =
            (0..count).map(|_| take_subscription(body)).collect::<Result<_, _>>()?;
        Ok(Taken { claim, incarnation, is_present, sent, inbound, subscriptions })
    }
}

fn put_entry(into: &mut Vec<u8>, entry: &Entry, now: Instant) {
    let mut flags = entry.qos as u8;
    if entry.retain {
        flags |= RETAIN;
    }
    if entry.is_received {
        flags |= RECEIVED;
    }
    put_u64(into, entry.sequence.0);
    into.push(flags);
    put_some(into, entry.subscription_id);
    message::put(into, &entry.message.as_message(), now);
}

fn take_entry(body: &mut Parser<'_>, data: &Bytes, now: Instant) -> Result<Entry, Malformed> {
    let sequence = Sequence(body.take_u64()?);
    let flags = body.take_u8()?;
    let qos = Qos::try_from(flags & 0b11).map_err(|_| Malformed)?;
    // Packet identifiers follow from sequences, which begin at 1.
    if flags & !(0b11 | RETAIN | RECEIVED) != 0 || qos != Qos::AtMostOnce && sequence.0 == 0 {
        return Err(Malformed);
    }
    let (is_received, subscription_id) = (flags & RECEIVED != 0, take_some(body)?);
    let message = match is_received {
        true => message::take_husk(body, data, now)?,
        false => message::take(body, data, now)?,
    };
    Ok(Entry {
        sequence,
        qos,
        retain: flags & RETAIN != 0,
        is_received,
        subscription_id,
        message: Arc::new(message),
    })
}
