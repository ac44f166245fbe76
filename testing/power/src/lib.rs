//! What a disk may have after a power loss, made from a trace of what a process wrote to it.
//!
//! [`record`] is the trace: every change of a folder and every sync, in order. [`disk`] replays it
//! over what the folder was before, and knows of each sector and each name what is certain and
//! what may be. [`Disk::lose`] draws one of the states that the specification of the system's calls
//! allows, not only those that one file system makes of it: data, sizes and names that were not
//! synced are kept or lost independently, a sector at a time. A name is certain once its *folder* was
//! synced. [`watch`] has a process write the trace, through `ratatosk-shim`, and lets its disk wait
//! or fail.
//!
//! Disks that lie about a sync, or damage what they have, are not here.
#![allow(
    clippy::disallowed_methods,
    reason = "reads and writes the folders of tests; nothing here ships"
)]

pub mod disk;
pub mod image;
pub mod record;
pub mod watch;

pub use disk::{Disk, Surprise};
pub use image::Image;
pub use record::Record;
pub use watch::{Order, Watch};
