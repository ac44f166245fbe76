//! Matching the other way round: one filter against an ordered map of topics.
//!
//! [`TopicKey`] is the topic with its separators as 0x00, a byte that no topic has and that sorts
//! below all others. So keys sort by levels, and all topics below a prefix of levels are contiguous:
//! the topics `P` and `P/…` are the keys from `P` up to, without, `P 0x01`. The encoding is stored.
//!
//! [`FilterScan`] walks such a map: for each key under the cursor it says whether the topic matches
//! or where the next match can be at the earliest. It has no state between steps, so that a cursor
//! can be dropped and sought again. Guarantees, for each step at `key`:
//! - `SkipTo(bound)`: `key < bound`, and no key in `key ≤ k < bound` matches.
//! - `Done`: no `k ≥ key` matches.
//!
//! Visited are the matches and, for each choice of values for the `+` levels that exists under the
//! literal levels before them, at most two keys more. A filter without `+` visits one key beyond its
//! matches; `+/+/x` visits each pair of first levels even if none has an `x`.
//!
//! [MQTT-4.7.2-1] A leading wildcard skips the topics that start with `$`.

use std::fmt;

use crate::{TopicFilter, TopicName};

const SEPARATOR: u8 = 0x00;

/// The byte after [`SEPARATOR`]: `P AFTER` is the first key beyond the subtree of `P`.
const AFTER: u8 = 0x01;

/// First level of a bound beyond the topics that start with `$`.
const AFTER_RESERVED: u8 = b'$' + 1;

/// An order-preserving key of a topic or a filter, or a bound between keys.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct TopicKey(Vec<u8>);

/// Bytes that are no key of a topic: the store is damaged, or the bytes are something else's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// A topic has at least one character.
    #[error("topic key is empty")]
    Empty,
    /// Separators are stored as 0x00.
    #[error("topic key has a slash at byte {at}")]
    Slash {
        /// Position of the slash.
        at: usize,
    },
    /// The levels are not UTF-8.
    #[error("topic key is not UTF-8 after byte {valid_up_to}")]
    NotUtf8 {
        /// Bytes before the first bad one.
        valid_up_to: usize,
    },
}

impl TopicKey {
    /// The key of `topic`.
    #[must_use]
    pub fn encode(topic: TopicName<'_>) -> Self {
        let mut bytes = Vec::with_capacity(topic.as_str().len());
        Self::encode_into(topic, &mut bytes);
        Self(bytes)
    }

    /// Appends the key of `topic`, for keys that begin with something else.
    pub fn encode_into(topic: TopicName<'_>, bytes: &mut Vec<u8>) {
        append(topic.as_str(), bytes);
    }

    /// The key of a filter without its share prefix, for maps that are ordered by filter levels.
    #[must_use]
    pub fn encode_filter(filter: TopicFilter<'_>) -> Self {
        let mut bytes = Vec::with_capacity(filter.filter().len());
        append(filter.filter(), &mut bytes);
        Self(bytes)
    }

    /// The topic or filter of a key. Whether it keeps within limits is for its parser to say.
    ///
    /// # Errors
    /// What shows that the bytes are no key.
    pub fn decode(key: &[u8]) -> Result<String, KeyError> {
        if key.is_empty() {
            return Err(KeyError::Empty);
        }
        if let Some(at) = key.iter().position(|byte| *byte == b'/') {
            return Err(KeyError::Slash { at });
        }
        let text = key.iter().map(|byte| if *byte == SEPARATOR { b'/' } else { *byte }).collect();
        String::from_utf8(text)
            .map_err(|error| KeyError::NotUtf8 { valid_up_to: error.utf8_error().valid_up_to() })
    }

    /// The smallest key after `key`: where a cursor resumes that has dealt with `key`.
    #[must_use]
    pub fn after(key: &[u8]) -> Self {
        Self([key, &[SEPARATOR]].concat())
    }

    /// The bytes, which sort as the keys do.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, given away.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl AsRef<[u8]> for TopicKey {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// What a cursor does next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scan {
    /// The key's topic matches; go on with the next key.
    Match,
    /// Neither this key nor any below the bound matches; seek the first key at or above it. Often
    /// that is simply the next key, which may be cheaper to look at first.
    SkipTo(TopicKey),
    /// Neither this key nor any after it matches.
    Done,
}

/// A filter, prepared to walk topics in the order of their keys.
#[derive(Clone)]
pub struct FilterScan {
    /// The filter with 0x00 as separator.
    filter: Box<[u8]>,
}

impl FilterScan {
    /// Prepares a walk; the share prefix is left out.
    #[must_use]
    pub fn new(filter: TopicFilter<'_>) -> Self {
        Self { filter: TopicKey::encode_filter(filter).0.into_boxed_slice() }
    }

