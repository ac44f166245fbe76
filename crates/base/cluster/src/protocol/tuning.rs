//! The times and numbers of the protocol.
//!
//! The defaults are for hosts of one site. All hosts of a cluster should have the same.

use std::time::Duration;

/// How often, how long, how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How often a member is probed, each in its turn. 2 s. CLU-004
    pub probe_interval: Duration,
    /// How long an answer may take before others are asked to probe. 500 ms. CLU-004
    pub probe_timeout: Duration,
    /// How many are asked. 3. CLU-004
    pub indirect_probes: usize,
    /// How long a suspect has to refute, in a cluster of up to ten hosts; in a larger one, times the
    /// decimal logarithm of their number. 4 s. CLU-005
    pub suspicion: Duration,
    /// How often news are told, while there are any. 200 ms. CLU-007
    pub gossip_interval: Duration,
    /// How many are told each time. 4. CLU-007
    pub gossip_fanout: usize,
    /// How often each host tells the same news. 15.
    pub transmissions: u8,
    /// How often hosts that count as dead are told that this one lives. 5 s.
    pub announce_to_down: Duration,
    /// The shortest time between two attempts of a host without company to find some; the longest is
    /// twice that. 1 s.
    pub announce_alone: Duration,
    /// How often seeds that are no members are asked, also when all seems well: so clusters meet that were
    /// started apart. 30 s.
    pub seed_interval: Duration,
    /// How often everything is compared with one member, chosen at random. 10 s.
    pub sync_interval: Duration,
    /// How long a connection may take in all, until it is closed whatever it does. 10 s.
    pub stream_time: Duration,
    /// How long the record of a dead host is kept, hidden, in case it only seemed dead. 10 min.
    pub record_grace: Duration,
    /// How long a dead host is remembered. 24 h.
    pub down_memory: Duration,
    /// How long a removed entry of the map is remembered. A host that was away for longer may bring
    /// it back. 24 h.
    pub tombstone_memory: Duration,
    /// Whether a host that had company and lost it calls its seeds and all addresses that it ever heard
    /// of. Only off to show what happens then: see decision 0017.
    pub reannounce: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Tuning {
            probe_interval: Duration::from_secs(2),
            probe_timeout: Duration::from_millis(500),
            indirect_probes: 3,
            suspicion: Duration::from_secs(4),
            gossip_interval: Duration::from_millis(200),
            gossip_fanout: 4,
            transmissions: 15,
            announce_to_down: Duration::from_secs(5),
            announce_alone: Duration::from_secs(1),
            seed_interval: Duration::from_secs(30),
            sync_interval: Duration::from_secs(10),
            stream_time: Duration::from_secs(10),
            record_grace: Duration::from_secs(600),
            down_memory: day,
            tombstone_memory: day,
            reannounce: true,
        }
    }
}

impl Tuning {
    /// How long a suspect has to refute in a cluster of `hosts`. CLU-005
    pub fn suspicion_of(&self, hosts: usize) -> Duration {
        let hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
        self.suspicion.mul_f64(f64::from(hosts.max(10)).log10())
    }

    /// Says which value makes no sense.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let periods = [
            self.probe_interval,
            self.probe_timeout,
            self.suspicion,
            self.gossip_interval,
            self.announce_to_down,
            self.announce_alone,
            self.seed_interval,
            self.sync_interval,
            self.stream_time,
        ];
        if periods.iter().any(|period| *period < Duration::from_millis(1)) {
            return Err("a period is shorter than 1 ms");
        }
        if self.probe_timeout >= self.probe_interval {
            return Err("probe_timeout is not below probe_interval");
        }
        if self.indirect_probes == 0 || self.gossip_fanout == 0 || self.transmissions == 0 {
            return Err("indirect_probes, gossip_fanout and transmissions are at least 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CLU-005: the time to refute grows with the logarithm of the number of hosts.
    #[test]
    fn the_time_to_refute_grows_with_the_logarithm_of_the_number_of_hosts() {
        let tuning = Tuning::default();
        for (hosts, millis) in [(1, 4_000), (10, 4_000), (31, 5_965), (100, 8_000), (1000, 12_000)]
        {
            assert_eq!(tuning.suspicion_of(hosts).as_millis(), millis, "{hosts} hosts");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(Tuning::default().check(), Ok(()));
        let wrong = Tuning { probe_timeout: Duration::from_secs(2), ..Tuning::default() };
        assert!(wrong.check().is_err_and(|what| what.contains("probe_timeout")));
        assert!(Tuning { gossip_fanout: 0, ..Tuning::default() }.check().is_err());
        assert!(Tuning { sync_interval: Duration::ZERO, ..Tuning::default() }.check().is_err());
    }
}
