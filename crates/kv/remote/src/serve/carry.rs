//! Takes packets of another store.

use ratatosk_engine::wire::Malformed;
use ratatosk_rpc::{Error, Receiver};

use super::Greeted;
use crate::frames::{join, refused};
use crate::lane::Lane;
use crate::network::{Home, Shared};
use crate::packet::{self, Decoded};
use crate::proto::Frame;
use crate::talk::Purpose;
use ratatosk_rpc::frames::Joiner;

pub(super) async fn carry(
    shared: &Shared,
    home: &Home,
    greeted: &Greeted,
    mut questions: Receiver<Frame>,
) -> Result<(), Error> {
    let lane = match greeted.purpose {
        Purpose::Words => Lane::Words,
        Purpose::Data => Lane::Data,
        _ => return Err(refused("that is no lane")),
    };
    let from = greeted.hello.from;
    let metrics = shared.metrics.inbound(from, lane);
    let mut joiner = Joiner::new(shared.config.whole_bytes_max);
    while let Some(frame) = questions.next().await {
        let joined = join(&mut joiner, frame).inspect_err(|_| shared.metrics.refuse("frames"))?;
        let Some(data) = joined else { continue };
        let decoded = packet::decode(&data).map_err(|Malformed| {
            shared.metrics.refuse("malformed");
            tracing::warn!(store = %format_args!("{from:016x}"), "packets make no sense");
            refused("packets that make no sense")
        })?;
        let Decoded { packets, unknown } = decoded;
        metrics.packets.add(packets.len() as u64);
        metrics.bytes.add(data.len() as u64);
        shared.metrics.unknown.add(unknown as u64);
        home.receiver.receive(from, packets);
    }
    Ok(())
}
