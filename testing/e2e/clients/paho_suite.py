"""Behaviours as paho-mqtt sees them, in MQTT 3.1, 3.1.1 and 5.0."""

import time

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from cases import case, check, equal, main
from peer import V5, V31, V311, Peer, options

DISCONNECT_WITH_WILL = ReasonCode(PacketTypes.DISCONNECT, identifier=0x04)
END = b"end of the case"


@case
def qos_round_trip(broker):
    """MQTT-001, MQTT-054, MQTT-089: every version, QoS published and QoS granted."""
    for version in (V31, V311, V5):
        for granted in (0, 1, 2):
            topic = broker.topic(f"round/{version}/{granted}")
            with Peer(broker, "sub", version) as sub, Peer(broker, "pub", version) as pub:
                sub.connect()
                pub.connect()
                equal(sub.subscribe(topic, granted), [granted], "granted QoS")
                for sent in (0, 1, 2):
                    pub.publish(topic, b"m%d" % sent, sent)
                    message = sub.receive()
                    equal(message.payload, b"m%d" % sent, "payload")
                    equal(message.qos, min(sent, granted), f"QoS of {sent} at {granted}")
                    equal(message.retain, False, "retain")


@case
def qos2_is_delivered_once(broker):
    """MQTT-055, MQTT-069: a hundred messages, each once, in order."""
    topic = broker.topic("once")
    with Peer(broker, "sub") as sub, Peer(broker, "pub") as pub:
        sub.connect()
        pub.connect()
        sub.subscribe(topic, 2)
        for number in range(100):
            pub.publish(topic, b"%d" % number, 2, wait=False)
        pub.publish(topic, END, 2)
        received = [message.payload for message in sub.receive_until(END)]
        equal(received, [b"%d" % number for number in range(100)], "messages")


@case
def wildcards(broker):
    """MQTT-070: `+` is one level, `#` any number and the parent."""
    base = broker.topic("wild")
    with Peer(broker, "sub") as sub, Peer(broker, "pub") as pub:
        sub.connect()
        pub.connect()
        filters = {b"plus": f"{base}/+/x", b"hash": f"{base}/a/#", b"end": f"{base}/end"}
        for number, name in enumerate(filters.values(), start=1):
            sub.subscribe(name, 1, SubscriptionIdentifier=number)
        for topic in ("a", "a/x", "a/b/x", "b/x", "b/x/y", "x"):
            pub.publish(f"{base}/{topic}", topic.encode())
        pub.publish(f"{base}/end", END)
        matched = {number: set() for number in (1, 2)}
        for message in sub.receive_until(END):
            for number in message.properties.SubscriptionIdentifier:
                matched[number].add(message.payload)
        equal(matched[1], {b"a/x", b"b/x"}, "+")
        equal(matched[2], {b"a", b"a/x", b"a/b/x"}, "#")


@case
def unsubscribe_ends_delivery(broker):
    """MQTT-079: UNSUBACK says what was there, and nothing follows it."""
    topic = broker.topic("unsubscribed")
    with Peer(broker, "sub") as sub, Peer(broker, "pub") as pub:
        sub.connect()
        pub.connect()
        sub.subscribe(topic)
        sub.subscribe(f"{topic}/end")
        equal(sub.unsubscribe(topic), [0x00], "first UNSUBACK")
        equal(sub.unsubscribe(topic), [0x11], "second UNSUBACK")
        pub.publish(topic, b"late")
        pub.publish(f"{topic}/end", END)
        equal(sub.receive_until(END), [], "messages after the UNSUBACK")


@case
def retained_set_replace_clear(broker):
    """RET-001, RET-005: the last one is kept, an empty payload removes it."""
    for version in (V311, V5):
        topic = broker.topic(f"retained/{version}")
        with Peer(broker, "pub", version) as pub:
            pub.connect()
            pub.publish(topic, b"first", 1, retain=True)
            pub.publish(topic, b"second", 1, retain=True)
            with Peer(broker, "sub", version) as sub:
                sub.connect()
                sub.subscribe(topic, 0)
                message = sub.receive()
                equal(message.payload, b"second", "retained message")
                equal((message.retain, message.qos), (True, 0), "retain flag and QoS")
                pub.publish(topic, b"third", 1, retain=True)
                message = sub.receive()
                equal((message.payload, message.retain), (b"third", False), "live message")
            pub.publish(topic, b"", 1, retain=True)
            with Peer(broker, "late", version) as late:
                late.connect()
                late.subscribe(topic)
                pub.publish(topic, END, 1)
                equal(late.receive_until(END), [], "retained messages after clearing")


