//! How commands of retained messages are cut where their ranges part: each topic stands by itself.

use bytes::Bytes;
use ratatosk_client::{Divide, Divided};
use ratatosk_engine::KeyRange;

use crate::{
    effect::{Command, Draft, Effect},
    schema::message::key,
};

/// Cuts the commands of a [`RetainService`](crate::RetainService) at any key.
#[derive(Copy, Clone, Debug, Default)]
pub struct RetainDivision;

impl Divide for RetainDivision {
    fn divide(&self, command: &Bytes, boundary: &KeyRange) -> Option<Divided> {
        // What cannot be read is refused by whoever gets it whole.
        let Command { tenant, effects } = Command::decode(command).ok()?;
        let is_inside = |effect: &&Effect<'_>| boundary.contains(&key(tenant, effect.topic()));
        let (inside, outside): (Vec<_>, Vec<_>) = effects.iter().partition(is_inside);
        // The first key was said to be inside, so there is no part without an effect.
        if inside.is_empty() {
            return None;
        }
        let first = key(tenant, outside.first()?.topic());
        let part = |effects: Vec<&Effect<'_>>| {
            effects.into_iter().fold(Draft::of(tenant), Draft::effect).finish()
        };
        Some(Divided { inside: part(inside), key: first.into(), rest: part(outside) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schema::{message::TopicHash, stamp::Stamp};

    proptest! {
        /// KV-014, RET-006: every effect is in one part, in its order, and each part is for keys of one side.
        #[test]
        fn each_topic_is_in_the_part_of_its_range(
            topics in prop::collection::vec((0..40_u8, any::<bool>()), 1..30),
            middle in any::<[u8; 2]>(),
        ) {
            let texts: Vec<String> = topics.iter().map(|(topic, _)| format!("a/{topic}")).collect();
            let draft = texts.iter().zip(&topics).fold(Draft::of("t"), |draft, (text, topic)| {
                let stamp = Stamp::of(1, u64::from(topic.0));
                match topic.1 {
                    true => draft.cleared(text, stamp),
                    false => draft.ended(TopicHash::of(text), Some(stamp)),
                }
            });
            let command = draft.finish();
            let effects = Command::decode(&command).expect("a command").effects;
            let key_of = |effect: &Effect<'_>| key("t", effect.topic());
            let at = Bytes::from([&b"t\xff"[..], &middle].concat());
            let boundary = match key_of(&effects[0])[..] < at[..] {
                true => KeyRange { start: Bytes::new(), end: Some(at) },
                false => KeyRange { start: at, end: None },
            };
            let (inside, outside): (Vec<&Effect<'_>>, Vec<&Effect<'_>>) =
                effects.iter().partition(|effect| boundary.contains(&key_of(effect)));
            match RetainDivision.divide(&command, &boundary) {
                None => prop_assert!(outside.is_empty(), "{:?}", outside),
                Some(divided) => {
                    let kept = Command::decode(&divided.inside).expect("a command").effects;
                    let rest = Command::decode(&divided.rest).expect("a command").effects;
                    prop_assert_eq!(kept.iter().collect::<Vec<_>>(), inside);
                    prop_assert_eq!(divided.key.to_vec(), key_of(outside[0]));
                    prop_assert_eq!(rest.iter().collect::<Vec<_>>(), outside);
                }
            }
        }
    }
}
