//! Three replicas of the libraries alone: a thread each that owns all groups, one write of the log and
//! one fsync a turn, and no store, no applying, no roles that change.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use raft::eraftpb::{ConfState, Entry, Message};
use raft::storage::MemStorage;
use raft::{RawNode, Ready};
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use ratatosk_clock::{Instant, SystemClock};

use super::{BYTES, CALLERS, Figures, STORES};

/// Time between two ticks.
const TICK: Duration = Duration::from_millis(100);
/// Words that may wait for a node: more than there are ever, or they would wait for each other.
const WORDS_MAX: usize = 1 << 20;
/// Entries after which those before are given up.
const KEPT: u64 = 10_000;

/// How the library finds the index of an entry.
#[derive(Clone)]
struct Indexed;

impl MessageExt for Indexed {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// What a node is told.
enum Word {
    Message(usize, Message),
    Propose(usize, Instant),
}

struct Node {
    place: usize,
    groups: Vec<Group>,
    log: Engine,
    others: Vec<SyncSender<Word>>,
    words: Receiver<Word>,
    clock: SystemClock,
    is_over: Arc<AtomicBool>,
    micros: Vec<u32>,
}

struct Group {
    raft: RawNode<MemStorage>,
    /// When those were proposed that are on their way.
    begun: VecDeque<Instant>,
    compacted: u64,
}

pub(super) fn run(folder: &Path, groups: usize, span: Duration) -> Figures {
    let clock = SystemClock::new();
    let is_over = Arc::new(AtomicBool::new(false));
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..STORES).map(|_| mpsc::sync_channel(WORDS_MAX)).unzip();
    let nodes = receivers.into_iter().enumerate().map(|(place, words)| {
        let me = place as u64 + 1;
        let groups = (0..groups).map(|number| Group::new(me, number)).collect();
        let settings = Config {
            dir: folder.join(me.to_string()).to_string_lossy().into_owned(),
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize::mb(64),
            ..Config::default()
        };
        let log = Engine::open(settings).expect("a log");
        let (others, is_over) = (senders.clone(), Arc::clone(&is_over));
        Node { place, groups, log, others, words, clock, is_over, micros: Vec::new() }
    });
    let threads: Vec<_> = nodes.map(|mut node| std::thread::spawn(move || node.run())).collect();
    let start = clock.now();
    for number in 0..CALLERS {
        let group = number % groups;
        let leader = group % STORES;
        senders[leader].send(Word::Propose(group, start)).expect("it runs");
    }
    std::thread::sleep(span);
    is_over.store(true, Ordering::Relaxed);
    let span = clock.now().since(start);
    let micros = threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
    Figures::new(span, micros)
}

impl Group {
    fn new(me: u64, number: usize) -> Self {
        let members = (1..).take(STORES).collect::<Vec<_>>();
        let storage = MemStorage::new_with_conf_state(ConfState::from((members, vec![])));
        let config = raft::Config {
            id: me,
            check_quorum: true,
            pre_vote: true,
            max_size_per_msg: 1 << 20,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut raft = RawNode::new(&config, storage, &logger).expect("a group");
        if (number % STORES) as u64 + 1 == me {
            raft.campaign().expect("it may");
        }
        Self { raft, begun: VecDeque::new(), compacted: 0 }
    }
}

impl Node {
    fn run(&mut self) -> Vec<u32> {
        let mut next_tick = self.clock.now() + TICK;
        let mut waiting = Vec::new();
        while !self.is_over.load(Ordering::Relaxed) {
            let has_ready = self.groups.iter().any(|group| group.raft.has_ready());
            let wait = if has_ready { Duration::ZERO } else { next_tick.since(self.clock.now()) };
            match self.words.recv_timeout(wait) {
                Ok(word) => self.take(word, &mut waiting),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Ok(word) = self.words.try_recv() {
                self.take(word, &mut waiting);
            }
            for (group, begun) in std::mem::take(&mut waiting) {
                self.propose(group, begun, &mut waiting);
            }
            if self.clock.now() >= next_tick {
                next_tick = self.clock.now() + TICK;
                self.groups.iter_mut().for_each(|group| _ = group.raft.tick());
            }
            self.turn();
        }
        std::mem::take(&mut self.micros)
    }

    fn take(&mut self, word: Word, waiting: &mut Vec<(usize, Instant)>) {
        match word {
            Word::Message(group, message) => drop(self.groups[group].raft.step(message)),
            Word::Propose(group, begun) => self.propose(group, begun, waiting),
        }
    }

    fn propose(&mut self, group: usize, begun: Instant, waiting: &mut Vec<(usize, Instant)>) {
        let held = &mut self.groups[group];
        match held.raft.propose(Vec::new(), vec![7; BYTES]) {
            Ok(()) => held.begun.push_back(begun),
            // It does not lead yet.
            Err(_) => waiting.push((group, begun)),
        }
    }

    /// One write for all groups.
    fn turn(&mut self) {
        let mut batch = LogBatch::default();
        let mut readies: Vec<(usize, Ready)> = Vec::new();
        let mut is_synced = false;
        for number in 0..self.groups.len() {
            if !self.groups[number].raft.has_ready() {
                continue;
            }
            let mut ready = self.groups[number].raft.ready();
            self.send(number, ready.take_messages());
            let entries = ready.take_entries();
            let place = number as u64 + 1;
            if !entries.is_empty() {
                batch.add_entries::<Indexed>(place, &entries).expect("in order");
                let storage = self.groups[number].raft.mut_store();
                storage.wl().append(&entries).expect("in order");
            }
            if let Some(state) = ready.hs() {
                batch.put_message(place, b"state".to_vec(), state).expect("it is small");
                self.groups[number].raft.mut_store().wl().set_hardstate(state.clone());
            }
            is_synced |= ready.must_sync();
            let committed = ready.take_committed_entries();
            self.answer(number, &committed);
            readies.push((number, ready));
        }
        if !batch.is_empty() {
            self.log.write(&mut batch, is_synced).expect("the disk takes it");
        }
        for (number, mut ready) in readies {
            self.send(number, ready.take_persisted_messages());
            let mut light = self.groups[number].raft.advance(ready);
            self.send(number, light.take_messages());
            let committed = light.take_committed_entries();
            self.answer(number, &committed);
            self.groups[number].raft.advance_apply();
        }
    }

    fn send(&self, group: usize, messages: Vec<Message>) {
        for message in messages {
            let to = usize::try_from(message.to).unwrap_or(usize::MAX) - 1;
            // Who has ended needs it no more.
            drop(self.others[to].send(Word::Message(group, message)));
        }
    }

    /// Answers who proposed here; each proposes again.
    fn answer(&mut self, number: usize, entries: &[Entry]) {
        let now = self.clock.now();
        let me = self.place;
        let held = &mut self.groups[number];
        let Some(last) = entries.last() else { return };
        for _ in entries.iter().filter(|entry| !entry.data.is_empty()) {
            let Some(begun) = held.begun.pop_front() else { continue };
            self.micros.push(u32::try_from(now.since(begun).as_micros()).unwrap_or(u32::MAX));
            drop(self.others[me].send(Word::Propose(number, now)));
        }
        if last.index > held.compacted + 2 * KEPT {
            held.compacted = last.index - KEPT;
            held.raft.mut_store().wl().compact(held.compacted).expect("it has them");
        }
    }
}
