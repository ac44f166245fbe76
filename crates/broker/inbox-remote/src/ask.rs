//! What a host asks of the inbox of another one, as bytes.
//!
//! A word is its length, a kind, and a body. What a later version adds behind a body, and kinds that are not
//! known, are passed over: nobody answers them, and whoever asked is told so by his own clock. The bytes
//! are in `docs/formats/inbox-calls.md`.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_codec::PacketId;
use ratatosk_contract::dist::InboxRoute;
use ratatosk_contract::inbox::{Claim, InboxId, QueueLimits, Sequence, Subscription, WillId};
use ratatosk_contract::serving::{Once, Wish};
use ratatosk_contract::{Message, SessionIdentity, StoredMessage, TenantId};
use ratatosk_engine::wire::{Malformed, Parser, put_u64};

use crate::message;
use crate::parts::{
    put_claim, put_exchange, put_flag, put_identity, put_limits, put_once, put_options,
    put_packet_id, put_some, put_subscription, put_text, put_turn, put_wishes, take_claim,
    take_exchange, take_filter, take_flag, take_hash, take_identity, take_limits, take_once,
    take_options, take_packet_id, take_some, take_subscription, take_turn, take_wishes,
};
use crate::turn::Turn;

/// Names a question of a stream; zero: nobody asks for the answer.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CallId(pub(crate) u64);

/// A will and its delay in seconds.
pub(crate) type Will = Option<(Arc<StoredMessage>, u32)>;

/// A word of whoever has the connections.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Attach {
        call: CallId,
        identity: SessionIdentity,
        is_clean: bool,
        expiry_s: Option<u32>,
        limits: QueueLimits,
        will: Will,
    },
    /// The session's owner lives, and goes on here. It was handed what is up to a sequence, and has not
    /// confirmed what is open.
    Resume {
        call: CallId,
        claim: Claim,
        handed: Sequence,
        open: Vec<Open>,
    },
    Detach {
        call: CallId,
        claim: Claim,
        expiry_s: Option<u32>,
        will: Will,
    },
    Discard {
        call: CallId,
        identity: SessionIdentity,
    },
    Subscribe {
        call: CallId,
        claim: Claim,
        subscription: Subscription,
    },
    Unsubscribe {
        call: CallId,
        claim: Claim,
        filter: Box<str>,
    },
    Append {
        call: CallId,
        order: Box<Order>,
    },
    /// A message of an exchange is going to be sent in several commands. It has this mark.
    Begin {
        call: CallId,
        claim: Claim,
        packet_id: PacketId,
        mark: u64,
        /// Whom it is to go to of shared groups.
        wished: Vec<Wish>,
    },
    /// So much more may be handed to a session.
    More {
        claim: Claim,
        credit: Credit,
    },
    Commit {
        claim: Claim,
        sequence: Sequence,
    },
    Received {
        call: CallId,
        claim: Claim,
        sequence: Sequence,
    },
    Inbound {
        call: CallId,
        claim: Claim,
        packet_id: PacketId,
        is_released: bool,
    },
    KeepWill {
        call: CallId,
        identity: SessionIdentity,
        message: Arc<StoredMessage>,
        delay_s: u32,
    },
    EndWill {
        will: WillId,
    },
    /// The session whose will it is lives.
    ResumeWill {
        will: WillId,
    },
}

/// What a client was handed and has not confirmed to the end.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) sequence: Sequence,
    /// Its PUBREC came.
    pub(crate) is_received: bool,
}

/// How much may be handed out.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credit {
    pub(crate) messages: u32,
    pub(crate) bytes: u32,
}

/// A message for sessions of this inbox.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) tenant: TenantId,
    pub(crate) routes: Vec<InboxRoute>,
    pub(crate) shared: Vec<Chosen>,
    pub(crate) intent: Intent,
    pub(crate) message: StoredMessage,
}

/// What is noted with a message, and whether it may have been taken before.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) exchange: Option<(Claim, PacketId)>,
    pub(crate) once: Option<Once>,
    pub(crate) is_again: bool,
    /// Its place among the messages of its host.
    pub(crate) turn: Turn,
}

