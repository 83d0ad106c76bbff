"""Subscribes to one stream over WebSocket (RFC 6455), with credit and without, and loses its connection now and then.

Frames and handshake are written out here: standard library only, and none of ours.
"""

import asyncio
import base64
import hashlib
import json
import os

from batches import Batches
from http11 import Closed, read_head

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
CREDIT = 40


class Socket:
    """One connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port, path, token, protocol):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        except OSError as error:
            raise Closed from error
        key = base64.b64encode(os.urandom(16)).decode()
        head = [
            f"GET {path} HTTP/1.1", f"host: 127.0.0.1:{port}", "connection: Upgrade", "upgrade: websocket",
            "sec-websocket-version: 13", f"sec-websocket-key: {key}", f"sec-websocket-protocol: {protocol}",
            f"authorization: Bearer {token}",
        ]  # fmt: skip
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n")
        try:
            first, fields = await asyncio.wait_for(read_head(reader), 20)
            if first.split(" ")[1] in ("429", "500", "503"):
                raise Closed
            accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
            if first.split(" ")[1] != "101" or fields.get("sec-websocket-accept") != accept:
                raise RuntimeError(f"the handshake was answered {first!r} {fields}")
            if fields.get("sec-websocket-protocol") != protocol:
                raise RuntimeError(f"{protocol} was offered, chosen is {fields.get('sec-websocket-protocol')!r}")
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer)

    def send(self, kind, payload):
        mask = os.urandom(4)
        size = len(payload)
        if size < 126:
            head = bytes([0x80 | kind, 0x80 | size])
        elif size < 1 << 16:
            head = bytes([0x80 | kind, 0x80 | 126]) + size.to_bytes(2, "big")
        else:
            head = bytes([0x80 | kind, 0x80 | 127]) + size.to_bytes(8, "big")
        key = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
        self.writer.write(head + mask + masked)

    async def frame(self):
        """One frame: final or not, its kind, its payload."""
        try:
            first, second = await self.reader.readexactly(2)
            if second & 0x80 or first & 0x70:
                raise RuntimeError("the gateway masks, or uses an extension that nobody asked for")
            size = second & 0x7F
            if size > 125:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            return bool(first & 0x80), first & 0x0F, await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Closed from error

    async def message(self):
        """The next text; pings are answered on the way."""
        text = b""
        while True:
            final, kind, payload = await self.frame()
            if kind == PING:
                self.send(PONG, payload)
            elif kind == CLOSE:
                self.send(CLOSE, payload[:2])
                raise Closed
            elif kind != PONG:
                text += payload
                if final:
                    return text.decode("utf-8")

    def close(self):
        self.writer.close()


class Subscriber(Batches):
    # Seconds that a connection lasts.
    lasts = (0.3, 6.0)

    def __init__(self, receiver, stream, port, token):
        super().__init__(receiver, stream)
        self.port, self.token = port, token

    async def run(self):
        while True:
            protocol = self.random.choice(["setgate.v1", "pushpull"])
            socket = None
            try:
                socket = await Socket.open(self.port, self.receiver.below(self.stream, f"/websocket/{self.stream}"), self.token, protocol)
                self.receiver.tally["sockets"] += 1
                # What was not heard on the last connection may be said again on this one, or comes again.
                if self.random.random() < 0.5:
                    self.acks, self.refusals = [], {}
                await asyncio.wait_for(self.serve(socket, protocol == "setgate.v1"), self.random.uniform(*self.lasts))
            except (Closed, ConnectionError, asyncio.TimeoutError):
                await self.rest()
            except RuntimeError as error:
                self.receiver.write({"n": 0, "stream": self.stream, "faults": [str(error)]})
                await self.rest()
            finally:
                if socket:
                    socket.close()

    async def serve(self, socket, credit):
        """Takes SETs and answers, until the time of this connection is over, in the middle of whatever it is doing."""
        if credit:
            self.tell(socket, {"maxEvents": CREDIT})
        held = 0
        if self.acks or self.refusals:
            self.tell(socket, {})
        while True:
            message = json.loads(await socket.message())
            sets = message.get("sets") or {}
            held += len(sets)
            if credit and held > CREDIT:
                raise RuntimeError(f"{held} SETs where {CREDIT} were asked for")
            await self.take(sets, way="socket")
            await asyncio.sleep(self.random.choice([0, 0, 0.005, 0.05]))
            self.tell(socket, {"maxEvents": held} if credit and held else {})
            held = 0 if credit else held
            await socket.writer.drain()

    def tell(self, socket, more):
        said = self.say()
        text = {name: what for name, what in said.items() if what} | more
        if text:
            socket.send(TEXT, json.dumps(text).encode())
        self.said(said)
