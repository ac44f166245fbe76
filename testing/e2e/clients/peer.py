"""A paho client whose every step waits for the broker's answer, with a deadline.

paho calls back from its own thread; Peer turns the callbacks into queues and events, so that a
case reads as a sequence.
"""

import queue
import socket
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from cases import DEADLINE, check

V31, V311, V5 = mqtt.MQTTv31, mqtt.MQTTv311, mqtt.MQTTv5


def properties(packet, **values):
    """Properties of a packet, by their names in paho."""
    made = Properties(getattr(PacketTypes, packet))
    for name, value in values.items():
        setattr(made, name, value)
    return made


def options(qos, **values):
    return SubscribeOptions(qos=qos, **values)


class Client(mqtt.Client):
    """paho reads the reason of a DISCONNECT only if properties follow it; this one always does."""

    last_disconnect = None

    def _handle_disconnect(self):
        packet = self._in_packet["packet"]
        self.last_disconnect = packet[0] if packet else 0
        return super()._handle_disconnect()


class Peer:
    """One client. `connect` first; `close` ends it whatever state it is in."""

    def __init__(self, broker, name, version=V5, clean=True):
        self.broker = broker
        self.version = version
        self.clean = clean
        self.messages = queue.Queue()
        self.connack = queue.Queue()
        self.acknowledged = queue.Queue()
        self.ended = threading.Event()
        kind = "websockets" if broker.is_websocket else "tcp"
        settings = {} if version == V5 else {"clean_session": clean}
        self.client = Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=broker.client_id(name),
            protocol=version,
            transport=kind,
            reconnect_on_failure=False,
            **settings,
        )
        if broker.is_websocket:
            self.client.ws_set_options(path=broker.path)
        if broker.tls:
            self.client.tls_set_context(broker.tls)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = lambda _client, _data, message: self.messages.put(message)
        self.client.on_subscribe = self._on_answer
        self.client.on_unsubscribe = self._on_answer
        self.client.on_publish = self._on_answer

    def _on_connect(self, _client, _data, flags, reason, props):
        self.connack.put((flags, reason, props))

    def _on_disconnect(self, _client, _data, _flags, _reason, _props):
        self.ended.set()

    def _on_answer(self, _client, _data, packet_id, reasons, _props):
        self.acknowledged.put((packet_id, reasons))

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.close()

    def will(self, topic, payload, qos=1, retain=False, **props):
        made = properties("WILLMESSAGE", **props) if props else None
        self.client.will_set(topic, payload, qos, retain, made)

    def connect(self, keepalive=30, **props):
        """Connects; returns (session present, reason code, properties)."""
        settings = {}
        if self.version == V5:
            settings = {"clean_start": self.clean, "properties": properties("CONNECT", **props)}
        self.ended.clear()
        self.client.connect(self.broker.host, self.broker.port, keepalive, **settings)
        self.client.loop_start()
        flags, reason, answer = self.connack.get(timeout=DEADLINE)
        check(not reason.is_failure, f"the connection was refused: {reason}")
        return flags.session_present, reason.value, answer

    def subscribe(self, topic, qos=1, expect=None, **props):
        """Subscribes and returns the reason codes of the SUBACK."""
        made = properties("SUBSCRIBE", **props) if props else None
        if isinstance(topic, list):
            result, packet_id = self.client.subscribe(topic, properties=made)
        elif isinstance(qos, SubscribeOptions):
            result, packet_id = self.client.subscribe(topic, options=qos, properties=made)
        elif self.version == V5:
            result, packet_id = self.client.subscribe(topic, options=options(qos), properties=made)
        else:
            result, packet_id = self.client.subscribe(topic, qos)
        check(result == mqtt.MQTT_ERR_SUCCESS, f"SUBSCRIBE was not sent: {result}")
        codes = [reason.value for reason in self._answer(packet_id, "SUBACK")]
        check(all(code < 0x80 for code in codes) or expect, f"SUBACK has {codes}")
        return codes

    def unsubscribe(self, topic):
        result, packet_id = self.client.unsubscribe(topic)
        check(result == mqtt.MQTT_ERR_SUCCESS, f"UNSUBSCRIBE was not sent: {result}")
        return [reason.value for reason in self._answer(packet_id, "UNSUBACK")]

    def publish(self, topic, payload, qos=1, retain=False, wait=True, **props):
        """Publishes; with `wait`, until it is acknowledged. Returns the reason code."""
        made = properties("PUBLISH", **props) if props else None
        info = self.client.publish(topic, payload, qos, retain, made)
        if not wait:
            # The broker may have ended the connection already, at the head of the packet.
            return None
        check(info.rc == mqtt.MQTT_ERR_SUCCESS, f"PUBLISH was not sent: {info.rc}")
        reason = self._answer(info.mid, "the acknowledgement")
        return getattr(reason, "value", 0)

    def _answer(self, packet_id, what):
        while True:
            try:
                found, reasons = self.acknowledged.get(timeout=DEADLINE)
            except queue.Empty:
                raise AssertionError(f"no {what} within {DEADLINE} s") from None
            if found == packet_id:
                return reasons

    def receive(self):
        try:
            return self.messages.get(timeout=DEADLINE)
        except queue.Empty:
            raise AssertionError(f"no message within {DEADLINE} s") from None

    def receive_until(self, payload):
        """Every message up to the one with this payload, without it."""
        messages = []
        while True:
            message = self.receive()
            if message.payload == payload:
                return messages
            messages.append(message)

    def expect_end(self, reason):
        check(self.ended.wait(DEADLINE), f"the connection is still open after {DEADLINE} s")
        expected = reason if self.version == V5 else None
        found = self.client.last_disconnect
        check(found == expected, f"DISCONNECT has {found}, expected {expected}")

    def disconnect(self, reason=None, **props):
        """Ends the connection with a DISCONNECT."""
        settings = {}
        if self.version == V5 and (reason is not None or props):
            settings["properties"] = properties("DISCONNECT", **props)
            if reason is not None:
                settings["reasoncode"] = reason
        self.client.disconnect(**settings)
        check(self.ended.wait(DEADLINE), "the connection did not end")
        self.client.loop_stop()

    def drop(self):
        """Ends the connection without a DISCONNECT, as a crash would."""
        found = self.client.socket()
        raw = getattr(found, "_socket", found)
        try:
            raw.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        check(self.ended.wait(DEADLINE), "the connection did not end")
        self.client.loop_stop()

    def close(self):
        if self.client.is_connected():
            self.client.disconnect()
        self.client.loop_stop()
