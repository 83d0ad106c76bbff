"""Rights, topics that are not there, topics with small limits, and what `setgate check --connect` says of them."""

import json
import re

from access import GROUP, READ, TOPIC, WRITE, grant, revoke
from broker import admin
from gateway import REVOKED, Gateway, demand, event, rounds, until
from topics import Verifier, make, read


def scram(broker, **more):
    """A cluster as one enters it with a password; who does is judged by ACLs."""
    certs = broker.certificates.folder
    return {
        "bootstrap": [broker.address("sasl_ssl")], "tls": {"ca_pem": (certs / "ca.pem").read_text(encoding="utf-8")},
        "sasl": {"mechanism": "SCRAM-SHA-512", "username": "gw", "password": "gw-secret"}, "timeout": "5s", **more,
    }  # fmt: skip


def show(stage):
    broker = stage.broker()
    address = broker.address("plaintext")
    make(address, "access.open", "access.closed")
    make(address, "access.small", partitions=1, **{"max.message.bytes": 2000})
    grant(address, ["gw"], [(TOPIC, "access.open", WRITE)])
    plain = {"bootstrap": [address], "timeout": "5s"}
    gateway = Gateway(
        stage.binary, stage.folder / "access",
        {"judged": scram(broker), "plain": plain, "maker": {**plain, "create_topics": {"partitions": 2, "replication": 1}}},
        {
            "open": {"cluster": "judged", "topic": "access.open"},
            "closed": {"cluster": "judged", "topic": "access.closed"},
            "unknown": {"cluster": "plain", "topic": "access.unknown"},
            "made": {"cluster": "maker", "topic": "access.made"},
            "small": {"cluster": "plain", "topic": "access.small", "value": "claims"},
        },
    )  # fmt: skip
    stage.gateways.append(gateway)
    gateway.start()
    events = rounds(0, ["one", "two", "three"], 4)
    large = event("large", "four", 0)
    large["events"] = {uri: {**body, "reason_admin": {"en": "x" * 5000}} for uri, body in large["events"].items()}
    gateway.post([*events[:6], large, *events[6:]])
    number = len(events) + 1
    verifier = Verifier(gateway.keys(), gateway.issuer)

    def arrived(stream):
        sets = [verifier.claims(record.value, stream) for record in read(address, f"access.{stream}")]
        # A paused stream is told of it by a SET of its own, when it can be.
        found = {claims["txn"] for claims in sets if REVOKED in claims["events"]}
        demand(len(found) == number, f"{len(found)} SETs of {number}")

    with stage.claim("a right given to the topic alone is enough"):
        gateway.drained(["open"], 20)
        arrived("open")
    with stage.claim("a topic that may not be written pauses the stream, and the reason says what to grant"):
        reason = paused(gateway, "closed")
        demand("access.closed" in reason and re.search(r"(?i)\bwrite\b", reason) and re.search(r"(?i)grant|allow|right|ACL", reason), reason)
        demand(gateway.show("closed").get("held") is None, gateway.show("closed")["held"])
    with stage.claim("the right given, the stream resumed: nothing is lost"):
        grant(address, ["gw"], [(TOPIC, "access.closed", WRITE)])
        resumed(gateway, "closed")
        arrived("closed")
    with stage.claim("a right taken away pauses the stream again, and not its neighbour"):
        revoke(address, "access.closed")
        gateway.post([event("later", "one", 4)])
        paused(gateway, "closed")
        gateway.drained(["open"], 20)
    with stage.claim("a topic that is not there pauses the stream, and the reason says what to create"):
        reason = paused(gateway, "unknown")
        demand("access.unknown" in reason and re.search(r"(?i)create|not there|does not exist|no topic", reason), reason)
    number += 1
    with stage.claim("the topic created, the stream resumed: nothing is lost"):
        make(address, "access.unknown")
        resumed(gateway, "unknown")
        arrived("unknown")
    with stage.claim("`create_topics` makes the topic in its shape"):
        gateway.drained(["made"], 20)
        arrived("made")
        partitions = admin(address).list_topics("access.made", timeout=10).topics["access.made"].partitions
        demand(len(partitions) == 2, partitions.keys())
    with stage.claim("of a topic with a small limit only the SET is parked that is too large"):
        told = gateway.drained(["small"], 30)["small"]
        demand(told["parked"] == 1 and told["acknowledged"] == number - 1 and told["status"] == "enabled", told)
        found = {json.loads(record.value)["txn"] for record in read(address, "access.small")}
        demand(found == {one["txn"] for one in events} | {"txn-later"}, f"{len(found)} came")
        shown = gateway.command("parked", "list", "--json")
        demand(re.search(r"(?i)too.?large|size|bytes", shown), shown)
    gateway.stop()


