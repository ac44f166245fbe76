//! Who takes part: publishers, subscribers of every habit, a group, heirs, who is forgotten, and who
//! never dies.
//!
//! Topics: `load/PUBLISHER/QOS/NUMBER` for subscribers, `kept/PUBLISHER/NUMBER` to be retained,
//! `will/NUMBER` for wills. The QoS of a topic is fixed, because order is promised only for
//! messages of one QoS. No client has two filters that match one topic.

use std::rc::Rc;
use std::time::Duration;

use ratatosk_codec::ProtocolVersion::{self, V5, V311};
use ratatosk_codec::Qos::{self, AtLeastOnce, ExactlyOnce};
use ratatosk_testkit::dice::Dice;
use tokio::task::JoinSet;

use crate::connection::Persona;
use crate::publisher::Publisher;
use crate::stage::Stage;
use crate::subscriber::Habit::{self, Churning, Online, Visiting};
use crate::subscriber::Subscriber;
use crate::{mortal, transient};

const PUBLISHERS: [ProtocolVersion; 4] = [V5, V311, V5, V311];
const KEEPERS: [ProtocolVersion; 2] = [V5, V311];
const TOPICS_KEPT: usize = 6;
const FAITHFUL_COUNT: usize = 2;

const GROUP: &str = "$share/crew/load/#";
const SUBSCRIBERS: [(&str, ProtocolVersion, Habit, &str, Qos); 12] = [
    ("online-5", V5, Online, "load/#", ExactlyOnce),
    ("online-3", V311, Online, "load/#", ExactlyOnce),
    ("online-once", V5, Online, "load/#", AtLeastOnce),
    ("visitor-5", V5, Visiting, "load/#", ExactlyOnce),
    ("visitor-3", V311, Visiting, "load/#", ExactlyOnce),
    ("visitor-half", V5, Visiting, "load/+/2/#", ExactlyOnce),
    ("visitor-once", V311, Visiting, "load/+/+/0", AtLeastOnce),
    ("crew-1", V5, Online, GROUP, ExactlyOnce),
    ("crew-2", V5, Online, GROUP, ExactlyOnce),
    ("crew-3", V5, Visiting, GROUP, ExactlyOnce),
    ("heir-5", V5, Online, "will/#", ExactlyOnce),
    ("heir-3", V311, Visiting, "will/#", AtLeastOnce),
];
const TRANSIENTS: [(&str, ProtocolVersion, &str, Qos); 3] = [
    ("transient-5", V5, "load/#", ExactlyOnce),
    ("transient-3", V311, "load/#", AtLeastOnce),
    ("transient-half", V5, "load/+/2/#", ExactlyOnce),
];
const CHURNERS: [(&str, ProtocolVersion); 2] = [("churner-5", V5), ("churner-3", V311)];

/// Sends everybody on stage who is there all the time; gives the topics that are retained.
pub fn enter(stage: &Rc<Stage>, tasks: &mut JoinSet<()>, seed: u64, rate: u32) -> Vec<String> {
    let mut purpose = 0;
    let mut dice = || {
        purpose += 1;
        Dice::new(seed, purpose)
    };
    let pause = Duration::from_secs(1) / rate.max(1);
    for (name, version, habit, filter, qos) in SUBSCRIBERS {
        let persona = persona(stage, name, version);
        let filter = stage.history.borrow_mut().add_filter(persona.client, filter, qos);
        let subscriber = Subscriber::new(stage, persona, dice(), habit, &[filter]);
        tasks.spawn_local(subscriber.run());
    }
    for (name, version, filter, qos) in TRANSIENTS {
        let life = transient::run(Rc::clone(stage), (name, version), (filter, qos), dice());
        tasks.spawn_local(life);
    }
    for (name, version) in CHURNERS {
        let persona = persona(stage, name, version);
        let filter = |number| {
            let text = format!("load/publisher-{number}/#");
            stage.history.borrow_mut().add_filter(persona.client, &text, ExactlyOnce)
        };
        let filters: Vec<_> = (0..PUBLISHERS.len()).map(filter).collect();
        let subscriber = Subscriber::new(stage, persona, dice(), Churning, &filters);
        tasks.spawn_local(subscriber.run());
    }
    for (number, version) in PUBLISHERS.into_iter().enumerate() {
        let name = format!("publisher-{number}");
        let mut publisher = Publisher::new(stage, persona(stage, &name, version), dice());
        let topics = [(1, AtLeastOnce), (2, ExactlyOnce)].into_iter();
        let topic = |(digit, qos)| {
            (0..2).map(move |topic| (format!("load/publisher-{number}/{digit}/{topic}"), qos))
        };
        publisher.topics = topics.flat_map(topic).collect();
        publisher.pause = pause;
        tasks.spawn_local(publisher.run());
    }
    let mut kept = Vec::new();
    for (number, version) in KEEPERS.into_iter().enumerate() {
        let name = format!("keeper-{number}");
        let mut keeper = Publisher::new(stage, persona(stage, &name, version), dice());
        let qos = |topic| if topic % 2 == 0 { AtLeastOnce } else { ExactlyOnce };
        let topic = |topic| (format!("kept/keeper-{number}/{topic}"), qos(topic));
        keeper.topics = (0..TOPICS_KEPT).map(topic).collect();
        keeper.is_retaining = true;
        keeper.pause = pause;
        kept.extend(keeper.topics.iter().map(|(topic, _)| topic.clone()));
        tasks.spawn_local(keeper.run());
    }
    for number in 0..FAITHFUL_COUNT {
        tasks.spawn_local(mortal::faithful(Rc::clone(stage), number));
    }
    kept
}

fn persona(stage: &Stage, name: &str, version: ProtocolVersion) -> Persona {
    let client = stage.history.borrow_mut().add_client(name, true);
    Persona { client, name: name.to_owned(), version, is_persistent: true, will: None }
}
