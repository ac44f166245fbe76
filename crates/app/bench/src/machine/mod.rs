//! The pure half of the generator: frames in, verdicts out.
//!
//! Nothing here knows sockets, clocks or processes: bytes, sequence numbers and times are arguments.
//! That is why loss, duplicates and order can be tested by planting the faults.

pub(crate) mod stamp;

pub(crate) mod assertion;
pub(crate) mod figure;
pub(crate) mod flow;
pub(crate) mod ledger;
pub(crate) mod scan;
pub(crate) mod template;
pub(crate) mod tracker;
pub(crate) mod window;
pub(crate) mod wire;
