//! A cluster whose workloads have nodes of their own: what a node is for, and which is killed when.

/// What a node is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workload {
    /// Everything.
    #[default]
    All,
    /// Clients.
    Front,
    /// Sessions, who is where, and what is retained.
    Store,
    /// Routes.
    Routes,
}

/// The nodes of `--harm roles`. Those with clients come first, so that doors have the numbers of their nodes.
pub const NODES: [Workload; 7] = [
    Workload::Front,
    Workload::Front,
    Workload::Store,
    Workload::Store,
    Workload::Store,
    Workload::Routes,
    Workload::Routes,
];

/// In which order they are killed: one of each kind after the other.
const TURNS: [usize; 7] = [2, 5, 0, 3, 6, 1, 4];

impl Workload {
    /// Whether clients connect to it.
    #[must_use]
    pub fn has_clients(self) -> bool {
        matches!(self, Workload::All | Workload::Front)
    }

    /// The line of its configuration that says so.
    #[must_use]
    pub fn roles(self) -> &'static str {
        match self {
            Workload::All => "roles = [\"all\"]\n",
            Workload::Front => "roles = [\"mqtt\", \"admin\"]\n",
            Workload::Store => "roles = [\"inbox\", \"retain\", \"session-dict\", \"admin\"]\n",
            Workload::Routes => "roles = [\"dist\", \"admin\"]\n",
        }
    }
}

/// Whose turn it is in a round, which are counted from 1.
#[must_use]
pub fn turn(round: u32) -> usize {
    TURNS[round.saturating_sub(1) as usize % TURNS.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_rounds_kill_one_of_each_kind_and_seven_kill_all() {
        let killed = [1, 2, 3].map(|round| NODES[turn(round)]);
        assert_eq!(killed, [Workload::Store, Workload::Routes, Workload::Front]);
        let mut all: Vec<usize> = (1..=7).map(turn).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5, 6]);
        assert!(NODES.is_sorted_by_key(|workload| !workload.has_clients()));
    }
}
