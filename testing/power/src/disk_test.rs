//! What a power loss may leave of a few calls; every state of it is drawn, and no other.

use std::collections::BTreeSet;

use super::*;

const ROOT_PATH: &str = "/root";

fn disk() -> Disk {
    let mut image = Image::default();
    image.entries.insert("old".to_owned(), Some(b"old".to_vec()));
    image.entries.insert("sub".to_owned(), None);
    Disk::new(ROOT_PATH, &image)
}

fn opened(name: &str, inode: Inode) -> Record {
    Record::Opened { path: format!("{ROOT_PATH}/{name}"), inode, is_emptied: false }
}

fn written(inode: Inode, offset: u64, text: &str) -> Record {
    Record::Written { inode, offset, bytes: text.as_bytes().to_vec() }
}

fn synced(name: &str, sync: u64) -> [Record; 2] {
    let path = format!("{ROOT_PATH}/{name}");
    [Record::SyncBegun { sync, inode: 0, path }, Record::SyncEnded { sync }]
}

fn renamed(from: &str, to: &str) -> Record {
    let path = |name| format!("{ROOT_PATH}/{name}");
    Record::Renamed { from: path(from), to: path(to) }
}

fn run(records: impl IntoIterator<Item = Record>) -> Disk {
    let mut disk = disk();
    records.into_iter().for_each(|record| disk.apply(record).expect("it can have happened"));
    disk
}

/// All that many draws leave of one name.
fn outcomes(disk: &Disk, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    let mut state = 1_u64;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % bound
    };
    (0..500).map(|_| disk.lose(&mut below).entries.get(name).cloned().flatten()).collect()
}

fn set<const COUNT: usize>(texts: [Option<&str>; COUNT]) -> BTreeSet<Option<Vec<u8>>> {
    texts.map(|text| text.map(|text| text.as_bytes().to_vec())).into()
}

#[test]
fn what_was_synced_stays() {
    let [begun, ended] = synced("old", 1);
    let disk = run([opened("old", 5), written(5, 0, "new"), begun, ended]);
    assert_eq!(outcomes(&disk, "old"), set([Some("new")]));
    assert_eq!(disk.uncertain_count(), 0);
}

#[test]
fn what_was_not_synced_may_be_there_and_may_not() {
    let disk = run([opened("old", 5), written(5, 1, "n")]);
    assert_eq!(outcomes(&disk, "old"), set([Some("old"), Some("ond")]));
    assert_eq!(disk.whole().entries["old"], Some(b"ond".to_vec()));
}

#[test]
fn size_and_data_are_lost_apart() {
    let disk = run([opened("old", 5), written(5, 3, "er")]);
    assert_eq!(outcomes(&disk, "old"), set([Some("old"), Some("old\0\0"), Some("older")]));
}

#[test]
fn sectors_are_lost_apart() {
    let long = "x".repeat(2 * SECTOR_BYTES);
    let mut start = vec![opened("old", 5), written(5, 0, &"o".repeat(2 * SECTOR_BYTES))];
    start.extend(synced("old", 1));
    start.push(written(5, 0, &long));
    let disk = run(start);
    let states: BTreeSet<_> = outcomes(&disk, "old")
        .into_iter()
        .map(|content| {
            content.map(|bytes| (bytes[0], bytes[SECTOR_BYTES - 1], bytes[SECTOR_BYTES]))
        })
        .collect();
    let expected = [(b'o', b'o', b'o'), (b'o', b'o', b'x'), (b'x', b'x', b'o'), (b'x', b'x', b'x')];
    assert_eq!(states, expected.map(Some).into());
}

#[test]
fn what_came_while_a_sync_was_under_way_is_not_part_of_it() {
    let [begun, ended] = synced("old", 1);
    let disk = run([opened("old", 5), begun, written(5, 0, "new"), ended]);
    assert_eq!(outcomes(&disk, "old"), set([Some("old"), Some("new")]));
}

