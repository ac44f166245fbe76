//! File descriptors: the soft limit is raised to the hard one, because the usual 1024 are 1000
//! clients.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit; returns what holds now, `None` for unlimited.
pub(crate) fn raise_descriptors() -> std::io::Result<Option<u64>> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return Ok(limit.current);
    }
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    Ok(limit.current)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, getrlimit};

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let raised = super::raise_descriptors().unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!((limit.current, limit.current), (limit.maximum, raised));
    }
}
