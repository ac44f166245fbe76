//! A subscriber with a persistent session, which keeps its side of QoS 2 over reconnects.
//!
//! It acknowledges in order and not at once, so that a kill finds messages in every state.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use ratatosk_codec::{
    Packet, PacketId, PacketType, Qos, Subscribe, SubscribeFiltersBuilder, SubscriptionOptions,
    Unsubscribe, UnsubscribeFiltersBuilder,
};
use ratatosk_testkit::dice::Dice;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::connection::{Connection, Incoming, Persona, Publication};
use crate::history::{FilterIndex, MessageIndex, What, Will, WillIndex};
use crate::publisher::message_of;
use crate::stage::{Mode, PATIENCE, Stage};

/// Acknowledgements that are held back at most; fewer than the broker may have open.
const HELD_BACK_MAX: usize = 6;
const HELD_BACK_FOR: Duration = Duration::from_millis(20);

/// How a subscriber lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Always connected.
    Online,
    /// Away most of the time.
    Visiting,
    /// Always connected, subscribes and unsubscribes all the time.
    Churning,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Out,
    Subscribing,
    In,
    Unsubscribing,
}

/// A SUBSCRIBE or UNSUBSCRIBE without an answer.
#[derive(Clone, Copy, Debug)]
struct Pending {
    id: u16,
    index: usize,
    since: Instant,
}

/// A subscriber.
#[derive(Debug)]
pub(crate) struct Subscriber {
    stage: Rc<Stage>,
    persona: Persona,
    dice: Dice,
    habit: Habit,
    filters: Vec<(FilterIndex, State)>,
    /// What came at QoS 2 and was not released, by packet identifier.
    held: BTreeMap<u16, Option<MessageIndex>>,
    pending: Option<Pending>,
    last_id: u16,
    /// Acknowledgements that are held back; gone with the connection.
    answers: Vec<(PacketType, u16, Option<MessageIndex>)>,
}

impl Subscriber {
    /// One that subscribes to all its filters, or, if it is churning, to each now and then.
    pub(crate) fn new(
        stage: &Rc<Stage>,
        persona: Persona,
        dice: Dice,
        habit: Habit,
        filters: &[FilterIndex],
    ) -> Subscriber {
        let state = if habit == Habit::Churning { State::Out } else { State::Subscribing };
        Subscriber {
            stage: Rc::clone(stage),
            persona,
            dice,
            habit,
            filters: filters.iter().map(|filter| (*filter, state)).collect(),
            held: BTreeMap::new(),
            pending: None,
            last_id: 0,
            answers: Vec::new(),
        }
    }

