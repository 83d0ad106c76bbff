"""The receivers of the crash test: every SET is verified with PyJWT against the published JWKS, and they misbehave now and then.

Requests of single and multi-SET push are served here; pollers and subscribers run beside them. There is one line for each SET
that came, written just before it is answered. `n` is when it arrived and `end` when it was answered,
both on one counter, so that the checker knows what was under way together.
"""

import argparse
import asyncio
import base64
import collections
import hashlib
import json
import os
import random
import re
import signal
import time

import jwt

from http11 import Closed, get_json, read_body, read_head
from multipush import MultiPush
from poller import Poller
from subscriber import Subscriber

# What happens to a request, per thousand of them. The rest is answered 202 at once.
FAULTS = [("500", 15), ("503", 3), ("drop", 3), ("lost", 5), ("late", 20)]


def unpad(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def path_of(url):
    """The path of a URL with its slash; nothing where there is none."""
    _, slash, path = url.partition("://")[2].partition("/")
    return slash + path


class Keys:
    """The published key set of one issuer."""

    # Seconds in which the gateway answers, where it answers at all.
    patience = 5.0

    def __init__(self, issuer, gateway):
        self.issuer, self.gateway = issuer, gateway
        self.keys, self.lock, self.kept_until = {}, asyncio.Lock(), 0.0

    async def key(self, kid):
        """The key of that name, out of the key set that is published. It is kept as long as it may be, and never fetched sooner:
        whoever keeps it must know every key that signs. While the gateway is down we wait for it."""
        async with self.lock:
            for _ in range(600):
                if time.monotonic() < self.kept_until:
                    return self.keys.get(kid)
                try:
                    metadata = await get_json(self.gateway, "/.well-known/ssf-configuration" + path_of(self.issuer), self.patience)
                    if metadata["issuer"] != self.issuer:
                        raise ValueError(f"the metadata names {metadata['issuer']!r}")
                    address, _, path = metadata["jwks_uri"].removeprefix("http://").partition("/")
                    if address != f"127.0.0.1:{self.gateway}":
                        raise ValueError(f"jwks_uri {metadata['jwks_uri']!r}")
                    asked = time.monotonic()
                    document, fields = await get_json(self.gateway, "/" + path, self.patience, with_fields=True)
                except (Closed, OSError):
                    await asyncio.sleep(0.05)
                    continue
                if any(set(key) & {"d", "p", "q", "k"} for key in document["keys"]):
                    raise ValueError("a private key is published")
                self.keys = {key["kid"]: jwt.PyJWK(key).key for key in document["keys"]}
                self.kept_until = asked + int(re.search(r"max-age=(\d+)", fields["cache-control"])[1])
            return None


class Receiver:
    ways = {"poll": Poller, "websocket": Subscriber}

    def __init__(self, options):
        self.issuer, self.gateway = options.issuer, options.gateway_port
        self.streams = json.loads(options.streams)
        self.book = open(options.book, "a", encoding="utf-8")
        self.acks = open(options.acknowledgements, "a", encoding="utf-8")
        self.tally = collections.Counter()
        self.random = random.Random(options.seed)
        self.keys = {}
        self.revived = self.calm = False
        self.time, self.requests = 0, 0
        self.first = {name: set() for name in self.streams}
        self.multi = {name: MultiPush(self, name) for name, one in self.streams.items() if one["way"] == "multipush"}
        token = open(options.token_file, encoding="utf-8").read().strip()
        ways = self.ways
        self.callers = [
            ways[one["way"]](self, name, self.gateway, token) for name, one in self.streams.items() if one["way"] in ways
        ]

    def issuer_of(self, stream):
        return self.streams[stream].get("issuer", self.issuer)

    def below(self, stream, path):
        """The path below the issuer of this stream."""
        return path_of(self.issuer_of(stream)) + path

    def tick(self):
        self.time += 1
        return self.time

    async def serve(self, reader, writer):
        try:
            while True:
                first, fields = await read_head(reader)
                method, path, _ = first.split(" ")
                if fields.get("expect", "").lower() == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await read_body(reader, fields)
                if method == "GET" and path == "/status":
                    first = {name: len(jtis) for name, jtis in self.first.items()}
                    text = json.dumps({"requests": self.requests, "first": first, "tally": self.tally})
                    answer(writer, "200 OK", text.encode(), "content-type: application/json\r\n")
                elif method == "POST" and path in ("/revive", "/calm", "/leave"):
                    # Those who were away come back, or are away again; and from the second on nobody fails any more.
                    self.revived, self.calm = path != "/leave", path == "/calm"
                    answer(writer, "204 No Content")
                elif method == "POST" and path.startswith(("/push/", "/multipush/")):
                    way, stream = re.match("/([^/]+)/([^/?]+)", path).groups()
                    if self.away(stream):
                        self.tally["knocked in vain"] += 1
                        return
                    fields[":path"] = path
                    if not await (self.push if way == "push" else self.push_many)(stream, fields, body, writer):
                        return
                else:
                    answer(writer, "404 Not Found")
                await writer.drain()
        except (Closed, ConnectionError):
            pass
        finally:
            writer.close()

    def away(self, stream):
        """Whether the receiver of this stream is dead, or does not come at this time."""
        presence = self.streams.get(stream, {}).get("presence")
        if self.revived or presence == "always":
            return False
        return presence == "dead" or time.monotonic() % 7 > 0.6

    async def push(self, stream, fields, body, writer):
        """Judges one SET, writes it down, answers. False: the connection ends without an answer."""
        line = await self.judge(stream, body.decode("ascii", "replace"))
        line["faults"] += self.request(stream, fields, "application/secevent+jwt")
        action = self.action(line)
        line["action"] = action
        if action in ("202", "late", "lost"):
            line["taken"] = True
        if action == "late":
            await asyncio.sleep(self.random.uniform(0.02, 0.4))
        if writer.is_closing() and line.get("taken"):
            # It was cut meanwhile: nobody hears the answer.
            action = line["action"] = "lost"
        self.write(line)
        if action in ("drop", "lost"):
            return False
        if action == "500":
            answer(writer, "500 Internal Server Error", b"an answer that is no JSON")
        elif action == "503":
            answer(writer, "503 Service Unavailable", b"", "retry-after: 0\r\n")
        elif action == "400":
            refusal = b'{"err":"invalid_request","description":"the crash test refuses this one"}'
            answer(writer, "400 Bad Request", refusal, "content-type: application/json\r\ncontent-language: en\r\n")
        else:
            answer(writer, "202 Accepted")
        return True

    async def push_many(self, stream, fields, body, writer):
        """The same for a request with many SETs, each with an answer of its own."""
        action = self.action({})
        if action == "503":
            answer(writer, "503 Service Unavailable", b"", "retry-after: 0\r\n")
            return True
        if action == "drop":
            return False
        if action == "late":
            await asyncio.sleep(self.random.uniform(0.02, 0.4))
        for fault in self.request(stream, fields, "application/json"):
            self.write({"n": 0, "stream": stream, "faults": [fault]})
        multi = self.multi[stream]
        said, told = await multi.answer(json.loads(body))
        if action in ("lost", "500"):
            # Nobody hears it: what it says is said again.
            if action == "500":
                answer(writer, "500 Internal Server Error", b"an answer that is no JSON")
            return action == "500"
        multi.said(told)
        answer(writer, "202 Accepted", json.dumps(said).encode(), "content-type: application/json\r\ncontent-language: en\r\n")
        return True

    async def judge(self, stream, token):
        """The line of a SET that has arrived, with what is wrong with it."""
        self.requests += 1
        line = {"n": self.tick(), "stream": stream, "faults": []}
        try:
            line |= self.read(stream, token)
            line["faults"] += await self.verify(stream, token)
        except Exception as error:  # whatever a broken SET makes of us is a fault of that SET
            line["faults"].append(f"unreadable: {error!r}")
        return line

    def write(self, line):
        """Writes a line down, as the last thing before it is answered."""
        if "jti" in line and line["stream"] in self.first:
            self.first[line["stream"]].add(line["jti"])
        line["end"] = self.tick()
        self.book.write(json.dumps(line) + "\n")

    def heard(self, stream, jtis, said, at):
        """The gateway has answered a request that acknowledged these, and when either was seen here."""
        for jti in jtis:
            self.acks.write(json.dumps({"stream": stream, "jti": jti, "said": said, "at": at}) + "\n")

    def request(self, stream, fields, kind):
        """What is wrong with a request."""
        faults = []
        if fields.get("content-type") != kind:
            faults.append(f"content type {fields.get('content-type')!r}")
        if fields.get("accept") != "application/json":
            faults.append(f"accept {fields.get('accept')!r}")
        if fields.get("authorization") != self.streams[stream]["authorization"]:
            faults.append("the authorization header is not the stream's")
        return faults

    def action(self, line):
        if line.get("refuse"):
            return "400"
        if self.calm:
            return "202"
        dice = self.random.uniform(0, 1000)
        for name, share in FAULTS:
            if dice < share:
                return name
            dice -= share
        return "202"

    def read(self, stream, token):
        """What the SET says of itself, with everything that SSF 1.0 4.1 and RFC 8935 2.1 forbid."""
        expected = self.streams[stream]
        faults = []
        header, payload, _ = token.split(".")
        header = json.loads(unpad(header))
        claims = json.loads(unpad(payload))
        if header.get("typ") != "secevent+jwt":
            faults.append(f"typ {header.get('typ')!r}")
        if header.get("alg") != expected["algorithm"]:
            faults.append(f"alg {header.get('alg')!r}")
        if claims.get("iss") != self.issuer_of(stream):
            faults.append(f"iss {claims.get('iss')!r}")
        if claims.get("aud") != expected["audience"]:
            faults.append(f"aud {claims.get('aud')!r}")
        faults += [f"claim {name!r} is there" for name in ("sub", "exp", "nbf") if name in claims]
        for name, kind in [("jti", str), ("txn", str), ("iat", int), ("sub_id", dict), ("events", dict)]:
            if not isinstance(claims.get(name), kind) or not claims[name]:
                faults.append(f"claim {name!r} is {claims.get(name)!r}")
        (payload_of_event,) = claims["events"].values()
        mark = payload_of_event["crash_test"]
        if mark["key"] != self.subject(claims["sub_id"]):
            faults.append("the subject is not the event's")
        return {
            "jti": claims["jti"],
            "kid": header.get("kid"),
            "txn": claims["txn"],
            "payload": hashlib.sha256(payload.encode()).hexdigest(),
            "event": hashlib.sha256(json.dumps(claims["events"], sort_keys=True).encode()).hexdigest(),
            "id": mark["id"],
            "key": mark["key"],
            "seq": mark["seq"],
            "refuse": mark["refuse"],
            "kind": mark["kind"],
            "faults": faults,
        }

    def subject(self, identifier):
        """The order key that a subject stands for."""
        return identifier.get("id")

    async def verify(self, stream, token):
        expected = self.streams[stream]
        kid = jwt.get_unverified_header(token).get("kid")
        issuer = self.issuer_of(stream)
        if issuer not in self.keys:
            self.keys[issuer] = Keys(issuer, self.gateway)
        key = await self.keys[issuer].key(kid)
        if key is None:
            return [f"kid {kid!r} is not published, or signs before the last key set has run out"]
        try:
            jwt.decode(
                token,
                key,
                algorithms=[expected["algorithm"]],
                audience=expected["audience"],
                issuer=issuer,
                leeway=5,
                options={"require": ["iss", "aud", "iat", "jti"]},
            )
        except jwt.PyJWTError as error:
            return [f"signature: {error!r}"]
        return []


def answer(writer, status, body=b"", fields=""):
    writer.write(f"HTTP/1.1 {status}\r\n{fields}content-length: {len(body)}\r\n\r\n".encode() + body)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gateway-port", type=int, required=True)
    parser.add_argument("--issuer", required=True)
    parser.add_argument("--streams", required=True)
    parser.add_argument("--book", required=True)
    parser.add_argument("--acknowledgements", required=True)
    parser.add_argument("--token-file", required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    receiver = Receiver(options)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", options.port, limit=1 << 20, backlog=512)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    callers = [asyncio.create_task(caller.run()) for caller in receiver.callers]
    stopped = asyncio.create_task(stop.wait())
    async with server:
        print("ready", flush=True)
        # A caller ends by a fault of its own only.
        done, _ = await asyncio.wait([*callers, stopped], return_when=asyncio.FIRST_COMPLETED)
        for one in done - {stopped}:
            one.result()
    receiver.book.close()
    receiver.acks.close()
    print(json.dumps(receiver.tally), flush=True)
    # Nobody is waited for: before Python 3.12 `wait_for` may lose the cancellation of a caller, which goes on for ever then.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
