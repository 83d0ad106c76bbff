"""The crash test with a broker: SIGKILL of gateway and broker in turn under load, then every topic is read back and compared."""

import json
import pathlib
import random
import threading
import time

import checker
import httpx
from broker import Cluster, archive
from gateway import Gateway, event, until
from receivers import Pushed
from running import arguments, play, say
from topics import Verifier, make, read

SUBJECTS = [f"subject-{number}" for number in range(40)]
# Each request has so many events of each subject: a kill shall meet some of them under way.
AT_ONCE = 4
STREAMS = {
    "one": {"topic": "crash.one"},
    "two": {"topic": "crash.two"},
    "bare": {"topic": "crash.bare", "value": "claims"},
    # Two streams, one topic: their records lie among each other.
    "shared-a": {"topic": "crash.shared"},
    "shared-b": {"topic": "crash.shared"},
}
PUSHED = "pushed"


class Producer:
    """Posts events, some of each subject at a time, and repeats each request by its `id`s until all of it is answered."""

    def __init__(self, gateway, rate):
        self.gateway, self.rate = gateway, rate
        self.accepted, self.broken, self.refused, self.error = [], 0, 0, None
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            turn, number = 0, 0
            next_at = time.monotonic()
            while not self.ends.is_set():
                some = [event(number + one, subject, turn + one // len(SUBJECTS)) for one, subject in enumerate(SUBJECTS * AT_ONCE)]
                turn, number = turn + AT_ONCE, number + len(some)
                self.post(some)
                next_at = max(next_at + len(some) / self.rate, time.monotonic() - 1)
                self.ends.wait(max(0, next_at - time.monotonic()))
        except Exception as error:  # noqa: BLE001 - told by `end`
            self.error = error

    def post(self, some):
        """Not to be ended before all of it is durable: what was perhaps accepted is asked for again."""
        headers = {"authorization": f"Bearer {self.gateway.token('producer')}", "content-type": "application/x-ndjson"}
        left, end = list(some), time.monotonic() + 60
        while left:
            if time.monotonic() > end:
                raise RuntimeError(f"{len(left)} events were not accepted within 60 s")
            try:
                with httpx.Client(trust_env=False, timeout=10) as http:
                    answer = http.post(f"{self.gateway.issuer}/events", content="".join(json.dumps(one) + "\n" for one in left), headers=headers)
                    answer.raise_for_status()
                lines = [json.loads(line) for line in answer.text.splitlines() if line]
            except (httpx.HTTPError, ValueError):
                self.broken += 1
                time.sleep(0.05)
                continue
            taken = {line["index"] for line in lines if line.get("status") in (200, 202)}
            self.refused += len(lines) - len(taken)
            left = [one for index, one in enumerate(left) if index not in taken]
            if left:
                time.sleep(0.1)
        # One request at a time, so within a subject this is the order of acceptance.
        self.accepted += some

    def end(self):
        self.ends.set()
        self.thread.join(90)
        if self.error is not None:
            raise self.error
        return self.accepted


class Run:
    def __init__(self, options, folder):
        self.options, self.random = options, random.Random(options.seed)
        self.kills = {"gateway": 0, "broker": 0, "both": 0}
        self.under_way = 0
        self.pushed = Pushed()
        self.cluster = Cluster(options.jars, folder / "broker")
        self.gateway, self.folder, self.began = None, folder, time.monotonic()

    def prepare(self):
        self.cluster.start_all()
        address = self.cluster.address("plaintext")
        make(address, *{stream["topic"] for stream in STREAMS.values()})
        streams = {name: {"cluster": "main", **terms} for name, terms in STREAMS.items()} | {PUSHED: self.pushed.delivery}
        self.gateway = Gateway(
            self.options.gateway, self.folder / "gateway", {"main": {"bootstrap": [address], "timeout": "8s"}}, streams
        )  # fmt: skip
        self.gateway.start()
        self.producer = Producer(self.gateway, self.options.rate)

    def acknowledged(self):
        return sum(stream["acknowledged"] for name, stream in self.gateway.list().items() if name != PUSHED)

    def waiting(self):
        """Deliveries under way."""
        (line,) = [line for line in self.gateway.metrics().splitlines() if line.startswith("setgate_deliveries_waiting ")]
        return int(line.split()[1])

    def work(self):
        """Kills mean something only while records are under way: waits until some have been acknowledged since the last start."""
        before = self.acknowledged()
        until(lambda: self.acknowledged() > before, 60, lambda: f"nothing is acknowledged: {self.gateway.list()}")

    def storm(self):
        for number in range(self.options.kills):
            self.work()
            time.sleep(self.random.uniform(0, self.options.life))
            until(self.waiting, 60, "nothing is under way")
            time.sleep(self.random.uniform(0, 0.1))
            self.under_way += self.waiting() > 0
            # Every fifth time both at once.
            what = "both" if number % 5 == 4 else ("gateway", "broker")[number % 2]
            self.kills[what] += 1
            if what != "gateway":
                self.cluster.kill()
            if what != "broker":
                self.gateway.kill()
                self.gateway.start(wait=False)
            if what != "gateway":
                time.sleep(self.random.uniform(0, 0.5))
                self.cluster.start()
            self.gateway.ready()
            if number % 5 == 4:
                say(f"{number + 1} rounds, {len(self.producer.accepted)} events accepted")

    def compare(self):
        events = self.producer.end()
        say(f"stormed for {time.monotonic() - self.began:.0f} s")
        began = time.monotonic()
        before = self.gateway.drained(None, 120)
        say(f"drained in {time.monotonic() - began:.1f} s")
        verifier = Verifier(self.gateway.keys(), self.gateway.issuer)
        self.gateway.stop()
        self.gateway.start()
        after = self.gateway.list()
        self.gateway.stop()
        book, faults, copies, records = checker.book(events), [], 0, 0
        address = self.cluster.address("plaintext")
        for name, stream in STREAMS.items():
            lines = []
            for record in read(address, stream["topic"]):
                if record.header("set_stream") == name:
                    claims = json.loads(record.value) if stream.get("value") else verifier.claims(record.value, name)
                    lines.append(checker.line(record, claims))
            faults += checker.check(name, book, lines, before[name])
            copies, records = copies + checker.repeats(lines), records + len(lines)
        came = {verifier.claims(token, PUSHED)["txn"] for token in self.pushed.tokens}
        missing = {line["txn"] for line in book} - came
        faults += [f"{PUSHED}: {len(missing)} events are missing"] if missing else []
        faults += [f"{PUSHED}: {fault}" for fault in checker.books(len(book), before[PUSHED])]
        for name in before:
            for fact in ("owed", "acknowledged", "parked", "dropped", "waiting", "status"):
                if before[name][fact] != after[name][fact]:
                    faults.append(f"{name}: {fact} was {before[name][fact]} and is {after[name][fact]} after a restart")
            faults += [f"{name} is {after[name]['status']}: {after[name]['reason']}"] if after[name]["status"] != "enabled" else []
        log = self.gateway.text_of_log()
        faults += ["the gateway panicked; see gateway.log"] if "panicked" in log else []
        faults += ["a subject is in the log"] if "subject-1" in log else []
        few = self.few(book, records)
        say(", ".join(f"{name} killed {number} times" for name, number in self.kills.items()) + f", {self.under_way} with records under way")
        say(f"{len(book)} events of {len(SUBJECTS)} subjects, {records} records in topics, {copies} of them repeats, {len(self.pushed.tokens)} pushed")
        say(f"posts broken {self.producer.broken}, events put off {self.producer.refused}")
        return faults, few

    def few(self, book, records):
        """Reasons why this run shows nothing."""
        kills = self.options.kills
        needed = {
            "kills": (sum(self.kills.values()), kills), "events": (len(book), 50 * kills), "records": (records, 250 * kills),
            "posts broken": (self.producer.broken, kills / 4), "kills with records under way": (self.under_way, kills / 2),
        }  # fmt: skip
        return [f"only {found} {name}, {least:.0f} are needed" for name, (found, least) in needed.items() if found < least]

    def end(self):
        if self.gateway is not None:
            self.gateway.end()
        self.cluster.stop()
        self.pushed.stop()


def run(options, folder):
    archive(options.jars, options.jars.parent / "archive")
    began, test = time.monotonic(), Run(options, folder)
    try:
        test.prepare()
        test.storm()
        faults, few = test.compare()
    except Exception:
        if test.gateway is not None:
            say(f"gateway: {test.gateway.last_words()}")
        raise
    finally:
        test.end()
    for fault in faults[:40]:
        say(f"FAULT {fault}")
    for reason in few:
        say(f"TOO LITTLE {reason}")
    say(f"{len(faults)} faults in {time.monotonic() - began:.0f} s, seed {options.seed}")
    return not faults and not few


def main():
    parser = arguments(seed=True)
    parser.add_argument("--jars", required=True, type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=18)
    parser.add_argument("--rate", type=float, default=160.0, help="events a second")
    parser.add_argument("--life", type=float, default=1.0, help="the longest time between work and the next kill, in seconds")
    options = parser.parse_args()
    say(f"{options.kills} kills, seed {options.seed}")
    play("kafka-crash", options, lambda folder: run(options, folder))


main()
