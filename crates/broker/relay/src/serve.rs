//! What this host tells others, and what it takes from them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_clock::Instant;
use ratatosk_contract::TenantId;
use ratatosk_contract::relay::{Fate, Parcel};
use ratatosk_engine::wire::{Malformed, Parser};
use ratatosk_rpc::{Call, Error, HostId, Receiver, Sender};

use crate::host_relay::{Home, Shared};
use crate::letter;
use crate::metrics::Metrics;
use crate::proto::{Frame, Relay};
use crate::record::{Record, put};
use ratatosk_rpc::frames::Joiner;

/// Bytes of a page of the table: it is locked while it is written, some ten microseconds.
const PAGE_BYTES: usize = 32 << 10;
/// Tenants whose names are kept for a stream.
const NAMES_MAX: usize = 1_024;

/// The service. It does not keep the relay: what calls it may live longer.
pub(crate) struct Server {
    shared: Weak<Shared>,
}

impl Server {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::downgrade(shared) }
    }

    fn at_work(&self) -> Result<Arc<Shared>, Error> {
        self.shared.upgrade().ok_or_else(|| Error::Internal { why: "the host stops".to_owned() })
    }
}

impl Relay for Server {
    async fn follow(
        &self,
        call: Call,
        questions: Receiver<Frame>,
        answers: Sender<Frame>,
    ) -> Result<(), Error> {
        let shared = self.at_work()?;
        let caller = call.caller().ok_or_else(|| refused("nobody knows whose it is"))?;
        let turn = shared.visibility.lock().begin(caller);
        // Both are cancel-safe; they are dropped together.
        tokio::select! {
            told = tell(&shared, &answers) => told,
            heard = hear(&shared, (caller, turn), questions) => heard,
        }
    }

