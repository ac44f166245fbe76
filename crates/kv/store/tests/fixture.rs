//! A coprocessor for tests, and a store without threads or disk.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_engine::{Batch, Engine as _, Error, KeyRange, MemoryEngine, Overlay, SpaceId};
use ratatosk_store::command::Commands;
use ratatosk_store::coprocessor::{
    Coprocessor, Factory, Keyspaces, Position, Reader, Writer, scan_all,
};
use ratatosk_store::host::{Alone, Answered, Done, Host, checkpoint, read_range};
use ratatosk_store::log::{GroupId, MemoryLog};
use ratatosk_store::machine::{Input, Machine, Output, TICK};
use ratatosk_store::open;
use ratatosk_store::range::{Descriptor, Version};

pub(crate) const STORE: u64 = 7;
pub(crate) const GROUP: GroupId = GroupId(1);
pub(crate) const SPACE: SpaceId = SpaceId(1);

/// Counts how often each command was carried out, in the data and in memory. The answer is the
/// count: whoever applies a command twice, or forgets one, gives another.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    total: u64,
}

impl Coprocessor for Counter {
    fn reset(&mut self, _boundary: &KeyRange, reader: &dyn Reader) -> Result<(), Error> {
        self.total = 0;
        scan_all(reader, &KeyRange::all(), |_, value| {
            self.total += number(value);
            Ok(())
        })
    }

    fn apply(
        &mut self,
        _position: Position,
        command: &Bytes,
        writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        let before = writer.get(command)?.map_or(0, |value| number(&value));
        self.total += 1;
        writer.put(command.clone(), (before + 1).to_be_bytes().to_vec());
        Ok(Bytes::from(self.total.to_be_bytes().to_vec()))
    }

    fn query(&self, _question: &Bytes, _reader: &dyn Reader) -> Result<Bytes, Error> {
        Ok(Bytes::from(self.total.to_be_bytes().to_vec()))
    }
}

pub(crate) fn number(value: &[u8]) -> u64 {
    u64::from_be_bytes(value.try_into().expect("eight bytes"))
}

pub(crate) fn commands(names: &[&str]) -> Vec<u8> {
    let mut commands = Commands::new(Version::default());
    names.iter().for_each(|name| commands.push(name.as_bytes()));
    commands.into_data()
}

pub(crate) fn descriptor() -> Descriptor {
    Descriptor::whole(GROUP, "counter".to_owned(), STORE)
}

pub(crate) fn keyspaces() -> Keyspaces {
    counters(&["counter"])
}

/// What such a store looks for.
pub(crate) fn asked(keyspaces: &Keyspaces) -> open::Asked<'_> {
    let beginning = open::Beginning::Alone;
    open::Asked { store: STORE, keyspaces, beginning, is_new: false }
}

/// Keyspaces that count.
pub(crate) fn counters(names: &[&str]) -> Keyspaces {
    let factory = || -> Factory { Box::new(|| Box::<Counter>::default()) };
    Keyspaces::new(names.iter().map(|name| ((*name).to_owned(), factory())).collect())
}

/// A store of one group, in memory.
pub(crate) struct Small {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) overlay: Arc<Overlay<MemoryEngine>>,
    machine: Machine<MemoryLog, u64>,
    host: Host<MemoryEngine>,
    now: Instant,
}

impl Small {
    pub(crate) fn new() -> Self {
        Self::with(&keyspaces())
    }

    /// Of a build that knows these keyspaces.
    pub(crate) fn with(keyspaces: &Keyspaces) -> Self {
        Self::open(Arc::new(MemoryLog::default()), MemoryEngine::new(2), keyspaces, true)
    }

    fn open(
        log: Arc<MemoryLog>,
        engine: MemoryEngine,
        keyspaces: &Keyspaces,
        is_new: bool,
    ) -> Self {
        let asked = open::Asked { is_new, ..asked(keyspaces) };
        let found = open::find(&*log, &engine, asked).expect("whole");
        let overlay = Arc::new(Overlay::new(engine, 2));
        let mut host = Host::new(STORE, Arc::clone(&overlay), keyspaces.clone());
        for descriptor in found.groups.iter().filter_map(|opened| opened.descriptor.clone()) {
            host.open(descriptor).expect("memory");
        }
        let machine = Machine::open(Arc::clone(&log), STORE, found.groups, found.left);
        let machine = machine.expect("whole").supporting(keyspaces.supported());
        let mut small = Self { log, overlay, machine, host, now: Instant::ZERO };
        let done = small.run(Vec::new());
        assert!(done.leads.contains(&GROUP), "alone, it leads at once");
        small
    }

    /// What is there after a crash: the log, and of the engine what a checkpoint has made durable.
    pub(crate) fn crash(self) -> Self {
        self.crash_to(&keyspaces())
    }

    /// The same, under another build.
    pub(crate) fn crash_to(self, keyspaces: &Keyspaces) -> Self {
        let (log, engine) = self.left();
        Self::open(log, engine, keyspaces, false)
    }

    /// What a crash leaves.
    pub(crate) fn left(self) -> (Arc<MemoryLog>, MemoryEngine) {
        let log = Arc::clone(&self.log);
        let engine = MemoryEngine::new(2);
        let mut copied = Batch::new();
        for space in [SpaceId(0), SPACE] {
            let view = self.overlay.engine().view();
            let scanned =
                ratatosk_engine::View::scan(&view, space, &KeyRange::all(), &mut |key, value| {
                    copied.put(space, Bytes::copy_from_slice(key), value.clone());
                    std::ops::ControlFlow::Continue(())
                });
            scanned.expect("memory");
        }
        engine.write(copied).expect("memory");
        (log, engine)
    }

    pub(crate) fn propose(&mut self, data: Vec<u8>, ticket: u64) -> Vec<Answered<u64>> {
        self.run(vec![Input::Propose { group: GROUP, term: None, data, ticket }]).answered
    }

    /// Lets so many ticks pass.
    pub(crate) fn wait(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.now = self.now + TICK;
            self.run(Vec::new());
        }
    }

    pub(crate) fn ranges(&self) -> Vec<Descriptor> {
        self.host.ranges().cloned().collect()
    }

    pub(crate) fn checkpoint(&mut self) -> u64 {
        let durable = checkpoint(&*self.overlay, [GROUP]).expect("memory");
        let (group, index) = durable[0];
        self.run(vec![Input::Checkpointed { group, index }]);
        index
    }

    pub(crate) fn total(&self) -> u64 {
        let answer = self.host.query(GROUP, &Bytes::new()).expect("memory").expect("it is here");
        number(&answer)
    }

    pub(crate) fn counts(&self) -> Vec<(String, u64)> {
        let mut counts = Vec::new();
        read_range(&*self.overlay, SPACE, &KeyRange::all(), &mut |reader| {
            scan_all(reader, &KeyRange::all(), |key, value| {
                counts.push((String::from_utf8_lossy(key).into_owned(), number(value)));
                Ok(())
            })
        })
        .expect("memory");
        counts
    }

    /// Steps until nothing more comes.
    pub(crate) fn run(&mut self, mut inputs: Vec<Input<u64>>) -> Done<u64> {
        let mut done = Done::default();
        loop {
            let mut output = Output::default();
            self.now = self.now + std::time::Duration::from_millis(1);
            self.machine.step(self.now, inputs.drain(..), &mut output).expect("memory");
            let is_idle = output.events.is_empty() && !self.machine.is_dirty();
            self.host.run(output.events, &Alone, &mut done).expect("memory");
            inputs.append(&mut done.inputs);
            if is_idle && inputs.is_empty() {
                return done;
            }
        }
    }
}
