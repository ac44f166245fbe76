//! Snapshots on their way: the bytes of a stream, who sends what when, and what is staged.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use raft::eraftpb::{Message, MessageType};
use ratatosk_clock::Instant;
use ratatosk_engine::{Engine, MemoryEngine};
use ratatosk_store::host::Arrivals as _;
use ratatosk_store::log::Truncated;
use ratatosk_store::machine::Envelope;
use ratatosk_store::snapshot::folder::{DiskFolder, FOLDER, Folder, Staged};
use ratatosk_store::snapshot::receiver::{self, Receiver, Settled};
use ratatosk_store::snapshot::sender::{self, Dispatch, Parcel, Receipt, Said, Sender};
use ratatosk_store::snapshot::stream::{Head, Piece, Position, SnapshotId};
use ratatosk_store::snapshot::{Departure, depart};
use ratatosk_testkit::scratch::Scratch;

use crate::fixture::{GROUP, STORE, Small, commands, descriptor, keyspaces};

const FROM: u64 = STORE;
const TO: u64 = 8;
const REPLICA: u64 = 2;
const CHUNK_BYTES: usize = 64;

type View = <MemoryEngine as Engine>::View;

/// What a store with so many keys has.
fn departure(keys: usize) -> Departure<View> {
    let mut small = Small::new();
    let names: Vec<String> = (0..keys).map(|key| format!("{key:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    small.propose(commands(&names), 1);
    depart(&small.overlay, &keyspaces(), GROUP).expect("memory").expect("it is here")
}

fn announced(departure: &Departure<View>, term: u64) -> Envelope {
    let mut message = Message { to: REPLICA, from: 1, term, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    message.set_snapshot(departure.snapshot());
    Envelope { group: GROUP, message }
}

fn pieces(departure: &Departure<View>, id: SnapshotId) -> Vec<Bytes> {
    let (mut pieces, mut place) = (vec![departure.head(id).encode()], Position::default());
    while let Some(chunk) = departure.chunk(id, &place, CHUNK_BYTES).expect("memory") {
        place = place.behind(&chunk, &descriptor().boundary).expect("in order");
        pieces.push(chunk.encode());
    }
    pieces.push(place.end(id).encode());
    pieces
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// KV-011: bytes that a release has sent stay readable.
#[test]
fn a_stream_has_the_bytes_that_the_format_says() {
    let id = SnapshotId { store: 7, number: 258 };
    let at = Truncated { index: 6, term: 5 };
    let head = Head { id, descriptor: descriptor(), at };
    let expected = "01000000260107820201060507636f756e746572160407636f756e74657200000000010201010700000000e66250a0";
    assert_eq!(hex(&head.encode()), expected);
    let mut small = Small::new();
    small.propose(commands(&["a", "b", "b"]), 1);
    let departure = depart(&small.overlay, &keyspaces(), GROUP).expect("memory").expect("here");
    let pieces = pieces(&departure, id);
    assert_eq!(
        hex(&pieces[1]),
        "020000001b07820200020161080000000000000001016208000000000000000271a48bee"
    );
    assert_eq!(hex(&pieces[2]), "030000000a07820201021604c66cf33ff837e2");
    assert_eq!(Piece::decode(&head.encode()), Ok(Piece::Head(head)));
}

/// KV-011: a larger pair has a chunk for itself, and the chunks together have every key once.
#[test]
fn chunks_are_small_and_have_every_key_in_order() {
    let departure = departure(40);
    let pieces = pieces(&departure, SnapshotId { store: 1, number: 1 });
    let mut keys = Vec::new();
    for piece in &pieces {
        assert!(piece.len() <= CHUNK_BYTES + 40, "{} bytes", piece.len());
        if let Ok(Piece::Chunk(chunk)) = Piece::decode(piece) {
            keys.extend(chunk.pairs().map(|(key, _)| key));
        }
    }
    let expected: Vec<Bytes> = (0..40).map(|key| Bytes::from(format!("{key:04}"))).collect();
    assert_eq!(keys, expected);
    let one = departure.chunk(SnapshotId { store: 1, number: 1 }, &Position::default(), 1);
    assert_eq!(one.expect("memory").expect("there are").pairs().count(), 1);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(data: Vec<u8>) {
        let _ = Piece::decode(&Bytes::from(data));
    }

    /// KV-011: each cut and each changed bit is found, and the error says where.
    #[test]
    fn a_piece_that_is_cut_or_changed_is_refused(place: prop::sample::Index, bit in 0_u8..8, keys in 1_usize..9) {
        for piece in pieces(&departure(keys), SnapshotId { store: 1, number: 1 }) {
            let place = place.index(piece.len());
            let cut = Piece::decode(&piece.slice(..place)).expect_err("it is cut");
            prop_assert!(cut.at <= place as u64 && cut.to_string().contains("at byte"));
            let mut flipped = piece.to_vec();
            flipped[place] ^= 1 << bit;
            let damaged = Piece::decode(&flipped.into()).expect_err("it is changed");
            prop_assert!(damaged.at <= piece.len() as u64);
            let longer = [&piece[..], b"\0"].concat();
            prop_assert!(Piece::decode(&longer.into()).is_err());
        }
    }
}

/// A folder in memory, with so much room.
#[derive(Clone, Default)]
struct MemoryFolder(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    files: BTreeMap<String, Arc<Mutex<Vec<u8>>>>,
    room: Option<u64>,
    synced: usize,
}

struct MemoryFile(MemoryFolder, Arc<Mutex<Vec<u8>>>);

impl MemoryFolder {
    fn names(&self) -> Vec<String> {
        self.0.lock().files.keys().cloned().collect()
    }
}

impl Folder for MemoryFolder {
    type File = MemoryFile;

    fn clear(&self) -> Result<()> {
        self.0.lock().files.clear();
        Ok(())
    }

    fn create(&self, name: &str) -> Result<MemoryFile> {
        let content = Arc::default();
        self.0.lock().files.insert(name.to_owned(), Arc::clone(&content));
        Ok(MemoryFile(self.clone(), content))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.0.lock().files.remove(name);
        Ok(())
    }

    fn has_room(&self, bytes: u64) -> Result<bool> {
        Ok(self.0.lock().room.is_none_or(|room| bytes <= room))
    }
}

impl Staged for MemoryFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.1.lock().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.0.0.lock().synced += 1;
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let content = self.1.lock();
        let rest = content.get(usize::try_from(offset).expect("small")..);
        let found = rest.and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(found.ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))?);
        Ok(())
    }
}

