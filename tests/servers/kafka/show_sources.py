"""Events produced to a topic come out of push and poll streams, once each; what is no event goes to another topic."""

import asyncio
import datetime
import json
import time

from access import GROUP, READ, TOPIC, grant
from aiokafka import AIOKafkaProducer
from broker import quiet
from cloudevents.core.bindings.kafka import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Consumer, TopicPartition
from gateway import REVOKED, Gateway, demand, event, rounds, until
from receivers import Pushed, poll
from show_access import scram
from topics import Verifier, make, read, write

GROUP_NAME = "setgate-sources"
SUBJECTS = [f"subject-{number}" for number in range(8)]


class Scene:
    """What came out of the two streams so far, by txn."""

    def __init__(self, gateway, pushed):
        self.gateway, self.pushed, self.polled = gateway, pushed, []
        self.verifier = Verifier(gateway.keys(), gateway.issuer)

    def came(self):
        self.polled += poll(self.gateway, "polled")
        return {name: self.by_txn(name, tokens) for name, tokens in (("pushed", list(self.pushed.tokens)), ("polled", self.polled))}

    def by_txn(self, stream, tokens):
        found = {}
        for token in tokens:
            claims = self.verifier.claims(token, stream)
            found.setdefault(claims["txn"], set()).add(claims["jti"])
        return found

    def all(self, txns, seconds=40):
        """Waits until both streams have these, and demands that none of them was owed twice."""
        wanted, last = set(txns), {}

        def there():
            last.update(self.came())
            return all(wanted <= set(found) for found in last.values())

        until(there, seconds, lambda: {name: f"{len(wanted - set(found))} of {len(wanted)} are missing" for name, found in last.items()})
        for name, found in last.items():
            twice = [txn for txn in wanted if len(found[txn]) != 1]
            demand(not twice, f"{name}: {len(twice)} came as two SETs: {twice[:5]}")


def json_record(one):
    (body,) = one["events"].values()
    return body.get("subject_name", "").encode(), json.dumps(one).encode(), []


def cloud_record(one, structured):
    body = {name: value for name, value in one.items() if name != "id"}
    made = CloudEvent(
        {"id": one["id"], "source": "/tests", "type": REVOKED, "specversion": "1.0", "datacontenttype": "application/json", "time": datetime.datetime.now(datetime.UTC)},
        body,
    )  # fmt: skip
    message = (to_structured_event if structured else to_binary_event)(made)
    return message.key, message.value, list(message.headers.items())


async def by_aiokafka(address, topic, records):
    producer = AIOKafkaProducer(bootstrap_servers=address, enable_idempotence=True)
    await producer.start()
    try:
        await asyncio.gather(*[await producer.send(topic, value, key, headers=headers) for key, value, headers in records])
    finally:
        await producer.stop()


