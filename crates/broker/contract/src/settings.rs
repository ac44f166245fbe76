//! The settings of a tenant: names, defaults, ranges, and how a changed value is taken over.
//!
//! A setting is one row of the table below: its field, which is also its key in the configuration
//! file and in what a provider answers, its default, and its range. From the table follow the
//! struct, its defaults, the check and the lookup by key, so that they cannot disagree.
//!
//! Invariants: a `TenantSettings` that passed `validate` still passes it after any `apply`; an
//! `apply` that reports an error has changed nothing.
//!
//! Not here: where values come from, how long they are remembered, who enforces them.

use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer, Serialize};

/// The largest packet that the protocol can express, in bytes.
const PACKET_BYTES_MAX: u64 = 268_435_455;

/// How far a subscription reaches before its SUBACK is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteVisibility {
    /// The route works on the subscriber's node; other nodes follow within a moment.
    #[default]
    Node,
    /// The route works on every node that may match publishes.
    Cluster,
}

/// A value of a setting before its type is known: from a file, an environment variable or a
/// provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SettingValue {
    /// A switch.
    Flag(bool),
    /// A number.
    Number(u64),
    /// A word: a named choice, or `unlimited` for a limit that can be absent.
    Word(String),
}

impl SettingValue {
    /// Reads a value as written on a command line: `true`, `false`, digits, or a word.
    pub fn from_text(text: &str) -> Self {
        if let Ok(flag) = text.parse() {
            return Self::Flag(flag);
        }
        if let Ok(number) = text.parse() {
            return Self::Number(number);
        }
        Self::Word(text.to_owned())
    }
}

impl std::fmt::Display for SettingValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Word(word) => f.write_str(word),
        }
    }
}

/// A value that a setting does not take; the setting keeps the value that it had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tenant setting {key} = {value}: {why}")]
pub struct SettingError {
    /// The key as given.
    pub key: String,
    /// The value as given.
    pub value: String,
    /// What is wrong with it.
    pub why: String,
}

