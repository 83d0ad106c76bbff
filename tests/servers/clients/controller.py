"""Clients that are not ours against the real gateway: httpx, websockets, ws, a browser, nginx in front."""

import asyncio
import base64
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import httpx
import jwt
import websockets
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from running import arguments, demand, free_ports, play, say  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]

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

[[issuers]]
url = "{front}/one"
algorithms = ["ES256", "RS256"]

[[issuers]]
url = "{front}/two"
algorithms = ["EdDSA"]
"""

STREAM = """\

[[streams]]
id = "{id}"
issuer = "{issuer}"
audience = "https://{id}.example"
algorithm = "{algorithm}"
delivery = {{ method = "{method}" }}
"""

STREAMS = {
    "polled": ("one", "poll", "ES256"),
    "python": ("one", "websocket", "ES256"),
    "node": ("one", "websocket", "RS256"),
    "page": ("one", "websocket", "ES256"),
    "other": ("two", "websocket", "EdDSA"),
}


class Run:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.world, self.operator, front, self.page = free_ports(4)
        self.front_port = front
        self.front = f"http://127.0.0.1:{front}"
        # Without nginx the clients come straight in; the issuers are called as if it were there.
        self.direct = f"http://127.0.0.1:{self.world}"
        self.processes, self.serving = [], None
        self.log = open(folder / "gateway.log", "ab")
        self.passed = []

    def command(self, *words):
        done = subprocess.run(
            [self.options.gateway, *words, "--config", str(self.folder / "setgate.toml")],
            capture_output=True, text=True, timeout=60,
        )
        demand(done.returncode == 0, f"setgate {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, *words, **more):
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **more)
        self.processes.append(process)
        return process

    async def gateway(self):
        text = CONFIG.format(world=self.world, operator=self.operator, folder=self.folder, front=self.front)
        for name, (issuer, method, algorithm) in STREAMS.items():
            text += STREAM.format(id=name, issuer=f"{self.front}/{issuer}", method=method, algorithm=algorithm)
            if name == "page":
                text += f'grant = {{ origins = ["http://127.0.0.1:{self.page}"] }}\n'
        for issuer in ("one", "two"):
            text += "\n" + self.command_text("producers", "new", issuer, "--issuer", f"{self.front}/{issuer}", token=f"{issuer}.producer")
            text += "\n" + self.command_text("receivers", "new", f"r{issuer}", "--issuer", f"{self.front}/{issuer}", "--all-streams", token=f"{issuer}.receiver")
        (self.folder / "setgate.toml").write_text(text, encoding="utf-8")
        self.command("init")
        await self.serve()

    async def serve(self):
        self.serving = self.start(self.options.gateway, "serve", "--config", str(self.folder / "setgate.toml"))
        await self.until(f"http://127.0.0.1:{self.operator}/readyz", 30)

    async def restart(self):
        self.serving.send_signal(signal.SIGTERM)
        began = time.monotonic()
        await asyncio.to_thread(self.serving.wait, 30)
        demand(time.monotonic() - began < 8, "a subscriber without SETs holds up the end of the gateway")
        await self.serve()

    def command_text(self, *words, token):
        done = subprocess.run(
            [self.options.gateway, *words, "--token-file", str(self.folder / token)], capture_output=True, text=True, timeout=60
        )
        demand(done.returncode == 0, f"setgate {' '.join(words)}: {done.stderr}")
        return done.stdout

    async def until(self, url, seconds):
        end = time.monotonic() + seconds
        async with httpx.AsyncClient(trust_env=False) as client:
            while time.monotonic() < end:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(url)).status_code == 200:
                        return
                await asyncio.sleep(0.05)
        raise AssertionError(f"{url} was not there within {seconds} s; see {self.folder}/gateway.log")

    def token(self, name):
        return (self.folder / name).read_text(encoding="utf-8").strip()

    def bearer(self, issuer="one"):
        return {"Authorization": f"Bearer {self.token(issuer + '.receiver')}"}

    async def emit(self, count, issuer="one"):
        """Posts events as an identity provider would."""
        async with httpx.AsyncClient(trust_env=False) as client:
            for number in range(count):
                event = {
                    "sub_id": {"format": "email", "email": f"user{number}@example.com"},
                    "events": {"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {"event_timestamp": 1}},
                }
                answer = await client.post(
                    f"{self.direct}/{issuer}/events", json=event,
                    headers={"Authorization": f"Bearer {self.token(issuer + '.producer')}"},
                )
                demand(answer.status_code in (200, 202), f"the event was answered {answer.status_code}: {answer.text}")

    async def verify(self, stream, tokens, base=None):
        """Every SET's signature and claims, by PyJWT against the published keys."""
        issuer, _, algorithm = STREAMS[stream]
        async with httpx.AsyncClient(trust_env=False) as client:
            keys = (await client.get(f"{base or self.direct}/{issuer}/jwks.json")).json()
        keys = {key["kid"]: jwt.PyJWK(key).key for key in keys["keys"]}
        for jti, token in tokens.items():
            header = jwt.get_unverified_header(token)
            demand(header["typ"] == "secevent+jwt" and header["alg"] == algorithm, header)
            claims = jwt.decode(
                token, keys[header["kid"]], algorithms=[algorithm], audience=f"https://{stream}.example",
                issuer=f"{self.front}/{issuer}", options={"require": ["jti", "iat", "iss", "aud"]},
            )
            demand(claims["jti"] == jti and "exp" not in claims and "sub" not in claims, claims)
        return len(tokens)

    # -- the clients --

    async def polls(self, base):
        await self.emit(5)
        url, taken, ack = f"{base}/one/poll/polled", {}, []
        async with httpx.AsyncClient(trust_env=False, headers=self.bearer(), timeout=30) as client:
            # More may have been owed to this stream by the other clients' events.
            while True:
                answer = await client.post(url, json={"ack": ack, "maxEvents": 3, "returnImmediately": True})
                demand(answer.status_code == 200, f"{answer.status_code} {answer.text}")
                sets = answer.json()["sets"]
                demand(len(sets) <= 3 and not set(sets) & set(taken), f"{sets.keys()} after {taken.keys()}")
                taken.update(sets)
                ack = list(sets)
                if not sets:
                    break
            demand(len(taken) >= 5, f"only {len(taken)} SETs")
            # A long poll is answered by the event, not by the clock.
            waiting = asyncio.create_task(client.post(url, json={}))
            await asyncio.sleep(0.2)
            await self.emit(1)
            late = (await asyncio.wait_for(waiting, 5)).json()["sets"]
            demand(len(late) == 1, f"the long poll brought {len(late)}")
            await client.post(url, json={"ack": list(late), "maxEvents": 0})
        return await self.verify("polled", {**taken, **late}, base)

    async def python(self, base):
        url = base.replace("http", "ws") + "/one/websocket/python"
        taken, held = {}, None
        await self.emit(6)
        total = self.owed("python")

        async def subscribe(stop_after):
            nonlocal held
            async with connect(
                url, subprotocols=["setgate.v1"], additional_headers=self.bearer(), compression="deflate", proxy=None, ping_interval=5
            ) as ws:
                demand("permessage-deflate" in ws.request.headers["Sec-WebSocket-Extensions"], "deflate was not offered")
                demand("Sec-WebSocket-Extensions" not in ws.response.headers, "deflate was not declined")
                demand(ws.subprotocol == "setgate.v1", ws.subprotocol)
                await ws.send(json.dumps({"maxEvents": 2}))
                open_credit = 2
                async for message in ws:
                    sets = json.loads(message)["sets"]
                    open_credit -= len(sets)
                    demand(open_credit >= 0, "more SETs than credit")
                    if len(taken) + len(sets) >= stop_after:
                        if held is None:
                            held = set(sets)
                            return ws.transport.abort()
                        taken.update(sets)
                        await ws.send(json.dumps({"ack": list(sets)}))
                        return await ws.close()
                    taken.update(sets)
                    await ws.send(json.dumps({"ack": list(sets), "maxEvents": len(sets)}))
                    open_credit += len(sets)

        with contextlib.suppress(ConnectionClosed):
            await asyncio.wait_for(subscribe(3), 20)
        demand(held, "nothing was held when the connection broke")
        await asyncio.wait_for(subscribe(total), 20)
        demand(held <= set(taken), f"{held} did not come again")
        await self.drained("python")
        # A wrong token, another stream's subprotocol, no subprotocol at all.
        for headers, offer, status in [({}, ["setgate.v1"], 401), ({"Authorization": "Bearer sgr_no"}, ["setgate.v1"], 401),
                                       (self.bearer("two"), ["setgate.v1"], 403), (self.bearer(), ["mqtt"], 400), (self.bearer(), None, 400)]:
            try:
                await connect(url, subprotocols=offer, additional_headers=headers, proxy=None)
                raise AssertionError(f"{offer} with {len(headers)} header was let in")
            except InvalidStatus as refused:
                demand(refused.response.status_code == status, f"{offer}: {refused.response.status_code}, not {status}")
        return await self.verify("python", taken, base)

    def owed(self, stream):
        """SETs that are not settled, as the operator sees them."""
        return self.count(stream, "waiting") + self.count(stream, "handed_over", 0)

    def count(self, stream, member, default=None):
        shown = json.loads(self.command("streams", "show", stream, "--json"))
        value = shown.get("counts", shown).get(member, default)
        demand(value is not None, f"`streams show` has no {member}: {shown}")
        return value

    async def drained(self, stream):
        for _ in range(100):
            if self.owed(stream) == 0:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{stream} still owes {self.owed(stream)} SETs")

    async def node(self, base):
        await self.emit(6)
        total = self.owed("node")
        words = [str(HERE / "subscriber.mjs"), str(self.options.modules / "ws/wrapper.mjs"), base.replace("http", "ws") + "/one/websocket/node",
                 str(self.folder / "one.receiver"), str(total), "2"]
        process = await asyncio.create_subprocess_exec("node", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        out, err = await asyncio.wait_for(process.communicate(), 30)
        demand(process.returncode == 0, err.decode())
        told = json.loads(out)
        demand(told["extensions"] is None, f"deflate was not declined: {told['extensions']}")
        demand(told["protocol"] == "setgate.v1" and told["code"] == 1000, told)
        demand(told["held"] and set(told["held"]) <= set(told["again"]), f"{told['held']} did not come again: {told['again']}")
        await self.drained("node")
        return await self.verify("node", told["tokens"], base)

    async def two_issuers(self, base):
        await self.emit(2, "two")
        url = base.replace("http", "ws") + "/two/websocket/other"
        taken = {}
        async with connect(url, subprotocols=["pushpull"], additional_headers=self.bearer("two"), proxy=None) as ws:
            while len(taken) < 2:
                sets = json.loads(await asyncio.wait_for(ws.recv(), 10))["sets"]
                taken.update(sets)
                await ws.send(json.dumps({"ack": list(sets)}))
        # The first issuer's receiver is nobody here, and the stream is nowhere under the first issuer.
        # Credentials are judged before a body is read, so a refusal may end the connection: each has its own.
        for path, issuer, status in [("/two/websocket/other", "one", 403), ("/one/websocket/other", "one", 404)]:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.post(base + path, json={}, headers=self.bearer(issuer))
                demand(answer.status_code == status, f"{path} as {issuer}: {answer.status_code}, not {status}")
        return await self.verify("other", taken, base)

    async def browser(self, base):
        """The page of examples/browser in headless Chromium, driven over its DevTools port."""
        self.start(
            sys.executable, str(ROOT / "examples/browser/server.py"), "--stream", f"{base}/one/websocket/page", "--jwks", f"{base}/one/jwks.json",
            "--issuer", f"{self.front}/one", "--audience", "https://page.example", "--token-file", str(self.folder / "one.receiver"),
            "--port", str(self.page),
        )
        profile = self.folder / "chromium"
        self.start(
            self.options.chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}",
            "--no-first-run", "--no-proxy-server", "--remote-debugging-port=0", "--window-size=1000,900", "about:blank",
            env={**os.environ, "HOME": str(self.folder)},
        )
        port_file = profile / "DevToolsActivePort"
        for _ in range(300):
            if port_file.exists() and port_file.read_text():
                break
            await asyncio.sleep(0.05)
        port = port_file.read_text().split()[0]
        await self.until(f"http://127.0.0.1:{self.page}/", 10)
        async with httpx.AsyncClient(trust_env=False) as client:
            pages = (await client.get(f"http://127.0.0.1:{port}/json/list")).json()
        page = next(page for page in pages if page["type"] == "page")
        async with connect(page["webSocketDebuggerUrl"], proxy=None, max_size=None) as tools:
            number = 0

            async def do(method, **parameters):
                nonlocal number
                number += 1
                await tools.send(json.dumps({"id": number, "method": method, "params": parameters}))
                while True:
                    answer = json.loads(await asyncio.wait_for(tools.recv(), 20))
                    if answer.get("id") == number:
                        demand("error" not in answer, answer)
                        return answer["result"]

            async def value(expression):
                return (await do("Runtime.evaluate", expression=expression, returnByValue=True))["result"].get("value")

            async def shows(expression, what):
                for _ in range(200):
                    if await value(expression):
                        return
                    await asyncio.sleep(0.05)
                raise AssertionError(f"the page does not show {what}: {await value('document.body.innerText')}")

            await do("Page.navigate", url=f"http://127.0.0.1:{self.page}/?connect")
            await shows("document.getElementById('state')?.textContent === 'open (setgate.v1)'", "an open connection")
            await self.emit(3)
            # The events of the other clients were owed to this stream too.
            await shows("Number(document.getElementById('count').textContent) >= 3", "three SETs")
            await self.drained("page")
            all_shown = await value("document.querySelectorAll('li').length")
            good = await value("document.querySelectorAll('.mark.valid').length")
            demand(all_shown == good, f"{good} of {all_shown} SETs are verified")
            picture = await do("Page.captureScreenshot", format="png")
            (self.folder / "page.png").write_bytes(base64.b64decode(picture["data"]))
            # The gateway restarts: it says so, and the page connects again by itself, with a new ticket.
            await do("Runtime.evaluate", expression="new MutationObserver(() => (window.seen ??= []).push(document.getElementById('state')"
                     ".textContent)).observe(document.getElementById('state'), { childList: true })")
            await self.restart()
            await shows("document.getElementById('state').textContent === 'open (setgate.v1)' && (window.seen ?? []).length > 1", "a new connection")
            seen = await value("window.seen.join(' | ')")
            demand("the gateway restarts (1012)" in seen, f"the page saw {seen}")
            await self.emit(1)
            await shows(f"Number(document.getElementById('count').textContent) > {all_shown}", "one more SET")
        # Tickets never reach a log.
        demand("ticket." not in (self.folder / "gateway.log").read_text(errors="replace"), "a ticket stands in the log")
        return good

    async def proxied(self):
        text = (HERE / "nginx.conf").read_text().replace("{folder}", str(self.folder))
        text = text.replace("{front}", str(self.front_port)).replace("{world}", str(self.world))
        (self.folder / "nginx.conf").write_text(text)
        self.start(self.options.nginx, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"))
        await self.until(f"{self.front}/one/jwks.json", 10)
        done = 0
        clients = [self.polls, self.python, self.two_issuers] + [self.node] * bool(self.options.modules)
        for client in clients:
            done += await client(self.front)
        return done

    async def step(self, name, work):
        began = time.monotonic()
        verified = await asyncio.wait_for(work, 60)
        self.passed.append(name)
        print(f"  {name:<28} {verified:>4} SETs verified, {time.monotonic() - began:.1f} s", flush=True)

    async def all(self):
        await self.gateway()
        await self.step("httpx polls", self.polls(self.direct))
        await self.step("websockets subscribes", self.python(self.direct))
        if self.options.modules:
            await self.step("ws (Node) subscribes", self.node(self.direct))
        await self.step("two issuers by path", self.two_issuers(self.direct))
        if self.options.chromium:
            await self.step("a browser with a ticket", self.browser(self.direct))
        if self.options.nginx:
            await self.step("all behind nginx", self.proxied())

    def end(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def run(options, folder):
    clients = Run(options, folder)
    try:
        asyncio.run(clients.all())
    finally:
        clients.end()
        picture = folder / "page.png"
        if options.screenshot and picture.exists():
            shutil.copy(picture, options.screenshot)
    say(f"clients: {len(clients.passed)} passed (websockets {websockets.__version__}, httpx {httpx.__version__}, PyJWT {jwt.__version__})")
    return True


def main():
    parser = arguments()
    parser.add_argument("--modules", type=pathlib.Path, help="the node_modules that has ws")
    parser.add_argument("--chromium", default="")
    parser.add_argument("--nginx", default="")
    parser.add_argument("--screenshot", type=pathlib.Path)
    options = parser.parse_args()
    play("clients", options, lambda folder: run(options, folder))


if __name__ == "__main__":
    main()
