//! The exit codes: a contract with scripts and service managers.

use std::process::ExitCode;

/// How the process ends. A wrong command line ends with 2: `clap` does that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// All went well.
    Clean = 0,
    /// It failed, and trying again may help.
    Failure = 1,
    /// The configuration is wrong.
    Configuration = 3,
    /// The data needs the operator, or the node is not ready.
    Operator = 4,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}
