//! Applied and not yet in the engine: what readers see first, and the checkpoints that hand it down.
//!
//! Entries come from a log that is durable already, so [`Overlay::apply`] only changes memory. A
//! checkpoint freezes what was applied so far, lets applying go on above it, writes what survived
//! as one batch, persists it, and lets go of the frozen layer. A crash at any moment leaves the
//! engine at a whole checkpoint; the log, kept until then, brings the rest.
//!
//! One thread applies, one makes checkpoints, any number read. A view holds the applying thread up
//! while it lives: it is for a query, not for keeping.

use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::layer::Layer;
use crate::{Batch, Engine, Error, KeyRange, SpaceId, View, Visitor};

/// See the module.
#[derive(Debug)]
pub struct Overlay<E> {
    engine: E,
    spaces: usize,
    layers: RwLock<Layers>,
    /// Held by the checkpoint that is on its way.
    checkpoint: Mutex<()>,
}

#[derive(Debug)]
struct Layers {
    active: Layer,
    /// On its way into the engine.
    frozen: Option<Arc<Layer>>,
}

/// What a checkpoint wrote.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpointed {
    /// Changes that reached the engine.
    pub changes: usize,
    /// Bytes of their keys and values.
    pub bytes: usize,
}

/// A moment of an overlay: nothing is applied while it lives.
pub struct OverlayView<'a, E: Engine> {
    layers: RwLockReadGuard<'a, Layers>,
    below: E::View,
}

impl<E: Engine> Overlay<E> {
    /// Above an engine with so many spaces.
    pub fn new(engine: E, spaces: u8) -> Self {
        let spaces = spaces.into();
        let layers = Layers { active: Layer::new(spaces), frozen: None };
        Self { engine, spaces, layers: RwLock::new(layers), checkpoint: Mutex::new(()) }
    }

    /// Makes a batch visible. It survives a crash only by the log that it came from, until a
    /// checkpoint that begins later has returned.
    pub fn apply(&self, batch: Batch) {
        self.layers.write().active.apply(batch);
    }

    /// Everything that was applied so far.
    pub fn view(&self) -> OverlayView<'_, E> {
        // Layers first: what a checkpoint takes out of them is in the engine by then.
        let layers = self.layers.read();
        let below = self.engine.view();
        OverlayView { layers, below }
    }

    /// Makes durable all that was applied before the call. Waits for a checkpoint that another
    /// thread began.
    ///
    /// # Errors
    /// The engine's. What was applied stays visible, and nothing of it counts as durable.
    pub fn checkpoint(&self) -> Result<Checkpointed, Error> {
        let _only_one = self.checkpoint.lock();
        let mut done = Checkpointed::default();
        // What a failed checkpoint left goes first: the layer above may stand on it.
        if let Some(left) = self.frozen() {
            done.add(self.hand_down(&left)?);
        }
        if let Some(frozen) = self.freeze() {
            done.add(self.hand_down(&frozen)?);
        }
        Ok(done)
    }

    /// About how many bytes of memory are held by what is not in the engine.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let layers = self.layers.read();
        layers.active.memory_bytes()
            + layers.frozen.as_ref().map_or(0, |frozen| frozen.memory_bytes())
    }

    /// The engine below, as it was at the last checkpoint.
    pub fn engine(&self) -> &E {
        &self.engine
    }

    fn frozen(&self) -> Option<Arc<Layer>> {
        self.layers.read().frozen.clone()
    }

    /// Puts an empty layer above what was applied; `None` if that is nothing.
    fn freeze(&self) -> Option<Arc<Layer>> {
        let mut layers = self.layers.write();
        assert!(layers.frozen.is_none(), "one layer is on its way at a time");
        if layers.active.is_empty() {
            return None;
        }
        let active = std::mem::replace(&mut layers.active, Layer::new(self.spaces));
        let frozen = Arc::new(active);
        layers.frozen = Some(Arc::clone(&frozen));
        Some(frozen)
    }

    fn hand_down(&self, frozen: &Layer) -> Result<Checkpointed, Error> {
        let batch = frozen.to_batch();
        let written = Checkpointed { changes: batch.len(), bytes: batch.size_bytes() };
        self.engine.write(batch)?;
        self.engine.persist()?;
        let gone = self.layers.write().frozen.take();
        // A large layer takes a while to free: not under the lock.
        drop(gone);
        Ok(written)
    }
}

