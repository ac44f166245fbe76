//! A trace in bytes: what happened to a folder, a record for each call.
//!
//! A record is its length (4 bytes), its kind (1 byte) and its parts; numbers are little-endian, a
//! text is its length (4 bytes) and its bytes. The last record of a killed process may be cut off.

/// A file of the system, as long as it has a name or is open: its inode.
pub type Inode = u64;

/// Something that happened. Paths are absolute. What the call says is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A file was opened for writing, and made if it was not there.
    Opened {
        /// Its name.
        path: String,
        /// What the name stands for now.
        inode: Inode,
        /// It was emptied.
        is_emptied: bool,
    },
    /// Bytes were written.
    Written {
        /// Where to.
        inode: Inode,
        /// From which byte on.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// The size was set.
    Resized {
        /// Of what.
        inode: Inode,
        /// Bytes; what is added is zeros.
        size: u64,
    },
    /// Room was made, so that the size is at least this.
    Grown {
        /// Of what.
        inode: Inode,
        /// Bytes.
        size: u64,
    },
    /// A sync begins: what is before it in the trace is part of it.
    SyncBegun {
        /// A number that no other sync has.
        sync: u64,
        /// Of a file or a folder.
        inode: Inode,
        /// Its name.
        path: String,
    },
    /// A sync came back without an error.
    SyncEnded {
        /// Its number.
        sync: u64,
    },
    /// A file or folder got another name, in place of what had it.
    Renamed {
        /// What it was called.
        from: String,
        /// What it is called.
        to: String,
    },
    /// A name is gone, that of an empty folder too.
    Removed {
        /// The name.
        path: String,
    },
    /// A folder was made.
    FolderMade {
        /// Its name.
        path: String,
    },
    /// A call that changes files and that a trace cannot follow.
    Unknown {
        /// Which.
        call: String,
    },
}

const OPENED: u8 = 1;
const WRITTEN: u8 = 2;
const RESIZED: u8 = 3;
const GROWN: u8 = 4;
const SYNC_BEGUN: u8 = 5;
const SYNC_ENDED: u8 = 6;
const RENAMED: u8 = 7;
const REMOVED: u8 = 8;
const FOLDER_MADE: u8 = 9;
const UNKNOWN: u8 = 10;

/// Bytes of a length.
const LENGTH_BYTES: usize = 4;

impl Record {
    /// Appends its bytes.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend([0; LENGTH_BYTES]);
        match self {
            Record::Opened { path, inode, is_emptied } => {
                into.push(OPENED);
                number(into, *inode);
                into.push(u8::from(*is_emptied));
                text(into, path);
            }
            Record::Written { inode, offset, bytes } => {
                into.push(WRITTEN);
                number(into, *inode);
                number(into, *offset);
                into.extend_from_slice(bytes);
            }
            Record::Resized { inode, size } => {
                into.push(RESIZED);
                number(into, *inode);
                number(into, *size);
            }
            Record::Grown { inode, size } => {
                into.push(GROWN);
                number(into, *inode);
                number(into, *size);
            }
            Record::SyncBegun { sync, inode, path } => {
                into.push(SYNC_BEGUN);
                number(into, *sync);
                number(into, *inode);
                text(into, path);
            }
            Record::SyncEnded { sync } => {
                into.push(SYNC_ENDED);
                number(into, *sync);
            }
            Record::Renamed { from, to } => {
                into.push(RENAMED);
                text(into, from);
                text(into, to);
            }
            Record::Removed { path } => {
                into.push(REMOVED);
                text(into, path);
            }
            Record::FolderMade { path } => {
                into.push(FOLDER_MADE);
                text(into, path);
            }
            Record::Unknown { call } => {
                into.push(UNKNOWN);
                text(into, call);
            }
        }
        let length = u32::try_from(into.len() - start - LENGTH_BYTES).unwrap_or(u32::MAX);
        into[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    }

