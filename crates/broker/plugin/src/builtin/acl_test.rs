//! What an ACL permits, as tables and against a naive model.

use proptest::prelude::*;
use ratatosk_codec::Qos;

use super::*;
use crate::testing::identity;

fn rules(text: &str) -> Rules {
    Rules::parse(text).unwrap()
}

fn publish(topic: &str) -> Action<'_> {
    Action::Publish { topic, qos: Qos::AtLeastOnce, retain: false, is_will: false }
}

fn subscribe(filter: &str) -> Action<'_> {
    Action::Subscribe { filter, qos: Qos::AtLeastOnce }
}

const TABLE: &str = "
# everybody
topic read public/#
topic $SYS/broker/uptime
topic deny public/secret/+

user alice
topic readwrite home/alice/#
topic deny home/alice/vault/#
topic write inbox/+/alice
topic with blanks/in it

user bob smith
topic read home/#

user alice
topic read news

pattern write devices/%c/state
pattern read users/%u/#
pattern readwrite mix/%u-%c/x
pattern deny devices/%c/locked
";

/// PLG-005: who may publish what.
#[test]
fn publishing_needs_a_rule_that_writes() {
    let rules = rules(TABLE);
    let cases = [
        ("alice", "phone", "home/alice", true),
        ("alice", "phone", "home/alice/a/b", true),
        ("alice", "phone", "home/alice/vault", false),
        ("alice", "phone", "home/alice/vault/x", false),
        ("alice", "phone", "home/bob/x", false),
        ("alice", "phone", "inbox/bob/alice", true),
        ("alice", "phone", "inbox/bob/x/alice", false),
        ("alice", "phone", "with blanks/in it", true),
        ("alice", "phone", "public/x", false),
        ("alice", "phone", "news", false),
        ("alice", "phone", "$SYS/broker/uptime", true),
        ("alice", "phone", "devices/phone/state", true),
        ("alice", "phone", "devices/tablet/state", false),
        ("alice", "phone", "devices/phone/locked", false),
        ("alice", "phone", "mix/alice-phone/x", true),
        ("alice", "phone", "users/alice/x", false),
        ("bob smith", "phone", "home/bob", false),
        ("", "phone", "devices/phone/state", true),
        ("", "phone", "mix/-phone/x", false),
        ("carol", "phone", "home/alice/a", false),
    ];
    for (user, client, topic, expected) in cases {
        let verdict = rules.check(&identity(user, client), publish(topic));
        assert_eq!(verdict == Verdict::Allowed, expected, "{user} {client} {topic}: {verdict:?}");
    }
}

/// PLG-005: who may subscribe to what.
#[test]
fn subscribing_needs_a_rule_that_reads_all_of_it() {
    let rules = rules(TABLE);
    let cases = [
        ("", "public/x", true),
        ("", "public/x/#", true),
        ("", "public/#", false),
        ("", "public/+/+", false),
        ("", "public/secret", true),
        ("", "public/secret/x", false),
        ("", "#", false),
        ("", "+", false),
        ("", "$SYS/#", false),
        ("", "$SYS/broker/uptime", true),
        ("", "users/#", false),
        ("alice", "home/alice/+", false),
        ("alice", "home/alice/kitchen/#", true),
        ("alice", "home/alice/vault", false),
        ("alice", "home/alice/#", false),
        ("alice", "users/alice/#", true),
        ("alice", "users/alice", true),
        ("alice", "users/+/x", false),
        ("alice", "news", true),
        ("bob smith", "home/#", true),
        ("bob smith", "home/+/x", true),
        ("bob smith", "hom", false),
        ("alice", "devices/phone/state", false),
        ("alice", "a/#/b", false),
        ("alice", "", false),
    ];
    for (user, filter, expected) in cases {
        let verdict = rules.check(&identity(user, "phone"), subscribe(filter));
        assert_eq!(verdict == Verdict::Allowed, expected, "{user} {filter}: {verdict:?}");
    }
}

