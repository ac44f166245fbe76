//! What files have: opening, writing, sizes.

use std::ffi::{c_char, c_int, c_uint, c_void};

use libc::{
    AT_FDCWD, SYS_copy_file_range, SYS_fallocate, SYS_ftruncate, SYS_lseek, SYS_mmap, SYS_openat,
    SYS_pwrite64, SYS_pwritev, SYS_sendfile, SYS_write, SYS_writev, iovec, mode_t, off_t, size_t,
    ssize_t, syscall,
};
use ratatosk_power::Order;
use ratatosk_power::record::Record;

use super::{fail, long, short, unknown};
use crate::watch::{Target, named, target};

// SAFETY (of every `no_mangle` here): the name, the arguments and what comes back are those of the C
// library's function, which it stands in front of.

/// The kernel reads the mode only if a file may be made, and so may this.
///
/// # Safety
/// That of the C library's `open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { open_in(AT_FDCWD, path, flags, mode) }
}

/// # Safety
/// That of the C library's `open64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { open_in(AT_FDCWD, path, flags, mode) }
}

/// # Safety
/// That of the C library's `openat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { open_in(folder, path, flags, mode) }
}

/// # Safety
/// That of the C library's `openat64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { open_in(folder, path, flags, mode) }
}

/// # Safety
/// That of the C library's `creat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn creat(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { open_in(AT_FDCWD, path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode) }
}

/// What makes a file's writes something else than the trace has words for.
const NOT_FOLLOWED: c_int =
    (libc::O_TMPFILE & !libc::O_DIRECTORY) | libc::O_SYNC | libc::O_DSYNC | libc::O_DIRECT;

/// # Safety
/// That of `openat`.
unsafe fn open_in(folder: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller promises it.
    let call = || short(unsafe { syscall(SYS_openat, folder, path, flags, mode) });
    let may_make = flags & libc::O_CREAT != 0;
    if flags & libc::O_ACCMODE == libc::O_RDONLY && !may_make {
        return call();
    }
    // SAFETY: the caller promises it.
    let Some((watch, name)) = (unsafe { named(folder, path) }) else { return call() };
    if may_make && watch.is_ordered(Order::FailWrite) {
        return fail(libc::ENOSPC);
    }
    let turn = watch.turn();
    let fd = call();
    if fd < 0 {
        return fd;
    }
    match target(fd) {
        Some(Target { inode, path, .. }) if flags & NOT_FOLLOWED == 0 => {
            let is_emptied = flags & libc::O_TRUNC != 0;
            turn.write_down(&Record::Opened { path, inode, is_emptied });
        }
        _ => turn.write_down(&Record::Unknown { call: format!("open {name} with {flags:#o}") }),
    }
    fd
}

/// # Safety
/// That of the C library's `write`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
    // SAFETY: as the caller promised.
    let call = || long(unsafe { syscall(SYS_write, fd, bytes, count) });
    // SAFETY: as the caller promised: what was written can be read.
    written(fd, None, call, |count| unsafe { copied(bytes, count) })
}

/// # Safety
/// That of the C library's `pwrite`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(
    fd: c_int,
    bytes: *const c_void,
    count: size_t,
    offset: off_t,
) -> ssize_t {
    // SAFETY: as the caller promised.
    let call = || long(unsafe { syscall(SYS_pwrite64, fd, bytes, count, offset) });
    // SAFETY: as the caller promised: what was written can be read.
    written(fd, Some(offset), call, |count| unsafe { copied(bytes, count) })
}

/// # Safety
/// That of the C library's `pwrite64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(
    fd: c_int,
    bytes: *const c_void,
    count: size_t,
    offset: off_t,
) -> ssize_t {
    // SAFETY: as the caller promised.
    unsafe { pwrite(fd, bytes, count, offset) }
}

/// # Safety
/// That of the C library's `writev`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: as the caller promised.
    let call = || long(unsafe { syscall(SYS_writev, fd, parts, count) });
    // SAFETY: as the caller promised.
    written(fd, None, call, |length| unsafe { gathered(parts, count, length) })
}

/// # Safety
/// That of the C library's `pwritev`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev(
    fd: c_int,
    parts: *const iovec,
    count: c_int,
    offset: off_t,
) -> ssize_t {
    // SAFETY: as the caller promised. Of the offset's two halves the second is for 32 bits.
    let call = || long(unsafe { syscall(SYS_pwritev, fd, parts, count, offset, 0) });
    // SAFETY: as the caller promised.
    written(fd, Some(offset), call, |length| unsafe { gathered(parts, count, length) })
}

/// # Safety
/// That of the C library's `pwritev64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev64(
    fd: c_int,
    parts: *const iovec,
    count: c_int,
    offset: off_t,
) -> ssize_t {
    // SAFETY: as the caller promised.
    unsafe { pwritev(fd, parts, count, offset) }
}

/// A write, at the offset or where the file stands.
fn written(
    fd: c_int,
    offset: Option<off_t>,
    call: impl FnOnce() -> ssize_t,
    bytes: impl FnOnce(usize) -> Vec<u8>,
) -> ssize_t {
    let Some(Target { watch, inode, .. }) = target(fd) else { return call() };
    if watch.is_ordered(Order::FailWrite) {
        return fail(libc::ENOSPC);
    }
    let turn = watch.turn();
    let result = call();
    if let Ok(count) = usize::try_from(result) {
        // SAFETY: no memory is passed.
        let end = || unsafe { syscall(SYS_lseek, fd, 0, libc::SEEK_CUR) };
        let offset = offset.unwrap_or_else(|| end() - result as off_t);
        let offset = u64::try_from(offset).unwrap_or(u64::MAX);
        turn.write_down(&Record::Written { inode, offset, bytes: bytes(count) });
    }
    result
}

