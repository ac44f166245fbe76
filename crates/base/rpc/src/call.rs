//! What travels with each call: whose it is, until when it matters, and which trace it is part of.

use std::time::Duration;

use tokio::time::Instant;

use crate::identity::{HostId, Tenant};

/// A place in a trace, as W3C Trace Context has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The whole trace.
    pub trace: u128,
    /// The span that calls.
    pub span: u64,
    /// Whether somebody records it.
    pub is_sampled: bool,
}

/// What travels with a call. Made by the caller, handed to the handler.
#[derive(Clone, Debug)]
pub struct Call {
    tenant: Tenant,
    deadline: Option<Instant>,
    trace: Option<Trace>,
    caller: Option<HostId>,
}

impl Call {
    /// A call for a tenant, without a deadline of its own: then the client's
    /// [`crate::Config::call_timeout`] bounds a single call, and nothing bounds a stream.
    #[must_use]
    pub const fn new(tenant: Tenant) -> Self {
        Self { tenant, deadline: None, trace: None, caller: None }
    }

    /// The same, to be answered before `deadline`.
    #[must_use]
    pub fn until(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The same, to be answered within `time` from now.
    #[must_use]
    pub fn within(self, time: Duration) -> Self {
        self.until(Instant::now() + time)
    }

    /// The same, as part of a trace.
    #[must_use]
    pub const fn traced(mut self, trace: Trace) -> Self {
        self.trace = Some(trace);
        self
    }

    /// The same without a deadline.
    pub(crate) fn endless(mut self) -> Self {
        self.deadline = None;
        self
    }

    pub(crate) const fn from(mut self, caller: HostId) -> Self {
        self.caller = Some(caller);
        self
    }

    /// Whose call it is.
    #[must_use]
    pub const fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// When its answer ceases to matter. At the server this is the caller's deadline, counted
    /// from the arrival of the call; pass it on to the calls that this one needs.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Which trace it is part of.
    #[must_use]
    pub const fn trace(&self) -> Option<Trace> {
        self.trace
    }

    /// At the server: the process that called, as its handshake said.
    #[must_use]
    pub const fn caller(&self) -> Option<HostId> {
        self.caller
    }
}
