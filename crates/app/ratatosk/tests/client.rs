//! `pub` and `sub` against a scripted broker: what they send, print and exit with.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Arc;

use ratatosk_codec::{Qos, ReasonCode};
use rustls::ServerConfig;

use crate::broker::{Broker, Script};
use crate::process::{Ended, Place};

/// Runs against a broker; gives what happened on both sides.
fn run(script: Script, arguments: &[&str], input: &str) -> (Ended, Vec<String>) {
    let place = Place::new().with_file("payload", "from a file");
    run_against(Broker::start(script), &place, arguments, input)
}

fn run_against(
    broker: Broker,
    place: &Place,
    arguments: &[&str],
    input: &str,
) -> (Ended, Vec<String>) {
    let (command, flags) = arguments.split_first().unwrap();
    let mut all = vec![*command, "-h", "127.0.0.1", "-p", &broker.port, "-i", "me"];
    all.extend(flags);
    let mut child = place.command(&all).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let ended = Ended::from(child.wait_with_output().unwrap());
    (ended, broker.log())
}

fn check_pub(arguments: &[&str], input: &str, expected: &[&str]) {
    let mut all = vec!["pub", "-t", "a/b"];
    all.extend(arguments);
    let (ended, log) = run(Script::default(), &all, input);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.err);
    assert_eq!(log[1..], *expected, "{arguments:?}");
}

#[test]
fn a_message_is_sent_and_acknowledged_in_every_qos() {
    check_pub(&["-m", "hi"], "", &["publish a/b \"hi\" 0", "disconnect"]);
    check_pub(&["-m", "hi", "-q", "1", "-r"], "", &["publish a/b \"hi\" 1 retain", "disconnect"]);
    check_pub(&["-m", "hi", "-q", "2"], "", &["publish a/b \"hi\" 2", "pubrel", "disconnect"]);
    for version in ["3.1", "3.1.1", "mqttv311", "5"] {
        let expected = ["publish a/b \"hi\" 2", "pubrel", "disconnect"];
        check_pub(&["-m", "hi", "-q", "2", "-V", version], "", &expected);
    }
}

#[test]
fn messages_come_from_files_lines_and_nothing() {
    check_pub(&["-f", "payload"], "", &["publish a/b \"from a file\" 0", "disconnect"]);
    check_pub(&["-f", "-"], "x\ny", &["publish a/b \"x\\ny\" 0", "disconnect"]);
    check_pub(&["-s"], "all\n", &["publish a/b \"all\\n\" 0", "disconnect"]);
    check_pub(&["-n", "-r"], "", &["publish a/b \"\" 0 retain", "disconnect"]);
    let lines =
        ["publish a/b \"one\" 1", "publish a/b \"\" 1", "publish a/b \"two\" 1", "disconnect"];
    check_pub(&["-l", "-q", "1"], "one\n\ntwo", &lines);
}

#[test]
fn more_messages_than_the_window_all_arrive() {
    let input: String = (0..500).map(|number| format!("{number}\n")).collect();
    let (ended, log) = run(Script::default(), &["pub", "-t", "t", "-l", "-q", "1"], &input);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(log.iter().filter(|line| line.starts_with("publish")).count(), 500);
    assert_eq!(log[500], "publish t \"499\" 1");
}

#[test]
fn credentials_and_id_are_presented() {
    let (_, log) = run(Script::default(), &["pub", "-t", "t", "-n", "-u", "bob", "-P", "pw"], "");
    assert_eq!(log[0], "connect 5.0 me Some(\"bob\") Some(\"pw\")");
}

#[test]
fn refusals_are_failures_with_their_reason() {
    let script = Script { connack: ReasonCode::BadUsernameOrPassword, ..Script::default() };
    for version in ["5", "3.1.1"] {
        let (ended, _) = run(script.clone(), &["pub", "-t", "t", "-n", "-V", version], "");
        assert_eq!(ended.code, Some(1));
        assert!(ended.err.contains("refused: bad user name or password"), "{}", ended.err);
    }
    let script = Script { puback: ReasonCode::QuotaExceeded, ..Script::default() };
    for qos in ["1", "2"] {
        let (ended, _) = run(script.clone(), &["pub", "-t", "t", "-n", "-q", qos], "");
        assert_eq!(ended.code, Some(1));
        assert!(ended.err.contains("message refused: quota exceeded"), "{}", ended.err);
    }
    let script = Script { suback: ReasonCode::NotAuthorized, ..Script::default() };
    let (ended, _) = run(script, &["sub", "-t", "x/#"], "");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("subscription to x/# refused: not authorized"), "{}", ended.err);
}

