//! A proxy in front of the broker: says something first, then passes everything on.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

/// A proxy that listens until it is dropped.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    is_over: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Relay {
    /// Passes each connection on to a port of the loopback, after `header`.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(target: u16, header: &[u8]) -> Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port for a relay")?;
        let port = listener.local_addr()?.port();
        let is_over = Arc::new(AtomicBool::new(false));
        let header = header.to_vec();
        let seen = Arc::clone(&is_over);
        let acceptor = std::thread::spawn(move || {
            for client in listener.incoming() {
                if seen.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                // A connection that fails is for its client to notice.
                let _ = pass_on(&client, target, &header);
            }
        });
        Ok(Relay { port, is_over, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the acceptor; its connections end with their clients.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn pass_on(client: &TcpStream, target: u16, header: &[u8]) -> io::Result<()> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, target))?;
    io::Write::write_all(&mut server, header)?;
    copy(client.try_clone()?, server.try_clone()?);
    copy(server, client.try_clone()?);
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}
