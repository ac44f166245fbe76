//! The reigns of a store over the ranges of one keyspace, and whoever decides under them.
//!
//! What coprocessors are told of [`Reign`]s is passed on to one owner, who gets a [`ReignPipe`] with each:
//! one call at a time, of a range first that a reign is over and then that the next has begun. Coprocessors
//! are made before there is a service; what they were told meanwhile the owner hears when he comes.
//!
//! A group may refuse what is proposed, for it is about to be handed over, and lead on in the same term. Then
//! the owner's reign is over, as he does not know what became of his commands; another begins once the group
//! has taken an entry again, which it is asked to now and then ([`Reigns::poll`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use ratatosk_clock::Clock;
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::command::Commands;
use ratatosk_store::coprocessor::Reign;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::node::Handle;

use crate::reign::ReignPipe;
use crate::{Answer, Outcome, Read};

/// See the module. Clones are the same one.
#[derive(Clone)]
pub struct Reigns {
    shared: Arc<Shared>,
}

/// The store that reigns.
pub trait Realm: Send + Sync {
    /// Proposes an entry for a group, if this store leads it in this term; else `answer` is told that it does
    /// not. Never calls `answer` itself. Entries of one group and term are in the log in the order of the
    /// calls, or not in it.
    fn propose_in(&self, term: u64, group: GroupId, data: Vec<u8>, answer: Answer);

    /// Shows some keys of a group's range, if all of them are in it; says whether they are.
    ///
    /// # Errors
    /// The engine's, or those of `read`.
    fn read_whole(
        &self,
        group: GroupId,
        keys: &KeyRange,
        read: &mut Read<'_>,
    ) -> Result<bool, Error>;

    /// Whether nothing should be proposed, for disk or memory are short.
    fn is_short(&self) -> bool;
}

/// Decides what becomes of ranges. It is told on threads of the store, which others wait for, and while
/// nothing else can be told: it must be short, and must not call [`Reigns`].
pub trait Owner: Send + Sync {
    /// A reign has begun: the range's data is read from it, and changed through it.
    fn begins(&self, reign: &ReignPipe);

    /// It is over. What was submitted to it and is not done may be carried out still, as far as it is on its
    /// way; nothing that comes after is.
    fn ends(&self, reign: &ReignPipe);
}

/// What a coprocessor of a range has of the reigns.
#[derive(Clone, Debug)]
pub struct ReignHook {
    reigns: Reigns,
    group: Option<GroupId>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    owner: Option<(Arc<dyn Realm>, Arc<dyn Owner>)>,
    known: BTreeMap<GroupId, Known>,
}

struct Known {
    reign: Reign,
    /// Once somebody owns it, and until it is over.
    pipe: Option<ReignPipe>,
    /// It is over for its owner, and not for the coprocessor.
    is_broken: bool,
    /// The group is asked whether it takes anything.
    is_asked: bool,
}

impl Known {
    fn new(reign: &Reign, pipe: Option<ReignPipe>) -> Self {
        Self { reign: reign.clone(), pipe, is_broken: false, is_asked: false }
    }
}

impl Reigns {
    /// None, for nobody.
    pub fn new(clock: impl Clock + 'static) -> Self {
        Self { shared: Arc::new(Shared { clock: Arc::new(clock), state: Mutex::default() }) }
    }

    /// For a coprocessor, which passes on what it is told.
    #[must_use]
    pub fn hook(&self) -> ReignHook {
        ReignHook { reigns: self.clone(), group: None }
    }

    /// From now on `owner` decides, and the reigns there are begin for it. To be called once, until
    /// [`unbind`](Self::unbind).
    pub fn bind(&self, realm: Arc<dyn Realm>, owner: Arc<dyn Owner>) {
        let mut state = self.shared.state.lock();
        let State { owner: bound, known } = &mut *state;
        debug_assert!(bound.is_none(), "the ranges have one owner");
        for known in known.values_mut() {
            owner.begins(known.pipe.insert(self.pipe(&known.reign, &realm)));
        }
        *bound = Some((realm, owner));
    }

    /// The owner decides no longer, and the store is let go of: coprocessors, which it has, have the reigns.
    /// To be called before the store is closed, or what it has in memory stays.
    pub fn unbind(&self) {
        let mut state = self.shared.state.lock();
        let State { owner, known } = &mut *state;
        let pipes: Vec<_> = known.values_mut().filter_map(|known| known.pipe.take()).collect();
        let owner = owner.take();
        for pipe in pipes {
            pipe.end();
            if let Some((_, owner)) = &owner {
                owner.ends(&pipe);
            }
        }
        drop(state);
    }

    fn begin(&self, reign: &Reign) {
        let mut state = self.shared.state.lock();
        let bound = state.owner.clone();
        let pipe = bound.as_ref().map(|(realm, _)| self.pipe(reign, realm));
        if let Some((_, owner)) = bound
            && let Some(pipe) = &pipe
        {
            owner.begins(pipe);
        }
        state.known.insert(reign.range.group, Known::new(reign, pipe));
    }

