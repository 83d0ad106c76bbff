"""The producer of the crash test: posts events until it is told to stop, and writes down exactly what was answered 202.

Each worker owns its order keys and has one request under way, so that the order of what it writes is the order in which
its events were accepted. What has no answer is sent again, with the same ids, until it has one.
"""

import argparse
import asyncio
import hashlib
import json
import random
import signal
import time

from http11 import Client, Closed, get_json
from scene import KINDS, SHARES, STREAMS

RESERVED = "https://schemas.openid.net/secevent/ssf/event-type/verification"

# The gateway may be this many SETs behind before the producer waits, so that the end of the run stays short.
BEHIND = 1000
# Bytes by which events are padded: most are small, some fill a segment by its bytes. Those of kind `bulk` are all large.
SMALL, LARGE, BULK = 400, 4000, 48_000


class Tally(dict):
    def add(self, name, number=1):
        self[name] = self.get(name, 0) + number


class Producer:
    def __init__(self, options):
        self.options, self.stop = options, asyncio.Event()
        self.token = open(options.token_file, encoding="utf-8").read().strip()
        self.book = open(options.book, "a", encoding="utf-8")
        self.tally, self.serial, self.accepted_wanted = Tally(), 0, 0
        self.hold = asyncio.Event()
        self.hold.set()
        # What the slowest stream is owed.
        self.owed = 0
        self.left = options.bulk

    async def run(self):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.end)
        if self.options.bulk:
            self.stop.set()
        workers = [asyncio.create_task(Worker(self, number).run()) for number in range(self.options.workers)]
        brake = asyncio.create_task(self.brake())
        try:
            await asyncio.gather(*workers)
        finally:
            brake.cancel()
            self.book.close()
        print(json.dumps(self.tally), flush=True)

    def end(self):
        """Posts nothing new; what is under way is posted to its end."""
        self.left = 0
        self.stop.set()

    async def brake(self):
        """Holds the workers while the gateway is far behind."""
        while True:
            try:
                status = await get_json(self.options.receiver_port, "/status")
                behind = self.owed - status["first"][self.options.slowest]
                self.hold.clear() if behind > BEHIND and not self.stop.is_set() else self.hold.set()
            except (Closed, OSError):
                pass
            await asyncio.sleep(0.1)


