//! TLS: identities, revocation, replacement of certificates, refusals.

use std::fs;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, HandshakeKind, ProtocolVersion};

use crate::transport::fixture::{
    Authority, Connection, STRANGER, Site, file_name, mqtt_request, plain, refused, socket,
    websocket,
};
use crate::transport::{ClientAuth, Config, Error, Layers, Pipeline, State, TlsConfig};

fn config(tls: TlsConfig) -> Config {
    Config { tls: Some(tls), ..plain() }
}

fn layers(tls: TlsConfig) -> Layers {
    Layers::open(&config(tls)).unwrap()
}

fn server_certificate(connection: &Connection) -> CertificateDer<'static> {
    connection.client_tls().peer_certificates().unwrap()[0].clone()
}

/// MQTT-003: MQTT flows both ways over TLS.
#[test]
fn tls_carries_mqtt_both_ways() {
    let site = Site::new();
    let client = site.authority.client_config(None);
    let mut connection = Connection::new(&layers(site.tls()), STRANGER).with_tls(&client).open();
    let large: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    connection.send(&large);
    assert_eq!(connection.settle(), Ok(State::Open));
    assert_eq!(connection.mqtt, large);
    connection.serve(&large);
    assert_eq!(connection.answered, large);
    assert_eq!(connection.pipeline.peer().certificate, None);
    assert_eq!(connection.pipeline.peer().sni.as_deref(), Some("broker.test"));
    assert_eq!(connection.pipeline.peer().common_name(), None);
}

/// SEC-002: the client's certificate is verified and reported.
#[test]
fn a_client_certificate_is_reported() {
    let site = Site::new();
    let meter = site.authority.issue("meter-7", 2);
    for client_auth in [ClientAuth::Optional, ClientAuth::Required] {
        let layers = layers(site.mutual_tls(client_auth));
        let client = site.authority.client_config(Some(&meter));
        let mut connection = Connection::new(&layers, STRANGER).with_tls(&client).open();
        connection.send(b"mqtt");
        assert_eq!(connection.settle(), Ok(State::Open));
        let peer = connection.pipeline.peer();
        assert_eq!(peer.certificate.as_deref(), Some(meter.certificate.der().as_ref()));
        assert_eq!(peer.common_name().as_deref(), Some("meter-7"));
        assert_eq!(peer.subject().as_deref(), Some("CN=meter-7, O=Acme"));
    }
}

/// SEC-002: a resumed session carries the certificate too.
#[test]
fn a_resumed_session_reports_the_certificate() {
    let site = Site::new();
    let meter = site.authority.issue("meter-7", 2);
    let layers = layers(site.mutual_tls(ClientAuth::Required));
    let client = site.authority.client_config(Some(&meter));
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let connection = Connection::new(&layers, STRANGER).with_tls(&client).open();
        assert_eq!(connection.client_tls().handshake_kind(), Some(expected));
        assert_eq!(connection.pipeline.peer().common_name().as_deref(), Some("meter-7"));
    }
}

fn alert(error: &Result<State, Error>) {
    assert!(matches!(error, Err(Error::Tls(_))), "{error:?}");
}

/// SEC-002: without a certificate only a listener that requires none is entered.
#[test]
fn a_required_certificate_must_be_there() {
    let site = Site::new();
    let client = site.authority.client_config(None);
    let required = layers(site.mutual_tls(ClientAuth::Required));
    let mut connection = Connection::new(&required, STRANGER).with_tls(&client);
    alert(&connection.settle());
    assert!(connection.mqtt.is_empty());
    let optional = layers(site.mutual_tls(ClientAuth::Optional));
    let connection = Connection::new(&optional, STRANGER).with_tls(&client).open();
    assert_eq!(connection.pipeline.peer().certificate, None);
}

/// SEC-002: a certificate of another authority is refused, also where none is required.
#[test]
fn a_foreign_certificate_is_refused() {
    let site = Site::new();
    let foreign = Authority::new("somebody else").issue("meter-7", 2);
    for client_auth in [ClientAuth::Optional, ClientAuth::Required] {
        let layers = layers(site.mutual_tls(client_auth));
        let client = site.authority.client_config(Some(&foreign));
        alert(&Connection::new(&layers, STRANGER).with_tls(&client).settle());
    }
}

