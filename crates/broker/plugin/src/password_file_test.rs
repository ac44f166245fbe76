//! Password files: what is read, and where a wrong line is.

use super::*;

/// The test vector of RFC 9106 has a secret, so this one is of the reference implementation:
/// argon2id, version 19, 256 KiB, 2 passes, "password", "somesalt".
const REFERENCE: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ\
                         $nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==\
                     $WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

fn failure(text: &str) -> (usize, String) {
    let error = Users::parse(text).unwrap_err();
    (error.line, error.why)
}

#[test]
fn a_hash_of_the_reference_implementation_is_verified() {
    let users = Users::parse(&format!("alice:{REFERENCE}\n")).unwrap();
    let hash = users.entry("alice").unwrap().argon2.as_ref().unwrap();
    assert!(hash.is_of(&Secret::from("password")));
    for wrong in ["Password", "password ", ""] {
        assert!(!hash.is_of(&Secret::from(wrong)), "{wrong}");
    }
}

#[test]
fn a_user_can_have_a_line_of_each_kind() {
    let text = format!("# users\n\nalice:{REFERENCE}\nbob:{SCRAM}  \nalice:{SCRAM}\r\n");
    let users = Users::parse(&text).unwrap();
    assert_eq!(users.count(), 2);
    let (alice, bob) = (users.entry("alice").unwrap(), users.entry("bob").unwrap());
    assert!(alice.argon2.is_some() && alice.scram.is_some());
    assert!(bob.argon2.is_none() && bob.scram.is_some());
    assert!(users.entry("carol").is_none());
    assert_eq!(users.usual_iterations(), 4_096);
    assert_eq!(users.costliest().m_cost(), 256);
}

/// SEC-007: what is wrong is told with its line, and never with the hash.
#[test]
fn lines_that_are_wrong_are_refused() {
    let cases = [
        ("alice".to_owned(), 1, "not user:hash"),
        (format!(":{REFERENCE}"), 1, "empty"),
        (format!("# x\n a:{REFERENCE}"), 2, "blanks around"),
        (format!("a\u{7}:{REFERENCE}"), 1, "control"),
        ("a:plain".to_owned(), 1, "neither argon2id nor SCRAM"),
        ("a:$6$salt$hash".to_owned(), 1, "neither argon2id nor SCRAM"),
        (format!("a:{}", REFERENCE.replace("argon2id", "argon2i")), 1, "only argon2id"),
        (format!("a:{}", REFERENCE.replace("v=19", "v=16")), 1, "version 19"),
        (format!("a:{}", REFERENCE.replace("m=256", "m=2000000")), 1, "cost"),
        (format!("a:{}", REFERENCE.replace("t=2", "t=65")), 1, "cost"),
        (format!("a:{}", REFERENCE.replace("m=256", "m=1")), 1, "parameters"),
        ("a:$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ".to_owned(), 1, "lacks"),
        ("a:$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$bm8".to_owned(), 1, "argon2"),
        (format!("a:{}", SCRAM.replace("4096", "1")), 1, "iterations"),
        (format!("a:{REFERENCE}\nb:{REFERENCE}\na:{REFERENCE}"), 3, "second line"),
    ];
    for (text, line, why) in cases {
        let (actual_line, actual_why) = failure(&text);
        assert_eq!(actual_line, line, "{text:?}");
        assert!(actual_why.contains(why), "{text:?}: {actual_why}");
        assert!(!actual_why.contains("c29t"), "{actual_why}");
    }
}

/// SEC-007: users can be printed, what is stored of their passwords cannot.
#[test]
fn stored_hashes_are_never_printed() {
    let users = Users::parse(&format!("alice:{REFERENCE}\nalice:{SCRAM}\n")).unwrap();
    let text = format!("{users:?}");
    assert!(text.contains("alice"), "{text}");
    for part in ["nf65", "c29t", "WG5d", "W22Z", "wfPL"] {
        assert!(!text.contains(part), "{text}");
    }
}

#[test]
fn an_empty_file_pretends_with_the_defaults() {
    let users = Users::parse("# nobody\n").unwrap();
    assert_eq!(users.usual_iterations(), scram::ITERATIONS_DEFAULT);
    assert_eq!(users.costliest(), Params::default());
}
