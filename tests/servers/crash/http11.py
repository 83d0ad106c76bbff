"""HTTP/1.1, just enough of it for a producer and a receiver on loopback. Standard library only."""

import asyncio
import json

LIMIT = 1 << 20


class Closed(Exception):
    """The other side ended the connection."""


async def read_head(reader):
    """Reads up to the empty line: the first line, and the header fields by lower-case name."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise Closed from error
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip()
    return first, fields


async def read_body(reader, fields):
    """Reads a body by its length or its chunks."""
    try:
        if fields.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while True:
                size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
                part = await reader.readexactly(size + 2)
                if size == 0:
                    return b"".join(parts)
                parts.append(part[:-2])
        return await reader.readexactly(int(fields.get("content-length", "0")))
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise Closed from error


class Client:
    """One kept connection to 127.0.0.1, opened again when it has broken."""

    def __init__(self, port, timeout=30.0):
        self.port, self.timeout, self.pair = port, timeout, None

    def close(self):
        if self.pair:
            self.pair[1].close()
            self.pair = None

    async def request(self, method, path, fields=None, body=b""):
        """Sends a request and returns status, fields and body. Raises Closed when no whole answer came."""
        try:
            return await asyncio.wait_for(self._request(method, path, fields or {}, body), self.timeout)
        except asyncio.TimeoutError as error:
            self.close()
            raise RuntimeError(f"{method} {path} had no answer in {self.timeout:.0f} s") from error
        except (OSError, Closed) as error:
            self.close()
            raise Closed from error

    async def _request(self, method, path, fields, body):
        if self.pair is None:
            self.pair = await asyncio.open_connection("127.0.0.1", self.port, limit=LIMIT)
        reader, writer = self.pair
        lines = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        await writer.drain()
        while True:
            first, answer = await read_head(reader)
            status = int(first.split(" ")[1])
            if status >= 200:
                break
        content = await read_body(reader, answer)
        if answer.get("connection", "").lower() == "close":
            self.close()
        return status, answer, content


async def get_json(port, path, timeout=30.0, more=None, with_fields=False, any_text=False):
    """Fetches one JSON document over a connection of its own."""
    client = Client(port, timeout)
    try:
        status, fields, body = await client.request("GET", path, {"accept": "application/json"} | (more or {}))
        if status != 200:
            raise Closed
        if any_text:
            return body
        return (json.loads(body), fields) if with_fields else json.loads(body)
    finally:
        client.close()
