//! A folder for one test, gone with it unless somebody will want to look into it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// An empty folder below the system's one for temporary files. It is removed when it is dropped;
/// after [`Scratch::keep`], or while a test panics, it stays and says where it is.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    is_kept: bool,
}

impl Scratch {
    /// Makes one; the name is for whoever finds it.
    ///
    /// # Panics
    /// If the system gives none.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::within(&std::env::temp_dir(), name)
    }

    /// Makes one below another folder.
    ///
    /// # Panics
    /// If that cannot be written to.
    #[must_use]
    pub fn within(parent: &Path, name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let unique = format!("ratatosk-{name}-{}-{number}", std::process::id());
        let path = parent.join(unique);
        // One of an earlier process with the same number.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder for temporary files");
        Self { path, is_kept: false }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder stays when this is dropped.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_kept || std::thread::panicking() {
            eprintln!("files of the test: {}", self.path.display());
            return;
        }
        // What is left of it lies where temporary files lie.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_its_guard_and_is_nobody_elses() {
        let (one, other) = (Scratch::new("same"), Scratch::new("same"));
        assert_ne!(one.path(), other.path());
        std::fs::write(one.path().join("file"), "x").unwrap();
        let path = one.path().to_path_buf();
        drop(one);
        assert!(!path.exists() && other.path().exists());
    }

    #[test]
    fn a_folder_stays_if_it_is_kept_or_its_test_fails() {
        let mut kept = Scratch::new("kept");
        kept.keep();
        let kept_path = kept.path().to_path_buf();
        drop(kept);
        let failed = Scratch::new("failed");
        let failed_path = failed.path().to_path_buf();
        let outcome = std::thread::spawn(move || {
            let _failed = failed;
            panic!("as a test that fails");
        });
        assert!(outcome.join().is_err());
        for path in [kept_path, failed_path] {
            std::fs::remove_dir(path).expect("it stayed");
        }
    }
}