/// A sender and a receiver, and what is between them.
struct Two {
    now: Instant,
    sender: Sender<View>,
    receiver: Receiver<MemoryFolder>,
    folder: MemoryFolder,
    announced: Envelope,
    at: Truncated,
    /// Told to the receiver's machine.
    told: usize,
    ended: Vec<bool>,
    sent: u64,
    /// That all has arrived is not heard the first time.
    loses_arrival: bool,
}

fn small_chunks() -> sender::Config {
    sender::Config { chunk_bytes: CHUNK_BYTES, window: 3, ..sender::Config::default() }
}

impl Two {
    fn new(keys: usize, config: sender::Config) -> Self {
        let (now, departure) = (Instant::from_millis(1_000), departure(keys));
        let (announced, at) = (announced(&departure, 6), departure.at());
        let mut sender = Sender::new(FROM, 1, now, config);
        sender.keep(now, departure);
        let folder = MemoryFolder::default();
        let receiver = Receiver::open(folder.clone(), receiver::Config::default()).expect("memory");
        let (told, ended, sent, loses_arrival) = (0, Vec::new(), 0, false);
        Self { now, sender, receiver, folder, announced, at, told, ended, sent, loses_arrival }
    }

    fn begin(&mut self) {
        let mut dispatch = Dispatch::default();
        self.sender.send(TO, self.announced.clone(), &mut dispatch);
        self.ended.extend(dispatch.ended.iter().map(|(.., arrived)| *arrived));
    }

    /// One turn of both, and on to when there is more to do. What `is_lost` of is lost.
    fn turn(&mut self, is_lost: &mut impl FnMut() -> bool) {
        let mut dispatch = Dispatch::default();
        self.sender.poll(self.now, &mut dispatch).expect("memory");
        for (to, parcel) in std::mem::take(&mut dispatch.parcels) {
            assert_eq!(to, TO);
            if let Parcel::Piece { data, .. } = &parcel {
                self.sent += data.len() as u64;
            }
            if is_lost() {
                continue;
            }
            let taken = self.receiver.take(self.now, FROM, parcel, |_| true);
            self.told += usize::from(taken.message.is_some());
            let Some(receipt) = taken.receipt.filter(|_| !is_lost()) else { continue };
            if receipt.said != Said::Arrived || !std::mem::take(&mut self.loses_arrival) {
                self.sender.take(self.now, TO, receipt, &mut dispatch);
            }
        }
        self.ended.extend(dispatch.ended.iter().map(|(.., arrived)| *arrived));
        self.receiver.poll(self.now);
        let due = self.sender.next_due(self.now).filter(|_| self.ended.is_empty());
        self.now = due.map_or(self.now, |due| self.now.max(due));
    }

    fn run(&mut self, turns_max: usize, mut is_lost: impl FnMut() -> bool) {
        for _ in 0..turns_max {
            if !self.ended.is_empty() {
                return;
            }
            self.turn(&mut is_lost);
        }
    }

