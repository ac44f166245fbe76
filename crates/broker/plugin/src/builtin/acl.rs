//! Access rules: their text, and what they say of an action. Pure.
//!
//! ```text
//! # for everybody, anonymous clients included
//! topic read public/#
//!
//! user alice
//! topic readwrite home/alice/#
//! topic deny home/alice/secret
//!
//! # for everybody, with the client's own names
//! pattern write devices/%c/state
//! pattern read users/%u/#
//! ```
//!
//! The rules that concern a client are those before the first `user`, those of its user, and all
//! patterns. Their order means nothing: if one of them denies, the answer is no; else if one of
//! them grants, it is yes; else it is no.
//!
//! A subscription is granted by a rule that grants everything that it could receive, and denied by
//! a rule that denies any of it, because single messages are not checked on their way out. A
//! shared subscription is judged by the filter after its prefix.

use std::collections::HashMap;
use std::fmt;

use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::file::LineError;
use crate::permission::{Action, Identity, Verdict};

/// All rules of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    everybody: Vec<Rule>,
    users: HashMap<String, Vec<Rule>>,
    patterns: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    access: Access,
    levels: Vec<Level>,
    line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    ReadWrite,
    Deny,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Literal(String),
    /// Text with the client's names in it: part by part.
    Template(Vec<Part>),
    Plus,
    Hash,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    ClientId,
    User,
}

impl Rules {
    /// Reads rules. The first line that is wrong ends it.
    pub(crate) fn parse(text: &str) -> Result<Self, LineError> {
        let mut rules = Self::default();
        let mut user: Option<String> = None;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let fail = |why: String| LineError { line: number, why };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = split_word(line);
            match word {
                "user" => user = Some(parse_user(rest).map_err(fail)?),
                "topic" => {
                    let rule = Rule::parse(rest, number, Kind::Topic).map_err(fail)?;
                    match &user {
                        Some(user) => rules.users.entry(user.clone()).or_default().push(rule),
                        None => rules.everybody.push(rule),
                    }
                }
                "pattern" => {
                    rules.patterns.push(Rule::parse(rest, number, Kind::Pattern).map_err(fail)?);
                }
                _ => {
                    return Err(fail(format!(
                        "{word:?} is none of \"user\", \"topic\", \"pattern\""
                    )));
                }
            }
        }
        Ok(rules)
    }

    /// What the rules say of an action.
    pub(crate) fn check(&self, who: &Identity, action: Action<'_>) -> Verdict {
        let (wanted, requested) = match action {
            // To come, and to give something up, needs no rule.
            Action::Connect | Action::Unsubscribe { .. } => return Verdict::Allowed,
            Action::Publish { topic, .. } => (Access::Write, topic),
            Action::Subscribe { filter, .. } => {
                match TopicFilter::parse(filter, &TopicLimits::PROTOCOL) {
                    // Every topic has a first level, so these are the same.
                    Ok(filter) if filter.filter() == "#" => (Access::Read, "+/#"),
                    Ok(filter) => (Access::Read, filter.filter()),
                    Err(_) => return Verdict::denied("filter is malformed"),
                }
            }
        };
        let requested: Vec<_> = match wanted {
            // The levels of a topic are plain text, whatever they look like.
            Access::Write => requested.split('/').map(Requested::Literal).collect(),
            _ => requested.split('/').map(Requested::of_filter).collect(),
        };
        self.judge(who, wanted, &requested)
    }

    fn judge(&self, who: &Identity, wanted: Access, requested: &[Requested<'_>]) -> Verdict {
        let mut is_granted = false;
        for rule in self.concerning(who) {
            if rule.access == Access::Deny {
                if rule.overlaps(who, requested) {
                    return Verdict::denied(format!("denied by line {}", rule.line));
                }
            } else if !is_granted && rule.grants(wanted) {
                is_granted = rule.covers(who, requested);
            }
        }
        if is_granted { Verdict::Allowed } else { Verdict::denied("no rule allows it") }
    }

    fn concerning(&self, who: &Identity) -> impl Iterator<Item = &Rule> {
        let own = if who.user.is_empty() { None } else { self.users.get(&*who.user) };
        self.everybody.iter().chain(own.into_iter().flatten()).chain(&self.patterns)
    }
}

fn split_word(line: &str) -> (&str, &str) {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    (word, rest.trim_start())
}

fn parse_user(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err("\"user\" without a name".to_owned());
    }
    if name.chars().any(char::is_control) {
        return Err(format!("user name {name:?} has a control character"));
    }
    Ok(name.to_owned())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Topic,
    Pattern,
}

impl Rule {
    fn parse(text: &str, line: usize, kind: Kind) -> Result<Self, String> {
        let (word, rest) = split_word(text);
        let access = match word {
            "read" => Some(Access::Read),
            "write" => Some(Access::Write),
            "readwrite" => Some(Access::ReadWrite),
            "deny" => Some(Access::Deny),
            _ => None,
        };
        // A filter may hold blanks, so all that follows the access is the filter.
        let filter = if access.is_some() { rest } else { text };
        if filter.is_empty() {
            return Err("a filter is missing".to_owned());
        }
        if filter.starts_with("$share/") || filter.starts_with("$oshare/") {
            return Err(format!(
                "filter {filter:?}: shared subscriptions are judged by the filter after their prefix"
            ));
        }
        TopicFilter::parse(filter, &TopicLimits::PROTOCOL)
            .map_err(|error| format!("filter {filter:?}: {error}"))?;
        let levels: Vec<_> = filter.split('/').map(|level| Level::parse(level, kind)).collect();
        let names_client = levels.iter().any(|level| matches!(level, Level::Template(_)));
        if kind == Kind::Topic && has_placeholder(filter) {
            return Err(format!("filter {filter:?}: %c and %u belong into \"pattern\" lines"));
        }
        if kind == Kind::Pattern && !names_client {
            return Err(format!(
                "pattern {filter:?} has neither %c nor %u: a \"topic\" before the first \"user\" is for everybody"
            ));
        }
        Ok(Self { access: access.unwrap_or(Access::ReadWrite), levels, line })
    }