    /// No key below this one matches: where the walk begins.
    #[must_use]
    pub fn start(&self) -> TopicKey {
        let mut bound = Vec::with_capacity(self.filter.len());
        append_lowest(&self.filter, &mut bound);
        TopicKey(bound)
    }

    /// No key at or above this one matches; `None` if there is no such bound. With
    /// [`start`](Self::start) it tells which part of a partitioned map the walk can touch.
    #[must_use]
    pub fn end(&self) -> Option<TopicKey> {
        match self.filter.iter().position(|byte| matches!(byte, b'+' | b'#')) {
            None => Some(TopicKey::after(&self.filter)),
            Some(0) => None,
            // The literal levels end before the separator; there is at least one, maybe empty.
            Some(at) => Some(TopicKey([&self.filter[..at - 1], &[AFTER]].concat())),
        }
    }

    /// Looks at one key. Bytes that are no key of a topic do not match what is valid, and are
    /// passed over like any other.
    #[must_use]
    pub fn step(&self, key: &[u8]) -> Scan {
        if key.is_empty() {
            // No topic is empty; the lowest one is "/".
            let lowest = TopicKey(vec![SEPARATOR]);
            return Scan::SkipTo(lowest.max(self.start()));
        }
        let leads_with_wildcard = matches!(self.filter[0], b'+' | b'#');
        // [MQTT-4.7.2-1]
        if leads_with_wildcard && key[0] == b'$' {
            return Scan::SkipTo(TopicKey(vec![AFTER_RESERVED]));
        }
        self.compare(key)
    }

    /// Walks both level by level until they differ. `plus_end` is the end in `key` of the value
    /// that the last `+` so far stands for: the only level that may be advanced.
    fn compare(&self, key: &[u8]) -> Scan {
        let (mut filter_at, mut key_at) = (0, 0);
        let mut plus_end = None;
        loop {
            let expected = key_level(&self.filter, filter_at);
            if expected == b"#" {
                return Scan::Match;
            }
            let actual = key_level(key, key_at);
            let key_end = key_at + actual.len();
            if expected == b"+" {
                plus_end = Some(key_end);
            } else if actual < expected {
                return self.skip(&key[..key_at], filter_at);
            } else if actual > expected {
                return advance(key, plus_end);
            }
            let filter_end = filter_at + expected.len();
            let key_is_over = key_end == key.len();
            if filter_end == self.filter.len() {
                return if key_is_over { Scan::Match } else { advance(key, plus_end) };
            }
            if key_is_over {
                let parent_matches = self.filter[filter_end..] == [SEPARATOR, b'#'];
                return if parent_matches {
                    Scan::Match
                } else {
                    self.skip(&[key, &[SEPARATOR]].concat(), filter_end + 1)
                };
            }
            (filter_at, key_at) = (filter_end + 1, key_end + 1);
        }
    }

    /// To the lowest key that has the levels of `prefix` and then matches the filter's rest.
    fn skip(&self, prefix: &[u8], filter_at: usize) -> Scan {
        let rest = &self.filter[filter_at..];
        let mut bound = Vec::with_capacity(prefix.len() + rest.len());
        bound.extend_from_slice(prefix);
        append_lowest(rest, &mut bound);
        Scan::SkipTo(TopicKey(bound))
    }
}

impl fmt::Debug for FilterScan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("FilterScan").field(&TopicKey::decode(&self.filter)).finish()
    }
}

/// Past everything below the level that ends at `plus_end`: its next value is not known, but is not
/// below this.
fn advance(key: &[u8], plus_end: Option<usize>) -> Scan {
    match plus_end {
        Some(end) => Scan::SkipTo(TopicKey([&key[..end], &[AFTER]].concat())),
        None => Scan::Done,
    }
}

/// Appends the literal levels of `filter` up to its first wildcard, with the separator before a `+`,
/// without the one before a `#`, which also matches the parent.
fn append_lowest(filter: &[u8], bound: &mut Vec<u8>) {
    let wildcard = filter.iter().position(|byte| matches!(byte, b'+' | b'#'));
    let literal = match wildcard {
        Some(at) if filter[at] == b'#' => &filter[..at.saturating_sub(1)],
        Some(at) => &filter[..at],
        None => filter,
    };
    bound.extend_from_slice(literal);
}

fn key_level(key: &[u8], at: usize) -> &[u8] {
    let rest = &key[at..];
    let end = rest.iter().position(|byte| *byte == SEPARATOR).unwrap_or(rest.len());
    &rest[..end]
}

fn append(text: &str, bytes: &mut Vec<u8>) {
    bytes.extend(text.bytes().map(|byte| if byte == b'/' { SEPARATOR } else { byte }));
}

#[cfg(test)]
#[path = "scan_test.rs"]
mod tests;