    fn arrived(&self) -> std::result::Result<Vec<Bytes>, ratatosk_engine::Error> {
        let mut keys = Vec::new();
        self.receiver.shelf().read(GROUP, self.at, &mut |key, _| {
            keys.push(key);
            Ok(())
        })?;
        Ok(keys)
    }
}

proptest! {
    /// KV-011: whatever is lost on its way, the data arrives as a whole and once.
    #[test]
    fn a_snapshot_arrives_whatever_is_lost(lost in prop::collection::vec(any::<bool>(), 0..200), keys in 0_usize..60) {
        let mut two = Two::new(keys, sender::Config { stall_max: Duration::from_secs(3_600), ..small_chunks() });
        two.begin();
        let mut lost = lost.into_iter();
        two.run(2_000, || lost.next().unwrap_or(false));
        prop_assert_eq!(&two.ended[..], [true]);
        prop_assert_eq!((two.told, two.folder.0.lock().synced), (1, 1));
        prop_assert_eq!(two.arrived().expect("whole").len(), keys);
    }
}

/// KV-011: what has come before the two were parted is not sent again.
#[test]
fn a_stream_goes_on_where_it_was() {
    let mut whole = Two::new(60, small_chunks());
    whole.begin();
    whole.run(1_000, || false);
    let mut two = Two::new(60, small_chunks());
    two.begin();
    let (mut turns, mut is_parted) = (0, false);
    while two.ended.is_empty() {
        turns += 1;
        is_parted = (4..8).contains(&turns);
        two.turn(&mut || is_parted);
    }
    assert!(!is_parted && two.ended == [true]);
    assert!(two.sent < whole.sent + 10 * CHUNK_BYTES as u64, "{} of {}", two.sent, whole.sent);
}

/// KV-011
#[test]
fn no_more_bytes_leave_in_a_second_than_may() {
    let mut two = Two::new(200, sender::Config { bytes_per_second: 1_000, ..small_chunks() });
    two.begin();
    let begun = two.now;
    two.run(100_000, || false);
    let took_ms = u64::try_from(two.now.since(begun).as_millis()).expect("short");
    assert_eq!(two.ended, [true]);
    // A tenth of a second at once, and the last piece is more than what was left.
    assert!(took_ms >= 2_000 && two.sent <= took_ms + 200, "{} bytes in {took_ms} ms", two.sent);
}

/// KV-011: a view holds back what the engine collects.
#[test]
fn a_view_that_is_too_old_ends_its_stream() {
    let life = Duration::from_secs(2);
    let slow = sender::Config { view_life: life, bytes_per_second: 100, ..small_chunks() };
    let mut two = Two::new(200, slow);
    two.begin();
    let begun = two.now;
    two.run(100_000, || false);
    assert_eq!(two.ended, [false]);
    assert!(two.now.since(begun) <= life + Duration::from_secs(2));
    assert!(two.sender.is_empty() && two.told == 0);
    two.begin();
    assert_eq!(two.ended, [false, false], "another is to be made");
    two.now = two.now + Duration::from_secs(60);
    two.receiver.poll(two.now);
    assert!(two.folder.names().is_empty(), "what has come of it is given up");
}

/// KV-011
#[test]
fn so_many_streams_are_at_work_and_the_others_wait() {
    let mut two = Two::new(20, sender::Config { streams_max: 1, waiting_max: 1, ..small_chunks() });
    let mut dispatch = Dispatch::default();
    for replica in [2, 3, 4] {
        let mut envelope = two.announced.clone();
        envelope.message.to = replica;
        two.sender.send(replica + 10, envelope, &mut dispatch);
    }
    assert_eq!(dispatch.ended, [(GROUP, 4, false)], "so many may wait");
    two.sender.poll(two.now, &mut dispatch).expect("memory");
    assert!(dispatch.parcels.iter().all(|(to, _)| *to == 12), "{dispatch:?}");
    let Parcel::Begin { head, .. } = &dispatch.parcels[0].1 else { panic!("it asks first") };
    let Ok(Piece::Head(Head { id, .. })) = Piece::decode(head) else { panic!("a head") };
    let mut dispatch = Dispatch::default();
    two.sender.take(two.now, 12, Receipt { group: GROUP, id, said: Said::Arrived }, &mut dispatch);
    two.sender.poll(two.now, &mut dispatch).expect("memory");
    assert!(dispatch.parcels.iter().all(|(to, _)| *to == 13) && dispatch.parcels.len() == 1);
}

/// DUR-006, KV-011: it costs the stream, and nothing is left of it.
#[test]
fn a_disk_without_room_takes_no_snapshot() {
    for room in [0, 300] {
        let mut two = Two::new(60, small_chunks());
        two.folder.0.lock().room = Some(room);
        two.begin();
        two.run(1_000, || false);
        assert_eq!((&two.ended[..], two.told), (&[false][..], 0), "room for {room} bytes");
        assert!(two.folder.names().is_empty());
    }
}

