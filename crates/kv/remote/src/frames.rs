//! What one side sends as a whole, in frames: the first of a stream says who speaks, the others have parts.

use bytes::Bytes;
use ratatosk_rpc::Error;
use ratatosk_rpc::frames::{self, Joiner, Part, TooLong};

use crate::proto::Frame;

/// The frames of some bytes.
pub(crate) fn cut(data: Bytes) -> impl Iterator<Item = Frame> {
    frames::cut(data).map(|Part { data, goes_on }| Frame { hello: None, data, goes_on })
}

/// The bytes that are whole with this frame, if they are.
///
/// # Errors
/// When they are too many, or the frame is one that opens.
pub(crate) fn join(joiner: &mut Joiner, frame: Frame) -> Result<Option<Bytes>, Error> {
    let Frame { hello, data, goes_on } = frame;
    if hello.is_some() {
        return Err(refused("a second hello"));
    }
    let joined = joiner.take(Part { data, goes_on });
    joined.map_err(|TooLong| refused("more bytes than may be sent together"))
}

/// The peer broke the rules.
pub(crate) fn refused(why: &str) -> Error {
    Error::Refused { why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_opens_is_refused_where_parts_come() {
        let mut joiner = Joiner::new(10);
        for frame in cut(Bytes::from_static(b"part")) {
            assert_eq!(join(&mut joiner, frame), Ok(Some(Bytes::from_static(b"part"))));
        }
        let opens = Frame { hello: Some(Default::default()), ..Frame::default() };
        assert_eq!(join(&mut joiner, opens), Err(refused("a second hello")));
        let long = Frame { data: vec![7; 11].into(), ..Frame::default() };
        assert_eq!(join(&mut joiner, long), Err(refused("more bytes than may be sent together")));
    }
}
