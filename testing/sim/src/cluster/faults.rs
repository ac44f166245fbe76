//! What goes wrong, and how it ends.

use std::time::Duration;

use super::{Cluster, Happening, sabotage};
use crate::disk::Crash;
use crate::simulation::Checked;

/// What is drawn when a leader is parted from all others.
pub(super) const LEADER_PARTED: usize = 7;

impl Cluster {
    /// One thing goes wrong, or a part of the network is mended.
    pub(super) fn fail(&mut self) -> Checked {
        if !self.is_faulty {
            return Ok(());
        }
        let places: Vec<u64> = self.stores.keys().copied().collect();
        let number = self.faults.pick(&places).copied().unwrap_or(1);
        self.outcome.faults += 1;
        match sabotage::instead(self.plan.planted, self.faults.below(8)) {
            0..=1 => self.crash(number)?,
            2 => {
                let count = self.faults.below(6);
                if let Some(place) = self.stores.get(&number) {
                    place.disk.power.arm(count);
                    self.trace.note(&format!("{number}: a write fails soon"));
                }
            }
            3..=4 => self.part(number),
            LEADER_PARTED => self.part_leader(),
            5 => {
                let writes = self.faults.below(40);
                if let Some(place) = self.stores.get(&number) {
                    place.disk.folder.fill_after(writes);
                    self.trace.note(&format!("{number}: no room for snapshots soon"));
                }
            }
            _ => {
                let rate = 3 + self.faults.below(20);
                self.network.lose(rate);
                self.trace.note(&format!("one packet in {rate} is lost"));
            }
        }
        // Most are over before anybody is elected, some are not, whatever else ends meanwhile.
        let span = self.fault_span();
        if span > Duration::from_secs(1) {
            self.mends_at = self.mends_at.max(self.now + span);
        }
        self.after(span, Happening::Mends);
        let span = Duration::from_millis(100 + self.faults.below(700) as u64);
        self.after(span, Happening::Fails);
        Ok(())
    }

    fn fault_span(&mut self) -> Duration {
        let most = if self.faults.once_in(6) { 3_000 } else { 300 };
        Duration::from_millis(20 + self.faults.below(most) as u64)
    }

    /// Parts whoever leads a range from all others, for long enough that these have another leader.
    fn part_leader(&mut self) {
        let groups: Vec<_> = self.ranges.iter().map(|range| range.group).collect();
        let group = self.faults.pick(&groups).copied();
        let Some(leader) = group.and_then(|group| self.callers.leader(group)) else { return };
        let others: Vec<u64> =
            self.stores.keys().copied().filter(|store| *store != leader).collect();
        self.network.cut(&[leader], &others);
        self.network.cut(&others, &[leader]);
        let span = Duration::from_millis(1_500 + self.faults.below(1_500) as u64);
        self.mends_at = self.mends_at.max(self.now + span);
        self.after(span, Happening::Mends);
        self.trace.note(&format!("{leader}, which leads, is parted from all"));
    }

    /// Parts a store, or some, from the others, one way or both.
    fn part(&mut self, number: u64) {
        let all: Vec<u64> = self.stores.keys().copied().collect();
        let (mut one, mut two) = (vec![number], Vec::new());
        for other in all.into_iter().filter(|other| *other != number) {
            if self.faults.once_in(4) { one.push(other) } else { two.push(other) }
        }
        let ways = self.faults.below(3);
        if ways != 1 {
            self.network.cut(&one, &two);
        }
        if ways != 2 {
            self.network.cut(&two, &one);
        }
        self.trace.note(&format!("{one:?} and {two:?} are parted, {ways}"));
    }

    /// A store goes down, and comes back later.
    pub(super) fn crash(&mut self, number: u64) -> Checked {
        let crash = if self.faults.once_in(2) { Crash::Process } else { Crash::Machine };
        let span = match self.is_faulty {
            true => self.fault_span(),
            false => Duration::from_millis(20),
        };
        self.crash_for(number, crash, span)
    }

    /// A store goes down, and comes back after some time.
    pub(super) fn crash_for(&mut self, number: u64, crash: Crash, span: Duration) -> Checked {
        let Some(place) = self.stores.get_mut(&number) else { return Ok(()) };
        place.life += 1;
        if place.store.take().is_none() && !place.disk.power.is_gone() {
            return Ok(());
        }
        place.disk.folder.mend();
        place.send_at = None;
        self.lose_inbox(number);
        let Some(place) = self.stores.get_mut(&number) else { return Ok(()) };
        let lost = place.disk.crash(crash, &mut self.faults);
        self.trace.note(&format!("{number}: down: {crash:?}{lost}"));
        self.after(span, Happening::Starts { store: number });
        Ok(())
    }

    /// Nothing goes wrong any more, and whoever is down comes back.
    pub(super) fn heal(&mut self) -> Checked {
        self.is_faulty = false;
        self.network.mend();
        self.trace.note("all is mended");
        for place in self.stores.values_mut() {
            place.disk.power.mend();
            place.disk.folder.mend();
        }
        self.settle_lots();
        self.wake_all();
        Ok(())
    }
}
