//! How commands change the data of a range of routes.
//!
//! What a command says was decided when it was submitted; here it is carried into the data, unless
//! what is there is of a later life: so whatever is late, or repeated, harms no successor. A session
//! of its own needs no such look, for each life has a key of its own; a member has one key in all
//! its lives. DIST-001, DIST-002
//!
//! A range may end between any two routes. Commands are cut there before they are submitted
//! ([`RouteDivision`](crate::RouteDivision)); effects that lie outside all the same are left out, and the
//! answer says so.
//!
//! Where replicas have the routes the tables of their node follow: whatever is put into the data is put
//! into them, and as the range gets keys or loses them the routes of these come and go.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use ratatosk_contract::TenantId;
use ratatosk_engine::{Error, KeyRange, wire::Malformed};
use ratatosk_store::coprocessor::{Coprocessor, Position, Reader, Writer};

use crate::{
    DistService,
    effect::{Command, Effect, Name},
    schema::{member_inbox, record},
};

/// The part of a range that knows the routes of persistent sessions. Keeps nothing beside the data but
/// what the service has of it.
#[derive(Debug, Default)]
pub struct DistCoprocessor {
    boundary: KeyRange,
    feed: Option<Feed>,
}

/// The service whose tables follow.
#[derive(Debug)]
struct Feed {
    service: Weak<DistService>,
    /// Tells the coprocessors of a service apart.
    number: u64,
}

impl DistCoprocessor {
    /// One for a range without data that has every key, until it is told otherwise.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, of a replica whose routes are those of a [replicated](DistService::replicated) service,
    /// which must have no other store, and no earlier life of this one.
    #[must_use]
    pub fn feeding(service: &Weak<DistService>) -> Self {
        let number = service.upgrade().map_or(0, |service| service.next_coprocessor());
        let feed = Some(Feed { service: Weak::clone(service), number });
        Self { boundary: KeyRange::default(), feed }
    }

    /// The service, while there is one.
    fn fed(&self) -> Option<(Arc<DistService>, u64)> {
        let feed = self.feed.as_ref()?;
        Some((feed.service.upgrade()?, feed.number))
    }
}

impl Coprocessor for DistCoprocessor {
    fn reset(&mut self, boundary: &KeyRange, reader: &dyn Reader) -> Result<(), Error> {
        self.boundary = boundary.clone();
        match self.fed() {
            Some((service, number)) => service.cover(number, boundary, reader),
            None => Ok(()),
        }
    }

    fn apply(
        &mut self,
        _position: Position,
        command: &Bytes,
        writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        // Read to its end before any of it takes effect.
        let Ok(Command { tenant, effects }) = Command::decode(command) else {
            return Ok(Answer::Malformed.encode());
        };
        let mut answer = Answer::Done;
        let table = self.fed().map(|(service, _)| service.open(&TenantId::new(tenant)));
        for effect in effects {
            let key = effect.key(tenant);
            if !self.boundary.contains(&key) {
                answer = Answer::Outside;
                continue;
            }
            if is_overtaken(&effect.name(), &key, writer)? {
                continue;
            }
            match effect {
                Effect::Added { filter, kept, .. } => writer.put(key, record(filter, &kept)),
                Effect::Removed(_) => writer.remove(key),
            }
            if let Some(table) = &table {
                table.follow(&effect);
            }
        }
        Ok(answer.encode())
    }

    /// No questions are asked: the service reads the data itself.
    fn query(&self, _question: &Bytes, _reader: &dyn Reader) -> Result<Bytes, Error> {
        Ok(Answer::Malformed.encode())
    }

    fn leave(&mut self) {
        if let Some((service, number)) = self.fed() {
            service.uncover(number);
        }
    }
}

/// Whether a later life of the receiver has the route.
fn is_overtaken(name: &Name<'_>, key: &[u8], writer: &Writer<'_>) -> Result<bool, Error> {
    if name.member.is_none() {
        return Ok(false);
    }
    let Some(value) = writer.get(key)? else { return Ok(false) };
    let held = member_inbox(&value).map_err(|malformed| corrupt(key, malformed))?;
    Ok(held > name.inbox)
}

/// What is on disk is not what was written.
pub(crate) fn corrupt(key: &[u8], malformed: Malformed) -> Error {
    Error::Corrupt { detail: format!("route {}: {malformed}", key.escape_ascii()) }
}

/// What the submitter of a command is told.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// All effects are in the data, or were overtaken.
    Done,
    /// Those within the range are.
    Outside,
    /// Nothing was changed: the command could not be read.
    Malformed,
}

impl Answer {
    fn encode(self) -> Bytes {
        Bytes::from_static(match self {
            Answer::Done => &[0],
            Answer::Outside => &[1],
            Answer::Malformed => &[2],
        })
    }

    /// Whether the bytes say that all was carried out.
    pub(crate) fn is_done(bytes: &[u8]) -> bool {
        bytes == &Answer::Done.encode()[..]
    }
}
