//! Topic filters: what a client subscribes to, plain or shared. A filter that exists is valid.
//!
//! `$share/{group}/{filter}` spreads messages over the group, `$oshare/{group}/{filter}` keeps each
//! publisher on one member. A text that merely begins alike (`$share`, `$shared/x`) is plain.

use std::fmt;

use crate::wildcard::tail_matches;
use crate::{TopicError, TopicLimits, TopicName};

/// How the text of an unordered shared subscription begins.
pub const SHARE_PREFIX: &str = "$share/";

/// How the text of an ordered shared subscription begins.
pub const ORDERED_SHARE_PREFIX: &str = "$oshare/";

/// A valid topic filter, with or without a share group.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct TopicFilter<'a> {
    text: &'a str,
    filter: &'a str,
    share: Option<Share<'a>>,
    has_wildcard: bool,
}

/// The group of a shared subscription.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct Share<'a> {
    /// Name of the group.
    pub group: &'a str,
    /// Whether one publisher's messages always go to the same member (`$oshare`).
    pub ordered: bool,
}

impl<'a> TopicFilter<'a> {
    /// Checks `text` against the protocol and `limits`. Length and levels are limited for the filter
    /// without its share prefix; the whole is never longer than the wire allows.
    ///
    /// # Errors
    /// What is wrong with the text, the first finding.
    pub fn parse(text: &'a str, limits: &TopicLimits) -> Result<Self, TopicError> {
        if text.len() > usize::from(u16::MAX) {
            return Err(TopicError::TooLong { length: text.len(), max: u16::MAX });
        }
        // [MQTT-4.7.3-2]
        if let Some(at) = text.bytes().position(|byte| byte == 0) {
            return Err(TopicError::Null { at });
        }
        let (share, filter) = split_share(text, limits)?;
        // [MQTT-4.7.3-1], [MQTT-4.7.3-3]
        limits.check(filter)?;
        let has_wildcard = check_wildcards(filter, text.len() - filter.len())?;
        Ok(Self { text, filter, share, has_wildcard })
    }

    /// The whole text, with the share prefix.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.text
    }

    /// The filter that topics are compared with, without the share prefix.
    #[must_use]
    pub fn filter(self) -> &'a str {
        self.filter
    }

    /// The levels of [`Self::filter`], in order.
    pub fn levels(self) -> impl Iterator<Item = &'a str> {
        self.filter.split('/')
    }

    /// The group, if the subscription is shared.
    #[must_use]
    pub fn share(self) -> Option<Share<'a>> {
        self.share
    }

    /// Whether the filter has a level `+` or `#`.
    #[must_use]
    pub fn has_wildcard(self) -> bool {
        self.has_wildcard
    }

    /// Whether messages to `topic` are for this filter; the group has no say in it.
    #[must_use]
    pub fn matches(self, topic: TopicName<'_>) -> bool {
        // [MQTT-4.7.2-1] In a valid filter the first character tells whether the level is a wildcard.
        let leads_with_wildcard = self.filter.starts_with(['+', '#']);
        if leads_with_wildcard && topic.is_reserved() {
            return false;
        }
        tail_matches(self.filter.as_bytes(), topic.as_str().as_bytes())
    }
}

impl fmt::Display for TopicFilter<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text)
    }
}

/// The share prefix that `text` starts with, if any.
pub(crate) fn share_prefix(text: &str) -> Option<&'static str> {
    [SHARE_PREFIX, ORDERED_SHARE_PREFIX].into_iter().find(|prefix| text.starts_with(prefix))
}

/// Whether each wildcard of `filter` stands where it may.
pub(crate) fn is_well_formed(filter: &str) -> bool {
    check_wildcards(filter, 0).is_ok()
}

fn split_share<'a>(
    text: &'a str,
    limits: &TopicLimits,
) -> Result<(Option<Share<'a>>, &'a str), TopicError> {
    let Some(prefix) = share_prefix(text) else {
        return Ok((None, text));
    };
    let body = &text[prefix.len()..];
    let (group, filter) = body.split_once('/').unwrap_or((body, ""));
    // [MQTT-4.8.2-1]
    if group.is_empty() {
        return Err(TopicError::ShareGroupEmpty { prefix });
    }
    // [MQTT-4.8.2-2]
    if let Some(at) = group.find(['+', '#']) {
        let wildcard = char::from(group.as_bytes()[at]);
        return Err(TopicError::ShareGroupWildcard { wildcard, at: prefix.len() + at });
    }
    if filter.is_empty() {
        return Err(TopicError::ShareFilterMissing { group_length: group.len() });
    }
    limits.check_level(0, group)?;
    Ok((Some(Share { group, ordered: prefix == ORDERED_SHARE_PREFIX }), filter))
}

