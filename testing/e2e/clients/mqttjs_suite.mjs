// Behaviours as MQTT.js sees them, in MQTT 3.1.1 and 5.0, over every transport.
//
// A case is an exported function whose comment begins with the ids that it proves. Prints
// `ok NAME` for each case that held. MQTT.js is found through RATATOSK_E2E_NODE, the folder that
// holds its node_modules.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    host: { type: "string" },
    port: { type: "string" },
    transport: { type: "string" },
    path: { type: "string", default: "/mqtt" },
    ca: { type: "string" },
    only: { type: "string", multiple: true },
  },
});
const modules = process.env.RATATOSK_E2E_NODE;
assert(modules, "RATATOSK_E2E_NODE is not set: run `cargo xtask clients`");
const mqtt = createRequire(path.join(modules, "package.json"))("mqtt");

const DEADLINE_MS = 20_000;
const END = "end of the case";
const run = randomBytes(4).toString("hex");
const topic = (name) => `js/${run}/${name}`;

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${DEADLINE_MS} ms`)), DEADLINE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** A client whose messages wait in a queue until they are asked for. */
class Peer {
  static async connect(name, settings = {}) {
    const scheme = { tcp: "mqtt", tls: "mqtts", ws: "ws", wss: "wss" }[options.transport];
    const suffix = scheme.startsWith("ws") ? options.path : "";
    const peer = new Peer();
    peer.messages = [];
    peer.waiting = [];
    peer.client = mqtt.connect(`${scheme}://${options.host}:${options.port}${suffix}`, {
      clientId: `js-${run}-${name}`,
      protocolVersion: 5,
      reconnectPeriod: 0,
      connectTimeout: DEADLINE_MS,
      ca: options.ca ? readFileSync(options.ca) : undefined,
      ...settings,
    });
    peer.client.on("message", (at, payload, packet) => {
      const message = { topic: at, payload: payload.toString(), packet };
      const next = peer.waiting.shift();
      if (next) next(message);
      else peer.messages.push(message);
    });
    peer.disconnect = new Promise((resolve) => peer.client.on("disconnect", resolve));
    peer.closed = new Promise((resolve) => peer.client.on("close", resolve));
    const connected = new Promise((resolve, reject) => {
      peer.client.once("connect", resolve);
      peer.client.once("error", reject);
      peer.client.once("close", () => reject(new Error("closed before CONNACK")));
    });
    peer.connack = await within(connected, "CONNACK");
    peer.client.on("error", () => {});
    return peer;
  }

  receive() {
    const message = this.messages.shift();
    if (message) return Promise.resolve(message);
    return within(new Promise((resolve) => this.waiting.push(resolve)), "message");
  }

  async receiveUntilEnd() {
    const messages = [];
    for (;;) {
      const message = await this.receive();
      if (message.payload === END) return messages;
      messages.push(message);
    }
  }

  subscribe(filter, settings = { qos: 1 }) {
    return within(this.client.subscribeAsync(filter, settings), "SUBACK");
  }

  publish(at, payload, settings = { qos: 1 }) {
    return within(this.client.publishAsync(at, payload, settings), "acknowledgement");
  }

  end() {
    return within(this.client.endAsync(), "end of the connection");
  }

  async drop() {
    this.client.stream.destroy();
    await within(this.closed, "end of the connection");
  }
}

/** MQTT-001, MQTT-054, MQTT-089: every QoS published and granted, in both versions. */
export async function qos_round_trip() {
  for (const protocolVersion of [4, 5]) {
    const sub = await Peer.connect("sub", { protocolVersion });
    const pub = await Peer.connect("pub", { protocolVersion });
    for (const granted of [0, 1, 2]) {
      const at = topic(`round/${protocolVersion}/${granted}`);
      const [grant] = await sub.subscribe(at, { qos: granted });
      assert.equal(grant.qos, granted);
      for (const qos of [0, 1, 2]) {
        await pub.publish(at, `m${qos}`, { qos });
        const message = await sub.receive();
        assert.equal(message.payload, `m${qos}`);
        assert.equal(message.packet.qos, Math.min(qos, granted));
      }
    }
    await sub.end();
    await pub.end();
  }
}

/** MQTT-101, MQTT-081: properties arrive unchanged, with the subscription's identifier. */
export async function publish_properties() {
  const sub = await Peer.connect("sub");
  const pub = await Peer.connect("pub");
  const at = topic("properties");
  await sub.subscribe(at, { qos: 1, properties: { subscriptionIdentifier: 7 } });
  const properties = {
    responseTopic: topic("answer"),
    correlationData: Buffer.from([0, 1, 255]),
    contentType: "application/json",
    payloadFormatIndicator: true,
    messageExpiryInterval: 100,
    userProperties: { a: ["1", "2"], b: "ü" },
  };
  await pub.publish(at, "{}", { qos: 1, properties });
  const { packet } = await sub.receive();
  const { messageExpiryInterval, subscriptionIdentifier, ...found } = packet.properties;
  assert.ok(messageExpiryInterval >= 90 && messageExpiryInterval <= 100);
  assert.deepEqual([subscriptionIdentifier].flat(), [7]);
  const { messageExpiryInterval: _, ...sent } = properties;
  assert.deepEqual({ ...found, userProperties: { ...found.userProperties } }, sent);
  await sub.end();
  await pub.end();
}