macro_rules! tenant_settings {
    ($(
        $(#[$meta:meta])*
        $field:ident: $kind:ty = $default:expr $(, in $range:expr)?;
    )*) => {
        /// The settings of one tenant. A fresh one holds the defaults.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct TenantSettings {
            $($(#[$meta])* pub $field: $kind,)*
        }

        impl Default for TenantSettings {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl TenantSettings {
            /// The keys of all settings, in the order of the documentation.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($field),)*];

            /// The value of a setting, by its key.
            pub fn value(&self, key: &str) -> Option<SettingValue> {
                match key {
                    $(stringify!($field) => Some(self.$field.to_value()),)*
                    _ => None,
                }
            }

            /// The range of a setting that is a number with bounds narrower than its type.
            pub fn range(key: &str) -> Option<RangeInclusive<u64>> {
                match key {
                    $($(stringify!($field) => Some($range),)?)*
                    _ => None,
                }
            }

            fn set(&mut self, key: &str, value: &SettingValue) -> Result<(), String> {
                match key {
                    $(stringify!($field) => self.$field = Setting::from_value(value)?,)*
                    _ => return Err("there is no such setting".to_owned()),
                }
                Ok(())
            }
        }
    };
}

tenant_settings! {
    /// MQTT 3.1 clients are served.
    mqtt3_enabled: bool = true;
    /// MQTT 3.1.1 clients are served.
    mqtt4_enabled: bool = true;
    /// MQTT 5.0 clients are served.
    mqtt5_enabled: bool = true;
    /// Wills are not sent for sessions that a graceful stop of the node ends.
    no_lwt_when_server_shutting_down: bool = true;
    /// Events are reported for every message.
    debug_mode_enabled: bool = false;
    /// Every session ends with its connection, whatever the client asked for.
    force_transient: bool = false;
    /// A permission check that fails counts as allowed. Off: it counts as denied.
    by_pass_perm_check_error: bool = false;
    /// Payloads that are marked as UTF-8 are checked.
    payload_format_validation_enabled: bool = true;
    /// Retained messages are available.
    retain_enabled: bool = true;
    /// Filters may hold wildcards.
    wildcard_subscription_enabled: bool = true;
    /// Subscriptions may carry an identifier.
    subscription_identifier_enabled: bool = true;
    /// Shared subscriptions are available.
    shared_subscription_enabled: bool = true;
    /// The user is part of a session's identity, so that two users never meet on a client id.
    user_in_identity: bool = false;
    /// The highest QoS of a publish.
    maximum_qos: u8 = 2, in 0..=2;
    /// Bytes of one level of a topic or filter.
    max_topic_level_length: u16 = 65_535, in 1..=65_535;
    /// Levels of a topic or filter.
    max_topic_levels: u16 = 128, in 1..=65_535;
    /// Bytes of a topic or filter.
    max_topic_length: u16 = 65_535, in 1..=65_535;
    /// Topic aliases that a client may define; 0: none.
    max_topic_alias: u16 = 32;
    /// Members of one shared subscription.
    max_shared_group_members: u32 = 10_000, in 1..=u64::from(u32::MAX);
    /// Subscriptions of one session.
    max_topic_filters_per_inbox: u32 = 10_000, in 1..=u64::from(u32::MAX);
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    max_topic_filters_per_sub: u16 = 1_000, in 1..=65_535;
    /// Publishes that a client may send in a second; 0: unlimited.
    msg_pub_per_sec: u32 = 0;
    /// Publishes of QoS 1 and 2 that a client may have open at once.
    receiving_maximum: u16 = 1_024, in 1..=65_535;
    /// Bytes a second that are read from a connection; 0: unlimited.
    in_bound_band_width: u64 = 0;
    /// Bytes a second that are written to a connection; 0: unlimited.
    out_bound_band_width: u64 = 0;
    /// Payload bytes of a will.
    max_last_will_bytes: u32 = 1_048_576, in 1..=PACKET_BYTES_MAX;
    /// Bytes of a packet that a client may send.
    max_user_payload_bytes: u32 = 1_048_576, in 1..=PACKET_BYTES_MAX;
    /// Floor of the adaptive send window, in messages a second.
    min_send_per_sec: u16 = 8, in 1..=65_535;
    /// The send window follows the client's speed. Off: it is the client's Receive Maximum.
    adaptive_send_window: bool = false;
    /// How often a message that the client does not acknowledge is sent again.
    max_resend_times: u16 = 3;
    /// Seconds before a message is sent again on the same connection; 0: never.
    resend_timeout_seconds: u32 = 0;
    /// Shared subscriptions that one message reaches; absent: unlimited.
    #[serde(deserialize_with = "limit", skip_serializing_if = "Option::is_none")]
    max_group_fanout: Option<u32> = None, in 1..=u64::from(u32::MAX);
    /// Persistent sessions that one message reaches; absent: unlimited.
    #[serde(deserialize_with = "limit", skip_serializing_if = "Option::is_none")]
    max_persistent_fanout: Option<u32> = None, in 1..=u64::from(u32::MAX);
    /// Bytes that one message writes to persistent sessions; absent: unlimited.
    #[serde(deserialize_with = "limit", skip_serializing_if = "Option::is_none")]
    max_persistent_fanout_bytes: Option<u64> = None, in 1..=u64::MAX;
    /// Ceiling of the session expiry interval.
    max_session_expiry_seconds: u32 = 604_800, in 1..=u64::from(u32::MAX);
    /// Floor of the session expiry interval of persistent sessions; at most the ceiling.
    min_session_expiry_seconds: u32 = 0;
    /// Floor of the keep-alive interval; 0: as the client wishes.
    min_keep_alive_seconds: u16 = 0;
    /// Messages that a session keeps for its client.
    session_inbox_size: u32 = 10_000, in 1..=10_000_000;
    /// A full session drops its oldest QoS 0 message. Off: the newest.
    qos0_drop_oldest: bool = false;
    /// QoS 0 messages are kept for persistent sessions whose client is away.
    queue_qos0_when_offline: bool = false;
    /// Retained messages that one new subscription gets; 0: none; absent: unlimited.
    #[serde(deserialize_with = "limit", skip_serializing_if = "Option::is_none")]
    retain_message_match_limit: Option<u32> = None;
    /// How far a subscription reaches before its SUBACK is sent.
    route_visibility: RouteVisibility = RouteVisibility::Node;
}

impl TenantSettings {
    /// Checks every range, and what two settings say together.
    pub fn validate(&self) -> Result<(), SettingError> {
        for key in Self::KEYS {
            let (Some(value), Some(range)) = (self.value(key), Self::range(key)) else { continue };
            within(&value, &range).map_err(|why| SettingError {
                key: (*key).to_owned(),
                value: value.to_string(),
                why,
            })?;
        }
        if self.min_session_expiry_seconds > self.max_session_expiry_seconds {
            return Err(SettingError {
                key: "min_session_expiry_seconds".to_owned(),
                value: self.min_session_expiry_seconds.to_string(),
                why: format!(
                    "above max_session_expiry_seconds = {}",
                    self.max_session_expiry_seconds
                ),
            });
        }
        Ok(())
    }

    /// Takes a new value for one setting. One that the setting does not take is ignored and
    /// reported; the current value stays.
    pub fn apply(&mut self, key: &str, value: &SettingValue) -> Result<(), SettingError> {
        let refuse = |why| SettingError { key: key.to_owned(), value: value.to_string(), why };
        if let Some(range) = Self::range(key) {
            within(value, &range).map_err(refuse)?;
        }
        let mut changed = self.clone();
        changed.set(key, value).map_err(refuse)?;
        changed.validate().map_err(|error| refuse(error.to_string()))?;
        *self = changed;
        Ok(())
    }

    /// These settings with other values for some: how a tenant's own settings follow from the
    /// process's defaults. Returns what was ignored, too.
    ///
    /// Two settings that bound each other may come in either order: what is refused at first is
    /// tried once more after all others.
    pub fn overridden<'a>(
        &self,
        overrides: impl IntoIterator<Item = (&'a str, &'a SettingValue)>,
    ) -> (Self, Vec<SettingError>) {
        let mut settings = self.clone();
        let refused: Vec<_> = overrides
            .into_iter()
            .filter(|(key, value)| settings.apply(key, value).is_err())
            .collect();
        let errors = refused
            .into_iter()
            .filter_map(|(key, value)| settings.apply(key, value).err())
            .collect();
        (settings, errors)
    }
}

/// What a field of the settings can be.
trait Setting: Sized {
    fn from_value(value: &SettingValue) -> Result<Self, String>;
    fn to_value(&self) -> SettingValue;
}

impl Setting for bool {
    fn from_value(value: &SettingValue) -> Result<Self, String> {
        match value {
            SettingValue::Flag(flag) => Ok(*flag),
            _ => Err("not true or false".to_owned()),
        }
    }

    fn to_value(&self) -> SettingValue {
        SettingValue::Flag(*self)
    }
}

macro_rules! number_setting {
    ($($number:ty),*) => {$(
        impl Setting for $number {
            fn from_value(value: &SettingValue) -> Result<Self, String> {
                let SettingValue::Number(number) = value else {
                    return Err("not a whole number".to_owned());
                };
                Self::try_from(*number).map_err(|_| format!("not in 0 to {}", Self::MAX))
            }

            fn to_value(&self) -> SettingValue {
                SettingValue::Number(u64::from(*self))
            }
        }
    )*};
}

number_setting!(u8, u16, u32, u64);

impl<T: Setting> Setting for Option<T> {
    fn from_value(value: &SettingValue) -> Result<Self, String> {
        match value {
            SettingValue::Word(word) if word == UNLIMITED => Ok(None),
            _ => T::from_value(value).map(Some),
        }
    }

    fn to_value(&self) -> SettingValue {
        match self {
            Some(limit) => limit.to_value(),
            None => SettingValue::Word(UNLIMITED.to_owned()),
        }
    }
}

impl Setting for RouteVisibility {
    fn from_value(value: &SettingValue) -> Result<Self, String> {
        match value {
            SettingValue::Word(word) if word == "node" => Ok(Self::Node),
            SettingValue::Word(word) if word == "cluster" => Ok(Self::Cluster),
            _ => Err("not node or cluster".to_owned()),
        }
    }

    fn to_value(&self) -> SettingValue {
        SettingValue::Word(
            match self {
                Self::Node => "node",
                Self::Cluster => "cluster",
            }
            .to_owned(),
        )
    }
}

/// The word for a limit that is absent, so that a tenant can lift a limit of the process.
const UNLIMITED: &str = "unlimited";

fn limit<'de, D: Deserializer<'de>, T: Setting>(source: D) -> Result<Option<T>, D::Error> {
    let value = SettingValue::deserialize(source)?;
    Option::<T>::from_value(&value).map_err(serde::de::Error::custom)
}

fn within(value: &SettingValue, range: &RangeInclusive<u64>) -> Result<(), String> {
    match value {
        SettingValue::Number(number) if !range.contains(number) => {
            Err(format!("not in {} to {}", range.start(), range.end()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: u64) -> SettingValue {
        SettingValue::Number(value)
    }

    /// TEN-001, TEN-002, TEN-003: the switches' defaults.
    #[test]
    fn switches_have_the_documented_defaults() {
        let settings = TenantSettings::default();
        assert!(settings.mqtt3_enabled && settings.mqtt4_enabled && settings.mqtt5_enabled);
        assert!(settings.no_lwt_when_server_shutting_down);
        assert!(!settings.debug_mode_enabled);
    }

    /// TEN-004, TEN-005, TEN-006: a check that fails denies, unless the tenant opts out.
    #[test]
    fn strict_behaviour_is_the_default() {
        let settings = TenantSettings::default();
        assert!(!settings.force_transient);
        assert!(!settings.by_pass_perm_check_error);
        assert!(settings.payload_format_validation_enabled && settings.retain_enabled);
    }

    /// TEN-007, TEN-008, TEN-009: features and topic limits.
    #[test]
    fn every_feature_of_the_protocol_is_on() {
        let settings = TenantSettings::default();
        assert!(settings.wildcard_subscription_enabled);
        assert!(settings.subscription_identifier_enabled);
        assert!(settings.shared_subscription_enabled);
        assert_eq!(settings.maximum_qos, 2);
        assert_eq!(settings.max_topic_level_length, 65_535);
        assert_eq!(settings.max_topic_levels, 128);
        assert_eq!(settings.max_topic_length, 65_535);
    }

    /// TEN-010, TEN-011, TEN-012: counts.
    #[test]
    fn counts_have_the_documented_defaults() {
        let settings = TenantSettings::default();
        assert_eq!(settings.max_topic_alias, 32);
        assert_eq!(settings.max_shared_group_members, 10_000);
        assert_eq!(settings.max_topic_filters_per_inbox, 10_000);
        assert_eq!(settings.max_topic_filters_per_sub, 1_000);
    }

    /// TEN-013, TEN-014, TEN-015: rates and sizes.
    #[test]
    fn no_rate_is_limited_unless_set() {
        let settings = TenantSettings::default();
        assert_eq!(settings.msg_pub_per_sec, 0);
        assert_eq!(settings.receiving_maximum, 1_024);
        assert_eq!(settings.in_bound_band_width, 0);
        assert_eq!(settings.out_bound_band_width, 0);
        assert_eq!(settings.max_last_will_bytes, settings.max_user_payload_bytes);
        assert_eq!(settings.max_user_payload_bytes, 1_048_576);
    }

    /// TEN-016, TEN-017: sending again is untimed, fan-out is unlimited.
    #[test]
    fn fanout_and_resend_have_the_documented_defaults() {
        let settings = TenantSettings::default();
        assert_eq!(settings.min_send_per_sec, 8);
        assert_eq!(settings.max_resend_times, 3);
        assert_eq!(settings.resend_timeout_seconds, 0);
        assert_eq!(settings.max_group_fanout, None);
        assert_eq!(settings.max_persistent_fanout, None);
        assert_eq!(settings.max_persistent_fanout_bytes, None);
        assert!(!settings.adaptive_send_window);
    }

    /// TEN-018, TEN-019: expiry and keep-alive.
    #[test]
    fn intervals_have_the_documented_defaults() {
        let settings = TenantSettings::default();
        assert_eq!(settings.min_session_expiry_seconds, 0);
        assert_eq!(settings.max_session_expiry_seconds, 604_800);
        assert_eq!(settings.min_keep_alive_seconds, 0);
    }

    /// TEN-020, TEN-021: what a session keeps, what a subscription gets.
    #[test]
    fn queues_have_the_documented_defaults() {
        let settings = TenantSettings::default();
        assert_eq!(settings.session_inbox_size, 10_000);
        assert!(!settings.qos0_drop_oldest && !settings.queue_qos0_when_offline);
        assert_eq!(settings.retain_message_match_limit, None);
        assert_eq!(settings.route_visibility, RouteVisibility::Node);
        assert!(!settings.user_in_identity);
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(TenantSettings::default().validate(), Ok(()));
    }

    /// TEN-022: every default can be changed for the process, by its key.
    #[test]
    fn every_key_can_be_set_in_a_file_and_by_name() {
        for key in TenantSettings::KEYS {
            let default = TenantSettings::default();
            let changed = match default.value(key).unwrap() {
                SettingValue::Flag(flag) => SettingValue::Flag(!flag),
                SettingValue::Number(2) => number(1),
                SettingValue::Number(n) if n < 65_535 => number(n + 1),
                SettingValue::Number(n) => number(n - 1),
                SettingValue::Word(word) if word == "unlimited" => number(7),
                SettingValue::Word(_) => SettingValue::Word("cluster".to_owned()),
            };
            let text = match &changed {
                SettingValue::Word(word) => format!("{key} = \"{word}\""),
                other => format!("{key} = {other}"),
            };
            let from_file: TenantSettings = toml::from_str(&text).unwrap();
            assert_eq!(from_file.value(key), Some(changed.clone()), "{key} from a file");
            let mut applied = default.clone();
            applied.apply(key, &changed).unwrap();
            assert_eq!(applied, from_file, "{key} by name");
            assert_ne!(applied, default, "{key} changes something");
        }
    }

    #[test]
    fn a_file_without_a_key_keeps_its_default() {
        let settings: TenantSettings = toml::from_str("max_topic_alias = 5").unwrap();
        let expected = TenantSettings { max_topic_alias: 5, ..TenantSettings::default() };
        assert_eq!(settings, expected);
    }

    #[test]
    fn an_unknown_key_in_a_file_is_refused() {
        let error = toml::from_str::<TenantSettings>("max_topic_aliases = 5").unwrap_err();
        assert!(error.to_string().contains("max_topic_aliases"), "{error}");
    }

    /// TEN-023: a value outside its range is ignored and reported, the current value stays.
    #[test]
    fn apply_ignores_what_is_out_of_range() {
        let refused = [
            ("maximum_qos", number(3)),
            ("maximum_qos", number(258)),
            ("max_topic_levels", number(0)),
            ("max_topic_levels", number(65_536)),
            ("receiving_maximum", number(0)),
            ("max_last_will_bytes", number(268_435_456)),
            ("session_inbox_size", number(0)),
            ("max_group_fanout", number(0)),
            ("max_session_expiry_seconds", number(0)),
            ("min_session_expiry_seconds", number(604_801)),
            ("retain_enabled", number(1)),
            ("max_topic_alias", SettingValue::Flag(true)),
            ("max_topic_alias", SettingValue::Word("many".to_owned())),
            ("route_visibility", SettingValue::Word("galaxy".to_owned())),
            ("no_such_setting", number(1)),
        ];
        for (key, value) in refused {
            let mut settings = TenantSettings::default();
            let error = settings.apply(key, &value).unwrap_err();
            assert_eq!((error.key.as_str(), error.value), (key, value.to_string()));
            assert_eq!(settings, TenantSettings::default(), "{key} = {value}");
        }
    }

    #[test]
    fn limits_can_be_lifted_by_a_word() {
        let process: TenantSettings = toml::from_str("max_persistent_fanout = 10").unwrap();
        assert_eq!(process.max_persistent_fanout, Some(10));
        let lifted = SettingValue::from_text("unlimited");
        let (tenant, errors) = process.overridden([("max_persistent_fanout", &lifted)]);
        assert_eq!((tenant.max_persistent_fanout, errors), (None, vec![]));
        let again: TenantSettings =
            toml::from_str("max_persistent_fanout = \"unlimited\"").unwrap();
        assert_eq!(again.max_persistent_fanout, None);
    }

    #[test]
    fn overrides_that_bound_each_other_come_in_any_order() {
        let low = number(700_000);
        let high = number(800_000);
        let overrides =
            [("min_session_expiry_seconds", &low), ("max_session_expiry_seconds", &high)];
        let (settings, errors) = TenantSettings::default().overridden(overrides);
        assert_eq!(errors, vec![]);
        assert_eq!(settings.min_session_expiry_seconds, 700_000);
        assert_eq!(settings.validate(), Ok(()));
    }

    #[test]
    fn validate_names_key_value_and_reason() {
        let settings = TenantSettings { maximum_qos: 3, ..TenantSettings::default() };
        let error = settings.validate().unwrap_err();
        assert_eq!(error.to_string(), "tenant setting maximum_qos = 3: not in 0 to 2");
    }

    #[test]
    fn settings_survive_being_written_to_a_file() {
        let settings = TenantSettings { max_group_fanout: Some(9), ..TenantSettings::default() };
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<TenantSettings>(&text).unwrap(), settings);
    }
}
