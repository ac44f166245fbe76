//! What is written down, and what is to fail.

use std::ffi::{CStr, c_char, c_int, c_long};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libc::{AT_FDCWD, SYS_faccessat, SYS_nanosleep, SYS_newfstatat, SYS_openat, SYS_readlinkat};
use ratatosk_power::Order;
use ratatosk_power::record::{Inode, Record};

/// The folder that is watched, and where to write down what happens to it.
pub(crate) struct Watch {
    root: String,
    folder: String,
    /// The trace. A call and its record are under the lock, so that the order is that of the calls.
    trace: Mutex<c_int>,
    syncs: AtomicU64,
}

/// A file of the folder that a call is about.
pub(crate) struct Target {
    pub(crate) watch: &'static Watch,
    pub(crate) inode: Inode,
    pub(crate) path: String,
}

/// While it lives nobody else changes the folder.
pub(crate) struct Turn {
    trace: MutexGuard<'static, c_int>,
}

static WATCH: OnceLock<Option<Watch>> = OnceLock::new();

impl Watch {
    /// Nothing, if the process is not watched.
    fn of_process() -> Option<&'static Watch> {
        WATCH.get_or_init(Watch::begin).as_ref()
    }

    fn begin() -> Option<Watch> {
        let (root, folder) = (variable(c"SHIM_ROOT")?, variable(c"SHIM_FOLDER")?);
        let mut path = format!("{folder}/trace").into_bytes();
        path.push(0);
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
        // SAFETY: the path ends in a zero and outlives the call.
        let opened = unsafe { libc::syscall(SYS_openat, AT_FDCWD, path.as_ptr(), flags, 0o600) };
        let trace = c_int::try_from(opened).ok().filter(|fd| *fd >= 0)?;
        Some(Watch { root, folder, trace: Mutex::new(trace), syncs: AtomicU64::new(0) })
    }

    fn has(&self, path: &str) -> bool {
        path.strip_prefix(&self.root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether an order is given.
    pub(crate) fn is_ordered(&self, order: Order) -> bool {
        let mut path = format!("{}/{}", self.folder, order.file_name()).into_bytes();
        path.push(0);
        // SAFETY: the path ends in a zero and outlives the call.
        unsafe { libc::syscall(SYS_faccessat, AT_FDCWD, path.as_ptr(), libc::F_OK) == 0 }
    }

    /// Waits while an order is given.
    pub(crate) fn wait_out(&self, order: Order) {
        while self.is_ordered(order) {
            let pause = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            // SAFETY: the span outlives the call; that less is slept than asked does no harm.
            unsafe { libc::syscall(SYS_nanosleep, &raw const pause, 0) };
        }
    }

    pub(crate) fn turn(&'static self) -> Turn {
        // A panic elsewhere has not harmed a number.
        Turn { trace: self.trace.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    pub(crate) fn next_sync(&self) -> u64 {
        self.syncs.fetch_add(1, Ordering::Relaxed)
    }
}

impl Turn {
    /// Writes it down. A process that cannot is of no use and is ended.
    pub(crate) fn write_down(&self, record: &Record) {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (pointer, length) = (rest.as_ptr(), rest.len());
            // SAFETY: the bytes outlive the call.
            let written = unsafe { libc::syscall(libc::SYS_write, *self.trace, pointer, length) };
            match usize::try_from(written) {
                Ok(written) => rest = &rest[written..],
                Err(_) => std::process::abort(),
            }
        }
    }
}

/// The file behind a descriptor, if it is a file or folder that is watched.
pub(crate) fn target(fd: c_int) -> Option<Target> {
    let watch = Watch::of_process()?;
    // Most descriptors that are written to are pipes and events.
    let inode = inode(fd)?;
    let path = path_of(fd)?;
    watch.has(&path).then_some(Target { watch, inode, path })
}

/// The path that a call names, if it is watched.
///
/// # Safety
/// `path` is null or ends in a zero.
pub(crate) unsafe fn named(folder: c_int, path: *const c_char) -> Option<(&'static Watch, String)> {
    let watch = Watch::of_process()?;
    if path.is_null() {
        return None;
    }
    // SAFETY: the caller promises it.
    let path = unsafe { CStr::from_ptr(path) }.to_str().ok()?;
    let path = match path.strip_prefix('/') {
        Some(_) => path.to_owned(),
        None if folder == AT_FDCWD => format!("{}/{path}", link("/proc/self/cwd")?),
        None => format!("{}/{path}", path_of(folder)?),
    };
    watch.has(&path).then_some((watch, path))
}

/// Whether the file system of the folder is to be said to be full.
pub(crate) fn is_room_hidden() -> bool {
    Watch::of_process().is_some_and(|watch| watch.is_ordered(Order::HideRoom))
}

/// The inode of a file or folder.
fn inode(fd: c_int) -> Option<Inode> {
    // SAFETY: zeros are a value of it.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    let place = &raw mut found;
    // SAFETY: both the empty path and the place outlive the call.
    let result =
        unsafe { libc::syscall(SYS_newfstatat, fd, c"".as_ptr(), place, libc::AT_EMPTY_PATH) };
    let is_meant = matches!(found.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR);
    (result == 0 && is_meant).then_some(found.st_ino)
}

fn path_of(fd: c_int) -> Option<String> {
    link(&format!("/proc/self/fd/{fd}"))
}

/// Where a link leads.
fn link(path: &str) -> Option<String> {
    let path = format!("{path}\0");
    let mut found = vec![0_u8; 4096];
    let (place, room) = (found.as_mut_ptr(), found.len());
    // SAFETY: the path ends in a zero, and both outlive the call.
    let length: c_long =
        unsafe { libc::syscall(SYS_readlinkat, AT_FDCWD, path.as_ptr(), place, room) };
    found.truncate(usize::try_from(length).ok()?);
    String::from_utf8(found).ok()
}

fn variable(name: &CStr) -> Option<String> {
    // SAFETY: nobody changes the environment of a process that begins.
    let found = unsafe { libc::getenv(name.as_ptr()) };
    if found.is_null() {
        return None;
    }
    // SAFETY: what the C library gives ends in a zero.
    let found = unsafe { CStr::from_ptr(found) };
    found.to_str().ok().map(str::to_owned)
}
