//! Records, read as they were written, and cut.

use ratatosk_store::edition::{Edition, Editions};

use super::*;

fn descriptor() -> Descriptor {
    Descriptor::whole(GroupId(5), "k".to_owned(), 7)
}

fn reports() -> Vec<Report> {
    let birth = Some(Birth { parent: GroupId(1), index: 7, boundary: 3 });
    let version = Version { boundary: 4, config: 300 };
    let lineage = Lineage {
        birth,
        taken_in: [
            (GroupId(8), TakenIn { version, birth, boundary: 5 }),
            (GroupId(9), TakenIn { version, birth: None, boundary: 6 }),
        ]
        .into(),
    };
    let key = Bytes::from_static(b"key");
    let load = Load {
        entries_per_second: 1,
        written_bytes_per_second: 2,
        queries_per_second: 3,
        io_density: 4,
        io_latency: Duration::from_micros(5),
        cpu_permille: 6,
        size_bytes: 7,
        middle: Some(key.clone()),
        samples: [(key.clone(), 8), (Bytes::from_static(b"other"), 9)].into(),
        fanout: Some(Fanout { receivers: 10, key }),
    };
    let progress = [Progress::CaughtUp, Progress::Lagging, Progress::Snapshot, Progress::Silent];
    let progress = progress.into_iter().enumerate().map(|(store, held)| (store as u64, held));
    let leading = Leading {
        progress: progress.collect(),
        load,
        idle_since: Some(Instant::from_millis(1_234)),
    };
    let log = LogEnd { term: 2, index: 300 };
    let follows = Report {
        descriptor: descriptor(),
        term: 2,
        log,
        lineage: Lineage::default(),
        leading: None,
    };
    let leads = Report { lineage, leading: Some(leading), ..follows.clone() };
    let idle = Report { leading: Some(Leading::default()), ..follows.clone() };
    vec![follows, leads, idle]
}

fn statuses() -> Vec<Status> {
    let follows = Status {
        group: GroupId(5),
        descriptor: descriptor(),
        term: 3,
        last: (2, 300),
        leader: None,
        is_asleep: true,
        followers: None,
    };
    let progress = [
        (1, machine::Progress::CaughtUp),
        (2, machine::Progress::Lagging),
        (3, machine::Progress::Snapshot),
        (4, machine::Progress::Silent),
    ];
    let leads = Status {
        leader: Some(7),
        is_asleep: false,
        followers: Some(progress.to_vec()),
        ..follows.clone()
    };
    vec![follows, leads]
}

fn check<T: PartialEq + std::fmt::Debug>(
    value: &T,
    written: &Bytes,
    decode: impl Fn(&[u8]) -> Result<T, Malformed>,
) {
    assert_eq!(decode(written).as_ref(), Ok(value));
    for length in 0..written.len() {
        assert_eq!(decode(&written[..length]), Err(Malformed), "{length} bytes of {value:?}");
    }
    let longer = [&written[..], b"of a later version"].concat();
    assert_eq!(decode(&longer).as_ref(), Ok(value));
}

#[test]
fn records_are_read_as_they_were_written() {
    for report in reports() {
        check(&report, &encode_report(&report), |data| decode_report(GroupId(5), data));
    }
    for status in statuses() {
        check(&status, &encode_status(&status), |data| decode_status(GroupId(5), data));
    }
    let head = Head {
        now: Instant::from_millis(77),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        standing: Standing::Draining,
        keyspaces: ["x".to_owned(), "y".to_owned()].into(),
        editions: Supported::from([("k".to_owned(), Editions::new(Edition(1), Edition(3)))]),
        copies: BTreeSet::new(),
    };
    // An earlier version ends before the copies.
    let mut earlier = head.encode().to_vec();
    assert_eq!(earlier.pop(), Some(0));
    assert_eq!(Head::decode(&earlier).as_ref(), Ok(&head));
    let head = Head { copies: ["z".to_owned()].into(), ..head };
    let written = head.encode();
    assert_eq!(Head::decode(&written).as_ref(), Ok(&head));
    assert_eq!(Head::decode(&[&written[..], b"of a later version"].concat()), Ok(head));
    assert_eq!(Head::decode(&written[..written.len() - 1]), Err(Malformed));
    for is_short in [false, true] {
        let room = Room { is_short };
        check(&room, &room.encode(), Room::decode);
    }
}

/// Bytes that a release has written stay readable.
#[test]
fn records_have_the_bytes_that_the_format_says() {
    let status = &statuses()[1];
    let written = encode_status(status);
    let expected = [
        &b"\x10"[..],
        &descriptor().encode(),
        b"\x03\x02\xAC\x02\x01\x07\0\x01\x04\x01\0\x02\x01\x03\x02\x04\x03",
    ]
    .concat();
    assert_eq!(written, expected);
    let report = &reports()[0];
    let expected = [&b"\x10"[..], &descriptor().encode(), b"\x02\x02\xAC\x02\0\0\0"].concat();
    assert_eq!(encode_report(report), expected);
}
