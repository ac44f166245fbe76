//! Tells when files change, so that certificates can be replaced without restart.
//!
//! The folders are watched, not the files: renewals replace files by rename, and Kubernetes swaps
//! a link beside them. Changes are collected until the folders are quiet, but not for ever, so
//! that certificate and key are both in place when the callback runs. The callback may come
//! without a change that matters (`Layers::reload` compares contents); it is never lost.
//! Deliberately absent: what to do then, and logging; both are the callback's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::{Condvar, Mutex};

/// Without a change for so long, the callback runs.
const QUIET: Duration = Duration::from_millis(500);
/// After so many periods it runs although changes go on.
const PERIODS_MAX: u32 = 20;

/// Watches as long as it lives. Dropping it stops the thread and waits for a callback that runs.
#[must_use = "dropping it ends the watch"]
pub struct Watch {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
    /// Declared last: events may come until the thread has ended.
    _watcher: RecommendedWatcher,
}

/// The watch could not be set up; nothing is watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The operating system refused.
    #[error("cannot watch {} for changes: {source}", path.display())]
    Notify {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: notify::Error,
    },
    /// No thread could be started.
    #[error("cannot start the thread that watches files: {0}")]
    Thread(std::io::Error),
}

#[derive(Default)]
struct Signal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Default)]
struct SignalState {
    dirty: bool,
    stopped: bool,
}

impl Watch {
    /// Calls `changed` on a thread of its own after anything in the files' folders has changed.
    pub fn start(
        files: &[PathBuf],
        changed: impl FnMut() + Send + 'static,
    ) -> Result<Self, WatchError> {
        let signal = Arc::new(Signal::default());
        let watcher = watch_folders(files, &signal)?;
        let waiting = Arc::clone(&signal);
        let thread = thread::Builder::new()
            .name("certificate-watch".to_owned())
            .spawn(move || waiting.run(changed))
            .map_err(WatchError::Thread)?;
        Ok(Self { signal, thread: Some(thread), _watcher: watcher })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.signal.stop();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // A panic of the callback was reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

impl Signal {
    fn mark(&self) {
        self.state.lock().dirty = true;
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    fn run(&self, mut changed: impl FnMut()) {
        while self.wait_for_change() {
            changed();
        }
    }

    /// Waits for a change and then for quiet; answers false when stopped.
    fn wait_for_change(&self) -> bool {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| !state.dirty && !state.stopped);
        for _ in 0..PERIODS_MAX {
            if !state.dirty {
                break;
            }
            state.dirty = false;
            self.changed.wait_while_for(&mut state, |state| !state.stopped, QUIET);
            if state.stopped {
                return false;
            }
        }
        !state.stopped
    }
}

fn watch_folders(
    files: &[PathBuf],
    signal: &Arc<Signal>,
) -> Result<RecommendedWatcher, WatchError> {
    let folders: BTreeSet<&Path> = files.iter().map(|file| folder(file)).collect();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WatchError::Notify { path, source }
    };
    let signal = Arc::clone(signal);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error may mean lost events: better one callback too many.
        if event.map_or(true, |event| is_change(event.kind)) {
            signal.mark();
        }
    })
    .map_err(failed(Path::new(".")))?;
    for path in folders {
        watcher.watch(path, RecursiveMode::NonRecursive).map_err(failed(path))?;
    }
    Ok(watcher)
}

/// Reading is not a change: the callback itself reads the files.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use super::Watch;
    use crate::transport::fixture::Folder;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_burst_of_changes_is_reported_once_it_is_over() {
        let folder = Folder::new();
        let file = folder.write("a.pem", "first");
        let (sender, receiver) = sync_channel(8);
        let read_back = file.clone();
        let watch = Watch::start(std::slice::from_ref(&file), move || {
            let _ = sender.send(std::fs::read_to_string(&read_back).unwrap_or_default());
        })
        .unwrap();
        for content in ["second", "third", "fourth"] {
            folder.write("a.pem", content);
        }
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), "fourth");
        // The reading of the callback above has caused no event of its own.
        folder.write("b.pem", "replacement");
        std::fs::rename(folder.path("b.pem"), &file).unwrap();
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), "replacement");
        drop(watch);
        // The sender is gone with the thread, so nothing can come any more.
        assert!(receiver.recv_timeout(PATIENCE).is_err());
    }

    #[test]
    fn a_folder_that_does_not_exist_is_an_error_with_its_name() {
        let message = match Watch::start(&["/nonexistent/ratatosk/a.pem".into()], || {}) {
            Ok(_) => panic!("a missing folder was watched"),
            Err(error) => error.to_string(),
        };
        assert!(message.contains("/nonexistent/ratatosk"), "{message}");
    }
}
