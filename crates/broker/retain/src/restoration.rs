//! From the data of the keyspace back to what is in memory.
//!
//! The keys of a tenant are neighbours, so a tenant is taken in as a whole: sorted once, not
//! inserted message by message. It may be in several ranges, which are read in the order of their keys.
//!
//! At the start of a single node what expired meanwhile stays behind, to be removed. Where replicas have the
//! messages it comes with the others: who leads its range sees to its end.

use std::sync::Arc;

use ratatosk_clock::{Epoch, Instant};
use ratatosk_contract::TenantId;
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::coprocessor::{Reader, scan_all};

use crate::{
    replicated::ELSEWHERE,
    schema::message::{Record, TopicHash, parse_key},
    store::{Kept, topic_key},
    tenant::Tenant,
};

/// What is read for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A single node starts.
    Restore,
    /// A replica has keys that none had here.
    Follow,
}

/// One reading of the keyspace.
pub(crate) struct Restoration<F> {
    purpose: Purpose,
    epoch: Epoch,
    /// Makes a tenant.
    open: F,
    part: Option<Part>,
}

/// What was read of one tenant.
struct Part {
    id: TenantId,
    tenant: Arc<Tenant>,
    kept: Kept,
}

impl<F: Fn(&TenantId) -> Arc<Tenant>> Restoration<F> {
    pub(crate) fn new(purpose: Purpose, epoch: Epoch, open: F) -> Self {
        Restoration { purpose, epoch, open, part: None }
    }

    /// Reads some keys of a range, behind those that are lower. [`finish`](Self::finish) follows the last
    /// ones.
    pub(crate) fn read(&mut self, reader: &dyn Reader, keys: &KeyRange) -> Result<(), Error> {
        scan_all(reader, keys, |key, value| self.take(key, value))
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let corrupt = |what: &str| {
            let detail = format!("retained message {}: {what}", key.escape_ascii());
            Err(Error::Corrupt { detail })
        };
        let Ok((tenant, hash)) = parse_key(key) else {
            return corrupt("the key is none");
        };
        let Ok(record) = Record::decode(value) else {
            return corrupt("the record cannot be read, or is of another version");
        };
        if TopicHash::of(record.topic) != hash {
            return corrupt("the record is of another topic");
        }
        let Some(topic) = topic_key(record.topic) else {
            return corrupt("the topic is none");
        };
        let (epoch, purpose) = (self.epoch, self.purpose);
        let part = self.part_of(tenant);
        let deadline = record.deadline.map(|deadline| epoch.instant(deadline));
        let accepted = match purpose {
            Purpose::Restore if deadline == Some(Instant::ZERO) => {
                part.kept.push_stale(hash);
                return Ok(());
            }
            Purpose::Restore => epoch.instant(record.accepted),
            Purpose::Follow => ELSEWHERE,
        };
        let message = part.tenant.keep(&record.message(accepted, deadline));
        part.kept.push(topic, Arc::new(message), record.stamp);
        Ok(())
    }

    fn part_of(&mut self, tenant: &str) -> &mut Part {
        if self.part.as_ref().is_none_or(|part| part.id.as_str() != tenant) {
            self.finish();
        }
        self.part.get_or_insert_with(|| {
            let id = TenantId::new(tenant);
            let tenant = (self.open)(&id);
            Part { id, tenant, kept: Kept::default() }
        })
    }

    /// Gives a tenant what was read of it.
    pub(crate) fn finish(&mut self) {
        if let Some(Part { tenant, kept, .. }) = self.part.take() {
            match self.purpose {
                Purpose::Restore => tenant.restore(kept),
                Purpose::Follow => tenant.take_over(kept),
            }
        }
    }
}
