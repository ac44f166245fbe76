//! What the API says, given by whoever knows it.

use std::fmt;
use std::sync::Arc;

use crate::cluster::Operations;
use crate::expiry::Expiry;

/// One condition of readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// A short name: `listeners`, `store`.
    pub name: String,
    /// `Err` says what is awaited or broken.
    pub state: Result<(), String>,
}

/// Orders that something of a tenant ends; answers how much that is, or why it is not ordered.
pub(crate) type Expire = dyn Fn(&str, Expiry) -> Result<usize, String> + Send + Sync;

/// Functions that answer for the node. They are called per request and must not block.
#[derive(Clone)]
pub struct Sources {
    pub(crate) metrics: Arc<dyn Fn() -> String + Send + Sync>,
    pub(crate) metrics_type: &'static str,
    pub(crate) checks: Arc<dyn Fn() -> Vec<Check> + Send + Sync>,
    pub(crate) status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    pub(crate) expire: Option<Arc<Expire>>,
    pub(crate) cluster: Option<Arc<dyn Operations>>,
}

impl Sources {
    /// Sources that know nothing: no metrics, ready, an empty status.
    #[must_use]
    pub fn new() -> Self {
        Self {
            metrics: Arc::new(String::new),
            metrics_type: "text/plain; version=0.0.4; charset=utf-8",
            checks: Arc::new(Vec::new),
            status: Arc::new(|| serde_json::Value::Object(serde_json::Map::new())),
            expire: None,
            cluster: None,
        }
    }

    /// The page at `/metrics` and its content type.
    #[must_use]
    pub fn with_metrics(
        mut self,
        content_type: &'static str,
        render: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        self.metrics = Arc::new(render);
        self.metrics_type = content_type;
        self
    }

    /// The conditions behind `/readyz`: ready when all are met.
    #[must_use]
    pub fn with_checks(mut self, checks: impl Fn() -> Vec<Check> + Send + Sync + 'static) -> Self {
        self.checks = Arc::new(checks);
        self
    }

    /// The object at `/status`.
    #[must_use]
    pub fn with_status(
        mut self,
        status: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) -> Self {
        self.status = Arc::new(status);
        self
    }

    /// What is asked to end something of a tenant: it answers how much that is, or why not.
    #[must_use]
    pub fn with_expiry(
        mut self,
        expire: impl Fn(&str, Expiry) -> Result<usize, String> + Send + Sync + 'static,
    ) -> Self {
        self.expire = Some(Arc::new(expire));
        self
    }

    /// The cluster that the node is in. Its checks come with the others.
    #[must_use]
    pub fn with_cluster(mut self, cluster: Arc<dyn Operations>) -> Self {
        self.cluster = Some(cluster);
        self
    }
}

impl Default for Sources {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sources").finish_non_exhaustive()
    }
}
