//! What the program asks of a node's management API: a request, the whole answer, no more.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The token of all nodes: their API may be reached by others.
pub const TOKEN: &str = "a-token-of-a-test-program";
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The status and the body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status, such as 200.
    pub status: u16,
    /// What follows the head.
    pub body: String,
}

/// Asks for a path.
///
/// # Errors
/// If nobody answers within 5 s, or what comes is no answer.
pub async fn ask(address: SocketAddr, method: &str, path: &str) -> Result<Answer> {
    send(address, method, path, "").await
}

/// Asks for a path, with a body in JSON if it is not empty.
///
/// # Errors
/// As [`ask`].
pub async fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<Answer> {
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let bytes = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        anyhow::Ok(bytes)
    };
    let bytes = match timeout(ANSWER_MAX, bytes).await {
        Ok(bytes) => bytes.with_context(|| format!("{method} {path} at {address}"))?,
        Err(_) => bail!("{method} {path} at {address}: no answer within {ANSWER_MAX:?}"),
    };
    parse(&String::from_utf8_lossy(&bytes)).with_context(|| format!("{method} {path} at {address}"))
}

fn parse(text: &str) -> Result<Answer> {
    let (head, body) = text.split_once("\r\n\r\n").context("an answer has a head")?;
    let status = head.split(' ').nth(1).context("an answer has a status")?;
    let is_chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked");
    let body = if is_chunked { joined(body)? } else { body.to_owned() };
    Ok(Answer { status: status.parse().context("a status is a number")?, body })
}

/// The body of chunks.
fn joined(mut text: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (length, rest) = text.split_once("\r\n").context("a chunk has a length")?;
        let length = usize::from_str_radix(length, 16).context("a length is a number")?;
        if length == 0 {
            return Ok(body);
        }
        body.push_str(rest.get(..length).context("a chunk is whole")?);
        text = rest.get(length + 2..).context("a chunk has an end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_and_in_chunks() {
        let plain = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno";
        assert_eq!(parse(plain).unwrap(), Answer { status: 503, body: "no".to_owned() });
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(
            parse(chunks).unwrap(),
            Answer { status: 200, body: "abc0123456789".to_owned() }
        );
        assert!(parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na").is_err());
        assert!(parse("").is_err());
    }
}
