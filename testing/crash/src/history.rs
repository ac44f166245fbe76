//! What clients did and saw, in one order.
//!
//! Everything runs on one thread, so the index of an event is a clock: what has a lower one was
//! over before the other began. The tables say who and what the events are about.

use std::collections::HashSet;
use std::time::Duration;

use ratatosk_codec::Qos;

/// A client, by its place in [`History::clients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientIndex(pub u32);

/// A message, by its place in [`History::messages`]; publishers number theirs upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageIndex(pub u32);

/// A will, by its place in [`History::wills`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WillIndex(pub u32);

/// A subscription that is made or given up, by its place in [`History::filters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterIndex(pub u32);

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its client identifier.
    pub name: String,
    /// Its session outlives its connections.
    pub is_persistent: bool,
}

/// A message that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whose it is.
    pub publisher: ClientIndex,
    /// The publisher's how-manieth, from 1.
    pub number: u32,
    /// Its topic.
    pub topic: String,
    /// Its QoS; never 0.
    pub qos: Qos,
    /// What it does to the retained message of its topic.
    pub retention: Retention,
}

/// What a message does to the retained message of its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Nothing: it is for subscribers.
    None,
    /// It takes its place.
    Update,
    /// It removes it.
    Clear,
}

/// A will that a client left with the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Its topic.
    pub topic: String,
    /// What has to become of it.
    pub promise: Promise,
    /// What its client is like, for people.
    pub kind: &'static str,
}

/// What has to become of a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Its client goes without a word and never comes back: it is sent.
    Sent,
    /// Its client always comes back before the delay is over: it is never sent.
    Kept,
}

/// A subscription that a client makes or gives up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Whose it is.
    pub client: ClientIndex,
    /// As it stands in SUBSCRIBE, with `$share/NAME/` if it is a group's.
    pub text: String,
    /// The QoS that is asked for and granted.
    pub qos: Qos,
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// In which round; each blow begins another.
    pub round: u32,
    /// How long after the beginning.
    pub at: Duration,
    /// To whom; the broker if nobody.
    pub client: Option<ClientIndex>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The broker listens.
    Started,
    /// The broker was killed.
    Killed,
    /// All connections failed.
    NetworkFailed,
    /// Something is done to a broker of several.
    Harmed(String),
    /// What was done is over.
    Healed(String),
    /// Everything was taken and acknowledged by everybody, and nothing is sent from here on.
    Drained,
    /// CONNECT was sent.
    ConnectSent {
        /// To which of several brokers, from 0.
        door: usize,
    },
    /// CONNACK came.
    Connected {
        /// The broker says that it had the session.
        is_present: bool,
    },
    /// The client closed the connection, with or without DISCONNECT.
    Left,
    /// The connection ended because the broker was killed, or the network failed.
    Cut,
    /// One of several brokers did not let the client in, which goes to another one.
    TurnedAway(String),
    /// The broker closed although it lives.
    Dropped(String),
    /// An answer did not come in time.
    Stalled(String),
    /// PUBLISH was written.
    Sent {
        /// The message.
        message: MessageIndex,
        /// It was sent before.
        is_again: bool,
    },
    /// PUBACK or PUBREC came: from here on the message must not be lost.
    Acked(MessageIndex),
    /// PUBREL was written.
    Released(MessageIndex),
    /// PUBCOMP came.
    Completed(MessageIndex),
    /// PUBACK or PUBREC came with an error.
    Refused(MessageIndex, u8),
    /// The publisher's session was gone, and with it what was open.
    Abandoned(MessageIndex),
    /// PUBLISH came, and is no repetition that the receiver's packet identifiers tell.
    Delivered {
        /// The message.
        message: MessageIndex,
        /// As it came.
        qos: Qos,
        /// DUP was set.
        is_dup: bool,
    },
    /// PUBLISH of QoS 2 came again under an identifier that the receiver still holds.
    Repeated(MessageIndex),
    /// PUBACK, PUBREC or PUBCOMP was written by the receiver.
    Took(MessageIndex, &'static str),
    /// Something came that was never sent like this.
    Foreign(String),
    /// SUBSCRIBE was written.
    Subscribing(FilterIndex),
    /// SUBACK came: the subscription is in force.
    Subscribed(FilterIndex),
    /// UNSUBSCRIBE was written.
    Unsubscribing(FilterIndex),
    /// UNSUBACK came: the subscription is not in force.
    Unsubscribed(FilterIndex),
    /// A new subscriber was or was not given a retained message.
    Retained {
        /// The topic.
        topic: String,
        /// The message.
        seen: Option<MessageIndex>,
    },
    /// The broker has accepted a client with a will.
    WillSet(WillIndex),
    /// A will came.
    WillDelivered(WillIndex),
}

