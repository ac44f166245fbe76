//! Three nodes that have one keyspace together: a store each, and a service that the replica there feeds.
//!
//! What is submitted at one goes to whoever leads, and a node can be killed and started again: its service is then
//! another one. Nodes are numbered from 0, their stores from 1.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use ratatosk_client::{Pipe, Poller, Router, Store, StoreReplicas};
use ratatosk_clock::SystemClock;
use ratatosk_store::command;
use ratatosk_store::coprocessor::{Coprocessor, Factory, Keyspaces};
use ratatosk_store::node::Handle;

use crate::{Stores, until, wait};

/// What the services of a keyspace are, and how they get to their stores.
pub struct Kind<S> {
    /// The name of the keyspace.
    pub keyspace: &'static str,
    /// Makes the service of a node's next life.
    pub service: Box<dyn Fn(SystemClock) -> S>,
    /// Makes a coprocessor that feeds a service.
    pub coprocessor: fn(&Weak<S>) -> Box<dyn Coprocessor>,
    /// Makes the way of a node to whoever leads.
    pub pipe: fn(Router, SystemClock) -> Pipe,
    /// Gives a service its way to the log, and to what is here.
    pub connect: Connect<S>,
}

/// Joins a service with its log and its replicas.
pub type Connect<S> = Box<dyn Fn(&S, Pipe, StoreReplicas)>;

/// The services that the coprocessors of a store feed, one life after the other.
type Feeds<S> = Arc<[Mutex<Weak<S>>; 3]>;

/// See the module.
pub struct Trio<S> {
    kind: Kind<S>,
    _poller: Poller,
    router: Router,
    /// Of each node.
    pipes: Vec<Pipe>,
    feeds: Feeds<S>,
    way: Box<dyn Fn(Handle) -> Arc<dyn Store>>,
    /// What time it is.
    pub clock: SystemClock,
    /// The service of each node.
    pub services: Vec<Arc<S>>,
    // Behind those who have ways to them.
    /// The stores.
    pub stores: Stores,
}

impl<S: Send + Sync + 'static> Trio<S> {
    /// Three nodes whose stores all have a vote, below a folder with a name.
    #[must_use]
    pub fn new(name: &str, kind: Kind<S>) -> Self {
        Self::over(name, kind, |handle| Arc::new(handle))
    }

    /// The same, with such ways to the stores.
    ///
    /// # Panics
    /// If the system gives no thread.
    #[must_use]
    pub fn over(
        name: &str,
        kind: Kind<S>,
        way: impl Fn(Handle) -> Arc<dyn Store> + 'static,
    ) -> Self {
        let (clock, keyspace) = (SystemClock::new(), kind.keyspace);
        let services: Vec<_> = (0..3).map(|_| Arc::new((kind.service)(clock))).collect();
        let feed = |node: usize| Mutex::new(Arc::downgrade(&services[node]));
        let feeds: Feeds<S> = Arc::new([feed(0), feed(1), feed(2)]);
        let (held, coprocessor) = (Arc::clone(&feeds), kind.coprocessor);
        let knows = move |store: u64| {
            let (feeds, node) = (Arc::clone(&held), node_of(store));
            let factory: Factory = Box::new(move || coprocessor(&feeds[node].lock()));
            Keyspaces::new(vec![(keyspace.to_owned(), factory)]).served_by_replicas(keyspace)
        };
        let stores = Stores::of_each(name, 3, knows);
        stores.change(&stores.whole(keyspace), &[1, 2, 3]);
        let router = Router::new(clock);
        stores.live().for_each(|(store, handle)| router.attach(store, way(handle)));
        let pipes: Vec<_> = (0..3).map(|_| (kind.pipe)(router.clone(), clock)).collect();
        let poller = Poller::start(router.clone(), pipes.clone()).expect("a thread");
        let way = Box::new(way);
        let trio =
            Self { kind, _poller: poller, router, pipes, feeds, way, clock, services, stores };
        (0..3).for_each(|node| trio.connect(node));
        trio
    }

    fn connect(&self, node: usize) {
        (self.kind.connect)(&self.services[node], self.pipes[node].clone(), self.replicas(node));
    }

    /// The way of a node to whoever leads.
    #[must_use]
    pub fn pipe(&self, node: usize) -> Pipe {
        self.pipes[node].clone()
    }

    /// What a node has.
    #[must_use]
    pub fn replicas(&self, node: usize) -> StoreReplicas {
        StoreReplicas::new(self.stores.handle(store_of(node)), self.kind.keyspace)
    }

    /// How many commands went again that were in doubt.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.pipes.iter().map(|pipe| pipe.repeated().load(Ordering::Relaxed)).sum()
    }

    /// Parts the range of a key there.
    pub fn split(&self, key: &[u8]) {
        until("it is parted", || {
            let ranges = self.stores.handle(1).ranges(self.kind.keyspace);
            let range = ranges.iter().find(|range| range.boundary.contains(key))?;
            if range.boundary.start == key {
                return Some(());
            }
            let handle = self.stores.handle(self.stores.leader_now(range.group)?);
            let order = command::split(range.version, key);
            let _ = wait(|reply| handle.propose(range.group, order, reply));
            None
        });
    }

    /// Has a store lead all ranges.
    pub fn transfer(&self, store: u64) {
        for range in self.stores.handle(1).ranges(self.kind.keyspace) {
            self.stores.transfer(range.group, store);
        }
    }

    /// Ends a node as a crash would. Whoever has its service has to let go of it before it is started again.
    pub fn kill(&mut self, node: usize) {
        self.router.detach(store_of(node));
        // It has a way to the store.
        let service = Arc::new((self.kind.service)(self.clock));
        *self.feeds[node].lock() = Arc::downgrade(&service);
        self.services[node] = service;
        self.stores.kill(store_of(node));
    }

    /// Starts it again.
    pub fn start(&mut self, node: usize) {
        self.stores.start(store_of(node));
        self.router.attach(store_of(node), (self.way)(self.stores.handle(store_of(node))));
        self.connect(node);
    }
}

/// The store of a node.
#[must_use]
pub fn store_of(node: usize) -> u64 {
    node as u64 + 1
}

fn node_of(store: u64) -> usize {
    usize::try_from(store - 1).expect("few")
}
