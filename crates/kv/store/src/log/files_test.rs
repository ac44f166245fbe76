//! How room is made for the log.

use std::io::Write as _;

use ratatosk_testkit::scratch::Scratch;
use rustix::fs::{SeekFrom as Place, seek};

use super::*;

const ROOM: usize = 2 << 20;

fn file(scratch: &Scratch) -> (PathBuf, Cursor) {
    let path = scratch.path().join("0000000000000001.raftlog");
    let files = Files::default();
    let held = files.create(&path).expect("a file");
    let cursor = files.new_writer(Arc::new(held)).expect("a writer");
    (path, cursor)
}

/// How far the file is written, holes and what is only kept free left out.
fn written(path: &Path) -> u64 {
    let file = File::open(path).expect("there");
    seek(&file, Place::Hole(0)).expect("every file ends")
}

/// A sync of a small write does not wait for what others have written.
#[test]
fn room_for_small_writes_is_written_and_for_large_ones_kept_free() {
    let scratch = Scratch::new("log-room");
    let (path, mut cursor) = file(&scratch);
    cursor.allocate(0, ROOM).expect("room");
    assert_eq!(written(&path), ROOM as u64, "how it is used is not known yet");
    for _ in 0..MANY_WRITES {
        cursor.write_all(&[7; 100]).expect("written");
    }
    cursor.allocate(ROOM, ROOM + 5).expect("room");
    assert_eq!(written(&path), 2 * ROOM as u64 + 5);
    cursor.write_all(&[8; 100]).expect("written");
    cursor.allocate(2 * ROOM + 5, ROOM).expect("room");
    let bytes = std::fs::read(&path).expect("there");
    assert_eq!(bytes.len(), 3 * ROOM + 5);
    let used = 100 * MANY_WRITES as usize;
    assert!(bytes[..used].iter().all(|byte| *byte == 7), "what was written stays");
    assert!(bytes[used + 100..].iter().all(|byte| *byte == 0));
}
