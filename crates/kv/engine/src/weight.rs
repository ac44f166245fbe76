//! How much data there is between two keys, and where its middle is.

use bytes::Bytes;

/// What the data of a range of keys comes to, about: keys, values, and what was removed and is still on
/// the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes on disk.
    pub bytes: u64,
    /// A key of the range, not its first, with about half of the bytes before it; `None` if there is too
    /// little to know one.
    pub middle: Option<Bytes>,
}