fn three_messages() -> Script {
    let messages = vec![
        ("a", "zero", Qos::AtMostOnce),
        ("b/c", "one", Qos::AtLeastOnce),
        ("d", "two", Qos::ExactlyOnce),
    ];
    Script { messages, ..Script::default() }
}

#[test]
fn messages_are_printed_once_and_acknowledged() {
    for version in ["3.1", "3.1.1", "5"] {
        let arguments = ["sub", "-t", "a", "-t", "#", "-q", "2", "-C", "3", "-V", version];
        let (ended, log) = run(three_messages(), &arguments, "");
        assert_eq!(
            (ended.code, ended.out.as_str()),
            (Some(0), "zero\none\ntwo\n"),
            "{}",
            ended.err
        );
        assert_eq!(log[1..3], ["subscribe a 2", "subscribe # 2"]);
        assert!(
            log.contains(&"puback".to_owned()) && log.contains(&"pubrec".to_owned()),
            "{log:?}"
        );
        assert_eq!(log.last().unwrap(), "disconnect");
    }
    let (ended, _) = run(three_messages(), &["sub", "-t", "#", "-v", "-C", "2"], "");
    assert_eq!(ended.out, "a zero\nb/c one\n");
    let (ended, _) = run(three_messages(), &["sub", "-t", "#", "-N", "-C", "2"], "");
    assert_eq!(ended.out, "zeroone");
}

#[test]
fn waiting_ends_in_time() {
    let (ended, log) = run(three_messages(), &["sub", "-t", "#", "-q", "2", "-W", "1"], "");
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "zero\none\ntwo\n"), "{}", ended.err);
    assert_eq!(log.last().unwrap(), "disconnect");
    let (ended, _) = run(three_messages(), &["sub", "-t", "#", "-C", "9", "-W", "1"], "");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("3 of 9 messages came in time"), "{}", ended.err);
}

#[test]
fn tls_trusts_the_named_authority_and_nobody_else() {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
    let place = Place::new()
        .with_file("right", &made.cert.pem())
        .with_file("wrong", &other.cert.pem())
        .with_file("payload", "");
    let check = |flags: &[&str], code: i32, message: &str| {
        let broker = Broker::start_tls(Script::default(), Arc::clone(&config));
        let arguments = [&["pub", "-t", "t", "-m", "secret", "-q", "1"], flags].concat();
        let (ended, log) = run_against(broker, &place, &arguments, "");
        assert_eq!(ended.code, Some(code), "{flags:?}: {}", ended.err);
        assert!(ended.err.contains(message), "{flags:?}: {}", ended.err);
        assert_eq!(log.contains(&"publish t \"secret\" 1".to_owned()), code == 0, "{log:?}");
    };
    check(&["--cafile", "right"], 0, "");
    check(&["--insecure"], 0, "");
    check(&["--cafile", "wrong"], 1, "no secure connection to 127.0.0.1:");
}

#[test]
fn a_silent_client_pings() {
    let (_, log) = run(Script::default(), &["sub", "-t", "t", "-k", "1", "-W", "3"], "");
    assert!(log.iter().filter(|line| *line == "pingreq").count() >= 2, "{log:?}");
}

#[test]
fn nobody_there_is_a_failure_that_says_where() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let ended = Place::new().run(&["pub", "-h", "127.0.0.1", "-p", &gone, "-t", "t", "-n"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains(&format!("cannot connect to 127.0.0.1:{gone}")), "{}", ended.err);
}

#[test]
fn what_cannot_be_sent_is_a_usage_error() {
    for arguments in [
        &["pub", "-t", "t"][..],
        &["pub", "-t", "a/#", "-n"],
        &["pub", "-t", "t", "-n", "-m", "x"],
        &["pub", "-t", "t", "-n", "-q", "3"],
        &["pub", "-t", "t", "-n", "-V", "4"],
        &["sub"],
        &["sub", "-t", "a/#/b"],
        &["sub", "-t", ""],
        &["sub", "-t", "t", "-C", "0"],
        &["sub", "-t", "t", "-c"],
    ] {
        assert_eq!(Place::new().run(arguments).code, Some(2), "{arguments:?}");
    }
    let help = Place::new().run(&["sub", "--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.out.contains("-h, --host"), "{}", help.out);
}
