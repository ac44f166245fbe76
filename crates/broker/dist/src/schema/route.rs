//! A stored route: its key, and what is kept of it.
//!
//! A key is the tenant, the levels of the filter, and the receiver. So the routes of a tenant are
//! neighbours, and within them those whose filters begin with the same levels, whatever the
//! receivers. A filter or group that is too long for a key is cut there, with a hash in its place;
//! then its whole text is in the record.
//!
//! The number of an inbox is the incarnation: each life of a session has its own, and of one identity
//! a later life has a larger one, in every process. What a process calls incarnation otherwise is
//! counted by its own clock, and is not stored.
//!
//! Everything has one form: what decodes is what would be encoded.

use ratatosk_codec::SubscriptionOptions;
use ratatosk_contract::{
    dist::InboxRoute,
    group::{Member, MemberTarget},
    inbox::InboxId,
};
use ratatosk_engine::{
    KEY_BYTES_MAX, KeyRange,
    wire::{Malformed, Parser, put_u64},
};
use ratatosk_topic::{ORDERED_SHARE_PREFIX, SHARE_PREFIX, TopicFilter, TopicLimits};
use sha2::{Digest, Sha256};

/// The first byte of every record.
const VERSION: u8 = 1;
/// Ends the tenant, the levels and the group in a key. No UTF-8 contains it.
const END: u8 = 0xFF;
/// Ends levels that are cut.
const CUT: u8 = 0xFE;
/// Ends each level. No filter contains it.
const LEVEL_END: u8 = 0;
const PLAIN: u8 = 1;
const SHARED: u8 = 2;
const ORDERED: u8 = 3;

/// How much of levels and group is in a key.
const PATH_BYTES_MAX: usize = 32 * 1024;
const HASH_BYTES: usize = 16;
const NUMBER_BYTES: usize = 8;
/// Kind and number, and the ends of tenant, levels and group or the hash in the place of the last.
const REST_BYTES: usize = 3 + HASH_BYTES + NUMBER_BYTES;

/// The longest name of a tenant that fits into a key.
pub(crate) const TENANT_BYTES_MAX: usize = KEY_BYTES_MAX - PATH_BYTES_MAX - REST_BYTES;

/// What is kept of a persistent session's route, besides its filter and its number as a member.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The session, and its incarnation.
    pub(crate) inbox: InboxId,
    pub(crate) options: SubscriptionOptions,
    /// Never zero.
    pub(crate) subscription_id: Option<u32>,
}

/// A route that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// With the share prefix.
    pub(crate) text: String,
    /// The number as a member, if the filter is shared.
    pub(crate) member: Option<u64>,
    pub(crate) kept: Kept,
}

impl Kept {
    /// Of a session with a route of its own.
    pub(crate) fn of(route: &InboxRoute) -> Self {
        let subscription_id = route.subscription_id.filter(|number| *number != 0);
        Kept { inbox: route.inbox, options: route.options, subscription_id }
    }

    /// Of a member; nothing is kept of transient ones.
    pub(crate) fn of_member(member: &Member) -> Option<Self> {
        let MemberTarget::Inbox(inbox) = member.target else { return None };
        let subscription_id = member.subscription_id.filter(|number| *number != 0);
        Some(Kept { inbox, options: member.options, subscription_id })
    }
}

