//! What a key takes: parsing with an explanation of what is allowed, and printing as in the file.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use ratatosk_admin::Token;
use ratatosk_contract::settings::{SettingValue, TenantSettings};
use ratatosk_mqtt::transport::IpNetwork;
use ratatosk_telemetry::ByteCount;
use ratatosk_telemetry::log::Filter;

use crate::configuration::tree::{Raw, untyped_list};

/// What a key takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Flag,
    Count {
        min: u64,
        max: u64,
    },
    Bytes {
        min: u64,
    },
    Secret,
    /// Any text that is not empty.
    Text,
    /// Texts that are not empty, one at least.
    Texts,
    WebPath,
    /// A path that need not exist yet, or is opened by somebody who reports better.
    Path,
    /// A file that must be readable.
    File,
    Address,
    Choice(&'static [&'static str]),
    Choices(&'static [&'static str]),
    Networks,
    Filter,
    /// A tenant setting, by its name.
    Setting(&'static str),
}

/// A value that its key takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Flag(bool),
    Count(u64),
    /// `None`: chosen by the machine.
    Bytes(Option<ByteCount>),
    Secret(Token),
    Text(String),
    Texts(Vec<String>),
    Path(PathBuf),
    Address(SocketAddr),
    Choice(&'static str),
    Choices(Vec<&'static str>),
    Networks(Vec<IpNetwork>),
    Filter(Filter),
    Setting(SettingValue),
}

const AUTO: &str = "auto";

impl Kind {
    /// Reads a value, or says what is allowed.
    pub(crate) fn parse(&self, raw: &Raw) -> Result<Value, String> {
        let refused = || format!("{} is not {}", Shown(raw), self.allowed());
        match self {
            Self::Flag => flag(raw).map(Value::Flag).ok_or_else(refused),
            Self::Count { min, max } => number(raw)
                .filter(|number| (min..=max).contains(&number))
                .map(Value::Count)
                .ok_or_else(refused),
            Self::Bytes { min } => bytes(raw)
                .filter(|count| count.is_none_or(|count| count.bytes() >= *min))
                .map(Value::Bytes)
                .ok_or_else(refused),
            // What is wrong with a secret is said without the secret.
            Self::Secret => {
                let token = text(raw).ok_or_else(|| format!("is not {}", self.allowed()))?;
                Token::parse(&token).map(Value::Secret).map_err(|error| error.to_string())
            }
            Self::WebPath => text(raw)
                .filter(|path| path.starts_with('/') && path.bytes().all(in_web_path))
                .map(Value::Text)
                .ok_or_else(refused),
            Self::Text => {
                text(raw).filter(|text| !text.is_empty()).map(Value::Text).ok_or_else(refused)
            }
            Self::Texts => texts(raw)?.map(Value::Texts).ok_or_else(refused),
            Self::Path => text(raw)
                .filter(|path| !path.is_empty())
                .map(|path| Value::Path(path.into()))
                .ok_or_else(refused),
            Self::File => readable(PathBuf::from(text(raw).ok_or_else(refused)?)),
            Self::Address => text(raw)
                .and_then(|address| address.parse().ok())
                .map(Value::Address)
                .ok_or_else(refused),
            Self::Choice(known) => text(raw)
                .and_then(|word| known.iter().find(|known| **known == word))
                .map(|word| Value::Choice(word))
                .ok_or_else(refused),
            Self::Choices(known) => {
                let words = list(raw)?.ok_or_else(refused)?;
                let found: Option<Vec<_>> = words
                    .iter()
                    .map(|raw| {
                        text(raw).and_then(|word| known.iter().find(|known| **known == word))
                    })
                    .map(Option::<&&str>::copied)
                    .collect();
                found.filter(|found| !found.is_empty()).map(Value::Choices).ok_or_else(refused)
            }
            Self::Networks => {
                let words = list(raw)?.ok_or_else(refused)?;
                let parse = |raw| {
                    let network: String = text(raw).ok_or_else(refused)?;
                    network.parse::<IpNetwork>().map_err(|error| error.to_string())
                };
                let networks = words.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
                if networks.is_empty() { Err(refused()) } else { Ok(Value::Networks(networks)) }
            }
            Self::Filter => {
                let directives = text(raw).ok_or_else(refused)?;
                Filter::parse(&directives).map(Value::Filter).map_err(|error| error.to_string())
            }
            Self::Setting(name) => setting(name, raw).ok_or_else(refused),
        }
    }

    /// What is allowed, as the end of a sentence.
    pub(crate) fn allowed(&self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Count { min, max } => format!("a whole number from {min} to {max}"),
            Self::Bytes { min } => format!(
                "{AUTO} or a size of at least {} (a number of bytes, or text such as 512MiB)",
                ByteCount::new(*min)
            ),
            Self::Secret => "a text of 16 to 1024 printable characters".to_owned(),
            Self::WebPath => "a path that begins with / and has no space, ? or #".to_owned(),
            Self::Text => "a text".to_owned(),
            Self::Texts => "a list of texts".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::File => "a readable file".to_owned(),
            Self::Address => {
                "an IP address and a port, such as 127.0.0.1:1883 or [::]:1883".to_owned()
            }
            Self::Choice(known) => format!("one of {}", known.join(", ")),
            Self::Choices(known) => format!("a list of {}", known.join(", ")),
            Self::Networks => "a list of networks, such as 10.0.0.0/8".to_owned(),
            Self::Filter => "a log level".to_owned(),
            Self::Setting(name) => setting_allowed(name),
        }
    }
}

