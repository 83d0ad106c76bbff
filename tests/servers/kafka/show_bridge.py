"""Events posted to intake appear in topics: value forms, headers, keys, timestamps, order; read by clients that are not ours."""

import datetime
import json
import re
import subprocess
import time

import checker
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event
from gateway import REVOKED, Gateway, demand, event, rounds
from topics import Verifier, make, read

SUBJECTS = [f"subject-{number}" for number in range(12)]
STREAMS = {
    "sets": {},
    "claims": {"value": "claims"},
    "binary": {"cloudevents": "binary"},
    "binary-claims": {"cloudevents": "binary", "value": "claims"},
    "structured": {"cloudevents": "structured", "value": "claims"},
    "structured-sets": {"cloudevents": "structured"},
    "by-stream": {"key": "stream"},
    "by-txn": {"key": "txn"},
    "without": {"key": "none"},
    "dated": {"timestamp": "iat"},
}
# Long before the hand-over.
TOE = 1_700_000_000


def show(stage):
    address = stage.broker().address("plaintext")
    topics = {name: f"bridge.{name}" for name in STREAMS}
    make(address, *topics.values())
    gateway = Gateway(
        stage.binary, stage.folder / "bridge", {"main": {"bootstrap": [address]}},
        {name: {"cluster": "main", "topic": topics[name], **terms} for name, terms in STREAMS.items()},
    )  # fmt: skip
    stage.gateways.append(gateway)
    gateway.start()
    began = time.time()
    events = [{**one, "toe": TOE} for one in rounds(0, SUBJECTS, 25)]
    with stage.claim("events posted to intake are handed to ten streams' topics"):
        gateway.post(events)
        told = gateway.drained()
        for name in STREAMS:
            demand(told[name]["acknowledged"] == len(events), f"{name}: {told[name]}")
    ended = time.time()
    verifier = Verifier(gateway.keys(), gateway.issuer)
    records = {name: read(address, topic) for name, topic in topics.items()}
    sets = [(record, verifier.claims(record.value, "sets")) for record in records["sets"]]

    with stage.claim("the SETs in the topic are verified by PyJWT with the published keys"):
        demand(len(sets) == len(events), f"{len(sets)} records of {len(events)} events")
        for _, claims in sets:
            demand(claims["aud"] in ("https://sets.example", ["https://sets.example"]), claims)
    with stage.claim("none is missing, none comes twice, each subject keeps its order in one partition"):
        faults = checker.check("sets", checker.book(events), [checker.line(*one) for one in sets], told["sets"])
        demand(not faults, faults[:5])
        demand(len({record.partition for record, _ in sets}) == 3, "the subjects are not spread over partitions")
    with stage.claim("headers say jti, iss, txn, stream, event, iat and content type"):
        for record, claims in sets:
            wanted = {
                "content-type": "application/secevent+jwt", "set_jti": claims["jti"], "set_iss": gateway.issuer, "set_txn": claims["txn"],
                "set_stream": "sets", "set_event": REVOKED, "set_iat": str(claims["iat"]),
            }  # fmt: skip
            found = {key: value.decode() for key, value in record.headers}
            demand(found == wanted, f"{found}, not {wanted}")
    with stage.claim("an event with several types has a header for each"):
        gateway.post([{**event("several", "subject-0", 0), "events": {REVOKED: {}, REVOKED + "-too": {}}}])
        gateway.drained()
        (last,) = [record for record in read(address, topics["sets"]) if record.header("set_txn") == "txn-several"]
        found = {value.decode() for key, value in last.headers if key == "set_event"}
        demand(found == {REVOKED, REVOKED + "-too"}, found)
    with stage.claim("a record's timestamp is the time of its hand-over, or `iat` where the stream says so"):
        for record in records["sets"]:
            demand(began - 1 <= record.stamp / 1000 <= ended + 1, f"{record.stamp} is not between {began} and {ended}")
        demand(any(record.stamp % 1000 for record in records["sets"]), "all are handed over at whole seconds")
        for record in records["dated"]:
            demand(record.stamp == 1000 * int(record.header("set_iat")), (record.stamp, record.headers))
    with stage.claim("keys are a hash of the subject, the stream, the txn, or nothing"):
        keys = {}
        for record, claims in sets:
            demand(record.key and re.fullmatch(rb"[0-9a-f]{16}", record.key), f"the key is {record.key}")
            keys.setdefault(subject(claims), set()).add(record.key)
        demand(all(len(found) == 1 for found in keys.values()), "a subject has several keys")
        demand(len(set().union(*keys.values())) == len(SUBJECTS), "two subjects share a key")
        demand({record.key for record in records["by-stream"]} == {b"by-stream"}, {record.key for record in records["by-stream"]})
        demand(all(record.key.decode() == record.header("set_txn") for record in records["by-txn"]), "a key is not its txn")
        demand(all(record.key is None for record in records["without"]), "a key where none is wanted")
    with stage.claim("claims travel as JSON without a signature"):
        demand(len(records["claims"]) == len(events), len(records["claims"]))
        for record in records["claims"]:
            bare(json.loads(record.value), "claims", gateway)
            demand(record.header("content-type") == "application/json", record.headers)
    with stage.claim("binary CloudEvents are read by the CloudEvents SDK, SETs and claims"):
        for name in ("binary", "binary-claims"):
            demand(len(records[name]) == len(events), len(records[name]))
            for record in records[name]:
                found, data = cloud_event(record), record.value
                claims = bare(json.loads(data), name, gateway) if name == "binary-claims" else verifier.claims(data, name)
                attributes(found, claims, gateway)
                wanted = "application/json" if name == "binary-claims" else "application/secevent+jwt"
                demand(record.header("content-type") == wanted, record.headers)
                demand(record.header("set_stream") == name and record.header("set_txn") == claims["txn"], record.headers)
                demand(record.header("ce_datacontenttype") is None and record.header("ce_subject") is None, record.headers)
    with stage.claim("structured CloudEvents are read by the CloudEvents SDK, SETs and claims"):
        for name in ("structured", "structured-sets"):
            demand(len(records[name]) == len(events), len(records[name]))
            for record in records[name]:
                demand(record.header("content-type").startswith("application/cloudevents+json"), record.headers)
                found = cloud_event(record)
                data = found.get_data()
                if name == "structured":
                    claims = bare(data if isinstance(data, dict) else json.loads(data), name, gateway)
                else:
                    claims = verifier.claims(data, name)
                attributes(found, claims, gateway)
    with stage.claim("kcat reads the same records"):
        out = subprocess.run(
            [stage.options.kcat, "-b", address, "-C", "-t", topics["sets"], "-e", "-q", "-J"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        found = {(one["partition"], one["offset"]): one for one in map(json.loads, out.splitlines())}
        for record in records["sets"]:
            one = found[record.partition, record.offset]
            demand(one["payload"].encode() == record.value and one["key"].encode() == record.key, one)
            pairs = list(zip(one["headers"][::2], one["headers"][1::2]))
            demand(pairs == [(key, value.decode()) for key, value in record.headers], pairs)
    with stage.claim("the Java console consumer reads the same records"):
        out = stage.cluster.tool(
            "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", address, "--topic", topics["sets"], "--from-beginning",
            "--timeout-ms", "4000", "--formatter-property", "print.key=true", "--formatter-property", "print.headers=true",
        )  # fmt: skip
        lines = [line.split("\t") for line in out.splitlines() if line.count("\t") == 2]
        mine = {(record.key.decode(), record.value.decode()) for record in records["sets"]}
        demand(mine <= {(key, value) for _, key, value in lines}, f"{len(lines)} lines, {len(mine)} records")
        demand(all("set_jti:" in headers for headers, _, _ in lines), lines[:1])
    gateway.stop()


def subject(claims):
    (body,) = claims["events"].values()
    return body["subject_name"]


def bare(claims, stream, gateway):
    """Claims that came without a signature."""
    demand(claims["iss"] == gateway.issuer and claims["aud"] in (f"https://{stream}.example", [f"https://{stream}.example"]), claims)
    demand("jti" in claims and "iat" in claims and "sub" not in claims and "exp" not in claims, claims)
    return claims


def cloud_event(record):
    headers = dict(record.headers)
    demand(len(headers) == len(record.headers), record.headers)
    return from_kafka_event(KafkaMessage(headers=headers, key=record.key, value=record.value))


def attributes(found, claims, gateway):
    demand(found.get_specversion() == "1.0", found.get_specversion())
    demand(found.get_id() == claims["jti"] and found.get_source() == gateway.issuer, (found.get_id(), found.get_source()))
    demand(found.get_type() == REVOKED, found.get_type())
    demand(found.get_time() == datetime.datetime.fromtimestamp(TOE, datetime.UTC), found.get_time())
