//! Between what the protocol says and its messages. Whatever comes of the network is checked here.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_clock::Timestamp;
use ratatosk_contract::{ClientId, SessionIdentity, SessionRef, ShardId, TenantId};

#[cfg(any(test, feature = "fuzzing"))]
use super::change;
use super::wire;
use crate::protocol::{
    Begun, Host, Meeting, Question, Registration, Reply, Stamp, Verdict, ViewId,
};

/// Questions, meetings and replies in one message.
const ITEMS_MAX: usize = 1_024;
/// Identities in one message.
const IDENTITIES_MAX: usize = 65_536;
/// Longest part of an identity, in bytes: MQTT has no longer strings.
pub(super) const PART_BYTES_MAX: usize = 65_535;

/// A message that means nothing.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(super) &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "a message of the session directory is malformed: {}", self.0)
    }
}

pub(super) type Read<T> = Result<T, Malformed>;

pub(super) fn need<T>(value: Option<T>, what: &'static str) -> Read<T> {
    value.ok_or(Malformed(what))
}

pub(super) fn check(holds: bool, what: &'static str) -> Read<()> {
    holds.then_some(()).ok_or(Malformed(what))
}

/// About how many bytes an identity takes.
pub(super) fn identity_bytes(identity: &SessionIdentity) -> usize {
    let user = identity.user.as_ref().map_or(0, |user| user.len());
    identity.tenant.as_str().len() + user + identity.client.as_str().len() + 64
}

pub(super) fn identity(identity: &SessionIdentity) -> wire::Identity {
    wire::Identity {
        tenant: identity.tenant.as_str().to_owned(),
        user: identity.user.as_deref().map(str::to_owned),
        client: identity.client.as_str().to_owned(),
    }
}

pub(super) fn read_identity(identity: &wire::Identity) -> Read<SessionIdentity> {
    let wire::Identity { tenant, user, client } = identity;
    let parts = [tenant.as_str(), user.as_deref().unwrap_or_default(), client.as_str()];
    check(parts.iter().all(|part| part.len() <= PART_BYTES_MAX), "an identity is too long")?;
    Ok(SessionIdentity {
        tenant: TenantId::new(tenant),
        user: user.as_deref().map(Arc::from),
        client: ClientId::new(client),
    })
}

pub(super) fn read_identities(identities: &wire::Identities) -> Read<Vec<SessionIdentity>> {
    check(identities.identities.len() <= IDENTITIES_MAX, "too many identities")?;
    identities.identities.iter().map(read_identity).collect()
}

fn owner(identity: Option<&wire::Identity>) -> Read<Arc<SessionIdentity>> {
    Ok(Arc::new(read_identity(need(identity, "no identity")?)?))
}

fn session(session: SessionRef) -> Option<wire::Session> {
    let SessionRef { shard, slot, generation } = session;
    Some(wire::Session { shard: shard.0.into(), slot, generation })
}

fn read_session(session: Option<&wire::Session>) -> Read<SessionRef> {
    let wire::Session { shard, slot, generation } = *need(session, "no session")?;
    let shard = u8::try_from(shard).ok().filter(|shard| usize::from(*shard) < ShardId::COUNT_MAX);
    Ok(SessionRef { shard: ShardId(need(shard, "no such shard")?), slot, generation })
}

fn host(host: Host) -> Bytes {
    Bytes::copy_from_slice(&host.0.to_be_bytes())
}

fn read_host(bytes: &[u8]) -> Read<Host> {
    let bytes: Option<[u8; 16]> = bytes.try_into().ok();
    Ok(Host(u128::from_be_bytes(need(bytes, "a host has 16 bytes")?)))
}

fn read_stamp(stamp: u64, wall: Timestamp) -> Read<Stamp> {
    let stamp = Stamp(stamp);
    check(stamp.is_sane(wall), "a stamp is of the future")?;
    Ok(stamp)
}

pub(super) fn registration(registration: &Registration) -> wire::Registration {
    wire::Registration {
        host: host(registration.host),
        session: session(registration.session),
        stamp: registration.stamp.0,
    }
}

