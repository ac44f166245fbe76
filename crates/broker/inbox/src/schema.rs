//! What is stored of a session: its keys and its records, each family in a file of its own.
//!
//! The bytes are described in `docs/formats/inbox.md`. Every record has one form: what decodes is
//! encoded to the same bytes. What is read comes from a disk or another node: nothing here panics,
//! and no length is believed before the bytes are there.

mod entry;
mod key;
mod message;
mod once;
mod session;
mod will;

pub(crate) use entry::{EntryRecord, Head, Position};
pub use key::partition_keys;
pub(crate) use key::{Key, Place};
pub(crate) use message::MessageRecord;
#[cfg(test)]
pub(crate) use once::CHOICES_MAX;
pub(crate) use once::{BegunRecord, NoteRecord, TurnRecord};
pub(crate) use session::{SessionRecord, SubscriptionRecord};
pub(crate) use will::WillRecord;

use ratatosk_contract::{ClientId, SessionIdentity, TenantId};
use ratatosk_engine::wire::{Malformed, Parser, put_bytes};

/// Refuses bytes behind the end of a record.
fn end<T>(parser: &Parser<'_>, record: T) -> Result<T, Malformed> {
    if parser.is_at_end() { Ok(record) } else { Err(Malformed) }
}

/// Refuses flags that nobody has written.
fn flags(flags: u8, known: u8) -> Result<u8, Malformed> {
    if flags & !known == 0 { Ok(flags) } else { Err(Malformed) }
}

/// A flag, if it is set.
fn flag(is_set: bool, flag: u8) -> u8 {
    if is_set { flag } else { 0 }
}

/// Appends an identity; that it has a user segment is said by a flag before.
fn put_identity(into: &mut Vec<u8>, identity: &SessionIdentity) {
    put_bytes(into, identity.tenant.as_str().as_bytes());
    if let Some(user) = &identity.user {
        put_bytes(into, user.as_bytes());
    }
    put_bytes(into, identity.client.as_str().as_bytes());
}

fn take_identity(parser: &mut Parser<'_>, has_user: bool) -> Result<SessionIdentity, Malformed> {
    let tenant = TenantId::new(parser.take_str()?);
    let user = if has_user { Some(parser.take_str()?.into()) } else { None };
    Ok(SessionIdentity { tenant, user, client: ClientId::new(parser.take_str()?) })
}
