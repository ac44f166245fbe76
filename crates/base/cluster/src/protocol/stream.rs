//! What is around the frames of a connection: who may speak, and the seal.
//!
//! Each end opens with 40 bytes, the answerer after it has seen those of the asker: environment, cluster
//! and a nonce, in the clear. With a key, both directions have keys of their own that are derived from
//! all of these 80 bytes, and count their frames: nothing can be replayed, left out, turned round or
//! taken from another connection. Bytes are in `docs/formats/gossip.md`.
//!
//! Bytes go in by [`Stream::receive`] and come out by [`Stream::output`]; nobody waits in here.

use ring::aead;

use super::envelope::EnvironmentTag;
use super::frame::FRAME_MAX;
use super::front::Front;
use super::identity::ClusterId;
use super::key::{KeyId, KeyRing, nonce};
use super::machine::Side;
use super::refusal::Refusal;
use super::wire::Reader;

/// Bytes that each end opens with.
pub(crate) const OPENING: usize = 40;
const TAG: usize = 16;
const MAGIC: [u8; 2] = *b"Rs";

/// What a host says of itself at the beginning.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) environment: EnvironmentTag,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) keys: Option<KeyRing>,
}

/// The cluster of whoever opened so, by its own word.
///
/// # Errors
/// It is no opening of this version.
pub(crate) fn cluster_of(opening: &[u8; OPENING]) -> Result<Option<ClusterId>, Refusal> {
    Ok(Front::decode(MAGIC, &mut Reader::new(opening))?.cluster)
}

/// One end of a connection.
pub(crate) struct Stream {
    side: Side,
    credentials: Credentials,
    nonce: [u8; 16],
    opening: Option<[u8; OPENING]>,
    is_open: bool,
    sealing: Option<Direction>,
    unsealing: Option<Direction>,
    input: Vec<u8>,
    /// Frames that wait for the other end to open.
    queued: Vec<Vec<u8>>,
    /// Bytes to send; whoever sends them takes them off.
    pub(crate) output: Vec<u8>,
}

struct Direction {
    key: aead::LessSafeKey,
    counter: u64,
}

impl Stream {
    /// An end of a new connection. The nonce has never been used.
    pub(crate) fn new(side: Side, credentials: Credentials, nonce: [u8; 16]) -> Stream {
        let key = credentials.keys.as_ref().map(|keys| keys.first().id);
        let mut stream = Stream {
            side,
            credentials,
            nonce,
            opening: None,
            is_open: false,
            sealing: None,
            unsealing: None,
            input: Vec::new(),
            queued: Vec::new(),
            output: Vec::new(),
        };
        if side == Side::Asker {
            stream.say_opening(key);
        }
        stream
    }

    /// Takes bytes of the other end. What is kept of them is at most one frame and what was passed here
    /// last.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Sends a frame, once the other end has opened.
    pub(crate) fn send(&mut self, frame: Vec<u8>) {
        assert!(frame.len() <= FRAME_MAX, "a frame of {} bytes", frame.len());
        if self.is_open { self.seal(frame) } else { self.queued.push(frame) }
    }

    /// The next frame of the other end, if it is whole.
    ///
    /// # Errors
    /// If the other end may not speak here; the connection is to be closed.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Vec<u8>>, Refusal> {
        if !self.is_open && !self.hear_opening()? {
            return Ok(None);
        }
        let Some((head, rest)) = self.input.split_first_chunk::<4>() else { return Ok(None) };
        let tag = if self.unsealing.is_some() { TAG } else { 0 };
        let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if length > FRAME_MAX + tag {
            return Err(Refusal::Oversized);
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let mut body = body.to_vec();
        if let Some(direction) = &mut self.unsealing {
            direction.counter += 1;
            let nonce = nonce(direction.counter);
            let opened = direction.key.open_in_place(nonce, aead::Aad::from(head), &mut body);
            let length = opened.map_err(|_| Refusal::Forged)?.len();
            body.truncate(length);
        }
        self.input.drain(..4 + length);
        Ok(Some(body))
    }

    fn seal(&mut self, mut body: Vec<u8>) {
        let tag = if self.sealing.is_some() { TAG } else { 0 };
        let length = u32::try_from(body.len() + tag).expect("a frame is short");
        let head = length.to_be_bytes();
        if let Some(direction) = &mut self.sealing {
            direction.counter += 1;
            let nonce = nonce(direction.counter);
            let sealed =
                direction.key.seal_in_place_append_tag(nonce, aead::Aad::from(&head), &mut body);
            sealed.expect("a frame is short enough to be sealed");
        }
        self.output.extend_from_slice(&head);
        self.output.append(&mut body);
    }

    fn say_opening(&mut self, key: Option<KeyId>) {
        let mut opening = Vec::with_capacity(OPENING);
        let Credentials { environment, cluster, .. } = self.credentials;
        Front { key, environment, cluster }.encode(MAGIC, &mut opening);
        opening.extend_from_slice(&self.nonce);
        self.output.extend_from_slice(&opening);
        self.opening = opening.try_into().ok();
    }

