//! A broker as a child process: started in a directory of its own, killed with all it started.
//!
//! The child leads a process group, so that helpers die with it, and the guard kills the group when it
//! is dropped: at the end of a run, on an error, on a panic, and on Ctrl-C, which only sets a flag.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::clock;
use crate::net::Interrupted;

/// Between two looks at the port or the process.
const POLL: Duration = Duration::from_millis(2);
/// How long a broker may take to end when it is asked to.
const GRACE_NS: u64 = 3 * clock::SECOND_NS;
/// Bytes of the broker's output that an error quotes.
const QUOTED_SIZE: usize = 2000;

/// What to start: a name for the tables and the words of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: String,
    words: Vec<String>,
}

/// Why a target is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("target {0:?} is not of the form NAME=COMMAND")]
    Form(String),
    #[error("target {0:?} has a quotation mark that is not closed")]
    Quote(String),
}

impl Target {
    /// Reads `NAME=COMMAND`; words are separated by spaces, quotation marks hold them together.
    pub(crate) fn parse(text: &str) -> Result<Self, TargetError> {
        let form = || TargetError::Form(text.to_owned());
        let (name, command) = text.split_once('=').ok_or_else(form)?;
        let words = words(command).ok_or_else(|| TargetError::Quote(text.to_owned()))?;
        if name.trim().is_empty() || words.is_empty() {
            return Err(form());
        }
        Ok(Self { name: name.trim().to_owned(), words })
    }

    /// The command for a port and a directory.
    fn command(&self, port: u16, directory: &Path) -> anyhow::Result<Command> {
        if let [only] = &self.words[..]
            && only == "forwarder"
        {
            let mut command = Command::new(std::env::current_exe().context("own program")?);
            // As a subcommand of the main binary, the words before `compare` lead to us.
            command.args(std::env::args().skip(1).take_while(|word| word != "compare"));
            command.args(["forwarder", "--port", &port.to_string()]);
            return Ok(command);
        }
        let place = |word: &String| {
            word.replace("{port}", &port.to_string())
                .replace("{dir}", &directory.display().to_string())
        };
        let mut words = self.words.iter().map(place);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        Ok(command)
    }
}

fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for one in text.chars() {
        match quote {
            Some(open) if one == open => quote = None,
            Some(_) => word.get_or_insert_default().push(one),
            None if one == '"' || one == '\'' => {
                quote = Some(one);
                word.get_or_insert_default();
            }
            None if one.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(one),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// A directory that is removed with all that is in it: the broker's, and beside it its output.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// A new, empty one.
    pub(crate) fn create() -> anyhow::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ratatosk-bench-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        let directory = Self(path);
        fs::create_dir(directory.data()).context("creating the broker's directory")?;
        Ok(directory)
    }

    /// What belongs to the broker alone.
    pub(crate) fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    fn log(&self) -> PathBuf {
        self.0.join("output.log")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed stays in the temporary directory; nothing depends on it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running broker.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    ended: bool,
    /// When the process was started.
    pub(crate) begun_ns: u64,
    /// From the start of the process until its port answered.
    pub(crate) start_ns: u64,
}

impl Broker {
    /// Starts `target` and waits until its port answers.
    pub(crate) fn start(
        target: &Target,
        port: u16,
        directory: &Directory,
        timeout: Duration,
        stop: &AtomicBool,
    ) -> anyhow::Result<Self> {
        if answers(port) {
            bail!("port {port} is in use already: choose another with --port");
        }
        let log = File::options().append(true).create(true).open(directory.log())?;
        let mut command = target.command(port, &directory.data())?;
        command
            .current_dir(directory.data())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let begun_ns = clock::now_ns();
        let child = command
            .spawn()
            .with_context(|| format!("starting {}: {:?}", target.name, command.get_program()))?;
        // From here on the guard kills it, whatever happens.
        let mut broker = Self { child, ended: false, begun_ns, start_ns: 0 };
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        while !answers(port) {
            if stop.load(Ordering::Relaxed) {
                return Err(Interrupted.into());
            }
            if let Some(status) = broker.poll()? {
                bail!("{} ended with {status}: {}", target.name, quote(&directory.log()));
            }
            if clock::now_ns() - begun_ns > timeout_ns {
                bail!(
                    "{} does not answer on port {port} after {timeout:?}: {}",
                    target.name,
                    quote(&directory.log())
                );
            }
            thread::sleep(POLL);
        }
        broker.start_ns = clock::now_ns() - begun_ns;
        Ok(broker)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it at once, as a crash would.
    pub(crate) fn crash(mut self) {
        self.end(Signal::KILL, 0);
    }

    fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        self.ended |= status.is_some();
        Ok(status)
    }

    /// Sends `signal` to the group, waits, and kills what is left.
    fn end(&mut self, signal: Signal, grace_ns: u64) {
        let group = Pid::from_child(&self.child);
        // Errors mean that there is nobody left to get the signal.
        let _ = kill_process_group(group, signal);
        let begun_ns = clock::now_ns();
        while !self.ended && clock::now_ns() - begun_ns < grace_ns {
            if self.poll().is_err() {
                break;
            }
            thread::sleep(POLL);
        }
        let _ = kill_process_group(group, Signal::KILL);
        if !self.ended {
            self.ended = self.child.wait().is_ok();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Signal::TERM, GRACE_NS);
        }
    }
}

