//! What must hold of the connections to one session, whoever raced whom when.
//!
//! The broker promises that a connection has ended before the next one's CONNACK leaves. So when the
//! CONNACKs of two were read, one of the two has ended at the broker, although its client may not know:
//! nothing that begins after both were read may be done for both. Which of the two was the earlier is
//! seen from which of them ended; races follow each other, so between races the order is clear.
//!
//! Whatever came to a connection was sent before the next one's CONNACK, however late it was read. Put
//! one after the other in that order, the packets of all connections are what one client gets of one
//! session: QoS 2 once, by packet identifiers that are kept, and each publisher's messages in order.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ratatosk_codec::{Qos, ReasonCode};
use ratatosk_crash::history::{ClientIndex, History, MessageIndex, What};

use super::life::{Came, DeedKind, End, Life};
use super::weather::Weather;

/// A predecessor ends, as its client sees it, within this after it is calm.
const TOLD_MAX: Duration = Duration::from_secs(10);

/// What DISCONNECT says to who was replaced.
const TAKEN_OVER: u8 = ReasonCode::SessionTakenOver as u8;

/// A breach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Of what.
    pub kind: Kind,
    /// It began in a storm, or right after one.
    pub is_stormy: bool,
    /// Which session, and what happened.
    pub text: String,
}

/// What does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Who was replaced did something afterwards that only an owner can do.
    ActedLate,
    /// Who was replaced was given a message that was sent afterwards.
    DeliveredLate,
    /// Who was replaced was not told, nor closed.
    NotTold,
    /// A connection ended though nobody came for it.
    EndedForNobody,
    /// A message of QoS 2 came twice.
    Twice,
    /// A publisher's messages came in another order.
    Order,
    /// What was acknowledged did not come.
    Lost,
    /// Anything else.
    Conduct,
}

/// What is known of messages, which grows with the history.
#[derive(Debug, Default)]
pub(super) struct Facts {
    cursor: usize,
    /// When each message was sent first, and whether it was acknowledged.
    messages: HashMap<MessageIndex, (Duration, bool)>,
}

impl Facts {
    pub(super) fn follow(&mut self, history: &History) {
        for event in &history.events[self.cursor..] {
            match event.what {
                What::Sent { message, is_again: false } => {
                    self.messages.insert(message, (event.at, false));
                }
                What::Acked(message) => {
                    if let Some((_, is_acked)) = self.messages.get_mut(&message) {
                        *is_acked = true;
                    }
                }
                _ => {}
            }
        }
        self.cursor = history.events.len();
    }

    pub(super) fn sent(&self, message: MessageIndex) -> Option<Duration> {
        self.messages.get(&message).map(|(sent, _)| *sent)
    }

    pub(super) fn acked(&self) -> impl Iterator<Item = MessageIndex> {
        self.messages.iter().filter(|(_, (_, is_acked))| *is_acked).map(|(message, _)| *message)
    }
}

/// What was seen of one session so far.
#[derive(Debug, Default)]
pub(super) struct Judge {
    name: String,
    /// Packet identifiers that the client holds.
    held: HashMap<u16, MessageIndex>,
    received: HashSet<MessageIndex>,
    /// Of each publisher and topic, the number that came last for the first time.
    last: HashMap<(ClientIndex, String), u32>,
    /// How many lives were judged, of the sorted ones.
    judged: usize,
    /// How many were replaced, and of them, were told so, or just closed.
    pub(super) replaced: [usize; 3],
    /// How many deeds they began after they were replaced.
    pub(super) tried: usize,
    pub(super) breaches: Vec<Breach>,
}

impl Judge {
    pub(super) fn new(name: String) -> Judge {
        Judge { name, ..Judge::default() }
    }

    /// Judges the connections that are over, and whose order is clear. At the end of all every one is.
    pub(super) fn judge(
        &mut self,
        lives: &[Life],
        (history, facts): (&History, &Facts),
        weather: &Weather,
        now: Duration,
        is_end: bool,
    ) {
        let order = order(lives);
        while let Some(index) = order.get(self.judged) {
            let life = &lives[*index];
            let next = order.get(self.judged + 1).map(|next| &lives[*next]);
            let is_clear = life.end.is_some() && next.is_some();
            let is_overdue = next.and_then(|next| next.connack).is_some_and(|connack| {
                let since = connack.max(life.connack.unwrap_or_default());
                life.end.is_none() && is_over(weather, since, now)
            });
            if !is_clear && !is_end && !is_overdue {
                return;
            }
            self.judged += 1;
            self.one(life, next, (lives, history, facts), weather, now);
        }
    }

    fn one(
        &mut self,
        life: &Life,
        next: Option<&Life>,
        (lives, history, facts): (&[Life], &History, &Facts),
        weather: &Weather,
        now: Duration,
    ) {
        let connacks = next.and_then(|next| Some(next.connack?.max(life.connack?)));
        if let Some(since) = connacks {
            self.replaced(life, since, (history, facts), weather, now);
        }
        self.unexpected(life, lives, weather);
        self.read(life, history, weather);
    }

