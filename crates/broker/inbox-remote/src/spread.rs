//! How many commands a part of a message takes, as far as it is known here.
//!
//! What is of one range, which one host serves, is one command: it is there as a whole or not at all. That is
//! judged by who serves the partitions and by where they are reached from here, of which each may be late.

use ratatosk_rpc::HostId;

use crate::cluster_inbox::Shared;
use crate::jobs::Group;

/// See the module.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// One command.
    One,
    /// Several.
    Several,
    /// One or several: some partitions are served by nobody, or a range changes hands, whose partitions are
    /// told of one after the other.
    NotKnown,
}

impl Shared {
    /// How many commands a group takes.
    pub(crate) fn spread(&self, group: &Group) -> Spread {
        let served: Option<Vec<_>> =
            group.partitions().map(|number| self.range_of(number)).collect();
        let Some(served) = served else { return Spread::NotKnown };
        let places = {
            let places = self.places.read();
            let of_group: Vec<_> =
                group.partitions().map(|number| places[number].clone()).collect();
            of_group
        };
        let is_one_range = served.windows(2).all(|two| two[0].1 == two[1].1);
        let is_one_host = served.windows(2).all(|two| two[0].0 == two[1].0)
            && places.windows(2).all(|two| two[0].is_with(&two[1]));
        match (is_one_range, is_one_host) {
            (true, true) => Spread::One,
            (true, false) => Spread::NotKnown,
            (false, _) => Spread::Several,
        }
    }

    /// Who serves a partition, and the range that it is of, as far as that is known.
    fn range_of(&self, number: usize) -> Option<(HostId, u64)> {
        let seat = self.seats.seat(number)?;
        let range = match seat.host == self.own {
            true => self.local.range(number)?,
            false => seat.range,
        };
        Some((seat.host, range))
    }
}
