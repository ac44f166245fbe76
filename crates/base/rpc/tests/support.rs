//! Nodes of one made-up cluster, and a parrot that tells what it was asked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ratatosk_rpc::{
    Call, ClusterId, Config, Environment, Error, Group, HostId, Hosting, Identity, Listener,
    MemoryDiscovery, Node, Permission, Receiver, Registration, Sender, ServerId, Tenant, Version,
};
use ratatosk_rpc_example::{Amount, Ask, Parrot, Phrase, Total, parrot_service};
use ratatosk_telemetry::metric::Registry;
use tokio::sync::{Semaphore, mpsc};

/// Longer than anything here takes: a test that reaches it has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// What a node is made of.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) registry: Registry,
    listener: Option<Listener>,
    registration: Option<Registration>,
}

impl Host {
    /// A node that listens, with hosts told apart by `number`.
    pub(crate) async fn start(discovery: &MemoryDiscovery, number: u128) -> Self {
        Self::with(discovery, config(number)).await
    }

    pub(crate) async fn with(discovery: &MemoryDiscovery, config: Config) -> Self {
        let mut host = Self::silent(discovery, config);
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = host.node.listen(any, None, Permission::Silent).await;
        host.listener = Some(listener.expect("a port"));
        host
    }

    /// A node that does not listen.
    pub(crate) fn silent(discovery: &MemoryDiscovery, config: Config) -> Self {
        let registry = Registry::new(10);
        let node = Node::new(config, Arc::new(discovery.clone()), &registry, 7);
        Self { node, registry, listener: None, registration: None }
    }

    /// Has a parrot sit here.
    pub(crate) fn serve(&mut self, name: &str, parrot: &Arc<Bird>) {
        self.serve_as(Hosting::new(id(name)), parrot);
    }

    pub(crate) fn serve_as(&mut self, hosting: Hosting, parrot: &Arc<Bird>) {
        let service = parrot_service(parrot);
        self.registration = Some(self.node.serve(service, hosting).expect("room"));
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.listener.as_ref().expect("it listens").address()
    }

    /// Takes the server back; what is under way goes on.
    pub(crate) fn withdraw(&mut self) {
        self.registration = None;
    }

    /// Takes no more connections; those that are there go on.
    pub(crate) fn close(&mut self) {
        self.listener = None;
    }

    /// Ends the node in the middle of everything, as a crash would.
    pub(crate) async fn die(self) {
        let mut host = self;
        host.node.stop().await;
        // The dead withdraw nothing.
        std::mem::forget(host.registration.take());
    }

    /// The value of a metric with these words in its line; 0 if there is none.
    pub(crate) fn metric(&self, words: &[&str]) -> u64 {
        let page = self.registry.render();
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let matching = lines.filter(|line| words.iter().all(|word| line.contains(word)));
        let values = matching.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        values.sum()
    }
}

pub(crate) fn identity(number: u128) -> Identity {
    Identity {
        cluster: ClusterId(77),
        environment: Environment::new("test").expect("an environment"),
        host: HostId(number),
        version: Version::CURRENT,
    }
}

/// Short delays, so that what is to be waited for comes soon.
pub(crate) fn config(number: u128) -> Config {
    let mut config = Config::new(identity(number));
    config.reconnect_delay = (Duration::from_millis(5), Duration::from_millis(50));
    config.drain_timeout = Duration::from_secs(2);
    config
}

pub(crate) fn id(name: &str) -> ServerId {
    ServerId::new(name).expect("a server")
}

pub(crate) fn tenant(name: &str) -> Tenant {
    Tenant::new(name).expect("a tenant")
}

pub(crate) fn group(name: &str) -> Group {
    Group::new(name).expect("a group")
}

pub(crate) fn in_group(server: &str, name: &str) -> Hosting {
    Hosting { groups: BTreeSet::from([group(name)]), ..Hosting::new(id(server)) }
}

/// A call that must not take longer than the test.
pub(crate) fn call(of: &str) -> Call {
    Call::new(tenant(of)).within(LONG)
}

pub(crate) fn phrase(words: &str) -> Phrase {
    Phrase { words: Bytes::copy_from_slice(words.as_bytes()), tenant: String::new() }
}

pub(crate) fn amount(value: u64) -> Amount {
    Amount { value, load: Bytes::new() }
}

/// A parrot. Words have meanings: see [`Bird::say`]; amounts too: [`Bird::add`].
pub(crate) struct Bird {
    name: String,
    total: AtomicU64,
    /// Whoever is held waits for a permit.
    pub(crate) gate: Semaphore,
    told: mpsc::Sender<String>,
}

