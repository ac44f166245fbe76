//! The functions of the C library that change files, in front of its own.
//!
//! Each makes the system call of its name, and has it written down if it succeeded. A change and its
//! record are one turn; a sync is two records around the call, for others go on meanwhile.

mod data;
mod names;
mod sync;

use std::ffi::{c_int, c_long};

use libc::ssize_t;
use ratatosk_power::record::Record;

/// A call that changes files and is not followed.
fn unknown(call: &str, path: &str) -> Record {
    Record::Unknown { call: format!("{call} {path}") }
}

fn fail<T: From<i8>>(error: c_int) -> T {
    // SAFETY: it gives the place of the thread's own number.
    unsafe { *libc::__errno_location() = error };
    T::from(-1)
}

/// What a system call gives, for functions that give less.
fn short(result: c_long) -> c_int {
    c_int::try_from(result).unwrap_or(-1)
}

fn long(result: c_long) -> ssize_t {
    ssize_t::try_from(result).unwrap_or(-1)
}
