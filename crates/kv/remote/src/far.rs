//! A store that is elsewhere, as clients of ranges reach it.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_client::Store;
use ratatosk_store::log::GroupId;
use ratatosk_store::node::{Reply, Told};
use ratatosk_store::range::Version;

use crate::line::Wish;
use crate::peer::Peer;

/// The way to a store of another process.
pub(crate) struct Far(pub(crate) Arc<Peer>);

impl Store for Far {
    fn ask_status(&self, told: Told) {
        self.0.status.ask(told);
    }

    fn propose(&self, term: u64, group: GroupId, data: Vec<u8>, reply: Reply) {
        self.0.line.wish(Wish::Entry { term, group, data }, reply);
    }

    fn query(&self, group: GroupId, version: Version, question: Bytes, reply: Reply) {
        self.0.line.wish(Wish::Answer { group, version, question }, reply);
    }

    fn is_short(&self) -> bool {
        self.0.status.is_short()
    }
}
