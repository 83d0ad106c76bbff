"""The gateway as the crash test runs it: configured anew for each start, killed, asked how it is."""

import asyncio
import json
import pathlib
import signal
import time

import scene
from disk import Disk
from http11 import Client, Closed, get_json
from watch import Watch


class Gateway:
    # Seconds in which it answers, where it answers at all.
    patience = 5.0
    # Seconds in which it ends when it is asked to.
    ends_within = 45
    reserve, budget, pressed = scene.RESERVE, scene.BUDGET, scene.PRESSED

    def __init__(self, program, folder, ports, random):
        self.program, self.folder, self.random = program, folder, random
        self.world, self.operator, self.receiver = ports
        self.issuer = f"http://127.0.0.1:{self.world}"
        self.config = folder / "setgate.toml"
        self.disk, self.secrets = self.mount(folder), folder / "secrets"
        self.log = open(folder / "gateway.log", "ab")
        self.watch = Watch(self.log)
        self.process = self.reading = None
        self.sections, self.every, self.since = [], 1, 0.0
        # The steps by which a segment of this start may become full.
        self.full_by = set()
        # On the clock that all processes of this machine share.
        self.killed = []

    def mount(self, folder):
        return Disk(folder / "disk", scene.DISK)

    def configure(self, times=None):
        """Writes the configuration of the next start: segments, seconds between two rounds of housekeeping, seconds to keep."""
        drawn = [self.random.choice(some) for some in (scene.SEGMENTS, scene.EVERY, scene.KEEP)]
        (records, size), self.every, keep = times or drawn
        self.watch.segment_bytes = size
        self.full_by = scene.full_by(records, size)
        text = scene.CONFIG.format(
            world=self.world,
            operator=self.operator,
            secrets=self.secrets,
            store=self.disk.folder / "store",
            reserve=self.reserve,
            budget=self.pressed if times else self.budget,
            records=records,
            bytes=size,
            keep=keep,
            every=self.every,
            max_age=scene.MAX_AGE,
            issuer=self.issuer,
            sections="\n".join([*self.sections, scene.streams(self.issuer, self.receiver, self.declared())]),
        )
        self.config.write_text(text, encoding="utf-8")

    def declared(self):
        """The streams of the next start."""
        return scene.STREAMS if self.sections else {}

    async def command(self, *words, quiet=False, within=60):
        """Runs a command of the gateway to its end and returns what it printed."""
        process = await asyncio.create_subprocess_exec(
            self.program, *words, "--config", str(self.config), stdout=asyncio.subprocess.PIPE, stderr=self.log
        )
        out, _ = await asyncio.wait_for(process.communicate(), within)
        if process.returncode != 0 and not quiet:
            raise RuntimeError(f"setgate {' '.join(words)} ended with {process.returncode}: {out.decode()[-500:]}")
        return out.decode()

    async def prepare(self):
        self.configure()
        issuer = ("--issuer", self.issuer)
        producer = await self.command("producers", "new", "crash", *issuer, "--token-file", str(self.folder / "producer.token"))
        receiver = await self.command(
            "receivers", "new", "crash", *issuer, "--all-streams", "--token-file", str(self.folder / "receiver.token")
        )
        self.sections = [producer, receiver]
        self.configure()
        await self.command("init")

    async def start(self, times=None):
        self.configure(times)
        self.process = await asyncio.create_subprocess_exec(
            self.program, "serve", "--config", str(self.config), stdout=self.log, stderr=asyncio.subprocess.PIPE, limit=1 << 20,
            env=self.environment(),
        )  # fmt: skip
        self.since = time.monotonic()
        self.reading = asyncio.create_task(self.watch.read(self.process.stderr))

    def environment(self):
        """The environment of the next start; None is this program's own."""

    def alive(self):
        if self.process.returncode is not None:
            raise RuntimeError(f"the gateway ended with {self.process.returncode}; see gateway.log")

    async def ready(self, within=60.0):
        """Waits until the gateway says that it is ready."""
        began = time.monotonic()
        while time.monotonic() - began < within:
            self.alive()
            try:
                await get_json(self.operator, "/readyz", any_text=True)
                return time.monotonic() - began
            except (Closed, OSError, ValueError):
                await asyncio.sleep(0.02)
        raise RuntimeError(f"the gateway was not ready in {within:.0f} s")

    async def admin(self, path):
        token = (self.secrets / "admin-token").read_text(encoding="utf-8").strip()
        return await get_json(self.operator, "/admin/v1" + path, self.patience, {"authorization": f"Bearer {token}"})

    async def streams(self):
        """What it says of its streams."""
        return {stream["id"]: stream for stream in (await self.admin("/streams"))["streams"]}

    async def metrics(self):
        """The lines of its metrics: name with labels, and value."""
        client = Client(self.operator, 30)
        try:
            _, _, body = await client.request("GET", "/metrics")
        finally:
            client.close()
        lines = [line.rsplit(" ", 1) for line in body.decode().splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    async def accepts(self):
        """Whether it takes events."""
        try:
            return (await self.admin("/store"))["accepts"]
        except (Closed, OSError):
            return None

    async def kill(self):
        at = time.monotonic()
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        # What it had written before it died is read first.
        await self.reading
        self.killed.append(at)
        self.watch.kill(at)

    async def stop(self):
        """Ends the gateway as an operator does, and expects it to end well; the faults found then."""
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(self.process.wait(), self.ends_within)
        await self.reading
        if code != 0:
            raise RuntimeError(f"after SIGTERM the gateway ended with {code}")
        return []

    def last_words(self, number=15):
        log = pathlib.Path(self.log.name)
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-number:]

    def keys(self, told):
        """The state of each key that `keys list` or `keys rotate` tells of."""
        return {key["kid"]: key["state"] for key in json.loads(told)["keys"]}
