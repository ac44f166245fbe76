//! Each oracle catches what it is for, in histories made by hand, and lets a correct one pass.

use std::time::Duration;

use ratatosk_codec::Qos::{self, AtLeastOnce, ExactlyOnce};

use super::{Property, Subject, judge};
use crate::history::{
    ClientIndex, FilterIndex, History, Message, MessageIndex, Promise, Retention, What, WillIndex,
};

const TOPIC: &str = "load/a/b";
const KEPT: &str = "kept/a";

/// A publisher, and a subscriber with a subscription in force.
struct Tale {
    history: History,
    publisher: ClientIndex,
    subscriber: ClientIndex,
    filter: FilterIndex,
}

impl Tale {
    fn new() -> Tale {
        let mut history = History::default();
        let publisher = history.add_client("publisher", true);
        let subscriber = history.add_client("subscriber", true);
        let filter = history.add_filter(subscriber, "load/#", ExactlyOnce);
        let mut tale = Tale { history, publisher, subscriber, filter };
        tale.enters(subscriber, false);
        tale.subscribes(filter);
        tale
    }

    fn tell(&mut self, client: ClientIndex, what: What) {
        self.history.record(Duration::ZERO, Some(client), what);
    }

    fn enters(&mut self, client: ClientIndex, is_present: bool) {
        self.tell(client, What::ConnectSent { door: 0 });
        self.tell(client, What::Connected { is_present });
    }

    fn is_killed(&mut self) {
        self.history.record(Duration::ZERO, None, What::Killed);
        self.history.record(Duration::ZERO, None, What::Started);
    }

    fn subscribes(&mut self, filter: FilterIndex) {
        let client = self.history.filter(filter).client;
        self.tell(client, What::Subscribing(filter));
        self.tell(client, What::Subscribed(filter));
    }

    fn unsubscribes(&mut self, filter: FilterIndex) {
        let client = self.history.filter(filter).client;
        self.tell(client, What::Unsubscribing(filter));
        self.tell(client, What::Unsubscribed(filter));
    }

    fn joins_group(&mut self, name: &str) -> ClientIndex {
        let member = self.history.add_client(name, true);
        let filter = self.history.add_filter(member, "$share/crew/load/#", ExactlyOnce);
        self.subscribes(filter);
        member
    }

    fn sends_as(&mut self, topic: &str, qos: Qos, retention: Retention) -> MessageIndex {
        let number = u32::try_from(self.history.messages.len() + 1).expect("few");
        let publisher = self.publisher;
        let topic = topic.to_owned();
        let message = Message { publisher, number, topic, qos, retention };
        let message = self.history.add_message(message);
        self.tell(publisher, What::Sent { message, is_again: false });
        message
    }

    fn sends(&mut self, qos: Qos) -> MessageIndex {
        self.sends_as(TOPIC, qos, Retention::None)
    }

    fn is_acked(&mut self, message: MessageIndex) {
        let publisher = self.publisher;
        self.tell(publisher, What::Acked(message));
        if self.history.message(message).qos == ExactlyOnce {
            self.tell(publisher, What::Completed(message));
        }
    }

    fn publishes(&mut self, qos: Qos) -> MessageIndex {
        let message = self.sends(qos);
        self.is_acked(message);
        message
    }

    fn keeps(&mut self, retention: Retention) -> MessageIndex {
        let message = self.sends_as(KEPT, AtLeastOnce, retention);
        self.is_acked(message);
        message
    }

    fn comes_to(&mut self, client: ClientIndex, message: MessageIndex) {
        let qos = self.history.message(message).qos;
        self.tell(client, What::Delivered { message, qos, is_dup: false });
    }

    fn comes(&mut self, message: MessageIndex) {
        self.comes_to(self.subscriber, message);
    }

    fn looks(&mut self, seen: Option<MessageIndex>) {
        let probe = self.history.add_client("probe", false);
        self.tell(probe, What::Retained { topic: KEPT.to_owned(), seen });
    }

    fn leaves_will(&mut self, promise: Promise) -> WillIndex {
        let filter = self.history.add_filter(self.subscriber, "will/#", AtLeastOnce);
        self.subscribes(filter);
        let will = self.history.add_will(promise, "a will");
        let mortal = self.history.add_client("mortal", true);
        self.enters(mortal, false);
        self.tell(mortal, What::WillSet(will));
        will
    }

    #[track_caller]
    fn check(&self, expected: &[Property]) {
        let violations = judge(&self.history);
        let found: Vec<Property> = violations.iter().map(|it| it.property).collect();
        assert_eq!(found, expected, "{violations:?}");
    }
}

