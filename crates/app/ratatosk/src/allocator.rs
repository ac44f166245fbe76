//! How the allocator is told to give memory back.
//!
//! mimalloc keeps what was freed for a while, and looks at the time only when the same thread frees
//! more: after a burst that is never. Its one remedy is read from the environment before `main`
//! runs, so the process replaces itself once with the variable set; its number, its descriptors and
//! its arguments stay. A value that the operator chose is kept.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Milliseconds until freed memory goes back; 0: at once.
const OPTION: &str = "MIMALLOC_PURGE_DELAY";

/// Makes sure that the option is set. Where the process cannot be replaced it runs without.
pub(crate) fn settle() {
    if std::env::var_os(OPTION).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let Some(name) = arguments.next() else { return };
    // Returns only if it failed.
    let _ = Command::new(program).arg0(name).args(arguments).env(OPTION, "0").exec();
}
