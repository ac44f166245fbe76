//! CPU time, memory and writing of a process, from `/proc`.
//!
//! CPU time is the nanoseconds of `/proc/PID/task/*/schedstat` where the kernel keeps them, else the
//! ticks of `stat`. Threads that end keep what was last seen of them; what they used since is missed.
//! A process that is gone gives what was last seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

/// Nanoseconds of a tick of `/proc/PID/stat` (USER_HZ is 100 on every Linux that Rust supports).
const TICK_NS: u64 = 10_000_000;
/// Generations of descendants that are followed.
const DEPTH_MAX: usize = 8;

/// Measures one process.
#[derive(Debug)]
pub(crate) struct Meter {
    pid: u32,
    with_children: bool,
    threads: BTreeMap<(u32, u32), u64>,
    /// Bytes written to disk and of those cancelled.
    written: BTreeMap<u32, (u64, u64)>,
}

/// One measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// CPU nanoseconds, user and system, of all threads.
    pub(crate) cpu_ns: u64,
    /// Bytes resident.
    pub(crate) rss: u64,
    /// Bytes that were given to the disk, cancelled ones included; `None` if the kernel does not tell.
    pub(crate) written: Option<u64>,
    /// Bytes of those whose file was cut or deleted before they had to be written.
    pub(crate) cancelled: u64,
}

impl Meter {
    /// A meter of `pid`; an error if there is no such process.
    pub(crate) fn new(pid: u32, with_children: bool) -> anyhow::Result<Self> {
        if !PathBuf::from(format!("/proc/{pid}/stat")).exists() {
            bail!("there is no process {pid}");
        }
        let mut meter =
            Self { pid, with_children, threads: BTreeMap::new(), written: BTreeMap::new() };
        let sample = meter.sample();
        if sample.rss == 0 && sample.cpu_ns == 0 {
            bail!("process {pid} cannot be measured: its /proc files are not readable");
        }
        Ok(meter)
    }

    /// A meter of this process.
    pub(crate) fn own() -> anyhow::Result<Self> {
        Self::new(std::process::id(), false).context("measuring this process")
    }

    /// Measures now.
    pub(crate) fn sample(&mut self) -> Sample {
        let mut rss = 0;
        for pid in self.processes() {
            rss += resident_bytes(pid);
            let io = fs::read_to_string(format!("/proc/{pid}/io")).ok();
            if let Some(bytes) = io.as_deref().and_then(written_bytes) {
                self.written.insert(pid, bytes);
            }
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                let name = task.file_name();
                let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                if let Some(cpu_ns) = thread_cpu_ns(pid, thread) {
                    self.threads.insert((pid, thread), cpu_ns);
                }
            }
        }
        let written = self.written.values().map(|(written, _)| written).sum();
        Sample {
            cpu_ns: self.threads.values().sum(),
            rss,
            written: (!self.written.is_empty()).then_some(written),
            cancelled: self.written.values().map(|(_, cancelled)| cancelled).sum(),
        }
    }

    fn processes(&self) -> BTreeSet<u32> {
        let mut family = BTreeSet::from([self.pid]);
        if !self.with_children {
            return family;
        }
        let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid: u32| Some((pid, parent_of(pid)?)))
            .collect();
        for _ in 0..DEPTH_MAX {
            let before = family.len();
            let found = parents.iter().filter(|(_, parent)| family.contains(parent));
            let found: Vec<u32> = found.map(|(pid, _)| *pid).collect();
            family.extend(found);
            if family.len() == before {
                break;
            }
        }
        family
    }
}

fn parent_of(pid: u32) -> Option<u32> {
    stat_fields(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?.get(1)?.parse().ok()
}

fn thread_cpu_ns(pid: u32, thread: u32) -> Option<u64> {
    let task = format!("/proc/{pid}/task/{thread}");
    if let Ok(text) = fs::read_to_string(format!("{task}/schedstat")) {
        return text.split_ascii_whitespace().next()?.parse().ok();
    }
    let text = fs::read_to_string(format!("{task}/stat")).ok()?;
    let fields = stat_fields(&text)?;
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    Some((ticks(11)? + ticks(12)?) * TICK_NS)
}

/// The fields of a stat line behind the command name, which may contain anything.
fn stat_fields(text: &str) -> Option<Vec<&str>> {
    Some(text.rsplit_once(')')?.1.split_ascii_whitespace().collect())
}

/// Exact where `smaps_rollup` may be read; `statm` lags by up to 64 pages a thread.
fn resident_bytes(pid: u32) -> u64 {
    let exact = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    if let Some(kib) = exact.as_deref().and_then(rollup_kib) {
        return kib * 1024;
    }
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * u64::try_from(rustix::param::page_size()).unwrap_or(4096)
}

/// `write_bytes` and `cancelled_write_bytes`.
fn written_bytes(text: &str) -> Option<(u64, u64)> {
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((field("write_bytes:")?, field("cancelled_write_bytes:")?))
}

fn rollup_kib(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_grows_with_work() {
        let mut meter = Meter::own().unwrap();
        let before = meter.sample();
        assert!(before.rss > 100_000, "{before:?}");
        let start = crate::clock::now_ns();
        let mut sum = 0_u64;
        while crate::clock::now_ns() < start + 30_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(meter.sample().cpu_ns > before.cpu_ns);
    }

    #[test]
    fn process_that_does_not_exist_is_an_error() {
        let error = Meter::new(u32::MAX, false).unwrap_err();
        assert_eq!(error.to_string(), "there is no process 4294967295");
    }

    #[test]
    fn command_names_with_parentheses_do_not_shift_the_fields() {
        let fields = stat_fields("7 (a) b) S 1 2 3").unwrap();
        assert_eq!(fields, ["S", "1", "2", "3"]);
        let io = "wchar: 9\nsyscw: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 512\n";
        assert_eq!(written_bytes(io), Some((4096, 512)));
        assert_eq!(rollup_kib("00-ff ---p\nRss:                1234 kB\nPss: 1 kB"), Some(1234));
    }
}
