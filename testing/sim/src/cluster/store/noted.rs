//! What is noted of what a store has carried out.

use std::collections::BTreeMap;

use ratatosk_store::machine::Input;

use super::{Did, Stopped, Store, Ticket};
use crate::cluster::agreement::Agreement;

impl Store {
    /// Notes the edition in which each range is left that has come further.
    pub(super) fn note_editions(
        &self,
        inputs: &[Input<Ticket>],
        agreement: &mut Agreement,
    ) -> Result<(), Stopped> {
        // Of several of one group the last is the one that it is left with, if nothing of another store has
        // taken the place of that.
        let mut reached = BTreeMap::new();
        for input in inputs {
            match input {
                Input::Applied { group, index } => drop(reached.insert(*group, *index)),
                Input::Installed { descriptor } => drop(reached.remove(&descriptor.group)),
                _ => {}
            }
        }
        for (group, index) in reached {
            if let Some(held) = self.host.ranges().find(|held| held.group == group) {
                let noted = agreement.note_edition(group, index, held.edition);
                noted.map_err(Stopped::Failed)?;
            }
        }
        Ok(())
    }

    pub(super) fn note(&mut self, input: &Input<Ticket>, did: &mut Did) {
        match input {
            Input::Applied { group, index } => {
                self.applied.insert(*group, *index);
            }
            Input::Configured { descriptor, .. } => {
                did.notes.push(format!("{:?} has {:?}", descriptor.group, descriptor.membership));
                did.changes += 1;
            }
            Input::Described { descriptor } => {
                did.notes.push(format!("is now {descriptor:?}"));
                did.changes += 1;
            }
            Input::Merged { whole, right, .. } => {
                did.notes.push(format!("takes in {right:?}: {whole:?}"));
                did.changes += 1;
                did.merges += 1;
                self.applied.remove(right);
            }
            Input::Split { left, right } => {
                did.notes.push(format!("splits {left:?} from {right:?}"));
                did.changes += 1;
                if let Some(right) = right {
                    self.applied.insert(right.group, ratatosk_store::range::BEGIN_INDEX);
                }
            }
            Input::Installed { descriptor } => {
                self.receiver.installed(descriptor.group);
            }
            Input::Removed { group, replica } => {
                self.receiver.leave(*group, *replica);
                self.applied.remove(group);
            }
            _ => {}
        }
    }
}