fn readable(path: PathBuf) -> Result<Value, String> {
    match std::fs::File::open(&path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_dir() => Err(format!("{} is a directory", path.display())),
        Ok(_) => Ok(Value::Path(path)),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

fn in_web_path(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'?' && byte != b'#'
}

fn flag(raw: &Raw) -> Option<bool> {
    match raw {
        Raw::Flag(flag) => Some(*flag),
        Raw::Untyped(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn number(raw: &Raw) -> Option<u64> {
    match raw {
        Raw::Number(number) => u64::try_from(*number).ok(),
        Raw::Untyped(text) => text.trim().replace('_', "").parse().ok(),
        _ => None,
    }
}

fn bytes(raw: &Raw) -> Option<Option<ByteCount>> {
    match raw {
        Raw::Number(number) => u64::try_from(*number).ok().map(|bytes| Some(ByteCount::new(bytes))),
        Raw::Text(text) | Raw::Untyped(text) if text.trim() == AUTO => Some(None),
        Raw::Text(text) | Raw::Untyped(text) => text.parse().ok().map(Some),
        _ => None,
    }
}

fn text(raw: &Raw) -> Option<String> {
    match raw {
        Raw::Text(text) => Some(text.clone()),
        // Quotes are what one is used to from the file.
        Raw::Untyped(text) => {
            let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
            Some(inner.unwrap_or(text).to_owned())
        }
        _ => None,
    }
}

/// Texts that are not empty, one at least.
fn texts(raw: &Raw) -> Result<Option<Vec<String>>, String> {
    let texts = list(raw)?.and_then(|words| words.iter().map(text).collect::<Option<Vec<_>>>());
    Ok(texts.filter(|texts| !texts.is_empty() && texts.iter().all(|text| !text.is_empty())))
}

/// A list; a single text stands for a list of one.
fn list(raw: &Raw) -> Result<Option<Vec<Raw>>, String> {
    match raw {
        Raw::List(list) => Ok(Some(list.clone())),
        Raw::Text(text) => Ok(Some(vec![Raw::Text(text.clone())])),
        Raw::Untyped(text) => untyped_list(text).map(Some),
        _ => Ok(None),
    }
}

fn setting(name: &str, raw: &Raw) -> Option<Value> {
    let value = match raw {
        Raw::Flag(flag) => SettingValue::Flag(*flag),
        Raw::Number(number) => SettingValue::Number(u64::try_from(*number).ok()?),
        Raw::Text(text) => SettingValue::Word(text.clone()),
        Raw::Untyped(text) => SettingValue::from_text(text.trim()),
        Raw::List(_) | Raw::Other(_) => return None,
    };
    // What two settings say together is checked when all are known.
    let mut probe = TenantSettings {
        max_session_expiry_seconds: u32::MAX,
        min_session_expiry_seconds: 0,
        ..TenantSettings::default()
    };
    probe.apply(name, &value).ok().map(|()| Value::Setting(value))
}

fn setting_allowed(name: &str) -> String {
    let default = TenantSettings::default().value(name);
    let (low, high) = TenantSettings::range(name).map_or((0, None), |range| {
        (*range.start(), Some(*range.end()).filter(|high| *high != u64::MAX))
    });
    let high = high.map_or_else(|| "the largest number".to_owned(), |high| high.to_string());
    match default {
        Some(SettingValue::Flag(_)) => Kind::Flag.allowed(),
        Some(SettingValue::Number(_)) => format!("a whole number from {low} to {high}"),
        Some(SettingValue::Word(word)) if word == "unlimited" => {
            format!("unlimited or a whole number from {low} to {high}")
        }
        _ => "one of node, cluster".to_owned(),
    }
}

/// A raw value as the operator wrote it.
struct Shown<'a>(&'a Raw);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Raw::Flag(flag) => flag.fmt(formatter),
            Raw::Number(number) => number.fmt(formatter),
            Raw::Text(text) | Raw::Untyped(text) => write!(formatter, "{text:?}"),
            Raw::Other(name) => formatter.write_str(name),
            Raw::List(list) => {
                formatter.write_char('[')?;
                for (index, raw) in list.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(formatter, "{comma}{}", Shown(raw))?;
                }
                formatter.write_char(']')
            }
        }
    }
}

impl fmt::Display for Value {
    /// As in the file; a secret is not shown.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => flag.fmt(formatter),
            Self::Count(count) => count.fmt(formatter),
            Self::Bytes(None) => quoted(formatter, AUTO),
            Self::Bytes(Some(count)) => quoted(formatter, count),
            Self::Secret(_) => quoted(formatter, "<secret>"),
            Self::Text(text) => quoted(formatter, text),
            Self::Texts(texts) => quoted_list(formatter, texts),
            Self::Path(path) => quoted(formatter, path.display()),
            Self::Address(address) => quoted(formatter, address),
            Self::Choice(word) => quoted(formatter, word),
            Self::Choices(words) => quoted_list(formatter, words),
            Self::Networks(networks) => quoted_list(formatter, networks),
            Self::Filter(filter) => quoted(formatter, filter.as_str()),
            Self::Setting(SettingValue::Word(word)) => quoted(formatter, word),
            Self::Setting(value) => value.fmt(formatter),
        }
    }
}

fn quoted(formatter: &mut fmt::Formatter<'_>, text: impl fmt::Display) -> fmt::Result {
    write!(formatter, "{}", toml::Value::String(text.to_string()))
}

fn quoted_list(formatter: &mut fmt::Formatter<'_>, items: &[impl fmt::Display]) -> fmt::Result {
    formatter.write_char('[')?;
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            formatter.write_str(", ")?;
        }
        quoted(formatter, item)?;
    }
    formatter.write_char(']')
}
