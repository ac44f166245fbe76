//! Topic aliases: numbers that stand for topics on one connection.
//!
//! Both tables die with the connection. [MQTT-3.3.2-7] They are made when the first alias is
//! used, and the topics that they hold are bounded in bytes.

use std::collections::BTreeMap;

/// Aliases that the client uses: alias 1 is at index 0.
#[derive(Debug, Default)]
pub(crate) struct InboundAliases {
    topics: Vec<Option<Box<str>>>,
    bytes: usize,
}

impl InboundAliases {
    /// Lets `alias` stand for `topic` from now on; false, and nothing changes, if the topics
    /// would hold more than [`INBOUND_BYTES_MAX`].
    #[must_use]
    pub(crate) fn set(&mut self, alias: u16, topic: &str) -> bool {
        debug_assert!(alias > 0, "the caller refuses alias 0");
        let index = usize::from(alias) - 1;
        let before = self.topics.get(index).and_then(Option::as_deref);
        if before == Some(topic) {
            return true;
        }
        let bytes = self.bytes - before.map_or(0, str::len) + topic.len();
        if bytes > INBOUND_BYTES_MAX {
            return false;
        }
        if self.topics.len() <= index {
            self.topics.resize(index + 1, None);
        }
        self.bytes = bytes;
        self.topics[index] = Some(topic.into());
        true
    }

    /// What `alias` stands for.
    pub(crate) fn topic(&self, alias: u16) -> Option<&str> {
        self.topics.get(usize::from(alias).checked_sub(1)?)?.as_deref()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes + self.topics.capacity() * size_of::<Option<Box<str>>>()
    }
}

/// The topics of one connection's inbound aliases hold at most this many bytes. SEC-006
pub(crate) const INBOUND_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Aliases that we use towards the client, up to its maximum and to a bound in bytes. First come,
/// first served: a topic that finds the table full is sent whole.
#[derive(Debug, Default)]
pub(crate) struct OutboundAliases {
    aliases: BTreeMap<Box<str>, u16>,
    bytes: usize,
}

/// How a topic is to be sent.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum AliasUse {
    /// Without an alias.
    None,
    /// With the topic, so that the client learns what the alias stands for.
    Introduce(u16),
    /// Instead of the topic.
    Known(u16),
}

/// The topics of one connection's outbound aliases hold at most this many bytes.
const OUTBOUND_BYTES_MAX: usize = 16 * 1024;

impl OutboundAliases {
    /// How to send `topic` to a client that takes aliases up to `alias_max`.
    /// [MQTT-3.1.2-26] [MQTT-3.3.2-8] [MQTT-3.3.2-11]
    pub(crate) fn choose(&mut self, topic: &str, alias_max: u16) -> AliasUse {
        if let Some(alias) = self.aliases.get(topic) {
            return AliasUse::Known(*alias);
        }
        let is_full = self.aliases.len() >= usize::from(alias_max)
            || self.bytes + topic.len() > OUTBOUND_BYTES_MAX;
        if is_full {
            return AliasUse::None;
        }
        let alias = u16::try_from(self.aliases.len() + 1).expect("alias_max is a u16");
        self.bytes += topic.len();
        self.aliases.insert(topic.into(), alias);
        AliasUse::Introduce(alias)
    }

    /// Takes back an alias that was chosen for a packet which is not sent after all. Only the
    /// newest can be taken back.
    pub(crate) fn forget(&mut self, topic: &str) {
        if self.aliases.remove(topic).is_some() {
            self.bytes -= topic.len();
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes + self.aliases.len() * 48
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_introduced_once_and_then_stands_alone() {
        let mut aliases = OutboundAliases::default();
        assert_eq!(aliases.choose("a", 2), AliasUse::Introduce(1));
        assert_eq!(aliases.choose("b", 2), AliasUse::Introduce(2));
        assert_eq!(aliases.choose("a", 2), AliasUse::Known(1));
        assert_eq!(aliases.choose("c", 2), AliasUse::None);
    }

    #[test]
    fn long_topics_fill_the_table_by_their_bytes() {
        let mut aliases = OutboundAliases::default();
        let long = "x".repeat(OUTBOUND_BYTES_MAX);
        assert_eq!(aliases.choose(&long, 100), AliasUse::Introduce(1));
        assert_eq!(aliases.choose("y", 100), AliasUse::None);
    }

    #[test]
    fn an_inbound_alias_may_be_given_another_topic() {
        let mut aliases = InboundAliases::default();
        assert_eq!(aliases.topic(1), None);
        assert!(aliases.set(3, "a/b"));
        assert!(aliases.set(3, "c"));
        assert_eq!(aliases.topic(3), Some("c"));
        assert_eq!(aliases.topic(0), None);
        assert_eq!(aliases.topic(4), None);
    }

    /// SEC-006: thousands of long topics do not fit.
    #[test]
    fn inbound_topics_are_bounded_in_bytes() {
        let mut aliases = InboundAliases::default();
        let long = "x".repeat(65_535);
        let taken = (1..=100).take_while(|alias| aliases.set(*alias, &long)).count();
        assert_eq!(taken, INBOUND_BYTES_MAX / 65_535);
        assert!(aliases.set(1, "short"), "what is replaced gives its bytes back");
        assert!(aliases.set(50, &long));
        assert_eq!(aliases.topic(51), None);
    }
}
