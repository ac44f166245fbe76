//! SWIM: who is a member, who is suspected, who is down.
//!
//! After Das, Gupta and Motivala, *SWIM: Scalable Weakly-consistent Infection-style Process Group
//! Membership Protocol* (2002), with suspicion. The library `foca` does the protocol; around it are here
//!
//! - its timers, stretched by this host's health (`health.rs`) and by the time that the process slept,
//! - the time to refute, which follows the number of members,
//! - the end of its memory of dead hosts, and the bound on how many hosts there are,
//! - what tells that this host is cut off without knowing it (`is_alone`): the library can hold a peer
//!   for alive under a generation that it no longer has, and be held so by it; both then wait for ever.
//!
//! Whoever calls this drains [`Swim::sends`] after each call.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use foca::{Foca, Member, Message, NoCustomBroadcast, Notification, PeriodicParams, State, Timer};
use rand::SeedableRng;
use rand::rngs::StdRng;
use ratatosk_clock::Instant;

use super::envelope::BODY_MAX;
use super::health::{Health, Outcome};
use super::identity::{GENERATION_MAX, Host, HostId};
use super::refusal::{Count, Counters, Refusal};
use super::swim_codec::{Left, Packet, SwimCodec, Update, decode_header};
use super::tuning::Tuning;
use super::wire::Reader;

/// Hosts that are known at once, dead ones included.
pub const HOSTS_MAX: usize = 1024;
/// Hosts that are known to have left, until the next time that is tidied up.
const LEFT_MAX: usize = 2 * HOSTS_MAX;
/// What SWIM puts into a datagram.
pub(crate) const SWIM_MAX: usize = BODY_MAX - 1;

/// The membership as this host sees it.
pub(crate) struct Swim {
    foca: Foca<Host, SwimCodec, StdRng, NoCustomBroadcast>,
    config: foca::Config,
    tuning: Tuning,
    counters: Arc<Counters>,
    outbox: Outbox,
    health: Health,
    timers: BTreeMap<(Instant, u8, u64), Timer<Host>>,
    timers_made: u64,
    /// When a member last said something to this host as it is now, if one did.
    heard_at: Option<Instant>,
    /// The incarnation of the last message.
    incarnation: u16,
    down_since: BTreeMap<Host, Instant>,
    left: Left,
    /// Messages to send.
    pub(crate) sends: Vec<(Host, Vec<u8>)>,
    /// Members have come or gone since this was last reset.
    pub(crate) is_changed: bool,
}

/// What the library wants done.
#[derive(Default)]
struct Outbox {
    sends: Vec<(Host, Vec<u8>)>,
    timers: Vec<(Timer<Host>, Duration)>,
    is_cut_off: bool,
    is_changed: bool,
    is_renewed: bool,
}

impl foca::Runtime<Host> for Outbox {
    fn notify(&mut self, notification: Notification<'_, Host>) {
        match notification {
            Notification::MemberUp(_) | Notification::MemberDown(_) => self.is_changed = true,
            Notification::Rename(..) => self.is_changed = true,
            Notification::Active => {}
            Notification::Idle | Notification::Defunct => self.cut_off(),
            Notification::Rejoin(_) => {
                self.cut_off();
                self.is_renewed = true;
            }
        }
    }

    fn send_to(&mut self, to: Host, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Host>, after: Duration) {
        self.timers.push((event, after));
    }
}

impl Outbox {
    /// The library begins anew, and ignores all timers of before.
    fn cut_off(&mut self) {
        self.is_cut_off = true;
        self.timers.clear();
    }
}

fn configuration(tuning: &Tuning) -> foca::Config {
    let count = |count: usize| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
    let every =
        |frequency, members| Some(PeriodicParams { frequency, num_members: count(members) });
    foca::Config {
        probe_period: tuning.probe_interval,
        probe_rtt: tuning.probe_timeout,
        num_indirect_probes: count(tuning.indirect_probes),
        max_transmissions: NonZeroU8::new(tuning.transmissions).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: tuning.suspicion_of(1),
        // The library would keep a timer for each time that a host dies.
        remove_down_after: None,
        max_packet_size: count(SWIM_MAX),
        notify_down_members: true,
        periodic_announce: every(tuning.sync_interval, 1),
        periodic_announce_to_down_members: every(tuning.announce_to_down, 3),
        periodic_gossip: every(tuning.gossip_interval, tuning.gossip_fanout),
    }
}