/// SEC-002: a revoked certificate is refused, others of its authority are not.
#[test]
fn a_revoked_certificate_is_refused() {
    let site = Site::new();
    let crl = site.folder.write("revoked.pem", &site.authority.revocation_list(&[2]));
    let tls = TlsConfig { crl: Some(crl), ..site.mutual_tls(ClientAuth::Required) };
    let layers = layers(tls);
    let revoked = site.authority.client_config(Some(&site.authority.issue("meter-7", 2)));
    alert(&Connection::new(&layers, STRANGER).with_tls(&revoked).settle());
    let valid = site.authority.client_config(Some(&site.authority.issue("meter-8", 3)));
    Connection::new(&layers, STRANGER).with_tls(&valid).open();
}

/// CFG-012, SEC-002: a reloaded revocation list also ends the resumption of sessions.
#[test]
fn a_session_is_not_resumed_past_its_revocation() {
    let site = Site::new();
    let crl = site.folder.write("revoked.pem", &site.authority.revocation_list(&[]));
    let tls = TlsConfig { crl: Some(crl), ..site.mutual_tls(ClientAuth::Required) };
    let layers = layers(tls);
    let client = site.authority.client_config(Some(&site.authority.issue("meter-7", 2)));
    Connection::new(&layers, STRANGER).with_tls(&client).open();
    site.folder.write("revoked.pem", &site.authority.revocation_list(&[2]));
    layers.reload().unwrap();
    alert(&Connection::new(&layers, STRANGER).with_tls(&client).settle());
}

/// CFG-012: new connections get the new certificate, the old ones live on.
#[test]
fn a_reload_replaces_the_certificate_for_new_connections() {
    let site = Site::new();
    let layers = layers(site.tls());
    let clone = layers.clone();
    let client = site.authority.client_config(None);
    let mut old = Connection::new(&layers, STRANGER).with_tls(&client).open();
    let replacement = site.authority.issue("broker", 9);
    site.install(&replacement);
    layers.reload().unwrap();
    let new = Connection::new(&clone, STRANGER).with_tls(&client).open();
    assert_eq!(&server_certificate(&new), replacement.certificate.der());
    assert_ne!(&server_certificate(&old), replacement.certificate.der());
    old.send(b"still here");
    assert_eq!(old.settle(), Ok(State::Open));
    assert_eq!(old.mqtt, b"still here");
}

/// CFG-012: a reload without change keeps the sessions that clients can resume.
#[test]
fn a_reload_without_change_keeps_the_sessions() {
    let site = Site::new();
    let layers = layers(site.tls());
    let client = site.authority.client_config(None);
    Connection::new(&layers, STRANGER).with_tls(&client).open();
    layers.reload().unwrap();
    let again = Connection::new(&layers, STRANGER).with_tls(&client).open();
    assert_eq!(again.client_tls().handshake_kind(), Some(HandshakeKind::Resumed));
}

/// CFG-012: a reload that fails says why and leaves the old certificate in use.
#[test]
fn a_failed_reload_keeps_the_old_certificate() {
    let site = Site::new();
    let layers = layers(site.tls());
    let client = site.authority.client_config(None);
    let before = Connection::new(&layers, STRANGER).with_tls(&client).open();
    let other = site.authority.issue("broker", 9);
    site.folder.write("server.key", &other.key.serialize_pem());
    let reason = layers.reload().unwrap_err().to_string();
    assert!(reason.contains("does not belong to certificate"), "{reason}");
    fs::remove_file(site.folder.path("server.pem")).unwrap();
    let reason = layers.reload().unwrap_err().to_string();
    assert!(reason.contains("cannot read certificate"), "{reason}");
    let after = Connection::new(&layers, STRANGER).with_tls(&client).open();
    assert_eq!(server_certificate(&after), server_certificate(&before));
}

#[test]
fn the_files_to_watch_are_those_of_the_configuration() {
    let site = Site::new();
    let crl = site.folder.write("revoked.pem", &site.authority.revocation_list(&[]));
    let tls = TlsConfig { crl: Some(crl), ..site.mutual_tls(ClientAuth::Required) };
    let files = layers(tls).watched_files();
    let names: Vec<&str> = files.iter().map(|file| file_name(file)).collect();
    assert_eq!(names, ["server.pem", "server.key", "ca.pem", "revoked.pem"]);
    assert!(Layers::open(&plain()).unwrap().watched_files().is_empty());
}

