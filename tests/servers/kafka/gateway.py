"""The real gateway as these tests run it: a folder, a configuration, a process, the listeners for producers and operators."""

import contextlib
import json
import signal
import subprocess
import time

import httpx
from broker import bound
from running import demand, free_ports

REVOKED = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"

CONFIG = """\
[gateway]
dev = true

[listen]
public = "127.0.0.1:{world}"
admin = "127.0.0.1:{operator}"

[store]
path = "{folder}/store"
reserve_bytes = 67108864

[secrets]
folder = "{folder}/secrets"

[router]
backoff_initial = "100ms"
backoff_max = "2s"

[[issuers]]
url = "{issuer}"
algorithms = ["ES256"]
"""

STREAM = """
[[streams]]
id = "{id}"
issuer = "{issuer}"
audience = "https://{id}.example"
default_subjects = "ALL"
algorithm = "ES256"
delivery = {delivery}
"""


def toml(value):
    """A value as TOML writes it inline; JSON's strings are TOML's."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    return json.dumps(value)


def until(condition, seconds, what):
    """Waits for what takes an unknown time, and returns it. `what` is a text, or tells what is instead."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.05)


def event(number, subject, sequence, **more):
    """An event that says which of its subject's it is."""
    return {
        "id": f"id-{number}",
        "txn": f"txn-{number}",
        "sub_id": {"format": "opaque", "id": subject},
        "events": {REVOKED: {"event_timestamp": 1_795_000_000, "seq": sequence, "subject_name": subject}},
        **more,
    }


def rounds(first, subjects, times):
    """So many events of each subject, in turn."""
    return [event(first + number, subjects[number % len(subjects)], number // len(subjects)) for number in range(len(subjects) * times)]


class Gateway:
    def __init__(self, binary, folder, clusters, streams, sources=()):
        """`clusters` by name, `streams` by id: what stands in `delivery`; `sources` as they are."""
        folder.mkdir(parents=True, exist_ok=True)
        self.binary, self.folder, self.config = binary, folder, folder / "setgate.toml"
        self.clusters, self.sources = clusters, list(sources)
        self.streams = {
            name: delivery if "method" in delivery else {"method": "urn:setgate:delivery:kafka", **delivery} for name, delivery in streams.items()
        }
        self.world, self.operator = free_ports(2)
        self.issuer = f"http://127.0.0.1:{self.world}"
        self.process, self.log = None, open(folder / "gateway.log", "ab")
        self.http = httpx.Client(trust_env=False, timeout=30)
        self.producer = self.command("producers", "new", "tests", "--issuer", self.issuer, "--token-file", str(folder / "producer.token"), config=False)
        self.receiver = self.command("receivers", "new", "tests", "--issuer", self.issuer, "--all-streams", "--token-file", str(folder / "receiver.token"), config=False)
        self.configure()
        self.command("init")

    def configure(self):
        """Writes the configuration as `clusters`, `streams` and `sources` are now."""
        text = CONFIG.format(world=self.world, operator=self.operator, folder=self.folder, issuer=self.issuer)
        for name, cluster in self.clusters.items():
            text += f"\n[methods.kafka.clusters.{json.dumps(name)}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in cluster.items())
        text += f"\n{self.producer}\n{self.receiver}\n"
        for name, delivery in self.streams.items():
            text += STREAM.format(id=name, issuer=self.issuer, delivery=toml(delivery))
        for source in self.sources:
            text += "\n[[sources]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in {"issuer": self.issuer, **source}.items())
        self.config.write_text(text, encoding="utf-8")

    def run(self, *words, config=True):
        words = [self.binary, *words, *(["--config", str(self.config)] if config else [])]
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    def command(self, *words, config=True):
        """Runs a command of the gateway to its end and returns what it printed."""
        done = self.run(*words, config=config)
        demand(done.returncode == 0, f"setgate {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, wait=True):
        words = bound([self.binary, "serve", "--config", str(self.config)])
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        if wait:
            self.ready()

    def ready(self, seconds=60):
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if self.http.get(f"http://127.0.0.1:{self.operator}/readyz").status_code == 200:
                    return
            demand(self.process.poll() is None, f"the gateway ended with {self.process.returncode}: {self.last_words()}")
            demand(time.monotonic() < end, f"the gateway was not ready in {seconds} s: {self.last_words()}")
            time.sleep(0.03)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def stop(self):
        """Ends the gateway as an operator does, and expects it to end well."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(45)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("the gateway was still there 45 s after SIGTERM") from None
        demand(code == 0, f"after SIGTERM the gateway ended with {code}")

    def end(self):
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def text_of_log(self):
        return (self.folder / "gateway.log").read_text(encoding="utf-8", errors="replace")

    def last_words(self):
        return "\n".join(self.text_of_log().splitlines()[-8:])

    def token(self, name):
        return (self.folder / f"{name}.token").read_text(encoding="utf-8").strip()

    def post(self, events):
        """Posts events and demands that each of them was accepted."""
        for first in range(0, len(events), 500):
            some = events[first : first + 500]
            answer = self.http.post(
                f"{self.issuer}/events", content="".join(json.dumps(one) + "\n" for one in some),
                headers={"authorization": f"Bearer {self.token('producer')}", "content-type": "application/x-ndjson"},
            )  # fmt: skip
            lines = [json.loads(line) for line in answer.text.splitlines() if line]
            taken = sum(1 for line in lines if line.get("status") in (200, 202))
            demand(answer.status_code in (200, 202) and taken == len(some), f"{len(some)} events were answered {answer.status_code}: {answer.text[:600]}")

    def list(self):
        listed = json.loads(self.command("streams", "list", "--json"))
        listed = listed["streams"] if isinstance(listed, dict) else listed
        return {stream["id"]: stream for stream in listed}

    def show(self, stream):
        return json.loads(self.command("streams", "show", stream, "--json"))

    def metrics(self):
        return self.http.get(f"http://127.0.0.1:{self.operator}/metrics").text

    def keys(self):
        return self.http.get(f"{self.issuer}/jwks.json").json()

    def drained(self, streams=None, seconds=60):
        """Waits until nothing waits any more, and returns what the gateway says of its streams."""
        last = {}

        def nothing():
            last.update(self.list())
            return not any(stream["waiting"] for name, stream in last.items() if streams is None or name in streams)

        facts = ("id", "status", "reason", "waiting", "acknowledged", "parked", "held", "last_error")
        until(nothing, seconds, lambda: [{fact: stream.get(fact) for fact in facts} for stream in last.values() if stream["waiting"]])
        return last