#[test]
fn a_name_is_certain_once_its_folder_was_synced() {
    let mut records = vec![opened("sub/file", 6), written(6, 0, "x")];
    records.extend(synced("sub/file", 1));
    let disk = run(records.clone());
    assert_eq!(outcomes(&disk, "sub/file"), set([None, Some("x")]));
    records.extend(synced("sub", 2));
    assert_eq!(outcomes(&run(records), "sub/file"), set([Some("x")]));
}

#[test]
fn a_folder_takes_what_is_in_it_with_it() {
    let mut records = vec![Record::FolderMade { path: format!("{ROOT_PATH}/sub/in") }];
    records.extend([opened("sub/in/file", 6), written(6, 0, "x")]);
    records.extend(synced("sub/in/file", 1));
    records.extend(synced("sub/in", 2));
    let disk = run(records);
    assert_eq!(outcomes(&disk, "sub/in/file"), set([None, Some("x")]));
}

#[test]
fn a_rename_happens_or_does_not() {
    let mut records = vec![opened("fresh", 6), written(6, 0, "new")];
    records.extend(synced("fresh", 1));
    records.extend(synced("", 2));
    records.push(renamed("fresh", "old"));
    let disk = run(records);
    assert_eq!(outcomes(&disk, "old"), set([Some("old"), Some("new")]));
    assert_eq!(outcomes(&disk, "fresh"), set([None, Some("new")]));
}

#[test]
fn a_removal_that_was_not_synced_may_not_have_happened() {
    let removed = Record::Removed { path: format!("{ROOT_PATH}/old") };
    let disk = run([removed]);
    assert_eq!(outcomes(&disk, "old"), set([None, Some("old")]));
}

#[test]
fn an_inode_stands_for_what_was_opened_last_under_it() {
    let removed = Record::Removed { path: format!("{ROOT_PATH}/old") };
    let disk = run([opened("old", 5), removed, opened("next", 5), written(5, 0, "x")]);
    assert_eq!(disk.whole().entries.get("old"), None);
    assert_eq!(disk.whole().entries["next"], Some(b"x".to_vec()));
}

#[test]
fn what_is_cut_off_is_zeros_when_the_file_grows_again() {
    let cut = Record::Resized { inode: 5, size: 1 };
    let grown = Record::Grown { inode: 5, size: 3 };
    let disk = run([opened("old", 5), cut, grown]);
    let found = outcomes(&disk, "old");
    assert!(found.contains(&Some(b"o\0\0".to_vec())) && found.contains(&Some(b"o".to_vec())));
    assert!(found.iter().flatten().all(|bytes| bytes[0] == b'o'), "{found:?}");
}

#[test]
fn what_cannot_be_followed_is_said() {
    let check = |record: Record, text: &str| {
        let error = disk().apply(record).expect_err("it cannot be followed");
        assert!(error.to_string().contains(text), "{error}");
    };
    check(written(99, 0, "x"), "not opened");
    check(Record::Unknown { call: "mmap".to_owned() }, "mmap");
    check(renamed("old", "sub/old"), "from folder to folder");
    check(Record::SyncEnded { sync: 9 }, "without a begin");
    check(opened("nowhere/file", 1), "folder is missing");
}

#[test]
fn an_image_comes_back_from_a_folder() {
    let scratch = ratatosk_testkit::scratch::Scratch::new("image");
    let mut image = run([opened("sub/file", 6), written(6, 3, "x")]).whole();
    image.entries.insert("sub/zeros".to_owned(), Some(vec![0; 5000]));
    let folder = scratch.path().join("folder");
    image.write(&folder).expect("it can be written");
    let read = Image::read(&folder).expect("it can be read");
    assert_eq!(image.differences(&read), Vec::<String>::new());
    image.entries.insert("sub/zeros".to_owned(), Some(vec![0; 4999]));
    assert_eq!(
        image.differences(&read),
        ["sub/zeros: 4999 and 5000 bytes, different from byte 4999 on"]
    );
}
