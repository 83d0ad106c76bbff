"""Polls one stream (RFC 8936) on several connections at once, acknowledges on whichever comes next, and hangs up now and then."""

import asyncio
import json
import time

from batches import Batches
from http11 import Client, Closed


class Poller(Batches):
    way = "poll"
    # Seconds in which a poll is answered, where it is answered at all.
    patience = 40.0

    def __init__(self, receiver, stream, port, token, connections=2):
        super().__init__(receiver, stream)
        self.port, self.connections = port, connections
        self.fields = {"authorization": f"Bearer {token}", "content-type": "application/json", "content-language": "en"}
        self.path = receiver.below(stream, f"/poll/{stream}")
        # What was said and has no answer yet: another connection does not say it too, unless this one breaks.
        self.on_the_way = set()

    async def run(self):
        await asyncio.gather(*(self.poll() for _ in range(self.connections)))

    async def poll(self):
        client = Client(self.port, self.patience)
        try:
            while True:
                await self.once(client)
        finally:
            client.close()

    def ask(self, dice, said):
        """The request that says this; the same dice decide what it asks for."""
        ask = {name: what for name, what in said.items() if what}
        if dice < 0.2:
            ask |= {"maxEvents": 0, "returnImmediately": True}
        elif dice < 0.6:
            ask |= {"maxEvents": self.random.randint(1, 60), "returnImmediately": bool(self.acks) or dice < 0.3}
        elif self.acks:
            ask["returnImmediately"] = True
        return ask

    async def once(self, client):
        if self.receiver.away(self.stream):
            await asyncio.sleep(0.05)
            return
        dice = self.random.random()
        if dice < 0.08:
            await self.hang_up()
            return
        # Part of what there is to say: the rest goes out with another poll, as often on another connection.
        said = self.say(some=dice < 0.4)
        said["ack"] = [one for one in said["ack"] if one not in self.on_the_way]
        ask = self.ask(dice, said)
        asked = time.monotonic()
        self.on_the_way.update(said["ack"])
        try:
            status, _, body = await client.request("POST", self.path, self.fields, json.dumps(ask).encode())
        except Closed:
            await self.rest()
            return
        finally:
            self.on_the_way.difference_update(said["ack"])
        if status != 200:
            # While it starts or ends, and never anything that blames the poll.
            if status not in (429, 500, 503):
                self.receiver.write({"n": 0, "stream": self.stream, "faults": [f"a poll was answered {status} {body[:200]!r}"]})
            await self.rest()
            return
        heard = time.monotonic()
        self.said(said)
        self.receiver.heard(self.stream, said["ack"], asked, heard)
        answer = json.loads(body)
        await self.take(answer["sets"], asked=asked, way=self.way)
        if not answer["sets"] and ask.get("returnImmediately"):
            await asyncio.sleep(0.02)

    async def hang_up(self):
        """Asks, and goes away: at once, while it waits, or in the middle of the answer."""
        body = json.dumps({"maxEvents": self.random.randint(1, 60)}).encode()
        fields = "".join(f"{name}: {value}\r\n" for name, value in self.fields.items())
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(f"POST {self.path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n{fields}content-length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            if self.random.random() < 0.7:
                await asyncio.wait_for(reader.readexactly(self.random.randint(1, 2000)), self.random.uniform(0.01, 0.2))
            self.receiver.tally["hang-ups"] += 1
        except asyncio.TimeoutError:
            self.receiver.tally["hang-ups while waiting"] += 1
        except (OSError, asyncio.IncompleteReadError):
            await self.rest()
        finally:
            if "writer" in locals():
                writer.close()
