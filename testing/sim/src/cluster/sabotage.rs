//! What a store does wrong on purpose, with its inputs and with what its machine says.

use std::time::Duration;

use ratatosk_clock::Instant;
use ratatosk_store::machine::{Event, Input, Loan};
use ratatosk_store::transport::Packet;

use super::faults::LEADER_PARTED;
use super::store::{Store, Ticket};
use crate::planted::Planted;

/// How much longer than any other a packet is on its way: so that it is found soon when a loan is
/// counted from.
pub(super) fn slower(planted: Option<Planted>, packet: &Packet) -> Duration {
    match (planted, packet) {
        (Some(Planted::LoanLate), Packet::Loan(Loan::Lends { .. })) => Duration::from_millis(500),
        _ => Duration::ZERO,
    }
}

/// What goes wrong instead of what was drawn: so that it is found soon that a lease is too long, leaders are parted
/// from the others more often.
pub(super) fn instead(planted: Option<Planted>, drawn: usize) -> usize {
    match planted {
        Some(Planted::LeaseLong) if drawn > 1 => LEADER_PARTED,
        _ => drawn,
    }
}

impl Store {
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
