//! Proposals on their way, and what becomes of them when the way breaks.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use ratatosk_store::range::Descriptor;

use super::*;

type Answers = Receiver<Result<Vec<Bytes>, Refusal>>;

fn propose(line: &Line, bytes: usize) -> Answers {
    let (told, tells) = mpsc::sync_channel(1);
    // Whoever waits may have gone.
    let reply = Box::new(move |answers| drop(told.send(answers)));
    line.wish(Wish::Entry { term: 3, group: GroupId(5), data: vec![7; bytes] }, reply);
    tells
}

fn is_pending(answers: &Answers) -> bool {
    answers.recv_timeout(Duration::ZERO) == Err(RecvTimeoutError::Timeout)
}

fn is_in_doubt(answers: &Answers) -> bool {
    answers.recv_timeout(Duration::ZERO) == Err(RecvTimeoutError::Disconnected)
}

fn lost() -> Error {
    Error::Internal { why: "it broke".to_owned() }
}

#[test]
fn answers_come_to_those_who_asked() {
    let line = Line::new(1_000);
    let (one, two, three) = (propose(&line, 1), propose(&line, 2), propose(&line, 3));
    let sent = Request::take_all(&line.take().expect("something")).expect("well formed");
    let ids: Vec<u64> = sent.iter().map(|request| request.id).collect();
    let lengths: Vec<usize> = sent.iter().map(|request| request.wish.bytes()).collect();
    assert_eq!((lengths, line.take()), (vec![1, 2, 3], None), "in the order of the calls");
    let mut told = Vec::new();
    put_outcome(&mut told, ids[2], &None);
    put_outcome(&mut told, ids[0], &Some(Ok(vec![Bytes::from_static(b"a"), Bytes::new()])));
    put_outcome(&mut told, ids[1], &Some(Err(Refusal::Lost)));
    line.hear(&told.into()).expect("it makes sense");
    assert_eq!(one.try_recv(), Ok(Ok(vec![Bytes::from_static(b"a"), Bytes::new()])));
    assert_eq!(two.try_recv(), Ok(Err(Refusal::Lost)));
    assert!(is_in_doubt(&three));
}

/// What was sent may have been carried out, and what was not sent was not.
#[test]
fn when_the_way_breaks_what_was_sent_is_in_doubt_and_the_rest_refused() {
    let line = Line::new(1_000);
    let sent = propose(&line, 1);
    line.take().expect("something");
    let queued = propose(&line, 1);
    assert!(is_pending(&sent) && is_pending(&queued));
    line.lose(&lost());
    assert!(is_in_doubt(&sent));
    assert_eq!(queued.try_recv(), Ok(Err(Refusal::NotLeader)));
    // Nobody is answered while he asks.
    let late = propose(&line, 1);
    assert!(is_pending(&late));
    line.refuse();
    assert_eq!((late.try_recv(), line.take()), (Ok(Err(Refusal::NotLeader)), None));
}

/// Whoever is refused proposes again, so nobody behind him may go before he knows.
#[test]
fn nobody_overtakes_who_has_not_heard_that_he_is_refused() {
    let line = std::sync::Arc::new(Line::new(10));
    let fits = propose(&line, 100);
    let too_much = propose(&line, 1);
    line.take().expect("the first");
    let behind = propose(&line, 1);
    assert_eq!(line.take(), None, "there is room, and somebody is before it");
    // One more comes while these two hear of it.
    let (told, tells) = mpsc::sync_channel(2);
    let again = std::sync::Arc::clone(&line);
    let reply = Box::new(move |_| drop(told.send(propose(&again, 1))));
    line.wish(Wish::Entry { term: 3, group: GroupId(5), data: Vec::new() }, reply);
    line.refuse();
    for refused in [too_much, behind, tells.try_recv().expect("it was told")] {
        assert_eq!(refused.try_recv(), Ok(Err(Refusal::NotLeader)));
    }
    assert!(is_pending(&fits));
    let after = propose(&line, 1);
    assert!(line.take().is_some() && is_pending(&after), "all have heard");
}

#[test]
fn what_does_not_fit_is_refused() {
    let line = Line::new(10);
    let fits = propose(&line, 100);
    let too_much = propose(&line, 1);
    line.refuse();
    assert!(is_pending(&fits));
    assert_eq!(too_much.try_recv(), Ok(Err(Refusal::NotLeader)));
}

#[test]
fn no_more_are_sent_than_may_be_under_way() {
    let line = Line::new(usize::MAX);
    let asked: Vec<_> = (0..WINDOW + 9).map(|_| propose(&line, 1)).collect();
    let mut sent = Vec::new();
    while let Some(batch) = line.take() {
        sent.extend(Request::take_all(&batch).expect("well formed"));
    }
    assert_eq!(sent.len(), WINDOW);
    let mut told = Vec::new();
    put_outcome(&mut told, sent[0].id, &Some(Ok(Vec::new())));
    line.hear(&told.into()).expect("it makes sense");
    assert_eq!(asked[0].try_recv(), Ok(Ok(Vec::new())));
    let more = Request::take_all(&line.take().expect("one more")).expect("well formed");
    assert_eq!(more.len(), 1);
}

#[test]
fn an_answer_to_what_was_not_asked_makes_no_sense() {
    let line = Line::new(10);
    let mut told = Vec::new();
    put_outcome(&mut told, 7, &None);
    assert_eq!(line.hear(&told.into()), Err(Malformed));
}

#[test]
fn outcomes_are_read_as_they_were_written() {
    let descriptor = Box::new(Descriptor::whole(GroupId(5), "k".to_owned(), 7));
    use ratatosk_store::membership::NoStep;
    let outcomes: Vec<Outcome> = vec![
        None,
        Some(Ok(Vec::new())),
        Some(Ok(vec![Bytes::new(), Bytes::from_static(b"answer")])),
        Some(Err(Refusal::NotLeader)),
        Some(Err(Refusal::Lost)),
        Some(Err(Refusal::Version(descriptor))),
        Some(Err(Refusal::Split)),
        Some(Err(Refusal::Merging)),
        Some(Err(Refusal::Step(NoStep::Reached))),
        Some(Err(Refusal::Step(NoStep::Underway))),
        Some(Err(Refusal::Step(NoStep::Senseless))),
        Some(Err(Refusal::Led)),
    ];
    let outcomes: Vec<(u64, Outcome)> = (300..).zip(outcomes).collect();
    let mut written = Vec::new();
    outcomes.iter().for_each(|(id, outcome)| put_outcome(&mut written, *id, outcome));
    assert_eq!(take_outcomes(&written), Ok(outcomes));
}

/// Bytes that a release has written stay readable.
#[test]
fn requests_have_the_bytes_that_the_format_says() {
    let (group, version) = (GroupId(300), Version { boundary: 1, config: 2 });
    let requests = vec![
        Request { id: 7, wish: Wish::Entry { term: 3, group, data: vec![9, 8] } },
        Request {
            id: 8,
            wish: Wish::Answer { group, version, question: Bytes::from_static(b"q") },
        },
    ];
    let written = Request::put_all(&requests);
    let expected = b"\0\x07\x03\xAC\x02\x02\x09\x08\x01\x08\xAC\x02\x01\x02\x01q";
    assert_eq!(written, expected);
    assert_eq!(Request::take_all(&written), Ok(requests));
    for length in [1, 4, 7, 9, 12, 15] {
        assert_eq!(Request::take_all(&written[..length]), Err(Malformed), "{length} bytes");
    }
}
