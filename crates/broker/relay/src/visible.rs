//! How far the other hosts have applied this one's table, and who waits for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ratatosk_clock::Instant;
use ratatosk_contract::ReplyTo;
use ratatosk_contract::relay::IsVisible;
use ratatosk_rpc::HostId;

/// Who may wait at a time; more are answered at once that it is not visible.
const WAITING_MAX: usize = 65_536;

/// Hosts that are remembered though they are not alive.
const SEEN_MAX: usize = 1_024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Visibility {
    alive: BTreeSet<HostId>,
    seen: BTreeMap<HostId, Seen>,
    /// The last stream that began.
    turn: u64,
    /// In the order of their deadlines, as all wait equally long.
    waiting: VecDeque<Waiting>,
}

/// How far a host is, by the last of its streams.
#[derive(Debug)]
struct Seen {
    turn: u64,
    sequence: u64,
}

#[derive(Debug)]
struct Waiting {
    sequence: u64,
    due: Instant,
    reply_to: ReplyTo,
}

/// Who is to be told what.
pub(crate) type Answers = Vec<(ReplyTo, IsVisible)>;

impl Visibility {
    /// These are the other hosts that count as alive.
    pub(crate) fn set_alive(&mut self, alive: BTreeSet<HostId>) -> Answers {
        // One that is not alive here yet, or is believed dead wrongly, may have said how far it is.
        if self.seen.len() > SEEN_MAX {
            self.seen.retain(|host, _| alive.contains(host));
        }
        self.alive = alive;
        self.answer()
    }

    /// A host begins a stream: what it had it may have no more. Answers the stream's turn.
    pub(crate) fn begin(&mut self, host: HostId) -> u64 {
        self.turn += 1;
        self.seen.insert(host, Seen { turn: self.turn, sequence: 0 });
        self.turn
    }

    /// A host says on a stream that it has applied everything up to a sequence. What comes of an
    /// earlier stream means nothing any more.
    pub(crate) fn note(&mut self, host: HostId, turn: u64, sequence: u64) -> Answers {
        match self.seen.get_mut(&host).filter(|seen| seen.turn == turn) {
            Some(seen) => seen.sequence = seen.sequence.max(sequence),
            None => return Answers::new(),
        }
        self.answer()
    }

    /// Answers now, or later by one of the other methods.
    pub(crate) fn wait(
        &mut self,
        sequence: u64,
        due: Instant,
        reply_to: ReplyTo,
    ) -> Option<IsVisible> {
        if sequence <= self.floor() {
            return Some(IsVisible::Yes);
        }
        if self.waiting.len() >= WAITING_MAX {
            return Some(IsVisible::NotInTime);
        }
        self.waiting.push_back(Waiting { sequence, due, reply_to });
        None
    }

    /// Answers those who have waited for too long.
    pub(crate) fn expire(&mut self, now: Instant) -> Answers {
        let mut answers = Answers::new();
        while let Some(late) = self.waiting.pop_front_if(|waiting| waiting.due <= now) {
            answers.push((late.reply_to, IsVisible::NotInTime));
        }
        answers
    }

    /// What all have.
    fn floor(&self) -> u64 {
        let seen = |host| self.seen.get(host).map_or(0, |seen| seen.sequence);
        self.alive.iter().map(seen).min().unwrap_or(u64::MAX)
    }

    fn answer(&mut self) -> Answers {
        let floor = self.floor();
        let mut answers = Answers::new();
        if self.waiting.is_empty() {
            return answers;
        }
        self.waiting.retain(|waiting| {
            let is_seen = waiting.sequence <= floor;
            if is_seen {
                answers.push((waiting.reply_to, IsVisible::Yes));
            }
            !is_seen
        });
        answers
    }
}

#[cfg(test)]
mod tests {
    use ratatosk_contract::{SessionRef, ShardId, Ticket};

    use super::*;

    fn reply(ticket: u64) -> ReplyTo {
        let session = SessionRef { shard: ShardId(0), slot: 0, generation: 0 };
        ReplyTo { session, ticket: Ticket(ticket) }
    }

    fn hosts(numbers: &[u128]) -> BTreeSet<HostId> {
        numbers.iter().map(|number| HostId(*number)).collect()
    }

    #[test]
    fn a_change_is_visible_when_all_that_are_alive_have_it() {
        let (due, mut seen) = (Instant::from_millis(9), Visibility::default());
        assert_eq!(seen.wait(7, due, reply(0)), Some(IsVisible::Yes), "nobody is there");
        assert_eq!(seen.set_alive(hosts(&[1, 2, 3])), []);
        let [one, two, four] = [1, 2, 4].map(|host| seen.begin(HostId(host)));
        assert_eq!(seen.wait(7, due, reply(1)), None);
        assert_eq!(seen.wait(9, due, reply(2)), None);
        assert_eq!(seen.note(HostId(1), one, 9), []);
        assert_eq!(seen.note(HostId(2), two, 8), []);
        assert_eq!(seen.note(HostId(4), four, 1), [], "who is not alive has no say");
        // The third one dies.
        assert_eq!(seen.set_alive(hosts(&[1, 2])), [(reply(1), IsVisible::Yes)]);
        // The second one begins anew, and comes to it.
        let again = seen.begin(HostId(2));
        assert_eq!(seen.wait(7, due, reply(3)), None);
        assert_eq!(seen.note(HostId(2), two, 9), [], "its former stream means nothing");
        assert_eq!(
            seen.note(HostId(2), again, 9),
            [(reply(2), IsVisible::Yes), (reply(3), IsVisible::Yes)]
        );
        assert!(seen.waiting.is_empty());
    }

    #[test]
    fn who_waits_for_too_long_is_told() {
        let mut seen = Visibility::default();
        seen.set_alive(hosts(&[1]));
        let one = seen.begin(HostId(1));
        for number in 1..=3 {
            assert_eq!(seen.wait(1, Instant::from_millis(number), reply(number)), None);
        }
        let late = seen.expire(Instant::from_millis(2));
        assert_eq!(late, [1, 2].map(|number| (reply(number), IsVisible::NotInTime)));
        assert_eq!(seen.note(HostId(1), one, 1), [(reply(3), IsVisible::Yes)]);
    }
}
