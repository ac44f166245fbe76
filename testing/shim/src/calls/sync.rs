//! What makes files durable, and how much room is left for them.

use std::ffi::{c_char, c_int, c_void};

use libc::{SYS_fdatasync, SYS_fsync, syscall};
use ratatosk_power::Order;
use ratatosk_power::record::Record;

use super::{fail, short};
use crate::watch::{Target, is_room_hidden, target};

// SAFETY (of every `no_mangle` here): the name, the arguments and what comes back are those of the C
// library's function, which it stands in front of.

#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    // SAFETY: no memory is passed.
    synced(fd, || short(unsafe { syscall(SYS_fsync, fd) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    // SAFETY: no memory is passed.
    synced(fd, || short(unsafe { syscall(SYS_fdatasync, fd) }))
}

fn synced(fd: c_int, call: impl FnOnce() -> c_int) -> c_int {
    let Some(Target { watch, inode, path }) = target(fd) else { return call() };
    watch.wait_out(Order::HoldSync);
    if watch.is_ordered(Order::SkipSync) {
        return 0;
    }
    if watch.is_ordered(Order::FailSync) {
        return fail(libc::EIO);
    }
    let sync = watch.next_sync();
    watch.turn().write_down(&Record::SyncBegun { sync, inode, path });
    let result = call();
    if result == 0 {
        watch.turn().write_down(&Record::SyncEnded { sync });
    }
    result
}

/// # Safety
/// That of the C library's `statvfs`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn statvfs(path: *const c_char, found: *mut libc::statvfs) -> c_int {
    type Call = unsafe extern "C" fn(*const c_char, *mut libc::statvfs) -> c_int;
    // SAFETY: the name ends in a zero.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"statvfs".as_ptr()) };
    // SAFETY: it is the C library's own function, or nothing.
    let Some(call) = (unsafe { std::mem::transmute::<*mut c_void, Option<Call>>(next) }) else {
        return fail(libc::ENOSYS);
    };
    // SAFETY: as the caller promised.
    let result = unsafe { call(path, found) };
    if result == 0 && is_room_hidden() {
        // SAFETY: the call wrote to it.
        unsafe { (*found).f_bavail = 0 };
    }
    result
}

/// # Safety
/// That of the C library's `statvfs64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn statvfs64(path: *const c_char, found: *mut libc::statvfs64) -> c_int {
    // SAFETY: as the caller promised; with 64 bits the two are the same.
    unsafe { statvfs(path, found.cast()) }
}
