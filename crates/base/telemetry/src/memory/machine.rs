//! What the machine offers and what the process takes, read from the kernel's files.
//!
//! Linux only; elsewhere the functions say `Unsupported` or `None`, and the accountant works with
//! charges alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::ByteCount;

/// The part of the machine's or the container's memory that is used unless configured: in percent.
pub const DEFAULT_PERCENT: u64 = 70;

/// The limit where the machine does not say how much it has.
pub const FALLBACK: ByteCount = ByteCount::mebibytes(512);

/// The resident size of this process.
///
/// # Errors
/// When the kernel's file cannot be read or does not say it.
pub fn resident() -> io::Result<ByteCount> {
    let status = fs::read_to_string("/proc/self/status")?;
    kibibyte_field(&status, "VmRSS:")
        .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "no VmRSS in /proc/self/status"))
}

/// The limit unless configured: [`DEFAULT_PERCENT`] of what this process may have.
#[must_use]
pub fn default_limit() -> ByteCount {
    offered().map_or(FALLBACK, |offered| ByteCount::new(offered.bytes() / 100 * DEFAULT_PERCENT))
}

/// What this process may have: the machine's memory, or less if a control group (v2 or v1) says so.
#[must_use]
pub fn offered() -> Option<ByteCount> {
    offered_under(Path::new("/"))
}

fn offered_under(root: &Path) -> Option<ByteCount> {
    let machine = fs::read_to_string(root.join("proc/meminfo"))
        .ok()
        .and_then(|text| kibibyte_field(&text, "MemTotal:"));
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| group_files(root, line)).flatten();
    limits.filter_map(|file| group_limit(&file)).chain(machine).min()
}

/// The limit files of one line `id:controllers:path` of `/proc/self/cgroup`: those of the group and
/// of all above it. Within a container the path may be that outside of it; then only the root's
/// file exists.
fn group_files(root: &Path, line: &str) -> Option<impl Iterator<Item = PathBuf>> {
    let mut parts = line.splitn(3, ':').skip(1);
    let controllers = parts.next()?;
    let group = parts.next()?.trim_start_matches('/').to_owned();
    let is_v1_memory = controllers.split(',').any(|controller| controller == "memory");
    let (mount, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        _ if is_v1_memory => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return None,
    };
    let mount = root.join(mount);
    // A path with `..` leads out of the hierarchy that is mounted here.
    let group = if group.split('/').any(|part| part == "..") { String::new() } else { group };
    let groups: Vec<PathBuf> = Path::new(&group).ancestors().map(Path::to_path_buf).collect();
    Some(groups.into_iter().map(move |group| mount.join(group).join(file)))
}

/// `max`, and v1's huge number for "no limit", are none: the machine's size is smaller anyway.
fn group_limit(file: &Path) -> Option<ByteCount> {
    fs::read_to_string(file).ok()?.trim().parse().ok().map(ByteCount::new)
}

fn kibibyte_field(text: &str, field: &str) -> Option<ByteCount> {
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    value.split_whitespace().next()?.parse().ok().map(ByteCount::kibibytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{default_limit, offered, offered_under, resident};
    use crate::ByteCount;

    static DIRECTORIES: AtomicU32 = AtomicU32::new(0);

    fn check(files: &[(&str, &str)], expected: Option<u64>) {
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let name = format!("ratatosk-machine-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        for (file, text) in files {
            let path = root.join(Path::new(file));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = offered_under(&root).map(ByteCount::bytes);
        let _ = fs::remove_dir_all(&root);
        assert_eq!(found, expected, "{files:?}");
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       8000 kB\nMemFree: 1 kB\n");
    const MACHINE: u64 = 8_000 * 1024;

    #[test]
    fn the_smallest_of_machine_and_groups_counts() {
        check(&[], None);
        check(&[MEMINFO], Some(MACHINE));
        let v2 = ("proc/self/cgroup", "0::/a/b\n");
        check(&[MEMINFO, v2, ("sys/fs/cgroup/a/b/memory.max", "4096000\n")], Some(4_096_000));
        check(&[MEMINFO, v2, ("sys/fs/cgroup/a/b/memory.max", "max\n")], Some(MACHINE));
        let parent = ("sys/fs/cgroup/a/memory.max", "1000000\n");
        let child = ("sys/fs/cgroup/a/b/memory.max", "2000000\n");
        check(&[MEMINFO, v2, parent, child], Some(1_000_000));
    }

    #[test]
    fn a_container_that_sees_only_its_own_root_is_found() {
        let outside = ("proc/self/cgroup", "0::/docker/0123\n");
        check(&[MEMINFO, outside, ("sys/fs/cgroup/memory.max", "3000000\n")], Some(3_000_000));
        let above = ("proc/self/cgroup", "0::/../x\n");
        check(&[MEMINFO, above, ("sys/fs/cgroup/memory.max", "3000000\n")], Some(3_000_000));
    }

    #[test]
    fn version_one_groups_are_read() {
        let v1 = ("proc/self/cgroup", "3:cpu,cpuacct:/x\n5:memory:/x\n0::/\n");
        let limit = ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "5000000\n");
        check(&[MEMINFO, v1, limit], Some(5_000_000));
        let none = ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712\n");
        check(&[MEMINFO, v1, none], Some(MACHINE));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_and_process_are_read() {
        let limit = default_limit();
        assert!(limit > ByteCount::mebibytes(16) && limit < offered().unwrap());
        let resident = resident().unwrap();
        assert!(resident > ByteCount::kibibytes(100) && resident < offered().unwrap());
    }
}
