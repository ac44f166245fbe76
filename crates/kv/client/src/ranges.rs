//! What is behind a pipe: ranges, and who leads them.

use bytes::Bytes;
use ratatosk_engine::Error;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::node::Handle;
use ratatosk_store::range::Descriptor;

use crate::Read;

/// The ranges behind a pipe: those of one store, or of a cluster.
pub trait Ranges: Send + Sync {
    /// The ranges of a keyspace, in the order of their keys, as far as they are known. Some may be missing,
    /// and what is known of others may be old.
    fn routes(&self, keyspace: &str) -> Vec<Route>;

    /// Proposes an entry where the route goes. Never calls `answer` itself. What is proposed for one route
    /// is in the log in the order of the calls, or not in it.
    fn propose(&self, route: &Route, data: Vec<u8>, answer: Answer);

    /// Asks whoever the route goes to. Never calls `answer` itself; of the answers there is one.
    fn query(&self, route: &Route, question: Bytes, answer: Answer);

    /// A range is this now: its store has said so, refusing what was meant for an older version.
    fn learn(&self, _descriptor: Descriptor) {}

    /// Whether nothing should be proposed, for disk or memory are short.
    fn is_short(&self) -> bool;

    /// Shows a range's data, as far as it is here.
    ///
    /// # Errors
    /// The engine's, or those of `read`.
    fn read(&self, group: GroupId, read: &mut Read<'_>) -> Result<(), Error>;
}

/// A range, and where its commands go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The range.
    pub descriptor: Descriptor,
    /// Who leads it; `None` for a range of the store at hand.
    pub leader: Option<Leader>,
}

/// Who leads a range.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leader {
    /// Since when it does.
    pub term: u64,
    /// The store.
    pub store: u64,
}

/// Told what became of an entry.
pub type Answer = Box<dyn FnOnce(Outcome) + Send>;

/// What became of an entry.
#[derive(Debug)]
pub enum Outcome {
    /// It was carried out: the answers to its commands.
    Applied(Vec<Bytes>),
    /// Nothing of it was, nor will be.
    Refused(Refusal),
    /// It is not known: its store went down, or cannot be reached. If it is carried out, then before
    /// anything that is proposed to its range from now on.
    Unknown,
}

impl Route {
    /// To a range that the store at hand leads.
    #[must_use]
    pub fn here(descriptor: Descriptor) -> Self {
        Self { descriptor, leader: None }
    }
}

impl From<Result<Vec<Bytes>, Refusal>> for Outcome {
    fn from(answers: Result<Vec<Bytes>, Refusal>) -> Self {
        match answers {
            Ok(answers) => Self::Applied(answers),
            Err(refusal) => Self::Refused(refusal),
        }
    }
}

impl Ranges for Handle {
    fn routes(&self, keyspace: &str) -> Vec<Route> {
        self.ranges(keyspace).into_iter().map(Route::here).collect()
    }

    fn propose(&self, route: &Route, data: Vec<u8>, answer: Answer) {
        let reply = Box::new(|answers: Result<_, _>| answer(answers.into()));
        Handle::propose(self, route.descriptor.group, data, reply);
    }

    fn query(&self, route: &Route, question: Bytes, answer: Answer) {
        let Descriptor { group, version, .. } = route.descriptor;
        let reply = Box::new(|answers: Result<_, _>| answer(answers.into()));
        Handle::query(self, group, version, question, reply);
    }

    fn is_short(&self) -> bool {
        Handle::is_short(self)
    }

    fn read(&self, group: GroupId, read: &mut Read<'_>) -> Result<(), Error> {
        Handle::read(self, group, read)
    }
}
