//! The publisher's half of QoS 1 and 2: packet ids, acknowledgements, the limit of those unacknowledged.
//!
//! A broker acknowledges in the order of publishing [MQTT-4.6.0-2, MQTT-4.6.0-3], so ids leave at the
//! front of a queue; one that comes out of turn is looked for and counted. A flow of QoS 2 moves from
//! `published` to `released` with PUBREC and ends with PUBCOMP.
//! Invariant: `published + released ≤ limit`, and no id is in flight twice.

use std::collections::VecDeque;

/// What an acknowledgement meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The flow is over: one more message may be sent.
    Done,
    /// PUBREC came: PUBREL is due.
    Release,
    /// No flow had this id in this state.
    Unknown,
}

/// Flows of one publisher.
#[derive(Debug)]
pub(crate) struct Flow {
    limit: usize,
    last_id: u16,
    published: VecDeque<u16>,
    released: VecDeque<u16>,
    out_of_turn: u64,
}

impl Flow {
    /// At most `limit` flows at once.
    pub(crate) fn new(limit: u16) -> Self {
        assert!(limit > 0, "a flow limit of zero never sends");
        Self {
            limit: usize::from(limit),
            last_id: 0,
            published: VecDeque::new(),
            released: VecDeque::new(),
            out_of_turn: 0,
        }
    }

    /// Lowers the limit to what the broker announced.
    pub(crate) fn lower_limit(&mut self, limit: u16) {
        self.limit = self.limit.min(usize::from(limit.max(1)));
    }

    /// Flows that may be opened now.
    #[inline]
    pub(crate) fn room(&self) -> u64 {
        self.limit.saturating_sub(self.published.len() + self.released.len()) as u64
    }

    /// Flows that are open.
    pub(crate) fn open(&self) -> usize {
        self.published.len() + self.released.len()
    }

    /// Acknowledgements that came in another order than the messages.
    pub(crate) fn out_of_turn(&self) -> u64 {
        self.out_of_turn
    }

    /// Opens a flow and returns its packet id.
    #[inline]
    pub(crate) fn publish(&mut self) -> u16 {
        assert!(self.room() > 0, "{} flows are open already", self.open());
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.in_flight(self.last_id) {
                break;
            }
        }
        self.published.push_back(self.last_id);
        self.last_id
    }

    /// PUBACK: the flow of QoS 1 ends; also PUBREC with a failure, which ends that of QoS 2.
    #[inline]
    pub(crate) fn acknowledge(&mut self, id: u16) -> Answer {
        if take(&mut self.published, id, &mut self.out_of_turn) {
            return Answer::Done;
        }
        Answer::Unknown
    }

    /// PUBREC: the message is the broker's; PUBREL is due.
    #[inline]
    pub(crate) fn receive(&mut self, id: u16) -> Answer {
        if take(&mut self.published, id, &mut self.out_of_turn) {
            self.released.push_back(id);
            return Answer::Release;
        }
        // A repeated PUBREC is answered again. [MQTT-4.3.3-4]
        if self.released.contains(&id) { Answer::Release } else { Answer::Unknown }
    }

    /// PUBCOMP: the flow of QoS 2 ends.
    #[inline]
    pub(crate) fn complete(&mut self, id: u16) -> Answer {
        if take(&mut self.released, id, &mut self.out_of_turn) {
            return Answer::Done;
        }
        Answer::Unknown
    }

    /// While acknowledgements come in turn, an id that is still in flight after 65,535 others can only
    /// be the oldest; otherwise all are searched.
    #[inline]
    fn in_flight(&self, id: u16) -> bool {
        if self.out_of_turn == 0 {
            return self.published.front() == Some(&id) || self.released.front() == Some(&id);
        }
        self.published.contains(&id) || self.released.contains(&id)
    }
}

/// Takes `id` out of `ids`, normally from the front.
#[inline]
fn take(ids: &mut VecDeque<u16>, id: u16, out_of_turn: &mut u64) -> bool {
    if ids.front() == Some(&id) {
        ids.pop_front();
        return true;
    }
    let Some(index) = ids.iter().position(|&one| one == id) else { return false };
    ids.remove(index);
    *out_of_turn += 1;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At QoS 1 the id is free again with PUBACK. [MQTT-4.3.2-1]
    #[test]
    fn acknowledged_flow_makes_room() {
        let mut flow = Flow::new(2);
        assert_eq!((flow.publish(), flow.publish()), (1, 2));
        assert_eq!(flow.room(), 0);
        assert_eq!(flow.acknowledge(1), Answer::Done);
        assert_eq!(flow.acknowledge(1), Answer::Unknown);
        assert_eq!(flow.room(), 1);
        assert_eq!(flow.publish(), 3);
        assert_eq!(flow.out_of_turn(), 0);
    }

    #[test]
    fn exactly_once_flow_counts_until_completed() {
        let mut flow = Flow::new(1);
        let id = flow.publish();
        assert_eq!(flow.complete(id), Answer::Unknown);
        assert_eq!(flow.receive(id), Answer::Release);
        assert_eq!(flow.receive(id), Answer::Release);
        assert_eq!(flow.room(), 0);
        assert_eq!(flow.complete(id), Answer::Done);
        assert_eq!(flow.room(), 1);
        assert_eq!(flow.receive(id), Answer::Unknown);
    }

    #[test]
    fn acknowledgement_out_of_turn_is_counted() {
        let mut flow = Flow::new(3);
        for _ in 0..3 {
            flow.publish();
        }
        assert_eq!(flow.acknowledge(2), Answer::Done);
        assert_eq!(flow.acknowledge(1), Answer::Done);
        assert_eq!(flow.acknowledge(3), Answer::Done);
        assert_eq!(flow.out_of_turn(), 1);
    }

    #[test]
    fn id_in_flight_is_not_given_twice() {
        let mut flow = Flow::new(2);
        assert_eq!(flow.publish(), 1);
        for round in 2..=u16::MAX {
            assert_eq!(flow.publish(), round);
            assert_eq!(flow.acknowledge(round), Answer::Done);
        }
        assert_eq!(flow.publish(), 2, "1 is still unacknowledged and 0 is no packet id");
    }

    #[test]
    fn announced_receive_maximum_lowers_the_limit() {
        let mut flow = Flow::new(64);
        flow.lower_limit(20);
        assert_eq!(flow.room(), 20);
        flow.lower_limit(1000);
        assert_eq!(flow.room(), 20);
    }
}