@case
def retained_wildcard(broker):
    """RET-002: a wildcard subscription gets each matching retained message once."""
    base = broker.topic("shelf")
    expected = {f"{base}/{number}".encode() for number in range(50)}
    with Peer(broker, "pub") as pub, Peer(broker, "sub") as sub:
        pub.connect()
        sub.connect()
        for topic in sorted(expected):
            pub.publish(topic.decode(), topic, 1, retain=True)
        sub.subscribe(f"{base}/+")
        received = [sub.receive().payload for _ in expected]
        equal(sorted(received), sorted(expected), "retained messages")
        for topic in expected:
            pub.publish(topic.decode(), b"", 1, retain=True)


@case
def retain_handling(broker):
    """MQTT-083: at each subscribe, only at a new one, never."""
    topic = broker.topic("handling")
    with Peer(broker, "pub") as pub:
        pub.connect()
        pub.publish(topic, b"kept", 1, retain=True)
        for handling, first, second in ((0, 1, 1), (1, 1, 0), (2, 0, 0)):
            with Peer(broker, f"sub{handling}") as sub:
                sub.connect()
                for turn, expected in enumerate((first, second)):
                    sub.subscribe(topic, options(1, retainHandling=handling))
                    if expected:
                        equal(sub.receive().payload, b"kept", f"handling {handling} turn {turn}")
                    pub.publish(topic, END, 1)
                    found = len(sub.receive_until(END))
                    equal(found, 0, f"more messages at handling {handling} turn {turn}")
        pub.publish(topic, b"", 1, retain=True)


@case
def no_local_and_retain_as_published(broker):
    """MQTT-082: one's own messages stay away; the retain flag survives when asked for."""
    topic = broker.topic("options")
    with Peer(broker, "both") as both, Peer(broker, "other") as other:
        both.connect()
        other.connect()
        both.subscribe(topic, options(1, noLocal=True, retainAsPublished=True))
        both.publish(topic, b"own")
        other.publish(topic, b"kept", 1, retain=True)
        message = both.receive()
        equal((message.payload, message.retain), (b"kept", True), "message of another, retained")
        other.publish(topic, b"plain", 1)
        message = both.receive()
        equal((message.payload, message.retain), (b"plain", False), "message of another")
        other.publish(topic, b"", 1, retain=True)


@case
def will_on_abnormal_end(broker):
    """MQTT-048: a lost connection and DISCONNECT 0x04 send the will, DISCONNECT 0x00 does not."""
    topic = broker.topic("will")
    with Peer(broker, "watch") as watch:
        watch.connect()
        watch.subscribe(topic)
        for version in (V311, V5):
            dying = Peer(broker, "dying", version)
            dying.will(topic, b"gone")
            dying.connect()
            dying.drop()
            message = watch.receive()
            equal((message.payload, message.retain), (b"gone", False), "will")
        leaving = Peer(broker, "leaving")
        leaving.will(topic, b"asked for")
        leaving.connect()
        leaving.disconnect(DISCONNECT_WITH_WILL)
        equal(watch.receive().payload, b"asked for", "will at DISCONNECT 0x04")
        polite = Peer(broker, "polite")
        polite.will(topic, b"never")
        polite.connect()
        polite.disconnect()
        # The same id again: the broker has ended the former connection when it answers.
        with Peer(broker, "polite") as again:
            again.connect()
            again.publish(topic, END)
        equal(watch.receive_until(END), [], "messages after a clean end")