#[unsafe(no_mangle)]
pub extern "C" fn ftruncate(fd: c_int, size: off_t) -> c_int {
    // SAFETY: no memory is passed.
    let call = || short(unsafe { syscall(SYS_ftruncate, fd, size) });
    changed(fd, call, |inode| Record::Resized { inode, size: size.cast_unsigned() })
}

#[unsafe(no_mangle)]
pub extern "C" fn ftruncate64(fd: c_int, size: off_t) -> c_int {
    ftruncate(fd, size)
}

#[unsafe(no_mangle)]
pub extern "C" fn fallocate(fd: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int {
    if let Some(Target { watch, .. }) = target(fd)
        && watch.is_ordered(Order::FailWrite)
    {
        return fail(libc::ENOSPC);
    }
    // SAFETY: no memory is passed.
    let call = || short(unsafe { syscall(SYS_fallocate, fd, mode, offset, length) });
    changed(fd, call, |inode| match mode {
        0 => Record::Grown { inode, size: (offset + length).cast_unsigned() },
        // Room alone changes nothing that can be read.
        libc::FALLOC_FL_KEEP_SIZE => Record::Grown { inode, size: 0 },
        other => Record::Unknown { call: format!("fallocate with {other}") },
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn fallocate64(fd: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int {
    fallocate(fd, mode, offset, length)
}

#[unsafe(no_mangle)]
pub extern "C" fn posix_fallocate(fd: c_int, offset: off_t, length: off_t) -> c_int {
    match fallocate(fd, 0, offset, length) {
        0 => 0,
        // SAFETY: it gives the place of the thread's own number.
        _ => unsafe { *libc::__errno_location() },
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn posix_fallocate64(fd: c_int, offset: off_t, length: off_t) -> c_int {
    posix_fallocate(fd, offset, length)
}

fn changed(fd: c_int, call: impl FnOnce() -> c_int, record: impl FnOnce(u64) -> Record) -> c_int {
    let Some(Target { watch, inode, .. }) = target(fd) else { return call() };
    let turn = watch.turn();
    let result = call();
    if result == 0 {
        turn.write_down(&record(inode));
    }
    result
}

/// # Safety
/// That of the C library's `copy_file_range`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy_file_range(
    from: c_int,
    from_offset: *mut off_t,
    to: c_int,
    to_offset: *mut off_t,
    length: size_t,
    flags: c_uint,
) -> ssize_t {
    note_unknown(to, "copy_file_range");
    // SAFETY: as the caller promised.
    let result =
        unsafe { syscall(SYS_copy_file_range, from, from_offset, to, to_offset, length, flags) };
    long(result)
}

/// # Safety
/// That of the C library's `sendfile`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile(
    to: c_int,
    from: c_int,
    offset: *mut off_t,
    count: size_t,
) -> ssize_t {
    note_unknown(to, "sendfile");
    // SAFETY: as the caller promised.
    long(unsafe { syscall(SYS_sendfile, to, from, offset, count) })
}

/// # Safety
/// That of the C library's `sendfile64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile64(
    to: c_int,
    from: c_int,
    offset: *mut off_t,
    count: size_t,
) -> ssize_t {
    // SAFETY: as the caller promised.
    unsafe { sendfile(to, from, offset, count) }
}

/// # Safety
/// That of the C library's `mmap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    place: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    if fd >= 0 && protection & libc::PROT_WRITE != 0 && flags & libc::MAP_SHARED != 0 {
        note_unknown(fd, "mmap");
    }
    // SAFETY: as the caller promised.
    let found = unsafe { syscall(SYS_mmap, place, length, protection, flags, fd, offset) };
    std::ptr::with_exposed_provenance_mut(long(found).cast_unsigned())
}

/// # Safety
/// That of the C library's `mmap64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    place: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: as the caller promised.
    unsafe { mmap(place, length, protection, flags, fd, offset) }
}

fn note_unknown(fd: c_int, call: &str) {
    if let Some(Target { watch, path, .. }) = target(fd) {
        watch.turn().write_down(&unknown(call, &path));
    }
}

/// # Safety
/// So many bytes can be read there.
unsafe fn copied(bytes: *const c_void, count: usize) -> Vec<u8> {
    if count == 0 {
        return Vec::new();
    }
    // SAFETY: the caller promises it.
    unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), count) }.to_vec()
}

/// # Safety
/// The parts can be read, and together have so many bytes.
unsafe fn gathered(parts: *const iovec, count: c_int, length: usize) -> Vec<u8> {
    let count = usize::try_from(count).unwrap_or(0);
    let mut bytes = Vec::with_capacity(length);
    for place in 0..count {
        // SAFETY: the caller promises it.
        let part = unsafe { &*parts.add(place) };
        let taken = part.iov_len.min(length - bytes.len());
        // SAFETY: the caller promises it.
        bytes.extend(unsafe { copied(part.iov_base, taken) });
    }
    bytes
}