pub(super) fn read_registration(
    registration: &wire::Registration,
    wall: Timestamp,
) -> Read<Registration> {
    Ok(Registration {
        host: read_host(&registration.host)?,
        session: read_session(registration.session.as_ref())?,
        stamp: read_stamp(registration.stamp, wall)?,
    })
}

pub(super) fn question(question: &Question) -> wire::Question {
    use wire::question::Kind;
    let kind = match question {
        Question::Register { view, identity: of, session: owner, stamp, is_claim } => {
            Kind::Register(wire::Register {
                view: view.0,
                identity: Some(identity(of)),
                session: session(*owner),
                stamp: stamp.0,
                is_claim: *is_claim,
            })
        }
        Question::Remove { identity: of, host: at, stamp } => Kind::Remove(wire::Remove {
            identity: Some(identity(of)),
            host: host(*at),
            stamp: stamp.map(|stamp| stamp.0),
        }),
        Question::Begin { view, base } => {
            Kind::Begin(wire::Begin { view: view.0, base: base.map(|base| base.0) })
        }
        Question::Commit { view, round } => {
            Kind::Commit(wire::Commit { view: view.0, round: *round })
        }
    };
    wire::Question { kind: Some(kind) }
}

pub(super) fn questions(questions: &wire::Questions, wall: Timestamp) -> Read<Vec<Question>> {
    check(questions.questions.len() <= ITEMS_MAX, "too many questions")?;
    questions.questions.iter().map(|question| read_question(question, wall)).collect()
}

fn read_question(question: &wire::Question, wall: Timestamp) -> Read<Question> {
    use wire::question::Kind;
    Ok(match need(question.kind.as_ref(), "no question")? {
        Kind::Register(register) => Question::Register {
            view: ViewId(register.view),
            identity: owner(register.identity.as_ref())?,
            session: read_session(register.session.as_ref())?,
            stamp: read_stamp(register.stamp, wall)?,
            is_claim: register.is_claim,
        },
        Kind::Remove(remove) => Question::Remove {
            identity: owner(remove.identity.as_ref())?,
            host: read_host(&remove.host)?,
            stamp: remove.stamp.map(Stamp),
        },
        Kind::Begin(begin) => {
            Question::Begin { view: ViewId(begin.view), base: begin.base.map(ViewId) }
        }
        Kind::Commit(commit) => Question::Commit { view: ViewId(commit.view), round: commit.round },
    })
}

pub(super) fn reply(reply: &Reply) -> wire::Reply {
    use wire::reply::Kind;
    let kind = match reply {
        Reply::Registered { stamp, others, is_complete } => Kind::Registered(wire::Registered {
            stamp: stamp.0,
            others: others.iter().map(registration).collect(),
            is_complete: *is_complete,
        }),
        Reply::Removed => Kind::Removed(wire::Done {}),
        Reply::Begun(begun, round) => {
            let what = match begun {
                Begun::Nothing => 0,
                Begun::Rest => 1,
                Begun::All => 2,
            };
            Kind::Begun(wire::Begun { what, round: *round })
        }
        Reply::Committed => Kind::Committed(wire::Done {}),
        Reply::Stranger => Kind::Stranger(wire::Done {}),
    };
    wire::Reply { kind: Some(kind) }
}

/// As many replies as there were questions.
pub(super) fn replies(replies: &wire::Replies, count: usize, wall: Timestamp) -> Read<Vec<Reply>> {
    check(replies.replies.len() == count, "a reply for each question")?;
    replies.replies.iter().map(|reply| read_reply(reply, wall)).collect()
}

fn read_reply(reply: &wire::Reply, wall: Timestamp) -> Read<Reply> {
    use wire::reply::Kind;
    Ok(match need(reply.kind.as_ref(), "no reply")? {
        Kind::Registered(registered) => {
            check(registered.others.len() <= ITEMS_MAX, "too many others")?;
            let others = registered.others.iter().map(|other| read_registration(other, wall));
            Reply::Registered {
                stamp: read_stamp(registered.stamp, wall)?,
                others: others.collect::<Read<_>>()?,
                is_complete: registered.is_complete,
            }
        }
        Kind::Removed(_) => Reply::Removed,
        Kind::Begun(begun) => {
            let what = match begun.what {
                0 => Begun::Nothing,
                1 => Begun::Rest,
                2 => Begun::All,
                _ => return Err(Malformed("begun, but how")),
            };
            Reply::Begun(what, begun.round)
        }
        Kind::Committed(_) => Reply::Committed,
        Kind::Stranger(_) => Reply::Stranger,
    })
}

