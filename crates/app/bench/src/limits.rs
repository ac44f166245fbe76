//! File descriptors: the soft limit is raised to the hard one, and what does not fit is said beforehand.

use anyhow::{Context as _, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors besides the connections: standard streams, epoll, timer, `/proc`.
const SPARE: u64 = 64;

/// Makes room for `connections`, or tells how much there is.
pub(crate) fn reserve_descriptors(connections: usize) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let needed = connections as u64 + SPARE;
    if let Some(hard) = limit.maximum.filter(|&hard| hard < needed) {
        bail!(
            "{connections} connections need {needed} file descriptors, but the hard limit is \
             {hard}: raise it (ulimit -Hn), or make fewer connections"
        );
    }
    if limit.current.is_some_and(|soft| soft < needed) {
        raise_descriptors()?;
    }
    Ok(())
}

/// Raises the soft limit to the hard one.
pub(crate) fn raise_descriptors() -> anyhow::Result<()> {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })
        .with_context(|| format!("raising the limit of file descriptors to {hard:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_hard_limit_is_refused_with_numbers() {
        reserve_descriptors(1).unwrap();
        if getrlimit(Resource::Nofile).maximum.is_some_and(|hard| hard < 1 << 60) {
            let error = reserve_descriptors(1 << 60).unwrap_err().to_string();
            assert!(error.contains("1152921504606846976 connections need"), "{error}");
            assert!(error.contains("hard limit is"), "{error}");
        }
    }
}
