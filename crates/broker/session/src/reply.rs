//! The packets that a session sends besides PUBLISH.
//!
//! Acknowledgements of success take the four bytes that every version shares. Others carry their
//! reason in MQTT 5.0: the reason string and user properties are left out when the client asked
//! for no problem information, or when they would pass its Maximum Packet Size. MQTT-099,
//! MQTT-102

use ratatosk_codec::{
    Ack, Disconnect, Packet, PacketId, PacketType, Qos, ReasonCode, encode_within,
};

use crate::{Farewell, Session};

impl Session {
    /// The acknowledgement of a PUBLISH: PUBACK or PUBREC. [MQTT-3.3.4-1]
    pub(crate) fn write_publish_ack(
        &mut self,
        packet_id: PacketId,
        qos: Qos,
        code: ReasonCode,
        reason: Option<&str>,
    ) {
        let first_byte = if qos == Qos::AtLeastOnce { 0x40 } else { 0x50 };
        if code == ReasonCode::Success || !self.version.is_v5() {
            self.write_short(first_byte, packet_id);
            return;
        }
        let ack = Ack { reason_string: reason, ..Ack::new(packet_id, code) };
        let packet =
            if qos == Qos::AtLeastOnce { Packet::Puback(ack) } else { Packet::Pubrec(ack) };
        self.write_explained(packet);
    }

    /// PUBREL, flags 0010. [MQTT-3.6.1-1]
    pub(crate) fn write_pubrel(&mut self, packet_id: PacketId, code: Option<ReasonCode>) {
        match code {
            Some(code) if self.version.is_v5() => {
                self.write_explained(Packet::Pubrel(Ack::new(packet_id, code)));
            }
            _ => self.write_short(0x62, packet_id),
        }
    }

    /// PUBCOMP. [MQTT-4.3.3-11]
    pub(crate) fn write_pubcomp(&mut self, packet_id: PacketId, code: ReasonCode) {
        if code == ReasonCode::Success || !self.version.is_v5() {
            self.write_short(0x70, packet_id);
            return;
        }
        self.write_explained(Packet::Pubcomp(Ack::new(packet_id, code)));
    }

    #[inline]
    fn write_short(&mut self, first_byte: u8, packet_id: PacketId) {
        let [high, low] = packet_id.value().to_be_bytes();
        self.output.append(|bytes| bytes.extend_from_slice(&[first_byte, 2, high, low]));
    }

    /// DISCONNECT of the server: MQTT 5.0 only, and only behind an accepting CONNACK.
    /// [MQTT-3.14.0-1]
    pub(crate) fn write_disconnect(&mut self, farewell: &Farewell) {
        let Some(code) = farewell.reason_code_in(PacketType::Disconnect) else { return };
        if !self.version.is_v5() {
            return;
        }
        let text = farewell.reason_string();
        let disconnect = Disconnect { reason_string: text.as_deref(), ..Disconnect::new(code) };
        // [MQTT-3.1.2-29] allows the reason string on DISCONNECT whatever the client asked for.
        self.write_within(Packet::Disconnect(disconnect));
    }

    /// Writes a packet whose explanation the client may not want. [MQTT-3.1.2-29]
    pub(crate) fn write_explained(&mut self, mut packet: Packet<'_>) {
        if !self.peer.wants_problem_information {
            match &mut packet {
                Packet::Puback(ack)
                | Packet::Pubrec(ack)
                | Packet::Pubrel(ack)
                | Packet::Pubcomp(ack) => ack.reason_string = None,
                Packet::Suback(suback) => suback.reason_string = None,
                Packet::Unsuback(unsuback) => unsuback.reason_string = None,
                Packet::Auth(auth) => auth.reason_string = None,
                _ => {}
            }
        }
        self.write_within(packet);
    }

    /// Writes a packet within the client's Maximum Packet Size; one that does not fit even
    /// without explanations is not sent. [MQTT-3.1.2-24] [MQTT-3.1.2-25]
    pub(crate) fn write_within(&mut self, packet: Packet<'_>) {
        let (version, packet_size_max) = (self.version, self.peer.packet_size_max);
        let sent =
            self.output.append(|bytes| encode_within(&packet, version, packet_size_max, bytes));
        if sent.is_err() {
            self.oversize_replies += 1;
        }
    }
}
