//! What clients do with packets other than PUBLISH: acknowledgements, answers to CONNECT and SUBSCRIBE.

use crate::load::{Load, Stage};
use crate::machine::flow::Answer;
use crate::machine::scan::{Frame, Malformed};
use crate::machine::wire::{self, Version};
use crate::net::{LinkIndex, Links};

impl Load {
    #[inline]
    pub(super) fn acknowledged(
        &mut self,
        links: &mut Links,
        link: LinkIndex,
        publisher: usize,
        frame: Frame<'_>,
    ) -> Result<(), Malformed> {
        let (id, code) = wire::read_acknowledgement(frame)?;
        let flow = self.publishers.get_mut(publisher).and_then(|found| found.flow.as_mut());
        let Some(flow) = flow else {
            self.tally.unknown_acks += 1;
            return Ok(());
        };
        let answer = match frame.packet_type() {
            wire::PUBREC if code < 0x80 => flow.receive(id),
            wire::PUBCOMP => flow.complete(id),
            // PUBACK, or a PUBREC that refuses, which ends the flow. [MQTT-4.3.3-4]
            _ => flow.acknowledge(id),
        };
        match answer {
            Answer::Done => self.tally.acked += 1,
            Answer::Release => {
                links.buffer(link).extend_from_slice(&wire::acknowledgement(wire::PUBREL, id));
            }
            Answer::Unknown => self.tally.unknown_acks += 1,
        }
        if code >= 0x80 {
            self.refused(code);
        }
        Ok(())
    }

    #[cold]
    fn refused(&mut self, code: u8) {
        self.tally.refused += 1;
        let name = wire::code_name(self.version, code);
        self.note(format!("messages refused: {name} (0x{code:02x})"));
    }

    /// Whatever is rare.
    pub(super) fn control(
        &mut self,
        links: &mut Links,
        link: LinkIndex,
        frame: Frame<'_>,
    ) -> Result<(), Malformed> {
        match frame.packet_type() {
            wire::CONNACK => self.connack(links, link, frame)?,
            wire::SUBACK => self.suback(links, link, frame)?,
            wire::PUBREL => {
                let (id, _) = wire::read_acknowledgement(frame)?;
                let answer = wire::acknowledgement(wire::PUBCOMP, id);
                links.buffer(link).extend_from_slice(&answer);
            }
            wire::DISCONNECT => {
                let code = frame.body.first().copied().unwrap_or(0);
                let name = wire::code_name(self.version, code);
                self.note(format!("the broker disconnected: {name} (0x{code:02x})"));
            }
            wire::PINGRESP => {}
            other => self.note(format!("unexpected packet of type {other}")),
        }
        Ok(())
    }

    fn connack(
        &mut self,
        links: &mut Links,
        link: LinkIndex,
        frame: Frame<'_>,
    ) -> Result<(), Malformed> {
        let connack = wire::read_connack(frame, self.version)?;
        let client = &mut self.clients[link];
        if client.stage != Stage::Greeting {
            self.note("a second connack".to_owned());
            return Ok(());
        }
        if connack.code != 0 {
            client.stage = Stage::Gone;
            self.tally.failed += 1;
            let name = wire::code_name(self.version, connack.code);
            self.note(format!("connection refused by connack: {name} (0x{:02x})", connack.code));
            links.close(link);
            return Ok(());
        }
        client.stage = Stage::Ready;
        client.receive_maximum = connack.receive_maximum;
        self.tally.ready += 1;
        self.tally.sessions_present += usize::from(connack.session_present);
        if connack.qos_max < self.qos {
            self.note(format!("the broker supports qos {} at most", connack.qos_max));
        }
        self.keep_alive = match (self.keep_alive, connack.keep_alive.filter(|&one| one > 0)) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Ok(())
    }

    fn suback(
        &mut self,
        links: &mut Links,
        link: LinkIndex,
        frame: Frame<'_>,
    ) -> Result<(), Malformed> {
        let (_, codes) = wire::read_suback(frame, self.version)?;
        let Some(count) = self.clients[link].subscribing.pop_front() else {
            self.note("a suback without a subscribe".to_owned());
            return Ok(());
        };
        self.subscribes_open -= 1;
        let refused = codes.iter().filter(|&&code| code >= 0x80).count();
        self.tally.subscribed += (codes.len() - refused) as u64;
        self.tally.subscribes_refused += refused as u64;
        if codes.len() != count {
            self.note(format!("a suback with {} codes for {count} filters", codes.len()));
        }
        if let Some(&code) = codes.iter().find(|&&code| code >= 0x80) {
            let name = wire::code_name(Version::V5, code);
            self.note(format!("filters refused: {name} (0x{code:02x})"));
        }
        self.pump_subscribes(links);
        Ok(())
    }
}