    /// Nothing that a connection began after it was replaced was done, and it was told.
    fn replaced(
        &mut self,
        life: &Life,
        since: Duration,
        (history, facts): (&History, &Facts),
        weather: &Weather,
        now: Duration,
    ) {
        let who = format!("node {}, race {}", life.door + 1, life.round);
        for deed in life.deeds.iter().filter(|deed| deed.started > since) {
            self.tried += 1;
            if let Some(acked) = deed.acked {
                let started = deed.started;
                let kind = match deed.kind {
                    DeedKind::PublishOwn(message) => format!("{:?}", history.message(message)),
                    kind => format!("{kind:?}"),
                };
                let text = format!(
                    "{who}, replaced by {since:?}: {kind} at {started:?}, acknowledged at {acked:?}"
                );
                self.breach(Kind::ActedLate, weather, (started, acked), &text);
            }
        }
        for came in &life.came {
            let Came::Message { message, .. } = came else { continue };
            let sent = facts.sent(*message).unwrap_or_default();
            if sent > since {
                let text = format!(
                    "{who}, replaced by {since:?}, was given {message:?}, sent at {sent:?}"
                );
                self.breach(Kind::DeliveredLate, weather, (sent, sent), &text);
            }
        }
        self.replaced[0] += 1;
        match life.end {
            Some((_, End::Told(TAKEN_OVER))) => self.replaced[1] += 1,
            Some((_, End::Closed)) => self.replaced[2] += 1,
            _ => {}
        }
        let ended = life.end.map_or(now, |(at, _)| at);
        if is_over(weather, since, ended) {
            let text = format!("{who}, replaced by {since:?}: {:?}", life.end);
            self.breach(Kind::NotTold, weather, (since, since), &text);
        }
    }

    /// A connection that the broker ended had a rival that asked before.
    fn unexpected(&mut self, life: &Life, lives: &[Life], weather: &Weather) {
        let Some((at, end @ (End::Told(_) | End::Closed))) = life.end else { return };
        let is_rival = |other: &&Life| {
            !std::ptr::eq(*other, life)
                && other.connect_sent < at
                && other.end.is_none_or(|(end, _)| end + TOLD_MAX > life.connect_sent)
                && other.connack.is_none_or(|connack| connack > life.connect_sent)
        };
        if life.connack.is_some() && !lives.iter().rev().any(|other| is_rival(&other)) {
            let text = format!("node {}, race {}: {end:?} at {at:?}", life.door + 1, life.round);
            self.breach(Kind::EndedForNobody, weather, (at, at), &text);
        }
    }

    /// Reads what came as one client would.
    fn read(&mut self, life: &Life, history: &History, weather: &Weather) {
        let at = life.connack.unwrap_or(life.connect_sent);
        let who = format!("node {}, race {}", life.door + 1, life.round);
        for came in &life.came {
            match came {
                Came::Release { id } => _ = self.held.remove(id),
                Came::Foreign(text) => {
                    self.breach(Kind::Conduct, weather, (at, at), &format!("{who}: {text}"));
                }
                Came::Message { message, qos, id } => {
                    let is_once = *qos == Qos::ExactlyOnce;
                    let is_again = is_once && self.held.get(id) == Some(message);
                    if is_once {
                        self.held.insert(*id, *message);
                    }
                    let is_new = self.received.insert(*message);
                    if is_once && !is_new && !is_again {
                        let text = format!("{who}: {message:?} under {id}");
                        self.breach(Kind::Twice, weather, (at, at), &text);
                    }
                    if is_new {
                        self.arrange(*message, history, weather, (at, &who));
                    }
                }
            }
        }
    }

    fn arrange(
        &mut self,
        index: MessageIndex,
        history: &History,
        weather: &Weather,
        (at, who): (Duration, &str),
    ) {
        let message = history.message(index);
        // What its own clients publish is sent by several connections, which have no order.
        if message.topic.ends_with("deed") {
            return;
        }
        let key = (message.publisher, message.topic.clone());
        let last = self.last.entry(key).or_default();
        let before = std::mem::replace(last, message.number.max(*last));
        if before > message.number {
            let text = format!("{who}: {message:?} came after number {before}");
            self.breach(Kind::Order, weather, (at, at), &text);
        }
    }

    pub(super) fn breach(
        &mut self,
        kind: Kind,
        weather: &Weather,
        (from, to): (Duration, Duration),
        text: &str,
    ) {
        let is_stormy = !weather.is_calm(from, to);
        self.breaches.push(Breach { kind, is_stormy, text: format!("{}, {text}", self.name) });
    }
}

/// Whether somebody who was replaced had the time to find out.
fn is_over(weather: &Weather, since: Duration, now: Duration) -> bool {
    let Some(calm) = weather.calm_after(since) else { return false };
    let latest = calm + TOLD_MAX;
    now > latest && weather.is_calm(calm + Duration::from_nanos(1), latest)
}

/// The connections that were let in, in the order in which they had the session. Of one race, who ended
/// earlier was replaced by the other.
fn order(lives: &[Life]) -> Vec<usize> {
    let is_in = |index: &usize| lives[*index].connack.is_some();
    let mut order: Vec<usize> = (0..lives.len()).filter(is_in).collect();
    order.sort_by_key(|index| {
        let life = &lives[*index];
        (life.round, life.end.map_or(Duration::MAX, |(at, _)| at))
    });
    order
}

#[cfg(test)]
#[path = "verdict_test.rs"]
mod tests;
