//! A node: what of this process serves, listens and calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use ratatosk_telemetry::metric::Registry;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::DropGuard;

use crate::client::Client;
use crate::config::Config;
use crate::discovery::{AnnounceError, Discovery};
use crate::draw::Draws;
use crate::error::Error;
use crate::exposure::{self, Exposed, Permission, Protection};
use crate::identity::{Group, HostId, ServerId, ServiceName};
use crate::landscape::ServerRecord;
use crate::metrics::{MethodMetrics, Metrics, Side};
use crate::scope::TaskScope;
use crate::server::Listener;
use crate::service::Service;
use crate::transport::Links;
use crate::view::View;

/// Label of calls that reach no method.
const STRANGER: &str = "_other";

/// A listener that could not be had. Nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is open to strangers.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// The system does not give it.
    #[error("cannot listen on {address}")]
    Io {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Nobody could connect to what it would announce.
    #[error("{address} is no address that others can connect to: say which one to announce")]
    Unspecified {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// Servers that were there before cannot be announced at their new address.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
}

/// How a service is served by this node.
#[derive(Clone, Debug)]
pub struct Hosting {
    /// Name of the server, unique among those of the service.
    pub id: ServerId,
    /// The groups that it belongs to; none means the default group.
    pub groups: BTreeSet<Group>,
    /// What else its clients may want to know.
    pub attributes: BTreeMap<String, String>,
    /// Single calls at a time; more are answered with [`Error::Busy`]. Pipelines and streams have
    /// windows of their own.
    pub calls_max: usize,
}

impl Hosting {
    /// A server of the default group, with the usual limit.
    #[must_use]
    pub const fn new(id: ServerId) -> Self {
        Self { id, groups: BTreeSet::new(), attributes: BTreeMap::new(), calls_max: 1_024 }
    }
}

/// What of this process serves, listens and calls. Cheap to clone; when the last clone is gone, and
/// with it whatever was made of one (clients, pipelines, streams, listeners, registrations), so are
/// its tasks.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) shared: Arc<Shared>,
    _end: Arc<DropGuard>,
}

/// What the tasks of a node share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) scope: TaskScope,
    pub(crate) metrics: Metrics,
    pub(crate) links: Links,
    pub(crate) draws: Draws,
    /// Counts calls that reach no method.
    pub(crate) strangers: Arc<MethodMetrics>,
    discovery: Arc<dyn Discovery>,
    hosted: ArcSwap<Vec<Arc<Hosted>>>,
    /// Taken to change `hosted` and what is announced, together.
    announced: Mutex<Option<SocketAddr>>,
    views: Mutex<HashMap<ServiceName, watch::Receiver<Arc<View>>>>,
}

/// A service that this node serves.
#[derive(Debug)]
pub(crate) struct Hosted {
    pub(crate) record: ServerRecord,
    pub(crate) service: Service,
    /// By the names of its methods.
    pub(crate) metrics: BTreeMap<&'static str, Arc<MethodMetrics>>,
    calls: Arc<Semaphore>,
}

impl Hosted {
    /// Room for a single call.
    pub(crate) fn admit(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.calls.try_acquire().map_err(|_| Error::Busy)
    }
}

impl Node {
    /// A node that neither serves nor listens yet. Its tasks run on the runtime that it is made
    /// on; it may be used from others, too. `seed` is for choices that nobody attacks.
    ///
    /// # Panics
    /// Outside of a runtime: a bug of the caller.
    #[must_use]
    pub fn new(
        config: Config,
        discovery: Arc<dyn Discovery>,
        registry: &Registry,
        seed: u64,
    ) -> Self {
        let config = Arc::new(config);
        let scope = TaskScope::new(Handle::current());
        let metrics = Metrics::new(registry);
        let draws = Draws::new(seed);
        let of_links = Draws::new(draws.next());
        let links = Links::new(
            Arc::clone(&config),
            scope.clone(),
            metrics.clone(),
            of_links,
            Arc::clone(&discovery),
        );
        let end = Arc::new(scope.guard());
        let shared = Shared {
            strangers: metrics.method(STRANGER, STRANGER, Side::Server),
            config,
            scope,
            metrics,
            links,
            draws,
            discovery,
            hosted: ArcSwap::default(),
            announced: Mutex::new(None),
            views: Mutex::default(),
        };
        Self { shared: Arc::new(shared), _end: end }
    }

    /// Listens for other nodes, and announces this node's servers, those of now and those to come,
    /// at `advertised`, or where it listens. A node listens once.
    ///
    /// # Errors
    /// When the address would be open to strangers, or cannot be had, or the servers cannot be
    /// announced there.
    pub async fn listen(
        &self,
        address: SocketAddr,
        advertised: Option<SocketAddr>,
        permission: Permission,
    ) -> Result<Listener, ListenError> {
        let shared = &self.shared;
        let is_protected = shared.config.tls.is_some();
        let protection = if is_protected { Protection::MutualTls } else { Protection::None };
        exposure::check(address, protection, permission)?;
        if advertised.is_none_or(|advertised| advertised.ip().is_unspecified())
            && address.ip().is_unspecified()
        {
            return Err(ListenError::Unspecified { address });
        }
        let listener = Listener::bind(self, address).await;
        let listener = listener.map_err(|source| ListenError::Io { address, source })?;
        let mut announced = shared.announced.lock();
        *announced = Some(advertised.unwrap_or(listener.address()));
        let hosted = shared.hosted.load_full();
        for hosted in &*hosted {
            let hosting = Hosting {
                id: hosted.record.id.clone(),
                groups: hosted.record.groups.clone(),
                attributes: hosted.record.attributes.clone(),
                calls_max: 0,
            };
            shared.host(*announced, &hosted.service, hosting, Some(&hosted.calls))?;
        }
        drop(announced);
        Ok(listener)
    }

