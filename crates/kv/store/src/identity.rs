//! Who a store is: a file beside its data, written last when a store is made, so that a folder
//! with the file has been whole once, and one with data and without the file has lost something.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;

/// The file's name.
pub(crate) const FILE: &str = "identity";
const FIRST_LINE: &str = "ratatosk store";
/// Raised when an older program could not read the folder, or this one not an older folder.
const FORMAT: u32 = 4;
/// More than any identity has: a file that is longer is none.
const BYTES_MAX: u64 = 1024;

/// A store and the cluster it was made in. Different clusters never merge. KV-017
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its number in Raft groups: random, never 0, never given to another store.
    pub store: u64,
    /// The cluster's.
    pub cluster: u64,
}

/// The file cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("it cannot be read or written: {0}")]
    Io(#[from] std::io::Error),
    #[error("its format is {0}, and this program reads up to {FORMAT}: use a newer version")]
    Newer(u32),
    #[error(
        "its format is {0}, of a build before the first release, and this program reads {FORMAT}: \
         use that build, or another data directory"
    )]
    Older(u32),
    #[error("it is damaged: {0}")]
    Damaged(String),
}

impl Identity {
    /// Who the store of a folder is; `None` if it has none yet.
    ///
    /// # Errors
    /// The file cannot be read, or is not what was written.
    pub fn of(folder: &Path) -> Result<Option<Self>, crate::OpenError> {
        Self::read(folder).map_err(|error| crate::OpenError::of_identity(folder, error))
    }

    /// The identity of a folder; `None` if it has none.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let file = match File::open(folder.join(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut text = String::new();
        let read = file.take(BYTES_MAX).read_to_string(&mut text);
        read.map_err(|error| match error.kind() {
            ErrorKind::InvalidData => Error::Damaged("it is no text".to_owned()),
            _ => error.into(),
        })?;
        Self::parse(&text).map(Some)
    }

    /// Writes it so that it is there whole or not at all, also after a power loss.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Error> {
        let fresh = folder.join("identity.new");
        let mut file = File::create(&fresh)?;
        file.write_all(self.to_text().as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, folder.join(FILE))?;
        File::open(folder)?.sync_all()?;
        Ok(())
    }

    fn to_text(self) -> String {
        let Self { store, cluster } = self;
        let text =
            format!("{FIRST_LINE}\nformat {FORMAT}\nstore {store:016x}\ncluster {cluster:016x}\n");
        let sum = crate::sum::of(text.as_bytes());
        format!("{text}sum {sum:016x}\n")
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let damaged = |what: &str| Error::Damaged(what.to_owned());
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err(Error::Damaged(format!("it does not begin with {FIRST_LINE:?}")));
        }
        let mut value = |name: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.ok_or_else(|| damaged(&format!("the line of the {name} is missing")))
        };
        let format = value("format")?.parse().map_err(|_| damaged("its format is no number"))?;
        if format > FORMAT {
            return Err(Error::Newer(format));
        }
        if format < FORMAT {
            return Err(Error::Older(format));
        }
        let number = |text: &str| u64::from_str_radix(text, 16);
        let store = number(value("store")?).map_err(|_| damaged("the store is no number"))?;
        let cluster = number(value("cluster")?).map_err(|_| damaged("the cluster is no number"))?;
        let read = Self { store, cluster };
        match store {
            0 => Err(damaged("a store has a number")),
            _ if text != read.to_text() => Err(damaged("its sum is another")),
            _ => Ok(read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { store: 0xAB, cluster: 7 };
    const TEXT: &str = "ratatosk store\nformat 4\nstore 00000000000000ab\ncluster 0000000000000007\nsum 277ba017db9cdf1d\n";

    /// Bytes that a release has written stay readable.
    #[test]
    fn an_identity_is_five_lines() {
        assert_eq!(IDENTITY.to_text(), TEXT);
        assert_eq!(Identity::parse(TEXT).expect("well formed"), IDENTITY);
    }

    #[test]
    fn what_is_damaged_or_of_another_format_says_so() {
        let says = |text: &str| Identity::parse(text).expect_err("refused").to_string();
        assert!(says("").contains("does not begin"));
        assert!(says("ratatosk store\n").contains("format is missing"));
        assert!(says(&TEXT.replace("format 4", "format 5")).contains("newer version"));
        assert!(says(&TEXT.replace("format 4", "format 3")).contains("before the first release"));
        assert!(says(&TEXT.replace("00ab", "00xy")).contains("no number"));
        assert!(says(&TEXT.replace("00ab", "0000")).contains("has a number"));
        assert!(says(&TEXT.replace("00ab", "00aa")).contains("its sum is another"));
    }
}
