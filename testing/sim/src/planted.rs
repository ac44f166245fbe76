//! Faults that are put in on purpose: a simulation that does not find them proves nothing.

/// What is wrong, for a whole run.
#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Planted {
    /// A write of the log that is to wait for the disk answers without it.
    FsyncSkipped,
    /// The log is told that all is durable that was applied, and gives it up.
    TruncatedAhead,
    /// Callers are told before their entry is in the log.
    AnsweredEarly,
    /// How far a range came is one batch of the engine, what it has is the next.
    AppliedApart,
    /// The will of a connection is kept some time after it was acknowledged.
    WillLate,
    /// A message of QoS 2 is queued, that it was accepted is not noted.
    ExchangeForgotten,
    /// A route that is removed stays in the store.
    RouteForgotten,
    /// What an earlier process wrote and did not wait for counts as durable.
    FoundUnsynced,
    /// How far a group is committed is not written with a change of its members.
    CommitForgotten,
    /// Which replica a store is is not written.
    ReplicaForgotten,
    /// Leaders read for long without asking whether they lead still.
    LeaseLong,
    /// Callers are answered before replicas that serve have what they asked for.
    HoldersForgotten,
    /// A new leader answers at once, though others may have lent.
    LeaderHasty,
    /// A replica counts what it was lent from when it came.
    LoanLate,
    /// The inbox reads back what is there before the leader has everything.
    RestoredEarly,
    /// A command is written for the version that the range has, not for the one that its caller knew.
    VersionForgotten,
    /// A frozen range thaws although nobody knows whether it is taken in.
    ThawUnproven,
    /// A range is to be taken in before all have in their logs that it froze.
    MergeUnchecked,
    /// That a range's data comes from another store is not written before the first of it.
    InstallUnmarked,
    /// Data that has come from another store counts before it is synced.
    InstallUnsynced,
    /// A range is raised although not all its stores support it.
    GateIgnored,
    /// A store is brought in, whatever it supports.
    NewcomerUnchecked,
    /// That a range's data goes is not written before the first of it goes.
    RemovalUnmarked,
}