    /// Subscribes until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            self.run_once().await;
            if self.habit == Habit::Visiting {
                self.stay_away().await;
            }
        }
    }

    /// One connection.
    pub(crate) async fn run_once(&mut self) {
        let mut connection = Connection::enter(&self.stage, &self.persona).await;
        let seat = connection.seat;
        if let Err(error) = self.live(&mut connection).await {
            self.stage.ended(self.persona.client, seat, format!("{error:#}"));
        }
    }

    /// Until it has been away long enough, or everybody is called in.
    async fn stay_away(&mut self) {
        let span = self.dice.span(Duration::from_millis(100), Duration::from_millis(2500));
        let mut gate = self.stage.follow();
        let is_called = gate.wait_for(|gate| gate.mode == Mode::Drain);
        // Either end is as good.
        let _ = timeout(span, is_called).await;
    }

    fn record(&self, what: What) {
        self.stage.record(self.persona.client, what);
    }

    async fn live(&mut self, connection: &mut Connection) -> Result<()> {
        self.resume(connection).await?;
        let mut gate = self.stage.follow();
        let stay = self.dice.span(Duration::from_millis(50), Duration::from_millis(800));
        let leave = Instant::now() + stay;
        let mut change = self.next_change();
        loop {
            let mode = gate.borrow_and_update().mode;
            let patience = self.stage.patience(connection.seat);
            let is_load = mode == Mode::Load;
            let overdue =
                self.pending.map_or(leave, |pending| pending.since) + patience.unwrap_or(PATIENCE);
            let is_settled = self.pending.is_none();
            // All are cancel-safe: next() keeps what it has read.
            tokio::select! {
                incoming = connection.next() => self.receive(incoming?, connection).await?,
                _ = gate.changed() => {}
                () = sleep(HELD_BACK_FOR), if !self.answers.is_empty() => {
                    self.answer(connection).await?;
                }
                () = sleep_until(leave),
                    if self.habit == Habit::Visiting && is_load && is_settled =>
                {
                    return self.leave(connection).await;
                }
                () = sleep_until(change),
                    if self.habit == Habit::Churning && is_load && is_settled =>
                {
                    self.change(connection).await?;
                    change = self.next_change();
                }
                () = sleep_until(overdue), if !is_settled && patience.is_some() => {
                    let what = "SUBACK or UNSUBACK".to_owned();
                    self.stage.stalled(self.persona.client, connection.seat, what);
                    return Ok(());
                }
            }
        }
    }

    fn next_change(&mut self) -> Instant {
        Instant::now() + self.dice.span(Duration::from_millis(5), Duration::from_millis(150))
    }

    async fn leave(&mut self, connection: &mut Connection) -> Result<()> {
        self.record(What::Left);
        if self.dice.once_in(2) {
            connection.disconnect().await?;
        }
        Ok(())
    }

    async fn resume(&mut self, connection: &mut Connection) -> Result<()> {
        self.answers.clear();
        self.pending = None;
        if !connection.is_present {
            self.held.clear();
            for (_, state) in &mut self.filters {
                match state {
                    State::In => *state = State::Subscribing,
                    State::Unsubscribing => *state = State::Out,
                    State::Out | State::Subscribing => {}
                }
            }
        }
        self.ask(connection).await
    }

    /// Turns one subscription over.
    async fn change(&mut self, connection: &mut Connection) -> Result<()> {
        let index = self.dice.below(self.filters.len());
        let state = &mut self.filters[index].1;
        match state {
            State::Out => *state = State::Subscribing,
            State::In => *state = State::Unsubscribing,
            State::Subscribing | State::Unsubscribing => {}
        }
        self.ask(connection).await
    }

    /// Asks for the first change that has no answer yet, one at a time.
    async fn ask(&mut self, connection: &mut Connection) -> Result<()> {
        let is_asked = |(_, state): &(FilterIndex, State)| {
            matches!(state, State::Subscribing | State::Unsubscribing)
        };
        let Some(index) = self.filters.iter().position(is_asked) else { return Ok(()) };
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        let Some(id) = PacketId::new(self.last_id) else { bail!("0 is no packet identifier") };
        self.pending = Some(Pending { id: self.last_id, index, since: Instant::now() });
        let (filter, state) = self.filters[index];
        let (text, qos) = {
            let history = self.stage.history.borrow();
            (history.filter(filter).text.clone(), history.filter(filter).qos)
        };
        if state == State::Unsubscribing {
            self.record(What::Unsubscribing(filter));
            let mut filters = UnsubscribeFiltersBuilder::new();
            filters.push(&text)?;
            let unsubscribe = Unsubscribe::new(id, filters.view());
            return connection.send(&Packet::Unsubscribe(unsubscribe)).await;
        }
        self.record(What::Subscribing(filter));
        let mut filters = SubscribeFiltersBuilder::new();
        filters.push(&text, SubscriptionOptions::new(qos))?;
        connection.send(&Packet::Subscribe(Subscribe::new(id, filters.view()))).await
    }

    async fn receive(&mut self, incoming: Incoming, connection: &mut Connection) -> Result<()> {
        match incoming {
            Incoming::Publish(publication) => self.on_publish(&publication),
            Incoming::Ack { kind: PacketType::Pubrel, id, .. } => {
                let message = self.held.remove(&id).flatten();
                self.answers.push((PacketType::Pubcomp, id, message));
            }
            Incoming::Suback { id, reason } if reason.is_error() => {
                bail!("SUBSCRIBE {id} was refused: {reason:?}")
            }
            Incoming::Suback { id, .. } | Incoming::Unsuback { id } => {
                match self.pending.take() {
                    Some(pending) if pending.id == id => self.settle(pending.index),
                    other => bail!("an answer to SUBSCRIBE {id}, but {other:?} is pending"),
                }
                self.ask(connection).await?;
            }
            other => self.record(What::Foreign(format!("{other:?}"))),
        }
        let is_enough = self.answers.len() >= HELD_BACK_MAX || !self.dice.once_in(3);
        if is_enough { self.answer(connection).await } else { Ok(()) }
    }

    fn settle(&mut self, index: usize) {
        let (filter, state) = &mut self.filters[index];
        let (next, what) = match state {
            State::Subscribing | State::In => (State::In, What::Subscribed(*filter)),
            State::Unsubscribing | State::Out => (State::Out, What::Unsubscribed(*filter)),
        };
        *state = next;
        self.record(what);
    }

    fn on_publish(&mut self, publication: &Publication) {
        let Publication { qos, id, .. } = *publication;
        let message = message_of(&publication.payload);
        if qos == Qos::ExactlyOnce && self.held.contains_key(&id) {
            if self.held[&id] == message {
                message.into_iter().for_each(|message| self.record(What::Repeated(message)));
            } else {
                let text = format!("{publication:?} under the identifier of {:?}", self.held[&id]);
                self.record(What::Foreign(text));
            }
            self.answers.push((PacketType::Pubrec, id, message));
            return;
        }
        self.record(self.recognise(publication, message));
        match qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.answers.push((PacketType::Puback, id, message)),
            Qos::ExactlyOnce => {
                self.held.insert(id, message);
                self.answers.push((PacketType::Pubrec, id, message));
            }
        }
    }

    /// What came, and whether it was sent like this.
    fn recognise(&self, publication: &Publication, message: Option<MessageIndex>) -> What {
        let history = self.stage.history.borrow();
        if let Some(message) = message {
            let known = history.messages.get(message.0 as usize);
            if known.is_some_and(|known| known.topic == publication.topic) {
                let Publication { qos, is_dup, .. } = *publication;
                return What::Delivered { message, qos, is_dup };
            }
        }
        let is_it = |will: &Will| {
            will.topic == publication.topic && will.topic.as_bytes() == publication.payload
        };
        let will = history.wills.iter().position(is_it);
        match will.and_then(|index| u32::try_from(index).ok()) {
            Some(index) => What::WillDelivered(WillIndex(index)),
            None => What::Foreign(format!("{publication:?}")),
        }
    }

    /// Sends what was held back, in order.
    async fn answer(&mut self, connection: &mut Connection) -> Result<()> {
        for (kind, id, message) in std::mem::take(&mut self.answers) {
            if let Some(message) = message {
                self.record(What::Took(message, kind.name()));
            }
            connection.ack(kind, id).await?;
        }
        Ok(())
    }
}