/// The key of a route. `number` is that of the inbox, or of the member if the filter is shared.
pub(crate) fn key(tenant: &str, filter: TopicFilter<'_>, number: u64) -> Vec<u8> {
    let (path, group) = (filter.filter(), filter.share().map_or("", |share| share.group));
    let mut key = Vec::with_capacity(tenant.len() + path.len() + group.len() + REST_BYTES + 1);
    key.extend_from_slice(tenant.as_bytes());
    key.push(END);
    let begin = key.len();
    for level in filter.levels() {
        key.extend_from_slice(level.as_bytes());
        key.push(LEVEL_END);
    }
    let kind = match filter.share() {
        None => PLAIN,
        Some(share) if share.ordered => ORDERED,
        Some(_) => SHARED,
    };
    if is_long(filter) {
        key.truncate(begin + PATH_BYTES_MAX);
        key.push(CUT);
        let digest: [u8; 32] = Sha256::digest(filter.as_str()).into();
        key.extend_from_slice(&digest[..HASH_BYTES]);
        key.push(kind);
    } else {
        key.extend_from_slice(&[END, kind]);
        if filter.share().is_some() {
            key.extend_from_slice(group.as_bytes());
            key.push(END);
        }
    }
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// All keys of a tenant.
pub(crate) fn keys_of(tenant: &str) -> KeyRange {
    KeyRange::prefix(&[tenant.as_bytes(), &[END]].concat())
}

/// What is stored under the key.
pub(crate) fn record(filter: TopicFilter<'_>, kept: &Kept) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    put_kept(filter, kept, &mut bytes);
    if is_long(filter) {
        bytes.extend_from_slice(filter.as_str().as_bytes());
    }
    bytes
}

/// Appends what is kept of a route. The inbox only of a member: otherwise it is the route's number.
pub(crate) fn put_kept(filter: TopicFilter<'_>, kept: &Kept, into: &mut Vec<u8>) {
    into.push(kept.options.to_byte());
    put_u64(into, kept.subscription_id.unwrap_or(0).into());
    if filter.share().is_some() {
        put_u64(into, kept.inbox.0);
    }
}

/// Reads what [`put_kept`] wrote for the route with this number.
pub(crate) fn take_kept(
    parser: &mut Parser<'_>,
    is_shared: bool,
    number: u64,
) -> Result<Kept, Malformed> {
    let options = parser.take_u8()?.try_into().map_err(|_| Malformed)?;
    let subscription_id = Some(parser.take()?).filter(|number| *number != 0);
    let inbox = InboxId(if is_shared { parser.take_u64()? } else { number });
    Ok(Kept { inbox, options, subscription_id })
}

/// The inbox in the record of a member.
pub(crate) fn member_inbox(record: &[u8]) -> Result<InboxId, Malformed> {
    let mut parser = Parser::new(record);
    if parser.take_u8()? != VERSION {
        return Err(Malformed);
    }
    Ok(take_kept(&mut parser, true, 0)?.inbox)
}

/// Tenant and route of a key and its record.
pub(crate) fn decode<'a>(key: &'a [u8], record: &[u8]) -> Result<(&'a str, Stored), Malformed> {
    let (head, number) = key.split_last_chunk::<NUMBER_BYTES>().ok_or(Malformed)?;
    let number = u64::from_be_bytes(*number);
    let end = head.iter().position(|byte| *byte == END).ok_or(Malformed)?;
    let tenant = utf8(&head[..end])?;
    let (path, rest) = cut_path(&head[end + 1..])?;
    let is_long = rest[0] == CUT;
    let kind = if is_long { rest.last() } else { rest.get(1) };
    let kind = *kind.ok_or(Malformed)?;
    let mut parser = Parser::new(record);
    if parser.take_u8()? != VERSION {
        return Err(Malformed);
    }
    let kept = take_kept(&mut parser, kind != PLAIN, number)?;
    let text = match is_long {
        true => utf8(parser.rest())?.to_owned(),
        false if parser.is_at_end() => text(path, kind, rest.get(2..).unwrap_or_default())?,
        false => return Err(Malformed),
    };
    let filter = TopicFilter::parse(&text, &TopicLimits::PROTOCOL).map_err(|_| Malformed)?;
    // Whatever else the key may say: this is the only one that the route has.
    if tenant.len() > TENANT_BYTES_MAX || self::key(tenant, filter, number) != key {
        return Err(Malformed);
    }
    let member = filter.share().map(|_| number);
    Ok((tenant, Stored { text, member, kept }))
}

/// The levels of a key behind its tenant, and what follows from their end on.
fn cut_path(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let end = bytes.iter().position(|byte| matches!(*byte, END | CUT)).ok_or(Malformed)?;
    Ok(bytes.split_at(end))
}

/// The text of a filter whose key is whole; `group` with its end.
fn text(path: &[u8], kind: u8, group: &[u8]) -> Result<String, Malformed> {
    let path = utf8(path)?.strip_suffix('\0').ok_or(Malformed)?.replace('\0', "/");
    let prefix = match kind {
        PLAIN => return Ok(path),
        SHARED => SHARE_PREFIX,
        ORDERED => ORDERED_SHARE_PREFIX,
        _ => return Err(Malformed),
    };
    let group = utf8(group.split_last().ok_or(Malformed)?.1)?;
    Ok([prefix, group, "/", &path].concat())
}

/// Whether levels and group are too long for a key.
fn is_long(filter: TopicFilter<'_>) -> bool {
    let group = filter.share().map_or(0, |share| share.group.len());
    filter.filter().len() + 1 + group > PATH_BYTES_MAX
}

fn utf8(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}