impl What {
    /// The message that it is about.
    #[must_use]
    pub fn message(&self) -> Option<MessageIndex> {
        match self {
            What::Sent { message, .. }
            | What::Acked(message)
            | What::Released(message)
            | What::Completed(message)
            | What::Refused(message, _)
            | What::Abandoned(message)
            | What::Delivered { message, .. }
            | What::Repeated(message)
            | What::Took(message, _) => Some(*message),
            What::Retained { seen, .. } => *seen,
            _ => None,
        }
    }
}

/// All that happened.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Who took part.
    pub clients: Vec<Client>,
    /// What was sent.
    pub messages: Vec<Message>,
    /// Wills.
    pub wills: Vec<Will>,
    /// Subscriptions.
    pub filters: Vec<Filter>,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// Messages whose publisher waits for an acknowledgement.
    pub open: usize,
    round: u32,
}

impl History {
    /// Another client.
    pub fn add_client(&mut self, name: &str, is_persistent: bool) -> ClientIndex {
        self.clients.push(Client { name: name.to_owned(), is_persistent });
        ClientIndex(index(self.clients.len()))
    }

    /// Another subscription; it is not made yet.
    pub fn add_filter(&mut self, client: ClientIndex, text: &str, qos: Qos) -> FilterIndex {
        self.filters.push(Filter { client, text: text.to_owned(), qos });
        FilterIndex(index(self.filters.len()))
    }

    /// Another message; it is not sent yet.
    pub fn add_message(&mut self, message: Message) -> MessageIndex {
        self.messages.push(message);
        MessageIndex(index(self.messages.len()))
    }

    /// Another will; nobody has it yet. Its topic is `will/` and its index.
    pub fn add_will(&mut self, promise: Promise, kind: &'static str) -> WillIndex {
        let topic = format!("will/{}", self.wills.len());
        self.wills.push(Will { topic, promise, kind });
        WillIndex(index(self.wills.len()))
    }

    /// Writes down what happened.
    pub fn record(&mut self, at: Duration, client: Option<ClientIndex>, what: What) {
        match &what {
            What::Killed | What::NetworkFailed | What::Harmed(_) => self.round += 1,
            What::Sent { is_again: false, .. } => self.open += 1,
            What::Refused(..) | What::Abandoned(_) | What::Completed(_) => self.open -= 1,
            What::Acked(message) if self.message(*message).qos == Qos::AtLeastOnce => {
                self.open -= 1;
            }
            _ => {}
        }
        self.events.push(Event { round: self.round, at, client, what });
    }

    /// Persistent clients before this one that are not connected now.
    #[must_use]
    pub fn absent(&self, end: ClientIndex) -> Vec<ClientIndex> {
        let mut is_connected = vec![false; self.clients.len()];
        for event in &self.events {
            let Some(client) = event.client else { continue };
            match event.what {
                What::Connected { .. } => is_connected[client.0 as usize] = true,
                What::Left | What::Cut | What::Dropped(_) | What::Stalled(_) => {
                    is_connected[client.0 as usize] = false;
                }
                _ => {}
            }
        }
        let all = (0..end.0).map(ClientIndex);
        all.filter(|client| self.client(*client).is_persistent && !is_connected[client.0 as usize])
            .collect()
    }

    /// How many wills came to somebody more than once: allowed, but to be looked at.
    #[must_use]
    pub fn wills_again(&self) -> usize {
        let mut seen = HashSet::new();
        let mut is_again = |event: &&Event| match event.what {
            What::WillDelivered(will) => !seen.insert((event.client, will)),
            _ => false,
        };
        self.events.iter().filter(|event| is_again(event)).count()
    }

    /// A client.
    #[must_use]
    pub fn client(&self, client: ClientIndex) -> &Client {
        &self.clients[client.0 as usize]
    }

    /// A message.
    #[must_use]
    pub fn message(&self, message: MessageIndex) -> &Message {
        &self.messages[message.0 as usize]
    }

    /// A will.
    #[must_use]
    pub fn will(&self, will: WillIndex) -> &Will {
        &self.wills[will.0 as usize]
    }

    /// A subscription.
    #[must_use]
    pub fn filter(&self, filter: FilterIndex) -> &Filter {
        &self.filters[filter.0 as usize]
    }
}

/// The index of what was pushed last.
fn index(len: usize) -> u32 {
    u32::try_from(len - 1).unwrap_or(u32::MAX)
}
