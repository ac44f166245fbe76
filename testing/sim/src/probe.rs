//! What a disk would bring back, looked at on copies of it, so that the look changes nothing.
//!
//! One copy is asked as clients that come back would: which session, which subscriptions, what is
//! queued; another is led through time, to see when sessions end and wills are due. Then the latest
//! decision is looked for that explains all that was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ratatosk_clock::Instant;
use ratatosk_contract::inbox::{Attach, Entry, FetchBudget, Inbox as _, Sequence};
use ratatosk_contract::retain::{Cursor, Page, TenantRetained};
use ratatosk_contract::{SessionRef, ShardId};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::clients::{LIMITS, identity};
use crate::disk::Disk;
use crate::history::History;
use crate::ledger::{CLIENTS, FILTERS, Ledger, Queued, Session};
use crate::node::{Node, SimClock, Start, at_once};
use crate::replay::Replay;
use crate::routes::{self, Routes};
use crate::store::Stopped;

/// Messages by topic.
pub(crate) type Shelf = BTreeMap<String, String>;

/// What a process that begins would find.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) sessions: BTreeMap<usize, Session>,
    /// At each moment, how many sessions are left and which wills were handed out.
    course: Vec<(u64, usize, BTreeSet<String>)>,
    pub(crate) retained: Shelf,
    /// The routes in memory, and those in the store.
    pub(crate) routes: [Routes; 2],
    /// The number of each will.
    pub(crate) wills: BTreeMap<String, u64>,
}

/// Longer than anything lasts.
const FOR_EVER_MS: u64 = 1 << 40;

/// Looks at a disk as it is after a crash at `now_ms`; `moments` are those that matter.
pub(crate) fn look(disk: &Disk, now_ms: u64, moments: &BTreeSet<u64>) -> Result<Seen, Stopped> {
    // So long before that nothing has expired.
    let began_ms = now_ms / 2;
    let open = |disk: &mut Disk, clock: &SimClock| {
        let start = Start { clock: clock.clone(), began_ms, is_hasty: false, planted: None };
        let mut replay = Replay::ignored();
        let mut node = Node::open(disk, start, &mut replay)?;
        node.settle(&mut replay)?;
        Ok::<_, Stopped>(node)
    };
    let clock = SimClock::at(now_ms);
    let node = open(&mut disk.copy(), &clock)?;
    let routes = [routes::of(&node.dist), node.stored_routes()?];
    let sessions = (0..CLIENTS.len()).filter_map(|client| Some((client, session(&node, client)?)));
    let sessions = sessions.collect();
    let retained = shelf(&*node.retained, Instant::ZERO);
    let node = open(&mut disk.copy(), &clock)?;
    let mut course = Vec::new();
    let (mut wills, mut out) = (BTreeMap::new(), BTreeSet::new());
    for at_ms in course_of(now_ms, moments) {
        let mut due = Vec::new();
        node.inbox.expire(node.at(at_ms), usize::MAX, &mut due);
        wills.extend(due.iter().map(|will| (text(&will.message.payload), will.id.0)));
        out.extend(due.iter().map(|will| text(&will.message.payload)));
        course.push((at_ms, node.inbox.len(), out.clone()));
    }
    Ok(Seen { sessions, course, retained, routes, wills })
}

/// The latest decision that explains what was seen.
pub(crate) fn explain(seen: &Seen, history: &History<Ledger>, now_ms: u64) -> Option<usize> {
    let is_it = |ledger: &Ledger| {
        let is_same = |(client, session): (&usize, &Rc<Session>)| {
            seen.sessions.get(client).is_some_and(|found| *found == comparable(session))
        };
        ledger.sessions.len() == seen.sessions.len()
            && ledger.sessions.iter().all(is_same)
            && seen.course.iter().all(|(at_ms, left, wills)| {
                ledger.foreseen(now_ms, *at_ms) == (*left, wills.clone())
            })
    };
    history.candidates().find(|(_, ledger)| is_it(ledger)).map(|(number, _)| number)
}

/// All retained messages that are not over.
pub(crate) fn shelf(retained: &dyn TenantRetained, now: Instant) -> Shelf {
    let mut page = Page { messages_max: usize::MAX, bytes_max: usize::MAX, ..Page::default() };
    let mut cursor = Cursor::Start;
    let Ok(filter) = TopicFilter::parse("#", &TopicLimits::PROTOCOL) else {
        unreachable!("it is a filter");
    };
    while cursor != Cursor::End {
        retained.scan(now, &filter, &mut cursor, &mut page);
    }
    let messages = page.messages.iter();
    messages.map(|message| (message.topic.to_string(), text(&message.payload))).collect()
}

/// A payload as text.
pub(crate) fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// What an entry that was handed out is in a queue.
pub(crate) fn queued(entry: &Entry) -> Queued {
    // Nobody asks for the message of an exchange of which only the end is owed.
    let payload = match entry.is_received {
        true => String::new(),
        false => text(&entry.message.payload),
    };
    Queued {
        payload,
        qos: entry.qos as u8,
        is_received: entry.is_received,
        deadline_ms: None,
        since: 0,
    }
}

fn session(node: &Node, client: usize) -> Option<Session> {
    let attach = Attach {
        identity: &identity(CLIENTS[client]),
        owner: SessionRef { shard: ShardId(0), slot: 0, generation: 0 },
        is_clean: false,
        expiry_s: None,
        limits: LIMITS,
        will: None,
        now: Instant::ZERO,
    };
    let attached = at_once(node.inbox.attach(&attach, None)).ok()?.answer;
    if !attached.is_present {
        return None;
    }
    let mut entries = Vec::new();
    let (messages_max, bytes_max) = (usize::MAX, usize::MAX);
    let budget = FetchBudget { now: Instant::ZERO, messages_max, bytes_max };
    let fetched = node.inbox.fetch(attached.claim, Sequence(0), budget, &mut entries);
    debug_assert!(fetched.is_ok(), "the claim is fresh");
    let subscriptions = attached.subscriptions.iter().filter_map(|held| {
        let filter = FILTERS.iter().position(|filter| **filter == *held.filter)?;
        Some((filter, held.options.qos as u8))
    });
    Some(Session {
        inbox: attached.claim.inbox.0,
        version: attached.claim.version - 1,
        expiry_s: None,
        detached_ms: None,
        subscriptions: subscriptions.collect(),
        inbound: attached.inbound.iter().map(|packet_id| packet_id.value()).collect(),
        queue: entries.iter().map(|entry| (entry.sequence.0, queued(entry))).collect(),
        next: 0,
    })
}

/// A session as far as a client that comes back sees it; the rest shows in the course of time.
fn comparable(session: &Session) -> Session {
    let mut session = Session { expiry_s: None, detached_ms: None, next: 0, ..session.clone() };
    for queued in session.queue.values_mut() {
        (queued.deadline_ms, queued.since) = (None, 0);
        if queued.is_received {
            queued.payload.clear();
        }
    }
    session
}

/// The moments with the last millisecond before each, from now on.
fn course_of(now_ms: u64, moments: &BTreeSet<u64>) -> BTreeSet<u64> {
    let both = moments.iter().flat_map(|at_ms| [at_ms.saturating_sub(1), *at_ms]);
    both.filter(|at_ms| *at_ms > now_ms).chain([now_ms, now_ms + FOR_EVER_MS]).collect()
}
