//! All that leads to one other store: its lanes, its line for proposals, and the images of what it tells.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_engine::wire::Malformed;
use ratatosk_rpc::{Error, Sender};
use ratatosk_store::transport::Packet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::follow::{StatusImage, WordImage};
use crate::lane::{Lane, Queue};
use crate::line::Line;
use crate::network::Shared;
use crate::packet;
use crate::proto::Frame;
use crate::talk::{Purpose, Speech, Talk, keep, send};

/// Another store. Its tasks end with it.
pub(crate) struct Peer {
    pub(crate) store: u64,
    /// In the order of [`Lane::ALL`].
    queues: [Arc<Queue>; 2],
    pub(crate) status: Arc<StatusImage>,
    pub(crate) word: Arc<WordImage>,
    pub(crate) line: Arc<Line>,
    _end: DropGuard,
}

impl Peer {
    /// Begins to keep streams open to a store.
    pub(crate) fn start(shared: &Arc<Shared>, store: u64) -> Arc<Self> {
        let config = &shared.config;
        let bytes_max = [config.words_bytes_max, config.data_bytes_max];
        let queue = |place: usize| {
            let lane = Lane::ALL[place];
            Queue::new(bytes_max[place], shared.metrics.lane(store, lane))
        };
        let end = CancellationToken::new();
        let peer = Arc::new(Self {
            store,
            queues: [queue(0), queue(1)],
            status: Arc::default(),
            word: Arc::new(WordImage::new(shared.clock)),
            line: Arc::new(Line::new(config.proposals_bytes_max)),
            _end: end.clone().drop_guard(),
        });
        for (place, purpose) in [Purpose::Words, Purpose::Data].into_iter().enumerate() {
            let talk = LaneTalk(Arc::clone(&peer.queues[place]));
            let work = keep_lane(Arc::clone(shared), store, purpose, talk);
            shared.spawn_until(end.clone(), work);
        }
        let talks: [(Purpose, Arc<dyn Talk>); 3] = [
            (Purpose::Proposals, Arc::clone(&peer.line) as _),
            (Purpose::Status, Arc::clone(&peer.status) as _),
            (Purpose::Word, Arc::clone(&peer.word) as _),
        ];
        for (purpose, talk) in talks {
            let shared_too = Arc::clone(shared);
            let work = async move { keep(shared_too, store, purpose, &*talk).await };
            shared.spawn_until(end.clone(), work);
        }
        peer
    }

    /// Has packets go to the store.
    pub(crate) fn send(&self, packets: Vec<Packet>) {
        let is_data = |packet: &Packet| Lane::of(packet) == Lane::Data;
        if !packets.iter().any(is_data) {
            self.queues[0].push(packets);
            return;
        }
        let (data, words): (Vec<_>, Vec<_>) = packets.into_iter().partition(is_data);
        self.queues[0].push(words);
        self.queues[1].push(data);
    }
}

/// Keeps a lane open, from when this process has a store.
async fn keep_lane(shared: Arc<Shared>, store: u64, purpose: Purpose, talk: LaneTalk) {
    let mut homes = shared.home.subscribe();
    loop {
        let has_home = homes.wait_for(Option::is_some).await.is_ok();
        if !has_home {
            return;
        }
        let mut left = homes.clone();
        // Both are cancel-safe: a lane that is dropped is closed.
        tokio::select! {
            () = keep(Arc::clone(&shared), store, purpose, &talk) => {}
            _ = left.wait_for(Option::is_none) => {
                talk.lose(&Error::Internal { why: "there is no store here".to_owned() });
            }
        }
    }
}

/// What is said in a lane.
struct LaneTalk(Arc<Queue>);

impl Talk for LaneTalk {
    fn speak(&self, questions: Sender<Frame>) -> Speech<'_> {
        self.0.metrics.open.set(1);
        Box::pin(async move {
            loop {
                let packets = self.0.next().await;
                let mut batch = Vec::new();
                packets.iter().for_each(|packet| packet::encode(packet, &mut batch));
                let (count, bytes) = (packets.len() as u64, batch.len() as u64);
                drop(packets);
                if !send(&questions, batch.into()).await {
                    self.0.metrics.broken.add(count);
                    return;
                }
                self.0.metrics.packets.add(count);
                self.0.metrics.bytes.add(bytes);
            }
        })
    }

    /// The other side has nothing to say in it.
    fn hear(&self, _data: &Bytes) -> Result<(), Malformed> {
        Err(Malformed)
    }

    fn lose(&self, _why: &Error) {
        self.0.metrics.open.set(0);
        self.0.clear();
    }
}