/// Tells whether there is a wildcard. `offset` is where the filter begins in the peer's text.
fn check_wildcards(filter: &str, offset: usize) -> Result<bool, TopicError> {
    let bytes = filter.as_bytes();
    let mut found = false;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte != b'+' && byte != b'#' {
            continue;
        }
        found = true;
        let at = offset + index;
        let begins_level = index == 0 || bytes[index - 1] == b'/';
        let next = bytes.get(index + 1);
        // [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.1-3]
        if !begins_level || next.is_some_and(|next| *next != b'/') {
            return Err(TopicError::WildcardNotAlone { wildcard: char::from(byte), at });
        }
        if byte == b'#' && next.is_some() {
            return Err(TopicError::HashNotLast { at });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TopicFilter<'_>, TopicError> {
        TopicFilter::parse(text, &TopicLimits::default())
    }

    fn refused(text: &str, expected: &TopicError) {
        assert_eq!(parse(text).as_ref(), Err(expected), "{text:?}");
    }

    /// MQTT-070: wildcards occupy whole levels, and `#` the last one.
    #[test]
    fn filters_with_wildcards_in_their_place_are_valid() {
        for text in
            ["#", "+", "sport/tennis/#", "+/tennis/#", "sport/+/player1", "/+", "+/+", "a/+/"]
        {
            let filter = parse(text).unwrap();
            assert!(filter.has_wildcard(), "{text}");
            assert_eq!((filter.as_str(), filter.filter(), filter.share()), (text, text, None));
        }
        for text in ["/", "a", "a//b", "$SYS/x", "$share", "$oshare", "$sharex/g"] {
            assert!(!parse(text).unwrap().has_wildcard(), "{text}");
        }
    }

    /// MQTT-070: the specification's examples of what is not valid [MQTT-4.7.1-1], [MQTT-4.7.1-2].
    #[test]
    fn misplaced_wildcards_are_refused() {
        refused("sport/tennis#", &TopicError::WildcardNotAlone { wildcard: '#', at: 12 });
        refused("sport/tennis/#/ranking", &TopicError::HashNotLast { at: 13 });
        refused("sport+", &TopicError::WildcardNotAlone { wildcard: '+', at: 5 });
        refused("+a", &TopicError::WildcardNotAlone { wildcard: '+', at: 0 });
        refused("##", &TopicError::WildcardNotAlone { wildcard: '#', at: 0 });
        refused("a/++/b", &TopicError::WildcardNotAlone { wildcard: '+', at: 2 });
        refused("$share/g/a/#/b", &TopicError::HashNotLast { at: 11 });
    }

    /// MQTT-062: a filter is neither empty [MQTT-4.7.3-1] nor has U+0000 [MQTT-4.7.3-2].
    #[test]
    fn empty_filters_and_null_are_refused() {
        refused("", &TopicError::Empty);
        refused("a\0", &TopicError::Null { at: 1 });
        refused("$share/g\0/a", &TopicError::Null { at: 8 });
    }

    /// MQTT-084, MQTT-085: group and filter are told apart, the filter may begin with a slash.
    #[test]
    fn shared_filters_are_split_into_group_and_filter() {
        let check = |text: &str, group: &str, ordered: bool, filter: &str| {
            let parsed = parse(text).unwrap();
            assert_eq!(parsed.share(), Some(Share { group, ordered }), "{text}");
            assert_eq!((parsed.as_str(), parsed.filter()), (text, filter));
        };
        check("$share/g/a/+", "g", false, "a/+");
        check("$oshare/g/a", "g", true, "a");
        check("$share/g//", "g", false, "/");
        check("$share/g/$share/x/y", "g", false, "$share/x/y");
        check("$share/$share/#", "$share", false, "#");
    }

    /// MQTT-084: `$share/` is followed by a group [MQTT-4.8.2-1], a slash and a filter
    /// [MQTT-4.8.2-2]; `$oshare/` likewise.
    #[test]
    fn shared_filters_without_group_or_filter_are_refused() {
        refused("$share/", &TopicError::ShareGroupEmpty { prefix: "$share/" });
        refused("$share//a", &TopicError::ShareGroupEmpty { prefix: "$share/" });
        refused("$oshare//a", &TopicError::ShareGroupEmpty { prefix: "$oshare/" });
        refused("$share/group", &TopicError::ShareFilterMissing { group_length: 5 });
        refused("$share/g/", &TopicError::ShareFilterMissing { group_length: 1 });
        refused("$share/a+/b", &TopicError::ShareGroupWildcard { wildcard: '+', at: 8 });
        refused("$oshare/#/b", &TopicError::ShareGroupWildcard { wildcard: '#', at: 8 });
    }

    /// MQTT-062: the limits are those of the filter, the wire's those of the whole [MQTT-4.7.3-3].
    #[test]
    fn filters_beyond_the_limits_are_refused() {
        let limits = TopicLimits { length_max: 5, levels_max: 3, level_length_max: 3 };
        let parse = |text| TopicFilter::parse(text, &limits);
        assert!(parse("$share/grp/a/b/c").is_ok());
        assert_eq!(parse("a/b/cd"), Err(TopicError::TooLong { length: 6, max: 5 }));
        assert_eq!(parse("////"), Err(TopicError::TooManyLevels { levels: 5, max: 3 }));
        assert_eq!(
            parse("$share/group/a"),
            Err(TopicError::LevelTooLong { level: 0, length: 5, max: 3 })
        );
        assert_eq!(parse("abcd"), Err(TopicError::LevelTooLong { level: 0, length: 4, max: 3 }));
        let long = format!("$share/g/{}", "x".repeat(65_530));
        refused(&long, &TopicError::TooLong { length: 65_539, max: 65_535 });
    }
}
