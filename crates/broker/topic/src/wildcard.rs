//! One filter against one topic. The index has its own way; both obey the same rules.
//!
//! Nothing is normalised: levels are compared byte by byte [MQTT-4.7.3-4]. Neither function
//! recurses or looks at a byte twice, so a match costs at most one pass over both texts.

/// Whether `filter` (without share prefix) matches `topic`: level by level, as the specification
/// tells it. [MQTT-3.3.2-3] For tests, tools and one-off checks; the index answers for many filters at once.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    // [MQTT-4.7.2-1] A leading wildcard does not reach topics that start with `$`.
    if topic.starts_with('$') && matches!(filter.split('/').next(), Some("+" | "#")) {
        return false;
    }
    let mut levels = topic.split('/');
    for expected in filter.split('/') {
        match expected {
            // Whatever follows, and the parent level: all levels before have matched.
            "#" => return true,
            "+" if levels.next().is_none() => return false,
            "+" => {}
            text if levels.next() != Some(text) => return false,
            _ => {}
        }
    }
    levels.next().is_none()
}

/// Whether the rest of a valid filter matches the rest of a topic, both cut at the beginning of the
/// same level. The rule about `$` is the caller's: only it knows whether that level is the first.
pub(crate) fn tail_matches(filter: &[u8], topic: &[u8]) -> bool {
    let mut at = 0;
    for (index, &byte) in filter.iter().enumerate() {
        match byte {
            b'#' => return true,
            b'+' => at += level_at(topic, at).len(),
            _ if at == topic.len() => return &filter[index..] == b"/#",
            _ if topic[at] != byte => return false,
            _ => at += 1,
        }
    }
    at == topic.len()
}

/// The level of `text` that begins at byte `at`.
#[inline]
pub(crate) fn level_at(text: &[u8], at: usize) -> &[u8] {
    let rest = &text[at..];
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{TopicFilter, TopicLimits, TopicName};

    fn check(filter: &str, topic: &str, expected: bool) {
        assert_eq!(matches(filter, topic), expected, "{filter:?} and {topic:?}");
        let limits = TopicLimits::default();
        let parsed = TopicFilter::parse(filter, &limits).unwrap();
        let name = TopicName::parse(topic, &limits).unwrap();
        assert_eq!(parsed.matches(name), expected, "{filter:?} and {topic:?}, parsed");
    }

    /// MQTT-070: the examples of sections 4.7.1.2 and 4.7.1.3.
    #[test]
    fn examples_of_the_specification_hold() {
        for topic in [
            "sport/tennis/player1",
            "sport/tennis/player1/ranking",
            "sport/tennis/player1/score/wimbledon",
        ] {
            check("sport/tennis/player1/#", topic, true);
        }
        check("sport/#", "sport", true);
        check("#", "sport", true);
        check("#", "/", true);
        check("sport/tennis/+", "sport/tennis/player1", true);
        check("sport/tennis/+", "sport/tennis/player2", true);
        check("sport/tennis/+", "sport/tennis/player1/ranking", false);
        check("sport/+", "sport", false);
        check("sport/+", "sport/", true);
        check("+", "sport", true);
        check("+/tennis/#", "sport/tennis", true);
        check("sport/+/player1", "sport/tennis/player1", true);
        check("+/+", "/finance", true);
        check("/+", "/finance", true);
        check("+", "/finance", false);
    }

    /// MQTT-071: no leading wildcard reaches `$` topics [MQTT-4.7.2-1]; later ones do.
    #[test]
    fn leading_wildcards_do_not_match_reserved_topics() {
        check("#", "$SYS/broker", false);
        check("+/monitor/Clients", "$SYS/monitor/Clients", false);
        check("+", "$", false);
        check("$SYS/#", "$SYS/monitor/Clients", true);
        check("$SYS/#", "$SYS", true);
        check("$SYS/monitor/+", "$SYS/monitor/Clients", true);
        check("a/+", "a/$SYS", true);
        check("a/#", "a/$SYS/b", true);
    }

    /// MQTT-070: letters of other case, blanks, empty levels and composed characters are different
    /// [MQTT-4.7.3-4].
    #[test]
    fn levels_are_compared_without_normalization() {
        check("ACCOUNTS", "Accounts", false);
        check("Accounts payable", "Accounts payable", true);
        check("a/b", "/a/b", false);
        check("a/b", "a/b/", false);
        check("a//b", "a/b", false);
        check("a/+/b", "a//b", true);
        check("\u{e9}", "e\u{301}", false);
        check("\u{feff}a", "a", false);
        check("a/#", "ab", false);
        check("a/#", "a//", true);
        check("a//#", "a/", true);
        check("a//#", "a", false);
        check("+/#", "a", true);
        check("+/+/#", "a", false);
        check("/#", "/", true);
    }

    fn text(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(levels), 1..6).prop_map(|parts| parts.join("/"))
    }

    proptest! {
        /// MQTT-070, MQTT-071: the byte-wise matcher agrees with the level-wise one.
        #[test]
        fn both_matchers_agree(
            filter in text(&["a", "ab", "", "+", "$x", "ü"]),
            hash in prop::bool::ANY,
            topic in text(&["a", "ab", "", "b", "$x", "ü"]),
        ) {
            prop_assume!(!filter.is_empty() && !topic.is_empty());
            let filter = if hash { filter + "/#" } else { filter };
            let limits = TopicLimits::default();
            let parsed = TopicFilter::parse(&filter, &limits).unwrap();
            let name = TopicName::parse(&topic, &limits).unwrap();
            prop_assert_eq!(parsed.matches(name), matches(&filter, &topic));
        }
    }
}