def committed(address, topic, group=GROUP_NAME):
    """How many records of the topic are not committed by the group yet."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": group, "enable.auto.commit": False, "error_cb": quiet, "log_level": 0})
    try:
        partitions = [TopicPartition(topic, one) for one in consumer.list_topics(topic, timeout=10).topics[topic].partitions]
        left = 0
        for one in consumer.committed(partitions, timeout=10):
            low, high = consumer.get_watermark_offsets(one, timeout=10)
            left += high - (one.offset if one.offset >= 0 else low)
        return left
    finally:
        consumer.close()


def show(stage):
    broker = stage.broker()
    address = broker.address("plaintext")
    make(address, "source.in", partitions=4)
    make(address, "source.errors", partitions=1)
    pushed = Pushed()
    source = {
        "name": "topic", "kind": "kafka", "events": "all", "subjects": "any",
        "from": {"cluster": "main", "topics": ["source.in"], "group": GROUP_NAME, "error_topic": "source.errors"},
    }  # fmt: skip
    main = {"bootstrap": [address], "timeout": "10s"}
    gateway = Gateway(
        stage.binary, stage.folder / "sources", {"main": main},
        {"pushed": pushed.delivery, "polled": {"method": "urn:ietf:rfc:8936"}}, [source],
    )  # fmt: skip
    stage.gateways.append(gateway)
    gateway.start()
    scene = Scene(gateway, pushed)
    one, two, three, four = (rounds(1000 * number, SUBJECTS, 5) for number in range(1, 5))
    with stage.claim("records as intake JSON, produced by confluent-kafka, come out of a push and a poll stream once each"):
        write(address, "source.in", map(json_record, one))
        scene.all(line["txn"] for line in one)
    with stage.claim("records as intake JSON, produced by aiokafka, do as well"):
        asyncio.run(by_aiokafka(address, "source.in", [json_record(line) for line in two]))
        scene.all(line["txn"] for line in two)
    with stage.claim("binary CloudEvents do as well"):
        write(address, "source.in", [cloud_record(line, False) for line in three])
        scene.all(line["txn"] for line in three)
    with stage.claim("structured CloudEvents do as well"):
        asyncio.run(by_aiokafka(address, "source.in", [cloud_record(line, True) for line in four]))
        scene.all(line["txn"] for line in four)
    with stage.claim("the group's offsets are committed to the end"):
        until(lambda: committed(address, "source.in") == 0, 15, lambda: f"{committed(address, 'source.in')} records are not committed")
    with stage.claim("records produced again with the same `id` are delivered no second time"):
        write(address, "source.in", map(json_record, one))
        until(lambda: committed(address, "source.in") == 0, 15, "they are not committed")
        before = gateway.drained()["pushed"]["owed"]
        demand(before == 4 * len(one), f"{before} are owed, {4 * len(one)} events were produced")
    with stage.claim("records that are no events lie in the error topic with the reason, and hold nothing up"):
        bad = [
            (b"a", b"this is no JSON", [("trace", b"1")]),
            (b"b", b"", []),
            (b"c", json.dumps({"events": {}, "sub_id": {"format": "opaque", "id": "x"}}).encode(), []),
            (b"d", json.dumps({"events": {REVOKED: {}}, "sub_id": {"format": "nonsense"}}).encode(), []),
            (b"e", json.dumps({**event("bad", "x", 0), "id": "x" * 300}).encode(), []),
            (b"f", b"{}", [("ce_specversion", b"1.0"), ("ce_id", b"1")]),
        ]
        good = [event(f"good-{number}", "subject-good", number) for number in range(len(bad))]
        write(address, "source.in", [record for pair in zip(bad, map(json_record, good)) for record in pair])
        scene.all(line["txn"] for line in good)
        found = until(lambda: (now := read(address, "source.errors")) and len(now) >= len(bad) and now, 20, lambda: [one.key for one in read(address, "source.errors")])
        demand(sorted(record.key for record in found) == sorted(key for key, _, _ in bad), [record.key for record in found])
        for record in found:
            demand(record.header("err") and record.header("description"), record.headers)
            (value,) = [value for key, value, _ in bad if key == record.key]
            demand(record.value == value, f"{record.key}: the value is {record.value[:80]}")
    with stage.claim("SIGKILL of the gateway in the middle of consuming: nothing is missing, nothing is owed twice"):
        many = rounds(10_000, SUBJECTS, 500)
        write(address, "source.in", map(json_record, many))
        already, met = gateway.show("pushed")["owed"], []
        for part in (0.1, 0.4):
            until(lambda: gateway.show("pushed")["owed"] > already + part * len(many), 30, lambda: f"{gateway.show('pushed')['owed']} are owed")
            gateway.kill()
            gateway.start()
            met.append(gateway.show("pushed")["owed"] - already)
        print(f"    killed after {met} of {len(many)}", flush=True)
        demand(met[0] < len(many), "all was consumed before the first kill")
        scene.all((line["txn"] for line in many), 60)
        until(lambda: committed(address, "source.in") == 0, 15, "not all is committed")
        owed = gateway.drained()["pushed"]["owed"]
        demand(owed == 4 * len(one) + len(good) + len(many), f"{owed} are owed")
    with stage.claim("a second consumer joins the group and leaves it: what it left uncommitted comes, nothing is owed twice"):
        others = rounds(20_000, SUBJECTS, 150)
        seen = joined(address, others)
        demand(seen > 0, "the second consumer was given nothing")
        scene.all((line["txn"] for line in others), 60)
        until(lambda: committed(address, "source.in") == 0, 20, "not all is committed")
    gateway.stop()
    with stage.claim("a source that may not read tells so, and goes on by itself when it may"):
        make(address, "source.shut")
        later = rounds(30_000, SUBJECTS, 1)
        write(address, "source.shut", map(json_record, later))
        gateway.clusters["main"] = scram(broker)
        gateway.sources = [{**source, "from": {"cluster": "main", "topics": ["source.shut"], "group": "source-group"}}]
        gateway.configure()
        gateway.start()
        until(lambda: "source.shut" in gateway.text_of_log() or "source-group" in gateway.text_of_log(), 20, gateway.last_words)
        grant(address, ["gw"], [(TOPIC, "source.shut", READ), (GROUP, "source-group", READ)])
        scene.all((line["txn"] for line in later), 40)
    gateway.stop()
    pushed.stop()


def joined(address, events):
    """A member of the same group that reads and never commits; returns how many records it was given."""
    settings = {
        "bootstrap.servers": address, "group.id": GROUP_NAME, "enable.auto.commit": False, "auto.offset.reset": "earliest",
        "partition.assignment.strategy": "cooperative-sticky", "error_cb": quiet, "log_level": 0, "session.timeout.ms": 6000,
    }  # fmt: skip
    member, seen = Consumer(settings), 0
    member.subscribe(["source.in"])
    try:
        end = time.monotonic() + 20
        while not member.assignment() and time.monotonic() < end:
            member.poll(0.1)
        for part in range(0, len(events), 200):
            write(address, "source.in", map(json_record, events[part : part + 200]))
            stop = time.monotonic() + 0.5
            while time.monotonic() < stop:
                message = member.poll(0.05)
                seen += message is not None and message.error() is None
    finally:
        member.close()
    return seen
