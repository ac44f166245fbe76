//! What has to be so once the faults are over: everything works again, sleeps when nobody wants anything,
//! and wakes when it is wanted, each within a bound.

use std::time::Duration;

use ratatosk_store::range::Descriptor;

use super::store::Store;
use super::{Cluster, Happening, cover};
use crate::disk::Crash;
use crate::simulation::Checked;

/// How long everything may take to work again after the last fault.
const RECOVERY: Duration = Duration::from_secs(30);
/// How long ranges may be without a leader once the store of theirs is gone.
const REPLACEMENT: Duration = Duration::from_secs(3);
impl Cluster {
    /// Whether everything works: each key can be written, and nothing is on its way.
    pub(super) fn recover(&mut self) -> Checked {
        let end = self.now + RECOVERY;
        self.callers.finish();
        self.until(end, |cluster| cluster.callers.is_finished())?;
        if !self.callers.is_finished() {
            let left = self.callers.left();
            let state: Vec<_> = self.states();
            return Err(format!(
                "{RECOVERY:?} after the last fault these keys cannot be written: {left:?}\n{state:#?}"
            ));
        }
        self.catch_up()?;
        self.upgrade_all()?;
        self.catch_up()?;
        self.serve_everywhere()?;
        self.empty_inboxes()?;
        self.rest()?;
        self.catch_up()
    }

    /// Whoever is behind catches up.
    fn catch_up(&mut self) -> Checked {
        let end = self.now + RECOVERY;
        self.until(end, Self::is_even)?;
        match self.is_even() {
            true => Ok(()),
            false => Err(format!("replicas stay behind: {:#?}", self.states())),
        }
    }

    /// Nobody wants anything: all groups go to sleep, and wake when they are needed, with whoever led them
    /// gone.
    fn rest(&mut self) -> Checked {
        // Of a group whose range went on elsewhere while those that knew were lost for good nobody can say
        // what became of it: whoever has heard its name only asks on.
        let is_kept = |cluster: &Self, group| {
            cluster.live().flat_map(Store::ranges).any(|range| range.group == group)
        };
        let is_asleep = |cluster: &Self| {
            cluster.live().flat_map(Store::awake).all(|group| !is_kept(cluster, group))
        };
        let end = self.now + RECOVERY;
        self.until(end, is_asleep)?;
        if !is_asleep(self) {
            return Err(format!("some groups do not go to sleep: {:#?}", self.states()));
        }
        self.trace.note("all groups sleep");
        let places: Vec<u64> = self.stores.keys().copied().collect();
        let number = self.faults.pick(&places).copied().unwrap_or(1);
        let ranges = cover::all(self.live());
        self.crash_for(number, Crash::Process, Duration::from_secs(4))?;
        self.replace_leader(number, &ranges)?;
        self.callers.finish();
        for caller in 0..self.callers.len() {
            self.after(Duration::from_millis(500), Happening::Calls { caller });
        }
        let end = self.now + RECOVERY;
        self.until(end, |cluster| cluster.callers.is_finished())?;
        match self.callers.is_finished() {
            true => Ok(()),
            false => Err(format!("after sleep, {:?} cannot be written", self.callers.left())),
        }
    }

    /// The ranges that a store led, which is gone, have others to lead them in time. KV-004
    fn replace_leader(&mut self, gone: u64, ranges: &[Descriptor]) -> Checked {
        let has_majority = |range: &&Descriptor| {
            let voters = range.membership.target().voters;
            (voters.len() - usize::from(voters.contains(&gone))) * 2 > voters.len()
        };
        let led = ranges.iter().filter(|range| self.agreement.leader(range.group) == Some(gone));
        let groups: Vec<_> = led.filter(has_majority).map(|range| range.group).collect();
        let is_led = |cluster: &Self| {
            groups.iter().all(|group| cluster.agreement.leader(*group) != Some(gone))
        };
        self.until(self.now + REPLACEMENT, is_led)?;
        match is_led(self) {
            true => Ok(()),
            false => Err(format!("{REPLACEMENT:?} after {gone} went, it leads some of {groups:?}")),
        }
    }

    /// Whether all members of every range are as far as its leader.
    fn is_even(&self) -> bool {
        let ranges = cover::all(self.live());
        // What was taken in has gone everywhere, and nothing waits for that.
        let lives = |held: &Descriptor| ranges.iter().any(|range| range.group == held.group);
        self.live().flat_map(Store::ranges).all(lives)
            && ranges.iter().all(|descriptor| {
                if descriptor.frozen.is_some() {
                    return false;
                }
                let members = descriptor.membership.replicas();
                let reached = |store: u64| {
                    let held = self.stores.get(&store).and_then(|place| place.store.as_ref());
                    held.and_then(|held| held.applied(descriptor.group))
                };
                let mut all = members.iter().map(|replica| reached(replica.store));
                let first = all.next().flatten();
                !descriptor.membership.is_joint()
                    && first.is_some()
                    && all.all(|other| other == first)
            })
    }
}