    async fn deliver(
        &self,
        call: Call,
        mut questions: Receiver<Frame>,
        answers: Sender<Frame>,
    ) -> Result<(), Error> {
        let shared = self.at_work()?;
        let caller = call.caller().ok_or_else(|| refused("nobody knows whose it is"))?;
        let turn = Turn::begin(&shared, caller);
        let mut joiner = Joiner::new(shared.config.whole_bytes_max);
        let mut inbound = Inbound::new(&shared.metrics);
        while let Some(frame) = questions.next().await {
            let joined =
                joiner.take(frame.into()).map_err(|_| refused("more than may go together"));
            let Some(data) = joined.inspect_err(|_| shared.metrics.refuse("long"))? else {
                continue;
            };
            let home = shared.home.load_full();
            let home = home.ok_or_else(|| Error::Internal { why: "the host stops".to_owned() })?;
            let take = || inbound.take(&data, &home, shared.clock.now());
            let taken = turn.while_it_lasts(take).ok_or_else(|| refused("a later stream came"))?;
            let receipt = taken.map_err(|Malformed| {
                shared.metrics.refuse("messages");
                refused("messages that make no sense")
            })?;
            let receipt = Frame { data: receipt.into(), goes_on: false };
            if answers.send(receipt).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Tells everything, and from then on what changes.
async fn tell(shared: &Shared, answers: &Sender<Frame>) -> Result<(), Error> {
    let mut sequences = shared.sequence.subscribe();
    let say = |data: Vec<u8>| answers.send(Frame { data: data.into(), goes_on: false });
    loop {
        shared.metrics.beginnings.increment();
        let mut seen = shared.table.lock().sequence();
        let (mut page, mut behind) = (Vec::with_capacity(PAGE_BYTES), None);
        put(&mut page, &Record::Begin(seen));
        loop {
            behind = shared.table.lock().page(behind.as_ref(), PAGE_BYTES, &mut page);
            if behind.is_none() {
                put(&mut page, &Record::End);
            }
            if say(std::mem::take(&mut page)).await.is_err() {
                return Ok(());
            }
            if behind.is_none() {
                break;
            }
        }
        loop {
            sequences.mark_unchanged();
            let mut page = Vec::new();
            let told = shared.table.lock().changes(seen, PAGE_BYTES, &mut page);
            // One who is too far behind is told everything again.
            let Ok(through) = told else { break };
            seen = through;
            if page.is_empty() {
                if sequences.changed().await.is_err() {
                    return Ok(());
                }
            } else if say(page).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Hears how far the other side has come.
async fn hear(
    shared: &Shared,
    (caller, turn): (HostId, u64),
    mut questions: Receiver<Frame>,
) -> Result<(), Error> {
    while let Some(frame) = questions.next().await {
        let sequence = Parser::new(&frame.data).take_u64();
        let sequence = sequence.map_err(|Malformed| {
            shared.metrics.refuse("acknowledgement");
            refused("an acknowledgement that makes no sense")
        })?;
        let answers = shared.visibility.lock().note(caller, turn, sequence);
        shared.tell_visible(answers);
    }
    Ok(())
}

impl Shared {
    /// Tells those who waited.
    pub(crate) fn tell_visible(&self, answers: crate::visible::Answers) {
        if answers.is_empty() {
            return;
        }
        if let Some(home) = &*self.home.load() {
            for (reply_to, is_visible) in answers {
                home.outcomes.visible(reply_to, is_visible);
            }
        }
    }
}

/// The streams of messages whose turn it is, by who calls.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    last: u64,
    by_caller: HashMap<HostId, u64>,
}

/// A stream's turn, until its caller opens another one: what lies in a stream that broke must not be
/// delivered behind what came by the next.
struct Turn<'a> {
    turns: &'a Mutex<Turns>,
    caller: HostId,
    number: u64,
}

impl<'a> Turn<'a> {
    fn begin(shared: &'a Shared, caller: HostId) -> Self {
        let mut turns = shared.turns.lock();
        turns.last += 1;
        let number = turns.last;
        turns.by_caller.insert(caller, number);
        Self { turns: &shared.turns, caller, number }
    }

    /// Does something, and lets no later stream begin meanwhile; none if one has begun.
    fn while_it_lasts<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let turns = self.turns.lock();
        (turns.by_caller.get(&self.caller) == Some(&self.number)).then(work)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = self.turns.lock();
        if turns.by_caller.get(&self.caller) == Some(&self.number) {
            turns.by_caller.remove(&self.caller);
        }
    }
}

/// What a stream of messages needs from one frame to the next.
struct Inbound {
    names: HashMap<Box<str>, TenantId>,
    fates: Vec<Fate>,
    taken: ratatosk_telemetry::metric::Counter,
    gone: ratatosk_telemetry::metric::Counter,
    full: ratatosk_telemetry::metric::Counter,
}

impl Inbound {
    fn new(metrics: &Metrics) -> Self {
        let [taken, gone, full] = ["taken", "gone", "full"].map(|fate| metrics.received(fate));
        Self { names: HashMap::new(), fates: Vec::new(), taken, gone, full }
    }

    /// Hands messages over; answers with what became of them.
    fn take(&mut self, data: &Bytes, home: &Home, now: Instant) -> Result<Vec<u8>, Malformed> {
        let letters = letter::take_all(data)?;
        for letter in &letters {
            if !self.names.contains_key(letter.tenant) {
                if self.names.len() >= NAMES_MAX {
                    self.names.clear();
                }
                self.names.insert(letter.tenant.into(), TenantId::new(letter.tenant));
            }
        }
        let parcels: Vec<Parcel<'_>> = letters
            .iter()
            .map(|letter| Parcel {
                tenant: &self.names[letter.tenant],
                to: letter.to,
                message: letter.message(now),
            })
            .collect();
        self.fates.clear();
        home.deliverer.deliver(&parcels, &mut self.fates);
        // A fate for each: a deliverer that forgets one has not taken it.
        self.fates.resize(parcels.len(), Fate::Full);
        let count = |fate| self.fates.iter().filter(|it| **it == fate).count() as u64;
        self.taken.add(count(Fate::Taken));
        self.gone.add(count(Fate::Gone));
        self.full.add(count(Fate::Full));
        let mut receipt = Vec::with_capacity(8);
        letter::put_receipt(&mut receipt, &self.fates);
        Ok(receipt)
    }
}

/// The peer broke the rules.
fn refused(why: &str) -> Error {
    Error::Refused { why: why.to_owned() }
}