    fn grants(&self, wanted: Access) -> bool {
        self.access == Access::ReadWrite || self.access == wanted
    }

    /// Whether every topic that the request can mean is one of this rule's.
    fn covers(&self, who: &Identity, requested: &[Requested<'_>]) -> bool {
        // [MQTT-4.7.2-1] A leading wildcard does not reach topics that begin with `$`.
        if requested[0].is_reserved() && self.levels[0].is_wildcard() {
            return false;
        }
        let mut requested = requested.iter();
        for level in &self.levels {
            if *level == Level::Hash {
                return true;
            }
            let covered = match requested.next() {
                None | Some(Requested::Hash) => false,
                Some(Requested::Plus) => *level == Level::Plus,
                Some(Requested::Literal(text)) => level.is(who, text),
            };
            if !covered {
                return false;
            }
        }
        requested.next().is_none()
    }

    /// Whether some topic that the request can mean is one of this rule's.
    fn overlaps(&self, who: &Identity, requested: &[Requested<'_>]) -> bool {
        let reserved_against_wildcard = (requested[0].is_reserved()
            && self.levels[0].is_wildcard())
            || (self.levels[0].is_reserved(who) && requested[0].is_wildcard());
        if reserved_against_wildcard || !self.levels.iter().all(|level| level.can_be_met(who)) {
            return false;
        }
        let mut requested = requested.iter();
        for level in &self.levels {
            let next = requested.next();
            if *level == Level::Hash || next == Some(&Requested::Hash) {
                return true;
            }
            let meets = match next {
                None => false,
                Some(Requested::Literal(text)) => level.is(who, text),
                Some(_) => true,
            };
            if !meets {
                return false;
            }
        }
        matches!(requested.as_slice(), [] | [Requested::Hash])
    }
}

fn has_placeholder(text: &str) -> bool {
    text.contains("%c") || text.contains("%u")
}

impl Level {
    fn parse(text: &str, kind: Kind) -> Self {
        match text {
            "+" => Self::Plus,
            "#" => Self::Hash,
            _ if kind == Kind::Pattern && has_placeholder(text) => Self::Template(parts(text)),
            _ => Self::Literal(text.to_owned()),
        }
    }

    fn is_wildcard(&self) -> bool {
        matches!(self, Self::Plus | Self::Hash)
    }

    /// Whether the level begins with `$` for this client.
    fn is_reserved(&self, who: &Identity) -> bool {
        match self {
            Self::Literal(text) => text.starts_with('$'),
            Self::Template(parts) => resolved(parts, who).is_some_and(|text| text.starts_with('$')),
            Self::Plus | Self::Hash => false,
        }
    }

    /// Whether the level of a topic is this one. A name of the client is compared as text: a
    /// client called `+` gets no wildcard, one called `a/b` no second level.
    fn is(&self, who: &Identity, text: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == text,
            Self::Template(parts) => resolved(parts, who).is_some_and(|own| own == text),
            Self::Plus | Self::Hash => true,
        }
    }

    /// Whether any topic can have this level: not if it needs a name that the client lacks, or
    /// one that no single level can hold.
    fn can_be_met(&self, who: &Identity) -> bool {
        match self {
            Self::Template(parts) => {
                resolved(parts, who).is_some_and(|own| !own.contains(['/', '+', '#']))
            }
            _ => true,
        }
    }
}

fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let part = match rest.get(..2) {
            Some("%c") => Some(Part::ClientId),
            Some("%u") => Some(Part::User),
            _ => None,
        };
        if let Some(part) = part {
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(part);
            rest = &rest[2..];
            continue;
        }
        plain.push(next);
        rest = &rest[next.len_utf8()..];
    }
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    parts
}

/// The level with the client's names, or `None` when it lacks one of them.
fn resolved(parts: &[Part], who: &Identity) -> Option<String> {
    let mut level = String::new();
    for part in parts {
        let text = match part {
            Part::Text(text) => text.as_str(),
            Part::ClientId => &who.client_id,
            Part::User => &who.user,
        };
        if text.is_empty() {
            return None;
        }
        level.push_str(text);
    }
    Some(level)
}

/// A level of what a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Requested<'a> {
    Literal(&'a str),
    Plus,
    Hash,
}

impl<'a> Requested<'a> {
    fn of_filter(level: &'a str) -> Self {
        match level {
            "+" => Self::Plus,
            "#" => Self::Hash,
            text => Self::Literal(text),
        }
    }

    fn is_reserved(self) -> bool {
        matches!(self, Self::Literal(text) if text.starts_with('$'))
    }

    fn is_wildcard(self) -> bool {
        matches!(self, Self::Plus | Self::Hash)
    }
}

impl fmt::Display for Rules {
    /// A summary for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own: usize = self.users.values().map(Vec::len).sum();
        let (everybody, patterns, users) =
            (self.everybody.len(), self.patterns.len(), self.users.len());
        write!(f, "{everybody} rules for everybody, {own} of {users} users, {patterns} patterns")
    }
}

#[cfg(test)]
#[path = "acl_test.rs"]
mod tests;
