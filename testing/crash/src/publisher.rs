//! A publisher with a persistent session: it numbers its messages, and sends again after a
//! reconnect what was not acknowledged, as the specification asks.
//!
//! It takes the lowest free packet identifier, so that each is used again and again.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use ratatosk_codec::{Packet, PacketId, PacketType, Publish, Qos};
use ratatosk_testkit::dice::Dice;
use tokio::time::{Instant, sleep_until};

use crate::connection::{Connection, Incoming, Persona};
use crate::history::{Message, MessageIndex, Retention, What};
use crate::stage::{Mode, PATIENCE, Stage};

/// Messages that wait for an acknowledgement.
const WINDOW: usize = 12;
const BURST: usize = 4;

/// A message that waits for an acknowledgement.
#[derive(Clone, Copy, Debug)]
struct Open {
    id: u16,
    message: MessageIndex,
    /// PUBREC came: PUBCOMP is waited for.
    is_released: bool,
    since: Instant,
}

/// A publisher.
#[derive(Debug)]
pub struct Publisher {
    /// Where it writes down what it does.
    pub stage: Rc<Stage>,
    /// Who it is.
    pub persona: Persona,
    /// What it draws from.
    pub dice: Dice,
    /// Where it publishes to, and how.
    pub topics: Vec<(String, Qos)>,
    /// Its messages are retained, or clear what is.
    pub is_retaining: bool,
    /// The mean time from one message to the next.
    pub pause: Duration,
    number: u32,
    open: VecDeque<Open>,
}

impl Publisher {
    /// One that knows no topic yet.
    #[must_use]
    pub fn new(stage: &Rc<Stage>, persona: Persona, dice: Dice) -> Publisher {
        Publisher {
            stage: Rc::clone(stage),
            persona,
            dice,
            topics: Vec::new(),
            is_retaining: false,
            pause: Duration::from_millis(10),
            number: 0,
            open: VecDeque::new(),
        }
    }

    /// Publishes until it is dropped.
    pub async fn run(mut self) {
        loop {
            let mut connection = Connection::enter(&self.stage, &self.persona).await;
            let seat = connection.seat;
            if let Err(error) = self.live(&mut connection).await {
                self.stage.ended(self.persona.client, seat, format!("{error:#}"));
            }
        }
    }

    fn record(&self, what: What) {
        self.stage.record(self.persona.client, what);
    }

    async fn live(&mut self, connection: &mut Connection) -> Result<()> {
        self.resume(connection).await?;
        let mut gate = self.stage.follow();
        let mut next = self.next_turn();
        loop {
            let mode = gate.borrow_and_update().mode;
            let patience = self.stage.patience(connection.seat);
            let has_room = mode == Mode::Load && self.open.len() < WINDOW;
            let oldest = self.open.iter().map(|open| open.since).min();
            let overdue = oldest.unwrap_or(next) + patience.unwrap_or(PATIENCE);
            // All are cancel-safe: next() keeps what it has read.
            tokio::select! {
                incoming = connection.next() => self.receive(incoming?, connection).await?,
                _ = gate.changed() => {}
                () = sleep_until(next), if has_room => {
                    for _ in 0..=self.dice.below(BURST) {
                        self.publish(connection).await?;
                    }
                    if self.dice.once_in(60) {
                        // Its own network fails: the broker lives and has to take it up again.
                        self.record(What::Left);
                        return Ok(());
                    }
                    next = self.next_turn();
                }
                () = sleep_until(overdue), if oldest.is_some() && patience.is_some() => {
                    let what = format!("acknowledgements: {:?}", self.open);
                    self.stage.stalled(self.persona.client, connection.seat, what);
                    return Ok(());
                }
            }
        }
    }

    fn next_turn(&mut self) -> Instant {
        let mean = self.pause * u32::try_from(BURST / 2).unwrap_or(1);
        Instant::now() + self.dice.span(Duration::ZERO, mean * 2)
    }

    /// Sends again what is open, under its packet identifiers and in order.
    async fn resume(&mut self, connection: &mut Connection) -> Result<()> {
        if !connection.is_present {
            for open in std::mem::take(&mut self.open) {
                self.record(What::Abandoned(open.message));
            }
            return Ok(());
        }
        for index in 0..self.open.len() {
            self.open[index].since = Instant::now();
            let open = self.open[index];
            if open.is_released {
                self.record(What::Released(open.message));
                connection.ack(PacketType::Pubrel, open.id).await?;
            } else {
                self.send(open, true, connection).await?;
            }
        }
        Ok(())
    }

