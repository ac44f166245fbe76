//! Where a value came from, and what is wrong with it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a value came from. Later ones in this list win over earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File { path: Arc<Path>, line: usize, column: usize },
    /// An environment variable.
    Environment { name: String },
    /// A flag of the command line.
    Flag { flag: String },
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { path, line, .. } => write!(formatter, "{}:{line}", path.display()),
            Self::Environment { name } => write!(formatter, "env {name}"),
            Self::Flag { flag } => write!(formatter, "flag {flag}"),
        }
    }
}

/// One thing that the operator must correct.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    pub(crate) origin: Origin,
    /// The key, or empty when it is about the file as a whole.
    pub(crate) key: String,
    pub(crate) what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => {}
            Origin::File { path, line, column } => {
                write!(formatter, "{}:{line}:{column}: ", path.display())?;
            }
            Origin::Environment { name } => write!(formatter, "environment variable {name}: ")?,
            Origin::Flag { flag } => write!(formatter, "{flag}: ")?,
        }
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        formatter.write_str(&self.what)
    }
}

/// The configuration was refused; everything that is wrong with it, in order of place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    problems: Vec<Problem>,
}

impl Refused {
    /// # Panics
    /// When nothing is wrong: a bug of the caller.
    pub(crate) fn new(mut problems: Vec<Problem>) -> Self {
        assert!(!problems.is_empty(), "a refusal has a reason");
        problems.sort();
        problems.dedup();
        Self { problems }
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let path = PathBuf::from(path);
        let what = format!("cannot read configuration file {}: {error}", path.display());
        Self::new(vec![Problem { origin: Origin::Default, key: String::new(), what }])
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            problem.fmt(formatter)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}