def paused(gateway, stream):
    shown = {}

    def now():
        shown.clear()
        shown.update(gateway.show(stream))
        return shown["status"] == "paused"

    facts = ("status", "reason", "held", "last_error", "waiting", "parked")
    until(now, 20, lambda: f"{stream} is {({fact: shown.get(fact) for fact in facts})}")
    return " ".join(str(shown.get(name)) for name in ("reason", "last_error"))


def resumed(gateway, stream):
    gateway.command("streams", "resume", stream)
    gateway.drained([stream], 20)


def check(stage):
    """What the command says before anything is started."""
    broker = stage.broker()
    address = broker.address("plaintext")
    make(address, "check.good", "check.closed", "check.in", "check.errors", "check.shut")
    grant(address, ["gw"], [(TOPIC, "check.good", WRITE), (TOPIC, "check.in", READ), (TOPIC, "check.errors", WRITE), (GROUP, "check-good", READ)])

    def source(**more):
        return {
            "name": "source", "kind": "kafka", "events": "all", "subjects": "any",
            "from": {"cluster": "main", "topics": ["check.in"], "group": "check-good", "error_topic": "check.errors", **more},
        }  # fmt: skip

    gateway = Gateway(stage.binary, stage.folder / "check", {"main": scram(broker)}, {"good": {"cluster": "main", "topic": "check.good"}}, [source()])

    def run():
        gateway.configure()
        done = gateway.run("check", "--connect", "--json")
        try:
            told = json.loads(done.stdout)
            bad = [f"{one['what']}: {one['remedy']}" for one in told["findings"] if not one["good"]]
        except (ValueError, KeyError):
            raise AssertionError(f"no findings: {done.stdout[:500]}{done.stderr[-500:]}") from None
        demand((done.returncode == 0) == told["good"] == (not bad), (done.returncode, told["good"], bad))
        return bad, " ".join(one["what"] for one in told["findings"])

    with stage.claim("`check --connect` is content where nothing is missing, and says what it saw"):
        bad, saw = run()
        demand(not bad, bad)
        demand("main" in saw and "check.good" in saw, saw)

    def names(what, **wanted):
        """Each of these is found wanting in words that name it."""
        with stage.claim(f"`check --connect` names {what}"):
            bad, _ = run()
            for name, pattern in wanted.items():
                found = [line for line in bad if re.search(pattern, line, re.IGNORECASE | re.DOTALL)]
                demand(found, f"nothing says {name} ({pattern}): {bad}")

    gateway.streams["closed"] = {**gateway.streams["good"], "topic": "check.closed"}
    names("a topic that may not be written", topic=r"check\.closed.*(grant|right|write|allow)")
    del gateway.streams["closed"]
    gateway.clusters["plain"] = {"bootstrap": [address]}
    gateway.streams["unknown"] = {**gateway.streams["good"], "cluster": "plain", "topic": "check.unknown"}
    names("a topic that is not there", topic=r"check\.unknown.*(create|not there|does not exist|no topic|make)")
    del gateway.streams["unknown"], gateway.clusters["plain"]
    gateway.sources = [source(topics=["check.shut"], group="another", error_topic="check.closed")]
    names(
        "what a source lacks", topic=r"check\.shut.*(grant|right|read|allow)", group=r"another.*(grant|right|read|allow)",
        errors=r"check\.closed.*(grant|right|write|allow)",
    )  # fmt: skip
    gateway.sources = [source()]
    gateway.clusters["main"]["sasl"]["password"] = "wrong"
    names("a wrong password", password=r"main.*(password|credential|authenticat)")
    gateway.clusters["main"] = {**scram(broker), "tls": {"ca_pem": (broker.certificates.folder / "stranger-ca.pem").read_text(encoding="utf-8")}}
    names("a wrong authority", authority=r"main.*(certificate|authorit|ca_pem)")
    gateway.clusters["main"] = {**scram(broker), "bootstrap": ["127.0.0.1:9"]}
    names("a broker that is not there", broker=r"main.*(refused|connect|reach|broker)")
