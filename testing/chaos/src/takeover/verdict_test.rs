//! Histories made by hand, and what is to be said of them.

use ratatosk_crash::history::{Message, Retention};

use super::*;
use crate::takeover::life::Deed;

const SECOND: u64 = 1000;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A session with two connections, of which the first is replaced, and a publisher.
struct Case {
    history: History,
    publisher: ClientIndex,
    lives: Vec<Life>,
    weather: Weather,
}

fn life(round: u32, sent: u64, connack: u64, end: Option<(u64, End)>) -> Life {
    let mut life = Life::new(round, 0, ms(sent));
    life.connack = Some(ms(connack));
    life.end = end.map(|(at, end)| (ms(at), end));
    life
}

fn case() -> Case {
    let mut history = History::default();
    let publisher = history.add_client("publisher", true);
    let first = life(1, 0, 10, Some((130, End::Told(0x8e))));
    let lives = vec![first, life(2, 100, 120, None)];
    Case { history, publisher, lives, weather: Weather::default() }
}

impl Case {
    fn sends(&mut self, number: u32, at: u64, qos: Qos) -> MessageIndex {
        let (publisher, topic) = (self.publisher, format!("race/0/{}", qos as u8));
        let message = Message { publisher, number, topic, qos, retention: Retention::None };
        let message = self.history.add_message(message);
        self.history.record(ms(at), Some(publisher), What::Sent { message, is_again: false });
        message
    }

    fn comes(&mut self, life: usize, message: MessageIndex, id: u16) {
        let qos = self.history.message(message).qos;
        self.lives[life].came.push(Came::Message { message, qos, id });
    }

    fn does(&mut self, life: usize, started: u64, acked: Option<u64>) {
        let (started, acked) = (ms(started), acked.map(ms));
        self.lives[life].deeds.push(Deed { kind: DeedKind::Subscribe, started, acked });
    }

    fn judged(&self) -> Vec<Kind> {
        let mut facts = Facts::default();
        facts.follow(&self.history);
        let mut judge = Judge::new("twin".to_owned());
        let known = (&self.history, &facts);
        judge.judge(&self.lives, known, &self.weather, ms(60 * SECOND), true);
        judge.breaches.iter().map(|breach| breach.kind).collect()
    }
}

#[test]
fn who_was_replaced_may_have_done_only_what_it_began_before() {
    let mut case = case();
    case.does(0, 119, Some(125));
    case.does(0, 121, None);
    case.does(1, 121, Some(125));
    assert_eq!(case.judged(), []);
    case.does(0, 121, Some(125));
    assert_eq!(case.judged(), [Kind::ActedLate]);
}

#[test]
fn of_two_that_came_at_once_the_one_that_ended_was_replaced() {
    let mut case = case();
    // The second one's CONNACK was read first.
    case.lives = vec![life(1, 0, 30, Some((40, End::Told(0x8e)))), life(1, 1, 20, None)];
    case.does(0, 25, Some(29));
    case.does(1, 31, Some(35));
    assert_eq!(case.judged(), []);
    case.does(0, 31, Some(35));
    assert_eq!(case.judged(), [Kind::ActedLate]);
}

#[test]
fn who_was_replaced_is_given_nothing_that_was_sent_afterwards() {
    let mut case = case();
    let (before, after) =
        (case.sends(1, 115, Qos::AtLeastOnce), case.sends(2, 125, Qos::AtLeastOnce));
    case.comes(0, before, 1);
    assert_eq!(case.judged(), []);
    case.comes(0, after, 2);
    assert_eq!(case.judged(), [Kind::DeliveredLate]);
}

#[test]
fn who_was_replaced_is_told_and_nobody_else() {
    let mut case = case();
    case.lives[0].end = None;
    assert_eq!(case.judged(), [Kind::NotTold]);
    case.lives[0].end = Some((ms(130), End::Closed));
    assert_eq!(case.judged(), []);
    case.lives[1].end = Some((ms(500), End::Closed));
    assert_eq!(case.judged(), [Kind::EndedForNobody]);
    case.lives[1].end = Some((ms(500), End::Left));
    assert_eq!(case.judged(), []);
}

#[test]
fn in_a_storm_nobody_has_to_be_told_before_it_is_over() {
    let mut case = case();
    case.weather.begin(ms(90));
    case.lives[0].end = Some((ms(9 * SECOND), End::Closed));
    assert_eq!(case.judged(), []);
    case.weather.end(ms(5 * SECOND));
    case.lives[0].end = Some((ms(40 * SECOND), End::Closed));
    assert_eq!(case.judged(), [Kind::NotTold]);
}

#[test]
fn a_message_of_qos_2_comes_again_under_its_identifier_until_it_is_released() {
    let mut case = case();
    let message = case.sends(1, 50, Qos::ExactlyOnce);
    case.comes(0, message, 1);
    case.comes(1, message, 1);
    case.lives[1].came.push(Came::Release { id: 1 });
    assert_eq!(case.judged(), []);
    case.comes(1, message, 1);
    assert_eq!(case.judged(), [Kind::Twice]);
    case.lives[1].came.clear();
    case.comes(1, message, 2);
    assert_eq!(case.judged(), [Kind::Twice]);
}

#[test]
fn a_publishers_messages_come_in_order_however_often() {
    let mut case = case();
    let [one, two, three] = [1, 2, 3].map(|number| case.sends(number, 20, Qos::AtLeastOnce));
    case.comes(0, one, 1);
    case.comes(0, two, 2);
    case.comes(1, one, 1);
    case.comes(1, two, 2);
    case.comes(1, three, 3);
    assert_eq!(case.judged(), []);
    let late = case.sends(0, 20, Qos::AtLeastOnce);
    case.comes(1, late, 4);
    assert_eq!(case.judged(), [Kind::Order]);
}
