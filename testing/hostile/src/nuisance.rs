//! Attacks on patience: who connects and says nothing, speaks slowly, talks nonsense, or comes and
//! goes all the time.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{Target, mutation::Dice, neighbour::Client, packet, target::Listener};

/// Where each nuisance goes.
#[derive(Clone, Copy, Debug)]
struct Addresses {
    all: [SocketAddr; 4],
}

/// All nuisances at once, `scale` of each kind, for `span`.
///
/// # Errors
/// If the system gives no thread.
pub fn run(target: &Target, scale: usize, span: Duration) -> Result<()> {
    let all = [Listener::Tcp, Listener::Tls, Listener::Ws, Listener::Proxy];
    let addresses = Addresses { all: all.map(|listener| target.address(listener)) };
    let thread = std::thread::Builder::new().name("nuisances".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let _ = tokio::time::timeout(span, annoy(addresses, scale)).await;
        });
        anyhow::Ok(())
    })?;
    thread.join().map_err(|_| anyhow::anyhow!("the nuisances panicked"))?
}

async fn annoy(addresses: Addresses, scale: usize) {
    let mut crowd = JoinSet::new();
    for number in 0..scale {
        for kind in 0..7 {
            crowd.spawn(async move {
                let mut dice = Dice::new((number * 7 + kind) as u64);
                loop {
                    let _ = one(addresses, kind, number, &mut dice).await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
    }
    while crowd.join_next().await.is_some() {}
}

async fn one(addresses: Addresses, kind: usize, number: usize, dice: &mut Dice) -> Result<()> {
    let [tcp, ..] = addresses.all;
    let any = addresses.all[number % 4];
    match kind {
        0 => slow_connect(tcp).await,
        1 => silence(any).await,
        2 => wrong_first_packet(tcp, dice).await,
        3 => deep_topics(tcp, number).await,
        4 | 5 => garbage(any, number, dice).await,
        _ => churn(tcp, number).await,
    }
}

/// One byte of a CONNECT every tenth of a second.
async fn slow_connect(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    for byte in packet::connect("slow").iter().cycle() {
        stream.write_all(&[*byte]).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// A connection that says nothing at all, until it is closed.
async fn silence(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let mut one = [0];
    let _ = stream.read(&mut one).await?;
    Ok(())
}

async fn wrong_first_packet(address: SocketAddr, dice: &mut Dice) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let firsts: [&[u8]; 5] = [
        b"\xc0\x00",
        b"\x30\x05\x00\x01ahi",
        b"\x82\x06\x00\x01\x00\x01#\x00",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x10\xff\xff\xff\x7f",
    ];
    stream.write_all(firsts[dice.below(firsts.len())]).await?;
    drain(&mut stream).await
}

/// Topics and filters of 30,000 levels.
async fn deep_topics(address: SocketAddr, number: usize) -> Result<()> {
    let mut client = Client::connect(address, &format!("deep-{number}")).await?;
    let deep = "a/".repeat(30_000);
    let wild = "+/".repeat(30_000);
    client.send(&packet::subscribe([wild.as_str()].into_iter(), 0)).await?;
    client.send(&packet::publish(&deep, Some(1), b"", b"x")).await?;
    client.receive_until(|_, _| false).await.map(|_| ())
}

/// Random bytes, or a beginning that is right and goes wrong.
async fn garbage(address: SocketAddr, number: usize, dice: &mut Dice) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let beginnings: [&[u8]; 6] = [
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\
          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"PROXY UNKNOWN ",
    ];
    stream.write_all(beginnings[(number + dice.below(2)) % beginnings.len()]).await?;
    let size = 1 + dice.below(20_000);
    let noise: Vec<u8> = (0..size).map(|_| u8::try_from(dice.below(256)).unwrap_or(0)).collect();
    for piece in noise.chunks(1 + dice.below(4_000)) {
        stream.write_all(piece).await?;
    }
    drain(&mut stream).await
}

/// Comes, subscribes, publishes, and goes without a word.
async fn churn(address: SocketAddr, number: usize) -> Result<()> {
    let mut client = Client::connect(address, &format!("churn-{number}")).await?;
    client.send(&packet::subscribe(["churn/#", "churn/+/x"].into_iter(), 1)).await?;
    client.send(&packet::publish(&format!("churn/{number}"), Some(3), b"", b"x")).await?;
    client.receive_until(|first, _| first == 0x90).await.map(|_| ())
}

/// Reads until the broker closes, but not for ever.
async fn drain(stream: &mut TcpStream) -> Result<()> {
    let mut sink = vec![0; 4096];
    let read = async {
        while stream.read(&mut sink).await? > 0 {}
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(3), read).await?
}
