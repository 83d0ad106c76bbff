"""Runs the soak: half load on a thousand streams by every method, receivers that die and come back, kills every few seconds, one long life, and then
the books: the sums add up exactly, and what the process takes is flat."""

import asyncio
import collections
import json
import pathlib
import random
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "crash"), str(HERE.parent)]
import checker  # noqa: E402
from http11 import Closed  # noqa: E402
from running import arguments, free_ports, play, say  # noqa: E402

import layout as scene  # noqa: E402
import verdict  # noqa: E402
from many import Many  # noqa: E402

# Seconds for which it is measured how much passes, from when so many have; and SETs that may wait meanwhile.
FINDING, FIRST, WAITING = 15, 1000, (1500, 4000)
# No more than this, so that the books of an hour stay small; and no more than so many seconds of load may wait.
HIGHEST, BEHIND = 2500, 15
# Of the time with load: kills, then one life, of which a part is its warm-up, then kills again.
PARTS, WARM = (0.3, 0.4, 0.3), 0.35
# Seconds that a run takes beside its load, about, and the least that it has with load.
ASIDE, LEAST_LOAD = 75, 45
# Seconds between two kills, about; of a hundred, while it starts, and by SIGTERM.
KILLED_EVERY, STARTING, ENDED = 4.0, 12, 8


class Helper:
    """One of the processes beside the gateway: it is told what to do, and says how it is."""

    def __init__(self, name):
        self.name, self.process = name, None
        self.tally, self.last = {}, {}
        self.heard = asyncio.Event()

    async def start(self, *words):
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-B", "-u", str(HERE / self.name), *map(str, words),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20,
        )  # fmt: skip
        await asyncio.wait_for(self.process.stdout.readline(), 4 * scene.PATIENCE)
        self.reading = asyncio.create_task(self.read())

    async def read(self):
        while line := await self.process.stdout.readline():
            told = json.loads(line)
            self.tally = told.pop("tally")
            self.last |= told
            self.heard.set()

    async def tell(self, word, until=None, within=4 * scene.PATIENCE):
        """Tells it something; where there is a condition, waits until what it says meets it."""
        self.process.stdin.write(f"{word}\n".encode())
        await self.process.stdin.drain()
        end = time.monotonic() + within
        while until is not None and not until(self.last):
            self.heard.clear()
            if self.process.returncode is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.name} did not do `{word}` in {within} s")
            try:
                await asyncio.wait_for(self.heard.wait(), 5)
            except asyncio.TimeoutError:
                pass

    def alive(self):
        if self.process.returncode is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}")

    async def end(self):
        await self.tell("end", lambda last: last.get("is") == "ended")
        await asyncio.wait_for(self.process.wait(), scene.PATIENCE)