    /// All records of a trace; one that is cut off at the end is left out, for what it says was not
    /// answered to anybody. `None` if there is another that cannot be read.
    #[must_use]
    pub fn decode_all(trace: &[u8]) -> Option<Vec<Record>> {
        let mut rest = trace;
        let mut records = Vec::new();
        while let Some((length, behind)) = rest.split_first_chunk::<LENGTH_BYTES>() {
            let length = u32::from_le_bytes(*length) as usize;
            let Some((body, behind)) = behind.split_at_checked(length) else { break };
            records.push(Record::decode(body)?);
            rest = behind;
        }
        Some(records)
    }

    fn decode(body: &[u8]) -> Option<Record> {
        let (kind, rest) = body.split_first()?;
        let mut parts = Parts(rest);
        let record = match *kind {
            OPENED => {
                let (inode, is_emptied) = (parts.number()?, parts.byte()? != 0);
                Record::Opened { path: parts.text()?, inode, is_emptied }
            }
            WRITTEN => {
                let (inode, offset) = (parts.number()?, parts.number()?);
                Record::Written { inode, offset, bytes: std::mem::take(&mut parts.0).to_vec() }
            }
            RESIZED => Record::Resized { inode: parts.number()?, size: parts.number()? },
            GROWN => Record::Grown { inode: parts.number()?, size: parts.number()? },
            SYNC_BEGUN => {
                let (sync, inode) = (parts.number()?, parts.number()?);
                Record::SyncBegun { sync, inode, path: parts.text()? }
            }
            SYNC_ENDED => Record::SyncEnded { sync: parts.number()? },
            RENAMED => Record::Renamed { from: parts.text()?, to: parts.text()? },
            REMOVED => Record::Removed { path: parts.text()? },
            FOLDER_MADE => Record::FolderMade { path: parts.text()? },
            UNKNOWN => Record::Unknown { call: parts.text()? },
            _ => return None,
        };
        parts.0.is_empty().then_some(record)
    }
}

fn number(into: &mut Vec<u8>, number: u64) {
    into.extend(number.to_le_bytes());
}

fn text(into: &mut Vec<u8>, text: &str) {
    into.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    into.extend_from_slice(text.as_bytes());
}

struct Parts<'a>(&'a [u8]);

impl Parts<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    fn text(&mut self) -> Option<String> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.0 = rest;
        String::from_utf8(bytes.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Record> {
        let path = || "/a/b".to_owned();
        vec![
            Record::Opened { path: path(), inode: 7, is_emptied: true },
            Record::Written { inode: 7, offset: 1 << 40, bytes: b"bytes".to_vec() },
            Record::Resized { inode: 7, size: 3 },
            Record::Grown { inode: 7, size: 4 },
            Record::SyncBegun { sync: 1, inode: 7, path: path() },
            Record::SyncEnded { sync: 1 },
            Record::Renamed { from: path(), to: "/ü".to_owned() },
            Record::Removed { path: path() },
            Record::FolderMade { path: path() },
            Record::Unknown { call: "mmap".to_owned() },
        ]
    }

    #[test]
    fn records_come_back_as_they_were() {
        let mut trace = Vec::new();
        some().iter().for_each(|record| record.encode(&mut trace));
        assert_eq!(Record::decode_all(&trace), Some(some()));
    }

    #[test]
    fn a_record_that_is_cut_off_is_left_out() {
        let mut trace = Vec::new();
        some().iter().for_each(|record| record.encode(&mut trace));
        let mut counts = Vec::new();
        for end in 0..=trace.len() {
            let read = Record::decode_all(&trace[..end]).expect("the beginning of a trace");
            assert_eq!(read[..], some()[..read.len()]);
            counts.push(read.len());
        }
        counts.dedup();
        assert_eq!(counts, (0..=some().len()).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_no_trace_is_not_read() {
        assert_eq!(Record::decode_all(&[1, 0, 0, 0, 99]), None);
        assert_eq!(Record::decode_all(&[0, 0, 0, 0]), None);
        assert_eq!(Record::decode_all(&[3, 0, 0, 0, SYNC_ENDED, 1, 2]), None);
    }
}
