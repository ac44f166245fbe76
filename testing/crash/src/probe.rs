//! A new subscriber that looks at what is retained, before anybody else is let in.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ratatosk_codec::{
    Packet, PacketId, ProtocolVersion, Qos, Subscribe, SubscribeFiltersBuilder, SubscriptionOptions,
};
use tokio::time::timeout;

use crate::connection::{Connection, Incoming, Persona};
use crate::history::{MessageIndex, What};
use crate::oracle::retained;
use crate::publisher::message_of;
use crate::stage::{PATIENCE, Stage};

/// What must be there is waited for so long.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What must not be there had the time to come after so long without any.
const LINGER: Duration = Duration::from_millis(50);

/// Writes down what is retained for each of the topics.
///
/// # Errors
/// If the broker does not let it in, or sends what nobody sent.
pub async fn look(
    stage: &Rc<Stage>,
    persona: &Persona,
    door: usize,
    topics: &[String],
) -> Result<()> {
    let mut connection = timeout(PATIENCE, Connection::open(stage, persona, door)).await??;
    let mut filters = SubscribeFiltersBuilder::new();
    filters.push("kept/#", SubscriptionOptions::new(Qos::AtMostOnce))?;
    let id = PacketId::new(1).context("1 is a packet identifier")?;
    connection.send(&Packet::Subscribe(Subscribe::new(id, filters.view()))).await?;
    connection.send(&Packet::Pingreq).await?;

    let mut seen: HashMap<String, MessageIndex> = HashMap::new();
    let mut is_answered = false;
    let all = async {
        // What is retained may come behind PINGRESP: that of which it is certain is waited for.
        while !is_answered || is_missing(stage, &seen) {
            match connection.next().await? {
                Incoming::Publish(it) if it.is_retained => {
                    let message = message_of(&it.payload);
                    let Some(message) = message else { bail!("{it:?} was never sent") };
                    seen.insert(it.topic, message);
                }
                Incoming::Pingresp => is_answered = true,
                Incoming::Suback { .. } | Incoming::Publish(_) => {}
                other => bail!("the probe was sent {other:?}"),
            }
        }
        anyhow::Ok(())
    };
    match timeout(WAIT_MAX, all).await {
        Ok(result) => result?,
        Err(_) if !is_answered => stage.record(persona.client, What::Stalled("PINGRESP".into())),
        // The oracle says what is missing.
        Err(_) => {}
    }
    while let Ok(incoming) = timeout(LINGER, connection.next()).await {
        let Incoming::Publish(it) = incoming? else { continue };
        if let Some(message) = message_of(&it.payload).filter(|_| it.is_retained) {
            seen.insert(it.topic, message);
        }
    }
    for topic in topics {
        let what = What::Retained { topic: topic.clone(), seen: seen.get(topic).copied() };
        stage.record(persona.client, what);
    }
    stage.record(persona.client, What::Left);
    connection.disconnect().await
}

/// Whether something was not seen that must be there. Acknowledgements that the broker sent before
/// it was killed may still be read, so that this changes.
fn is_missing(stage: &Stage, seen: &HashMap<String, MessageIndex>) -> bool {
    let history = stage.history.borrow();
    retained::certain(&history).into_iter().any(|topic| !seen.contains_key(topic))
}

/// Who looks.
pub fn persona(stage: &Stage) -> Persona {
    let name = "probe".to_owned();
    let client = stage.history.borrow_mut().add_client(&name, false);
    let version = ProtocolVersion::V5;
    Persona { client, name, version, is_persistent: false, will: None }
}