class Soak:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.random = random.Random(f"{options.seed}/run")
        world, operator, *ports = free_ports(2 + scene.PROCESSES * scene.HOUSES)
        ports = [ports[scene.HOUSES * number :][: scene.HOUSES] for number in range(scene.PROCESSES)]
        self.layout = scene.draw(options.seed, options.streams, world, ports)
        self.layout.write(folder / "layout.json")
        tokens = (folder / "producer.token", folder / "receiver.token")
        self.gateway = Many(options.gateway, folder, (world, operator), random.Random(f"{options.seed}/starts"), self.layout, tokens)
        self.producers = Helper("producers.py")
        self.receivers = [Helper("receivers.py") for _ in range(scene.PROCESSES)]
        self.began, self.phase, self.counts = time.monotonic(), "start", collections.Counter()
        self.faults, self.view, self.busy = [], None, asyncio.Lock()
        self.rate, self.sets, self.held = 0.0, 0.0, False
        self.marks = {}

    # The processes.

    async def start(self):
        gateway = self.gateway
        await gateway.prepare()
        await gateway.start("info")
        await gateway.ready()
        layout = ("--layout", self.folder / "layout.json", "--token-file")
        for number, helper in enumerate(self.receivers):
            plant = ["--plant", self.options.plant] if self.options.plant in ("taken", "forgotten") and number == 0 else []
            book = self.folder / f"receivers-{number}.book"
            await helper.start(*layout, self.folder / "receiver.token", "--process", number, "--book", book, *plant)
        await self.producers.start(*layout, self.folder / "producer.token", "--book", self.folder / "accepted.book")

    def alive(self):
        for helper in (self.producers, *self.receivers):
            helper.alive()

    def tally(self):
        total = collections.Counter(self.producers.tally)
        for helper in self.receivers:
            total.update(helper.tally)
        return total

    async def receivers_are(self, word):
        for helper in self.receivers:
            helper.last.pop("is", None)
        await asyncio.gather(*(helper.tell(word, lambda last: last.get("is") == word) for helper in self.receivers))

    # The load.

    async def find(self):
        """Finds how many SETs a second gateway and receivers can do here, all of them well: the producers post as fast as they can, and pause where
        too many wait. The load is half of it."""
        self.phase, gateway = "finding the load", self.gateway
        await self.receivers_are("well")
        await self.producers.tell("rate 1000000")
        at, posting, base, now = 0.0, True, None, 0.0
        while base is None or at < base[0] + FINDING:
            self.alive()
            metrics = checker.figures(await gateway.metrics())
            at, now = time.monotonic(), metrics["acknowledged"] + metrics["parked"]
            if now >= FIRST and base is None:
                base = (at, now)
            if posting and metrics["waiting"] > WAITING[1] or not posting and metrics["waiting"] < WAITING[0]:
                posting = not posting
                await self.producers.tell("rate 1000000" if posting else "hold")
            await asyncio.sleep(0.1)
        most = (now - base[1]) / (at - base[0])
        self.sets = min(most / 2, HIGHEST)
        self.rate = max(self.sets / self.layout.fan_out(), 0.5)
        load = f"{self.sets:.0f} SETs, {self.rate:.1f} events a second, {self.layout.fan_out():.1f} streams each"
        say(f"{most:.0f} SETs a second pass here; the load is half of it: {load}")
        await self.drain()

    async def load(self):
        await self.receivers_are("storm")
        await self.producers.tell(f"rate {self.rate}")
        self.held = False

    async def hold(self):
        """Until nothing is being posted. The answer to a post that a kill has met comes later."""
        self.producers.last["busy"] = True
        await self.producers.tell("hold", lambda last: not last["busy"])

    async def brake(self, streams):
        """Where receivers that live fall behind, the machine is slower than it was: the producers pause until they have caught up."""
        behind = sum(stream["waiting"] for name, stream in streams.items() if not self.layout.streams[name]["retention"])
        if not self.held and behind > BEHIND * self.sets:
            self.held = True
            self.counts["pauses"] += 1
            await self.producers.tell("hold")
        elif self.held and behind < BEHIND * self.sets / 4:
            self.held = False
            await self.producers.tell(f"rate {self.rate}")

    # What is seen meanwhile.

    async def look(self):
        """Holds what the gateway says of its streams to its law, and what it prints to its promises."""
        try:
            streams, metrics = await self.gateway.streams(), await self.gateway.metrics()
        except (Closed, OSError):
            return None
        self.counts["looks"] += 1
        fields = ("owed", "acknowledged", "parked_total", "dropped", "waiting")
        kept = {name: {field: stream[field] for field in fields} for name, stream in streams.items()}
        view = {"at": time.monotonic() - self.began, "streams": kept, "metrics": metrics}
        for fault in checker.sums(self.layout.streams, checker.Seen({}, views=[one for one in (self.view, view) if one])):
            self.fault(fault)
        for name, stream in kept.items():
            sets = self.layout.streams[name]["retention"].get("sets")
            if sets and stream["dropped"] and stream["owed"] - stream["dropped"] < sets:
                self.fault(f"{name}: {stream['dropped']} of {stream['owed']} were dropped, {sets} are to be kept")
        self.view = view
        return streams

    def fault(self, text):
        if text not in self.faults and len(self.faults) < 200:
            self.faults.append(text)

    async def watch(self):
        """A line every ten seconds."""
        before, number = self.tally(), 0
        while True:
            await asyncio.sleep(10)
            number += 1
            self.gateway.searched.search()
            async with self.busy:
                streams = await self.look() if self.gateway.process.returncode is None else None
                if streams and self.phase in ("kills", "one life"):
                    await self.brake(streams)
                taken = await self.taken()
            now = self.tally()
            waiting = sum(stream["waiting"] for stream in streams.values()) if streams else "?"
            say(
                f"{time.monotonic() - self.began:4.0f} s, {self.phase}: {now['accepted']} events, {now['came']} SETs "
                f"({(now['came'] - before['came']) / 10:.0f}/s), {now['came again']} again, waiting {waiting}, {self.counts['kills']} kills, "
                f"{now['deaths']} deaths, {taken}"
            )
            before = now
            for fault in self.gateway.searched.faults:
                self.fault(fault)

    async def taken(self):
        try:
            one = await self.gateway.measure()
        except (Closed, OSError):
            return "being started"
        return f"{one['memory'] >> 20} MiB, {one['descriptors']} descriptors, {one['tasks']} tasks, {one['disk'] >> 20} MiB on the disk"

    # The parts of a run.

    async def kills(self, seconds):
        """Kills the gateway every few seconds, now and then while it starts, and now and then ends it in order."""
        self.phase, end, gateway = "kills", time.monotonic() + seconds, self.gateway
        await self.load()
        while time.monotonic() < end:
            self.alive()
            dice = self.random.uniform(0, 100)
            if dice < STARTING:
                await asyncio.sleep(self.random.uniform(0.05, 0.6))
                self.counts["kills while starting"] += 1
            else:
                await gateway.ready()
                await asyncio.sleep(self.random.uniform(0.2, 2 * KILLED_EVERY))
            async with self.busy:
                gateway.alive()
                if STARTING <= dice < STARTING + ENDED:
                    await gateway.stop()
                    self.counts["stops"] += 1
                else:
                    await gateway.kill()
                    self.counts["kills"] += 1
                await gateway.start()
        await gateway.ready()

    async def life(self, seconds):
        """One long life under load, from a start with nothing owed on; it is measured when it is warm and at its end, each time with nothing owed."""
        gateway = self.gateway
        before = await self.restart()
        for name, part in [("warm", WARM), ("end of the life", 1 - WARM)]:
            self.phase = "one life"
            await self.load()
            end = time.monotonic() + seconds * part
            while time.monotonic() < end:
                self.alive()
                gateway.alive()
                await asyncio.sleep(0.2)
            await self.drain()
            await self.measure(name)
        # The counters of this process are those of its life.
        after, metrics = await gateway.streams(), await gateway.metrics()
        self.faults += checker.metrics(before, after, metrics)

    async def drain(self):
        """Lets everything end: nobody posts, receivers are well, nothing waits any more."""
        self.phase, gateway = "drain", self.gateway
        await self.hold()
        # Until retention has done what it does: who comes back is given what is kept.
        await asyncio.sleep(2 * scene.EVERY + 1)
        await self.receivers_are("calm")
        await self.settled()
        async with self.busy:
            await self.look()

    async def settled(self):
        """Waits until nothing waits any more."""
        gateway = self.gateway
        last, moved = None, time.monotonic()
        while True:
            self.alive()
            gateway.alive()
            streams = await gateway.streams()
            waiting = {name: stream["waiting"] for name, stream in streams.items() if stream["waiting"]}
            if not waiting:
                break
            if waiting != last:
                last, moved = waiting, time.monotonic()
            if time.monotonic() - moved > 2 * scene.PATIENCE:
                some = {name: [number, streams[name].get("status")] for name, number in list(waiting.items())[:8]}
                raise RuntimeError(f"{sum(waiting.values())} SETs of {len(waiting)} streams are not delivered although their receivers are well: {some}")
            await asyncio.sleep(0.5)

    async def measure(self, name):
        """Measures when everything has come to rest."""
        await asyncio.sleep(2 * scene.EVERY + 3)
        self.marks[name] = await self.gateway.measure()

    async def restart(self):
        """Ends the gateway in order and starts it, with nothing owed: what it says of its streams is the same."""
        gateway = self.gateway
        async with self.busy:
            before = await gateway.streams()
            await gateway.stop()
            await gateway.start("info")
        await gateway.ready()
        self.counts["stops"] += 1
        after = await gateway.streams()
        for name, stream in before.items():
            for field in ("owed", "acknowledged", "parked_total", "dropped", "waiting"):
                if stream[field] != after.get(name, {}).get(field):
                    self.fault(f"{name}: {field} was {stream[field]} and is {after.get(name, {}).get(field)} after a restart")
        return after

    async def whole(self):
        """The run from its beginning to its end."""
        await self.start()
        watching = asyncio.create_task(self.watch())
        try:
            await self.find()
            seconds = max(LEAST_LOAD, 60 * self.options.minutes - ASIDE)
            await self.kills(seconds * PARTS[0])
            await self.drain()
            await self.life(seconds * PARTS[1])
            await self.kills(seconds * PARTS[2])
            if self.options.plant == "canary":
                self.gateway.log.write(f"someone printed {self.layout.canary}-bearer-1\n".encode())
                self.gateway.log.flush()
            await self.drain()
            self.final = await self.restart()
            await self.measure("end")
        finally:
            watching.cancel()
            if watching.done() and not watching.cancelled():
                watching.result()
        await self.gateway.stop()
        for helper in (self.producers, *self.receivers):
            await helper.end()
        self.gateway.searched.search()
        for fault in self.gateway.searched.faults:
            self.fault(fault)
        for number in range(scene.PROCESSES):
            text = (self.folder / f"receivers-{number}.faults").read_text(encoding="utf-8")
            for line in map(json.loads, text.splitlines()):
                self.fault(f"{line['stream']}: {'; '.join(line['faults'])}")
        if self.tally()["faults"]:
            self.fault(f"receivers found {self.tally()['faults']} faults in what came")

    async def clear(self):
        for process in (self.gateway.process, self.producers.process, *(helper.process for helper in self.receivers)):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()


async def run(options, folder):
    soak = Soak(options, folder)
    try:
        await soak.whole()
    except Exception:
        for line in soak.gateway.last_words():
            say(f"gateway: {line[:600]}")
        for fault in soak.faults[:40]:
            say(f"FAULT {fault}")
        raise
    finally:
        await soak.clear()
    return verdict.give(soak)


def main():
    parser = arguments(seed=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--plant", choices=["taken", "forgotten", "canary"], help="plants a fault, with which the soak must fail")
    options = parser.parse_args()
    if options.minutes < 1 or options.streams < 100:
        parser.error("at least a minute, and 100 streams")
    say(f"{options.minutes:g} minutes, {options.streams} streams, seed {options.seed}")
    options.proof = None
    try:
        play("soak", options, lambda folder: asyncio.run(run(options, folder)))
    finally:
        if options.proof is None:
            say(verdict.again(options))
            options.proof = "tried 1 run that ended before its end | fired nothing that counts | found 1"
        print(f"proof: soak | {options.proof}", flush=True)


if __name__ == "__main__":
    main()
