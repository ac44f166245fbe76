//! The bodies of the fuzz targets, so that their corpora are replayed by plain tests.
//!
//! They guard what a file or a client brings: access rules, password files, SCRAM messages.

use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ratatosk_codec::Qos;
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};
use sha2::{Digest, Sha256};

use crate::builtin::acl::Rules;
use crate::password_file::{Line, Stored, Users};
use crate::permission::{Action, Identity, Verdict};
use crate::scram::{ClientFirst, Keys, Mock, Outcome, ServerFirst, mac};
use crate::secret::Secret;

/// Questions are looked at in pairs.
const QUESTIONS_MAX: usize = 24;

/// Access rules, and after a null what is asked of them: a line each with user, client id, and a
/// name or filter, separated by tabs.
pub fn acl_any(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, questions) = text.split_once('\0').unwrap_or((text, ""));
    let rules = match Rules::parse(text) {
        Ok(rules) => rules,
        Err(error) => {
            let count = text.lines().count();
            assert!(error.line >= 1 && error.line <= count, "line {} of {count}", error.line);
            assert!(!error.why.is_empty());
            return;
        }
    };
    let questions: Vec<(Identity, &str)> =
        questions.lines().take(QUESTIONS_MAX).filter_map(question).collect();
    for (who, filter) in &questions {
        check_verdict(&rules, who, filter, &questions);
    }
}

fn question(line: &str) -> Option<(Identity, &str)> {
    let (user, rest) = line.split_once('\t')?;
    let (client_id, asked) = rest.split_once('\t')?;
    let who = Identity {
        tenant: "default".into(),
        user: user.into(),
        client_id: client_id.into(),
        attributes: Arc::new([]),
        superuser: false,
    };
    Some((who, asked))
}

/// Who may subscribe to a filter may subscribe to each topic that it matches; a share prefix and
/// a repeated question change nothing.
fn check_verdict(rules: &Rules, who: &Identity, filter: &str, questions: &[(Identity, &str)]) {
    let subscribe = |filter| rules.check(who, Action::Subscribe { filter, qos: Qos::AtMostOnce });
    let publish = |topic| {
        rules.check(
            who,
            Action::Publish { topic, qos: Qos::AtMostOnce, retain: false, is_will: false },
        )
    };
    let verdict = subscribe(filter);
    assert_eq!(verdict, subscribe(filter), "asked again");
    assert_eq!(publish(filter), publish(filter), "asked again");
    let Ok(parsed) = TopicFilter::parse(filter, &TopicLimits::PROTOCOL) else {
        assert_ne!(verdict, Verdict::Allowed, "{filter:?} is no filter");
        return;
    };
    // What is behind the prefix may look like a prefix again; asked alone, it would be one.
    let alone = TopicFilter::parse(parsed.filter(), &TopicLimits::PROTOCOL);
    if alone.is_ok_and(|alone| alone.share().is_none()) {
        assert_eq!(verdict, subscribe(parsed.filter()), "a share prefix has no say");
    }
    if verdict != Verdict::Allowed {
        return;
    }
    for (_, topic) in questions {
        let Ok(name) = TopicName::parse(topic, &TopicLimits::PROTOCOL) else { continue };
        if parsed.matches(name) {
            let single = subscribe(topic);
            assert_eq!(single, Verdict::Allowed, "{filter:?} was granted, {topic:?} is not");
        }
    }
}

/// A password file.
pub fn passwords_any(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines: Vec<Result<Option<Line<'_>>, String>> = text.lines().map(Line::parse).collect();
    let first_wrong = lines.iter().position(Result::is_err);
    match Users::parse(text) {
        Ok(users) => {
            assert_eq!(first_wrong, None, "a file is as good as its lines");
            let named = lines.iter().flatten().flatten();
            for line in named.clone() {
                let entry = users.entry(line.user).expect("who has a line is known");
                match &line.stored {
                    Stored::Argon2(_) => assert!(entry.argon2.is_some()),
                    Stored::Scram(keys) => {
                        assert_eq!(entry.scram.as_ref(), Some(keys));
                        assert_eq!(keys.to_line().parse::<Keys>().as_ref(), Ok(keys));
                    }
                }
                assert!(!line.user.is_empty() && !line.user.contains(':'));
            }
            assert!(users.count() <= named.count(), "nobody comes from nowhere");
            // What logins of unknown users cost is within what a file may ask for.
            assert!(users.costliest().m_cost() <= 1 << 20);
            assert!(users.usual_iterations() <= 10_000_000);
        }
        Err(error) => {
            let at = error.line - 1;
            assert!(at < lines.len(), "line {} of {}", error.line, lines.len());
            // The first that is wrong, or one before it that repeats another.
            assert!(first_wrong.is_none_or(|wrong| at <= wrong), "an earlier line is wrong");
        }
    }
}