/// A member of a shared group that was chosen.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    pub(crate) route: InboxRoute,
    /// Without its share prefix.
    pub(crate) filter: Box<str>,
    pub(crate) group: Box<str>,
    pub(crate) is_ordered: bool,
}

const ATTACH: u8 = 1;
const RESUME: u8 = 2;
const DETACH: u8 = 3;
const DISCARD: u8 = 4;
const SUBSCRIBE: u8 = 5;
const UNSUBSCRIBE: u8 = 6;
const APPEND: u8 = 7;
const MORE: u8 = 8;
const COMMIT: u8 = 9;
const RECEIVED: u8 = 10;
const INBOUND: u8 = 11;
const KEEP_WILL: u8 = 12;
const END_WILL: u8 = 13;
const RESUME_WILL: u8 = 14;
const BEGIN: u8 = 15;

/// Appends a word: its kind and what `write` makes of its body, behind their length.
pub(crate) fn put_word(into: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    // The length has four bytes: it is known last, and its place is kept.
    let at = into.len();
    into.extend_from_slice(&[0; 4]);
    into.push(kind);
    write(into);
    let length = u32::try_from(into.len() - at - 4).unwrap_or(u32::MAX);
    into[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// The next word of some bytes: its kind, and its body.
pub(crate) fn take_word<'a>(parser: &mut Parser<'a>) -> Result<(u8, Parser<'a>), Malformed> {
    let length = parser.take_exactly(4)?.try_into().map_err(|_| Malformed)?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| Malformed)?;
    let mut body = Parser::new(parser.take_exactly(length)?);
    Ok((body.take_u8()?, body))
}

/// Appends a message for sessions: the words of several hosts differ in their targets only.
pub(crate) fn put_append(
    into: &mut Vec<u8>,
    call: CallId,
    tenant: &TenantId,
    (routes, shared): (&[InboxRoute], &[Chosen]),
    Intent { exchange, once, is_again, turn }: Intent,
    message: &[u8],
) {
    put_word(into, APPEND, |into| {
        put_u64(into, call.0);
        put_text(into, tenant.as_str());
        put_u64(into, routes.len() as u64);
        routes.iter().for_each(|route| put_route(into, route));
        put_u64(into, shared.len() as u64);
        for chosen in shared {
            put_route(into, &chosen.route);
            put_text(into, &chosen.filter);
            put_text(into, &chosen.group);
            put_flag(into, chosen.is_ordered);
        }
        put_exchange(into, exchange);
        put_once(into, once);
        put_flag(into, is_again);
        put_turn(into, turn);
        into.extend_from_slice(message);
    });
}

/// A message as [`put_append`] wants it.
pub(crate) fn encode_message(message: &Message<'_>, now: Instant) -> Vec<u8> {
    let mut bytes = Vec::new();
    message::put(&mut bytes, message, now);
    bytes
}

fn put_route(into: &mut Vec<u8>, route: &InboxRoute) {
    put_u64(into, route.inbox.0);
    put_u64(into, route.incarnation);
    put_options(into, route.options, route.subscription_id);
}

fn take_route(body: &mut Parser<'_>) -> Result<InboxRoute, Malformed> {
    let (inbox, incarnation) = (InboxId(body.take_u64()?), body.take_u64()?);
    let (options, subscription_id) = take_options(body)?;
    Ok(InboxRoute { inbox, incarnation, options, subscription_id })
}

fn put_will(into: &mut Vec<u8>, will: &Will, now: Instant) {
    put_flag(into, will.is_some());
    if let Some((message, delay_s)) = will {
        put_u64(into, (*delay_s).into());
        message::put(into, &message.as_message(), now);
    }
}