pub(super) fn meeting(meeting: &Meeting) -> wire::Meeting {
    wire::Meeting {
        identity: Some(identity(&meeting.identity)),
        session: session(meeting.session),
        stamp: meeting.stamp.0,
        is_claim: meeting.is_claim,
        view: meeting.view.0,
        is_unsure: meeting.is_unsure,
    }
}

pub(super) fn meetings(meetings: &wire::Meetings, wall: Timestamp) -> Read<Vec<Meeting>> {
    check(meetings.meetings.len() <= ITEMS_MAX, "too many meetings")?;
    let read = |meeting: &wire::Meeting| {
        Ok(Meeting {
            identity: owner(meeting.identity.as_ref())?,
            session: read_session(meeting.session.as_ref())?,
            stamp: read_stamp(meeting.stamp, wall)?,
            is_claim: meeting.is_claim,
            view: ViewId(meeting.view),
            is_unsure: meeting.is_unsure,
        })
    };
    meetings.meetings.iter().map(read).collect()
}

pub(super) fn verdict(verdict: Verdict) -> wire::Verdict {
    use wire::verdict::Kind;
    let kind = match verdict {
        Verdict::Gone { was_held } => Kind::Gone(wire::Gone { was_held }),
        Verdict::Stays { stamp, is_live } => Kind::Stays(wire::Stays { stamp: stamp.0, is_live }),
        Verdict::Again => Kind::Again(wire::Done {}),
    };
    wire::Verdict { kind: Some(kind) }
}

/// As many verdicts as there were meetings.
pub(super) fn verdicts(
    verdicts: &wire::Verdicts,
    count: usize,
    wall: Timestamp,
) -> Read<Vec<Verdict>> {
    use wire::verdict::Kind;
    check(verdicts.verdicts.len() == count, "a verdict for each meeting")?;
    let read = |verdict: &wire::Verdict| {
        Ok(match need(verdict.kind.as_ref(), "no verdict")? {
            Kind::Gone(gone) => Verdict::Gone { was_held: gone.was_held },
            Kind::Stays(stays) => {
                Verdict::Stays { stamp: read_stamp(stays.stamp, wall)?, is_live: stays.is_live }
            }
            Kind::Again(_) => Verdict::Again,
        })
    };
    verdicts.verdicts.iter().map(read).collect()
}

