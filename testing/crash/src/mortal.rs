//! Clients with wills: some that never come back after they were accepted, some that always do.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use ratatosk_codec::{ProtocolVersion, Qos};
use ratatosk_testkit::dice::Dice;
use tokio::time::timeout;

use crate::connection::{Connection, Persona, Testament};
use crate::history::{Promise, What, WillIndex};
use crate::stage::Stage;

/// How a client comes to its end.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    version: ProtocolVersion,
    is_persistent: bool,
    delay_s: Option<u32>,
    /// It goes on its own, mostly before the broker is killed.
    is_leaving: bool,
}

const MORTAL: [Kind; 5] = [
    Kind {
        name: "at once, MQTT 5, connected when the broker died",
        version: ProtocolVersion::V5,
        is_persistent: true,
        delay_s: None,
        is_leaving: false,
    },
    Kind {
        name: "at once, of a transient session of MQTT 3.1.1, connected when the broker died",
        version: ProtocolVersion::V311,
        is_persistent: false,
        delay_s: None,
        is_leaving: false,
    },
    Kind {
        name: "at once, MQTT 3.1.1, connected when the broker died",
        version: ProtocolVersion::V311,
        is_persistent: true,
        delay_s: None,
        is_leaving: false,
    },
    Kind {
        name: "delayed, connected when the broker died",
        version: ProtocolVersion::V5,
        is_persistent: true,
        delay_s: Some(1),
        is_leaving: false,
    },
    Kind {
        name: "delayed, of a client that went before the broker died",
        version: ProtocolVersion::V5,
        is_persistent: true,
        delay_s: Some(2),
        is_leaving: true,
    },
];

const FAITHFUL: Kind = Kind {
    name: "delayed by an hour, of a client that always came back",
    version: ProtocolVersion::V5,
    is_persistent: true,
    delay_s: Some(3600),
    is_leaving: false,
};

/// What becomes of clients that were not connected to the broker that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// There are none: there is one broker.
    None,
    /// They go without a word after so long.
    Go(Duration),
}

/// One of each kind that does not come back; each is a task.
pub fn generation(
    stage: &Rc<Stage>,
    dice: &mut Dice,
    round: u32,
    span: Duration,
    survivors: Survivors,
) -> Vec<impl Future<Output = ()> + use<>> {
    let new = |(index, kind): (usize, &Kind)| {
        let name = format!("mortal-{round}-{index}");
        let (persona, will) = persona(stage, &name, kind, Promise::Sent);
        let leave = match survivors {
            _ if kind.is_leaving => Some(dice.span(Duration::ZERO, span)),
            Survivors::None => None,
            Survivors::Go(after) => Some(after),
        };
        live(Rc::clone(stage), persona, will, leave)
    };
    MORTAL.iter().enumerate().map(new).collect()
}

/// A client that always comes back, and whose will is never sent.
pub(crate) async fn faithful(stage: Rc<Stage>, number: usize) {
    let (persona, will) = persona(&stage, &format!("faithful-{number}"), &FAITHFUL, Promise::Kept);
    loop {
        live(Rc::clone(&stage), persona.clone(), will, None).await;
    }
}

fn persona(stage: &Stage, name: &str, kind: &Kind, promise: Promise) -> (Persona, WillIndex) {
    let mut history = stage.history.borrow_mut();
    let will = history.add_will(promise, kind.name);
    let topic = history.will(will).topic.clone();
    let persona = Persona {
        client: history.add_client(name, kind.is_persistent),
        name: name.to_owned(),
        version: kind.version,
        is_persistent: kind.is_persistent,
        will: Some(Testament { topic, qos: Qos::AtLeastOnce, delay_s: kind.delay_s }),
    };
    (persona, will)
}

/// Until it goes, or the broker does.
async fn live(stage: Rc<Stage>, persona: Persona, will: WillIndex, leave: Option<Duration>) {
    let mut connection = Connection::enter(&stage, &persona).await;
    stage.record(persona.client, What::WillSet(will));
    let end = wait_for_end(&mut connection);
    let ended = match leave {
        Some(span) => timeout(span, end).await,
        None => Ok(end.await),
    };
    match ended {
        Ok(error) => stage.ended(persona.client, connection.seat, format!("{error:#}")),
        Err(_) => stage.record(persona.client, What::Left),
    }
}

async fn wait_for_end(connection: &mut Connection) -> anyhow::Error {
    let end: Result<()> = async {
        loop {
            connection.next().await?;
        }
    }
    .await;
    end.err().unwrap_or_else(|| anyhow::anyhow!("no end"))
}
