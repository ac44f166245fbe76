//! The service over real sockets: it runs on a thread of its own, the tests ask with plain streams.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::{Error, Service};
use crate::connection::BoundedListener;
use crate::{Check, Config, Expiry, Sources, Token};

const TOKEN: &str = "0123456789abcdef";

pub(crate) struct Running {
    address: SocketAddr,
    ready: Arc<AtomicBool>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), Error>>,
}

impl Running {
    fn start(token: Option<Token>, bounds: Option<(usize, Duration)>) -> Self {
        let ready = Arc::new(AtomicBool::new(false));
        let sources = sources(&ready);
        Self::start_with(token, bounds, ready, sources)
    }

    /// A service that says what these sources say.
    pub(crate) fn saying(token: Option<Token>, sources: Sources) -> Self {
        Self::start_with(token, None, Arc::new(AtomicBool::new(false)), sources)
    }

    fn start_with(
        token: Option<Token>,
        bounds: Option<(usize, Duration)>,
        ready: Arc<AtomicBool>,
        sources: Sources,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (report, address) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let config = Config::new("127.0.0.1:0".parse().unwrap(), token).unwrap();
                let mut service = Service::bind(&config, sources).await.unwrap();
                if let Some((max, idle_max)) = bounds {
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    service.address = listener.local_addr().unwrap();
                    service.listener = BoundedListener::with_bounds(listener, max, idle_max);
                }
                report.send(service.address()).unwrap();
                service.run(async { drop(stopped.await) }).await
            })
        });
        Self { address: address.recv().unwrap(), ready, stop, thread }
    }

    pub(crate) fn ask(&self, target: &str, header: &str) -> String {
        self.say("GET", target, header)
    }

    fn say(&self, method: &str, target: &str, header: &str) -> String {
        self.send(method, target, header, "")
    }

    /// A request with a body; whoever sends one says in the header how long it is.
    pub(crate) fn send(&self, method: &str, target: &str, header: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        write!(stream, "{head}{header}\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn check(&self, target: &str, header: &str, status: u16, body: &str) {
        let answer = self.ask(target, header);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
        assert!(answer.ends_with(body), "{target}: {answer}");
    }

    pub(crate) fn stop(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap().unwrap();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn sources(ready: &Arc<AtomicBool>) -> Sources {
    let ready = Arc::clone(ready);
    Sources::new()
        .with_metrics("text/plain; version=0.0.4", || "ratatosk_up 1\n".to_owned())
        .with_status(|| serde_json::json!({"node": "n1"}))
        .with_expiry(|tenant, expiry| match expiry {
            _ if tenant == "busy" => Err("try again later".to_owned()),
            Expiry::InactiveSessions { away_min } => {
                Ok(usize::try_from(away_min.as_secs()).unwrap())
            }
            Expiry::RetainedMessages => Ok(tenant.len()),
        })
        .with_checks(move || {
            let done = ready.load(Ordering::Relaxed);
            let store = if done { Ok(()) } else { Err("replaying the log".to_owned()) };
            vec![
                Check { name: "listeners".to_owned(), state: Ok(()) },
                Check { name: "store".to_owned(), state: store },
            ]
        })
}

/// MET-014: the metrics are served as Prometheus text.
#[test]
fn metrics_status_and_liveness_are_served() {
    let running = Running::start(None, None);
    let metrics = running.ask("/metrics", "");
    assert!(metrics.contains("content-type: text/plain; version=0.0.4\r\n"), "{metrics}");
    assert!(metrics.ends_with("\r\n\r\nratatosk_up 1\n"), "{metrics}");
    running.check("/status", "", 200, "{\"node\":\"n1\"}\n");
    running.check("/livez", "", 200, "ok\n");
    running.check("/nowhere", "", 404, "");
    running.stop();
}

#[test]
fn readiness_says_what_is_awaited() {
    let running = Running::start(None, None);
    running.check("/readyz", "", 503, "\r\n\r\n[-] store: replaying the log\nnot ready\n");
    let verbose = "\r\n\r\n[+] listeners ok\n[-] store: replaying the log\nnot ready\n";
    running.check("/readyz?verbose", "", 503, verbose);
    running.ready.store(true, Ordering::Relaxed);
    running.check("/readyz", "", 200, "\r\n\r\nok\n");
    running.check("/readyz?a=1&verbose=1", "", 200, "[+] listeners ok\n[+] store ok\nok\n");
    running.stop();
}

/// SEC-004: with a token nothing but the health checks answers without it.
#[test]
fn a_token_guards_everything_but_the_health_checks() {
    let running = Running::start(Some(Token::parse(TOKEN).unwrap()), None);
    for target in ["/metrics", "/status"] {
        running.check(target, "", 401, "a bearer token is needed\n");
        running.check(target, "Authorization: Bearer 0123456789abcdeX\r\n", 401, "needed\n");
        running.check(target, &format!("Authorization: Basic {TOKEN}\r\n"), 401, "needed\n");
        running.check(target, &format!("Authorization: bearer {TOKEN}\r\n"), 200, "\n");
    }
    running.check("/livez", "", 200, "ok\n");
    running.check("/readyz", "", 503, "not ready\n");
    running.stop();
}

/// INBOX-016, RET-009: what a tenant has is ordered to end by whoever has the token.
#[test]
fn what_a_tenant_has_is_ordered_to_end() {
    let running = Running::start(Some(Token::parse(TOKEN).unwrap()), None);
    let check = |target: &str, status: u16, body: &str| {
        let answer = running.say("DELETE", target, &format!("Authorization: Bearer {TOKEN}\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}\n")), "{target}: {answer}");
    };
    check("/tenants/t/sessions/inactive", 202, r#"{"sessions":0,"tenant":"t"}"#);
    check("/tenants/a%20b/sessions/inactive?away=60", 202, r#"{"sessions":60,"tenant":"a b"}"#);
    check("/tenants/a%2fb/retained", 202, r#"{"messages":3,"tenant":"a/b"}"#);
    check("/tenants/busy/retained", 503, "try again later");
    check("/tenants/t/sessions/inactive?away=soon", 400, "away=soon is no number of seconds");
    check("/tenants/t/sessions/inactive?all", 400, r#""all" is not known here: away=SECONDS is"#);
    running.check("/tenants/t/retained", &format!("Authorization: Bearer {TOKEN}\r\n"), 405, "");
    let answer = running.say("DELETE", "/tenants/t/retained", "");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    running.stop();
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = Config::new(address, None).unwrap();
    let error = runtime().block_on(Service::bind(&config, Sources::new())).unwrap_err();
    assert!(matches!(error, Error::AddressInUse { .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn connections_are_bounded_and_silent_ones_make_room() {
    let running = Running::start(None, Some((1, Duration::from_secs(1))));
    let mut silent = TcpStream::connect(running.address).unwrap();
    // It waits for the silent one's place, and gets it once that was closed.
    running.check("/livez", "", 200, "ok\n");
    assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0, "the silent one was closed");
    running.stop();
}

#[test]
fn stopping_does_not_wait_for_silent_connections_forever() {
    let running = Running::start(None, None);
    let silent = TcpStream::connect(running.address).unwrap();
    running.check("/livez", "", 200, "ok\n");
    running.stop();
    drop(silent);
}
