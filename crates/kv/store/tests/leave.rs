//! What coprocessors are told that tell others of their data: no key is missing in between, and what goes
//! is known to.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::command;
use ratatosk_store::coprocessor::{Coprocessor, Factory, Keyspaces, Position, Reader, Writer};
use ratatosk_stores::{Stores, until, version_of, wait};

const KEYSPACE: &str = "told";

/// What the coprocessors of a store were told: their number, and the keys, or that they leave.
#[derive(Debug, Default)]
struct Told {
    made: usize,
    words: Vec<(usize, Option<KeyRange>)>,
}

struct Teller {
    number: usize,
    told: Arc<Mutex<Told>>,
}

impl Coprocessor for Teller {
    fn reset(&mut self, boundary: &KeyRange, _reader: &dyn Reader) -> Result<(), Error> {
        self.told.lock().words.push((self.number, Some(boundary.clone())));
        Ok(())
    }

    fn apply(
        &mut self,
        _position: Position,
        _command: &Bytes,
        _writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        Ok(Bytes::new())
    }

    fn query(&self, _question: &Bytes, _reader: &dyn Reader) -> Result<Bytes, Error> {
        Ok(Bytes::new())
    }

    fn leave(&mut self) {
        self.told.lock().words.push((self.number, None));
    }
}

fn tellers(told: &Arc<Mutex<Told>>) -> Factory {
    let told = Arc::clone(told);
    Box::new(move || {
        let number = told.lock().made;
        told.lock().made += 1;
        Box::new(Teller { number, told: Arc::clone(&told) })
    })
}

fn keys(start: &[u8], end: Option<&[u8]>) -> Option<KeyRange> {
    let end = end.map(Bytes::copy_from_slice);
    Some(KeyRange { start: Bytes::copy_from_slice(start), end })
}

/// KV-013, KV-015, KV-019
#[test]
fn coprocessors_hear_of_keys_before_others_lose_them_and_that_they_leave() {
    let told: Vec<_> = (0..2).map(|_| Arc::<Mutex<Told>>::default()).collect();
    let known = told.clone();
    let knows = move |store: u64| {
        let told = &known[usize::try_from(store - 1).expect("few")];
        Keyspaces::new(vec![(KEYSPACE.to_owned(), tellers(told))])
    };
    let stores = Stores::of_each("store-leave", 2, knows);
    let whole = stores.whole(KEYSPACE);
    let take = |store: usize| std::mem::take(&mut told[store].lock().words);
    assert_eq!(take(0), [(0, keys(b"", None))]);

    stores.change(&whole, &[1, 2]);
    until("it has come", || (stores.handle(2).ranges(KEYSPACE).len() == 1).then_some(()));
    assert_eq!(take(0), []);
    let came = take(1);
    assert_eq!(came.last(), Some(&(0, keys(b"", None))), "{came:?}");

    stores.transfer(whole.group, 1);
    let handle = stores.handle(1);
    let version = version_of(&handle, &whole).expect("it is here");
    let order = command::split(version, b"m");
    let answers = wait(|reply| handle.propose(whole.group, order, reply));
    assert!(matches!(answers, Some(Ok(_))), "{answers:?}");
    for (store, told) in (1..).zip(&told) {
        until("it is split", || (stores.handle(store).ranges(KEYSPACE).len() == 2).then_some(()));
        let words = std::mem::take(&mut told.lock().words);
        assert_eq!(
            words,
            [(1, keys(b"m", None)), (0, keys(b"", Some(b"m")))],
            "the right one first"
        );
    }

    until("it is merged", || {
        let ranges = handle.ranges(KEYSPACE);
        let [_, right] = &ranges[..] else { return Some(()) };
        stores.transfer(right.group, 1);
        stores.transfer(whole.group, 1);
        let _ = wait(|reply| handle.merge(right.group, right.version, reply));
        None
    });
    for (store, told) in (1..).zip(&told) {
        until("it is whole", || (stores.handle(store).ranges(KEYSPACE).len() == 1).then_some(()));
        let words = std::mem::take(&mut told.lock().words);
        assert_eq!(words, [(0, keys(b"", None)), (1, None)], "the left one first");
    }

    stores.change(&whole, &[1]);
    until("it has left", || stores.handle(2).ranges(KEYSPACE).is_empty().then_some(()));
    assert_eq!((take(0), take(1)), (vec![], vec![(0, None)]));
}
