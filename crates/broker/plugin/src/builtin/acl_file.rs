//! Permission from a file of access rules.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::acl::Rules;
use crate::answer::Answer;
use crate::file::{self, FileError};
use crate::permission::{Action, Identity, PermissionProvider, Verdict};
use crate::plugin::Plugin;

/// The rules of a file, replaced as a whole by `reload`.
pub struct AclFile {
    path: PathBuf,
    rules: ArcSwap<Rules>,
    epoch: AtomicU64,
}

impl AclFile {
    /// Reads the file. A line that is wrong is an error: no rule of it is in force then.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let path = path.into();
        let rules = load(&path)?;
        Ok(Self { path, rules: ArcSwap::from_pointee(rules), epoch: AtomicU64::new(1) })
    }
}

fn load(path: &std::path::Path) -> Result<Rules, FileError> {
    let text = file::read(path)?;
    Rules::parse(&text).map_err(|error| FileError::line(path, error))
}

impl Plugin for AclFile {
    fn name(&self) -> &str {
        "acl_file"
    }

    fn start(&self) -> anyhow::Result<()> {
        tracing::info!(path = %self.path.display(), rules = %self.rules.load(), "access rules");
        Ok(())
    }

    fn reload(&self) -> anyhow::Result<()> {
        let rules = load(&self.path)?;
        tracing::info!(path = %self.path.display(), rules = %rules, "access rules reloaded");
        self.rules.store(rules.into());
        // After the rules: who sees the new epoch must find the new rules.
        self.epoch.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

impl PermissionProvider for AclFile {
    fn check(&self, who: &Identity, action: Action<'_>) -> Answer<Verdict> {
        Answer::Now(self.rules.load().check(who, action))
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use ratatosk_codec::Qos;

    use super::*;
    use crate::testing::{TempDir, identity, resolve};

    fn may_publish(acl: &AclFile, topic: &str) -> bool {
        let action =
            Action::Publish { topic, qos: Qos::AtLeastOnce, retain: false, is_will: false };
        resolve(acl.check(&identity("alice", "c"), action)) == Verdict::Allowed
    }

    /// Reloaded rules are in force at once, and remembered verdicts become void.
    #[test]
    fn reloading_replaces_all_rules_and_raises_the_epoch() {
        let dir = TempDir::new();
        let path = dir.file("acl", "topic write a\n");
        let acl = AclFile::open(&path).unwrap();
        let before = acl.epoch();
        assert!(may_publish(&acl, "a") && !may_publish(&acl, "b"));
        std::fs::write(&path, "topic write b\n").unwrap();
        assert!(may_publish(&acl, "a"));
        acl.reload().unwrap();
        assert!(!may_publish(&acl, "a") && may_publish(&acl, "b"));
        assert!(acl.epoch() > before);
    }

    #[test]
    fn a_broken_file_leaves_the_rules_in_force() {
        let dir = TempDir::new();
        let path = dir.file("acl", "topic write a\n");
        let acl = AclFile::open(&path).unwrap();
        let before = acl.epoch();
        std::fs::write(&path, "topic write b\n\ntopic wriite c/#/d\n").unwrap();
        let error = acl.reload().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:3: ", path.display())), "{error}");
        std::fs::write(&path, b"topic write a\n# \xff\n").unwrap();
        let error = acl.reload().unwrap_err().to_string();
        assert_eq!(error, format!("{}:2: not UTF-8", path.display()));
        std::fs::remove_file(&path).unwrap();
        assert!(acl.reload().is_err());
        assert!(may_publish(&acl, "a"));
        assert_eq!(acl.epoch(), before);
        assert!(AclFile::open(&path).is_err());
    }
}
