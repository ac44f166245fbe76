//! Children that never outlive their test, with their output in files.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const POLL: Duration = Duration::from_millis(10);
const OUTPUT_LINES_MAX: usize = 80;

/// A child in a process group of its own; the group is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
    output: PathBuf,
}

impl Process {
    /// Starts it; standard output and error go to the file `output`.
    pub(crate) fn start(mut command: Command, output: &Path) -> Result<Process> {
        let name = Path::new(command.get_program()).display().to_string();
        let file =
            File::create(output).with_context(|| format!("creating {}", output.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Process { child, name, output: output.to_path_buf() })
    }

    /// Its end, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("waiting for {}", self.name))
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = until(limit, || self.ended())?;
        status.with_context(|| format!("{} did not end within {limit:?}", self.name))
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
pub(crate) fn until<T>(
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
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