class Worker:
    def __init__(self, producer, number):
        self.producer, self.number = producer, number
        self.random = random.Random(f"{producer.options.seed}/{number}")
        self.keys = {f"{producer.options.prefix}-{number}-{one}": 0 for one in range(producer.options.keys)}
        self.client = Client(producer.options.port)
        self.old, self.born, self.path = [], {}, producer.options.path

    async def run(self):
        while self.producer.left > 0:
            number = min(self.producer.left, 20)
            self.producer.left -= number
            await self.post_many([self.event("bulk") for _ in range(number)])
        while not self.producer.stop.is_set():
            await self.producer.hold.wait()
            dice = self.random.random()
            if dice < 0.55:
                events = [self.event() for _ in range(self.random.randint(2, 40))]
                await self.post_many(events)
                count = len(events)
            elif dice < 0.95:
                await self.post_one(self.event())
                count = 1
            elif dice < 0.97:
                await self.repeat()
                count = 1
            else:
                await self.misbehave()
                count = 1
            rest = count * self.producer.options.workers / self.producer.options.rate
            await asyncio.sleep(self.random.uniform(0, 2 * rest))
        self.client.close()

    def event(self, kind=None):
        key = self.random.choice(list(self.keys))
        self.keys[key] += 1
        self.producer.serial += 1
        seq, identifier = self.keys[key], f"{self.producer.options.seed}-{self.number}-{self.producer.serial}"
        refuse = self.random.random() < 0.002
        kind = kind or self.random.choices(list(SHARES), SHARES.values())[0]
        most = BULK if kind == "bulk" else LARGE if self.random.random() < 0.1 else SMALL
        fill = "x" * self.random.randint(most // 2 if most > SMALL else 0, most)
        mark = {"id": identifier, "key": key, "seq": seq, "refuse": refuse, "kind": kind, "fill": fill}
        self.born[identifier] = time.monotonic()
        event = {
            "id": identifier,
            "sub_id": {"format": "opaque", "id": key},
            "events": {KINDS[kind]: {"crash_test": mark, "change_type": "revoke", "credential_type": "pin"}},
        }
        return event

    def headers(self, kind):
        return {"authorization": f"Bearer {self.producer.token}", "content-type": kind}

    async def send(self, kind, body):
        """Sends until there is a whole answer other than "later". Counts what went wrong on the way."""
        while True:
            try:
                status, fields, answer = await self.client.request("POST", self.path, self.headers(kind), body)
            except Closed:
                self.producer.tally.add("broken")
                await asyncio.sleep(self.random.uniform(0.01, 0.1))
                continue
            if status in (429, 503):
                self.producer.tally.add("overload")
                await asyncio.sleep(min(float(fields.get("retry-after", "0") or 0), 1.0) + 0.02)
                continue
            return status, answer

    async def post_one(self, event):
        status, answer = await self.send("application/json", json.dumps(event).encode())
        if status != 202:
            raise RuntimeError(f"a good event was answered {status}: {answer[:300]!r}")
        self.accepted(event, json.loads(answer)["txn"], single=True)

    async def post_many(self, events):
        """Sends NDJSON; what was not answered 202 is sent again, in order."""
        left = events
        while left:
            body = b"".join(json.dumps(event).encode() + b"\n" for event in left)
            status, answer = await self.send("application/x-ndjson", body)
            if status != 200:
                raise RuntimeError(f"a good NDJSON body was answered {status}: {answer[:300]!r}")
            lines = [json.loads(line) for line in answer.splitlines() if line.strip()]
            items = [line for line in lines if "index" in line]
            if [line["index"] for line in items] != list(range(len(items))):
                raise RuntimeError(f"answers are not in order: {answer[:300]!r}")
            later = []
            for event, line in zip(left, items):
                if line["status"] == 202:
                    if line["id"] != event["id"]:
                        raise RuntimeError(f"the answer for {event['id']} names {line['id']}")
                    self.accepted(event, line["txn"], single=False)
                elif line["status"] in (429, 503):
                    self.producer.tally.add("item_later")
                    later.append(event)
                else:
                    raise RuntimeError(f"a good event in a body was answered {line}")
            left = later + left[len(items) :]
            if left:
                self.producer.tally.add("rest_sent_again")
                await asyncio.sleep(0.05)

    def accepted(self, event, txn, single):
        (payload,) = event["events"].values()
        mark = payload["crash_test"]
        line = {
            "id": event["id"],
            "key": mark["key"],
            "seq": mark["seq"],
            "refuse": mark["refuse"],
            "kind": mark["kind"],
            "txn": txn,
            # Accepted between these two.
            "sent": self.born.pop(event["id"]),
            "at": time.monotonic(),
            "event": hashlib.sha256(json.dumps(event["events"], sort_keys=True).encode()).hexdigest(),
        }
        self.producer.book.write(json.dumps(line) + "\n")
        self.producer.tally.add("accepted")
        self.producer.owed += mark["kind"] in STREAMS[self.producer.options.slowest]["kinds"]
        self.producer.tally.add("accepted_single" if single else "accepted_ndjson")
        if mark["kind"] != "bulk" and self.random.random() < 0.05:
            self.old.append((event, txn))

    async def repeat(self):
        """An accepted event again: same answer. With another body: 409. (Hardening: idempotency survives crashes.)"""
        if not self.old:
            return
        event, txn = self.random.choice(self.old)
        status, answer = await self.send("application/json", json.dumps(event).encode())
        if status != 202 or json.loads(answer)["txn"] != txn:
            raise RuntimeError(f"a repeat was answered {status} {answer[:300]!r}, the first had txn {txn}")
        self.producer.tally.add("repeats")
        other = {**event, "sub_id": {"format": "opaque", "id": "somebody-else"}}
        status, answer = await self.send("application/json", json.dumps(other).encode())
        if status != 409:
            raise RuntimeError(f"another event under a used id was answered {status} {answer[:300]!r}")
        self.producer.tally.add("conflicts")

    async def misbehave(self):
        """What must be refused, and never reach anybody."""
        event = {"id": f"bad-{self.producer.serial}-{self.number}", "sub_id": {"format": "opaque", "id": "bad"}}
        kind = self.random.choice(["reserved", "member", "json", "truncated"])
        if kind == "reserved":
            body, wanted = json.dumps({**event, "events": {RESERVED: {"state": "x"}}}).encode(), 403
        elif kind == "member":
            body, wanted = json.dumps({**event, "exp": 1, "events": {KINDS["wanted"]: {}}}).encode(), 400
        elif kind == "json":
            body, wanted = b'{"id": "twice", "id": "twice"}', 400
        else:
            await self.truncated(event)
            return
        status, answer = await self.send("application/json", body)
        if status != wanted:
            raise RuntimeError(f"{kind} was answered {status} instead of {wanted}: {answer[:300]!r}")
        self.producer.tally.add("refused")

    async def truncated(self, event):
        """A body that ends in the middle of its event: nothing of it may be accepted."""
        body = json.dumps({**event, "events": {KINDS["wanted"]: {}}}).encode()
        fields = "".join(f"{name}: {value}\r\n" for name, value in self.headers("application/json").items())
        head = f"POST {self.path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{fields}content-length: {len(body)}\r\n\r\n"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.producer.options.port)
            writer.write(head.encode() + body[: self.random.randint(1, len(body) - 1)])
            await writer.drain()
            writer.close()
        except OSError:
            return
        self.producer.tally.add("truncated")


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--receiver-port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--token-file", required=True)
    parser.add_argument("--book", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, default=300.0, help="events a second, all workers together")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--keys", type=int, default=12, help="order keys of each worker")
    parser.add_argument("--prefix", default="key", help="of the names of order keys")
    parser.add_argument("--bulk", type=int, default=0, help="posts so many large events as fast as it can, and ends")
    parser.add_argument("--slowest", required=True, help="the stream that gets every event")
    await Producer(parser.parse_args()).run()


if __name__ == "__main__":
    asyncio.run(main())
