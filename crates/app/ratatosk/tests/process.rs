//! Running the binary with a directory of its own and nothing from the environment.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static DIRECTORIES: AtomicU32 = AtomicU32::new(0);

/// A directory to run in, removed at the end.
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let name = format!("ratatosk-process-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        Self { directory }
    }

    pub(crate) fn with_file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.directory.join(name), text).unwrap();
        self
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ratatosk"));
        command.args(arguments).current_dir(&self.directory).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Ended::from(self.command(arguments).output().unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A process that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A process that runs; killed if a test fails before it ends.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        Self { child: command.spawn().unwrap() }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Reads lines of standard output up to one that contains the text; returns all of them.
    pub(crate) fn read_until(&mut self, text: &str) -> String {
        let out = self.child.stdout.as_mut().unwrap();
        let (mut read, mut byte) = (Vec::new(), [0]);
        loop {
            let ended = out.read(&mut byte).unwrap() == 0;
            read.extend_from_slice(&byte);
            let line_start =
                read[..read.len() - 1].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            let line = String::from_utf8_lossy(&read[line_start..]);
            if byte[0] == b'\n' && line.contains(text) {
                return String::from_utf8(read).unwrap();
            }
            assert!(!ended, "{text} never came:\n{}", String::from_utf8_lossy(&read));
        }
    }

    pub(crate) fn end(mut self) -> Ended {
        let mut ended = Ended { code: None, out: String::new(), err: String::new() };
        self.child.stdout.take().unwrap().read_to_string(&mut ended.out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut ended.err).unwrap();
        ended.code = self.child.wait().unwrap().code();
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
