//! Files of rules and users: bounded reading, and errors that name file and line.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of the largest file that is read. A file beyond it is a mistake.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What is wrong with a line. The operator must mend it; nothing of the file is in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct LineError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong. Never holds a password hash.
    pub why: String,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is too large to be what it should be.
    #[error("{path}: larger than {FILE_BYTES_MAX} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line of it is wrong.
    #[error("{path}:{line}: {why}", path = path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
}

impl FileError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn line(path: &Path, error: LineError) -> Self {
        Self::Line { path: path.to_owned(), line: error.line, why: error.why }
    }
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> Result<String, FileError> {
    let file = File::open(path).map_err(|error| FileError::io(path, error))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| FileError::io(path, error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        FileError::line(path, LineError { line, why: "not UTF-8".to_owned() })
    })
}
