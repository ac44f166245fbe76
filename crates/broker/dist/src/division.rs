//! How commands of routes are cut where their ranges part: each route stands by itself.

use bytes::Bytes;
use ratatosk_client::{Divide, Divided};
use ratatosk_engine::KeyRange;

use crate::effect::{Command, Draft};

/// Cuts the commands of a [`DistService`](crate::DistService) at any key.
#[derive(Copy, Clone, Debug, Default)]
pub struct RouteDivision;

impl Divide for RouteDivision {
    fn divide(&self, command: &Bytes, boundary: &KeyRange) -> Option<Divided> {
        // What cannot be read is refused by whoever gets it whole.
        let Command { tenant, effects } = Command::decode(command).ok()?;
        let (mut inside, mut outside) = (Draft::of(tenant), Draft::of(tenant));
        for effect in &effects {
            match boundary.contains(&effect.key(tenant)) {
                true => inside.push(effect),
                false => outside.push(effect),
            }
        }
        // The first key was said to be inside, so there is no part without an effect.
        if outside.is_empty() || inside.is_empty() {
            return None;
        }
        let ((_, inside), (key, rest)) = (inside.finish(), outside.finish());
        Some(Divided { inside, key: key.into(), rest })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ratatosk_contract::inbox::InboxId;
    use ratatosk_topic::{TopicFilter, TopicLimits};

    use super::*;
    use crate::effect::{Effect, Name};

    fn filter(text: &str) -> TopicFilter<'_> {
        TopicFilter::parse(text, &TopicLimits::PROTOCOL).expect("a filter")
    }

    proptest! {
        /// KV-014: every effect is in one part, in its order, and each part is for keys of one side.
        #[test]
        fn each_route_is_in_the_part_of_its_range(
            levels in prop::collection::vec((0..40_u8, 1..4_u64), 1..30),
            middle in 0..40_u8,
        ) {
            let texts: Vec<String> = levels.iter().map(|(level, _)| format!("a/{level:02}")).collect();
            let effect = |place: usize| {
                let inbox = InboxId(levels[place].1);
                Effect::Removed(Name { filter: filter(&texts[place]), member: None, inbox })
            };
            let effects: Vec<_> = (0..texts.len()).map(effect).collect();
            let mut draft = Draft::of("t");
            effects.iter().for_each(|effect| draft.push(effect));
            let (first, command) = draft.finish();
            let at = format!("a/{middle:02}");
            let at = Effect::Removed(Name { filter: filter(&at), member: None, inbox: InboxId(0) });
            let at = Bytes::from(at.key("t"));
            let boundary = match first < at {
                true => KeyRange { start: Bytes::new(), end: Some(at) },
                false => KeyRange { start: at, end: None },
            };
            let (inside, outside): (Vec<&Effect<'_>>, Vec<&Effect<'_>>) =
                effects.iter().partition(|effect| boundary.contains(&effect.key("t")));
            match RouteDivision.divide(&command, &boundary) {
                None => prop_assert!(outside.is_empty(), "{:?}", outside),
                Some(divided) => {
                    let read = |bytes| Command::decode(bytes).expect("a command").effects;
                    let (kept, rest) = (read(&divided.inside), read(&divided.rest));
                    prop_assert_eq!(kept.iter().collect::<Vec<_>>(), inside);
                    prop_assert_eq!(&divided.key[..], &outside[0].key("t")[..]);
                    prop_assert_eq!(rest.iter().collect::<Vec<_>>(), outside);
                }
            }
        }
    }
}
