//! What several words have in them: claims, identities, subscriptions, routes.

use ratatosk_codec::{PacketId, SubscriptionOptions};
use ratatosk_contract::inbox::{Claim, InboxId, QueueLimits, Subscription};
use ratatosk_contract::serving::{Choice, GroupMark, Once, Wish};
use ratatosk_contract::{ClientId, SessionIdentity, TenantId};
use ratatosk_engine::wire::{Malformed, Parser, put_bytes, put_u64};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::ask::take_count;
use crate::turn::Turn;

pub(crate) fn put_text(into: &mut Vec<u8>, text: &str) {
    put_bytes(into, text.as_bytes());
}

pub(crate) fn put_flag(into: &mut Vec<u8>, flag: bool) {
    into.push(u8::from(flag));
}

pub(crate) fn take_flag(parser: &mut Parser<'_>) -> Result<bool, Malformed> {
    match parser.take_u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

/// A number that may be missing: zero, or one more than it.
pub(crate) fn put_some(into: &mut Vec<u8>, number: Option<u32>) {
    put_u64(into, number.map_or(0, |number| u64::from(number) + 1));
}

pub(crate) fn take_some(parser: &mut Parser<'_>) -> Result<Option<u32>, Malformed> {
    let number = parser.take_u64()?;
    number.checked_sub(1).map(|number| u32::try_from(number).map_err(|_| Malformed)).transpose()
}

pub(crate) fn put_claim(into: &mut Vec<u8>, claim: Claim) {
    put_u64(into, claim.inbox.0);
    put_u64(into, claim.version);
}

pub(crate) fn take_claim(parser: &mut Parser<'_>) -> Result<Claim, Malformed> {
    Ok(Claim { inbox: InboxId(parser.take_u64()?), version: parser.take_u64()? })
}

pub(crate) fn put_packet_id(into: &mut Vec<u8>, packet_id: PacketId) {
    into.extend_from_slice(&packet_id.value().to_be_bytes());
}

pub(crate) fn take_packet_id(parser: &mut Parser<'_>) -> Result<PacketId, Malformed> {
    let bytes = parser.take_exactly(2)?.try_into().map_err(|_| Malformed)?;
    PacketId::new(u16::from_be_bytes(bytes)).ok_or(Malformed)
}

/// The exchange that a message belongs to, if it does.
pub(crate) fn put_exchange(into: &mut Vec<u8>, exchange: Option<(Claim, PacketId)>) {
    put_flag(into, exchange.is_some());
    if let Some((claim, packet_id)) = exchange {
        put_claim(into, claim);
        put_packet_id(into, packet_id);
    }
}

pub(crate) fn take_exchange(
    parser: &mut Parser<'_>,
) -> Result<Option<(Claim, PacketId)>, Malformed> {
    Ok(match take_flag(parser)? {
        true => Some((take_claim(parser)?, take_packet_id(parser)?)),
        false => None,
    })
}

/// Which message it is, if it was begun.
pub(crate) fn put_once(into: &mut Vec<u8>, once: Option<Once>) {
    put_flag(into, once.is_some());
    if let Some(Once { publisher, number, low }) = once {
        put_u64(into, publisher.0);
        put_numbers(into, (number, low));
    }
}

pub(crate) fn take_once(parser: &mut Parser<'_>) -> Result<Option<Once>, Malformed> {
    if !take_flag(parser)? {
        return Ok(None);
    }
    let publisher = InboxId(parser.take_u64()?);
    let (number, low) = take_numbers(parser)?;
    Ok(Some(Once { publisher, number, low }))
}

/// The number of a message, and the smallest that may come again.
pub(crate) fn put_numbers(into: &mut Vec<u8>, (number, low): (u64, u64)) {
    put_u64(into, number);
    put_u64(into, low);
}

pub(crate) fn take_numbers(parser: &mut Parser<'_>) -> Result<(u64, u64), Malformed> {
    let (number, low) = (parser.take_u64()?, parser.take_u64()?);
    if low > number { Err(Malformed) } else { Ok((number, low)) }
}

/// The place of a message among those of its host.
pub(crate) fn put_turn(into: &mut Vec<u8>, Turn { number, first }: Turn) {
    put_flag(into, first.is_some());
    put_u64(into, number);
    first.iter().for_each(|first| put_u64(into, *first));
}

pub(crate) fn take_turn(parser: &mut Parser<'_>) -> Result<Turn, Malformed> {
    let (is_again, number) = (take_flag(parser)?, parser.take_u64()?);
    let first = if is_again { Some(parser.take_u64()?) } else { None };
    let is_rising = first.is_none_or(|first| first <= number);
    if is_rising { Ok(Turn { number, first }) } else { Err(Malformed) }
}

/// Whom somebody chose of shared groups.
pub(crate) fn put_wishes(into: &mut Vec<u8>, wished: &[Wish]) {
    put_u64(into, wished.len() as u64);
    for Wish { group, inbox, instead_of } in wished {
        into.extend_from_slice(&group.0.to_be_bytes());
        put_u64(into, inbox.0);
        put_flag(into, instead_of.is_some());
        instead_of.iter().for_each(|gone| put_u64(into, gone.0));
    }
}

pub(crate) fn take_wishes(parser: &mut Parser<'_>) -> Result<Vec<Wish>, Malformed> {
    let mut wished = Vec::new();
    for _ in 0..take_count(parser)? {
        let (group, inbox) = (GroupMark(take_hash(parser)?), InboxId(parser.take_u64()?));
        let is_instead = take_flag(parser)?;
        let instead_of = if is_instead { Some(InboxId(parser.take_u64()?)) } else { None };
        wished.push(Wish { group, inbox, instead_of });
    }
    Ok(wished)
}

/// Who has a message of shared groups, or gets it.
pub(crate) fn put_choices(into: &mut Vec<u8>, choices: &[Choice]) {
    put_u64(into, choices.len() as u64);
    for Choice { group, inbox, number } in choices {
        into.extend_from_slice(&group.0.to_be_bytes());
        put_u64(into, inbox.0);
        put_u64(into, *number);
    }
}

pub(crate) fn take_choices(parser: &mut Parser<'_>) -> Result<Vec<Choice>, Malformed> {
    let mut choices = Vec::new();
    for _ in 0..take_count(parser)? {
        let (group, inbox) = (GroupMark(take_hash(parser)?), InboxId(parser.take_u64()?));
        choices.push(Choice { group, inbox, number: parser.take_u64()? });
    }
    Ok(choices)
}

pub(crate) fn take_hash(parser: &mut Parser<'_>) -> Result<u64, Malformed> {
    let hash = parser.take_exactly(8)?.try_into().map_err(|_| Malformed)?;
    Ok(u64::from_be_bytes(hash))
}

pub(crate) fn put_identity(into: &mut Vec<u8>, identity: &SessionIdentity) {
    put_text(into, identity.tenant.as_str());
    put_flag(into, identity.user.is_some());
    if let Some(user) = &identity.user {
        put_text(into, user);
    }
    put_text(into, identity.client.as_str());
}

pub(crate) fn take_identity(parser: &mut Parser<'_>) -> Result<SessionIdentity, Malformed> {
    let tenant = TenantId::new(parser.take_str()?);
    let user = if take_flag(parser)? { Some(parser.take_str()?.into()) } else { None };
    Ok(SessionIdentity { tenant, user, client: ClientId::new(parser.take_str()?) })
}

pub(crate) fn put_options(
    into: &mut Vec<u8>,
    options: SubscriptionOptions,
    subscription_id: Option<u32>,
) {
    into.push(options.to_byte());
    put_some(into, subscription_id);
}

pub(crate) fn take_options(
    parser: &mut Parser<'_>,
) -> Result<(SubscriptionOptions, Option<u32>), Malformed> {
    let options = parser.take_u8()?.try_into().map_err(|_| Malformed)?;
    Ok((options, take_some(parser)?))
}

pub(crate) fn put_subscription(into: &mut Vec<u8>, subscription: &Subscription) {
    put_text(into, &subscription.filter);
    put_options(into, subscription.options, subscription.subscription_id);
}

pub(crate) fn take_subscription(parser: &mut Parser<'_>) -> Result<Subscription, Malformed> {
    let filter = take_filter(parser)?.into();
    let (options, subscription_id) = take_options(parser)?;
    Ok(Subscription { filter, options, subscription_id })
}

/// A topic filter, with its share prefix if it has one.
pub(crate) fn take_filter<'a>(parser: &mut Parser<'a>) -> Result<&'a str, Malformed> {
    let filter = parser.take_str()?;
    TopicFilter::parse(filter, &TopicLimits::PROTOCOL).map_err(|_| Malformed)?;
    Ok(filter)
}

pub(crate) fn put_limits(into: &mut Vec<u8>, limits: &QueueLimits) {
    for number in [limits.messages_max, limits.filters_max, limits.members_max] {
        put_u64(into, number.into());
    }
    put_flag(into, limits.qos0_drop_oldest);
    put_flag(into, limits.qos0_when_offline);
}

pub(crate) fn take_limits(parser: &mut Parser<'_>) -> Result<QueueLimits, Malformed> {
    Ok(QueueLimits {
        messages_max: parser.take()?,
        filters_max: parser.take()?,
        members_max: parser.take()?,
        qos0_drop_oldest: take_flag(parser)?,
        qos0_when_offline: take_flag(parser)?,
    })
}
