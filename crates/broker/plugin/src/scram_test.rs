//! SCRAM-SHA-256 against its published exchange and against liars.

use proptest::prelude::*;

use super::*;

const MOCK: Mock = Mock { key: [7; 32], iterations: 4_096 };

/// The client's side, for tests.
pub(crate) struct Client {
    first_bare: String,
    password: Secret,
}

impl Client {
    pub(crate) fn new(user: &str, password: &str, nonce: &str) -> Self {
        let first_bare = format!("n={user},r={nonce}");
        Self { first_bare, password: Secret::from(password) }
    }

    pub(crate) fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// The last message, and what the server must answer to it.
    pub(crate) fn last(&self, server_first: &str) -> (String, String) {
        let mut fields = server_first.split(',');
        let nonce = fields.next().unwrap();
        let salt = BASE64.decode(fields.next().unwrap().strip_prefix("s=").unwrap()).unwrap();
        let iterations = fields.next().unwrap().strip_prefix("i=").unwrap().parse().unwrap();
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(self.password.expose(), &salt, iterations, &mut salted);
        let client_key = mac(&salted, &[b"Client Key"]);
        let stored_key: [u8; 32] = Sha256::digest(client_key).into();
        let without_proof = format!("c=biws,{nonce}");
        let exchange = format!("{},{server_first},{without_proof}", self.first_bare);
        let signature = mac(&stored_key, &[exchange.as_bytes()]);
        let mut proof = client_key;
        proof.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
        let server_key = mac(&salted, &[b"Server Key"]);
        let server_signature = mac(&server_key, &[exchange.as_bytes()]);
        (
            format!("{without_proof},p={}", BASE64.encode(proof)),
            format!("v={}", BASE64.encode(server_signature)),
        )
    }
}

fn begin(user: &str, keys: Option<&Keys>) -> ServerFirst {
    let first = Client::new(user, "", "abc").first();
    ServerFirst::new(ClientFirst::parse(first.as_bytes()).unwrap(), keys, &MOCK, &[1; 18])
}

/// The exchange of RFC 7677, section 3, byte by byte.
#[test]
fn the_example_of_rfc_7677_is_reproduced() {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let keys = Keys::derive(&Secret::from("pencil"), &salt, 4_096);
    let first = ClientFirst::parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
    assert_eq!(first.user, "user");
    // The nonce of the example is text that is no base64, so it is put in place by hand.
    let mut server = ServerFirst::new(first, Some(&keys), &MOCK, b"");
    server.nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned();
    server.message = format!("r={},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", server.nonce);
    let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                 p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let expected = Outcome::Proven {
        user: "user".to_owned(),
        server_final: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_owned(),
    };
    assert_eq!(server.finish(last), Ok(expected));
}

#[test]
fn keys_survive_being_written() {
    let keys = Keys::derive(&Secret::from("pencil"), b"salt of sixteen!", 4_096);
    let line = keys.to_line();
    assert!(line.starts_with("SCRAM-SHA-256$4096:c2FsdCBvZiBzaXh0ZWVuIQ==$"));
    assert_eq!(line.parse(), Ok(keys));
}

#[test]
fn keys_that_are_wrong_are_refused() {
    let good = Keys::derive(&Secret::from("pencil"), b"salt", 4_096).to_line();
    let (head, keys) = good.rsplit_once('$').unwrap();
    let (stored, server) = keys.split_once(':').unwrap();
    let cases = [
        (String::new(), "not SCRAM"),
        (head.to_owned(), "not SCRAM"),
        (good.replacen("SHA-256", "SHA-1", 1), "not SCRAM"),
        (good.replacen("4096", "4095", 1), "not in 4096"),
        (good.replacen("4096", "99999999", 1), "not in 4096"),
        (good.replacen("4096", "-1", 1), "not a number"),
        (format!("SCRAM-SHA-256$4096:!${stored}:{server}"), "salt is not base64"),
        (format!("SCRAM-SHA-256$4096:${stored}:{server}"), "1 to 64"),
        (format!("{head}${stored}:AAAA"), "32 bytes"),
        (format!("{head}${stored}:!"), "base64"),
    ];
    for (text, why) in cases {
        let error = text.parse::<Keys>().unwrap_err();
        assert!(error.contains(why), "{text:?}: {error}");
    }
}

/// SEC-007: stored keys are not printed.
#[test]
fn keys_are_never_printed() {
    let keys = Keys::derive(&Secret::from("pencil"), b"salt", 4_096);
    assert_eq!(format!("{keys:?}"), "SCRAM-SHA-256 keys of 4096 iterations");
}

