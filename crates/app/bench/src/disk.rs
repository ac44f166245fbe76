//! What the broker does to the disk: bytes that its process wrote, blocks that its directory takes.
//!
//! Written bytes are the kernel's count of pages that the process made dirty, so pages that it rewrites
//! before they reach the disk count once, and what another process writes for it does not count at all.

use std::fs;
use std::path::Path;

use crate::bench::{Bench, Moment};
use crate::clock::SECOND_NS;
use crate::load::Load;
use crate::machine::figure::Figures;
use crate::net::Net;

/// A block of `stat`, whatever the file system's own block is.
const BLOCK_SIZE: u64 = 512;
/// Levels of directories that are followed.
const DEPTH_MAX: usize = 16;
/// Brokers put part of their writing off; what is measured this long after the load includes the first
/// checkpoint of those that make one every few seconds.
const SETTLE_NS: u64 = 4 * SECOND_NS;

/// Bytes that the files below `path` take on disk. Files that vanish meanwhile are passed over.
pub(crate) fn used(path: &Path) -> u64 {
    used_below(path, DEPTH_MAX)
}

fn used_below(path: &Path, depth: usize) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth > 0 => used_below(&entry.path(), depth - 1),
        Ok(metadata) if metadata.is_file() => metadata.blocks() * BLOCK_SIZE,
        _ => 0,
    });
    sizes.sum()
}

/// Lets the broker write what it put off, if there is anything to measure, and measures.
pub(crate) fn settle(bench: &mut Bench, net: &mut Net, load: &mut Load) -> anyhow::Result<Moment> {
    if bench.sees_broker() {
        bench.rest(net, load, SETTLE_NS)?;
    }
    Ok(bench.moment())
}

/// Write amplification, which is what the broker wrote between two moments for `user_bytes` of payload,
/// and the memory that it still holds at the second.
#[expect(clippy::cast_precision_loss, reason = "for display")]
pub(crate) fn settled_figures(figures: &mut Figures, from: Moment, to: Moment, user_bytes: u64) {
    let (Some(first), Some(last)) = (from.broker, to.broker) else { return };
    figures.set_count("rss_after", last.rss);
    let (Some(before), Some(after)) = (first.written, last.written) else { return };
    let written = after.saturating_sub(before);
    figures.set_count("disk_written", written);
    figures.set_count("disk_cancelled", last.cancelled.saturating_sub(first.cancelled));
    figures.set_ratio("disk_bytes_per_user_byte", written as f64, user_bytes as f64);
}

/// What `messages`, each kept for `sessions`, added to the directory.
#[expect(clippy::cast_precision_loss, reason = "for display")]
pub(crate) fn used_figures(
    figures: &mut Figures,
    from: Moment,
    to: Moment,
    Kept { messages, sessions }: Kept,
) {
    let (Some(before), Some(after)) = (from.used, to.used) else { return };
    let grown = after as f64 - before as f64;
    space_figures(figures, from, to);
    figures.set_ratio("disk_per_message", grown, messages as f64);
    if sessions > 1 {
        figures.set_ratio("disk_per_copy", grown, messages as f64 * sessions as f64);
    }
}

/// Space before and after, where nothing in particular is kept.
pub(crate) fn space_figures(figures: &mut Figures, from: Moment, to: Moment) {
    let (Some(before), Some(after)) = (from.used, to.used) else { return };
    figures.set_count("disk_used_before", before);
    figures.set_count("disk_used", after);
}

/// What a broker was given to keep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) messages: u64,
    /// Sessions that each message is kept for.
    pub(crate) sessions: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::meter::Sample;

    #[test]
    fn files_of_all_levels_count_by_their_blocks() {
        let name = format!("ratatosk-bench-disk-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::write(path.join("one"), vec![1; 8192]).unwrap();
        fs::write(path.join("a/b/two"), vec![1; 4096]).unwrap();
        // A hole takes nothing.
        fs::File::create(path.join("hole")).unwrap().set_len(1 << 20).unwrap();
        let size = used(&path);
        fs::remove_dir_all(&path).unwrap();
        assert!((8192 + 4096..1 << 20).contains(&size), "{size}");
        assert_eq!(used(&path), 0);
    }

    #[test]
    fn amplification_is_by_payload_and_absent_when_unknown() {
        let moment = |written, used| {
            let sample = Sample { written, cancelled: 1, ..Sample::default() };
            Moment { at_ns: clock::now_ns(), broker: Some(sample), own: Sample::default(), used }
        };
        let mut figures = Figures::default();
        let (from, to) = (moment(Some(100), Some(1000)), moment(Some(900), Some(5000)));
        settled_figures(&mut figures, from, to, 400);
        used_figures(&mut figures, from, to, Kept { messages: 10, sessions: 4 });
        assert_eq!(figures.value("disk_bytes_per_user_byte"), Some(2.0));
        assert_eq!(figures.value("disk_cancelled"), Some(0.0));
        assert_eq!(figures.value("disk_per_message"), Some(400.0));
        assert_eq!(figures.value("disk_per_copy"), Some(100.0));
        let mut none = Figures::default();
        settled_figures(&mut none, moment(None, None), to, 400);
        assert_eq!(none.value("rss_after"), Some(0.0));
        assert_eq!(none.value("disk_written"), None);
        used_figures(&mut none, moment(None, None), to, Kept { messages: 10, sessions: 1 });
        assert_eq!(none.value("disk_used"), None);
    }
}
