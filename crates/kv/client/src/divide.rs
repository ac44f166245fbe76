//! Commands for keys of several ranges: cut where the ranges part, and answered as one.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_engine::KeyRange;

use crate::{Done, Fate};

/// Knows how the commands of a keyspace are cut.
///
/// The parts of a command are in the logs of their ranges, each in its order with what goes there before and
/// after it; between ranges there is no order, and after a crash one part may be there and another not. So
/// only what stands by itself may be in one command with the rest.
pub trait Divide: Send + Sync {
    /// Cuts a command of which the first key is in `boundary`; `None` if all its keys are.
    fn divide(&self, command: &Bytes, boundary: &KeyRange) -> Option<Divided>;
}

/// A command in two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divided {
    /// What is for keys of the boundary.
    pub inside: Bytes,
    /// The first key of the rest.
    pub key: Bytes,
    /// What is for other keys.
    pub rest: Bytes,
}

/// Two who are told of two parts, for one who is told of the whole: once both parts are done, what became of
/// the one that is worse off. Whatever is not known is worse than any answer, and so is a whole of which a part was
/// refused; of two answers the greater one is the worse, as bytes.
pub(crate) fn join(done: Done) -> (Done, Done) {
    let joint = Arc::new(Mutex::new(Joint { done: Some(done), first: None }));
    let tell = |joint: Arc<Mutex<Joint>>| -> Done {
        Box::new(move |fate| {
            let whole = joint.lock().add(fate);
            // Not under the lock: whoever is told may submit more.
            if let Some((done, fate)) = whole {
                done(fate);
            }
        })
    };
    (tell(Arc::clone(&joint)), tell(joint))
}

struct Joint {
    done: Option<Done>,
    first: Option<Fate>,
}

impl Joint {
    /// Answers who is to be told, if both are done.
    fn add(&mut self, fate: Fate) -> Option<(Done, Fate)> {
        let Some(first) = self.first.take() else {
            self.first = Some(fate);
            return None;
        };
        let worse = match (first, fate) {
            (Fate::Applied(one), Fate::Applied(other)) => Fate::Applied(one.max(other)),
            (Fate::Refused, Fate::Refused) => Fate::Refused,
            _ => Fate::Unknown,
        };
        self.done.take().map(|done| (done, worse))
    }
}