/// An amount that is held at the gate.
pub(crate) const HELD: u64 = 1_000_000;
/// A tenant that wants to know everything.
pub(crate) const CURIOUS: &str = "curious";
/// An amount that is refused.
pub(crate) const REFUSED: u64 = 2_000_000;

impl Bird {
    /// A parrot, and what it tells of what happens to it.
    pub(crate) fn new(name: &str) -> (Arc<Self>, mpsc::Receiver<String>) {
        let (told, hears) = mpsc::channel(10_000);
        let (name, total) = (name.to_owned(), AtomicU64::new(0));
        (Arc::new(Self { name, total, gate: Semaphore::new(0), told }), hears)
    }

    fn tell(&self, what: impl Into<String>) {
        // Whoever does not listen does not need it.
        let _ = self.told.try_send(what.into());
    }

    /// Tells what it is asked for a tenant that is [`CURIOUS`], and by whom.
    fn tell_of(&self, call: &Call, what: &str) {
        if call.tenant().as_str() == CURIOUS {
            let caller = call.caller().map(|host| host.0);
            self.tell(format!("{what} by {caller:?}, with trace: {}", call.trace().is_some()));
        }
    }

    async fn held(&self, what: &str) {
        let over = Cancelled { bird: self, is_over: AtomicBool::new(false), what };
        self.tell(format!("held {what}"));
        self.gate.acquire().await.expect("open").forget();
        over.is_over.store(true, Ordering::Relaxed);
    }
}

/// Tells when a handler is dropped where it waits.
struct Cancelled<'a> {
    bird: &'a Bird,
    is_over: AtomicBool,
    what: &'a str,
}

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        if !self.is_over.load(Ordering::Relaxed) {
            self.bird.tell(format!("cancelled {}", self.what));
        }
    }
}

impl Parrot for Bird {
    /// "name": who it is. "hold": waits at the gate. "panic", "refuse", "nobody", "left": as they say.
    async fn say(&self, call: Call, question: Phrase) -> Result<Phrase, Error> {
        let words = match &question.words[..] {
            b"name" => Bytes::from(self.name.clone()),
            b"hold" => {
                self.held("say").await;
                question.words
            }
            b"panic" => panic!("as it was told"),
            b"nobody" => return Err(Error::NoServer { service: "of its own".into() }),
            b"refuse" => return Err(Error::Application { code: 7, message: "no".into() }),
            b"left" => {
                let left = call.deadline().map(|deadline| deadline - tokio::time::Instant::now());
                Bytes::from(format!("{}", left.unwrap_or_default().as_millis()))
            }
            b"trace" => Bytes::from(format!("{:?}", call.trace())),
            _ => question.words,
        };
        Ok(Phrase { words, tenant: call.tenant().to_string() })
    }

    /// Adds at once, in the order of the questions; what is [`HELD`] is then held at the gate.
    async fn add(&self, call: Call, question: Amount) -> Result<Total, Error> {
        let Amount { value, load } = question;
        self.tell_of(&call, "add");
        if value == REFUSED {
            return Err(Error::Application { code: 8, message: "too much".into() });
        }
        let total = self.total.fetch_add(value % HELD, Ordering::Relaxed) + value % HELD;
        if value >= HELD {
            self.held("add").await;
        }
        Ok(Total { value: total, load })
    }

    /// Says its name as often as it is asked to. Asked for nothing, it fails.
    async fn chatter(
        &self,
        call: Call,
        mut questions: Receiver<Ask>,
        answers: Sender<Phrase>,
    ) -> Result<(), Error> {
        self.tell_of(&call, "chatter");
        let over = Cancelled { bird: self, is_over: AtomicBool::new(false), what: "chatter" };
        while let Some(Ask { phrases }) = questions.next().await {
            if phrases == 0 {
                over.is_over.store(true, Ordering::Relaxed);
                return Err(Error::Application { code: 9, message: "nothing to say".into() });
            }
            for number in 0..phrases {
                let words = format!("{} {number}", self.name);
                if answers.send(phrase(&words)).await.is_err() {
                    return Ok(());
                }
                self.tell(format!("said {number}"));
            }
        }
        over.is_over.store(true, Ordering::Relaxed);
        self.tell("the questions ended");
        Ok(())
    }
}

/// The next thing that a parrot tells.
pub(crate) async fn hear(hears: &mut mpsc::Receiver<String>) -> String {
    let told = tokio::time::timeout(LONG, hears.recv()).await;
    told.expect("it tells something in time").expect("the parrot lives")
}
