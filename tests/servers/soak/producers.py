"""The producers of the soak: they post events for every issuer at a rate that they are told, and write down exactly what was answered 202.

Commands come as lines of the standard input: `rate N` posts so many events a second, `hold` stops, `end` ends the process.
"""

import argparse
import asyncio
import hashlib
import json
import pathlib
import random
import sys
import time
import types

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "crash"))
from http11 import Client  # noqa: E402
from producer import Producer, Tally, Worker  # noqa: E402

import books  # noqa: E402
from layout import KINDS, PATIENCE, REMEMBERED, Layout, number_of  # noqa: E402

FILL = 400
REFUSED = 0.003
# Workers of each issuer.
WORKERS = 3
# From so many events a second on nobody rests.
FAST = 100_000


class Poster(Worker):
    """Posts the events of some subjects of one issuer, one request after the other."""

    def __init__(self, producer, issuer, part):
        self.producer, self.number, self.layout = producer, f"{issuer}-{part}", producer.layout
        self.random = random.Random(f"{self.layout.seed}/{self.number}")
        own = [subject for subject, one in enumerate(self.layout.subjects) if one["issuer"] == issuer][part::WORKERS]
        self.keys = {self.layout.key(subject): 0 for subject in own}
        self.path = self.layout.issuers[issuer]["path"] + "/events"
        self.client = Client(self.layout.world, PATIENCE)
        self.recent, self.old, self.born, self.busy = [], [], {}, False

    async def run(self):
        producer = self.producer
        while self.keys:
            self.busy = False
            await producer.hold.wait()
            dice = self.random.random()
            count = self.random.randint(2, 30) if dice < 0.5 else 1
            end = time.monotonic() + self.random.uniform(0, 2 * count * producer.workers / producer.rate)
            # Whoever rests may be told to stop, or to post sooner.
            while producer.hold.is_set() and (left := end - time.monotonic()) > 0 and producer.rate < FAST:
                await asyncio.sleep(min(left, 0.2))
            if not producer.hold.is_set():
                continue
            self.busy = True
            if dice < 0.5:
                await self.post_many([self.event() for _ in range(count)])
            elif dice < 0.93:
                await self.post_one(self.event())
            elif dice < 0.97:
                await self.repeat()
            else:
                await self.misbehave()

    def event(self):
        key = self.random.choice(list(self.keys))
        self.keys[key] += 1
        subject, number = number_of(key), self.keys[key]
        identifier = f"{self.layout.seed}-{subject}-{number}"
        refuse = subject not in self.producer.gentle and self.random.random() < REFUSED
        fill = f"{self.layout.canary}-payload" + "x" * self.random.randint(0, FILL)
        mark = {"id": identifier, "key": key, "seq": number, "refuse": refuse, "kind": "soak", "fill": fill}
        self.born[identifier] = time.monotonic()
        kind = KINDS[self.layout.subjects[subject]["kind"]]
        return {"id": identifier, "sub_id": self.layout.identifier(subject), "events": {kind: {"crash_test": mark}}}

    def accepted(self, event, txn, single):
        (payload,) = event["events"].values()
        mark = payload["crash_test"]
        content = int(hashlib.sha256(json.dumps(event["events"], sort_keys=True).encode()).hexdigest()[:16], 16)
        times = (self.born.pop(event["id"]), time.monotonic())
        record = (number_of(mark["key"]), mark["seq"], books.short(txn), content, *times, mark["refuse"])
        self.producer.records.write(books.ACCEPTED.pack(*record))
        self.producer.tally.add("accepted")
        if self.random.random() < 0.2:
            self.recent.append((time.monotonic(), event, txn))

    async def repeat(self):
        now = time.monotonic()
        self.recent = [one for one in self.recent if now - one[0] < REMEMBERED / 2][-50:]
        self.old = [(event, txn) for _, event, txn in self.recent]
        await super().repeat()

    async def misbehave(self):
        """What must be refused, with secrets in all of it."""
        canary, dice = self.layout.canary, self.random.random()
        if dice < 0.5:
            await super().misbehave()
            return
        event = {"id": f"{canary}-id", "sub_id": self.layout.identifier(0), "events": {KINDS[0]: {"note": f"{canary}-note"}}}
        fields, body, path = self.headers("application/json"), json.dumps(event).encode(), self.path
        if dice < 0.6:
            fields["authorization"], wanted = f"Bearer {canary}-stranger", 401
        elif dice < 0.7:
            body, wanted = body[:-9], 400
        elif dice < 0.8:
            body, wanted = json.dumps(event | {f"{canary}-member": f"{canary}-value"}).encode(), 400
        elif dice < 0.9:
            path, wanted = f"/{canary}-path?token={canary}-query", 404
        else:
            path, wanted = f"/poll/{canary}-stream?token={canary}-query", 401
        try:
            status, _, answer = await self.client.request("POST", path, fields, body)
        except Exception:  # noqa: BLE001 - whether it was killed meanwhile shows elsewhere
            return
        if status not in (wanted, 429, 503):
            raise RuntimeError(f"{path} was answered {status} instead of {wanted}: {answer[:300]!r}")
        self.producer.tally.add("refused")


class Producers(Producer):
    def __init__(self, options):
        self.layout = Layout.read(options.layout)
        self.options = types.SimpleNamespace(port=self.layout.world)
        self.token = options.token_file.read_text(encoding="utf-8").strip()
        self.records = open(options.book, "wb", buffering=1 << 16)
        self.hold, self.rate, self.gentle = asyncio.Event(), 1.0, self.layout.gentle()
        self.tally, self.serial = Tally(), 0
        self.posters = [Poster(self, issuer, part) for issuer in range(len(self.layout.issuers)) for part in range(WORKERS)]
        self.posters = [poster for poster in self.posters if poster.keys]
        self.workers = len(self.posters)

    async def run(self):
        tasks = [asyncio.create_task(poster.run()) for poster in self.posters]
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        print("ready", flush=True)
        reading = asyncio.create_task(commands.readline())
        while True:
            await asyncio.wait([*tasks, reading], timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            if reading.done():
                word, *more = reading.result().decode().split() or ["end"]
                if word == "end":
                    break
                self.hold.set() if word == "rate" else self.hold.clear()
                self.rate = float(more[0]) if more else self.rate
                reading = asyncio.create_task(commands.readline())
            busy = self.hold.is_set() or any(poster.busy for poster in self.posters)
            print(json.dumps({"tally": self.tally, "busy": busy}), flush=True)
        for task in tasks:
            task.cancel()
        self.records.close()
        print(json.dumps({"tally": self.tally, "is": "ended", "busy": False}), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layout", type=pathlib.Path, required=True)
    parser.add_argument("--book", type=pathlib.Path, required=True)
    parser.add_argument("--token-file", type=pathlib.Path, required=True)
    options = parser.parse_args()

    async def run():
        await Producers(options).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
