//! What is stored: the bytes are specified in `docs/formats/dist.md`.

mod route;

pub(crate) use route::{
    Kept, Stored, TENANT_BYTES_MAX, decode, key, keys_of, member_inbox, put_kept, record, take_kept,
};