impl Checkpointed {
    fn add(&mut self, more: Self) {
        self.changes += more.changes;
        self.bytes += more.bytes;
    }
}

impl<E: Engine> View for OverlayView<'_, E> {
    fn get(&self, space: SpaceId, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let Layers { active, frozen } = &*self.layers;
        let above = active.get(space, key);
        let found = above.or_else(|| frozen.as_ref().and_then(|frozen| frozen.get(space, key)));
        match found {
            Some(value) => Ok(value.cloned()),
            None => self.below.get(space, key),
        }
    }

    fn scan(&self, space: SpaceId, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        let Layers { active, frozen } = &*self.layers;
        let frozen = frozen.iter().flat_map(|frozen| frozen.range(space, range));
        let mut above =
            Above { active: active.range(space, range).peekable(), frozen: frozen.peekable() };
        let mut flow = std::ops::ControlFlow::Continue(());
        self.below.scan(space, range, &mut |key, value| {
            flow = above.visit_before(Some(key), visit);
            if flow.is_continue() {
                flow = match above.take_at(key) {
                    Some(Some(newer)) => visit(key, newer),
                    Some(None) => std::ops::ControlFlow::Continue(()),
                    None => visit(key, value),
                };
            }
            flow
        })?;
        if flow.is_continue() {
            // The visitor's wish to end means nothing behind the last key.
            let _ = above.visit_before(None, visit);
        }
        Ok(())
    }
}

/// Two layers as one, the upper one hiding what it also has.
struct Above<A: Iterator, F: Iterator> {
    active: Peekable<A>,
    frozen: Peekable<F>,
}

type Said<'a> = (&'a Bytes, Option<&'a Bytes>);

impl<'a, A: Iterator<Item = Said<'a>>, F: Iterator<Item = Said<'a>>> Above<A, F> {
    /// The next key and what is said of it.
    fn next(&mut self) -> Option<Said<'a>> {
        let (active, frozen) = (self.active.peek(), self.frozen.peek());
        match (active, frozen) {
            (Some((upper, _)), Some((lower, _))) if upper == lower => {
                self.frozen.next();
                self.active.next()
            }
            (Some((upper, _)), Some((lower, _))) if upper < lower => self.active.next(),
            (Some(_), None) => self.active.next(),
            (_, Some(_)) => self.frozen.next(),
            (None, None) => None,
        }
    }

    fn first(&mut self) -> Option<&'a Bytes> {
        let upper = self.active.peek().map(|(key, _)| *key);
        let lower = self.frozen.peek().map(|(key, _)| *key);
        upper.into_iter().chain(lower).min()
    }

    /// Shows what is there before `end`.
    fn visit_before(
        &mut self,
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> std::ops::ControlFlow<()> {
        while self.first().is_some_and(|first| end.is_none_or(|end| &first[..] < end)) {
            let Some((key, value)) = self.next() else { break };
            if let Some(value) = value {
                visit(key, value)?;
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    /// What is said of `key`, if it is the next one.
    fn take_at(&mut self, key: &[u8]) -> Option<Option<&'a Bytes>> {
        let is_it = self.first().is_some_and(|first| &first[..] == key);
        if !is_it {
            return None;
        }
        self.next().map(|(_, value)| value)
    }
}

impl<E: Engine> std::fmt::Debug for OverlayView<'_, E> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OverlayView").finish_non_exhaustive()
    }
}
