//! Topic names: what a message is published to. A name that exists is valid.
//!
//! Names are compared byte by byte: nothing is normalised [MQTT-4.7.3-4].

use std::fmt;

use crate::filter::share_prefix;
use crate::{TopicError, TopicLimits};

/// A valid topic name: 1 to 65,535 bytes without wildcards, U+0000 or share prefix.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Checks `text` against the protocol and `limits`.
    ///
    /// # Errors
    /// What is wrong with the text, the first finding.
    pub fn parse(text: &'a str, limits: &TopicLimits) -> Result<Self, TopicError> {
        // [MQTT-4.7.3-1], [MQTT-4.7.3-3]
        limits.check(text)?;
        // [MQTT-4.7.0-1], [MQTT-3.3.2-2], [MQTT-4.7.3-2] Without early exit, so that the compiler vectorises it.
        let is_forbidden = |byte: u8| (byte == b'+') | (byte == b'#') | (byte == 0);
        if text.bytes().fold(false, |found, byte| found | is_forbidden(byte)) {
            return Err(forbidden(text));
        }
        if let Some(prefix) = share_prefix(text) {
            return Err(TopicError::SharePrefix { prefix });
        }
        Ok(Self(text))
    }

    /// The text of the name.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels, in order; a level may be empty.
    pub fn levels(self) -> impl Iterator<Item = &'a str> {
        self.0.split('/')
    }

    /// Whether the name starts with `$`: no filter with a leading wildcard matches it.
    #[must_use]
    pub fn is_reserved(self) -> bool {
        self.0.starts_with('$')
    }
}

impl fmt::Display for TopicName<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

#[cold]
fn forbidden(text: &str) -> TopicError {
    for (at, byte) in text.bytes().enumerate() {
        if byte == 0 {
            return TopicError::Null { at };
        }
        if byte == b'+' || byte == b'#' {
            return TopicError::WildcardInName { wildcard: char::from(byte), at };
        }
    }
    unreachable!("the caller has seen a forbidden character")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), &TopicError>) {
        let parsed = TopicName::parse(text, &TopicLimits::default()).map(|name| {
            assert_eq!(name.as_str(), text);
        });
        assert_eq!(parsed.as_ref().copied(), expected, "{text:?}");
    }

    /// MQTT-062: any other text is a name [MQTT-4.7.3-1], with levels that may be empty.
    #[test]
    fn ordinary_texts_are_names() {
        for text in [
            "a",
            "/",
            "//",
            "/finance",
            "finance/",
            "a b/c d",
            "Accounts payable",
            "ü/🐿/\u{feff}",
            "$SYS/broker",
            "$share",
            "$sharex/a/b",
            "$oshare",
            "x/$share/g/t",
            "\u{1}/\u{7f}",
        ] {
            check(text, Ok(()));
        }
    }

    /// MQTT-062: wildcards [MQTT-4.7.0-1], U+0000 [MQTT-4.7.3-2] and share prefixes are refused.
    #[test]
    fn wildcards_null_and_share_prefixes_are_no_names() {
        check("", Err(&TopicError::Empty));
        check("a/+", Err(&TopicError::WildcardInName { wildcard: '+', at: 2 }));
        check("a/b#", Err(&TopicError::WildcardInName { wildcard: '#', at: 3 }));
        check("a\0b", Err(&TopicError::Null { at: 1 }));
        check("\0+", Err(&TopicError::Null { at: 0 }));
        check("$share/g/t", Err(&TopicError::SharePrefix { prefix: "$share/" }));
        check("$share/", Err(&TopicError::SharePrefix { prefix: "$share/" }));
        check("$oshare/g/t", Err(&TopicError::SharePrefix { prefix: "$oshare/" }));
    }

    /// MQTT-062: a name has at most 65,535 bytes [MQTT-4.7.3-3] and 128 levels.
    #[test]
    fn names_beyond_the_default_limits_are_refused() {
        check(&"x".repeat(65_535), Ok(()));
        check(&"x".repeat(65_536), Err(&TopicError::TooLong { length: 65_536, max: 65_535 }));
        check(&"/".repeat(127), Ok(()));
        check(&"/".repeat(128), Err(&TopicError::TooManyLevels { levels: 129, max: 128 }));
    }

    /// MQTT-062: the tenant's own limits are counted in bytes.
    #[test]
    fn names_beyond_the_tenants_limits_are_refused() {
        let limits = TopicLimits { length_max: 8, levels_max: 3, level_length_max: 3 };
        let refused = |text| TopicName::parse(text, &limits).unwrap_err();
        assert!(TopicName::parse("abc/d/ü", &limits).is_ok());
        assert_eq!(refused("abcdefghi"), TopicError::TooLong { length: 9, max: 8 });
        assert_eq!(refused("a/b/c/d"), TopicError::TooManyLevels { levels: 4, max: 3 });
        assert_eq!(refused("a/üü"), TopicError::LevelTooLong { level: 1, length: 4, max: 3 });
    }

    #[test]
    fn levels_are_split_at_every_slash() {
        let name = TopicName::parse("/a//b/", &TopicLimits::default()).unwrap();
        assert_eq!(name.levels().collect::<Vec<_>>(), ["", "a", "", "b", ""]);
        assert!(!name.is_reserved());
        assert!(TopicName::parse("$SYS", &TopicLimits::default()).unwrap().is_reserved());
    }
}