#[test]
fn everything_is_granted_by_either_of_its_spellings() {
    for rule in ["#", "+/#"] {
        let rules = rules(&format!("topic read {rule}\n"));
        for filter in ["#", "+/#", "+/+", "$share/g/#"] {
            let verdict = rules.check(&identity("u", "c"), subscribe(filter));
            assert_eq!(verdict, Verdict::Allowed, "{rule} {filter}");
        }
        assert_ne!(rules.check(&identity("u", "c"), subscribe("$SYS/#")), Verdict::Allowed);
    }
}

/// SEC-005: a shared subscription is judged by its inner filter.
#[test]
fn the_prefix_of_a_shared_subscription_opens_nothing() {
    let rules = rules("topic read a/#\ntopic deny a/x\n");
    let allowed = |filter| rules.check(&identity("u", "c"), subscribe(filter)) == Verdict::Allowed;
    assert!(allowed("$share/group/a/b"));
    assert!(allowed("$oshare/group/a/b"));
    for filter in ["$share/group/b", "$share/a/b", "$share/group/a/#", "$share/group/#"] {
        assert!(!allowed(filter), "{filter}");
    }
    for malformed in ["$share/a", "$share//a/b", "$share/g+/a/b", "$share/group/"] {
        assert!(!allowed(malformed), "{malformed}");
    }
}

/// PLG-005: to connect and to unsubscribe needs no rule.
#[test]
fn connecting_and_unsubscribing_need_no_rule() {
    let rules = rules("");
    let who = identity("u", "c");
    assert_eq!(rules.check(&who, Action::Connect), Verdict::Allowed);
    assert_eq!(rules.check(&who, Action::Unsubscribe { filter: "a/#" }), Verdict::Allowed);
    assert_eq!(rules.check(&who, publish("a")), Verdict::denied("no rule allows it"));
}

/// SEC-005: wildcards and slashes in a client's own names stay text.
#[test]
fn names_of_clients_are_never_wildcards_or_levels() {
    let rules = rules("pattern readwrite d/%c/x\npattern read u/%u/#\n");
    for name in ["+", "#", "a/b", "a+", "#/x"] {
        let who = identity(name, name);
        for action in [subscribe("d/+/x"), subscribe("d/a/x"), subscribe("u/#"), subscribe("u/+/#")]
        {
            assert_ne!(rules.check(&who, action), Verdict::Allowed, "{name} {action:?}");
        }
        for topic in ["d/a/x", "d/b/x", "d/a/b/x"] {
            assert_ne!(rules.check(&who, publish(topic)), Verdict::Allowed, "{name} {topic}");
        }
    }
}

#[test]
fn a_denial_names_its_line() {
    let rules = rules("topic a/#\n\ntopic deny a/b\n");
    let verdict = rules.check(&identity("u", "c"), publish("a/b"));
    assert_eq!(verdict, Verdict::denied("denied by line 3"));
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let cases = [
        ("topic", 1, "a filter is missing"),
        ("# x\n\ntopic read", 3, "a filter is missing"),
        ("topic a/#/b", 1, "a/#/b"),
        ("topic read a+", 1, "a+"),
        ("user", 1, "\"user\" without a name"),
        ("topic a\nacl b", 2, "\"acl\" is none of"),
        ("topic read d/%c", 1, "belong into \"pattern\""),
        ("pattern read d", 1, "neither %c nor %u"),
        ("topic $share/g/a", 1, "shared subscriptions"),
        ("user a\u{1}b", 1, "control character"),
    ];
    for (text, line, why) in cases {
        let error = Rules::parse(text).unwrap_err();
        assert_eq!(error.line, line, "{text:?}");
        assert!(error.why.contains(why), "{text:?}: {}", error.why);
    }
}