    /// Asks the groups whose reigns broke off whether they take anything again; says whether there are
    /// any. To be called some times a second while there are.
    pub fn poll(&self) -> bool {
        let mut state = self.shared.state.lock();
        let State { owner: Some((realm, _)), known } = &mut *state else { return false };
        let mut asked = Vec::new();
        for known in known.values_mut().filter(|known| known.is_broken) {
            if !std::mem::replace(&mut known.is_asked, true) {
                asked.push((Arc::clone(realm), known.reign.clone()));
            }
        }
        let is_waiting = known.values().any(|known| known.is_broken);
        drop(state);
        for (realm, reign) in asked {
            let nothing = Commands::new(reign.range.version).into_data();
            let (home, group, term) = (self.clone(), reign.range.group, reign.term);
            let answer = Box::new(move |outcome| home.go_on(&reign, &outcome));
            realm.propose_in(term, group, nothing, answer);
        }
        is_waiting
    }

    /// A group has answered whether it takes anything. What was proposed to it before has been answered, too.
    fn go_on(&self, asked: &Reign, outcome: &Outcome) {
        let range = match outcome {
            Outcome::Applied(_) => asked.range.clone(),
            // It was carried out in its place, if for nothing.
            Outcome::Refused(Refusal::Version(now)) => (**now).clone(),
            Outcome::Refused(_) | Outcome::Unknown => asked.range.clone(),
        };
        let is_taken =
            matches!(outcome, Outcome::Applied(_) | Outcome::Refused(Refusal::Version(_)));
        let mut state = self.shared.state.lock();
        let State { owner, known } = &mut *state;
        let group = asked.range.group;
        let known = known.get_mut(&group).filter(|known| known.reign.term == asked.term);
        let is_it = |known: &&mut Known| {
            known.is_asked && known.reign.range.version.boundary == range.version.boundary
        };
        let Some(known) = known.filter(is_it) else { return };
        known.is_asked = false;
        if let Some((realm, owner)) = owner
            && is_taken
        {
            let reign = Reign { range, ..asked.clone() };
            let pipe = self.pipe(&reign, realm);
            owner.begins(&pipe);
            *known = Known::new(&reign, Some(pipe));
        }
    }

    fn end(&self, group: GroupId) {
        let mut state = self.shared.state.lock();
        let Some(Known { pipe: Some(pipe), .. }) = state.known.remove(&group) else { return };
        pipe.end();
        if let Some((_, owner)) = &state.owner {
            owner.ends(&pipe);
        }
    }

    fn pipe(&self, reign: &Reign, realm: &Arc<dyn Realm>) -> ReignPipe {
        let home = Home(Arc::downgrade(&self.shared));
        ReignPipe::new(reign, Arc::clone(realm), home, Arc::clone(&self.shared.clock))
    }
}

/// Where a reign is known.
pub(crate) struct Home(Weak<Shared>);

impl Home {
    /// The reign is over, which its commands came to know before the coprocessor did.
    pub(crate) fn tell_end(&self, pipe: &ReignPipe) {
        let Some(shared) = self.0.upgrade() else { return };
        let mut state = shared.state.lock();
        let State { owner, known } = &mut *state;
        let is_it = |held: &mut ReignPipe| held.is(pipe);
        if let Some(known) = known.get_mut(&pipe.range().group)
            && known.pipe.take_if(is_it).is_some()
            && let Some((_, owner)) = owner
        {
            known.is_broken = true;
            owner.ends(pipe);
        }
    }
}

impl ReignHook {
    /// To be called with whatever [`Coprocessor::lead`] is.
    ///
    /// [`Coprocessor::lead`]: ratatosk_store::coprocessor::Coprocessor::lead
    pub fn lead(&mut self, reign: Option<&Reign>) {
        if let Some(group) = self.group.take() {
            self.reigns.end(group);
        }
        if let Some(reign) = reign {
            self.group = Some(reign.range.group);
            self.reigns.begin(reign);
        }
    }
}

impl Realm for Handle {
    fn propose_in(&self, term: u64, group: GroupId, data: Vec<u8>, answer: Answer) {
        let reply = Box::new(|answers: Result<_, _>| answer(answers.into()));
        Handle::propose_in(self, term, group, data, reply);
    }

    fn read_whole(
        &self,
        group: GroupId,
        keys: &KeyRange,
        read: &mut Read<'_>,
    ) -> Result<bool, Error> {
        Handle::read_whole(self, group, keys, read)
    }

    fn is_short(&self) -> bool {
        Handle::is_short(self)
    }
}

impl std::fmt::Debug for Reigns {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.state.lock();
        formatter.debug_set().entries(state.known.keys()).finish()
    }
}
