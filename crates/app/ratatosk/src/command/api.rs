//! Asking a node's management API, with nothing but the standard library: one request a connection.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use ratatosk_admin::Token;
use serde::de::DeserializeOwned;

use crate::command::{ConfigurationArgs, load};

/// Larger answers are refused.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Where the API is, and how to be let in.
#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    /// The management API of a node [default: admin.address and admin.token of the configuration]
    #[arg(long, value_name = "http://HOST:PORT", value_parser = origin)]
    api: Option<String>,
    /// The API's bearer token; a file keeps it out of the list of processes
    #[arg(long, conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with the API's bearer token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// How an answer is printed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// As the API says it.
    Json,
}

/// A node's API.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    /// `host:port`.
    pub(crate) origin: String,
    token: Option<Token>,
    timeout: Duration,
}

/// What the API said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// The node refuses, and says why. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Refused {
    /// The status of the answer.
    pub(crate) status: u16,
    /// What it says.
    pub(crate) why: String,
}

impl ApiArgs {
    /// The API that is meant. The configuration is read only if no other one is named, so that its token goes
    /// nowhere else.
    pub(crate) fn open(&self, before: &ConfigurationArgs) -> anyhow::Result<Api> {
        let timeout = Duration::from_secs(self.timeout);
        let mut token = self.named_token()?;
        let origin = match &self.api {
            Some(origin) => origin.clone(),
            None => {
                let admin = load(&[before.clone(), self.configuration.clone()])?.admin;
                token = token.or_else(|| admin.token().cloned());
                reachable(admin.address()).to_string()
            }
        };
        Ok(Api { origin, token, timeout })
    }

    fn named_token(&self) -> anyhow::Result<Option<Token>> {
        let text = match (&self.token, &self.token_file) {
            (Some(text), _) => text.clone(),
            (None, Some(file)) => read_token(file)?,
            (None, None) => return Ok(None),
        };
        Token::parse(&text).map(Some).context("the token cannot be used")
    }
}

impl Api {
    /// The one at an address, without a token.
    pub(crate) fn at(address: SocketAddr, timeout: Duration) -> Self {
        Self { origin: reachable(address).to_string(), token: None, timeout }
    }

    /// Asks for something and reads it.
    ///
    /// # Errors
    /// [`Refused`] if the API says no; otherwise nobody can be asked there.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<(T, String)> {
        self.read(self.ask("GET", path, None)?)
    }

    /// Orders something.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        order: &impl serde::Serialize,
    ) -> anyhow::Result<(T, String)> {
        let body = serde_json::to_string(order)?;
        self.read(self.ask("POST", path, Some(&body))?)
    }

    fn read<T: DeserializeOwned>(&self, answer: Answer) -> anyhow::Result<(T, String)> {
        let Answer { status, body } = answer;
        match status {
            200..=299 => {}
            401 => {
                bail!("{} asks for its token: give --token-file FILE", self.origin)
            }
            _ => return Err(Refused { status, why: body.trim_end().to_owned() }.into()),
        }
        let value = serde_json::from_str(&body)
            .with_context(|| format!("{} answers in a way that is not known here", self.origin))?;
        Ok((value, body))
    }

    /// One request, and the answer whatever it is.
    ///
    /// # Errors
    /// Nobody answers there, or not in time, or no HTTP server does.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> anyhow::Result<Answer> {
        let origin = &self.origin;
        let mut stream = self.connect()?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nHost: {origin}\r\nConnection: close\r\n");
        if let Some(token) = &self.token {
            request.push_str(&format!("Authorization: Bearer {}\r\n", token.reveal()));
        }
        if let Some(body) = body {
            let length = body.len();
            request.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {length}\r\n"
            ));
        }
        request.push_str("\r\n");
        request.push_str(body.unwrap_or_default());
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
        read.with_context(|| format!("no answer from {origin}"))?;
        parse(&answer).with_context(|| format!("what answers at {origin} is no http server"))
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        let origin = &self.origin;
        let addresses =
            origin.to_socket_addrs().with_context(|| format!("{origin} is nobody's address"))?;
        let mut failure = None;
        for address in addresses {
            match TcpStream::connect_timeout(&address, self.timeout) {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Some(error),
            }
        }
        let failure = failure.unwrap_or_else(|| std::io::ErrorKind::AddrNotAvailable.into());
        Err(failure).with_context(|| format!("nobody answers at {origin}"))
    }
}

/// An answer without chunks: the API sends none.
fn parse(answer: &[u8]) -> anyhow::Result<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").context("its answer has no end of the head")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status =
        status.and_then(|status| status.parse().ok()).context("its answer has no status")?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if length.is_some_and(|length| body.len() < length) {
        bail!("its answer is cut off");
    }
    Ok(Answer { status, body: body.to_owned() })
}

/// One cannot connect to "every address".
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

fn read_token(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the token in {}", file.display()))?;
    Ok(text.trim().to_owned())
}

/// `http://host:port`, of which the host and the port are kept.
fn origin(text: &str) -> Result<String, String> {
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => {
            return Err(format!(
                "the api does not speak {scheme}: write http://HOST:PORT, and reach a node that is \
                 elsewhere through a tunnel or a proxy"
            ));
        }
        None => text,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let parts = rest.rsplit_once(':');
    let is_origin = parts.is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', '@', '?', '#']) && port.parse::<u16>().is_ok()
    });
    if is_origin { Ok(rest.to_owned()) } else { Err("write http://HOST:PORT".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_api_is_is_read_with_and_without_its_scheme() {
        for (text, expected) in [
            ("http://127.0.0.1:18083", "127.0.0.1:18083"),
            ("http://node-1.example:18083/", "node-1.example:18083"),
            ("[::1]:18083", "[::1]:18083"),
        ] {
            assert_eq!(origin(text), Ok(expected.to_owned()));
        }
        for text in ["https://host:1", "host", "http://:1", "http://host:1/cluster", "host:port"] {
            assert!(origin(text).is_err_and(|error| error.contains("http://HOST:PORT")), "{text}");
        }
    }

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let read = |text: &str| parse(text.as_bytes()).ok();
        let answer = |status, body: &str| Some(Answer { status, body: body.to_owned() });
        let whole = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
        assert_eq!(read(whole), answer(200, "ok\n"));
        assert_eq!(read("HTTP/1.1 503 No\r\n\r\nwhy"), answer(503, "why"));
        for wrong in [&whole[..whole.len() - 1], "SSH-2.0-OpenSSH\r\n", "HTTP/1.1\r\n\r\n", ""] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}