@case
def will_delay(broker):
    """MQTT-049, MQTT-050: a delayed will waits, and a return cancels it."""
    topic = broker.topic("delayed")
    with Peer(broker, "watch") as watch:
        watch.connect()
        watch.subscribe(topic)
        away = Peer(broker, "away")
        away.will(topic, b"late", WillDelayInterval=1)
        away.connect(SessionExpiryInterval=60)
        started = time.monotonic()
        away.drop()
        equal(watch.receive().payload, b"late", "delayed will")
        waited = time.monotonic() - started
        check(waited >= 0.9, f"the will came after {waited:.2f} s")
        back = Peer(broker, "back")
        back.will(topic, b"never", WillDelayInterval=2)
        back.connect(SessionExpiryInterval=60)
        back.drop()
        with Peer(broker, "back", clean=False) as again:
            again.connect(SessionExpiryInterval=0)
            # A will of one second later on: had the first not been cancelled, it would be there.
            clock = Peer(broker, "clock")
            clock.will(topic, END, WillDelayInterval=3)
            clock.connect(SessionExpiryInterval=60)
            clock.drop()
            equal(watch.receive_until(END), [], "wills of a session that came back")


@case
def take_over(broker):
    """MQTT-042: the newer connection wins, the older one is told."""
    for version in (V311, V5):
        with Peer(broker, "same", version) as older, Peer(broker, "same", version) as newer:
            older.connect()
            newer.connect()
            older.expect_end(0x8E)
            topic = broker.topic("taken")
            newer.subscribe(topic)
            newer.publish(topic, b"alive")
            equal(newer.receive().payload, b"alive", "message to the newer connection")


@case
def shared_group_split(broker):
    """MQTT-084, DIST-011: each message goes to one member, and each member has work."""
    topic = broker.topic("shared")
    with Peer(broker, "a") as a, Peer(broker, "b") as b, Peer(broker, "pub") as pub:
        for member in (a, b):
            member.connect()
            member.subscribe(f"$share/group/{topic}")
            member.subscribe(f"{topic}/end")
        pub.connect()
        expected = [b"%d" % number for number in range(200)]
        for payload in expected:
            pub.publish(topic, payload)
        pub.publish(f"{topic}/end", END)
        parts = [[message.payload for message in member.receive_until(END)] for member in (a, b)]
        equal(sorted(parts[0] + parts[1]), sorted(expected), "messages of the group")
        for part in parts:
            check(len(part) >= 20, f"a member got {len(part)} of {len(expected)}")


@case
def shared_gets_no_retained(broker):
    """MQTT-088: joining a group brings no retained message."""
    topic = broker.topic("shared-retained")
    with Peer(broker, "pub") as pub, Peer(broker, "sub") as sub:
        pub.connect()
        sub.connect()
        pub.publish(topic, b"kept", 1, retain=True)
        sub.subscribe(f"$share/group/{topic}")
        pub.publish(topic, END)
        equal(sub.receive_until(END), [], "retained messages to a group")
        pub.publish(topic, b"", 1, retain=True)


@case
def publish_properties(broker):
    """MQTT-101, MQTT-095: what the publisher says about a message arrives unchanged."""
    topic = broker.topic("properties")
    users = [("b", "1"), ("a", "2"), ("b", "1"), ("", "ü")]
    with Peer(broker, "sub") as sub, Peer(broker, "pub") as pub:
        sub.connect()
        pub.connect()
        sub.subscribe(topic)
        pub.publish(
            topic,
            "grüße".encode(),
            ResponseTopic=broker.topic("answer"),
            CorrelationData=b"\x00\x01\xff",
            ContentType="text/plain; charset=utf-8",
            PayloadFormatIndicator=1,
            MessageExpiryInterval=100,
            UserProperty=users,
        )
        found = sub.receive().properties
        equal(found.ResponseTopic, broker.topic("answer"), "response topic")
        equal(found.CorrelationData, b"\x00\x01\xff", "correlation data")
        equal(found.ContentType, "text/plain; charset=utf-8", "content type")
        equal(found.PayloadFormatIndicator, 1, "payload format")
        equal(found.UserProperty, users, "user properties")
        check(90 <= found.MessageExpiryInterval <= 100, f"expiry {found.MessageExpiryInterval}")
        pub.publish(topic, b"bare")
        found = sub.receive().properties.json()
        equal(found, {}, "properties of a message without any")


