//! What a run is to do. A seed decides which node is harmed how and when; how that meets the clients
//! is up to the machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What decides actions and harm.
    pub seed: u64,
    /// How often there is harm.
    pub rounds: u32,
    /// What kind.
    pub harm: Harm,
    /// Where the nodes are.
    pub ground: Ground,
    /// How many there are; one if `ground` says so.
    pub nodes: usize,
    /// Messages a second of each publisher.
    pub rate: u32,
    /// The longest time that harm lasts, where it lasts.
    pub span: Duration,
    /// In which folder those of the nodes are made, to be kept if something is wrong.
    pub keep: PathBuf,
}

/// What is done to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Harm {
    /// kill -9 of each node in turn, and a start on the same data.
    Kill,
    /// A node is cut off from the others, with or without its clients: any, or who leads most.
    Partition,
    /// A node hears the others and is not heard, or the other way round.
    Asymmetric,
    /// Each node is stopped by SIGTERM and started again, one after the other.
    Rolling,
    /// kill -9 of a node, which comes back without its data.
    Replace,
    /// Another node joins, takes part, is drained and goes.
    Grow,
    /// kill -9 of a node in turn, and a start on the same data: of seven, two have clients only, three keep
    /// sessions and what is retained, two keep routes.
    Roles,
    /// Two clients with one client identifier race to connect at different nodes, some of the time while
    /// a node is cut off; a round is one race.
    Takeover,
}

/// Where the nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// One process stands for all.
    Alone,
    /// On addresses of the loopback: nobody can be cut off.
    Loopback,
    /// Each in a network namespace of its own, on one bridge.
    Namespaces,
}

impl Harm {
    /// Whether it takes a network that loses packets.
    #[must_use]
    pub fn is_of_network(self) -> bool {
        matches!(self, Harm::Partition | Harm::Asymmetric)
    }

    /// Its word on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Harm::Kill => "kill",
            Harm::Partition => "partition",
            Harm::Asymmetric => "asymmetric",
            Harm::Rolling => "rolling",
            Harm::Replace => "replace",
            Harm::Grow => "grow",
            Harm::Roles => "roles",
            Harm::Takeover => "takeover",
        }
    }
}

impl Plan {
    /// Why it cannot be done, if it cannot.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        let is_alone = self.ground == Ground::Alone;
        if self.harm.is_of_network() && self.ground != Ground::Namespaces {
            return Some(
                "packets are lost between network namespaces only: leave --loopback and --alone out",
            );
        }
        if is_alone && self.harm != Harm::Kill {
            return Some("with --alone there is one process, which can be killed and nothing else");
        }
        if !is_alone && self.nodes < 3 {
            return Some("a cluster that loses a node and goes on has at least 3");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(harm: Harm, ground: Ground, nodes: usize) -> Option<&'static str> {
        let span = Duration::from_secs(1);
        let keep = PathBuf::new();
        Plan { seed: 1, rounds: 1, harm, ground, nodes, rate: 1, span, keep }.problem()
    }

    #[test]
    fn what_cannot_be_done_is_said_before_anything_is_started() {
        assert_eq!(problem(Harm::Kill, Ground::Alone, 1), None);
        assert_eq!(problem(Harm::Kill, Ground::Loopback, 3), None);
        assert_eq!(problem(Harm::Asymmetric, Ground::Namespaces, 3), None);
        for (harm, ground, nodes) in [
            (Harm::Rolling, Ground::Alone, 1),
            (Harm::Partition, Ground::Loopback, 3),
            (Harm::Kill, Ground::Namespaces, 2),
        ] {
            assert!(problem(harm, ground, nodes).is_some(), "{harm:?} {ground:?} {nodes}");
        }
    }
}
