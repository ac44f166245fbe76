//! Faults of a store that are put in on purpose.

use ratatosk_store::command::{self, Commands, Order};
use ratatosk_store::machine::{Input, Verdict};
use ratatosk_store::transport::Packet;

use super::{Store, Ticket};
use crate::cluster::callers::ORDER;
use crate::cluster::register;
use crate::planted::Planted;

impl Store {
    /// The fault of the same name.
    pub(super) fn with_own_version(&self, input: Input<Ticket>) -> Input<Ticket> {
        let Input::Propose { group, term, data, ticket } = input else { return input };
        let held = self.host.ranges().find(|held| held.group == group);
        let order = command::parse(&data.clone().into()).map(|(_, order)| order);
        let data = match (held, order) {
            (Some(held), Ok(Order::Commands { edition, commands })) => {
                let mut renewed = Commands::in_edition(held.version, edition);
                commands.iter().for_each(|command| renewed.push(command));
                renewed.into_data()
            }
            _ => data,
        };
        Input::Propose { group, term, data, ticket }
    }

    /// The faults that have to do with merges.
    pub(super) fn plant_merge_faults(&mut self) {
        for held in self.host.ranges() {
            let Some(frozen) = held.frozen else { continue };
            let (group, me) = (held.group, held.membership.of_store(self.number));
            match (self.planted, me) {
                (Some(Planted::ThawUnproven), Some(me)) => {
                    let (replica, verdict) = (me.id, Verdict::Apart);
                    self.inputs.push(Input::Told { group, replica, verdict });
                }
                (Some(Planted::MergeUnchecked), _) => {
                    let order = command::merge(frozen.expected, held);
                    self.inputs.push(Input::Urged { group: frozen.into, order });
                }
                _ => {}
            }
        }
    }

    /// The faults that have to do with editions.
    pub(super) fn plant_upgrades(&mut self) {
        if self.planted != Some(Planted::GateIgnored) {
            return;
        }
        for held in self.host.ranges().filter(|held| held.edition < self.newest) {
            let (group, data) = (held.group, command::upgrade(held.version, self.newest));
            self.inputs.push(Input::Propose { group, term: None, data, ticket: ORDER });
        }
    }

    /// What is heard in place of a packet.
    pub(super) fn misheard(&self, from: u64, packet: Packet) -> Packet {
        let Packet::Beat(mut beat) = packet else { return packet };
        let mut ranges = self.host.ranges();
        let is_stranger = ranges.all(|held| held.membership.of_store(from).is_none());
        if self.planted == Some(Planted::NewcomerUnchecked) && is_stranger {
            beat.supported = register::keyspaces(self.newest).supported().into();
        }
        Packet::Beat(beat)
    }
}