    /// Serves a service and announces its server, until the registration is dropped.
    ///
    /// # Errors
    /// When the server cannot be announced, or one of its name is served here; then nothing has
    /// changed.
    ///
    /// # Panics
    /// When the service's name is none: a bug of the caller.
    pub fn serve(&self, service: Service, hosting: Hosting) -> Result<Registration, AnnounceError> {
        let id = hosting.id.clone();
        let announced = self.shared.announced.lock();
        if let Some(hosted) = self.shared.hosted(service.name(), id.as_str()) {
            let ServerRecord { service, id, host, .. } = hosted.record.clone();
            return Err(AnnounceError::Taken { service, id, host });
        }
        self.shared.host(*announced, &service, hosting, None)?;
        drop(announced);
        Ok(Registration { node: self.clone(), service, id })
    }

    /// The way to the servers of a service.
    #[must_use]
    pub fn client(&self, service: &ServiceName) -> Client {
        Client::new(self.clone(), self.views(service))
    }

    /// What this process is called.
    #[must_use]
    pub fn host(&self) -> HostId {
        self.shared.config.identity.host
    }

    /// The traffic rules of all services, to be changed at run time.
    #[must_use]
    pub fn discovery(&self) -> &Arc<dyn Discovery> {
        &self.shared.discovery
    }

    /// Ends all that this node does, in whatever state it is, and waits until it has. Calls that
    /// are under way are in doubt; drop registrations and listeners and let them drain before.
    pub async fn stop(&self) {
        self.shared.scope.end().await;
    }

    fn views(&self, service: &ServiceName) -> watch::Receiver<Arc<View>> {
        let shared = &self.shared;
        let mut views = shared.views.lock();
        if let Some(view) = views.get(service) {
            return view.clone();
        }
        let mut landscapes = shared.discovery.watch(service);
        let first = View::new(shared, &landscapes.borrow_and_update());
        let (sender, receiver) = watch::channel(Arc::new(first));
        views.insert(service.clone(), receiver.clone());
        let shared = Arc::clone(shared);
        self.shared.scope.spawn(async move {
            while landscapes.changed().await.is_ok() {
                let landscape = Arc::clone(&landscapes.borrow_and_update());
                sender.send_replace(Arc::new(View::new(&shared, &landscape)));
            }
            // A discovery that has ended says nothing more; the last view stays.
            std::future::pending::<()>().await;
        });
        receiver
    }
}

impl Shared {
    /// The server of this name in this process.
    pub(crate) fn hosted(&self, service: &str, id: &str) -> Option<Arc<Hosted>> {
        let hosted = self.hosted.load();
        let is_it = |hosted: &&Arc<Hosted>| {
            hosted.record.id.as_str() == id && hosted.record.service.as_str() == service
        };
        hosted.iter().find(is_it).cloned()
    }

    /// Serves and announces, in this order, so that nobody is sent to a server that is not there.
    /// In place of one of the same name.
    fn host(
        &self,
        address: Option<SocketAddr>,
        service: &Service,
        hosting: Hosting,
        calls: Option<&Arc<Semaphore>>,
    ) -> Result<(), AnnounceError> {
        let name = ServiceName::new(service.name()).expect("a service has a name");
        let identity = &self.config.identity;
        let record = ServerRecord {
            service: name,
            id: hosting.id,
            host: identity.host,
            address,
            groups: hosting.groups,
            attributes: hosting.attributes,
            version: identity.version,
        };
        let metrics = |method| (method, self.metrics.method(service.name(), method, Side::Server));
        let calls = calls.map(Arc::clone);
        let hosted = Hosted {
            record: record.clone(),
            service: service.clone(),
            metrics: service.methods().map(metrics).collect(),
            calls: calls.unwrap_or_else(|| Arc::new(Semaphore::new(hosting.calls_max))),
        };
        let before = self.hosted.load_full();
        self.replace(&record.service, &record.id, Some(Arc::new(hosted)));
        self.discovery.announce(record).inspect_err(|_| self.hosted.store(before))
    }

    fn replace(&self, service: &ServiceName, id: &ServerId, hosted: Option<Arc<Hosted>>) {
        let is_other =
            |other: &&Arc<Hosted>| other.record.id != *id || other.record.service != *service;
        let before = self.hosted.load();
        let after = before.iter().filter(is_other).cloned().chain(hosted).collect();
        self.hosted.store(Arc::new(after));
    }
}

/// A server at work. Dropped, it is taken back: it gets no new calls, and those that are under way
/// go on.
#[derive(Debug)]
pub struct Registration {
    node: Node,
    service: Service,
    id: ServerId,
}

impl Registration {
    /// Announces other groups and attributes from now on.
    ///
    /// # Errors
    /// When they cannot be announced; then the old ones stay.
    pub fn change(
        &self,
        groups: BTreeSet<Group>,
        attributes: BTreeMap<String, String>,
    ) -> Result<(), AnnounceError> {
        let shared = &self.node.shared;
        let announced = shared.announced.lock();
        let Some(hosted) = shared.hosted(self.service.name(), self.id.as_str()) else {
            return Ok(());
        };
        let hosting = Hosting { id: self.id.clone(), groups, attributes, calls_max: 0 };
        shared.host(*announced, &self.service, hosting, Some(&hosted.calls))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let shared = &self.node.shared;
        let _announced = shared.announced.lock();
        let Some(hosted) = shared.hosted(self.service.name(), self.id.as_str()) else { return };
        let ServerRecord { service, id, host, .. } = &hosted.record;
        shared.discovery.withdraw(service, id, *host);
        shared.replace(service, id, None);
    }
}