    fn hear_opening(&mut self) -> Result<bool, Refusal> {
        if self.input.first().is_some_and(|byte| *byte != MAGIC[0]) {
            return Err(Refusal::Magic);
        }
        let Some(theirs) = self.input.first_chunk::<OPENING>().copied() else { return Ok(false) };
        let opening = Front::decode(MAGIC, &mut Reader::new(&theirs))?;
        let credentials = &self.credentials;
        if opening.environment != credentials.environment {
            return Err(Refusal::Environment);
        }
        let is_foreign = |(mine, theirs)| mine != theirs;
        if credentials.cluster.zip(opening.cluster).is_some_and(is_foreign) {
            return Err(Refusal::Cluster);
        }
        let key = match (&credentials.keys, opening.key) {
            (None, None) => None,
            (Some(_), None) => return Err(Refusal::Unsealed),
            (None, Some(_)) => return Err(Refusal::Sealed),
            // The answerer takes the key of the asker.
            (Some(keys), Some(id)) => {
                let is_asked = self.side == Side::Answerer || id == keys.first().id;
                Some(keys.find(id).filter(|_| is_asked).cloned().ok_or(Refusal::UnknownKey)?)
            }
        };
        if self.side == Side::Answerer {
            self.say_opening(opening.key);
        }
        let mine = self.opening.ok_or(Refusal::Malformed)?;
        let (asker, answerer) = match self.side {
            Side::Asker => (&mine, &theirs),
            Side::Answerer => (&theirs, &mine),
        };
        let direction = |speaker: u8| {
            let key = key.as_ref()?.derive(&[b"stream", asker, answerer, &[speaker]]);
            Some(Direction { key, counter: 0 })
        };
        let (to_answerer, to_asker) = (direction(1), direction(2));
        (self.sealing, self.unsealing) = match self.side {
            Side::Asker => (to_answerer, to_asker),
            Side::Answerer => (to_asker, to_answerer),
        };
        self.input.drain(..OPENING);
        self.is_open = true;
        for frame in std::mem::take(&mut self.queued) {
            self.seal(frame);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::environment_tag;

    const ONE: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const TWO: &str = "100102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn credentials(environment: &str, keys: &str) -> Credentials {
        let environment = environment_tag(environment);
        Credentials { environment, cluster: None, keys: KeyRing::parse(keys).ok() }
    }

    fn pair(asker: &Credentials, answerer: &Credentials) -> (Stream, Stream) {
        let asker = Stream::new(Side::Asker, asker.clone(), [1; 16]);
        (asker, Stream::new(Side::Answerer, answerer.clone(), [2; 16]))
    }

    fn pass(from: &mut Stream, to: &mut Stream) -> Result<Option<Vec<u8>>, Refusal> {
        to.receive(&std::mem::take(&mut from.output));
        to.next_frame()
    }

    /// CLU-012: frames go both ways under keys of the connection, also while a key is being replaced.
    #[test]
    fn frames_go_both_ways_with_and_without_keys() {
        for (mine, theirs) in [("", ""), (ONE, ONE), (&*format!("{ONE}\n{TWO}"), TWO)] {
            let (mine, theirs) = (credentials("a", mine), credentials("a", theirs));
            // The one that has both answers the one that has only the newer.
            let (mut asker, mut answerer) = pair(&theirs, &mine);
            asker.send(b"question".to_vec());
            assert_eq!(pass(&mut asker, &mut answerer), Ok(None));
            assert_eq!(pass(&mut answerer, &mut asker), Ok(None));
            let sealed = asker.output.clone();
            assert_eq!(pass(&mut asker, &mut answerer), Ok(Some(b"question".to_vec())));
            assert_eq!(mine.keys.is_none(), sealed.windows(8).any(|it| it == b"question"));
            answerer.send(vec![7; FRAME_MAX]);
            assert_eq!(pass(&mut answerer, &mut asker), Ok(Some(vec![7; FRAME_MAX])));
            if mine.keys.is_some() {
                answerer.receive(&sealed);
                assert_eq!(answerer.next_frame(), Err(Refusal::Forged), "a replay");
            }
        }
    }

    #[test]
    fn bytes_may_come_one_by_one() {
        let (mut asker, mut answerer) = pair(&credentials("a", ONE), &credentials("a", ONE));
        asker.send(b"question".to_vec());
        let mut frames = 0;
        for _ in 0..3 {
            for byte in std::mem::take(&mut asker.output) {
                answerer.receive(&[byte]);
                frames += usize::from(answerer.next_frame().expect("is fine").is_some());
            }
            assert_eq!(pass(&mut answerer, &mut asker), Ok(None));
        }
        assert_eq!(frames, 1);
    }

    /// CLU-003, CLU-012: who is of another environment or has another key is turned away.
    #[test]
    fn who_may_not_speak_is_turned_away() {
        let refusal = |mine: &Credentials, theirs: &Credentials| {
            let (mut asker, mut answerer) = pair(theirs, mine);
            pass(&mut asker, &mut answerer).expect_err("is refused")
        };
        let (plain, one) = (credentials("a", ""), credentials("a", ONE));
        assert_eq!(refusal(&plain, &credentials("b", "")), Refusal::Environment);
        assert_eq!(refusal(&plain, &one), Refusal::Sealed);
        assert_eq!(refusal(&one, &plain), Refusal::Unsealed);
        assert_eq!(refusal(&one, &credentials("a", TWO)), Refusal::UnknownKey);
        let of = |byte| Credentials { cluster: ClusterId::from_number(byte), ..plain.clone() };
        assert_eq!(refusal(&of(1), &of(2)), Refusal::Cluster);
        let mut stream = Stream::new(Side::Answerer, plain, [1; 16]);
        stream.receive(b"GET / HTTP/1.1\r\n");
        assert_eq!(stream.next_frame(), Err(Refusal::Magic));
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_is_there() {
        let (mut asker, mut answerer) = pair(&credentials("a", ""), &credentials("a", ""));
        assert_eq!(pass(&mut asker, &mut answerer), Ok(None));
        answerer.receive(&u32::try_from(FRAME_MAX + 1).expect("fits").to_be_bytes());
        assert_eq!(answerer.next_frame(), Err(Refusal::Oversized));
    }
}
