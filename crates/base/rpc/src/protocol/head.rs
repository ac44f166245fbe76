//! What travels with a call, and with each message of a pipeline.
//!
//! Deadlines travel as the time that is left, so that no two clocks are compared.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::call::Trace;
use crate::identity::{NAME_BYTES_MAX, ServerId, Tenant};
use crate::protocol::frame::put_head;
use crate::protocol::reader::Reader;
use crate::protocol::{Kind, Malformed};

const HAS_DEADLINE: u8 = 1;
const HAS_TRACE: u8 = 2;
const IS_SAMPLED: u8 = 4;

const _: () = assert!(NAME_BYTES_MAX <= 255, "the length of a name is one byte");

/// Deadline and trace, of a call or of a message of a pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Time left, in milliseconds.
    pub(crate) remaining_ms: Option<u32>,
    /// Where in which trace.
    pub(crate) trace: Option<Trace>,
}

/// The first frame of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    /// The server that is meant.
    pub(crate) server: ServerId,
    /// Whose call it is.
    pub(crate) tenant: Tenant,
    /// Deadline and trace.
    pub(crate) head: Head,
}

/// Appends the first frame of a call.
pub(crate) fn put_open(out: &mut BytesMut, server: &ServerId, tenant: &Tenant, head: Head) {
    let (server, tenant) = (server.as_str(), tenant.as_str());
    let length = head_bytes(head) + 2 + server.len() + tenant.len();
    // A name is at most 255 bytes and a head 30, so no limit is met.
    let is_put = put_head(out, Kind::Open, length, usize::MAX);
    debug_assert!(is_put.is_ok());
    put(out, head);
    for text in [server, tenant] {
        out.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
        out.put_slice(text.as_bytes());
    }
}

/// Appends a message of a pipeline. Beyond the limit nothing is appended.
pub(crate) fn put_item<M: Message>(
    out: &mut BytesMut,
    head: Head,
    message: &M,
    limit: usize,
) -> Result<(), Malformed> {
    put_head(out, Kind::Item, head_bytes(head) + message.encoded_len(), limit)?;
    put(out, head);
    message.encode_raw(out);
    Ok(())
}

impl Open {
    /// What the body of a frame of [`Kind::Open`] says. What follows its fields is ignored: a
    /// later version may say more.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "the opening of a call");
        let head = decode(&mut reader)?;
        let server = ServerId::new(reader.text()?).map_err(|_| reader.unknown())?;
        let tenant = Tenant::new(reader.text()?).map_err(|_| reader.unknown())?;
        Ok(Self { server, tenant, head })
    }
}

/// What the body of a frame of [`Kind::Item`] says.
pub(crate) fn decode_item<M: Message + Default>(mut body: Bytes) -> Result<(Head, M), Malformed> {
    let mut reader = Reader::new(&body, "an item");
    let head = decode(&mut reader)?;
    let count = body.len() - reader.rest().len();
    body.advance(count);
    let message = M::decode(body).map_err(|_| Malformed::Unknown { what: "a message" })?;
    Ok((head, message))
}

const fn head_bytes(head: Head) -> usize {
    let deadline = if head.remaining_ms.is_some() { 4 } else { 0 };
    let trace = if head.trace.is_some() { 24 } else { 0 };
    1 + deadline + trace
}

fn put(out: &mut BytesMut, head: Head) {
    let mut flags = 0;
    if head.remaining_ms.is_some() {
        flags |= HAS_DEADLINE;
    }
    if let Some(trace) = head.trace {
        flags |= HAS_TRACE | if trace.is_sampled { IS_SAMPLED } else { 0 };
    }
    out.put_u8(flags);
    if let Some(remaining_ms) = head.remaining_ms {
        out.put_u32(remaining_ms);
    }
    if let Some(Trace { trace, span, .. }) = head.trace {
        out.put_u128(trace);
        out.put_u64(span);
    }
}

fn decode(reader: &mut Reader<'_>) -> Result<Head, Malformed> {
    let flags = reader.u8()?;
    if flags & !(HAS_DEADLINE | HAS_TRACE | IS_SAMPLED) != 0 {
        return Err(reader.unknown());
    }
    let remaining_ms = if flags & HAS_DEADLINE != 0 { Some(reader.u32()?) } else { None };
    let trace = if flags & HAS_TRACE != 0 {
        let is_sampled = flags & IS_SAMPLED != 0;
        Some(Trace { trace: reader.u128()?, span: reader.u64()?, is_sampled })
    } else {
        None
    };
    Ok(Head { remaining_ms, trace })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Assembler;
    use proptest::prelude::*;

    fn head() -> impl Strategy<Value = Head> {
        let trace = any::<(u128, u64, bool)>();
        let trace = trace.prop_map(|(trace, span, is_sampled)| Trace { trace, span, is_sampled });
        (any::<Option<u32>>(), prop::option::of(trace))
            .prop_map(|(remaining_ms, trace)| Head { remaining_ms, trace })
    }

    /// The bytes of `docs/formats/rpc.md`. They change with the major version only.
    #[test]
    fn frames_are_the_bytes_that_the_format_says() {
        let (server, tenant) = (ServerId::new("polly"), Tenant::new("acme"));
        let (server, tenant) = (server.expect("a name"), tenant.expect("a name"));
        let trace = Trace { trace: 0xabc, span: 0xdef, is_sampled: true };
        let head = Head { remaining_ms: Some(5_000), trace: Some(trace) };
        let mut bytes = BytesMut::new();
        put_open(&mut bytes, &server, &tenant, head);
        put_item(&mut bytes, Head::default(), &"hello".to_owned(), 100).expect("short");
        let (id, span) = (b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0a\xbc", b"\0\0\0\0\0\0\x0d\xef");
        let expected: [&[u8]; 7] = [
            b"\0\0\0\x28\x01\x07\0\0\x13\x88",
            id,
            span,
            b"\x05polly",
            b"\x04acme",
            b"\0\0\0\x08\x03\0",
            b"\x0a\x05hello",
        ];
        assert_eq!(bytes, expected.concat());
    }

    proptest! {
        /// RPC-011: tenant, deadline and trace come out as they went in.
        #[test]
        fn what_travels_with_a_call_arrives(
            head in head(), server in "[a-z]{1,255}", tenant in "[a-zé]{0,100}",
        ) {
            let (server, tenant) = (ServerId::new(&server)?, Tenant::new(&tenant)?);
            let mut bytes = BytesMut::new();
            put_open(&mut bytes, &server, &tenant, head);
            put_item(&mut bytes, head, &"text".to_owned(), 100).expect("within the limit");
            let mut assembler = Assembler::new(1_000);
            assembler.push(bytes.freeze());
            let open = assembler.next().expect("valid").expect("whole");
            prop_assert_eq!(Open::decode(&open.body), Ok(Open { server, tenant, head }));
            let item = assembler.next().expect("valid").expect("whole");
            prop_assert_eq!(decode_item::<String>(item.body), Ok((head, "text".to_owned())));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Open::decode(&bytes);
            let _ = decode_item::<String>(bytes.into());
        }
    }
}