impl Ask {
    /// Appends the word, as of `now`.
    pub(crate) fn put(&self, into: &mut Vec<u8>, now: Instant) {
        match self {
            Ask::Attach { call, identity, is_clean, expiry_s, limits, will } => {
                put_word(into, ATTACH, |into| {
                    put_u64(into, call.0);
                    put_identity(into, identity);
                    put_flag(into, *is_clean);
                    put_some(into, *expiry_s);
                    put_limits(into, limits);
                    put_will(into, will, now);
                });
            }
            Ask::Resume { call, claim, handed, open } => put_word(into, RESUME, |into| {
                put_u64(into, call.0);
                put_claim(into, *claim);
                put_u64(into, handed.0);
                put_u64(into, open.len() as u64);
                for Open { sequence, is_received } in open {
                    put_u64(into, sequence.0);
                    put_flag(into, *is_received);
                }
            }),
            Ask::Detach { call, claim, expiry_s, will } => put_word(into, DETACH, |into| {
                put_u64(into, call.0);
                put_claim(into, *claim);
                put_some(into, *expiry_s);
                put_will(into, will, now);
            }),
            Ask::Discard { call, identity } => put_word(into, DISCARD, |into| {
                put_u64(into, call.0);
                put_identity(into, identity);
            }),
            Ask::Subscribe { call, claim, subscription } => put_word(into, SUBSCRIBE, |into| {
                put_u64(into, call.0);
                put_claim(into, *claim);
                put_subscription(into, subscription);
            }),
            Ask::Unsubscribe { call, claim, filter } => put_word(into, UNSUBSCRIBE, |into| {
                put_u64(into, call.0);
                put_claim(into, *claim);
                put_text(into, filter);
            }),
            Ask::Append { call, order } => {
                let Order { tenant, routes, shared, intent, message } = &**order;
                let message = encode_message(&message.as_message(), now);
                put_append(into, *call, tenant, (routes, shared), *intent, &message);
            }
            Ask::KeepWill { call, identity, message, delay_s } => {
                put_word(into, KEEP_WILL, |into| {
                    put_u64(into, call.0);
                    put_identity(into, identity);
                    put_u64(into, (*delay_s).into());
                    message::put(into, &message.as_message(), now);
                });
            }
            Ask::EndWill { will } => put_word(into, END_WILL, |into| put_u64(into, will.0)),
            Ask::ResumeWill { will } => {
                put_word(into, RESUME_WILL, |into| put_u64(into, will.0));
            }
            small => small.put_small(into),
        }
    }

    /// Those of a session at work.
    fn put_small(&self, into: &mut Vec<u8>) {
        match self {
            Ask::More { claim, credit } => put_word(into, MORE, |into| {
                put_claim(into, *claim);
                put_u64(into, credit.messages.into());
                put_u64(into, credit.bytes.into());
            }),
            Ask::Commit { claim, sequence } => put_word(into, COMMIT, |into| {
                put_claim(into, *claim);
                put_u64(into, sequence.0);
            }),
            Ask::Received { call, claim, sequence } => put_word(into, RECEIVED, |into| {
                put_u64(into, call.0);
                put_claim(into, *claim);
                put_u64(into, sequence.0);
            }),
            Ask::Inbound { call, claim, packet_id, is_released } => {
                put_word(into, INBOUND, |into| {
                    put_u64(into, call.0);
                    put_claim(into, *claim);
                    put_packet_id(into, *packet_id);
                    put_flag(into, *is_released);
                });
            }
            Ask::Begin { call, claim, packet_id, mark, wished } => put_word(into, BEGIN, |into| {
                put_u64(into, call.0);
                put_claim(into, *claim);
                put_packet_id(into, *packet_id);
                into.extend_from_slice(&mark.to_be_bytes());
                put_wishes(into, wished);
            }),
            _ => debug_assert!(false, "every other word is put above"),
        }
    }
}