/// KV-011
#[test]
fn a_snapshot_gives_way_to_a_later_one_and_goes_with_its_group() {
    let mut two = Two::new(60, small_chunks());
    two.begin();
    (0..4).for_each(|_| two.turn(&mut || false));
    let begun = two.folder.names();
    let later = departure(61);
    let id = SnapshotId { store: 9, number: 1 };
    let begin = |term| {
        let envelope = Box::new(announced(&later, term));
        Parcel::Begin { envelope, head: later.head(id).encode() }
    };
    let said = |taken: receiver::Taken| taken.receipt.map(|receipt| receipt.said);
    assert_eq!(
        said(two.receiver.take(two.now, 9, begin(5), |_| true)),
        Some(Said::Refused),
        "it is older"
    );
    assert_eq!(two.folder.names(), begun);
    let unwanted = two.receiver.take(two.now, 9, begin(7), |_| false);
    assert_eq!((said(unwanted), two.folder.names()), (Some(Said::Refused), begun.clone()));
    let has_nothing = Some(Said::Has(Position::default()));
    assert_eq!(said(two.receiver.take(two.now, 9, begin(7), |_| true)), has_nothing);
    assert!(two.folder.names() != begun && two.folder.names().len() == 1);
    two.receiver.leave(GROUP, REPLICA - 1);
    assert_eq!(two.folder.names().len(), 1, "it is for another replica");
    two.receiver.leave(GROUP, REPLICA);
    assert!(two.folder.names().is_empty());
}

/// KV-011: a sender that has not heard so is told, and nothing comes twice.
#[test]
fn what_has_come_is_not_taken_again() {
    for is_installed in [false, true] {
        let mut two = Two::new(9, small_chunks());
        two.begin();
        two.loses_arrival = true;
        while two.told == 0 {
            two.turn(&mut || false);
        }
        assert!(two.ended.is_empty());
        two.receiver.settle(Settled { group: GROUP, at: two.at, is_taken: true });
        if is_installed {
            two.receiver.installed(GROUP);
        }
        let sent = two.sent;
        two.run(100, || false);
        assert_eq!((&two.ended[..], two.told), (&[true][..], 1));
        assert!(two.sent <= sent + 100, "{sent} bytes, then {}", two.sent);
    }
}

/// KV-011: what the machine does without is not kept.
#[test]
fn a_snapshot_is_kept_until_it_is_installed() {
    for is_wanted in [true, false] {
        let mut two = Two::new(9, small_chunks());
        two.begin();
        two.run(1_000, || false);
        two.receiver.settle(Settled { group: GROUP, at: two.at, is_taken: is_wanted });
        assert_eq!(two.arrived().is_ok(), is_wanted);
        assert_eq!(two.arrived().is_ok(), is_wanted, "once is enough");
        two.receiver.installed(GROUP);
        assert!(two.arrived().is_err() && two.folder.names().is_empty());
    }
}

/// DUR-005: the disk is not believed either.
#[test]
fn a_staged_file_that_changes_is_refused_with_the_place() {
    let mut two = Two::new(9, small_chunks());
    two.begin();
    two.run(1_000, || false);
    let name = two.folder.names().remove(0);
    let content = Arc::clone(&two.folder.0.lock().files[&name]);
    let whole = content.lock().clone();
    for place in 0..whole.len() {
        content.lock()[place] ^= 4;
        let error = two.arrived().expect_err("it is changed").to_string();
        assert!(error.contains(&name) && error.contains("at byte"), "{error}");
        content.lock().clone_from(&whole);
    }
    assert_eq!(two.arrived().expect("whole").len(), 9);
}

/// KV-011
#[test]
fn a_folder_on_disk_keeps_nothing_of_an_earlier_process() {
    let scratch = Scratch::new("snapshots");
    let folder = DiskFolder::open(scratch.path()).expect("a folder");
    let mut file = folder.create("one").expect("a file");
    file.append(b"some").and_then(|()| file.append(b"thing")).expect("there is room");
    file.sync().expect("synced");
    let mut read = [0; 5];
    file.read_at(4, &mut read).expect("it is there");
    assert_eq!(&read, b"thing");
    assert!(file.read_at(5, &mut read).is_err(), "there is less");
    assert!(folder.has_room(0).is_ok() && folder.remove("none").is_ok());
    drop(Receiver::open(folder, receiver::Config::default()).expect("it is cleared"));
    let left = std::fs::read_dir(scratch.path().join(FOLDER)).expect("it is there").count();
    assert_eq!(left, 0);
}