/// The order of timers that are due at once, as the library wants it.
fn rank(timer: &Timer<Host>) -> u8 {
    match timer {
        Timer::SendIndirectProbe { .. } => 0,
        Timer::ProbeRandomMember(_) => 1,
        Timer::ChangeSuspectToDown { .. } => 2,
        Timer::PeriodicAnnounce(_) => 3,
        Timer::PeriodicGossip(_) => 4,
        Timer::RemoveDown(_) => 5,
        Timer::PeriodicAnnounceDown(_) => 6,
    }
}

fn by_address<'a>(hosts: impl Iterator<Item = &'a Host>) -> BTreeMap<SocketAddr, Host> {
    hosts.map(|host| (host.address, *host)).collect()
}

/// Whether the death of a host says something of one of these: it is it, or came after it.
fn concerns(hosts: &BTreeMap<SocketAddr, Host>, dead: &Host) -> bool {
    hosts.get(&dead.address).is_some_and(|host| host == dead || dead.outranks(host))
}

impl Swim {
    pub(crate) fn new(
        host: Host,
        tuning: &Tuning,
        seed: [u8; 32],
        counters: Arc<Counters>,
    ) -> Self {
        let config = configuration(tuning);
        let codec = SwimCodec::default();
        Swim {
            left: codec.left.clone(),
            foca: Foca::new(host, config.clone(), StdRng::from_seed(seed), codec),
            config,
            tuning: tuning.clone(),
            counters,
            outbox: Outbox::default(),
            health: Health::default(),
            timers: BTreeMap::new(),
            timers_made: 0,
            heard_at: None,
            incarnation: 0,
            down_since: BTreeMap::new(),
            sends: Vec::new(),
            is_changed: false,
        }
    }

    /// This host as it calls itself now.
    pub(crate) fn host(&self) -> Host {
        *self.foca.identity()
    }

    pub(crate) fn score(&self) -> u8 {
        self.health.score()
    }

