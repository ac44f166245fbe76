//! Which node serves which partition of persistent sessions: the one whose store leads its range.
//!
//! Stores tell who leads what; which node has a store is in the directory of stores. Both may be late, and
//! whoever is asked and does not serve says so.

use std::sync::Arc;

use parking_lot::Mutex;
use ratatosk_client::{Ranges as _, Route, Router};
use ratatosk_inbox::{SeatWatch, partition_keys};
use ratatosk_inbox_remote::{PARTITION_COUNT, Seat, Seats};
use ratatosk_remote::{Network, Roll};
use tokio::sync::watch;

use crate::store::Space;

/// See the module.
pub(super) struct RangeSeats {
    router: Router,
    network: Network,
    known: Mutex<Vec<Option<Seat>>>,
    changes: watch::Sender<u64>,
}

impl RangeSeats {
    pub(super) fn new(router: Router, network: Network) -> Arc<Self> {
        let known = Mutex::new(vec![None; PARTITION_COUNT]);
        Arc::new(Self { router, network, known, changes: watch::Sender::new(0) })
    }

    /// For the inbox of this node, which knows first what it serves.
    pub(super) fn stirrer(self: &Arc<Self>) -> SeatWatch {
        let seats = Arc::downgrade(self);
        Box::new(move |_| {
            if let Some(seats) = seats.upgrade() {
                seats.changes.send_modify(|number| *number += 1);
            }
        })
    }

    /// Takes over what is known now.
    pub(super) fn look(&self) {
        let routes = self.router.routes(Space::Inbox.name());
        let roll = Arc::clone(&self.network.roll().borrow());
        let seats = (0..PARTITION_COUNT).map(|number| seat_of(number, &routes, &roll)).collect();
        let mut known = self.known.lock();
        if *known != seats {
            *known = seats;
            drop(known);
            self.changes.send_modify(|number| *number += 1);
        }
    }
}

impl Seats for RangeSeats {
    fn seat(&self, partition: usize) -> Option<Seat> {
        self.known.lock().get(partition).copied().flatten()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Who serves a partition, if the range that has all of it is led by somebody who is there.
fn seat_of(partition: usize, routes: &[Route], roll: &Roll) -> Option<Seat> {
    let keys = partition_keys(partition);
    let behind = routes.partition_point(|route| route.descriptor.boundary.start <= keys.start);
    let route = &routes[behind.checked_sub(1)?];
    let leader = route.leader?;
    let is_whole = match (&route.descriptor.boundary.end, &keys.end) {
        (None, _) => true,
        (Some(end), Some(last)) => last <= end,
        (Some(_), None) => false,
    };
    let host = roll.seats.get(&leader.store)?.host;
    // A range that was parted from another one may be led by the same store in the same term.
    let term = leader.term.wrapping_shl(16) ^ route.descriptor.version.boundary;
    is_whole.then_some(Seat { host, term, range: route.descriptor.group.0 })
}

#[cfg(test)]
mod tests {
    use ratatosk_client::Leader;
    use ratatosk_engine::KeyRange;
    use ratatosk_rpc::HostId;
    use ratatosk_store::log::GroupId;
    use ratatosk_store::range::{Descriptor, Version};

    use super::*;

    const HOST: HostId = HostId(7);

    /// The range of some partitions, led by store 5 if anybody leads it.
    fn route(group: u64, first: usize, behind: usize, leader: Option<u64>) -> Route {
        let end = (behind < PARTITION_COUNT).then(|| partition_keys(behind).start);
        let boundary = KeyRange { start: partition_keys(first).start, end };
        let version = Version { boundary: group, config: 0 };
        let whole = Descriptor::whole(GroupId(group), "inbox.session".to_owned(), 5);
        let descriptor = Descriptor { boundary, version, ..whole };
        Route { descriptor, leader: leader.map(|term| Leader { term, store: 5 }) }
    }

    fn roll() -> Roll {
        let seat = ratatosk_remote::Seat { host: HOST, address: None };
        Roll { seats: [(5, seat)].into(), ..Roll::default() }
    }

    /// INBOX-013: whoever leads the range of a partition serves it, and another one in another term.
    #[test]
    fn the_host_of_a_ranges_leader_serves_its_partitions() {
        let routes = [route(1, 0, 32, Some(3)), route(2, 32, PARTITION_COUNT, Some(3))];
        let seats: Vec<_> = [0, 31, 32, 63].map(|at| seat_of(at, &routes, &roll())).into();
        assert!(seats.iter().all(|seat| seat.is_some_and(|seat| seat.host == HOST)));
        assert_eq!(seats[0], seats[1]);
        assert_ne!(seats[1], seats[2], "they are of two reigns");
        let later = [route(1, 0, PARTITION_COUNT, Some(4))];
        assert_ne!(seat_of(0, &later, &roll()), seats[0]);
    }

    #[test]
    fn nobody_serves_a_partition_whose_range_is_not_known_or_not_led() {
        let routes = [route(1, 0, 32, None), route(3, 40, PARTITION_COUNT, Some(3))];
        assert_eq!(seat_of(0, &routes, &roll()), None, "nobody leads it");
        assert_eq!(seat_of(35, &routes, &roll()), None, "its range is not known");
        assert_eq!(seat_of(35, &[], &roll()), None);
        assert_eq!(seat_of(40, &routes, &Roll::default()), None, "its store is not there");
        assert!(seat_of(40, &routes, &roll()).is_some());
    }
}
