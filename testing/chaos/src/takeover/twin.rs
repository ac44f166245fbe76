//! A contested session: its connections, what its clients keep of it, and one connection at work.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ratatosk_codec::{
    Packet, PacketId, PacketType, Publish, Qos, ReasonCode, Subscribe, SubscribeFiltersBuilder,
    SubscriptionOptions,
};
use ratatosk_crash::connection::{Incoming, Publication};
use ratatosk_crash::history::{ClientIndex, Message, MessageIndex, Retention, What};
use ratatosk_crash::publisher::{message_of, payload};
use ratatosk_crash::stage::Stage;
use tokio::sync::watch;
use tokio::time::sleep;

use super::life::{Came, Deed, DeedKind, End, Life};
use super::wire::Wire;

/// Between two turns of an owner that nobody challenges.
const TURN: Duration = Duration::from_millis(60);
/// Deeds that wait for an acknowledgement.
const OPEN_MAX: usize = 12;
/// Connections of which one can still live.
const RECENT_MAX: usize = 20;

/// A client identifier for which two clients compete.
#[derive(Debug)]
pub(super) struct Twin {
    /// Which one, from 0.
    pub(super) number: usize,
    /// In the history, for both clients.
    pub(super) client: ClientIndex,
    /// All connections that were ever tried, in the order of their CONNECTs.
    pub(super) lives: RefCell<Vec<Life>>,
    /// Changes whenever something happened to a connection.
    pulse: watch::Sender<u64>,
    /// Changes whenever a connection was let in.
    crowned: watch::Sender<u64>,
    /// Its subscription was acknowledged once, so that it gets what it sends.
    pub(super) is_subscribed: Cell<bool>,
    next_id: Cell<u16>,
    next_number: Cell<u32>,
    /// Identifiers of PUBLISH of QoS 2 that were not completed.
    unreleased: RefCell<Vec<u16>>,
    /// Its owner takes what comes, and does nothing by itself.
    pub(super) is_quiet: Cell<bool>,
}

impl Twin {
    pub(super) fn new(stage: &Stage, number: usize) -> Twin {
        let name = format!("twin-{number}");
        let client = stage.history.borrow_mut().add_client(&name, true);
        Twin {
            number,
            client,
            lives: RefCell::default(),
            pulse: watch::channel(0).0,
            crowned: watch::channel(0).0,
            is_subscribed: Cell::new(false),
            next_id: Cell::new(0),
            next_number: Cell::new(0),
            unreleased: RefCell::default(),
            is_quiet: Cell::new(false),
        }
    }

    /// Its client identifier.
    pub(super) fn name(&self) -> String {
        format!("twin-{}", self.number)
    }

    /// Where publishers send to it, at a QoS.
    pub(super) fn topic(&self, qos: Qos) -> String {
        format!("race/{}/{}", self.number, qos as u8)
    }

    /// Another connection, whose CONNECT is about to be written.
    pub(super) fn add_life(&self, life: Life) -> usize {
        let mut lives = self.lives.borrow_mut();
        lives.push(life);
        lives.len() - 1
    }

    /// Something happens to a connection.
    pub(super) fn change(&self, life: usize, change: impl FnOnce(&mut Life)) {
        change(&mut self.lives.borrow_mut()[life]);
        self.pulse.send_modify(|pulse| *pulse += 1);
    }

    /// A connection is let in.
    pub(super) fn crown(&self, life: usize, at: Duration) {
        self.change(life, |life| life.connack = Some(at));
        self.crowned.send_modify(|count| *count += 1);
    }

    /// Follows what happens to connections.
    pub(super) fn follow(&self) -> watch::Receiver<u64> {
        self.pulse.subscribe()
    }

    /// Connections that live, as far as their clients know, in the order of their CONNECTs.
    pub(super) fn alive(&self) -> Vec<usize> {
        let lives = self.lives.borrow();
        let recent = lives.len().saturating_sub(RECENT_MAX)..lives.len();
        recent.filter(|life| lives[*life].is_alive()).collect()
    }