    /// Members that count as alive, this host excepted. Suspects are among them.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member<Host>> {
        self.foca.iter_members()
    }

    pub(crate) fn members_count(&self) -> usize {
        self.foca.num_members()
    }

    /// The member of this id, if it counts as alive.
    pub(crate) fn member(&self, id: HostId) -> Option<Host> {
        self.members().map(|member| *member.id()).find(|host| host.id == id)
    }

    /// All hosts that are remembered, dead ones too.
    pub(crate) fn remembered(&self) -> impl Iterator<Item = &Host> {
        self.foca.iter_membership_state().map(Member::id)
    }

    /// The host that is remembered at an address.
    pub(crate) fn host_at(&self, address: SocketAddr) -> Option<&Host> {
        self.remembered().find(|host| host.address == address)
    }

    /// Whether nobody seems to know this host, whatever it knows of others.
    pub(crate) fn is_alone(&self, now: Instant) -> bool {
        let silence = self.tuning.probe_interval * (2 * self.health.factor() + 1);
        self.heard_at.is_none_or(|heard| now.since(heard) > silence)
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((due, ..), _)| *due)
    }

    /// Takes a message that was checked: it is from whom it says.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        packet: &Packet,
        bytes: &[u8],
    ) -> Result<(), Refusal> {
        let header = &packet.header;
        let hosts = packet.updates.iter().map(|update| update.member.id()).chain([&header.src]);
        self.check_hosts(hosts)?;
        self.remember_left(&packet.updates);
        match &header.message {
            Message::Ack(number) => self.health.answered(&header.src, *number),
            Message::ForwardedAck { origin, probe_number } => {
                self.health.answered(origin, *probe_number);
            }
            _ => {}
        }
        let taken = self.foca.handle_data(bytes, &mut self.outbox);
        self.settle(now);
        // Not if it was told to take another generation.
        if header.dst == self.host() && self.members().any(|member| *member.id() == header.src) {
            self.heard_at = Some(now);
        }
        taken.map_err(|error| match error {
            foca::Error::DataFromOurselves => Refusal::Own,
            _ => Refusal::Malformed,
        })
    }

    /// A helper confirms that it was asked to probe.
    pub(crate) fn receive_heard(&mut self, number: u8) {
        self.health.heard(number);
    }

    /// Takes what another host knows: of members that count as alive there, and of members here that are
    /// dead for it. Of other dead hosts nothing is learned, or hosts would remind each other for ever.
    pub(crate) fn apply(&mut self, now: Instant, mut updates: Vec<Update>) -> Result<(), Refusal> {
        self.check_hosts(updates.iter().map(|update| update.member.id()))?;
        let mine = by_address(self.members().map(Member::id));
        updates.retain(|Update { member, .. }| {
            member.state() != State::Down || concerns(&mine, member.id())
        });
        self.remember_left(&updates);
        let members = updates.into_iter().map(|update| update.member);
        let applied = self.foca.apply_many(members, true, &mut self.outbox);
        self.settle(now);
        applied.map_err(|_| Refusal::Malformed)
    }

    /// Those of somebody's members that are dead for this host: the news of it may have ended before
    /// somebody heard of them late.
    pub(crate) fn dead_among(&self, theirs: &[Host]) -> Vec<Update> {
        let theirs = by_address(theirs.iter());
        let is_down = |member: &&Member<Host>| member.state() == State::Down;
        let down = self.foca.iter_membership_state().filter(is_down);
        let down = down.filter(|member| concerns(&theirs, member.id()));
        down.map(|member| Update { has_left: self.has_left(member.id()), member: member.clone() })
            .collect()
    }

    /// A member says that it leaves.
    pub(crate) fn apply_left(&mut self, now: Instant, host: Host) {
        self.left.lock().insert(host);
        self.bury(now, host);
    }

    /// A member counts as dead from now on. If it lives, it will say so.
    pub(crate) fn bury(&mut self, now: Instant, host: Host) {
        // Nothing of it can be malformed: it is a member.
        let _ = self.foca.apply_many([Member::down(host)].into_iter(), true, &mut self.outbox);
        self.settle(now);
    }

    /// Whether a host said itself that it goes.
    pub(crate) fn has_left(&self, host: &Host) -> bool {
        self.left.lock().contains(host)
    }

    fn remember_left(&self, updates: &[Update]) {
        let mut left = self.left.lock();
        for update in updates.iter().filter(|update| update.has_left) {
            if left.len() < LEFT_MAX {
                left.insert(*update.member.id());
            }
        }
    }

    /// Tells whoever is at an address that this host is there.
    pub(crate) fn announce(&mut self, now: Instant, address: SocketAddr) {
        let whoever = Host { address, generation: 0, id: HostId::from_bytes([0; 16]) };
        let _ = self.foca.announce(whoever, &mut self.outbox);
        self.settle(now);
    }

    /// Goes on probing the members that are left after this host took a new generation. The library waits
    /// for one of them to speak, and would wait for ever if they are dead, or are others now.
    pub(crate) fn go_on(&mut self, now: Instant) {
        let _ = self.foca.apply_many(std::iter::empty(), true, &mut self.outbox);
        self.settle(now);
    }

    /// Takes a generation above that of another host at this address. CLU-008
    pub(crate) fn outrank(&mut self, now: Instant, generation: u64) {
        let host = self.host();
        if (host.generation..GENERATION_MAX).contains(&generation) {
            let renewed = Host { generation: generation + 1, ..host };
            let _ = self.foca.change_identity(renewed, &mut self.outbox);
            self.outbox.cut_off();
            self.outbox.is_renewed = true;
            self.settle(now);
        }
    }

    /// Tells some members that this host goes. Nothing may be received afterwards. CLU-007
    pub(crate) fn leave(&mut self, now: Instant) {
        self.left.lock().insert(self.host());
        let _ = self.foca.leave_cluster(&mut self.outbox);
        self.settle(now);
        self.timers.clear();
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.forgive_stall(now);
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let timer = entry.remove();
            if !self.is_pending(&timer) {
                continue;
            }
            // What fails is the sending of a message that fits no datagram, which none of these is,
            // or a probe that was not brought to its end, which the library mends itself.
            let _ = self.foca.handle_timer(timer, &mut self.outbox);
            self.settle(now);
        }
    }

    /// Whether a suspicion was not refuted meanwhile; other timers always pass. The library would keep the
    /// member, and still tell it that it is down: so that it would take a new generation for nothing.
    fn is_pending(&self, timer: &Timer<Host>) -> bool {
        let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer else { return true };
        self.foca.iter_members().any(|member| {
            let is_it = member.id() == member_id && member.incarnation() == *incarnation;
            is_it && member.state() == State::Suspect
        })
    }

    /// Forgets hosts that are dead for long.
    pub(crate) fn forget(&mut self, now: Instant) {
        let down: BTreeSet<Host> = self
            .foca
            .iter_membership_state()
            .filter(|member| member.state() == State::Down)
            .map(|member| *member.id())
            .collect();
        self.down_since.retain(|host, _| down.contains(host));
        self.left.lock().retain(|host| down.contains(host));
        for host in down {
            let since = *self.down_since.entry(host).or_insert(now);
            if now.since(since) >= self.tuning.down_memory {
                let _ = self.foca.handle_timer(Timer::RemoveDown(host), &mut self.outbox);
                self.down_since.remove(&host);
            }
        }
    }

    /// Whether these hosts can be taken: a process has one address all its life, and there is room.
    fn check_hosts<'a>(
        &self,
        hosts: impl Iterator<Item = &'a Host> + Clone,
    ) -> Result<(), Refusal> {
        let is_known = |host: &Host| {
            self.remembered().any(|it| it.id == host.id && it.address == host.address)
        };
        if hosts.clone().all(is_known) {
            return Ok(());
        }
        let me = self.host();
        let mut addresses = BTreeMap::from([(me.id, me.address)]);
        let known = self.remembered().copied();
        for host in known.chain(hosts.clone().copied()) {
            let address = *addresses.entry(host.id).or_insert(host.address);
            if address != host.address {
                return Err(Refusal::Malformed);
            }
        }
        let known = self.foca.iter_membership_state().len();
        if known + hosts.clone().count() <= HOSTS_MAX {
            return Ok(());
        }
        let mut addresses: BTreeSet<SocketAddr> =
            self.remembered().map(|host| host.address).collect();
        addresses.extend(hosts.map(|host| host.address));
        if addresses.len() <= HOSTS_MAX { Ok(()) } else { Err(Refusal::Full) }
    }

    /// A process that did not run cannot tell whether others were silent meanwhile: what was to come
    /// up is put off by as long as it slept, so that what has arrived is read first.
    fn forgive_stall(&mut self, now: Instant) {
        let Some(due) = self.next_due() else { return };
        let slept = now.since(due);
        if slept <= self.tuning.probe_timeout {
            return;
        }
        let timers = std::mem::take(&mut self.timers);
        self.timers = timers
            .into_iter()
            .map(|((due, rank, made), timer)| ((due + slept, rank, made), timer))
            .collect();
        self.heard_at = self.heard_at.map(|heard| heard + slept);
        self.health.worse(1);
        self.counters.add(Count::Stalls, 1);
    }

    fn conclude_probe(&mut self) {
        let foca = &self.foca;
        let is_member = |host: &Host| foca.iter_members().any(|member| member.id() == host);
        if self.health.conclude(is_member) == Some(Outcome::Failed) {
            self.counters.add(Count::ProbesFailed, 1);
        }
    }

    /// Carries out what the library asked for in the last call.
    fn settle(&mut self, now: Instant) {
        if std::mem::take(&mut self.outbox.is_renewed) {
            self.incarnation = 0;
            self.is_changed = true;
            self.counters.add(Count::Renewals, 1);
        }
        if std::mem::take(&mut self.outbox.is_cut_off) {
            self.heard_at = None;
            self.timers.clear();
            self.health.abandon();
        }
        let mut sends = std::mem::take(&mut self.outbox.sends);
        for (_, bytes) in &sends {
            self.observe(bytes);
        }
        self.sends.append(&mut sends);
        self.outbox.sends = sends;
        if std::mem::take(&mut self.outbox.is_changed) {
            self.is_changed = true;
            self.adapt_suspicion();
        }
        let factor = self.health.factor();
        let mut timers = std::mem::take(&mut self.outbox.timers);
        for (timer, after) in timers.drain(..) {
            let is_of_probe =
                matches!(timer, Timer::SendIndirectProbe { .. } | Timer::ProbeRandomMember(_));
            let after = if is_of_probe { after * factor } else { after };
            self.timers_made += 1;
            self.timers.insert((now + after, rank(&timer), self.timers_made), timer);
        }
        self.outbox.timers = timers;
    }

    /// Learns from a message of this host what the library does not tell.
    fn observe(&mut self, bytes: &[u8]) {
        let header = decode_header(&mut Reader::new(bytes)).expect("a message of our own");
        match header.message {
            Message::Ping(number) => {
                self.conclude_probe();
                self.health.probe(header.dst, number);
                self.counters.add(Count::Probes, 1);
            }
            Message::PingReq { probe_number, .. } => self.health.asked_helper(probe_number),
            _ => {}
        }
        if header.src_incarnation > self.incarnation {
            self.incarnation = header.src_incarnation;
            self.health.worse(1);
            self.counters.add(Count::Refutations, 1);
        }
    }

    fn adapt_suspicion(&mut self) {
        let suspicion = self.tuning.suspicion_of(self.members_count() + 1);
        if suspicion != self.config.suspect_to_down_after {
            self.config.suspect_to_down_after = suspicion;
            let _ = self.foca.set_config(self.config.clone());
        }
    }
}
