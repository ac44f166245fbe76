//! Children that never outlive their test, with their output in files.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const POLL: Duration = Duration::from_millis(10);
const OUTPUT_LINES_MAX: usize = 80;

/// A command that ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote, to standard output and error.
    pub output: String,
}

/// A child in a process group of its own; the group is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    output: PathBuf,
}

impl Process {
    /// Starts it; standard output and error go to the file `output`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: Command, output: &Path) -> Result<Process> {
        Process::start_with(command, Stdio::null(), output)
    }

    fn start_with(mut command: Command, input: Stdio, output: &Path) -> Result<Process> {
        let name = Path::new(command.get_program()).display().to_string();
        let file =
            File::create(output).with_context(|| format!("creating {}", output.display()))?;
        command.stdin(input).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Process { child, name, output: output.to_path_buf() })
    }

    /// Its end, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("waiting for {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it is still there at the limit.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = until(limit, || self.ended())?;
        status.with_context(|| format!("{} did not end within {limit:?}", self.name))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as `TERM`.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, name: &str) -> Result<()> {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().context("kill")?;
        if !status.success() {
            bail!("{} takes no signal {name}", self.name);
        }
        Ok(())
    }

    /// What it wrote up to now.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn output(&self) -> Result<String> {
        let bytes = std::fs::read(&self.output)
            .with_context(|| format!("reading {}", self.output.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits until it has written the text.
    ///
    /// # Errors
    /// If it has not at the limit.
    pub fn wait_for_output(&self, text: &str, limit: Duration) -> Result<()> {
        let seen = until(limit, || Ok(self.output()?.contains(text).then_some(())))?;
        seen.with_context(|| {
            format!("{} did not write {text:?} but:\n{}", self.name, self.last_output())
        })
    }

    /// kill -9, for the whole group.
    pub(crate) fn kill(&mut self) {
        let group = format!("-{}", self.child.id());
        let killed =
            Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        if !killed.is_ok_and(|status| status.success()) {
            // The group is gone, or there is no kill: the child alone, then.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }

    /// The last lines that it wrote.
    pub(crate) fn last_output(&self) -> String {
        let text = std::fs::read_to_string(&self.output).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(OUTPUT_LINES_MAX)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.kill();
        }
    }
}

/// Asks until there is an answer, or the time is over.
///
/// # Errors
/// If asking fails.
pub fn until<T>(limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        if started.elapsed() > limit {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Runs a command to its end, however that is.
pub(crate) fn run_to_end(
    command: Command,
    input: &Path,
    output: &Path,
    limit: Duration,
) -> Result<Outcome> {
    let input = File::open(input).with_context(|| format!("opening {}", input.display()))?;
    let mut process = Process::start_with(command, input.into(), output)?;
    let status = process.wait(limit)?;
    Ok(Outcome { code: status.code(), output: process.output()? })
}

/// Runs a command to its end and returns what it wrote; fails unless it succeeds.
pub(crate) fn finish(command: Command, output: &Path, limit: Duration) -> Result<String> {
    let shown = format!("{command:?}");
    let mut process = Process::start(command, output)?;
    let status = match process.wait(limit) {
        Ok(status) => status,
        Err(error) => bail!("{error:#}\n{shown}\n{}", process.last_output()),
    };
    if !status.success() {
        bail!("{shown}\nended with {status}\n{}", process.last_output());
    }
    std::fs::read_to_string(output).with_context(|| format!("reading {}", output.display()))
}
