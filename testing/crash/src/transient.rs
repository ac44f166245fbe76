//! A subscriber whose session ends with its connection.
//!
//! For the history each connection is another client, as each is another session: nothing is owed
//! to it afterwards, and what its successor is sent is no repetition.

use std::rc::Rc;

use ratatosk_codec::{ProtocolVersion, Qos};
use ratatosk_testkit::dice::Dice;

use crate::connection::Persona;
use crate::stage::Stage;
use crate::subscriber::{Habit, Subscriber};

/// Subscribes until it is dropped, under one client identifier.
pub(crate) async fn run(
    stage: Rc<Stage>,
    (name, version): (&'static str, ProtocolVersion),
    (filter, qos): (&'static str, Qos),
    dice: Dice,
) {
    for life in 1_u32.. {
        let (client, filter) = {
            let mut history = stage.history.borrow_mut();
            let client = history.add_client(&format!("{name}, life {life}"), false);
            (client, history.add_filter(client, filter, qos))
        };
        let persona =
            Persona { client, name: name.to_owned(), version, is_persistent: false, will: None };
        Subscriber::new(&stage, persona, dice.clone(), Habit::Online, &[filter]).run_once().await;
    }
}
