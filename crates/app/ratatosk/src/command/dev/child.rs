//! A node's process: its output with its name in front, its end with the reason.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context as _;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::sync::mpsc;

use super::plan::Node;

/// The last lines of a node's standard error, for when it dies.
const LAST_LINES_MAX: usize = 8;
/// A longer line is told in parts.
const LINE_BYTES_MAX: u64 = 16 * 1024;

/// What happens to the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// All of them are ready.
    Ready,
    /// They are not, after all the time that they are given.
    Late {
        /// What for.
        waiting: String,
    },
    /// A process has ended, and is to be [reaped](Child::reap).
    Ended {
        /// Which.
        node: usize,
    },
}

/// A process. Killed when it is dropped.
pub(super) struct Child {
    process: std::process::Child,
    readers: Vec<JoinHandle<()>>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
}

impl Child {
    /// Starts a node; that it has ended is told.
    pub(super) fn start(node: &Node, tell: &mpsc::Sender<Event>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("where is this program?")?;
        let mut process = Command::new(program)
            .args(node.arguments(super::NODE_COMMAND))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for `dev`, which passes it on.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", node.name))?;
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let (out, error) = (process.stdout.take(), process.stderr.take());
        let mut child = Self { process, readers: Vec::new(), last_lines };
        let prefix = format!("{} | ", node.name);
        if let Some(out) = out {
            child.read(out, prefix.clone(), |_| {})?;
        }
        if let Some(error) = error {
            let last_lines = Arc::clone(&child.last_lines);
            child.read(error, prefix, move |line| {
                let mut lines = last_lines.lock();
                lines.push_back(line.to_owned());
                let excess = lines.len().saturating_sub(LAST_LINES_MAX);
                lines.drain(..excess);
            })?;
        }
        child.watch(node.place, tell.clone())?;
        Ok(child)
    }

    fn read(
        &mut self,
        from: impl Read + Send + 'static,
        prefix: String,
        keep: impl Fn(&str) + Send + 'static,
    ) -> anyhow::Result<()> {
        let work = move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            loop {
                line.clear();
                match from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                let text = String::from_utf8_lossy(&line);
                keep(text.trim_end());
                // Nobody may be there to read it; the node goes on.
                let _ = writeln!(std::io::stdout().lock(), "{prefix}{}", text.trim_end());
            }
        };
        let thread = std::thread::Builder::new().name("output".to_owned()).spawn(work);
        self.readers.push(thread.context("cannot start a thread")?);
        Ok(())
    }

    /// Waits for its end without taking it: until that is done its number is nobody else's.
    fn watch(&self, node: usize, tell: mpsc::Sender<Event>) -> anyhow::Result<()> {
        let pid = self.pid();
        let work = move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while rustix::process::waitid(WaitId::Pid(pid), options)
                .is_err_and(|error| error == rustix::io::Errno::INTR)
            {}
            // Nobody listens any more: all end already.
            drop(tell.blocking_send(Event::Ended { node }));
        };
        let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(work);
        thread.context("cannot start a thread").map(drop)
    }

    /// The number of its process.
    pub(super) fn number(&self) -> u32 {
        self.process.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Sends it a signal. It has not been reaped, so there is somebody to get it.
    pub(super) fn signal(&self, signal: Signal) {
        // One that has just ended takes none.
        let _ = rustix::process::kill_process(self.pid(), signal);
    }

    /// Why it has ended.
    pub(super) fn reap(mut self) -> String {
        let status = match self.process.wait() {
            Ok(status) => status,
            Err(error) => return format!("for a reason that cannot be told: {error}"),
        };
        for reader in self.readers.drain(..) {
            // Its panic was told already.
            let _ = reader.join();
        }
        let lines = self.last_lines.lock();
        said(status, lines.iter().map(String::as_str))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How a process ended, and what it said last.
fn said<'a>(status: ExitStatus, lines: impl Iterator<Item = &'a str>) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    };
    let mut lines = lines.filter(|line| !line.is_empty()).peekable();
    match lines.peek() {
        None => how,
        Some(_) => format!("{how}\n    {}", lines.collect::<Vec<_>>().join("\n    ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_with_its_reason() {
        let check = |raw, lines: &[&str], expected: &str| {
            assert_eq!(said(ExitStatus::from_raw(raw), lines.iter().copied()), expected);
        };
        check(9, &[], "killed by signal 9");
        check(0, &[""], "exit code 0");
        check(4 << 8, &["ratatosk: no room", "", "x"], "exit code 4\n    ratatosk: no room\n    x");
    }
}
