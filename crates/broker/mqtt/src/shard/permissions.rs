//! Permissions that are asked for on the packet path.
//!
//! A provider that answers at once is asked each time something new is to be permitted. One that
//! answers later is asked once; its verdict is kept with the connection, which brings the packet
//! again when all verdicts are there that were asked for.
//!
//! `asked ≤ ASKED_MAX`; `known ≤ KEPT_MAX` while no packet waits, and at most the filters of one
//! packet more while one does.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_contract::SessionRef;
use ratatosk_plugin::{
    answer::Answer,
    permission::{Action, Identity, Verdict},
};
use ratatosk_session::Permit;

use super::{Shard, connection::Local, runner};

/// How many verdicts one connection waits for at once: what the provider determines at a time is
/// shared by all. A packet with more filters is brought again for each so many.
const ASKED_MAX: usize = 32;
/// How many verdicts a connection keeps for packets to come.
const KEPT_MAX: usize = 32;
/// How long a verdict counts for other packets than the one that it was asked for.
const VERDICT_AGE_MAX: Duration = Duration::from_secs(60);

/// Verdicts that came later than they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    known: HashMap<Box<str>, Kept>,
    /// How many of them are being determined.
    asked: usize,
    /// The number of the last question.
    last: u64,
    /// The number of the last question of a packet that is done.
    done: u64,
    /// Bytes of their actions.
    action_bytes: usize,
}

#[derive(Debug)]
struct Kept {
    /// Of the question that it answers: an answer to an older one means nothing.
    number: u64,
    /// `None` while it is being determined.
    permit: Option<Permit>,
    epoch: u64,
    until: Instant,
}

impl Verdicts {
    /// About how many bytes they hold.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.known.capacity() * size_of::<(Box<str>, Kept)>() + self.action_bytes
    }

    /// What is known of an action; `Later` if its verdict is on its way.
    fn find(&self, action: &str, epoch: u64, now: Instant) -> Option<Permit> {
        let kept = self.known.get(action)?;
        // Otherwise a packet of many filters would never have them all.
        let is_own = kept.number > self.done;
        let is_good = kept.epoch == epoch && (is_own || kept.until > now);
        is_good.then(|| kept.permit.unwrap_or(Permit::Later))
    }

    /// Whether one more may be asked for.
    fn has_room(&self) -> bool {
        self.asked < ASKED_MAX
    }

    /// Notes that a verdict is asked for; returns the number of the question.
    fn ask(&mut self, action: &str, epoch: u64, now: Instant) -> u64 {
        self.last += 1;
        let until = now + VERDICT_AGE_MAX;
        let kept = Kept { number: self.last, permit: None, epoch, until };
        match self.known.insert(action.into(), kept) {
            Some(old) if old.permit.is_none() => {}
            Some(_) => self.asked += 1,
            None => {
                self.asked += 1;
                self.action_bytes += action.len();
            }
        }
        self.last
    }

    /// A verdict came; true if no other is on its way.
    fn settle(&mut self, action: &str, number: u64, permit: Permit) -> bool {
        if let Some(kept) = self.known.get_mut(action)
            && kept.number == number
        {
            kept.permit = Some(permit);
            self.asked -= 1;
        }
        self.asked == 0
    }

    /// The packet that they were asked for is done: forgets all if they are many.
    #[inline]
    pub(super) fn release(&mut self) {
        self.done = self.last;
        if self.known.len() > KEPT_MAX {
            *self = Verdicts { last: self.last, done: self.done, ..Verdicts::default() };
        }
    }
}

