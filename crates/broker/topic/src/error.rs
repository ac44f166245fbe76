//! Why a text is no topic name or filter. All variants are the peer's matter: nothing was changed.

/// What is wrong with a topic name or filter that a peer sent.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TopicError {
    /// A name or filter has at least one character [MQTT-4.7.3-1].
    #[error("topic is empty")]
    Empty,
    /// The text is longer than the tenant or the protocol allows [MQTT-4.7.3-3].
    #[error("topic has {length} bytes, limit is {max}")]
    TooLong {
        /// Bytes of the text, or of the filter within a shared subscription.
        length: usize,
        /// The limit that was passed.
        max: u16,
    },
    /// More levels than the tenant allows.
    #[error("topic has {levels} levels, limit is {max}")]
    TooManyLevels {
        /// Levels found.
        levels: usize,
        /// The limit that was passed.
        max: u16,
    },
    /// One level, or the group of a shared subscription, is longer than the tenant allows.
    #[error("topic level {level} has {length} bytes, limit is {max}")]
    LevelTooLong {
        /// Number of the level, from zero; the group of a share counts as level zero of its own.
        level: usize,
        /// Bytes of the level.
        length: usize,
        /// The limit that was passed.
        max: u16,
    },
    /// U+0000 is in no name and no filter [MQTT-4.7.3-2].
    #[error("topic has U+0000 at byte {at}")]
    Null {
        /// Position of the character, in bytes.
        at: usize,
    },
    /// A topic name has no wildcards [MQTT-4.7.0-1].
    #[error("topic name has wildcard '{wildcard}' at byte {at}")]
    WildcardInName {
        /// `+` or `#`.
        wildcard: char,
        /// Position of the character, in bytes.
        at: usize,
    },
    /// A wildcard shares its level with other characters [MQTT-4.7.1-1], [MQTT-4.7.1-2].
    #[error("wildcard '{wildcard}' at byte {at} does not occupy a whole level")]
    WildcardNotAlone {
        /// `+` or `#`.
        wildcard: char,
        /// Position of the character, in bytes.
        at: usize,
    },
    /// `#` is followed by another level [MQTT-4.7.1-1].
    #[error("wildcard '#' at byte {at} is not the last level")]
    HashNotLast {
        /// Position of the character, in bytes.
        at: usize,
    },
    /// Nobody publishes to the name of a shared subscription.
    #[error("topic name starts with the share prefix '{prefix}'")]
    SharePrefix {
        /// `$share/` or `$oshare/`.
        prefix: &'static str,
    },
    /// The group of a shared subscription has at least one character [MQTT-4.8.2-1].
    #[error("shared subscription '{prefix}' has an empty group")]
    ShareGroupEmpty {
        /// `$share/` or `$oshare/`.
        prefix: &'static str,
    },
    /// The group of a shared subscription has no wildcards [MQTT-4.8.2-2].
    #[error("group of a shared subscription has wildcard '{wildcard}' at byte {at}")]
    ShareGroupWildcard {
        /// `+` or `#`.
        wildcard: char,
        /// Position in the whole text, in bytes.
        at: usize,
    },
    /// The group is followed by `/` and a filter [MQTT-4.8.2-2].
    #[error("shared subscription of a group of {group_length} bytes has no filter")]
    ShareFilterMissing {
        /// Bytes of the group.
        group_length: usize,
    },
}
