//! Nodes that listen and serve, and connections that end when they are told, or when a test says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ratatosk_clock::SystemClock;
use ratatosk_contract::session_dict::{
    Change, ChangeAnswer, Changed, EndCause, Holders, Registered, SessionDict,
};
use ratatosk_contract::{ClientId, SessionIdentity, SessionRef, ShardId, TenantId};
use ratatosk_rpc::{
    ClusterId, Config, Discovery, Environment, HostId, Identity, Listener, MemoryDiscovery, Node,
    Permission, Version,
};
use ratatosk_session_dict::{ClusterConfig, ClusterDict, Owner};
use ratatosk_telemetry::metric::Registry;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Longer than anything here takes: a test that reaches it has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// What a directory has said to a connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Granted,
    Ended(EndCause),
}

/// The connections of a node.
#[derive(Debug)]
pub(crate) struct Desk {
    words: Mutex<BTreeMap<SessionRef, Vec<Word>>>,
    /// What was wanted of subscriptions.
    pub(crate) wanted: Mutex<Vec<(SessionRef, Change)>>,
    /// What is answered, one after the other; then the answers are dropped.
    pub(crate) outcomes: Mutex<VecDeque<Changed>>,
    changes: watch::Sender<u64>,
}

impl Holders for Desk {
    fn grant(&self, session: SessionRef) {
        self.say(session, Word::Granted);
    }

    fn end(&self, session: SessionRef, cause: EndCause) {
        self.say(session, Word::Ended(cause));
    }

    fn change(&self, session: SessionRef, change: Change, answer: ChangeAnswer) {
        self.wanted.lock().push((session, change));
        if let Some(changed) = self.outcomes.lock().pop_front() {
            answer.tell(changed);
        }
    }
}

impl Desk {
    fn say(&self, session: SessionRef, word: Word) {
        self.words.lock().entry(session).or_default().push(word);
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn words(&self, session: SessionRef) -> Vec<Word> {
        self.words.lock().get(&session).cloned().unwrap_or_default()
    }

    /// How many words were said at all.
    pub(crate) fn count(&self) -> usize {
        self.words.lock().values().map(Vec::len).sum()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until a connection was told just these.
    pub(crate) async fn hears(&self, session: SessionRef, expected: &[Word]) {
        let mut changes = self.watch();
        let heard = changes.wait_for(|_| self.words(session) == expected);
        if tokio::time::timeout(LONG, heard).await.is_err() {
            panic!("{session:?} heard {:?}, not {expected:?}", self.words(session));
        }
    }
}

/// A node of the directory.
pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) dict: ClusterDict,
    pub(crate) desk: Arc<Desk>,
    pub(crate) registry: Registry,
    _listener: Listener,
}

pub(crate) fn config(number: u128) -> Config {
    let mut config = Config::new(Identity {
        cluster: ClusterId(7),
        environment: Environment::new("test").expect("a name"),
        host: HostId(number),
        version: Version::CURRENT,
    });
    config.reconnect_delay = (Duration::from_millis(10), Duration::from_millis(200));
    config
}

impl Member {
    /// A node that is a server, too.
    pub(crate) async fn start(discovery: &MemoryDiscovery, number: u128) -> Self {
        Self::with(Arc::new(discovery.clone()), number, true).await
    }

    pub(crate) async fn with(discovery: Arc<dyn Discovery>, number: u128, is_server: bool) -> Self {
        let registry = Registry::new(10);
        let node = Node::new(config(number), discovery, &registry, 7);
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = node.listen(any, None, Permission::Silent).await.expect("a port");
        let desk = Arc::new(Desk {
            words: Mutex::default(),
            wanted: Mutex::default(),
            outcomes: Mutex::default(),
            changes: watch::Sender::new(0),
        });
        let config = ClusterConfig { is_server, ..ClusterConfig::default() };
        let holders: Arc<dyn Holders> = desk.clone();
        let dict = ClusterDict::start(&node, holders, &registry, SystemClock::new(), config);
        Self { node, dict: dict.expect("room"), desk, registry, _listener: listener }
    }

    pub(crate) fn host(&self) -> HostId {
        self.node.host()
    }

    pub(crate) fn claim(&self, client: &str, slot: u32) -> Registered {
        self.dict.register(&Arc::new(identity(client)), session(slot))
    }

    /// Claims, and waits until the session is the connection's own.
    pub(crate) async fn own(&self, client: &str, slot: u32) {
        match self.claim(client, slot) {
            Registered::Alone => {}
            Registered::Pending => self.desk.hears(session(slot), &[Word::Granted]).await,
            Registered::Replaces(other) => panic!("{other:?} is for others to end"),
        }
    }

    pub(crate) fn remove(&self, client: &str, slot: u32) -> bool {
        self.dict.remove(&identity(client), session(slot))
    }

    pub(crate) fn owner(&self, slot: u32) -> Owner {
        Owner { host: self.host(), session: session(slot) }
    }

    /// Has connections end as soon as they are told, until the guard goes.
    pub(crate) fn obey(&self, clients: BTreeMap<SessionRef, SessionIdentity>) -> JoinSet<()> {
        let (dict, desk) = (self.dict.clone(), Arc::clone(&self.desk));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut changes = desk.watch();
            let mut gone = BTreeSet::new();
            loop {
                changes.mark_unchanged();
                for (session, identity) in &clients {
                    let is_told =
                        desk.words(*session).iter().any(|word| matches!(word, Word::Ended(_)));
                    if is_told && gone.insert(*session) {
                        dict.remove(identity, *session);
                    }
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        tasks
    }

    /// Waits until the node sees so many servers and other nodes, and has told the servers all.
    pub(crate) async fn settles(&self, servers: usize, others: usize) {
        until("the node is settled", || {
            self.dict.seen() == (servers, others) && self.dict.is_synced()
        })
        .await;
    }

    /// Ends the node in the middle of everything, as a crash would.
    pub(crate) async fn die(self) {
        self.dict.stop().await;
        self.node.stop().await;
        // The dead withdraw nothing.
        std::mem::forget(self);
    }
}

pub(crate) fn identity(client: &str) -> SessionIdentity {
    SessionIdentity { tenant: TenantId::new("t"), user: None, client: ClientId::new(client) }
}

pub(crate) fn session(slot: u32) -> SessionRef {
    SessionRef { shard: ShardId(0), slot, generation: 0 }
}

/// Waits for what nobody tells of.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waited).await.is_ok(), "in time: {what}");
}

/// Three nodes that are servers and know of each other.
pub(crate) async fn three(discovery: &MemoryDiscovery) -> [Member; 3] {
    let one = Member::start(discovery, 0xA1).await;
    let two = Member::start(discovery, 0xB2).await;
    let three = Member::start(discovery, 0xC3).await;
    for member in [&one, &two, &three] {
        member.settles(3, 2).await;
    }
    [one, two, three]
}
