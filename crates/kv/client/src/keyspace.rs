//! What a service sees of the store.

use bytes::Bytes;
use ratatosk_engine::Error;
use ratatosk_store::coprocessor::Reader;
use ratatosk_store::edition::Edition;

/// The ranges of one service.
///
/// Order: two commands for one key are applied in the order in which they were submitted; so are
/// two of one range, whatever their keys.
pub trait Keyspace: Send + Sync {
    /// Whether the store takes more at the moment. To be asked before a decision that has to be
    /// submitted: [`submit`](Self::submit) itself refuses nothing, so that what was decided in
    /// memory and what is in the log never differ. SCH-003
    ///
    /// # Errors
    /// [`Busy`]: what waits would take longer than a publisher should be kept.
    fn check(&self) -> Result<(), Busy>;

    /// The edition that is active where `key` is, as far as it is known: what is submitted may be written
    /// for this one or for an older one. It may be newer by then.
    fn edition(&self, _key: &[u8]) -> Edition {
        Edition::FIRST
    }

    /// Puts a command into the log of the range that has `key`. Returns at once and never calls
    /// `done` itself, so it may be called under a lock that `done` takes.
    ///
    /// Once the command is durable, as [`Fate::Applied`] promises, and applied, `done` is called,
    /// in the order of submission, on a thread of the store that others wait for: it must be short.
    /// If the store stops first it is never called.
    ///
    /// It is written for the first edition, which every range understands.
    fn submit(&self, key: &[u8], command: Bytes, done: Done);

    /// The same for a command that is written for a later edition, which [`edition`](Self::edition) has
    /// told: a range in an older one refuses it, and it is tried again.
    fn submit_in(&self, edition: Edition, key: &[u8], command: Bytes, done: Done) {
        debug_assert!(edition == Edition::FIRST, "it has told no other");
        self.submit(key, command, done);
    }

    /// Shows all data of the service, as it was applied. What was submitted and is not done may be
    /// missing. For what is rebuilt at the start, not for the way of a message.
    ///
    /// # Errors
    /// The engine's, or those of `read`.
    fn read(&self, read: &mut Read<'_>) -> Result<(), Error>;
}

/// What is done with the data of a range.
pub type Read<'a> = dyn FnMut(&dyn Reader) -> Result<(), Error> + 'a;

/// Told what became of a command.
pub type Done = Box<dyn FnOnce(Fate) + Send>;

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is in the log of a majority of the range's voters, fsynced, and applied here; the answer
    /// is the coprocessor's. DUR-001
    Applied(Bytes),
    /// Nobody took it in time: it was not carried out, nor will be.
    Refused,
    /// It may or may not be in the log: its store went down before it knew.
    Unknown,
}

/// The store takes no more at the moment; nothing was changed.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("the store takes no more at the moment")]
pub struct Busy;
