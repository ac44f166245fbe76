//! Whether a host whose port refuses connections is no more.
//!
//! Of a process that was killed the system refuses connections at once, long before anybody misses its words.
//! But a single port may be closed, or wrongly told. So the port of its host is asked, too: if both refuse,
//! there is no process any more.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ratatosk_cluster::{Cluster, HostId};

/// Who refuses does so at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// The hosts that are being asked.
#[derive(Clone, Default)]
pub(super) struct Doubts(Arc<Mutex<BTreeSet<HostId>>>);

impl Doubts {
    /// Asks a host, unless it is being asked or counts as dead, and tells the cluster if it is no more.
    pub(super) fn raise(&self, cluster: &Arc<Cluster>, host: HostId) {
        let members = cluster.members().current();
        let Some(member) = members.iter().find(|member| member.host.id == host) else { return };
        if !self.0.lock().insert(host) {
            return;
        }
        let (address, doubts, cluster) =
            (member.host.address, self.clone(), Arc::downgrade(cluster));
        let ask = move || {
            let is_refused = refuses(address);
            doubts.0.lock().remove(&host);
            if let Some(cluster) = cluster.upgrade().filter(|_| is_refused) {
                tracing::info!(%address, "a host refuses all connections: it counts as dead");
                cluster.report_dead(host);
            }
        };
        if std::thread::Builder::new().name("cluster-doubt".to_owned()).spawn(ask).is_err() {
            self.0.lock().remove(&host);
        }
    }
}

fn refuses(address: SocketAddr) -> bool {
    let connected = TcpStream::connect_timeout(&address, PATIENCE);
    connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}