impl Shard {
    /// Whether an action is permitted, as far as that is known at once.
    pub(super) fn permit(
        &mut self,
        local: &mut Local,
        session: SessionRef,
        identity: &Arc<Identity>,
        action: Action<'_>,
        bypass: bool,
    ) -> Permit {
        let epoch = self.node.plugins.permission_epoch();
        let name = format!("{action:?}");
        let verdicts = local.rare.as_ref().map(|rare| &rare.verdicts);
        if let Some(known) = verdicts.and_then(|all| all.find(&name, epoch, self.now)) {
            return known;
        }
        if verdicts.is_some_and(|all| !all.has_room()) {
            // The packet comes again when those are there.
            return Permit::Later;
        }
        match self.node.plugins.check(identity, action) {
            Answer::Now(verdict) => permit_of(&verdict, bypass),
            Answer::Later(verdict) => {
                let number = local.rare().verdicts.ask(&name, epoch, self.now);
                runner::spawn(async move {
                    let permit = permit_of(&verdict.await, bypass);
                    runner::with(|shard| shard.permitted(session, &name, number, permit));
                });
                Permit::Later
            }
        }
    }

    /// A verdict came. If it was the last one that is awaited, the packet that waits is brought
    /// again.
    fn permitted(&mut self, session: SessionRef, action: &str, number: u64, permit: Permit) {
        self.now = self.node.clock.now();
        let Some(connection) = self.connection(session) else { return };
        let Some(rare) = &mut connection.local.rare else { return };
        if rare.verdicts.settle(action, number, permit) {
            self.retry(session);
            self.go_on_changing(session);
        }
    }
}

fn permit_of(verdict: &Verdict, bypass: bool) -> Permit {
    match verdict {
        Verdict::Allowed => Permit::Allowed,
        Verdict::Denied { .. } => Permit::Denied,
        Verdict::Error { .. } if bypass => Permit::Allowed,
        Verdict::Error { .. } => Permit::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_millis(1_000);

    #[test]
    fn only_the_answer_to_the_last_question_counts() {
        let mut verdicts = Verdicts::default();
        let first = verdicts.ask("a", 1, NOW);
        // The rules changed before the answer came.
        assert_eq!(verdicts.find("a", 2, NOW), None);
        let second = verdicts.ask("a", 2, NOW);
        assert!(!verdicts.settle("a", first, Permit::Allowed));
        assert_eq!(verdicts.find("a", 2, NOW), Some(Permit::Later));
        assert!(verdicts.settle("a", second, Permit::Denied));
        assert_eq!(verdicts.find("a", 2, NOW), Some(Permit::Denied));
        let late = NOW + VERDICT_AGE_MAX;
        assert_eq!(verdicts.find("a", 2, late), Some(Permit::Denied), "the packet still waits");
        verdicts.release();
        assert_eq!(verdicts.find("a", 2, NOW), Some(Permit::Denied));
        assert_eq!(verdicts.find("a", 2, late), None);
    }

    #[test]
    fn a_packet_of_many_filters_is_asked_for_in_parts_and_then_forgotten() {
        let mut verdicts = Verdicts::default();
        let names: Vec<String> = (0..65_535).map(|number| format!("f/{number}")).collect();
        for part in names.chunks(ASKED_MAX) {
            let ask = |name: &String| verdicts.ask(name, 1, NOW);
            let numbers: Vec<u64> = part.iter().map(ask).collect();
            assert_eq!(verdicts.has_room(), part.len() < ASKED_MAX);
            for (name, number) in part.iter().zip(&numbers) {
                let is_last = verdicts.settle(name, *number, Permit::Allowed);
                assert_eq!(is_last, numbers.last() == Some(number));
            }
        }
        let is_known = |name: &String| verdicts.find(name, 1, NOW) == Some(Permit::Allowed);
        assert!(names.iter().all(is_known), "all are there when the packet comes again");
        assert!(verdicts.memory_bytes() > names.iter().map(String::len).sum());
        verdicts.release();
        assert_eq!(verdicts.memory_bytes(), 0);
        // An answer that nobody waits for any more.
        assert!(verdicts.settle("f/1", 2, Permit::Allowed));
    }

    #[test]
    fn a_few_verdicts_are_kept_for_packets_to_come() {
        let mut verdicts = Verdicts::default();
        for number in 0..KEPT_MAX {
            let name = number.to_string();
            let number = verdicts.ask(&name, 1, NOW);
            verdicts.settle(&name, number, Permit::Allowed);
            verdicts.release();
        }
        assert_eq!(verdicts.find("0", 1, NOW), Some(Permit::Allowed));
    }
}
