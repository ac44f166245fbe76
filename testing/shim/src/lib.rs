//! Stands between a process and its disk: `LD_PRELOAD` it, and what the process does to a folder is
//! written down, and its syncs and writes can be made to wait or to fail while it runs.
//!
//! `SHIM_ROOT` is the folder that is watched, an absolute path without links. `SHIM_FOLDER` has the
//! `trace`, and files whose existence is an order (`ratatosk_power::Order`), looked at before each
//! call.
//!
//! Without the variables it only passes everything on. Only calls through the system's C library are
//! seen. Each function here does what the one of its name does, by the system call itself, so that
//! neither this library nor the standard library comes back here; `watch` decides what to write
//! down. Linux with 64 bits.
#![allow(
    unsafe_code,
    reason = "these are functions of the C library: their arguments are pointers"
)]
#![allow(unreachable_pub, reason = "the loader finds the functions by name")]

mod calls;
mod watch;
