//! What a host tells of its wishes, as bytes: records one after the other.
//!
//! A record is a kind, the length of its body, and the body. What a later version adds behind a body, and
//! kinds that are not known, are passed over. The bytes are in `docs/formats/relay.md`.

use ratatosk_contract::group::MemberState;
use ratatosk_engine::wire::{self, Malformed, Parser};
use std::sync::atomic::Ordering;

/// One record of what is told.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// All that is told up to [`Record::End`] is all that there was at a sequence.
    Begin(u64),
    /// The end of it.
    End,
    /// What follows changed after a sequence.
    After(u64),
    /// And that was all up to this one.
    Through(u64),
    /// Whose the next ones are, up to the end of the bytes.
    Tenant(&'a str),
    /// Somebody has a filter.
    Filter(&'a str),
    /// Nobody has it any more.
    FilterGone(&'a str),
    /// A member of a shared group, or something of it has changed.
    Member(MemberRecord<'a>),
    /// It is none any more.
    MemberGone {
        /// With its share prefix.
        filter: &'a str,
        id: u64,
    },
}

/// A member of a shared group, as those who choose have to know it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberRecord<'a> {
    /// With its share prefix.
    pub(crate) filter: &'a str,
    pub(crate) id: u64,
    pub(crate) incarnation: u64,
    /// The options byte of MQTT 5.0.
    pub(crate) options: u8,
    pub(crate) subscription_id: Option<u32>,
    /// See [`flags_of`].
    pub(crate) flags: u8,
}

const CONGESTED: u8 = 1;
const FULL: u8 = 2;
const OFFLINE: u8 = 4;

/// The state of a member, as a byte.
pub(crate) fn flags_of(state: &MemberState) -> u8 {
    let flag = |is_set: bool, bit| if is_set { bit } else { 0 };
    flag(state.congested.load(Ordering::Relaxed), CONGESTED)
        | flag(state.full.load(Ordering::Relaxed), FULL)
        | flag(state.offline.load(Ordering::Relaxed), OFFLINE)
}

/// Has a state become what a byte says.
pub(crate) fn note_flags(state: &MemberState, flags: u8) {
    MemberState::note(&state.congested, flags & CONGESTED != 0);
    MemberState::note(&state.full, flags & FULL != 0);
    MemberState::note(&state.offline, flags & OFFLINE != 0);
}

/// Appends a record.
pub(crate) fn put(into: &mut Vec<u8>, record: &Record<'_>) {
    let number = |number| len(number);
    let text = |text: &str| len(text.len() as u64) + text.len();
    match record {
        Record::Begin(sequence) => put_numbers(into, 1, *sequence),
        Record::End => into.extend_from_slice(&[2, 0]),
        Record::After(sequence) => put_numbers(into, 3, *sequence),
        Record::Through(sequence) => put_numbers(into, 4, *sequence),
        Record::Tenant(name) => put_text(into, 5, name),
        Record::Filter(filter) => put_text(into, 6, filter),
        Record::FilterGone(filter) => put_text(into, 7, filter),
        Record::Member(member) => {
            let MemberRecord { filter, id, incarnation, options, subscription_id, flags } = *member;
            // None is a number that no client can give.
            let subscription_id = u64::from(subscription_id.unwrap_or(0));
            let body = text(filter) + 8 + number(incarnation) + 2 + number(subscription_id);
            into.push(8);
            wire::put_u64(into, body as u64);
            wire::put_bytes(into, filter.as_bytes());
            into.extend_from_slice(&id.to_be_bytes());
            wire::put_u64(into, incarnation);
            into.push(options);
            wire::put_u64(into, subscription_id);
            into.push(flags);
        }
        Record::MemberGone { filter, id } => {
            into.push(9);
            wire::put_u64(into, (text(filter) + 8) as u64);
            wire::put_bytes(into, filter.as_bytes());
            into.extend_from_slice(&id.to_be_bytes());
        }
    }
}

fn put_numbers(into: &mut Vec<u8>, kind: u8, value: u64) {
    into.push(kind);
    wire::put_u64(into, len(value) as u64);
    wire::put_u64(into, value);
}

fn put_text(into: &mut Vec<u8>, kind: u8, text: &str) {
    into.push(kind);
    wire::put_bytes(into, text.as_bytes());
}

/// The bytes of a number.
pub(crate) fn len(number: u64) -> usize {
    let bits = 64 - (number | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// The next record of some bytes; none at their end. Those that are not known are passed over.
///
/// # Errors
/// [`Malformed`], and nothing is to be read of the bytes any more.
pub(crate) fn take<'a>(parser: &mut Parser<'a>) -> Result<Option<Record<'a>>, Malformed> {
    while !parser.is_at_end() {
        let kind = parser.take_u8()?;
        let body = parser.take_bytes()?;
        if let Some(record) = read(kind, body)? {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

fn read(kind: u8, bytes: &[u8]) -> Result<Option<Record<'_>>, Malformed> {
    let mut body = Parser::new(bytes);
    let text = || std::str::from_utf8(bytes).map_err(|_| Malformed);
    Ok(Some(match kind {
        1 => Record::Begin(body.take_u64()?),
        2 => Record::End,
        3 => Record::After(body.take_u64()?),
        4 => Record::Through(body.take_u64()?),
        5 => Record::Tenant(text()?),
        6 => Record::Filter(text()?),
        7 => Record::FilterGone(text()?),
        8 => {
            let filter = body.take_str()?;
            let id = take_id(&mut body)?;
            let incarnation = body.take_u64()?;
            let options = body.take_u8()?;
            let subscription_id = body.take::<u32>()?;
            let flags = body.take_u8()? & (CONGESTED | FULL | OFFLINE);
            Record::Member(MemberRecord {
                filter,
                id,
                incarnation,
                options,
                subscription_id: (subscription_id != 0).then_some(subscription_id),
                flags,
            })
        }
        9 => {
            let filter = body.take_str()?;
            Record::MemberGone { filter, id: take_id(&mut body)? }
        }
        _ => return Ok(None),
    }))
}

/// A number of eight bytes.
pub(crate) fn take_id(body: &mut Parser<'_>) -> Result<u64, Malformed> {
    let bytes = body.take_exactly(8)?;
    Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| Malformed)?))
}

#[cfg(test)]
#[path = "record_test.rs"]
mod tests;
