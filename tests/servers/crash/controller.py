"""Runs the crash test: starts gateway, receivers and producer, kills the gateway at random moments, compares the books."""

import argparse
import asyncio
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import sys
import tempfile
import time

import checker
from http11 import Client, Closed, get_json

HERE = pathlib.Path(__file__).resolve().parent
WANTED = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"

CONFIG = """\
[gateway]
dev = true

[listen]
world = "127.0.0.1:{world}"
operator = "127.0.0.1:{operator}"

[store]
path = "{folder}/store"
reserve_bytes = 67108864

[secrets]
folder = "{folder}/secrets"

[router]
backoff_first_ms = 100
backoff_most_s = 2

[[issuers]]
url = "{issuer}"
algorithms = ["RS256", "ES256", "EdDSA"]

# What is left unanswered comes again soon, so that the end of the run stays short.
[methods.poll]
hold_seconds = 3
ack_within_seconds = 5

[methods.multipush]
timeout_seconds = 3
ack_within_seconds = 3

{producer}

{receiver}

{streams}
"""

STREAM = """\
[[streams]]
id = "{id}"
issuer = "{issuer}"
audience = "{audience}"
events = {events}
default_subjects = "ALL"
algorithm = "{algorithm}"
delivery = {{ method = {delivery} }}
"""

DELIVERY = {
    "push": '"urn:ietf:rfc:8935", endpoint_url = "http://127.0.0.1:{port}/push/{id}", authorization_header = "{authorization}"',
    "multipush": '"urn:setgate:delivery:multi-push", endpoint_url = "http://127.0.0.1:{port}/multipush/{id}", '
    'authorization_header = "{authorization}"',
    "poll": '"urn:ietf:rfc:8936"',
    "websocket": '"urn:setgate:delivery:websocket"',
}

STREAMS = {
    "all-rs256": {"audience": "https://one.example", "algorithm": "RS256", "authorization": "Bearer one"},
    "all-es256": {"audience": "https://two.example", "algorithm": "ES256", "authorization": "Bearer two"},
    "some-eddsa": {"audience": "https://three.example", "algorithm": "EdDSA", "authorization": "Basic dGhyZWU6", "only": True},
    "polled": {"audience": "https://four.example", "algorithm": "EdDSA", "way": "poll", "only": True},
    "socket": {"audience": "https://five.example", "algorithm": "ES256", "way": "websocket", "only": True},
    "by-batch": {
        "audience": "https://six.example",
        "algorithm": "EdDSA",
        "authorization": "Bearer six",
        "way": "multipush",
        "only": True,
    },
}
for stream in STREAMS.values():
    stream.setdefault("way", "push")
    stream.setdefault("authorization", "")
BATCHED = {name for name, stream in STREAMS.items() if stream["way"] != "push"}


def say(text):
    print(f"  {text}", flush=True)


def free_ports(number):
    """Ports that nobody listens on, below those that the system gives to outgoing connections."""
    found = []
    while len(found) < number:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


