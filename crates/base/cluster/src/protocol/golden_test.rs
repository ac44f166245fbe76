//! Bytes on the wire as they were released: hosts of different builds have to understand each other.
//!
//! The sealed ones were checked with another implementation of HKDF and ChaCha20-Poly1305.

use std::net::SocketAddr;

use foca::{Codec, Header, Message};

use super::envelope::{Sealer, environment_tag};
use super::frame::Frame;
use super::identity::{ClusterId, Host, HostId};
use super::key::KeyRing;
use super::machine::Side;
use super::stream::{Credentials, Stream};
use super::swim_codec::SwimCodec;

const SECRET: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

const PLAIN: &str = "\
    52 6b 01 00 00 00 00 00 6b ba b1 31 51 a2 55 91 00 00 00 00 00 00 00 07 \
    02 02 02 02 02 02 02 02 02 02 02 02 02 02 02 02 00 00 00 00 00 00 00 01 \
    01 01 00 01 \
    04 0a 00 00 02 1e cb 00 00 00 00 00 00 00 01 02 02 02 02 02 02 02 02 02 02 02 02 02 02 02 02 \
    04 0a 00 00 01 1e cb 00 00 00 00 00 00 00 01 01 01 01 01 01 01 01 01 01 01 01 01 01 01 01 01 \
    03";

const SEALED: &str = "\
    52 6b 01 01 ee 7e 77 1e 6b ba b1 31 51 a2 55 91 00 00 00 00 00 00 00 07 \
    02 02 02 02 02 02 02 02 02 02 02 02 02 02 02 02 00 00 00 00 00 00 00 01 \
    6d 2e 46 cf 6d 80 77 80 18 93 fa 76 28 86 34 dd 32 7e a1 be 69 06 1c 92 32 64 98 34 5a 4e 80 b9 \
    fa 79 14 f3 1a 1d b4 e3 4e 5e 53 8c c9 7c a2 da 88 51 20 47 3e f0 f3 bd 3d 0a d8 5c a9 16 8f 71 \
    b5 a2 cf 9c 7a 99 e1 b0 ad 3e 80 cc 55 fb 35 49 98 c2 6e";

const OPENING: &str = "\
    52 73 01 01 ee 7e 77 1e 42 5e c1 23 8f d8 af 4e 00 00 00 00 00 00 00 00 \
    02 02 02 02 02 02 02 02 02 02 02 02 02 02 02 02";

const FRAMES: &str = "\
    00 00 00 11 ed f0 18 3f 02 f8 26 06 d1 e6 5b f4 29 bd 53 ba 9b \
    00 00 00 23 e2 5f 96 be 2b 40 3a 34 20 9c fd 55 41 00 4f 48 98 c7 47 86 a9 51 73 41 e9 70 4c 36 \
    9c 9b 4b c6 07 55 c8";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn host(last: u8) -> Host {
    let address = SocketAddr::from(([10, 0, 0, last], 7883));
    Host { address, generation: 1, id: HostId::from_bytes([last; 16]) }
}

#[test]
fn a_probe_has_the_bytes_that_it_always_had() {
    let mut body = vec![1];
    let message = Message::Ping(3);
    let header = Header { src: host(2), src_incarnation: 1, dst: host(1), message };
    SwimCodec::default().encode_header(&header, &mut body).expect("there is room");
    let datagram = |keys: Option<&KeyRing>| {
        let mut sealer = Sealer::new(environment_tag("prod"), host(2).id, keys);
        hex(&sealer.seal(ClusterId::from_number(7), &body))
    };
    assert_eq!(datagram(None), PLAIN);
    assert_eq!(datagram(KeyRing::parse(SECRET).ok().as_ref()), SEALED);
}

#[test]
fn frames_have_the_bytes_that_they_always_had() {
    let environment = environment_tag("fuzz");
    let keys = KeyRing::parse(SECRET).ok();
    let credentials = Credentials { environment, cluster: None, keys };
    let mut asker = Stream::new(Side::Asker, credentials.clone(), [2; 16]);
    let mut answerer = Stream::new(Side::Answerer, credentials, [1; 16]);
    asker.send(Frame::Taken.encode());
    asker.send(Frame::Fetch { hosts: vec![host(1).id] }.encode());
    let opening = std::mem::take(&mut asker.output);
    assert_eq!(hex(&opening), OPENING);
    answerer.receive(&opening);
    assert_eq!(answerer.next_frame(), Ok(None));
    asker.receive(&answerer.output);
    assert_eq!(asker.next_frame(), Ok(None));
    assert_eq!(hex(&asker.output), FRAMES);
}
