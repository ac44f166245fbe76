//! What is written down of one connection to a contested session, in the order in which its client
//! saw it. Times are spans since the stage stands, of one thread.

use std::time::Duration;

use ratatosk_codec::Qos;
use ratatosk_crash::history::MessageIndex;

/// One connection, from its CONNECT on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// Of which race it is.
    pub round: u32,
    /// To which node, from 0.
    pub door: usize,
    /// When CONNECT was about to be written.
    pub connect_sent: Duration,
    /// When CONNACK was read that let it in.
    pub connack: Option<Duration>,
    /// When and how it ended.
    pub end: Option<(Duration, End)>,
    /// What its client did.
    pub deeds: Vec<Deed>,
    /// What came.
    pub came: Vec<Came>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// DISCONNECT came, with this reason code.
    Told(u8),
    /// It was closed, and nothing was said.
    Closed,
    /// Its client closed it.
    Left,
    /// CONNACK said that it is not let in, or it was closed before CONNACK.
    Refused,
    /// Its client did not wait any longer for CONNACK.
    Unanswered,
}

/// Something that only the owner of the session can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deed {
    /// What.
    pub kind: DeedKind,
    /// When it was about to be written.
    pub started: Duration,
    /// When the acknowledgement was read that says that it was done.
    pub acked: Option<Duration>,
}

/// What an owner can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeedKind {
    /// SUBSCRIBE, of what is subscribed already.
    Subscribe,
    /// PUBLISH to the session itself.
    PublishOwn(MessageIndex),
    /// PUBLISH that nobody wants.
    PublishIdle(Qos),
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// A message.
    Message {
        /// Which.
        message: MessageIndex,
        /// As it came.
        qos: Qos,
        /// Its packet identifier.
        id: u16,
    },
    /// PUBREL.
    Release {
        /// Its packet identifier.
        id: u16,
    },
    /// What nobody sent.
    Foreign(String),
}

impl Life {
    /// One whose CONNECT is about to be written.
    #[must_use]
    pub(super) fn new(round: u32, door: usize, connect_sent: Duration) -> Life {
        let (connack, end) = (None, None);
        Life { round, door, connect_sent, connack, end, deeds: Vec::new(), came: Vec::new() }
    }

    /// Whether it was let in, and has not ended as far as its client knows.
    #[must_use]
    pub(super) fn is_alive(&self) -> bool {
        self.connack.is_some() && self.end.is_none()
    }
}