fn answers(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

/// The end of the broker's output.
fn quote(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(QUOTED_SIZE)..];
    let text = String::from_utf8_lossy(tail).trim().to_owned();
    if text.is_empty() { "it printed nothing".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn target(text: &str) -> Target {
        Target::parse(text).unwrap()
    }

    #[test]
    fn targets_are_a_name_and_words() {
        let one = target("mosquitto = /usr/sbin/mosquitto -c 'a b' \"\" -p {port}");
        assert_eq!(one.name, "mosquitto");
        assert_eq!(one.words, ["/usr/sbin/mosquitto", "-c", "a b", "", "-p", "{port}"]);
        let command = one.command(99, Path::new("/tmp/x")).unwrap();
        assert!(command.get_args().any(|word| word == "99"));
        for wrong in ["mosquitto", "=x", "a=", "a= "] {
            assert_eq!(Target::parse(wrong), Err(TargetError::Form(wrong.to_owned())), "{wrong}");
        }
        assert!(matches!(Target::parse("a='b"), Err(TargetError::Quote(_))));
    }

    #[test]
    fn broker_that_ends_at_once_is_reported_with_its_output() {
        let directory = Directory::create().unwrap();
        let stop = AtomicBool::new(false);
        let one = target("a=sh -c 'echo no such file >&2; exit 3'");
        let error = Broker::start(&one, 1, &directory, TIMEOUT, &stop).unwrap_err().to_string();
        assert!(error.contains("a ended with exit status: 3: no such file"), "{error}");
    }

    #[test]
    fn broker_that_does_not_listen_is_killed_with_its_children() {
        let directory = Directory::create().unwrap();
        let stop = AtomicBool::new(false);
        let one = target("a=sh -c 'sleep 600 & echo $! > child; wait'");
        let timeout = Duration::from_millis(500);
        let error = Broker::start(&one, 1, &directory, timeout, &stop).unwrap_err().to_string();
        assert!(error.contains("does not answer on port 1"), "{error}");
        let child = fs::read_to_string(directory.data().join("child")).unwrap();
        let state = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        let alive = !state.is_empty() && !state.contains(") Z");
        assert!(!alive, "{state}");
    }

    #[test]
    fn interruption_ends_the_wait() {
        let directory = Directory::create().unwrap();
        let stop = AtomicBool::new(true);
        let error = Broker::start(&target("a=sleep 600"), 1, &directory, TIMEOUT, &stop);
        assert!(error.unwrap_err().is::<Interrupted>());
    }
}