/// Reads bytes as any message; what means something is written and read again as it was.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_any(data: &[u8], wall: Timestamp) {
    use prost::Message as _;
    if let Ok(message) = wire::Questions::decode(data)
        && let Ok(read) = questions(&message, wall)
    {
        let again = wire::Questions { questions: read.iter().map(question).collect() };
        assert_eq!(questions(&again, wall), Ok(read));
    }
    if let Ok(message) = wire::Replies::decode(data)
        && let Ok(read) = replies(&message, message.replies.len(), wall)
    {
        let again = wire::Replies { replies: read.iter().map(reply).collect() };
        assert_eq!(replies(&again, read.len(), wall), Ok(read));
    }
    if let Ok(message) = wire::Meetings::decode(data)
        && let Ok(read) = meetings(&message, wall)
    {
        let again = wire::Meetings { meetings: read.iter().map(meeting).collect() };
        assert_eq!(meetings(&again, wall), Ok(read));
    }
    if let Ok(message) = wire::Verdicts::decode(data)
        && let Ok(read) = verdicts(&message, message.verdicts.len(), wall)
    {
        let again = wire::Verdicts { verdicts: read.iter().copied().map(verdict).collect() };
        assert_eq!(verdicts(&again, read.len(), wall), Ok(read));
    }
    if let Ok(message) = wire::Identities::decode(data) {
        let _ = read_identities(&message);
    }
    if let Ok(message) = wire::Victims::decode(data) {
        let _ = super::Victims::read(&message);
    }
    if let Ok(message) = wire::Change::decode(data)
        && let Ok((identity, read)) = change::read(&message)
    {
        let again = change::write(&identity, &read);
        assert_eq!(change::read(&again), Ok((identity, read)));
    }
    if let Ok(message) = wire::Changed::decode(data)
        && let Ok(read) = change::read_changed(&message)
    {
        assert_eq!(change::read_changed(&change::write_changed(read)), Ok(read));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(user: Option<&str>) -> Arc<SessionIdentity> {
        Arc::new(SessionIdentity {
            tenant: TenantId::new("t"),
            user: user.map(Arc::from),
            client: ClientId::new("c"),
        })
    }

    const OWNER: SessionRef = SessionRef { shard: ShardId(63), slot: u32::MAX, generation: 7 };
    const WALL: Timestamp = Timestamp::from_millis(5);

    #[test]
    fn what_was_said_is_read_as_it_was_meant() {
        let (view, stamp) = (ViewId(9), Stamp(3 << 16));
        let said = [None, Some(""), Some("u")].map(|user| Question::Register {
            view,
            identity: of(user),
            session: OWNER,
            stamp,
            is_claim: user.is_none(),
        });
        let more = [
            Question::Remove { identity: of(None), host: Host(5), stamp: None },
            Question::Remove { identity: of(None), host: Host(u128::MAX), stamp: Some(stamp) },
            Question::Begin { view, base: None },
            Question::Begin { view, base: Some(ViewId(0)) },
            Question::Commit { view, round: 4 },
        ];
        let said: Vec<_> = said.into_iter().chain(more).collect();
        let message = wire::Questions { questions: said.iter().map(question).collect() };
        assert_eq!(questions(&message, WALL), Ok(said));
        let other = Registration { host: Host(8), session: OWNER, stamp };
        let said = vec![
            Reply::Registered { stamp, others: vec![other], is_complete: true },
            Reply::Removed,
            Reply::Begun(Begun::Nothing, 1),
            Reply::Begun(Begun::Rest, 2),
            Reply::Begun(Begun::All, 3),
            Reply::Committed,
            Reply::Stranger,
        ];
        let message = wire::Replies { replies: said.iter().map(reply).collect() };
        assert_eq!(replies(&message, said.len(), WALL), Ok(said));
        assert!(replies(&message, 1, WALL).is_err(), "one for each question");
        let said = vec![Meeting {
            identity: of(Some("u")),
            session: OWNER,
            stamp,
            is_claim: true,
            view,
            is_unsure: true,
        }];
        let message = wire::Meetings { meetings: said.iter().map(meeting).collect() };
        assert_eq!(meetings(&message, WALL), Ok(said));
        let said = vec![
            Verdict::Gone { was_held: true },
            Verdict::Stays { stamp, is_live: true },
            Verdict::Again,
        ];
        let message = wire::Verdicts { verdicts: said.iter().copied().map(verdict).collect() };
        assert_eq!(verdicts(&message, said.len(), WALL), Ok(said));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let stamp = Stamp(0);
        let meeting_of = |stamp: Stamp| Meeting {
            identity: of(None),
            session: OWNER,
            stamp,
            is_claim: true,
            view: ViewId(0),
            is_unsure: false,
        };
        let refused = |change: &dyn Fn(&mut wire::Meeting)| {
            let mut one = meeting(&meeting_of(stamp));
            change(&mut one);
            meetings(&wire::Meetings { meetings: vec![one] }, WALL).is_err()
        };
        assert!(!refused(&|_| {}));
        assert!(refused(&|one| one.identity = None));
        assert!(refused(&|one| one.session = None));
        assert!(refused(&|one| one.session.as_mut().unwrap().shard = 64));
        assert!(refused(&|one| one.stamp = u64::MAX));
        assert!(refused(&|one| one.identity.as_mut().unwrap().client = "c".repeat(65_536)));
        let many = wire::Meetings { meetings: vec![wire::Meeting::default(); ITEMS_MAX + 1] };
        assert!(meetings(&many, WALL).is_err());
        assert!(read_host(&[0; 15]).is_err());
    }
}
