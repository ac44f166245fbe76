//! What a store does wrong on purpose, with its inputs and with what its machine says.

use ratatosk_clock::Instant;
use ratatosk_store::command::{self, Commands, Order};
use ratatosk_store::machine::{Event, Input, Loan, Verdict};

use super::store::{Store, Ticket};
use crate::planted::Planted;

impl Store {
    /// The fault of the same name.
    pub(super) fn with_own_version(&self, input: Input<Ticket>) -> Input<Ticket> {
        let Input::Propose { group, term, data, ticket } = input else { return input };
        let held = self.host.ranges().find(|held| held.group == group);
        let order = command::parse(&data.clone().into()).map(|(_, order)| order);
        let data = match (held, order) {
            (Some(held), Ok(Order::Commands(commands))) => {
                let mut renewed = Commands::new(held.version);
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

    /// The fault that has to do with when a loan ends.
    pub(super) fn plant_loan_fault(&self, now: Instant, inputs: &mut [Input<Ticket>]) {
        for input in inputs {
            if let (Some(Planted::LoanLate), Input::Loan { loan: Loan::Lends { token, .. }, .. }) =
                (self.planted, input)
            {
                token.asked = now;
            }
        }
    }

    /// Those that have to do with who is waited for.
    pub(super) fn plant_answer_faults(&self, events: &mut [Event<Ticket>]) {
        for event in events {
            let Event::Withhold { behind, .. } = event else { continue };
            let is_forgotten = match self.planted {
                Some(Planted::HoldersForgotten) => *behind > 0,
                Some(Planted::LeaderHasty) => *behind == 0,
                _ => false,
            };
            if is_forgotten {
                *behind = u64::MAX;
            }
        }
    }
}