@case
def subscription_identifiers(broker):
    """MQTT-081: every message names the subscriptions that it comes from."""
    base = broker.topic("identified")
    with Peer(broker, "sub") as sub, Peer(broker, "pub") as pub:
        sub.connect()
        pub.connect()
        sub.subscribe(f"{base}/a", SubscriptionIdentifier=1)
        sub.subscribe(f"{base}/+", SubscriptionIdentifier=268435455)
        sub.subscribe(f"{base}/end")
        pub.publish(f"{base}/a", b"both")
        pub.publish(f"{base}/end", END)
        found = []
        for message in sub.receive_until(END):
            found.extend(message.properties.SubscriptionIdentifier)
        equal(sorted(found), [1, 268435455], "identifiers over all copies")


@case
def inbound_topic_alias(broker):
    """MQTT-065: an alias stands for its topic, can be moved, and is checked."""
    first, second = broker.topic("alias/1"), broker.topic("alias/2")
    with Peer(broker, "sub") as sub, Peer(broker, "pub") as pub:
        sub.connect()
        _, _, answer = pub.connect()
        maximum = answer.TopicAliasMaximum
        check(maximum >= 1, f"topic alias maximum is {maximum}")
        sub.subscribe(broker.topic("alias/+"))
        for topic, payload in ((first, b"1"), ("", b"2"), (second, b"3"), ("", b"4")):
            pub.publish(topic, payload, TopicAlias=maximum)
        received = [(message.topic, message.payload) for message in (sub.receive() for _ in "1234")]
        expected = [(first, b"1"), (first, b"2"), (second, b"3"), (second, b"4")]
        equal(received, expected, "messages by alias")
        pub.publish(first, b"x", wait=False, TopicAlias=maximum + 1)
        pub.expect_end(0x94)


@case
def outbound_topic_alias(broker):
    """MQTT-094: aliases to a client stay within its maximum and resolve."""
    topics = [broker.topic(f"out/{number}") for number in range(4)]
    with Peer(broker, "sub") as sub, Peer(broker, "pub") as pub:
        sub.connect(TopicAliasMaximum=2)
        pub.connect()
        sub.subscribe(broker.topic("out/+"))
        aliases, uses = {}, 0
        for turn in range(5):
            for topic in topics:
                payload = f"{topic} {turn}".encode()
                pub.publish(topic, payload)
                message = sub.receive()
                equal(message.payload, payload, "payload")
                alias = getattr(message.properties, "TopicAlias", None)
                if alias is not None:
                    check(1 <= alias <= 2, f"alias {alias} with a maximum of 2")
                    uses += message.topic == ""
                    aliases[alias] = message.topic or aliases[alias]
                equal(message.topic or aliases[alias], topic, "topic")
        check(uses > 0, "no alias was ever used")


@case
def persistent_session(broker):
    """MQTT-031, INBOX-004, INBOX-005: what came meanwhile is there on return, in order."""
    for version in (V311, V5):
        topic = broker.topic(f"session/{version}")
        stay = {"SessionExpiryInterval": 300} if version == V5 else {}
        name = f"stays{version}"
        with Peer(broker, name, version, clean=True) as fresh:
            equal(fresh.connect()[0], False, "session present of a clean start")
        sub = Peer(broker, name, version, clean=False)
        equal(sub.connect(**stay)[0], False, "session present of a new session")
        sub.subscribe(topic, 2)
        sub.disconnect()
        with Peer(broker, "pub", version) as pub:
            pub.connect()
            expected = []
            for number in range(50):
                qos = 1 + number % 2
                pub.publish(topic, b"%d" % number, qos)
                expected.append((b"%d" % number, qos))
        with Peer(broker, name, version, clean=False) as again:
            equal(again.connect(**stay)[0], True, "session present on return")
            received = [again.receive() for _ in expected]
            # paho hands a QoS 2 message on only at its PUBREL, so order holds within a QoS.
            for qos in (1, 2):
                found = [message.payload for message in received if message.qos == qos]
                sent = [payload for payload, sent_qos in expected if sent_qos == qos]
                equal(found, sent, f"queued messages of QoS {qos}")
            again.publish(topic, END)
            equal(again.receive_until(END), [], "messages beyond the queued ones")
        with Peer(broker, name, version, clean=True) as fresh:
            equal(fresh.connect()[0], False, "session present after a clean start")


