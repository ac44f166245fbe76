//! The process: an allocator, and the rest is the library's.

use std::process::ExitCode;

/// Memory that clients made the broker take goes back to the system when they go. glibc keeps
/// three quarters of it after an attack, and a broker that looks full refuses everybody.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ratatosk::run()
}