#[test]
fn the_application_protocol_is_selected_when_offered() {
    let site = Site::new();
    let client = site.authority.client_config_with(None, &["other", "mqtt"]);
    let connection = Connection::new(&layers(site.tls()), STRANGER).with_tls(&client).open();
    assert_eq!(connection.client_tls().alpn_protocol(), Some(&b"mqtt"[..]));
    let browser = site.authority.client_config_with(None, &["http/1.1"]);
    let layers = Layers::open(&Config { tls: Some(site.tls()), ..websocket() }).unwrap();
    let connection =
        Connection::new(&layers, STRANGER).with_tls(&browser).with_websocket(mqtt_request()).open();
    assert_eq!(connection.client_tls().alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn a_client_of_tls_1_2_is_served() {
    let site = Site::new();
    let client = site.authority.client_config_of(&[&rustls::version::TLS12], None, &[]);
    let mut connection = Connection::new(&layers(site.tls()), STRANGER).with_tls(&client).open();
    assert_eq!(connection.client_tls().protocol_version(), Some(ProtocolVersion::TLSv1_2));
    connection.send(b"mqtt");
    assert_eq!(connection.settle(), Ok(State::Open));
    assert_eq!(connection.mqtt, b"mqtt");
}

#[test]
fn an_endless_handshake_message_is_bounded() {
    let site = Site::new();
    let mut pipeline = Pipeline::new(&layers(site.tls()), socket(STRANGER));
    // A ClientHello of almost 64 KiB, announced as such and never finished.
    let mut record = b"\x16\x03\x01\x40\x00\x01\x00\xfe\x00".to_vec();
    record.resize(5 + 0x4000, 0);
    let (mut mqtt, mut wire) = (Vec::new(), Vec::new());
    let mut taken = 0;
    let mut outcome = Ok(());
    for byte in record.iter().cycle().take(1 << 20) {
        taken += 1;
        outcome = pipeline.receive(&[*byte], &mut mqtt, &mut wire).map(drop);
        assert!(pipeline.memory() < 64 * 1024, "{}", pipeline.memory());
        if outcome.is_err() {
            break;
        }
    }
    assert_eq!(outcome, Err(Error::TlsOversized));
    assert_eq!(taken, 48 * 1024 + 1);
    assert!(mqtt.is_empty());
}

/// What TLS would allow is more than any honest client needs.
#[test]
fn a_handshake_is_bounded_as_a_whole() {
    let site = Site::new();
    let meter = site.authority.issue("meter-7", 2);
    let layers = layers(site.mutual_tls(ClientAuth::Required));
    let name = "x".repeat(254);
    for (count, is_accepted) in [(100, true), (200, false)] {
        let mut names = vec![name.as_str(); count];
        names.push("mqtt");
        let client = site.authority.client_config_with(Some(&meter), &names);
        let outcome = Connection::new(&layers, STRANGER).with_tls(&client).settle();
        let expected = if is_accepted { Ok(State::Open) } else { Err(Error::TlsOversized) };
        assert_eq!(outcome, expected);
    }
}

#[test]
fn the_close_of_the_peer_ends_the_connection_after_its_last_bytes() {
    let site = Site::new();
    let client = site.authority.client_config(None);
    let mut connection = Connection::new(&layers(site.tls()), STRANGER).with_tls(&client).open();
    connection.send(b"\xe0\x00");
    let mut bytes = connection.outgoing();
    connection.tls_close();
    bytes.extend(connection.outgoing());
    bytes.extend(b"what comes after is ignored");
    let (mut mqtt, mut wire) = (Vec::new(), Vec::new());
    let outcome = connection.pipeline.receive(&bytes, &mut mqtt, &mut wire);
    assert_eq!(outcome.map(|received| received.state), Ok(State::Closed));
    assert_eq!(mqtt, b"\xe0\x00");
    // Our own end is still owed, once.
    assert!(connection.serve_close() > 0);
    assert_eq!(connection.serve_close(), 0);
}

#[test]
fn a_client_that_speaks_no_tls_is_told_apart() {
    let site = Site::new();
    let mut pipeline = Pipeline::new(&layers(site.tls()), socket(STRANGER));
    let outcome = pipeline.receive(b"\x10\x0c", &mut Vec::new(), &mut Vec::new());
    assert_eq!(outcome, Err(Error::TlsExpected { first: 0x10 }));
}

#[test]
fn a_broken_record_is_answered_with_an_alert_after_what_came_before_it() {
    let site = Site::new();
    let client = site.authority.client_config(None);
    let mut connection = Connection::new(&layers(site.tls()), STRANGER).with_tls(&client).open();
    connection.send(b"before");
    let mut bytes = connection.outgoing();
    connection.send(b"broken");
    let mut broken = connection.outgoing();
    *broken.last_mut().unwrap() ^= 1;
    bytes.extend(broken);
    let (mut mqtt, mut wire) = (Vec::new(), Vec::new());
    let outcome = connection.pipeline.receive(&bytes, &mut mqtt, &mut wire);
    assert_eq!(outcome, Err(Error::Tls(rustls::Error::DecryptError)));
    assert_eq!(mqtt, b"before");
    assert!(!wire.is_empty());
}

#[test]
fn a_client_that_mistrusts_the_server_ends_the_handshake() {
    let site = Site::new();
    let suspicious = Authority::new("somebody else").client_config(None);
    let mut connection = Connection::new(&layers(site.tls()), STRANGER).with_tls(&suspicious);
    let expected = Error::Tls(rustls::Error::AlertReceived(AlertDescription::UnknownCA));
    assert_eq!(connection.settle(), Err(expected));
}

fn problem(change: impl FnOnce(&Site, &mut TlsConfig), expected: &str) {
    let site = Site::new();
    let mut tls = site.mutual_tls(ClientAuth::Required);
    change(&site, &mut tls);
    let reason = refused(&config(tls));
    assert!(reason.contains(expected), "{reason}");
}

/// CFG-010: what is wrong with a TLS section is said with file and remedy.
#[test]
fn problems_of_the_files_are_named() {
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    problem(|_, tls| tls.certificate = "/nonexistent/a.pem".into(), "/nonexistent/a.pem");
    problem(|site, _| drop(site.folder.write("server.pem", "")), "server.pem has no section");
    problem(|site, _| drop(site.folder.write("server.key", "")), "server.key has no section");
    problem(|site, _| drop(site.folder.write("ca.pem", "\0")), "client_ca ");
    problem(|site, _| drop(site.folder.write("server.key", encrypted)), "is encrypted");
    let truncated = "-----BEGIN CERTIFICATE-----\nAAAA\n";
    problem(|site, _| drop(site.folder.write("server.pem", truncated)), "is not valid pem");
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    problem(|site, _| drop(site.folder.write("server.pem", nonsense)), "server.pem cannot be used");
    problem(|site, _| drop(site.folder.write("ca.pem", nonsense)), "no authority");
    let nonsense = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let crl = |site: &Site, tls: &mut TlsConfig| {
        tls.crl = Some(site.folder.write("revoked.pem", nonsense));
    };
    problem(crl, "revoked.pem cannot be used");
    let foreign = |site: &Site, _: &mut TlsConfig| {
        let other = site.authority.issue("broker", 9);
        site.folder.write("server.key", &other.key.serialize_pem());
    };
    problem(foreign, "does not belong to certificate");
}

/// CFG-010: client authentication is none, optional or required, and needs its authorities.
#[test]
fn client_authentication_and_its_files_go_together() {
    problem(|_, tls| tls.client_ca = None, "client_ca is missing");
    problem(
        |_, tls| tls.client_auth = ClientAuth::None,
        "client_ca is set and client_auth is none",
    );
    let only_crl = |_: &Site, tls: &mut TlsConfig| {
        tls.client_auth = ClientAuth::None;
        tls.crl = tls.client_ca.take();
    };
    problem(only_crl, "crl is set and client_auth is none");
    assert_eq!("optional".parse::<ClientAuth>().unwrap(), ClientAuth::Optional);
    assert_eq!("required".parse::<ClientAuth>().unwrap(), ClientAuth::Required);
    assert_eq!("none".parse::<ClientAuth>().unwrap(), ClientAuth::None);
    assert!("require".parse::<ClientAuth>().is_err());
}

#[test]
fn nothing_is_held_before_the_first_byte() {
    let site = Site::new();
    let layers = layers(site.tls());
    let pipeline = Pipeline::new(&layers, socket(STRANGER));
    assert_eq!(pipeline.memory(), size_of::<Pipeline>());
    let client = site.authority.client_config(None);
    let connection = Connection::new(&layers, STRANGER).with_tls(&Arc::clone(&client)).open();
    assert!(connection.pipeline.memory() > pipeline.memory());
}