#[test]
fn files_of_other_systems_are_read() {
    let rules =
        rules("\u{20}\ttopic  read\t a/b \r\n  # indented\r\n\r\nuser  x y \r\ntopic c\r\n");
    assert_eq!(rules.check(&identity("", "c"), subscribe("a/b")), Verdict::Allowed);
    assert_eq!(rules.check(&identity("x y", "c"), publish("c")), Verdict::Allowed);
}

/// All topics over a small alphabet that are long enough to tell filters of up to three levels
/// apart.
fn topics() -> Vec<String> {
    let words = ["a", "b", "z", "$s"];
    let mut topics: Vec<String> = words.iter().map(ToString::to_string).collect();
    let mut longest = topics.clone();
    for _ in 0..3 {
        longest = longest
            .iter()
            .flat_map(|start| words.iter().map(move |word| format!("{start}/{word}")))
            .collect();
        topics.extend(longest.iter().cloned());
    }
    topics
}

fn filters() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "$s", "+"]);
    (prop::collection::vec(level, 0..=3), any::<bool>()).prop_filter_map(
        "a filter is not empty",
        |(mut levels, ends_open)| {
            if ends_open {
                levels.push("#");
            }
            (!levels.is_empty()).then(|| levels.join("/"))
        },
    )
}

fn section() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let access = prop::sample::select(vec!["read", "write", "readwrite", "deny"]);
    prop::collection::vec((access, filters()), 0..4)
}

fn text_of(everybody: &[(&str, String)], own: &[(&str, String)]) -> String {
    let lines = |section: &[(&str, String)]| -> String {
        section.iter().map(|(access, filter)| format!("topic {access} {filter}\n")).collect()
    };
    format!("{}user u\n{}user other\ntopic #\n", lines(everybody), lines(own))
}

proptest! {
    /// A model that knows topics one by one: a topic may be written when a rule grants it and none
    /// denies it, wherever they stand.
    #[test]
    fn publishing_follows_deny_then_grant_in_any_order(everybody in section(), own in section()) {
        let parsed = rules(&text_of(&everybody, &own));
        let who = identity("u", "c");
        for topic in topics() {
            let says = |wanted: &[&str]| everybody.iter().chain(&own).any(|(access, filter)| {
                wanted.contains(access) && ratatosk_topic::matches(filter, &topic)
            });
            let expected = says(&["write", "readwrite"]) && !says(&["deny"]);
            prop_assert_eq!(
                parsed.check(&who, publish(&topic)) == Verdict::Allowed, expected, "{}", topic
            );
        }
    }

    /// A subscription is allowed only if each topic that it can receive may be read, and always if
    /// one rule grants them all and none denies any.
    #[test]
    fn subscribing_never_opens_a_topic_that_is_closed(
        everybody in section(), own in section(), filter in filters(),
    ) {
        let parsed = rules(&text_of(&everybody, &own));
        let allowed = parsed.check(&identity("u", "c"), subscribe(&filter)) == Verdict::Allowed;
        let received: Vec<_> =
            topics().into_iter().filter(|topic| ratatosk_topic::matches(&filter, topic)).collect();
        let all = || everybody.iter().chain(&own);
        let denied = all().any(|(access, rule)| {
            *access == "deny" && received.iter().any(|topic| ratatosk_topic::matches(rule, topic))
        });
        let granted = all().any(|(access, rule)| {
            ["read", "readwrite"].contains(access)
                && received.iter().all(|topic| ratatosk_topic::matches(rule, topic))
        });
        prop_assert_eq!(allowed, granted && !denied, "{} receives {:?}", filter, received.len());
    }

    #[test]
    fn no_text_panics(text in "(user|topic|pattern|read|deny|%c|%u|[ a/#+$\n]){0,30}") {
        if let Ok(rules) = Rules::parse(&text) {
            rules.check(&identity("u/#", "+"), subscribe("a/#"));
            rules.check(&identity("", ""), publish("a/+"));
        }
    }
}