    /// All messages that ever came.
    pub(super) fn received(&self) -> HashSet<MessageIndex> {
        let lives = self.lives.borrow();
        let came = lives.iter().flat_map(|life| &life.came);
        let message = |came: &Came| match came {
            Came::Message { message, .. } => Some(*message),
            _ => None,
        };
        came.filter_map(message).collect()
    }

    fn take_id(&self) -> u16 {
        self.next_id.set(self.next_id.get() % 60_000 + 1);
        self.next_id.get()
    }
}

/// A connection that was let in, at work.
pub(super) struct Link {
    pub(super) stage: Rc<Stage>,
    pub(super) twin: Rc<Twin>,
    pub(super) life: usize,
    pub(super) wire: Wire,
    /// Deeds that wait, by packet identifier.
    open: HashMap<u16, usize>,
    /// Changes when its client gives it up.
    leave: watch::Receiver<bool>,
}

impl Link {
    pub(super) fn new(
        stage: &Rc<Stage>,
        twin: &Rc<Twin>,
        (life, wire): (usize, Wire),
        leave: watch::Receiver<bool>,
    ) -> Link {
        let (stage, twin) = (Rc::clone(stage), Rc::clone(twin));
        Link { stage, twin, life, wire, open: HashMap::new(), leave }
    }

    /// Works until the connection ends, and writes down how.
    pub(super) async fn live(mut self) {
        let end = match self.work().await {
            Ok(end) => end,
            Err(error) => {
                self.came(Came::Foreign(format!("{error:#}")));
                End::Left
            }
        };
        let at = self.stage.elapsed();
        for deed in std::mem::take(&mut self.open).into_values() {
            if let DeedKind::PublishOwn(message) = self.deed(deed).kind {
                self.stage.record(self.twin.client, What::Abandoned(message));
            }
        }
        self.twin.change(self.life, |life| life.end = Some((at, end)));
    }

    fn deed(&self, deed: usize) -> Deed {
        self.twin.lives.borrow()[self.life].deeds[deed]
    }

    async fn work(&mut self) -> Result<End> {
        let (mut crowned, mut leave) = (self.twin.crowned.subscribe(), self.leave.clone());
        let unreleased = self.twin.unreleased.borrow().clone();
        for id in unreleased {
            self.wire.ack(PacketType::Pubrel, id).await?;
        }
        self.act().await?;
        loop {
            // All are cancel-safe: next() keeps what it has read.
            tokio::select! {
                incoming = self.wire.next() => match incoming? {
                    None => return Ok(End::Closed),
                    Some(Incoming::Disconnect(reason)) => return Ok(End::Told(reason as u8)),
                    Some(incoming) => self.receive(incoming).await?,
                },
                _ = leave.wait_for(|is_over| *is_over) => return Ok(End::Left),
                // Somebody else was let in: if this connection still can do anything, it shows now.
                _ = crowned.changed() => self.act().await?,
                () = sleep(TURN) => self.act().await?,
            }
        }
    }

