"""A broker that is killed in the middle of a run; of three the one that leads."""

import re
import threading
import time

import checker
from broker import admin
from gateway import Gateway, demand, rounds, until
from topics import Verifier, make, read

SUBJECTS = [f"subject-{number}" for number in range(10)]


class Load:
    """Posts events at a steady pace in a thread until it is told to end."""

    def __init__(self, gateway, pace=0.1, at_once=3, first=0):
        self.gateway, self.events, self.error, self.first = gateway, [], None, first
        self.pace, self.at_once, self.ends = pace, at_once, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            while not self.ends.wait(self.pace):
                times = len(self.events) // len(SUBJECTS)
                some = rounds(self.first + len(self.events), SUBJECTS, self.at_once)
                for one in some:
                    (body,) = one["events"].values()
                    body["seq"] += times
                self.gateway.post(some)
                self.events += some
        except Exception as error:  # noqa: BLE001 - told by `end`
            self.error = error

    def end(self):
        self.ends.set()
        self.thread.join(60)
        if self.error is not None:
            raise self.error
        return self.events


def compared(address, gateway, events):
    """Reads all topics back and compares them with what was accepted."""
    told, verifier, faults, copies = gateway.drained(None, 60), Verifier(gateway.keys(), gateway.issuer), [], 0
    for stream in gateway.streams:
        lines = [checker.line(record, verifier.claims(record.value, stream)) for record in read(address, gateway.streams[stream]["topic"])]
        faults += checker.check(stream, checker.book(events), lines, told[stream])
        copies += checker.repeats(lines)
        demand(told[stream]["status"] == "enabled", told[stream])
    demand(not faults, f"{len(faults)}: {faults[:5]}")
    print(f"    {len(events)} events, {len(gateway.streams)} streams, {copies} repeats", flush=True)


def one(stage):
    broker = stage.broker()
    address = broker.address("plaintext")
    make(address, "broker.a", "broker.b")
    streams = {name: {"cluster": "main", "topic": f"broker.{name}"} for name in ("a", "b")}
    gateway = Gateway(stage.binary, stage.folder / "broker", {"main": {"bootstrap": [address], "timeout": "5s"}}, streams)
    stage.gateways.append(gateway)
    gateway.start()
    with stage.claim("the only broker killed and started again in the middle: nothing is missing, each subject keeps its order"):
        load = Load(gateway)
        until(lambda: gateway.show("a")["acknowledged"] > 100, 20, "nothing was delivered before the kill")
        broker.kill()
        time.sleep(1)
        accepted = len(load.events)
        broker.start()
        until(lambda: gateway.show("a")["acknowledged"] > accepted, 30, "nothing was delivered after the kill")
        events = load.end()
        compared(address, gateway, events)
    with stage.claim("a broker that is away longer than a record waits: the endpoint is held and that is told"):
        broker.kill()
        load = Load(gateway, pace=0.3, first=1_000_000)
        shown = until(lambda: (now := gateway.show("a"))["held"] and now, 20, lambda: gateway.show("a"))
        demand(shown["status"] == "enabled" and shown["parked"] == 0, shown)
        demand(re.search(r"(?i)refused|connect|unreachable", shown["held"]["cause"]), shown["held"])
    with stage.claim("the gateway ended and started while the broker is away ends soon; all is delivered when it is back"):
        events = events + load.end()
        began = time.monotonic()
        gateway.stop()
        demand(time.monotonic() - began < 15, f"the gateway took {time.monotonic() - began:.0f} s to end")
        gateway.start()
        broker.start()
        compared(address, gateway, events)
    gateway.stop()


def three(stage):
    cluster = stage.up("three", 3)
    address = cluster.address("plaintext")
    make(address, "three.a", "three.b")
    streams = {name: {"cluster": "main", "topic": f"three.{name}"} for name in ("a", "b")}
    gateway = Gateway(stage.binary, stage.folder / "three-gateway", {"main": {"bootstrap": address.split(","), "timeout": "20s"}}, streams)
    stage.gateways.append(gateway)
    gateway.start()
    with stage.claim("of three brokers the leader killed under load: nothing is missing, each subject keeps its order"):
        load = Load(gateway)
        until(lambda: gateway.show("a")["acknowledged"] > 100, 20, "nothing was delivered before the kill")
        leader = admin(address).list_topics("three.a", timeout=10).topics["three.a"].partitions[0].leader
        cluster.kill(leader)
        accepted = len(load.events)
        until(lambda: gateway.show("a")["acknowledged"] > accepted, 30, "nothing was delivered after the kill")
        cluster.start(leader)
        compared(address, gateway, load.end())
    gateway.stop()
    cluster.stop()
