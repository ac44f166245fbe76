//! How well this host itself does, after Dadgar, Phillips and Currey, *Lifeguard: Local Health
//! Awareness for More Accurate Failure Detection* (2018), section IV-A.
//!
//! A host that is slow to read its own datagrams takes everybody else for dead. So it keeps a score of
//! itself, 0 (healthy) to 4, and waits `1 + score` times as long before it believes that a probe
//! failed. CLU-006
//!
//! Better: a probe that was answered. Worse: a suspicion of this host that it had to refute; a probe
//! that failed though no helper confirmed in time that it was asked (the paper's missed *nacks*; here
//! the helper confirms at once, by a datagram of kind *heard*); a stall of the process. A probe that
//! failed while every helper confirmed says something of its target only.

use super::identity::Host;

/// The worst score.
pub const SCORE_MAX: u8 = 4;

/// The score of this host, and the probe that is under way.
#[derive(Debug, Default)]
pub(crate) struct Health {
    score: u8,
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    target: Host,
    number: u8,
    is_answered: bool,
    helpers: u8,
    heard: u8,
}

/// What became of a probe.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    Failed,
}

impl Health {
    pub(crate) fn score(&self) -> u8 {
        self.score
    }

    /// How many times as long this host waits as a healthy one.
    pub(crate) fn factor(&self) -> u32 {
        1 + u32::from(self.score)
    }

    pub(crate) fn worse(&mut self, by: u8) {
        self.score = self.score.saturating_add(by).min(SCORE_MAX);
    }

    fn better(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// A probe was sent.
    pub(crate) fn probe(&mut self, target: Host, number: u8) {
        self.probe = Some(Probe { target, number, is_answered: false, helpers: 0, heard: 0 });
    }

    /// The probe that is under way, if any, will not be concluded.
    pub(crate) fn abandon(&mut self) {
        self.probe = None;
    }

    /// A helper was asked for the probe of this number.
    pub(crate) fn asked_helper(&mut self, number: u8) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.number == number) {
            probe.helpers = probe.helpers.saturating_add(1);
        }
    }

    /// A helper confirms that it was asked.
    pub(crate) fn heard(&mut self, number: u8) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.number == number) {
            probe.heard = probe.heard.saturating_add(1).min(probe.helpers);
        }
    }

    /// The target answered, itself or through a helper.
    pub(crate) fn answered(&mut self, target: &Host, number: u8) {
        if let Some(probe) = &mut self.probe
            && probe.number == number
            && probe.target.id == target.id
        {
            probe.is_answered = true;
        }
    }

    /// The time of the probe is over. `is_member` says whether its target still counts.
    pub(crate) fn conclude(&mut self, is_member: impl Fn(&Host) -> bool) -> Option<Outcome> {
        let probe = self.probe.take()?;
        if probe.is_answered {
            self.better();
            return Some(Outcome::Answered);
        }
        if !is_member(&probe.target) {
            return None;
        }
        // With nobody to ask, it may be either of the two.
        self.worse(if probe.helpers == 0 { 1 } else { probe.helpers - probe.heard });
        Some(Outcome::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::identity::HostId;

    fn host(last: u8) -> Host {
        let address = std::net::SocketAddr::from(([10, 0, 0, last], 1));
        Host { address, generation: 1, id: HostId::from_bytes([last; 16]) }
    }

    fn failed(health: &mut Health, helpers: u8, heard: u8) {
        health.probe(host(1), 9);
        (0..helpers).for_each(|_| health.asked_helper(9));
        (0..heard).for_each(|_| health.heard(9));
        assert_eq!(health.conclude(|_| true), Some(Outcome::Failed));
    }

    /// CLU-006: the score is between 0 and 4, rises with what this host missed, and falls with answers.
    #[test]
    fn the_score_rises_with_what_was_missed_and_falls_with_answers() {
        let mut health = Health::default();
        failed(&mut health, 3, 3);
        assert_eq!((health.score(), health.factor()), (0, 1));
        failed(&mut health, 3, 2);
        assert_eq!(health.score(), 1);
        failed(&mut health, 0, 0);
        assert_eq!(health.score(), 2);
        failed(&mut health, 3, 0);
        assert_eq!((health.score(), health.factor()), (4, 5));
        for expected in [3, 2, 1, 0, 0] {
            health.probe(host(1), 10);
            health.answered(&host(1), 10);
            assert_eq!(health.conclude(|_| true), Some(Outcome::Answered));
            assert_eq!(health.score(), expected);
        }
    }

    #[test]
    fn answers_to_another_probe_and_targets_that_are_gone_do_not_count() {
        let mut health = Health::default();
        health.probe(host(1), 9);
        health.answered(&host(1), 8);
        health.answered(&host(2), 9);
        health.asked_helper(8);
        assert_eq!(health.conclude(|_| false), None);
        assert_eq!((health.score(), health.conclude(|_| true)), (0, None));
    }
}
