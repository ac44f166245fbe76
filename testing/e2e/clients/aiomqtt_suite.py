"""Behaviours as aiomqtt sees them: many clients in one event loop, MQTT 3.1.1 and 5.0."""

import asyncio

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cases import DEADLINE, case, check, equal, main

END = b"end of the case"
VERSIONS = (aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5)


def client(broker, name, version=aiomqtt.ProtocolVersion.V5, **settings):
    return aiomqtt.Client(
        broker.host,
        broker.port,
        identifier=broker.client_id(name),
        protocol=version,
        transport="websockets" if broker.is_websocket else "tcp",
        websocket_path=broker.path if broker.is_websocket else None,
        tls_context=broker.tls,
        timeout=DEADLINE,
        **settings,
    )


async def receive_until(subscriber, end=END):
    """Payloads up to the one that ends the case, without it."""
    payloads = []
    async with asyncio.timeout(DEADLINE):
        async for message in subscriber.messages:
            if message.payload == end:
                return payloads
            payloads.append(message.payload)
    raise AssertionError("the connection ended before the last message")


@case
async def fan_out(broker):
    """MQTT-054, MQTT-069: one publisher, twenty subscribers, every message, in order."""
    for version in VERSIONS:
        topic = broker.topic(f"fan/{version}")
        expected = [b"%d" % number for number in range(100)]
        ready = asyncio.Barrier(21)

        async def subscribe(number):
            async with client(broker, f"sub{number}", version) as subscriber:
                await subscriber.subscribe(topic, qos=1)
                await ready.wait()
                return await receive_until(subscriber)

        async def publish():
            async with client(broker, "pub", version) as publisher:
                await ready.wait()
                for payload in (*expected, END):
                    await publisher.publish(topic, payload, qos=1)

        *received, _ = await asyncio.gather(*(subscribe(n) for n in range(20)), publish())
        for number, payloads in enumerate(received):
            equal(payloads, expected, f"messages of subscriber {number}")


@case
async def fan_in(broker):
    """MQTT-069, MQTT-055: twenty publishers at QoS 2, each in its own order, nothing twice."""
    base = broker.topic("in")
    async with client(broker, "sub") as subscriber:
        await subscriber.subscribe(f"{base}/+", qos=2)

        async def publish(number):
            async with client(broker, f"pub{number}") as publisher:
                for turn in range(20):
                    await publisher.publish(f"{base}/{number}", b"%d" % turn, qos=2)

        async def receive():
            turns = {}
            async with asyncio.timeout(DEADLINE):
                async for message in subscriber.messages:
                    turns.setdefault(message.topic.value, []).append(int(message.payload))
                    if sum(len(found) for found in turns.values()) == 400:
                        return turns

        turns, *_ = await asyncio.gather(receive(), *(publish(n) for n in range(20)))
        equal(len(turns), 20, "topics")
        for topic, found in turns.items():
            equal(found, list(range(20)), f"messages of {topic}")


@case
async def offline_queue(broker):
    """MQTT-031, INBOX-004: a hundred sessions leave, miss a message each, and get it on return."""
    version = aiomqtt.ProtocolVersion.V311

    async def leave(number):
        async with client(broker, f"away{number}", version, clean_session=False) as sleeper:
            await sleeper.subscribe(broker.topic(f"away/{number}"), qos=1)

    async def come_back(number):
        async with client(broker, f"away{number}", version, clean_session=False) as sleeper:
            async with asyncio.timeout(DEADLINE):
                async for message in sleeper.messages:
                    return message.payload

    await asyncio.gather(*(leave(number) for number in range(100)))
    async with client(broker, "pub", version) as publisher:
        for number in range(100):
            await publisher.publish(broker.topic(f"away/{number}"), b"%d" % number, qos=1)
    found = await asyncio.gather(*(come_back(number) for number in range(100)))
    equal(found, [b"%d" % number for number in range(100)], "missed messages")


@case
async def retained_will(broker):
    """MQTT-052: a will that asks for it is retained."""
    topic = broker.topic("status")
    will = aiomqtt.Will(topic, b"gone", qos=1, retain=True)
    async with client(broker, "watch") as watch:
        await watch.subscribe(topic, qos=1)
        dying = client(broker, "dying", will=will)
        await dying.__aenter__()
        found = dying._client.socket()
        getattr(found, "_socket", found).shutdown(2)
        async with asyncio.timeout(DEADLINE):
            async for message in watch.messages:
                equal((message.payload, message.retain), (b"gone", False), "live will")
                break
        try:
            await dying.__aexit__(None, None, None)
        except aiomqtt.MqttError:
            pass
    async with client(broker, "late") as late:
        await late.subscribe(topic, qos=1)
        async with asyncio.timeout(DEADLINE):
            async for message in late.messages:
                equal((message.payload, message.retain), (b"gone", True), "retained will")
                break
        await late.publish(topic, b"", qos=1, retain=True)


@case
async def request_and_response(broker):
    """MQTT-101: the answer finds the asker by response topic and correlation data."""
    question, answer = broker.topic("question"), broker.topic("answer")
    async with client(broker, "server") as server, client(broker, "asker") as asker:
        await server.subscribe(question, qos=1)
        await asker.subscribe(answer, qos=1)

        async def serve():
            async with asyncio.timeout(DEADLINE):
                async for message in server.messages:
                    made = Properties(PacketTypes.PUBLISH)
                    made.CorrelationData = message.properties.CorrelationData
                    topic = message.properties.ResponseTopic
                    await server.publish(topic, message.payload * 2, 1, properties=made)
                    return

        made = Properties(PacketTypes.PUBLISH)
        made.ResponseTopic = answer
        made.CorrelationData = b"\x2a"
        serving = asyncio.create_task(serve())
        await asker.publish(question, b"ab", qos=1, properties=made)
        await serving
        async with asyncio.timeout(DEADLINE):
            async for message in asker.messages:
                equal(message.payload, b"abab", "answer")
                check(message.properties.CorrelationData == b"\x2a", "correlation data")
                break


if __name__ == "__main__":
    main()
