//! What other shards and the services left in the mailbox.

use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::{SessionRef, sessions::Delivery as GivenBack};
use ratatosk_session::{Delivered, Delivery, DropReason};

use super::{
    Shard,
    connection::Flow,
    mailbox::{Batch, Note},
    publish::{group_key, is_kept},
    regroup::FROM_AWAY,
    wills::Kept,
    wire::{MemberTarget, Target},
};
use crate::tenants::TenantNumber;

impl Shard {
    /// Takes everything out of the mailbox.
    pub(super) fn empty_mailbox(&mut self, batch: &mut Batch, notes: &mut Vec<Note>) {
        self.now = self.node.clock.now();
        let own = self.id.index();
        let node = std::sync::Arc::clone(&self.node);
        let mailbox = &node.mailboxes[own];
        for from in 0..=node.mailboxes.len() {
            let is_waited_for = mailbox.take_batch(from, batch);
            batch.for_each(|tenant, target, message| self.receive(tenant, target, message));
            batch.clear();
            if is_waited_for {
                node.mailboxes[from].note(Note::Resume);
            }
        }
        mailbox.take_notes(notes);
        for note in notes.drain(..) {
            self.note(note);
        }
        self.wake_flusher();
    }

    fn receive(
        &mut self,
        tenant: TenantNumber,
        target: Target<'_>,
        message: &ratatosk_contract::Message<'_>,
    ) {
        match target {
            Target::Routed { routes } => {
                self.open_tenant(tenant);
                for route in routes.iter() {
                    self.deliver_route(tenant, route, message);
                }
            }
            Target::Member(member) => {
                self.open_tenant(tenant);
                if member.hops == FROM_AWAY {
                    // It is counted where it is first seen on this host.
                    self.flow(tenant).copies += 1;
                }
                // Nothing is at work while the mailbox is emptied, so this delivers or passes on.
                self.deliver_member(tenant, &member, message);
            }
            Target::Direct { slot, generation, options, subscription_id } => {
                self.open_tenant(tenant);
                let session = SessionRef { shard: self.id, slot, generation };
                let now = self.now;
                let delivery = Delivery {
                    message,
                    options,
                    subscription_id,
                    is_retained: false,
                    origin: None,
                };
                let qos = message.qos.min(options.qos);
                let node = std::sync::Arc::clone(&self.node);
                let delivered = match self.connection(session) {
                    Some(connection) if Shard::gives_up(&node.memory, connection, qos) => {
                        Delivered::Dropped(DropReason::ResourceExhausted)
                    }
                    Some(connection) => {
                        let delivered = connection.session.deliver(now, &delivery);
                        connection.note_member();
                        delivered
                    }
                    None => Delivered::Dropped(DropReason::SessionClosed),
                };
                self.touch(session, delivered);
                self.count(tenant, delivered, message);
            }
        }
    }

    /// Delivers to all sessions of this shard that have a route.
    fn deliver_route(
        &mut self,
        tenant: TenantNumber,
        route: ratatosk_contract::dist::RouteId,
        message: &ratatosk_contract::Message<'_>,
    ) {
        let count = self.tenant(tenant).locals.sessions(route).len();
        self.flow(tenant).copies += count as u64;
        for index in 0..count {
            let subscription = self.tenant(tenant).locals.sessions(route)[index];
            let id = subscription.subscription_id;
            let delivery = Delivery {
                message,
                options: subscription.options,
                subscription_id: (id != 0).then_some(id),
                is_retained: false,
                origin: None,
            };
            let place = &mut self.slots[subscription.slot as usize];
            let Some(connection) = place.connection.as_deref_mut() else {
                self.flow(tenant).dropped(DropReason::SessionClosed);
                continue;
            };
            let qos = message.qos.min(subscription.options.qos);
            let delivered = if Shard::gives_up(&self.node.memory, connection, qos) {
                Delivered::Dropped(DropReason::ResourceExhausted)
            } else {
                connection.session.deliver(self.now, &delivery)
            };
            if is_kept(delivered) && !connection.is_dirty {
                connection.is_dirty = true;
                self.dirty.push(subscription.slot);
            }
            self.count(tenant, delivered, message);
        }
    }

    fn touch(&mut self, session: SessionRef, delivered: Delivered) {
        if !is_kept(delivered) {
            return;
        }
        if let Some(connection) = self.connection(session)
            && !connection.is_dirty
        {
            connection.is_dirty = true;
            self.dirty.push(session.slot);
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Accept(accepted) => self.accept(*accepted),
            Note::Kick { session, by } => self.kick(session, by),
            Note::Kicked { waiter } => self.kicked(waiter),
            Note::Granted(session) => self.own_pending(session),
            Note::End { session, cause } => self.end_by_directory(session, cause),
            Note::Change { session, change, answer } => self.change(session, *change, answer),
            Note::InboxReady(session) => self.inbox_ready(session),
            Note::ChosenBefore { session, ticket, groups } => {
                self.spare_withheld(session, ticket, &groups);
            }
            Note::Settle { session, ticket, settlement } => {
                self.settle(session, ticket, settlement);
            }
            Note::Answered { reply_to, answer } => self.answered(reply_to, answer),
            Note::SettleKept { ticket, outcome } => self.settle_kept(ticket, outcome),
            Note::Publish(will) => {
                let tenant = self.node.tenants.number(&will.identity.tenant);
                self.send_will(tenant, will.message, Some(Kept::Due(will.id)));
            }
            Note::Deliver { session, delivery } => self.deliver_given_back(session, &delivery),
            Note::LookAtRoutes(tenant) => self.routes_answer(tenant),
            Note::LookAtRetained(tenant) => self.look_at_retained(tenant),
            Note::Resume => self.resume(),
            Note::Drain { per_second } => self.begin_drain(per_second),
        }
    }

    /// A message that another member of a shared group gave back.
    fn deliver_given_back(&mut self, session: SessionRef, given: &GivenBack) {
        let message = given.message.as_message();
        let tenant = self.node.tenants.number(&given.tenant);
        self.open_tenant(tenant);
        let flow = self.flow(tenant);
        flow.copies += 1;
        flow.handed_back += 1;
        let Some(connection) = self.connection(session) else {
            self.flow(tenant).dropped(DropReason::SessionClosed);
            return;
        };
        if !connection.session.is_persistent() {
            let target = MemberTarget {
                slot: session.slot,
                generation: session.generation,
                route: given.group.route,
                group: group_key(&given.group.name, given.group.is_ordered),
                hops: 1,
            };
            self.deliver_member(tenant, &target, &message);
            return;
        }
        let delivery = Delivery {
            message: &message,
            options: SubscriptionOptions { qos: Qos::AtMostOnce, ..given.options },
            subscription_id: given.subscription_id,
            is_retained: false,
            origin: None,
        };
        let now = self.now;
        let node = std::sync::Arc::clone(&self.node);
        let Some(connection) = self.connection(session) else { return };
        let delivered = if Shard::gives_up(&node.memory, connection, Qos::AtMostOnce) {
            Delivered::Dropped(DropReason::ResourceExhausted)
        } else {
            connection.session.deliver(now, &delivery)
        };
        self.touch(session, delivered);
        self.count(tenant, delivered, &message);
    }

    /// A lane has room again: those who waited for it read on.
    fn resume(&mut self) {
        let now = self.now;
        for session in std::mem::take(&mut self.back_pressured) {
            if let Some(connection) = self.connection(session)
                && connection.state == Flow::BackPressured
            {
                connection.read_on(now);
            }
        }
    }
}
