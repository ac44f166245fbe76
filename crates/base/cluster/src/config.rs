//! What a host is started with.

use std::net::SocketAddr;

use ratatosk_clock::SystemClock;

use crate::protocol::identity::ClusterId;
use crate::protocol::key::KeyRing;
use crate::protocol::machine::Sources;
use crate::protocol::record::Labels;
use crate::protocol::tuning::Tuning;

/// Names of seeds.
pub const SEED_NAMES_MAX: usize = 64;

/// What a host is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The process's clock.
    pub clock: SystemClock,
    /// Hosts of other environments are not heard. CLU-003
    pub environment: String,
    /// The cluster that this host was in, or makes now. Without one it takes that of whom it joins, and
    /// says so by [`Event::Adopted`](crate::Event::Adopted).
    pub cluster: Option<ClusterId>,
    /// Where UDP and TCP are listened to. Port 0 takes a free one.
    pub bind: SocketAddr,
    /// Where others reach this host, if that is not where it listens: behind address translation, in a
    /// container, or if it listens everywhere.
    pub advertise: Option<SocketAddr>,
    /// Hosts to join, as `name:port` or `address:port`. All addresses of a name are asked, and it is
    /// looked up again from time to time. CLU-001, CLU-002
    pub seeds: Vec<String>,
    /// The cluster's keys. Without them whoever reaches the port can say what he likes. CLU-012
    pub keys: Option<KeyRing>,
    /// Whether a datagram has to come from the address that its sender tells of itself. If not said:
    /// exactly so without keys, from anywhere with them.
    pub sources: Option<Sources>,
    /// Zone and build.
    pub labels: Labels,
    /// Times and numbers; the same on all hosts.
    pub tuning: Tuning,
}

/// A host was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operator has to choose another address.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The host listens everywhere, or tells an address that leads nowhere: the operator has to say
    /// where others reach it.
    #[error("{address} is no address that others reach; advertise one")]
    Unreachable {
        /// Which.
        address: SocketAddr,
    },
    /// A seed is not `name:port`.
    #[error("{seed:?} is no seed: write host:port")]
    Seed {
        /// Which.
        seed: String,
    },
    /// More than [`SEED_NAMES_MAX`].
    #[error("{count} seeds are too many; at most {SEED_NAMES_MAX}")]
    Seeds {
        /// How many.
        count: usize,
    },
    /// A label is too long.
    #[error("a label is too long: {0}")]
    Label(#[from] crate::protocol::record::RecordError),
    /// Times or numbers contradict each other.
    #[error("tuning: {what}")]
    Tuning {
        /// Which.
        what: &'static str,
    },
    /// The system has no threads, no random numbers or no events to give.
    #[error("cannot start: {0}")]
    System(#[source] std::io::Error),
}

impl Config {
    /// A host without seeds and keys that listens on `bind`.
    pub fn new(clock: SystemClock, environment: &str, bind: SocketAddr) -> Config {
        Config {
            clock,
            environment: environment.to_owned(),
            cluster: None,
            bind,
            advertise: None,
            seeds: Vec::new(),
            keys: None,
            sources: None,
            labels: Labels::default(),
            tuning: Tuning::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), StartError> {
        self.tuning.check().map_err(|what| StartError::Tuning { what })?;
        if self.seeds.len() > SEED_NAMES_MAX {
            return Err(StartError::Seeds { count: self.seeds.len() });
        }
        let is_seed = |seed: &&String| {
            let parts = seed.rsplit_once(':');
            parts.is_some_and(|(name, port)| {
                !name.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
            })
        };
        match self.seeds.iter().find(|seed| !is_seed(seed)) {
            Some(seed) => Err(StartError::Seed { seed: seed.clone() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_seed_is_said_before_a_socket_opens() {
        let bind = SocketAddr::from(([127, 0, 0, 1], 0));
        let with = |seed: &str| {
            let mut config = Config::new(SystemClock::new(), "test", bind);
            config.seeds = vec![seed.to_owned()];
            config.check().map_err(|error| error.to_string())
        };
        for right in ["localhost:7883", "10.0.0.1:1", "[::1]:7883"] {
            assert_eq!(with(right), Ok(()));
        }
        for wrong in ["localhost", ":7883", "host:", "host:0", "host:70000", ""] {
            assert!(with(wrong).is_err_and(|error| error.contains("host:port")), "{wrong}");
        }
    }
}
