//! How the allocator is told to give memory back.
//!
//! mimalloc keeps what was freed for a while, and looks at the time only when somebody frees more:
//! after a burst that is never. So the node looks for it: now and then while there is enough, and
//! at once while memory is short. To give everything back at once, always, costs a fan-out more
//! than half of its speed in page faults.
//!
//! Nor is memory taken in huge pages: each thread takes its own, and a broker of ten thousand idle
//! connections would look half as large again as it is. What a page fault less saves was not seen.
//!
//! Both are read from the environment before `main` runs, so the process replaces itself once with
//! the variables set; its number, its descriptors and its arguments stay. A value that the operator
//! chose is kept.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The variables of the allocator and what they are to say.
const OPTIONS: [(&str, &str); 2] = [
    // Milliseconds until a freed page may go back; ten times as long for a run of them.
    ("MIMALLOC_PURGE_DELAY", "100"),
    // Whether the system may back memory with huge pages.
    ("MIMALLOC_ALLOW_THP", "0"),
];

/// What is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Free {
    /// What was freed long enough ago.
    Old,
    /// Whatever is free.
    All,
}

/// Makes sure that the options are set. Where the process cannot be replaced it runs without.
pub(crate) fn settle() {
    let missing = OPTIONS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none());
    let missing: Vec<(&str, &str)> = missing.collect();
    if missing.is_empty() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let Some(name) = arguments.next() else { return };
    // Returns only if it failed.
    let _ = Command::new(program).arg0(name).args(arguments).envs(missing).exec();
}

/// Gives free memory of all threads back to the system.
#[allow(unsafe_code, reason = "the allocator's one function for this has no safe wrapper")]
pub(crate) fn give_back(free: Free) {
    // SAFETY: it takes no pointer, may be called by any thread at any time, and touches only what
    // nobody has: pages that were freed.
    unsafe { libmimalloc_sys::mi_collect(free == Free::All) };
}
