//! What a host does when a range gets other members.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry};
use ratatosk_engine::wire::Parser;
use ratatosk_engine::{Engine, Error};

use super::{Done, Host, Refusal, Turn};
use crate::log::GroupId;
use crate::machine::Input;
use crate::membership::Membership;
use crate::range::{Descriptor, META, Version};

impl<E: Engine> Host<E> {
    /// Carries out an entry that changes who keeps the range. KV-008
    pub(super) fn configure<T>(
        &mut self,
        group: GroupId,
        entry: &Entry,
        turn: &mut Turn,
        done: &mut Done<T>,
    ) -> Result<Result<Vec<Bytes>, Refusal>, Error> {
        let Some(range) = self.ranges.get_mut(&group) else { return Ok(Err(Refusal::Lost)) };
        let Ok(change) = ConfChangeV2::parse_from_bytes(&entry.data) else {
            return Err(range.corrupt(entry, "is of a newer format, or damaged"));
        };
        let descriptor = &mut range.descriptor;
        let membership = match change.changes.is_empty() {
            // Of before a recovery.
            true if !descriptor.membership.is_joint() => return Ok(Err(Refusal::Lost)),
            true => descriptor.membership.left(),
            false => {
                let mut parser = Parser::new(&entry.context);
                let read = read_change(&mut parser);
                let Some((version, membership)) = read.filter(|_| parser.is_at_end()) else {
                    return Err(range.corrupt(entry, "is of a newer format, or damaged"));
                };
                if version != descriptor.version {
                    return Ok(Err(Refusal::Version(Box::new(descriptor.clone()))));
                }
                if descriptor.frozen.is_some() {
                    return Ok(Err(Refusal::Merging));
                }
                membership
            }
        };
        let me = descriptor.membership.of_store(self.store);
        descriptor.membership = membership;
        // Whoever was alone was lent to for ever.
        range.lease.end();
        descriptor.version.config += 1;
        turn.changes.put(META, Descriptor::key(group), descriptor.encode());
        let is_member = descriptor.membership.of_store(self.store).is_some();
        let (change, told) = (Box::new(change), Box::new(descriptor.clone()));
        done.inputs.push(Input::Configured { change, descriptor: told });
        if let Some(me) = me.filter(|_| !is_member) {
            self.show(turn, done);
            self.remove(group, me.id, done)?;
        }
        Ok(Ok(Vec::new()))
    }
}

/// For which version a change of members was meant, and what it makes of them.
pub(super) fn read_change(parser: &mut Parser<'_>) -> Option<(Version, Membership)> {
    let version = Version { boundary: parser.take_u64().ok()?, config: parser.take_u64().ok()? };
    Some((version, Membership::decode(parser).ok()?))
}
