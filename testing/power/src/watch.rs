//! A process that is watched through `ratatosk-shim`, and given orders by it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{Disk, Image, Record};

/// What is known of a folder, and of what was done to it since a process was started.
#[derive(Debug)]
pub struct Watch {
    shim: PathBuf,
    /// The folder that is watched.
    root: PathBuf,
    /// What the shim writes and reads.
    folder: PathBuf,
    /// What the root had when the process was started.
    before: Image,
}

/// What the disk does with calls for files of the folder.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A sync waits as long as the order stands.
    HoldSync,
    /// A sync fails with EIO.
    FailSync,
    /// A sync answers, and nothing was synced.
    SkipSync,
    /// What writes or makes files fails with ENOSPC.
    FailWrite,
    /// There is said to be no room.
    HideRoom,
}

impl Order {
    /// The file that stands for it.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Order::HoldSync => "hold-sync",
            Order::FailSync => "fail-sync",
            Order::SkipSync => "skip-sync",
            Order::FailWrite => "fail-write",
            Order::HideRoom => "hide-room",
        }
    }
}

impl Watch {
    /// Of the folder `root`, with the library that was built from `ratatosk-shim`, which writes to
    /// `folder`. Both folders are made if they are missing.
    ///
    /// # Errors
    /// If they cannot be made or read.
    pub fn new(shim: PathBuf, root: &Path, folder: &Path) -> Result<Watch> {
        ensure!(shim.is_file(), "{} is no file", shim.display());
        fs::create_dir_all(root)?;
        fs::create_dir_all(folder)?;
        // The trace has paths without links.
        let (root, folder) = (root.canonicalize()?, folder.canonicalize()?);
        let before = Image::read(&root)?;
        Ok(Watch { shim, root, folder, before })
    }

    /// The process that the command starts is watched. What the one before did is forgotten.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn begin(&mut self, command: &mut Command) -> Result<()> {
        let trace = self.trace();
        if trace.exists() {
            fs::remove_file(trace)?;
        }
        self.before = Image::read(&self.root)?;
        command.env("LD_PRELOAD", &self.shim);
        command.env("SHIM_ROOT", &self.root).env("SHIM_FOLDER", &self.folder);
        Ok(())
    }

    /// From the next call on the disk obeys.
    ///
    /// # Errors
    /// If the order cannot be written.
    pub fn order(&self, order: Order) -> Result<()> {
        Ok(fs::write(self.folder.join(order.file_name()), "")?)
    }

    /// From the next call on the disk is as before.
    ///
    /// # Errors
    /// If it was not ordered.
    pub fn withdraw(&self, order: Order) -> Result<()> {
        Ok(fs::remove_file(self.folder.join(order.file_name()))?)
    }

    /// What the disk is known to have, and what it may have. The process is gone.
    ///
    /// # Errors
    /// If it did what is not followed.
    pub fn disk(&self) -> Result<Disk> {
        let root = self.root.to_str().context("the folder's name is no UTF-8")?;
        let mut disk = Disk::new(root, &self.before);
        // A process that ended before it did anything has no trace.
        let trace = match fs::read(self.trace()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            trace => trace?,
        };
        let records = Record::decode_all(&trace).context("the trace cannot be read")?;
        records.into_iter().try_for_each(|record| disk.apply(record))?;
        Ok(disk)
    }

    /// The power fails: the folder becomes one of the states in which it may be. `below` gives a
    /// number below another. Says how many changes of files and names were not certain.
    ///
    /// # Errors
    /// Those of [`disk`](Self::disk), and the system's.
    pub fn lose(&mut self, below: &mut dyn FnMut(usize) -> usize) -> Result<usize> {
        let disk = self.disk()?;
        disk.lose(below).write(&self.root)?;
        Ok(disk.uncertain_count())
    }

    /// That the trace has all that was done. A process that was killed may have done more.
    ///
    /// # Errors
    /// Says in what the folder differs.
    pub fn check(&self) -> Result<()> {
        let differences = self.disk()?.whole().differences(&Image::read(&self.root)?);
        ensure!(differences.is_empty(), "the trace and the folder differ: {differences:#?}");
        Ok(())
    }

    fn trace(&self) -> PathBuf {
        self.folder.join("trace")
    }
}
