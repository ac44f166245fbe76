//! A keyspace whose log is in the test's hands: it holds commands back, applies them, forgets them
//! as a crash does, and applies them again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_engine::{Batch, Error, KeyRange, MemoryEngine, Overlay, SpaceId};
use ratatosk_store::coprocessor::{Coprocessor, Position, Reign, SpaceReader, Writer, scan_all};
use ratatosk_store::log::GroupId;
use ratatosk_store::range::Descriptor;

use crate::{Busy, Done, Fate, Keyspace, Read};

const SPACE: SpaceId = SpaceId(0);

/// See the module. Nothing is applied until [`HeldKeyspace::settle`] says so.
pub struct HeldKeyspace {
    held: Mutex<Held>,
    overlay: Overlay<MemoryEngine>,
}

struct Held {
    coprocessor: Box<dyn Coprocessor>,
    /// Submitted and not durable: a crash takes them.
    waiting: VecDeque<(Bytes, Option<Done>)>,
    /// The log: what was applied so far, to be applied again.
    applied: Vec<Bytes>,
    is_busy: bool,
}

impl HeldKeyspace {
    /// An empty one, led by the coprocessor.
    #[must_use]
    pub fn new(mut coprocessor: Box<dyn Coprocessor>) -> Arc<Self> {
        coprocessor.lead(Some(&reign()));
        Self::with_log(coprocessor, Vec::new())
    }

    fn with_log(coprocessor: Box<dyn Coprocessor>, log: Vec<Bytes>) -> Arc<Self> {
        let waiting = log.into_iter().map(|command| (command, None)).collect();
        let held = Held { coprocessor, waiting, applied: Vec::new(), is_busy: false };
        let overlay = Overlay::new(MemoryEngine::new(1), 1);
        let keyspace = Arc::new(HeldKeyspace { held: Mutex::new(held), overlay });
        keyspace.settle();
        keyspace
    }

    /// Makes durable and applies the first `count` of what waits, and tells their callers.
    ///
    /// # Panics
    /// If the coprocessor fails: the engine in memory never does.
    pub fn settle_some(&self, count: usize) {
        let mut told = Vec::new();
        let mut held = self.held.lock();
        for _ in 0..count {
            let Some((command, done)) = held.waiting.pop_front() else { break };
            let position = Position { index: held.applied.len() as u64 + 1, number: 0 };
            let mut changes = Batch::new();
            let boundary = KeyRange::all();
            let mut writer = Writer::new(&self.overlay, SPACE, &boundary, &mut changes);
            let answer = held.coprocessor.apply(position, &command, &mut writer);
            self.overlay.apply(changes);
            held.applied.push(command);
            told.extend(done.zip(Some(answer.expect("the engine in memory does not fail"))));
        }
        drop(held);
        for (done, answer) in told {
            done(Fate::Applied(answer));
        }
    }

    /// As [`settle_some`](Self::settle_some) for all that waits, and for what that submits.
    pub fn settle(&self) {
        while self.waiting() > 0 {
            self.settle_some(usize::MAX);
        }
    }

    /// Forgets what waits, and tells its callers that it is in doubt.
    pub fn lose(&self) {
        let lost = std::mem::take(&mut self.held.lock().waiting);
        for done in lost.into_iter().filter_map(|(_, done)| done) {
            done(Fate::Unknown);
        }
    }

    /// How many commands wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.held.lock().waiting.len()
    }

    /// Refuses from now on, or no longer.
    pub fn set_busy(&self, is_busy: bool) {
        self.held.lock().is_busy = is_busy;
    }

    /// The commands that were applied.
    #[must_use]
    pub fn log(&self) -> Vec<Bytes> {
        self.held.lock().applied.clone()
    }

    /// Every key and value.
    ///
    /// # Panics
    /// Never: the engine in memory does not fail.
    #[must_use]
    pub fn content(&self) -> Vec<(Bytes, Bytes)> {
        let mut content = Vec::new();
        self.read(&mut |reader| {
            scan_all(reader, &KeyRange::all(), |key, value| {
                content.push((Bytes::copy_from_slice(key), value.clone()));
                Ok(())
            })
        })
        .expect("the engine in memory does not fail");
        content
    }

    /// What is there after a crash: what waits is lost, and the log is applied anew by `fresh`.
    #[must_use]
    pub fn crash(&self, fresh: Box<dyn Coprocessor>) -> Arc<Self> {
        let again = Self::with_log(fresh, self.log());
        again.held.lock().coprocessor.lead(Some(&reign()));
        again
    }

    /// What is there after a checkpoint and a clean start: `fresh` finds the data and no log.
    ///
    /// # Panics
    /// If the coprocessor does not read its own data.
    #[must_use]
    pub fn reopen(&self, mut fresh: Box<dyn Coprocessor>) -> Arc<Self> {
        self.settle();
        let overlay = Overlay::new(MemoryEngine::new(1), 1);
        let mut changes = Batch::new();
        self.content().into_iter().for_each(|(key, value)| changes.put(SPACE, key, value));
        overlay.apply(changes);
        let boundary = KeyRange::all();
        fresh
            .reset(&boundary, &SpaceReader::new(&overlay.view(), SPACE, &boundary))
            .expect("a coprocessor reads its own data");
        fresh.lead(Some(&reign()));
        let applied = self.log();
        let held = Held { coprocessor: fresh, waiting: VecDeque::new(), applied, is_busy: false };
        Arc::new(HeldKeyspace { held: Mutex::new(held), overlay })
    }
}

/// Nobody else ever leads.
fn reign() -> Reign {
    Reign { term: 1, range: Descriptor::whole(GroupId(1), String::new(), 1) }
}

impl Keyspace for HeldKeyspace {
    fn check(&self) -> Result<(), Busy> {
        if self.held.lock().is_busy { Err(Busy) } else { Ok(()) }
    }

    fn submit(&self, _key: &[u8], command: Bytes, done: Done) {
        self.held.lock().waiting.push_back((command, Some(done)));
    }

    fn read(&self, read: &mut Read<'_>) -> Result<(), Error> {
        let boundary = KeyRange::all();
        read(&SpaceReader::new(&self.overlay.view(), SPACE, &boundary))
    }
}

impl std::fmt::Debug for HeldKeyspace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("HeldKeyspace").field("waiting", &self.waiting()).finish()
    }
}
