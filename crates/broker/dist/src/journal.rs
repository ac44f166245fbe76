//! Where the routes of persistent sessions are kept beyond the process.
//!
//! What was decided is submitted in the turn of its tenant, so the log has the effects of a route in
//! the order in which the table had them. Room is asked for before a route is added; from then on
//! nothing refuses, and removals never are.

use std::{fmt, sync::Arc};

use ratatosk_client::{Fate, Keyspace};
use ratatosk_topic::TopicFilter;

use crate::{
    coprocessor::Answer,
    effect::{Draft, Effect, Name},
    entry::{Added, Removed},
    schema::{Kept, TENANT_BYTES_MAX},
};

/// A command of what is removed together holds about so much.
pub(crate) const COMMAND_BYTES: usize = 64 * 1024;

/// See the module.
pub(crate) struct Journal {
    pub(crate) keyspace: Arc<dyn Keyspace>,
}

/// The effects of a tenant's changes, on their way into commands.
pub(crate) struct Writing<'a> {
    journal: &'a Journal,
    tenant: &'a str,
    draft: Draft<'a>,
}

impl Journal {
    /// Whether more may be decided at the moment.
    pub(crate) fn has_room(&self) -> bool {
        self.keyspace.check().is_ok()
    }

    /// Whether the tenant's name fits into a key.
    pub(crate) fn takes(tenant: &str) -> bool {
        tenant.len() <= TENANT_BYTES_MAX
    }

    /// Begins to write for a tenant. Called in its turn.
    pub(crate) fn write<'a>(&'a self, tenant: &'a str) -> Writing<'a> {
        Writing { journal: self, tenant, draft: Draft::of(tenant) }
    }

    fn submit(&self, draft: Draft<'_>) {
        let (key, command) = draft.finish();
        let done = |fate: Fate| {
            let is_done = match &fate {
                Fate::Applied(answer) => Answer::is_done(answer),
                Fate::Refused | Fate::Unknown => true,
            };
            debug_assert!(is_done, "the coprocessor carries out what the service writes: {fate:?}");
        };
        self.keyspace.submit(&key, command, Box::new(done));
    }
}

impl Writing<'_> {
    /// A receiver was added: `kept` is what is to be stored of it. Answers whether that was stored
    /// before.
    pub(crate) fn added(
        &mut self,
        filter: TopicFilter<'_>,
        member: Option<u64>,
        added: Added,
        kept: Option<Kept>,
    ) -> bool {
        let before = match added {
            Added::Nothing => return true,
            Added::Replaced(before) => before,
            Added::New => None,
        };
        if before == kept {
            return true;
        }
        // What takes the place of a later life must take it away first: the data would keep it.
        let is_in_the_way = |before: &Kept| kept.is_none_or(|kept| before.inbox > kept.inbox);
        if let Some(before) = before.filter(is_in_the_way) {
            let inbox = before.inbox;
            self.draft.push(&Effect::Removed(Name { filter, member, inbox }));
        }
        if let Some(kept) = kept {
            self.draft.push(&Effect::Added { filter, member, kept });
        }
        false
    }

    /// A receiver was removed.
    pub(crate) fn removed(
        &mut self,
        filter: TopicFilter<'_>,
        member: Option<u64>,
        removed: Removed,
    ) {
        let (Removed::Receiver(Some(kept)) | Removed::Group(Some(kept))) = removed else { return };
        let name = Name { filter, member, inbox: kept.inbox };
        self.draft.push(&Effect::Removed(name));
        if self.draft.len() >= COMMAND_BYTES {
            let full = std::mem::replace(&mut self.draft, Draft::of(self.tenant));
            self.journal.submit(full);
        }
    }

    /// Hands over what was written.
    pub(crate) fn finish(self) {
        if !self.draft.is_empty() {
            self.journal.submit(self.draft);
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Journal").finish_non_exhaustive()
    }
}