const SALT: &[u8] = b"salt of the test";

/// The password's salted form and keys; 4,096 iterations take a while, so they are made once.
static KEYS: LazyLock<([u8; 32], Keys)> = LazyLock::new(|| {
    let mut salted = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(b"pencil", SALT, 4_096, &mut salted);
    (salted, Keys::derive(&Secret::from("pencil"), SALT, 4_096))
});

/// A client's two messages, separated by a null. Bytes prove nothing; who has the password is
/// believed whatever its first message looked like.
pub fn scram_any(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (first, last) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let Ok(parsed) = ClientFirst::parse(first) else { return };
    assert!(!parsed.user.is_empty());
    let mock = Mock { key: [7; 32], iterations: 4_096 };
    let begin = |keys| {
        let parsed = ClientFirst::parse(first).expect("it was parsed before");
        ServerFirst::new(parsed, keys, &mock, b"eighteen bytes of n")
    };
    let (salted, keys) = &*KEYS;
    let (known, unknown) = (begin(Some(keys)), begin(None));
    for server in [&known, &unknown] {
        let proven = matches!(server.finish(last), Ok(Outcome::Proven { .. }));
        assert!(!proven, "nothing was proven");
    }
    let header_end = 2 + first[2..].iter().position(|byte| *byte == b',').expect("parsed") + 1;
    let (header, bare) = first.split_at(header_end);
    let (last, expected) = honest(salted, header, bare, known.message());
    match known.finish(last.as_bytes()) {
        Ok(Outcome::Proven { user, server_final }) => {
            assert_eq!((user, server_final), (parsed.user, expected));
        }
        other => panic!("the password was right: {other:?}"),
    }
    let stranger = unknown.finish(last.as_bytes());
    assert!(!matches!(stranger, Ok(Outcome::Proven { .. })), "{stranger:?}");
}

/// The last message of a client that has the password, and what it then wants to hear.
fn honest(salted: &[u8; 32], header: &[u8], bare: &[u8], server_first: &str) -> (String, String) {
    let nonce = server_first.split(',').next().expect("a nonce");
    let without_proof = format!("c={},{nonce}", BASE64.encode(header));
    let exchange: [&[u8]; 5] =
        [bare, b",", server_first.as_bytes(), b",", without_proof.as_bytes()];
    let client_key = mac(salted, &[b"Client Key"]);
    let signature = mac(&Sha256::digest(client_key), &exchange);
    let mut proof = client_key;
    proof.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
    let server_signature = mac(&mac(salted, &[b"Server Key"]), &exchange);
    (
        format!("{without_proof},p={}", BASE64.encode(proof)),
        format!("v={}", BASE64.encode(server_signature)),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn replay(target: &str, body: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus");
        let entries = std::fs::read_dir(corpus.join(target)).expect("part of the repository");
        let count = entries
            .map(|entry| body(&std::fs::read(entry.expect("readable").path()).expect("readable")))
            .count();
        assert!(count >= 3, "{count} seeds of {target}");
    }

    #[test]
    fn stored_rules_are_refused_or_grant_no_more_than_their_parts() {
        replay("acl_file", acl_any);
    }

    #[test]
    fn stored_password_files_are_as_good_as_their_lines() {
        replay("password_file", passwords_any);
    }

    #[test]
    fn stored_scram_messages_prove_nothing_without_the_password() {
        replay("scram", scram_any);
    }
}