    /// Does all that an owner can do.
    async fn act(&mut self) -> Result<()> {
        if self.twin.is_quiet.get() || self.open.len() + 4 > OPEN_MAX {
            return Ok(());
        }
        let id = self.begin(DeedKind::Subscribe)?;
        let mut filters = SubscribeFiltersBuilder::new();
        let filter = format!("race/{}/#", self.twin.number);
        filters.push(&filter, SubscriptionOptions::new(Qos::ExactlyOnce))?;
        self.wire.send(&Packet::Subscribe(Subscribe::new(id, filters.view()))).await;

        if self.twin.is_subscribed.get() {
            self.publish_own().await?;
        }
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let id = self.begin(DeedKind::PublishIdle(qos))?;
            if qos == Qos::ExactlyOnce {
                self.twin.unreleased.borrow_mut().push(id.value());
            }
            let topic = format!("idle/{}", self.twin.number);
            self.publish(id, &topic, (qos, "idle")).await;
        }
        Ok(())
    }

    async fn publish_own(&mut self) -> Result<()> {
        let number = self.twin.next_number.get() + 1;
        self.twin.next_number.set(number);
        let topic = format!("race/{}/deed", self.twin.number);
        let message = Message {
            publisher: self.twin.client,
            number,
            topic: topic.clone(),
            qos: Qos::AtLeastOnce,
            retention: Retention::None,
        };
        let message = self.stage.history.borrow_mut().add_message(message);
        self.stage.record(self.twin.client, What::Sent { message, is_again: false });
        let id = self.begin(DeedKind::PublishOwn(message))?;
        self.publish(id, &topic, (Qos::AtLeastOnce, &payload(message))).await;
        Ok(())
    }

    async fn publish(&mut self, id: PacketId, topic: &str, (qos, payload): (Qos, &str)) {
        let publish =
            Publish { qos, packet_id: Some(id), ..Publish::new(topic, payload.as_bytes()) };
        self.wire.send(&Packet::Publish(publish)).await;
    }

    fn begin(&mut self, kind: DeedKind) -> Result<PacketId> {
        let (id, started) = (self.twin.take_id(), self.stage.elapsed());
        let mut lives = self.twin.lives.borrow_mut();
        let deeds = &mut lives[self.life].deeds;
        self.open.insert(id, deeds.len());
        deeds.push(Deed { kind, started, acked: None });
        PacketId::new(id).context("identifiers begin with 1")
    }

    async fn receive(&mut self, incoming: Incoming) -> Result<()> {
        match incoming {
            Incoming::Publish(publication) => self.on_publish(&publication).await,
            Incoming::Ack { kind: PacketType::Pubrel, id, .. } => {
                self.came(Came::Release { id });
                self.wire.ack(PacketType::Pubcomp, id).await
            }
            Incoming::Ack { kind: PacketType::Pubcomp, id, .. } => {
                self.twin.unreleased.borrow_mut().retain(|open| *open != id);
                Ok(())
            }
            Incoming::Ack { kind, id, reason } => {
                self.finish(id, reason);
                if kind == PacketType::Pubrec && !reason.is_error() {
                    self.wire.ack(PacketType::Pubrel, id).await?;
                } else if kind == PacketType::Pubrec {
                    self.twin.unreleased.borrow_mut().retain(|open| *open != id);
                }
                Ok(())
            }
            Incoming::Suback { id, reason } => {
                self.finish(id, reason);
                self.twin.is_subscribed.set(self.twin.is_subscribed.get() || !reason.is_error());
                Ok(())
            }
            other => {
                self.came(Came::Foreign(format!("{other:?}")));
                Ok(())
            }
        }
    }

    async fn on_publish(&mut self, publication: &Publication) -> Result<()> {
        let Publication { qos, id, .. } = *publication;
        let message = self.recognise(publication);
        self.came(match message {
            Some(message) => Came::Message { message, qos, id },
            None => Came::Foreign(format!("{publication:?}")),
        });
        match qos {
            Qos::AtMostOnce => Ok(()),
            Qos::AtLeastOnce => self.wire.ack(PacketType::Puback, id).await,
            Qos::ExactlyOnce => self.wire.ack(PacketType::Pubrec, id).await,
        }
    }

    /// The message, if it was sent like this.
    fn recognise(&self, publication: &Publication) -> Option<MessageIndex> {
        let history = self.stage.history.borrow();
        let message = message_of(&publication.payload)?;
        let known = history.messages.get(message.0 as usize)?;
        (known.topic == publication.topic).then_some(message)
    }

    fn finish(&mut self, id: u16, reason: ReasonCode) {
        let Some(deed) = self.open.remove(&id) else {
            return self.came(Came::Foreign(format!("an acknowledgement for {id}, which is free")));
        };
        let at = self.stage.elapsed();
        if let DeedKind::PublishOwn(message) = self.deed(deed).kind {
            let what = match reason.is_error() {
                true => What::Refused(message, reason as u8),
                false => What::Acked(message),
            };
            self.stage.record(self.twin.client, what);
        }
        if !reason.is_error() {
            self.twin.change(self.life, |life| life.deeds[deed].acked = Some(at));
        }
    }

    fn came(&self, came: Came) {
        self.twin.change(self.life, |life| life.came.push(came));
    }
}
