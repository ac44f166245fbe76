//! What an agent says to others: to one, to all of a name, to all of a service.

use bytes::Bytes;

use super::identity::HostId;
use super::record::NAME_MAX;
use super::record::{AgentAddress, AgentName};
use super::wire::{Malformed, Reader, put_long, put_short};

/// The most that a message takes.
pub const MESSAGE_MAX: usize = 256 * 1024;

/// Who is to get a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// One agent.
    One(AgentAddress),
    /// The agents of this name, on all hosts.
    Named(AgentName),
    /// All agents of a service.
    Service(String),
}

/// A message on its way to the agents of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) from: AgentAddress,
    pub(crate) service: String,
    /// All instances if `None`.
    pub(crate) instance: Option<String>,
    pub(crate) body: Bytes,
}

/// How a message goes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// In one datagram if it fits, else by stream. Lost without notice; comes once at most, where the
    /// cluster has a key.
    Datagram,
    /// By a connection of its own, whose failure is counted. Comes once at most.
    Stream,
}

impl Message {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.from.host.as_bytes());
        self.from.name.encode(out);
        put_short(out, self.service.as_bytes());
        put_short(out, self.instance.as_deref().unwrap_or_default().as_bytes());
        put_long(out, &self.body);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Message, Malformed> {
        let host = HostId::from_bytes(reader.array()?);
        let from = AgentAddress { host, name: AgentName::decode(reader)? };
        let service = reader.text()?.to_owned();
        let instance = Some(reader.text()?.to_owned()).filter(|name| !name.is_empty());
        let is_named = !service.is_empty() && service.len() <= NAME_MAX;
        if !is_named || instance.as_ref().is_some_and(|name| name.len() > NAME_MAX) {
            return Err(Malformed);
        }
        let body = reader.long()?;
        if body.len() > MESSAGE_MAX {
            return Err(Malformed);
        }
        Ok(Message { from, service, instance, body: Bytes::copy_from_slice(body) })
    }

    /// Whether an agent of this name is to get it.
    pub(crate) fn is_for(&self, name: &AgentName) -> bool {
        let is_instance = self.instance.as_ref().is_none_or(|it| it == name.instance());
        self.service == name.service() && is_instance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let name = AgentName::new("rpc", "a").expect("a name");
        let from = AgentAddress { host: HostId::from_bytes([1; 16]), name };
        for instance in [None, Some("b".to_owned())] {
            let body = Bytes::from_static(b"body");
            let message = Message { from: from.clone(), service: "rpc".into(), instance, body };
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            assert_eq!(Message::decode(&mut Reader::new(&bytes)), Ok(message));
            for cut in 0..bytes.len() {
                assert_eq!(Message::decode(&mut Reader::new(&bytes[..cut])), Err(Malformed));
            }
        }
    }
}
