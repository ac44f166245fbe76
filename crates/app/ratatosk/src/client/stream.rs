//! The byte stream to a broker: TCP, or TLS over it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;

use crate::client::arguments::ConnectionArgs;
use crate::client::trust;

/// How long a connection may take to come up, per address.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long a write may block.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// How long the broker may take to close after the last packet.
const FINISH_MAX: Duration = Duration::from_secs(2);

pub(crate) struct Stream {
    layer: Layer,
    peer: String,
}

enum Layer {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    pub(crate) fn open(args: &ConnectionArgs) -> anyhow::Result<Self> {
        let peer = format!("{}:{}", args.host, args.port());
        let socket = connect(&args.host, args.port())
            .with_context(|| format!("cannot connect to {peer}"))?;
        // A message must not wait for another to fill the segment.
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(WRITE_MAX))?;
        if !args.is_tls() {
            return Ok(Self { layer: Layer::Plain(socket), peer });
        }
        socket.set_read_timeout(Some(CONNECT_MAX))?;
        let name = ServerName::try_from(args.host.clone())
            .with_context(|| format!("{:?} is no host name", args.host))?;
        let connection = ClientConnection::new(trust::client_config(args)?, name)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            let StreamOwned { conn, sock } = &mut stream;
            conn.complete_io(sock).with_context(|| format!("no secure connection to {peer}"))?;
        }
        Ok(Self { layer: Layer::Tls(Box::new(stream)), peer })
    }

    /// The broker as it was named.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket().set_read_timeout(timeout)
    }

    /// Ends the sending side and waits a moment for the broker to do the same, so that nothing is
    /// cut off.
    pub(crate) fn finish(&mut self) {
        if let Layer::Tls(stream) = &mut self.layer {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        let socket = self.socket();
        let _ = socket.shutdown(Shutdown::Write);
        let _ = socket.set_read_timeout(Some(FINISH_MAX));
        let mut rest = [0; 1024];
        while self.read(&mut rest).is_ok_and(|length| length > 0) {}
    }

    fn socket(&self) -> &TcpStream {
        match &self.layer {
            Layer::Plain(socket) => socket,
            Layer::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.layer {
            Layer::Plain(socket) => socket.read(buffer),
            Layer::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.layer {
            Layer::Plain(socket) => socket.write(bytes),
            Layer::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.layer {
            Layer::Plain(socket) => socket.flush(),
            Layer::Tls(stream) => stream.flush(),
        }
    }
}

/// Tries every address of the host; the last failure is the one that counts.
fn connect(host: &str, port: u16) -> anyhow::Result<TcpStream> {
    let mut failure = anyhow!("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_MAX) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}
