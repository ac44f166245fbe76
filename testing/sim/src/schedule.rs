//! Which step comes next: clients, the store's threads, checkpoints, time, and what goes wrong.

use crate::disk::Crash;
use crate::simulation::{Checked, Simulation};

/// A step, and how often it comes among all.
const STEPS: [(Step, usize); 24] = [
    (Step::Attach, 8),
    (Step::Subscribe, 12),
    (Step::Unsubscribe, 2),
    (Step::Append, 26),
    (Step::Fetch, 12),
    (Step::Commit, 10),
    (Step::Received, 5),
    (Step::Inbound, 4),
    (Step::Detach, 3),
    (Step::Discard, 1),
    (Step::Expire, 3),
    (Step::SendWill, 2),
    (Step::KeepWill, 2),
    (Step::Retain, 8),
    (Step::Collect, 1),
    (Step::LookAtRetained, 1),
    (Step::Machine, 30),
    (Step::Host, 30),
    (Step::Checkpoint, 6),
    (Step::Time, 8),
    (Step::ArmDisk, 1),
    (Step::SlowDisk, 2),
    (Step::Short, 2),
    (Step::Crash, 2),
];

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Step {
    Attach,
    Subscribe,
    Unsubscribe,
    Append,
    Fetch,
    Commit,
    Received,
    Inbound,
    Detach,
    Discard,
    Expire,
    SendWill,
    KeepWill,
    Retain,
    Collect,
    LookAtRetained,
    /// The thread of the log has its turn.
    Machine,
    /// The thread that applies has its turn.
    Host,
    Checkpoint,
    Time,
    /// A write or sync that comes soon fails.
    ArmDisk,
    /// What is written now is answered late.
    SlowDisk,
    /// There is no room, or there is again.
    Short,
    Crash,
}

impl Simulation {
    /// Does one step.
    pub(crate) fn step(&mut self) -> Checked {
        self.keep_late_wills();
        match self.next_step() {
            Step::Attach => self.attach(),
            Step::Subscribe => self.subscribe(),
            Step::Unsubscribe => self.unsubscribe(),
            Step::Append => self.append(),
            Step::Fetch => self.fetch(),
            Step::Commit => self.commit(),
            Step::Received => self.received(),
            Step::Inbound => self.inbound(),
            Step::Detach => self.detach(),
            Step::Discard => self.discard(),
            Step::Expire => self.expire(),
            Step::SendWill => {
                self.send_will();
                Ok(())
            }
            Step::KeepWill => self.keep_will(),
            Step::Retain => self.retain(),
            Step::Collect => self.collect(),
            Step::LookAtRetained => self.check_shelf(),
            Step::Machine => self.turn_machine(),
            Step::Host => self.turn_host(),
            Step::Checkpoint => self.checkpoint(),
            Step::Time => {
                self.pass_time();
                Ok(())
            }
            Step::ArmDisk => {
                self.arm_disk();
                Ok(())
            }
            Step::SlowDisk => {
                self.slow_until = self.trace.step + 10;
                self.trace.note("the disk is slow");
                Ok(())
            }
            Step::Short => {
                self.change_room();
                Ok(())
            }
            Step::Crash => {
                let crash = if self.schedule.once_in(3) { Crash::Process } else { Crash::Machine };
                self.crash(crash)
            }
        }
    }

    fn next_step(&mut self) -> Step {
        let total = STEPS.iter().map(|(_, weight)| weight).sum();
        let mut place = self.schedule.below(total);
        for (step, weight) in STEPS {
            if place < weight {
                return step;
            }
            place -= weight;
        }
        unreachable!("the place is below the sum")
    }

    fn turn_machine(&mut self) -> Checked {
        let count = [1, 2, usize::MAX][self.schedule.below(3)];
        let Some(node) = &mut self.node else { return Ok(()) };
        let now = ratatosk_clock::Clock::now(&self.clock);
        let stepped = node.store.step_machine(now, count);
        if let Ok(count) = stepped {
            self.trace.note(&format!("log: {count}"));
        }
        self.survive(stepped)?;
        self.settle()
    }

    fn turn_host(&mut self) -> Checked {
        if self.trace.step < self.slow_until {
            return Ok(());
        }
        let count = [1, 2, usize::MAX][self.schedule.below(3)];
        let Some(node) = &mut self.node else { return Ok(()) };
        let stepped = node.store.step_host(count, &mut self.replay);
        if let Ok(count) = stepped {
            self.trace.note(&format!("apply: {count}"));
        }
        self.survive(stepped)?;
        self.check_routes()?;
        self.settle()
    }

    fn checkpoint(&mut self) -> Checked {
        if self.luck.once_in(8) {
            self.disk.power.arm(self.luck.below(6));
        }
        let Some(node) = &mut self.node else { return Ok(()) };
        self.trace.note("checkpoint");
        let made = node.store.checkpoint();
        self.survive(made).map(drop)
    }

    fn pass_time(&mut self) {
        let span_ms = [1, 50, 700, 3_000][self.schedule.below(4)];
        self.clock.pass(span_ms);
        self.trace.note(&format!("{span_ms} ms pass"));
    }

    fn arm_disk(&mut self) {
        if self.luck.once_in(3) {
            self.disk.power.fill();
            self.trace.note("the disk is full");
            return;
        }
        let count = self.luck.below(6);
        self.disk.power.arm(count);
        self.trace.note(&format!("the disk fails after {count} writes"));
    }

    fn change_room(&mut self) {
        let is_short = self.schedule.once_in(2);
        if let Some(node) = &self.node {
            node.store.set_short(is_short);
            self.trace.note(&format!("short of room: {is_short}"));
        }
    }
}