    async fn publish(&mut self, connection: &mut Connection) -> Result<()> {
        let is_free = |id: &u16| self.open.iter().all(|open| open.id != *id);
        let Some(id) = (1..=u16::MAX).find(is_free) else { bail!("no packet identifier is free") };
        let (topic, qos) = self.topics[self.dice.below(self.topics.len())].clone();
        let retention = match (self.is_retaining, self.dice.once_in(4)) {
            (false, _) => Retention::None,
            (true, false) => Retention::Update,
            (true, true) => Retention::Clear,
        };
        self.number += 1;
        let publisher = self.persona.client;
        let message = Message { publisher, number: self.number, topic, qos, retention };
        let message = self.stage.history.borrow_mut().add_message(message);
        let open = Open { id, message, is_released: false, since: Instant::now() };
        self.open.push_back(open);
        self.send(open, false, connection).await
    }

    async fn send(&self, open: Open, is_again: bool, connection: &mut Connection) -> Result<()> {
        let message = self.stage.history.borrow().message(open.message).clone();
        let payload = match message.retention {
            Retention::Clear => String::new(),
            _ => payload(open.message),
        };
        self.record(What::Sent { message: open.message, is_again });
        connection
            .send(&Packet::Publish(Publish {
                // DUP says that the packet was sent before.
                dup: is_again,
                qos: message.qos,
                retain: message.retention != Retention::None,
                packet_id: PacketId::new(open.id),
                ..Publish::new(&message.topic, payload.as_bytes())
            }))
            .await
    }

    async fn receive(&mut self, incoming: Incoming, connection: &mut Connection) -> Result<()> {
        let Incoming::Ack { kind, id, reason } = incoming else {
            self.record(What::Foreign(format!("{incoming:?}")));
            return Ok(());
        };
        let Some(index) = self.open.iter().position(|open| open.id == id) else {
            self.record(What::Foreign(format!("{} for {id}, which is free", kind.name())));
            return Ok(());
        };
        let open = self.open[index];
        let qos = self.stage.history.borrow().message(open.message).qos;
        match (kind, qos) {
            (PacketType::Puback | PacketType::Pubrec, _) if reason.is_error() => {
                self.record(What::Refused(open.message, reason as u8));
                self.open.remove(index);
            }
            (PacketType::Puback, Qos::AtLeastOnce) => {
                self.record(What::Acked(open.message));
                self.open.remove(index);
            }
            (PacketType::Pubrec, Qos::ExactlyOnce) if !open.is_released => {
                self.record(What::Acked(open.message));
                self.open[index].is_released = true;
                self.open[index].since = Instant::now();
                self.record(What::Released(open.message));
                connection.ack(PacketType::Pubrel, id).await?;
            }
            (PacketType::Pubcomp, Qos::ExactlyOnce) if open.is_released => {
                // "Packet identifier not found" is as good: its PUBCOMP was lost with the broker.
                self.record(What::Completed(open.message));
                self.open.remove(index);
            }
            _ => self.record(What::Foreign(format!("{} for {open:?}", kind.name()))),
        }
        Ok(())
    }
}

/// What a message carries: its index, and in every fiftieth message so much that it is no small
/// thing to store. The index decides all of it, so that a message is told from its remains.
#[must_use]
pub fn payload(message: MessageIndex) -> String {
    let filling = if message.0.is_multiple_of(50) { (message.0 as usize % 17) * 1000 } else { 0 };
    format!("message {} {}", message.0, "x".repeat(filling))
}

/// The message of a payload, if it is whole.
#[must_use]
pub fn message_of(bytes: &[u8]) -> Option<MessageIndex> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (number, _) = text.strip_prefix("message ")?.split_once(' ')?;
    let message = MessageIndex(number.parse().ok()?);
    (payload(message) == text).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_by_its_whole_payload() {
        for index in [0, 1, 50, 51, 100] {
            let text = payload(MessageIndex(index));
            assert_eq!(message_of(text.as_bytes()), Some(MessageIndex(index)));
            assert_eq!(message_of(&text.as_bytes()[..text.len() - 1]), None);
            assert_eq!(message_of(format!("{text}x").as_bytes()), None);
        }
    }
}