/** MQTT-082, MQTT-083: no-local, retain-as-published and retain handling. */
export async function subscription_options() {
  const self = await Peer.connect("self");
  const other = await Peer.connect("other");
  const at = topic("options");
  await other.publish(at, "kept", { qos: 1, retain: true });
  await self.subscribe(at, { qos: 1, nl: true, rap: true, rh: 2 });
  await self.publish(at, "own");
  await other.publish(at, "live", { qos: 1, retain: true });
  const message = await self.receive();
  assert.deepEqual([message.payload, message.packet.retain], ["live", true]);
  await other.publish(at, "", { qos: 1, retain: true });
  await self.end();
  await other.end();
}

/** MQTT-042: the older connection is told that it was taken over. */
export async function take_over() {
  const older = await Peer.connect("same");
  const newer = await Peer.connect("same");
  const packet = await within(older.disconnect, "DISCONNECT");
  assert.equal(packet.reasonCode, 0x8e);
  await newer.end();
}

/** MQTT-048: a connection that breaks leaves its will behind. */
export async function will_on_abnormal_end() {
  const watch = await Peer.connect("watch");
  const at = topic("will");
  await watch.subscribe(at);
  const will = { topic: at, payload: "gone", qos: 1, retain: false };
  const dying = await Peer.connect("dying", { will });
  await dying.drop();
  assert.equal((await watch.receive()).payload, "gone");
  await watch.end();
}

/** MQTT-065: an alias that the client assigns by itself stands for the topic. */
export async function inbound_topic_alias() {
  const sub = await Peer.connect("sub");
  const pub = await Peer.connect("pub", { autoAssignTopicAlias: true });
  const base = topic("alias");
  await sub.subscribe(`${base}/+`);
  for (let turn = 0; turn < 3; turn += 1) {
    for (const name of ["a", "b", "c"]) {
      await pub.publish(`${base}/${name}`, `${name}${turn}`);
      const message = await sub.receive();
      assert.deepEqual([message.topic, message.payload], [`${base}/${name}`, `${name}${turn}`]);
    }
  }
  await sub.end();
  await pub.end();
}

/** MQTT-031, INBOX-004: a session keeps its messages while its client is away. */
export async function persistent_session() {
  const stay = { clean: false, properties: { sessionExpiryInterval: 300 } };
  const at = topic("session");
  const first = await Peer.connect("stays", stay);
  assert.equal(first.connack.sessionPresent, false);
  await first.subscribe(at, { qos: 2 });
  await first.end();
  const pub = await Peer.connect("pub");
  const sent = Array.from({ length: 50 }, (_, number) => String(number));
  for (const payload of sent) await pub.publish(at, payload, { qos: 1 });
  const again = await Peer.connect("stays", stay);
  assert.equal(again.connack.sessionPresent, true);
  const received = [];
  for (const _ of sent) received.push((await again.receive()).payload);
  assert.deepEqual(received, sent);
  await again.end();
  const fresh = await Peer.connect("stays", { clean: true });
  assert.equal(fresh.connack.sessionPresent, false);
  await fresh.end();
  await pub.end();
}

/** MQTT-084: a group's members share its messages, none is lost, none comes twice. */
export async function shared_group() {
  const members = [await Peer.connect("a"), await Peer.connect("b"), await Peer.connect("c")];
  const pub = await Peer.connect("pub");
  const at = topic("shared");
  for (const member of members) {
    await member.subscribe(`$share/group/${at}`);
    await member.subscribe(`${at}/end`);
  }
  const sent = Array.from({ length: 150 }, (_, number) => String(number));
  for (const payload of sent) await pub.publish(at, payload);
  await pub.publish(`${at}/end`, END);
  const parts = await Promise.all(members.map((member) => member.receiveUntilEnd()));
  const received = parts.flat().map((message) => message.payload);
  assert.deepEqual(received.sort(), [...sent].sort());
  for (const part of parts) assert.ok(part.length >= 10, `a member got ${part.length}`);
  await Promise.all([pub, ...members].map((peer) => peer.end()));
}

/** MQTT-101: half a megabyte of every byte comes back as it was. */
export async function large_binary_payload() {
  const peer = await Peer.connect("large");
  const at = topic("large");
  await peer.subscribe(at, { qos: 2 });
  const payload = randomBytes(512 * 1024);
  await peer.publish(at, payload, { qos: 2 });
  const message = await peer.receive();
  assert.ok(message.packet.payload.equals(payload), "the payload was changed");
  await peer.end();
}

const cases = [
  qos_round_trip,
  publish_properties,
  subscription_options,
  take_over,
  will_on_abnormal_end,
  inbound_topic_alias,
  persistent_session,
  shared_group,
  large_binary_payload,
];
const known = cases.map((each) => each.name);
for (const name of options.only ?? []) assert(known.includes(name), `no such case: ${name}`);
let failed = 0;
for (const each of cases) {
  if (options.only && !options.only.includes(each.name)) continue;
  try {
    await each();
    console.log(`ok ${each.name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${each.name}\n${error.stack}`);
  }
}
process.exit(failed ? 1 : 0);