@case
def session_ends_with_its_connection(broker):
    """MQTT-036, MQTT-040: without an expiry nothing is kept; a clean start discards."""
    topic = broker.topic("transient")
    first = Peer(broker, "short")
    first.connect()
    first.subscribe(topic)
    first.disconnect()
    with Peer(broker, "short", clean=False) as again:
        equal(again.connect()[0], False, "session present without an expiry")
    kept = Peer(broker, "kept")
    kept.connect(SessionExpiryInterval=300)
    kept.subscribe(topic)
    kept.disconnect()
    with Peer(broker, "kept", clean=True) as again:
        equal(again.connect()[0], False, "session present after a clean start")
        again.subscribe(f"{topic}/end")
        again.publish(topic, b"lost")
        again.publish(f"{topic}/end", END)
        equal(again.receive_until(END), [], "messages of the discarded session")


@case
def message_expiry(broker):
    """MQTT-095: what expires in the queue is not delivered; what stays has less time left."""
    topic = broker.topic("expiry")
    sub = Peer(broker, "sleeper", clean=True)
    sub.connect(SessionExpiryInterval=300)
    sub.subscribe(topic)
    sub.disconnect()
    with Peer(broker, "pub") as pub, Peer(broker, "clock") as clock:
        pub.connect()
        clock.connect()
        clock.subscribe(f"{topic}/clock")
        pub.publish(topic, b"short", MessageExpiryInterval=1)
        pub.publish(topic, b"long", MessageExpiryInterval=100)
        pub.publish(topic, END)
        # The broker's own clock says when two seconds have passed: a will with that delay.
        timer = Peer(broker, "timer")
        timer.will(f"{topic}/clock", b"now", WillDelayInterval=2)
        timer.connect(SessionExpiryInterval=60)
        timer.drop()
        equal(clock.receive().payload, b"now", "the clock")
    with Peer(broker, "sleeper", clean=False) as again:
        again.connect()
        messages = again.receive_until(END)
        equal([message.payload for message in messages], [b"long"], "unexpired messages")
        left = messages[0].properties.MessageExpiryInterval
        check(90 <= left <= 98, f"{left} s are left of 100 after 2")


@case
def packet_at_the_limit(broker):
    """MQTT-028, MQTT-068: the largest packet passes, one byte more ends the connection."""
    topic = broker.topic("large")
    with Peer(broker, "sub") as sub, Peer(broker, "pub") as pub:
        sub.connect()
        _, _, answer = pub.connect()
        limit = answer.MaximumPacketSize
        sub.subscribe(topic)
        # Type and flags, length in 3 or 4 bytes, topic with its length, packet id, no properties.
        fits = limit - 1 - 2 - len(topic) - 2 - 1
        payload = bytes(fits - (3 if limit <= 2**21 + 3 else 4))
        equal(pub.publish(topic, payload), 0, "reason code of the largest packet")
        check(sub.receive().payload == payload, "the largest payload was changed")
        pub.publish(topic, payload + b"x", wait=False)
        pub.expect_end(0x95)
        with Peer(broker, "pub") as again:
            again.connect()
            again.publish(topic, END)
        equal(len(sub.receive_until(END)), 0, "messages above the limit")


@case
def receive_maximum(broker):
    """MQTT-090: no more than the client's window is unacknowledged."""
    topic = broker.topic("window")
    with Peer(broker, "sub") as sub, Peer(broker, "pub") as pub:
        sub.client.manual_ack_set(True)
        sub.connect(ReceiveMaximum=3)
        pub.connect()
        sub.subscribe(topic, 1)
        sub.subscribe(f"{topic}/end", 0)
        for number in range(10):
            pub.publish(topic, b"%d" % number)
        pub.publish(f"{topic}/end", END)
        held = sub.receive_until(END)
        equal([message.payload for message in held], [b"0", b"1", b"2"], "messages in the window")
        for number in range(3, 10):
            done = held.pop(0)
            sub.client.ack(done.mid, done.qos)
            held.append(sub.receive())
            equal(held[-1].payload, b"%d" % number, "message after an acknowledgement")


if __name__ == "__main__":
    main()