#[test]
fn names_are_unescaped() {
    let parse = |name: &str| ClientFirst::parse(format!("n,,n={name},r=x").as_bytes());
    assert_eq!(parse("a=2Cb=3Dc").unwrap().user, "a,b=c");
    assert_eq!(parse("ä").unwrap().user, "ä");
    for name in ["a=b", "a=2", "=", "a=2c", ""] {
        assert!(parse(name).is_err(), "{name}");
    }
}

#[test]
fn first_messages_that_are_wrong_are_refused() {
    let good = ["n,,n=u,r=x", "y,,n=u,r=x", "n,a=u,n=u,r=x", "n,,n=u,r=x,e=1"];
    for message in good {
        assert!(ClientFirst::parse(message.as_bytes()).is_ok(), "{message}");
    }
    let long = format!("n,,n=u,r={}", "x".repeat(257));
    let longer = format!("n,,n={},r=x", "u".repeat(5_000));
    let wrong = [
        "",
        "n",
        "n,",
        "n,,",
        "n,,n=u",
        "n,,r=x",
        "n,,n=u,r=",
        "n,,n=u,r=\u{7}",
        "n,,n=u,r=ä",
        "p=tls-unique,,n=u,r=x",
        "n,a=other,n=u,r=x",
        "n,b,n=u,r=x",
        "n,,m=1,n=u,r=x",
        "n,,n=u\0,r=x",
        "x,,n=u,r=x",
        &long,
        &longer,
    ];
    for message in wrong {
        assert!(ClientFirst::parse(message.as_bytes()).is_err(), "{message:?}");
    }
    assert!(ClientFirst::parse(b"n,,n=\xff,r=x").is_err());
}

#[test]
fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let keys = Keys::derive(&Secret::from("pencil"), &[3; 16], 4_096);
    let shape = |server: &ServerFirst| {
        let (head, iterations) = server.message().rsplit_once(",i=").unwrap();
        (head.len(), iterations.to_owned())
    };
    let (known, unknown) = (begin("user", Some(&keys)), begin("user", None));
    assert_eq!(shape(&known), shape(&unknown));
    assert_eq!(begin("user", None).message(), unknown.message(), "the same at each try");
    assert_ne!(begin("resu", None).message(), unknown.message(), "another for each name");
    for server in [known, unknown] {
        let (last, _) = Client::new("user", "crayon", "abc").last(server.message());
        assert_eq!(server.finish(last.as_bytes()), Ok(Outcome::Wrong));
    }
}

#[test]
fn the_right_password_is_proven_both_ways() {
    let keys = Keys::derive(&Secret::from("pencil"), &[3; 16], 4_096);
    let server = begin("user", Some(&keys));
    let (last, server_final) = Client::new("user", "pencil", "abc").last(server.message());
    let expected = Outcome::Proven { user: "user".to_owned(), server_final };
    assert_eq!(server.finish(last.as_bytes()), Ok(expected));
}

#[test]
fn last_messages_of_another_exchange_are_refused() {
    let keys = Keys::derive(&Secret::from("pencil"), &[3; 16], 4_096);
    let server = begin("user", Some(&keys));
    let (last, _) = Client::new("user", "pencil", "abc").last(server.message());
    let nonce = &server.nonce;
    let wrong = [
        last.replace("r=abc", "r=abd"),
        last.replace(nonce.as_str(), "abc"),
        last.replace("c=biws", "c=eSws"),
        last.replace("c=biws,", ""),
        last.split(",p=").next().unwrap().to_owned(),
        last.replace(",p=", ",p=!"),
        format!("{},p=AAAA", last.split(",p=").next().unwrap()),
        String::new(),
    ];
    for message in wrong {
        assert!(server.finish(message.as_bytes()).is_err(), "{message}");
    }
}

proptest! {
    #[test]
    fn no_message_panics(first in "[nyp=a,ru2C3D\u{e4}m]{0,24}", last in "[crbiws=,p/+A]{0,64}") {
        if let Ok(first) = ClientFirst::parse(first.as_bytes()) {
            let server = ServerFirst::new(first, None, &MOCK, &[1; 18]);
            let outcome = server.finish(last.as_bytes());
            let is_proven = matches!(outcome, Ok(Outcome::Proven { .. }));
            prop_assert!(!is_proven);
        }
    }
}
