"""The gateway as the soak runs it: with a thousand streams, its log searched for secrets as it grows, its process measured."""

import asyncio
import json
import os
import time

import layout as scene
from disk import Disk, deleted
from gateway import Gateway
from http11 import Client, Closed, get_json

# Levels of the log, one of which each start draws. At the lower ones everything is said that can be said.
LEVELS = ["info"] * 6 + ["debug"] * 3 + ["trace"]
# Bytes of the log that are kept, and by how much what is read next overlaps what was read.
KEPT, OVERLAP = 128 << 20, 1 << 12


class Folder(Disk):
    """A folder on the disk of this machine."""

    def __init__(self, folder):
        self.folder, self.filler = folder, folder / "filler"
        folder.mkdir()


class Watch:
    """Counts for those who want to know what a kill has met; here nobody does."""

    def __init__(self):
        self.segment_bytes = 0

    def kill(self, at):
        pass


class Log:
    """Searches the log for what must never be in it, piece by piece, and forgets what was searched."""

    def __init__(self, path, never):
        self.path, self.never = path, never
        self.read = self.bytes = 0
        self.last, self.faults = b"", []

    def search(self):
        size = self.path.stat().st_size
        with open(self.path, "rb") as file:
            file.seek(self.read)
            while self.read < size and (piece := file.read(min(1 << 24, size - self.read))):
                self.read += len(piece)
                self.bytes += len(piece)
                self.look(self.last + piece)
                self.last = (self.last + piece)[-OVERLAP:]
        if self.read > KEPT and not self.faults:
            # Everybody who writes to it appends.
            os.truncate(self.path, 0)
            self.read = 0

    def look(self, text, where="the log"):
        for what, secret in self.never.items():
            at = text.find(secret)
            if at >= 0 and len(self.faults) < 20:
                line = text[text.rfind(b"\n", 0, at) + 1 :].split(b"\n")[0]
                # One of a kind is enough.
                if not any(known.startswith(f"{what} is in {where}") for known in self.faults):
                    self.faults.append(f"{what} is in {where}: {line[:400].decode(errors='replace')}")


class Many(Gateway):
    patience, ends_within = scene.PATIENCE, 2 * scene.PATIENCE

    def __init__(self, program, folder, ports, random, layout, token_paths):
        self.layout = layout
        super().__init__(program, folder, (*ports, None), random)
        self.watch, self.every = Watch(), scene.EVERY
        self.tokens = token_paths
        self.searched = None
        self.levels, self.starts, self.ready_after = set(), 0, []

    def mount(self, folder):
        return Folder(folder / "disk")

    def configure(self, level="info"):
        text = scene.CONFIG.format(
            world=self.world,
            operator=self.operator,
            secrets=self.secrets,
            store=self.disk.folder / "store",
            level=level,
            budget=scene.BUDGET,
            reserve=scene.RESERVE,
            every=scene.EVERY,
            max_age=scene.MAX_AGE,
            remembered=scene.REMEMBERED,
            parked=scene.PARKED,
            sections="\n".join([*self.sections, self.streams_text]) if self.sections else self.issuers_text,
        )
        self.config.write_text(text, encoding="utf-8")

    async def prepare(self):
        self.streams_text = scene.sections(self.layout)
        self.issuers_text = self.streams_text.partition("[[streams]]")[0]
        self.configure()
        issuers = [word for issuer in self.layout.issuers for word in ("--issuer", issuer["url"])]
        producer, receiver = self.tokens
        made = [await self.command("producers", "new", "soak", *issuers, "--token-file", str(producer))]
        made.append(await self.command("receivers", "new", "soak", *issuers, "--all-streams", "--token-file", str(receiver)))
        self.sections = made
        self.configure()
        await self.command("init")
        never = {
            "a canary": self.layout.canary.encode(),
            "the producer's token": producer.read_bytes().strip(),
            "the receiver's token": receiver.read_bytes().strip(),
            "the admin token": (self.secrets / "admin-token").read_bytes().strip(),
            "a SET": b"eyJ",
            "a panic": b"panicked",
        }
        self.searched = Log(self.folder / "gateway.log", never)

    async def command(self, *words, quiet=False, within=4 * scene.PATIENCE):
        return await super().command(*words, quiet=quiet, within=within)

    async def start(self, level=None):
        level = level or self.random.choice(LEVELS)
        self.levels.add(level)
        self.configure(level)
        self.starts += 1
        self.process = await asyncio.create_subprocess_exec(
            self.program, "serve", "--config", str(self.config), stdout=self.log, stderr=self.log
        )  # fmt: skip
        self.since = time.monotonic()
        self.reading = asyncio.create_task(asyncio.sleep(0))

    async def ready(self, within=2 * scene.PATIENCE):
        """The first start makes a thousand streams: its listeners are there and answer nobody so long."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            self.alive()
            try:
                await get_json(self.operator, "/readyz", within, any_text=True)
                if len(self.ready_after) < self.starts:
                    self.ready_after += [0.0] * (self.starts - 1 - len(self.ready_after)) + [time.monotonic() - self.since]
                return
            except (Closed, OSError):
                await asyncio.sleep(0.05)
        raise RuntimeError(f"the gateway was not ready in {within:.0f} s")

    async def page(self):
        """Its metrics as they are, which are searched too."""
        client = Client(self.operator, self.patience)
        try:
            _, _, body = await client.request("GET", "/metrics")
        finally:
            client.close()
        self.searched.look(body, "the metrics")
        return body

    async def metrics(self):
        lines = [line.rsplit(" ", 1) for line in (await self.page()).decode().splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    async def streams(self):
        told = await self.admin("/streams")
        self.searched.look(json.dumps(told).encode(), "the list of streams")
        return {stream["id"]: stream for stream in told["streams"]}

    async def measure(self):
        """What the process takes: memory, threads, descriptors, tasks, timers, bytes on the disk and of deleted files."""
        pid, metrics = self.process.pid, await self.metrics()
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            status = dict(line.split(":", 1) for line in file)
        held, _ = deleted(pid)
        return {
            "memory": int(status["VmRSS"].split()[0]) << 10,
            "threads": int(status["Threads"]),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "tasks": int(metrics.get("setgate_tasks", -1)),
            "timers": int(metrics.get("setgate_timers", -1)),
            "disk": self.disk.taken(),
            "deleted": held,
        }