class Run:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.random = random.Random(options.seed)
        self.world, self.operator, self.receiver_port = free_ports(3)
        self.issuer = f"http://127.0.0.1:{self.world}"
        self.config = folder / "setgate.toml"
        self.log = open(folder / "gateway.log", "ab")
        self.gateway = self.receiver = self.producer = None
        self.kills = {"under load": 0, "while starting": 0}
        # On the clock that all processes of this machine share.
        self.killed = []
        self.starts = []

    async def command(self, *words, quiet=False):
        """Runs a command of the gateway to its end and returns what it printed."""
        process = await asyncio.create_subprocess_exec(
            self.options.gateway, *words, "--config", str(self.config), stdout=asyncio.subprocess.PIPE, stderr=self.log
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        if process.returncode != 0 and not quiet:
            raise RuntimeError(f"setgate {' '.join(words)} ended with {process.returncode}: {out.decode()[-500:]}")
        return out.decode()

    async def prepare(self):
        producer = await self.command(
            "producers", "new", "crash", "--issuer", self.issuer, "--token-file", str(self.folder / "producer.token")
        )
        receiver = await self.command(
            "receivers", "new", "crash", "--issuer", self.issuer, "--all-streams", "--token-file", str(self.folder / "receiver.token")
        )  # fmt: skip
        streams = "\n".join(
            STREAM.format(
                id=name,
                delivery=DELIVERY[stream["way"]].format(
                    port=self.receiver_port, id=name, authorization=stream["authorization"]
                ),
                issuer=self.issuer,
                events=json.dumps([WANTED]) if stream.get("only") else '"all"',
                **{key: stream[key] for key in ("audience", "algorithm")},
            )
            for name, stream in STREAMS.items()
        )
        text = CONFIG.format(
            world=self.world,
            operator=self.operator,
            folder=self.folder,
            issuer=self.issuer,
            producer=producer,
            receiver=receiver,
            streams=streams,
        )
        self.config.write_text(text, encoding="utf-8")
        await self.command("init")

    async def start(self):
        self.gateway = await asyncio.create_subprocess_exec(
            self.options.gateway, "serve", "--config", str(self.config), stdout=self.log, stderr=self.log
        )
        self.starts.append(time.monotonic())

    async def ready(self, within=60.0):
        """Waits until the gateway says that it is ready."""
        began = time.monotonic()
        while time.monotonic() - began < within:
            if self.gateway.returncode is not None:
                raise RuntimeError(f"the gateway ended with {self.gateway.returncode}; see gateway.log")
            try:
                await self.get("/readyz")
                return time.monotonic() - began
            except (Closed, OSError, ValueError):
                await asyncio.sleep(0.02)
        raise RuntimeError(f"the gateway was not ready in {within:.0f} s")

    async def get(self, path):
        client = Client(self.operator, 5)
        try:
            status, _, _ = await client.request("GET", path)
            if status != 200:
                raise Closed
        finally:
            client.close()

    async def kill(self):
        self.killed.append(time.monotonic())
        self.gateway.send_signal(signal.SIGKILL)
        await self.gateway.wait()

    async def helper(self, name, *words):
        return await asyncio.create_subprocess_exec(
            sys.executable, "-B", "-u", str(HERE / name), *words, stdout=asyncio.subprocess.PIPE, stderr=None
        )

    async def start_helpers(self):
        streams = {name: {k: v for k, v in stream.items() if k != "only"} for name, stream in STREAMS.items()}
        self.receiver = await self.helper(
            "receiver.py", "--port", str(self.receiver_port), "--gateway-port", str(self.world), "--issuer", self.issuer,
            "--streams", json.dumps(streams), "--book", str(self.folder / "received.jsonl"),
            "--acknowledgements", str(self.folder / "acknowledged.jsonl"), "--token-file", str(self.folder / "receiver.token"), "--seed", str(self.options.seed),
        )  # fmt: skip
        await asyncio.wait_for(self.receiver.stdout.readline(), 10)
        self.producer = await self.helper(
            "producer.py", "--port", str(self.world), "--receiver-port", str(self.receiver_port), "--path", "/events",
            "--token-file", str(self.folder / "producer.token"), "--book", str(self.folder / "accepted.jsonl"),
            "--seed", str(self.options.seed), "--rate", str(self.options.rate), "--slowest", "all-rs256",
        )  # fmt: skip

    def alive(self):
        for name, process in [("receiver", self.receiver), ("producer", self.producer)]:
            if process.returncode is not None:
                raise RuntimeError(f"the {name} ended with {process.returncode}")

    async def storm(self):
        """Kills the gateway at random moments: mostly at work, sometimes while it is still starting."""
        for number in range(1, self.options.kills + 1):
            if number % 7 == 0:
                await asyncio.sleep(self.random.uniform(0.0, 0.4))
                if self.gateway.returncode is not None:
                    raise RuntimeError(f"the gateway ended with {self.gateway.returncode}; see gateway.log")
                self.kills["while starting"] += 1
            else:
                await self.ready()
                await asyncio.sleep(self.random.uniform(0.2, self.options.life))
                self.kills["under load"] += 1
            self.alive()
            await self.kill()
            await self.start()
            if number % 10 == 0 or number == self.options.kills:
                status = await get_json(self.receiver_port, "/status")
                say(f"{number} kills, {sum(status['first'].values())} SETs delivered, {status['requests']} requests")

    async def drain(self):
        """Stops the producer, then waits until nothing waits any more."""
        await self.ready()
        self.producer.send_signal(signal.SIGTERM)
        out, _ = await asyncio.wait_for(self.producer.communicate(), 60)
        if self.producer.returncode != 0:
            raise RuntimeError(f"the producer ended with {self.producer.returncode}")
        tally = json.loads(out.decode().strip().splitlines()[-1])
        began, last, moved = time.monotonic(), None, time.monotonic()
        ends = {}
        while True:
            streams = await self.streams()
            waiting = {name: stream["waiting"] for name, stream in streams.items()}
            ends |= {name: time.monotonic() - began for name, number in waiting.items() if number}
            if not any(waiting.values()):
                break
            if waiting != last:
                last, moved = waiting, time.monotonic()
            if time.monotonic() - moved > 60 or time.monotonic() - began > 240:
                say(f"does not drain: {json.dumps(streams)}")
                break
            await asyncio.sleep(0.5)
        times = ", ".join(f"{name} {end:.0f}" for name, end in sorted(ends.items(), key=lambda one: one[1]))
        say(f"drained in {time.monotonic() - began:.1f} s ({times})")
        return tally

    async def streams(self):
        listed = json.loads(await self.command("streams", "list", "--json"))
        listed = listed["streams"] if isinstance(listed, dict) else listed
        return {stream["id"]: stream for stream in listed}

    async def stop(self):
        """Ends the gateway as an operator does, and expects it to end well."""
        self.gateway.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(self.gateway.wait(), 45)
        if code != 0:
            raise RuntimeError(f"after SIGTERM the gateway ended with {code}")


def book(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


async def run(options, folder):
    began = time.monotonic()
    test = Run(options, folder)
    try:
        await test.prepare()
        await test.start()
        await test.ready()
        await test.start_helpers()
        await test.storm()
        tally = await test.drain()
        before = await test.streams()
        await test.stop()
        await test.start()
        await test.ready()
        after = await test.streams()
        await test.stop()
        test.receiver.send_signal(signal.SIGTERM)
        out, _ = await asyncio.wait_for(test.receiver.communicate(), 20)
        tally |= json.loads(out.decode().strip().splitlines()[-1])
    finally:
        for process in (test.gateway, test.producer, test.receiver):
            if process is not None and process.returncode is None:
                process.kill()

    accepted, received = book(folder / "accepted.jsonl"), book(folder / "received.jsonl")
    heard = book(folder / "acknowledged.jsonl")
    only = {name: stream.get("only", False) for name, stream in STREAMS.items()}
    faults = checker.check(accepted, received, before, only, BATCHED, heard, test.killed)
    for name in STREAMS:
        for field in ("owed", "acknowledged", "parked", "dropped", "waiting"):
            if before.get(name, {}).get(field) != after.get(name, {}).get(field):
                faults.append(f"{name}: {field} was {before.get(name)} and is {after.get(name)} after a restart")
    log = (folder / "gateway.log").read_text(encoding="utf-8", errors="replace")
    tokens = [(folder / f"{name}.token").read_text(encoding="utf-8").strip() for name in ("producer", "receiver")]
    faults += ["the gateway panicked; see gateway.log"] if "panicked" in log else []
    faults += ["a token is in the log"] if any(token in log for token in tokens) else []
    faults += ["a subject is in the log"] if "key-0-" in log else []
    counts = checker.count(accepted, received, tally, heard, test.killed)
    few = checker.too_little(counts, options.kills)
    if sum(test.kills.values()) != options.kills or test.kills["under load"] < options.kills / 2:
        few.append(f"kills: {test.kills}")

    say(", ".join(f"{name} {number}" for name, number in test.kills.items()))
    say(", ".join(f"{name} {number}" for name, number in counts.items()))
    say("producer: " + ", ".join(f"{name} {number}" for name, number in sorted(tally.items())))
    for fault in faults[:40]:
        say(f"FAULT {fault}")
    for reason in few:
        say(f"TOO LITTLE {reason}")
    say(f"{len(faults)} faults in {time.monotonic() - began:.0f} s, seed {options.seed}")
    return not faults and not few


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--life", type=float, default=4.0, help="the longest that the gateway lives, in seconds")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.kills < 1:
        parser.error("at least one kill")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="setgate-crash-", dir=pathlib.Path(options.gateway).parent))
    say(f"{options.kills} kills, seed {options.seed}, in {folder}")
    good = False
    try:
        good = asyncio.run(run(options, folder))
    except (Exception, asyncio.CancelledError) as error:
        say(f"FAULT {type(error).__name__}: {error}")
        log = folder / "gateway.log"
        if log.exists():
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]:
                say(f"  gateway: {line}")
    if good and not options.keep:
        shutil.rmtree(folder)
    else:
        say(f"books and log are kept in {folder}")
    sys.exit(not good)


main()