/// The words in some bytes that came now; those that are not known are left out.
///
/// # Errors
/// [`Malformed`] if one is: then none is to be obeyed.
pub(crate) fn take_all(data: &Bytes, now: Instant) -> Result<Vec<Ask>, Malformed> {
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
) -> Result<Option<Ask>, Malformed> {
    let has_call = !matches!(kind, MORE | COMMIT | END_WILL | RESUME_WILL);
    let is_known = (ATTACH..=BEGIN).contains(&kind);
    if !is_known {
        return Ok(None);
    }
    let call = CallId(if has_call { body.take_u64()? } else { 0 });
    Ok(Some(match kind {
        ATTACH => Ask::Attach {
            call,
            identity: take_identity(body)?,
            is_clean: take_flag(body)?,
            expiry_s: take_some(body)?,
            limits: take_limits(body)?,
            will: take_will(body, data, now)?,
        },
        RESUME => Ask::Resume {
            call,
            claim: take_claim(body)?,
            handed: Sequence(body.take_u64()?),
            open: take_open(body)?,
        },
        DETACH => Ask::Detach {
            call,
            claim: take_claim(body)?,
            expiry_s: take_some(body)?,
            will: take_will(body, data, now)?,
        },
        DISCARD => Ask::Discard { call, identity: take_identity(body)? },
        SUBSCRIBE => Ask::Subscribe {
            call,
            claim: take_claim(body)?,
            subscription: take_subscription(body)?,
        },
        UNSUBSCRIBE => {
            Ask::Unsubscribe { call, claim: take_claim(body)?, filter: take_filter(body)?.into() }
        }
        APPEND => Ask::Append { call, order: Box::new(take_order(body, data, now)?) },
        MORE => Ask::More {
            claim: take_claim(body)?,
            credit: Credit { messages: body.take()?, bytes: body.take()? },
        },
        COMMIT => Ask::Commit { claim: take_claim(body)?, sequence: Sequence(body.take_u64()?) },
        RECEIVED => {
            Ask::Received { call, claim: take_claim(body)?, sequence: Sequence(body.take_u64()?) }
        }
        INBOUND => Ask::Inbound {
            call,
            claim: take_claim(body)?,
            packet_id: take_packet_id(body)?,
            is_released: take_flag(body)?,
        },
        KEEP_WILL => Ask::KeepWill {
            call,
            identity: take_identity(body)?,
            delay_s: body.take()?,
            message: Arc::new(message::take(body, data, now)?),
        },
        END_WILL => Ask::EndWill { will: WillId(body.take_u64()?) },
        BEGIN => take_begin(call, body)?,
        _ => Ask::ResumeWill { will: WillId(body.take_u64()?) },
    }))
}

fn take_begin(call: CallId, body: &mut Parser<'_>) -> Result<Ask, Malformed> {
    let (claim, packet_id) = (take_claim(body)?, take_packet_id(body)?);
    let mark = take_hash(body)?;
    // An earlier version says no more.
    let wished = if body.is_at_end() { Vec::new() } else { take_wishes(body)? };
    Ok(Ask::Begin { call, claim, packet_id, mark, wished })
}

fn take_will(body: &mut Parser<'_>, data: &Bytes, now: Instant) -> Result<Will, Malformed> {
    if !take_flag(body)? {
        return Ok(None);
    }
    let delay_s = body.take()?;
    Ok(Some((Arc::new(message::take(body, data, now)?), delay_s)))
}

fn take_open(body: &mut Parser<'_>) -> Result<Vec<Open>, Malformed> {
    let count = take_count(body)?;
    let mut open: Vec<Open> = Vec::with_capacity(count);
    for _ in 0..count {
        let next = Open { sequence: Sequence(body.take_u64()?), is_received: take_flag(body)? };
        if open.last().is_some_and(|last| last.sequence >= next.sequence) {
            return Err(Malformed);
        }
        open.push(next);
    }
    Ok(open)
}

/// How many there are, which is not more than there are bytes.
pub(crate) fn take_count(body: &mut Parser<'_>) -> Result<usize, Malformed> {
    let count: usize = body.take()?;
    if count > body.rest().len() { Err(Malformed) } else { Ok(count) }
}

fn take_order(body: &mut Parser<'_>, data: &Bytes, now: Instant) -> Result<Order, Malformed> {
    let tenant = TenantId::new(body.take_str()?);
    let count = take_count(body)?;
    let routes: Vec<InboxRoute> = (0..count).map(|_| take_route(body)).collect::<Result<_, _>>()?;
    let count = take_count(body)?;
    let mut shared = Vec::new();
    for _ in 0..count {
        shared.push(Chosen {
            route: take_route(body)?,
            filter: take_filter(body)?.into(),
            group: body.take_str()?.into(),
            is_ordered: take_flag(body)?,
        });
    }
    let (exchange, once) = (take_exchange(body)?, take_once(body)?);
    let (is_again, turn) = (take_flag(body)?, take_turn(body)?);
    let intent = Intent { exchange, once, is_again, turn };
    Ok(Order { tenant, routes, shared, intent, message: message::take(body, data, now)? })
}
