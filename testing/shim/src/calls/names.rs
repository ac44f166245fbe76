//! What files are called.

use std::ffi::{c_char, c_int, c_uint};

use libc::{
    AT_FDCWD, AT_REMOVEDIR, SYS_linkat, SYS_mkdirat, SYS_renameat2, SYS_symlinkat, SYS_truncate,
    SYS_unlinkat, mode_t, off_t, syscall,
};
use ratatosk_power::record::Record;

use super::{short, unknown};
use crate::watch::named;

// SAFETY (of every `no_mangle` here): the name, the arguments and what comes back are those of the C
// library's function, which it stands in front of.

/// # Safety
/// That of the C library's `rename`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { renameat2(AT_FDCWD, from, AT_FDCWD, to, 0) }
}

/// # Safety
/// That of the C library's `renameat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn renameat(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { renameat2(from_folder, from, to_folder, to, 0) }
}

/// # Safety
/// That of the C library's `renameat2`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn renameat2(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    // SAFETY: as the caller promised.
    let call = || short(unsafe { syscall(SYS_renameat2, from_folder, from, to_folder, to, flags) });
    // SAFETY: as the caller promised.
    let (source, target) = unsafe { (named(from_folder, from), named(to_folder, to)) };
    let Some((watch, _)) = source.as_ref().or(target.as_ref()) else { return call() };
    let turn = watch.turn();
    let result = call();
    if result == 0 {
        turn.write_down(&match (source, target) {
            (Some((_, from)), Some((_, to))) if flags & libc::RENAME_EXCHANGE == 0 => {
                Record::Renamed { from, to }
            }
            _ => Record::Unknown { call: "a rename across the folder's border".to_owned() },
        });
    }
    result
}

/// # Safety
/// That of the C library's `unlink`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { unlinkat(AT_FDCWD, path, 0) }
}

/// # Safety
/// That of the C library's `rmdir`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { unlinkat(AT_FDCWD, path, AT_REMOVEDIR) }
}

/// # Safety
/// That of the C library's `unlinkat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: as the caller promised.
    let call = || short(unsafe { syscall(SYS_unlinkat, folder, path, flags) });
    // SAFETY: as the caller promised.
    unsafe { renamed(folder, path, call, |path| Record::Removed { path }) }
}

/// # Safety
/// That of the C library's `mkdir`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { mkdirat(AT_FDCWD, path, mode) }
}

/// # Safety
/// That of the C library's `mkdirat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdirat(folder: c_int, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as the caller promised.
    let call = || short(unsafe { syscall(SYS_mkdirat, folder, path, mode) });
    // SAFETY: as the caller promised.
    unsafe { renamed(folder, path, call, |path| Record::FolderMade { path }) }
}

/// # Safety
/// That of the C library's `link`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn link(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { linkat(AT_FDCWD, from, AT_FDCWD, to, 0) }
}

/// # Safety
/// That of the C library's `linkat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linkat(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    // SAFETY: as the caller promised.
    let call = || short(unsafe { syscall(SYS_linkat, from_folder, from, to_folder, to, flags) });
    // SAFETY: as the caller promised.
    unsafe { renamed(to_folder, to, call, |path| unknown("link", &path)) }
}

/// # Safety
/// That of the C library's `symlink`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn symlink(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { symlinkat(from, AT_FDCWD, to) }
}

/// # Safety
/// That of the C library's `symlinkat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn symlinkat(from: *const c_char, folder: c_int, to: *const c_char) -> c_int {
    // SAFETY: as the caller promised.
    let call = || short(unsafe { syscall(SYS_symlinkat, from, folder, to) });
    // SAFETY: as the caller promised.
    unsafe { renamed(folder, to, call, |path| unknown("symlink", &path)) }
}

/// # Safety
/// That of the C library's `truncate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truncate(path: *const c_char, size: off_t) -> c_int {
    // SAFETY: as the caller promised.
    let call = || short(unsafe { syscall(SYS_truncate, path, size) });
    // SAFETY: as the caller promised.
    unsafe { renamed(AT_FDCWD, path, call, |path| unknown("truncate", &path)) }
}

/// # Safety
/// The path is null or ends in a zero.
unsafe fn renamed(
    folder: c_int,
    path: *const c_char,
    call: impl FnOnce() -> c_int,
    record: impl FnOnce(String) -> Record,
) -> c_int {
    // SAFETY: the caller promises it.
    let Some((watch, path)) = (unsafe { named(folder, path) }) else { return call() };
    let turn = watch.turn();
    let result = call();
    if result == 0 {
        turn.write_down(&record(path));
    }
    result
}