#[test]
fn a_correct_history_passes() {
    let mut tale = Tale::new();
    let (one, other) = (tale.joins_group("crew-1"), tale.joins_group("crew-2"));
    let will = tale.leaves_will(Promise::Sent);
    let first = tale.publishes(AtLeastOnce);
    let second = tale.sends(ExactlyOnce);
    tale.comes(first);
    tale.comes_to(one, first);
    tale.is_killed();
    let publisher = tale.publisher;
    tale.tell(publisher, What::Sent { message: second, is_again: true });
    tale.is_acked(second);
    tale.enters(tale.subscriber, true);
    // QoS 1 may come again, and then it is not out of order.
    tale.comes(first);
    tale.comes(second);
    tale.comes(first);
    tale.comes_to(other, second);
    tale.tell(tale.subscriber, What::WillDelivered(will));
    tale.tell(tale.subscriber, What::WillDelivered(will));
    let kept = tale.keeps(Retention::Update);
    tale.looks(Some(kept));
    tale.unsubscribes(tale.filter);
    let unseen = tale.publishes(AtLeastOnce);
    tale.comes_to(one, unseen);
    tale.history.record(Duration::ZERO, None, What::Drained);
    tale.check(&[]);
}

#[test]
fn a_lost_message_is_caught() {
    for qos in [AtLeastOnce, ExactlyOnce] {
        let mut tale = Tale::new();
        tale.is_killed();
        let lost = tale.publishes(qos);
        tale.is_killed();
        tale.enters(tale.subscriber, true);
        tale.check(&[Property::Delivery]);
        let violation = &judge(&tale.history)[0];
        assert_eq!((violation.round, violation.subject), (1, Subject::Message(lost)));
        assert_eq!(violation.client, Some(tale.subscriber));
        let shown = crate::report::report(&tale.history, &judge(&tale.history), 7);
        for part in ["seed 7", "round 1", "message 1 of publisher", "Acked", "Killed"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }
}

#[test]
fn pubrec_alone_is_a_promise() {
    let mut tale = Tale::new();
    let message = tale.sends(ExactlyOnce);
    let publisher = tale.publisher;
    tale.tell(publisher, What::Acked(message));
    tale.tell(publisher, What::Abandoned(message));
    tale.check(&[Property::Delivery]);
}

#[test]
fn what_was_not_acknowledged_may_be_lost() {
    let mut tale = Tale::new();
    let message = tale.sends(AtLeastOnce);
    let publisher = tale.publisher;
    tale.tell(publisher, What::Abandoned(message));
    tale.check(&[]);
}

#[test]
fn a_message_without_an_answer_is_caught() {
    let mut tale = Tale::new();
    let message = tale.sends(AtLeastOnce);
    tale.comes(message);
    tale.check(&[Property::Conduct]);
}

#[test]
fn a_message_for_a_session_that_was_lost_is_lost() {
    let mut tale = Tale::new();
    tale.publishes(AtLeastOnce);
    tale.is_killed();
    tale.enters(tale.subscriber, false);
    tale.subscribes(tale.filter);
    tale.check(&[Property::Delivery, Property::Session]);
}

#[test]
fn a_duplicate_of_qos_2_is_caught() {
    let mut tale = Tale::new();
    let message = tale.publishes(ExactlyOnce);
    tale.comes(message);
    tale.is_killed();
    tale.comes(message);
    tale.check(&[Property::ExactlyOnce]);
}

#[test]
fn a_duplicate_of_qos_2_is_caught_although_nothing_was_acknowledged() {
    let mut tale = Tale::new();
    let message = tale.sends(ExactlyOnce);
    tale.comes(message);
    tale.comes(message);
    tale.check(&[Property::ExactlyOnce, Property::Conduct]);
}

#[test]
fn a_group_is_sent_each_message_and_qos_2_once() {
    for (deliveries, expected) in [
        (vec![], vec![Property::Delivery]),
        (vec![0], vec![]),
        (vec![0, 1], vec![Property::ExactlyOnce]),
        (vec![1, 1], vec![Property::ExactlyOnce]),
    ] {
        let mut tale = Tale::new();
        let members = [tale.joins_group("crew-1"), tale.joins_group("crew-2")];
        let message = tale.publishes(ExactlyOnce);
        tale.comes(message);
        for member in deliveries {
            tale.comes_to(members[member], message);
        }
        tale.check(&expected);
    }
}

#[test]
fn a_session_that_ends_with_its_connection_is_owed_nothing_but_qos_2_once() {
    for (deliveries, expected) in [(0, vec![]), (1, vec![]), (2, vec![Property::ExactlyOnce])] {
        let mut tale = Tale::new();
        let transient = tale.history.add_client("transient, life 1", false);
        let filter = tale.history.add_filter(transient, "load/#", ExactlyOnce);
        tale.subscribes(filter);
        let message = tale.publishes(ExactlyOnce);
        tale.comes(message);
        (0..deliveries).for_each(|_| tale.comes_to(transient, message));
        tale.check(&expected);
    }
}

#[test]
fn a_swapped_order_is_caught() {
    for qos in [AtLeastOnce, ExactlyOnce] {
        let mut tale = Tale::new();
        let (first, second) = (tale.publishes(qos), tale.publishes(qos));
        tale.comes(second);
        tale.comes(first);
        tale.check(&[Property::Order]);
    }
}

#[test]
fn a_message_that_came_too_early_for_the_subscription_may_come_behind_a_later_one() {
    let mut tale = Tale::new();
    let (filter, subscriber) = (tale.filter, tale.subscriber);
    tale.unsubscribes(filter);
    let early = tale.sends(AtLeastOnce);
    tale.tell(subscriber, What::Subscribing(filter));
    let later = tale.sends(AtLeastOnce);
    tale.comes(later);
    tale.tell(subscriber, What::Subscribed(filter));
    let publisher = tale.publisher;
    tale.tell(publisher, What::Sent { message: early, is_again: true });
    tale.is_acked(early);
    tale.is_acked(later);
    tale.comes(early);
    tale.check(&[]);
}

/// A session that ends with its connection, where a node is cut off: the first PUBLISH was lost on the way to it, or
/// is on the way when the second is acknowledged.
#[test]
fn what_was_brought_again_may_come_late_to_a_session_that_does_not_last() {
    let check = |is_again: bool, order: &[Property], unwanted: &[Property]| {
        let mut tale = Tale::new();
        let passing = tale.history.add_client("passing, life 1", false);
        let filter = tale.history.add_filter(passing, "load/#", ExactlyOnce);
        tale.subscribes(filter);
        let (first, second) = (tale.sends(AtLeastOnce), tale.sends(AtLeastOnce));
        tale.comes_to(passing, second);
        let publisher = tale.publisher;
        for message in [first, second].into_iter().filter(|_| is_again) {
            tale.tell(publisher, What::Sent { message, is_again: true });
        }
        [first, second].into_iter().for_each(|message| tale.is_acked(message));
        [first, second].into_iter().for_each(|message| tale.comes(message));
        tale.comes_to(passing, first);
        tale.check(order);

        let mut tale = Tale::new();
        let passing = tale.history.add_client("passing, life 2", false);
        let filter = tale.history.add_filter(passing, "load/#", ExactlyOnce);
        let message = tale.sends(ExactlyOnce);
        let publisher = tale.publisher;
        if is_again {
            tale.tell(publisher, What::Sent { message, is_again: true });
        }
        tale.is_acked(message);
        tale.comes(message);
        tale.subscribes(filter);
        tale.comes_to(passing, message);
        tale.check(unwanted);
    };
    check(true, &[], &[]);
    check(false, &[Property::Order], &[Property::Unsubscribed]);
}

#[test]
fn topics_have_no_order_between_them() {
    let mut tale = Tale::new();
    let first = tale.publishes(AtLeastOnce);
    let second = tale.sends_as("load/a/c", AtLeastOnce, Retention::None);
    tale.is_acked(second);
    tale.comes(second);
    tale.comes(first);
    tale.check(&[]);
}

#[test]
fn another_qos_is_caught() {
    let mut tale = Tale::new();
    let message = tale.publishes(ExactlyOnce);
    let subscriber = tale.subscriber;
    tale.tell(subscriber, What::Delivered { message, qos: AtLeastOnce, is_dup: false });
    tale.check(&[Property::Conduct]);
}

#[test]
fn what_was_unsubscribed_brings_nothing() {
    let mut tale = Tale::new();
    let before = tale.publishes(AtLeastOnce);
    tale.unsubscribes(tale.filter);
    let after = tale.publishes(AtLeastOnce);
    // What was queued before still comes.
    tale.comes(before);
    tale.check(&[]);
    tale.comes(after);
    tale.check(&[Property::Unsubscribed]);
}

#[test]
fn between_the_request_and_its_answer_both_is_right() {
    let mut tale = Tale::new();
    let (filter, subscriber) = (tale.filter, tale.subscriber);
    tale.tell(subscriber, What::Unsubscribing(filter));
    let seen = tale.publishes(AtLeastOnce);
    tale.publishes(AtLeastOnce);
    tale.comes(seen);
    tale.is_killed();
    tale.unsubscribes(filter);
    tale.tell(subscriber, What::Subscribing(filter));
    let seen = tale.publishes(AtLeastOnce);
    tale.publishes(AtLeastOnce);
    tale.comes(seen);
    tale.check(&[]);
}

#[test]
fn a_message_that_was_on_its_way_while_the_subscription_changed_may_come() {
    let mut tale = Tale::new();
    let (one, other) = (tale.sends(AtLeastOnce), tale.sends(AtLeastOnce));
    tale.unsubscribes(tale.filter);
    tale.is_acked(one);
    tale.is_acked(other);
    tale.comes(one);
    tale.check(&[]);
}

#[test]
fn a_subscription_that_is_made_again_is_in_force_again() {
    let mut tale = Tale::new();
    tale.unsubscribes(tale.filter);
    tale.subscribes(tale.filter);
    tale.is_killed();
    tale.publishes(ExactlyOnce);
    tale.check(&[Property::Delivery]);
}

#[test]
fn what_is_settled_does_not_come_again() {
    let mut tale = Tale::new();
    let message = tale.publishes(AtLeastOnce);
    tale.comes(message);
    tale.history.record(Duration::ZERO, None, What::Drained);
    tale.check(&[]);
    tale.is_killed();
    tale.comes(message);
    tale.check(&[Property::Settled]);
}

#[test]
fn a_lost_session_is_caught() {
    let mut tale = Tale::new();
    tale.is_killed();
    tale.enters(tale.subscriber, false);
    tale.check(&[Property::Session]);
}

#[test]
fn a_session_whose_connack_was_lost_may_be_there_or_not() {
    for is_present in [false, true] {
        let mut tale = Tale::new();
        let late = tale.history.add_client("late", true);
        tale.tell(late, What::ConnectSent { door: 0 });
        tale.is_killed();
        tale.enters(late, is_present);
        tale.check(&[]);
    }
    let mut tale = Tale::new();
    let new = tale.history.add_client("new", true);
    tale.enters(new, true);
    tale.check(&[Property::Session]);
}

#[test]
fn a_retained_message_that_is_missing_or_too_old_is_caught() {
    let mut tale = Tale::new();
    tale.looks(None);
    let old = tale.keeps(Retention::Update);
    let new = tale.keeps(Retention::Update);
    tale.looks(Some(new));
    tale.check(&[]);
    tale.looks(Some(old));
    tale.check(&[Property::Retained]);
    tale.looks(None);
    tale.check(&[Property::Retained, Property::Retained]);
}

#[test]
fn a_retained_message_may_be_any_that_was_sent_later() {
    let mut tale = Tale::new();
    let acked = tale.keeps(Retention::Update);
    let cleared = tale.sends_as(KEPT, AtLeastOnce, Retention::Clear);
    let sent = tale.sends_as(KEPT, AtLeastOnce, Retention::Update);
    for seen in [Some(acked), None, Some(sent)] {
        tale.looks(seen);
    }
    tale.is_acked(cleared);
    tale.looks(None);
    tale.looks(Some(sent));
    tale.is_acked(sent);
    tale.check(&[]);
    tale.looks(None);
    tale.check(&[Property::Retained]);
}

#[test]
fn a_cleared_message_that_comes_back_is_caught() {
    let mut tale = Tale::new();
    let old = tale.keeps(Retention::Update);
    tale.keeps(Retention::Clear);
    tale.looks(None);
    tale.check(&[]);
    tale.is_killed();
    tale.looks(Some(old));
    tale.check(&[Property::Retained]);
}

#[test]
fn a_lost_will_is_caught() {
    let mut tale = Tale::new();
    tale.leaves_will(Promise::Sent);
    tale.is_killed();
    tale.check(&[Property::Will]);
}

#[test]
fn the_will_of_a_client_that_came_back_is_caught() {
    let mut tale = Tale::new();
    let will = tale.leaves_will(Promise::Kept);
    tale.is_killed();
    tale.check(&[]);
    let subscriber = tale.subscriber;
    tale.tell(subscriber, What::WillDelivered(will));
    tale.check(&[Property::Will]);
}

#[test]
fn who_does_not_come_back_is_absent() {
    let mut tale = Tale::new();
    let (publisher, subscriber) = (tale.publisher, tale.subscriber);
    let end = ClientIndex(subscriber.0 + 1);
    assert_eq!(tale.history.absent(end), [publisher]);
    assert_eq!(tale.history.absent(publisher), []);
    tale.enters(publisher, false);
    tale.tell(subscriber, What::Cut);
    assert_eq!(tale.history.absent(end), [subscriber]);
    tale.enters(subscriber, true);
    assert_eq!(tale.history.absent(end), []);
}

#[test]
fn misconduct_is_caught() {
    let text = || "something".to_owned();
    for what in [What::Dropped(text()), What::Stalled(text()), What::Foreign(text())] {
        let mut tale = Tale::new();
        let subscriber = tale.subscriber;
        tale.tell(subscriber, what);
        tale.check(&[Property::Conduct]);
    }
    let mut tale = Tale::new();
    let message = tale.sends(AtLeastOnce);
    let publisher = tale.publisher;
    tale.tell(publisher, What::Refused(message, 0x97));
    tale.check(&[Property::Conduct]);
}
