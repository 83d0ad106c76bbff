"""Cuts the power of a gateway under load: at random moments, in the middle of what it does with its store and while it starts, its folder
becomes one that the disk may have then. It must start again, and the books of producers and receivers must agree."""

import asyncio
import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import time

CRASH = pathlib.Path(__file__).resolve().parents[1] / "crash"
sys.path[:0] = [str(CRASH), str(CRASH.parent)]
import checker  # noqa: E402
import controller as storm  # noqa: E402
import scene  # noqa: E402
from gateway import Gateway  # noqa: E402
from http11 import get_json  # noqa: E402
from running import arguments, play, say  # noqa: E402
from watch import STEPS  # noqa: E402

import sometimes  # noqa: E402
from answers import Answers  # noqa: E402
from folder import MODELS, WAYS, World  # noqa: E402
from record import read  # noqa: E402

# So many cuts in one run, with books of its own; more are several runs. From so many on everything must have occurred; so many more cuts
# may be made for that.
ROUND, ENOUGH, MORE, PATIENCE = 50, 40, 20, 20
STEPS = STEPS - {"disk full", "open again"}
# Operations of the store right after which the power is cut, and up to how many of them go before.
MOMENTS = [
    ("write/journal", 120), ("flush/journal", 100), ("flushed/journal", 100), ("write/watermark", 60), ("flush/watermark", 3),
    ("flushed/watermark", 3), ("write/table", 40), ("flush/table", 20), ("flushed/table", 20), ("write/list", 20), ("rename/list", 12),
    ("flush/list", 15), ("flush/directory", 30), ("flushed/directory", 30), ("mkdir/*", 4), ("unlink/*", 12), ("size/*", 3),
]  # fmt: skip
# What the gateway says in the middle of a step.
SAID = {
    "segment full by records": "a segment is full", "segment full by bytes": "a segment is full", "cursors folded": "cursors are written down",
    "condensed": '"condensed":1', "trimmed": '"gone":1', "held swept": '"swept":',
    "cleared away": "are cleared away", "retained by age": "too_old", "retained by number": "too_many",
    "key published": "a next signing key is published", "key signs": "signing keys moved on",
}  # fmt: skip
THEN = [("write/journal", 2), ("flush/journal", 3), ("flushed/journal", 2), ("write/watermark", 2), ("flush/directory", 2)]
STARTING = [
    ("open/aside", 2), ("write/aside", 3), ("rename/aside", 1), ("rmdir/*", 1), ("unlink/*", 4), ("write/journal", 6), ("flush/journal", 6),
    ("flushed/journal", 6), ("flush/watermark", 1), ("flushed/watermark", 1), ("rename/other", 1), ("rename/secret", 2), ("flush/other", 1),
    ("flush/directory", 4), ("write/list", 3), ("size/*", 2),
]  # fmt: skip


class Disk:
    """A folder that stands for the disk."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def close(self):
        pass


class PowerGateway(Gateway):
    """The gateway with its operations recorded, whose disk is at each cut what a disk may be."""

    def __init__(self, program, folder, ports, random, options):
        super().__init__(program, folder, ports, random)
        self.secrets = self.disk.folder / "secrets"
        self.shim, self.swallow, self.keep = options.shim, options.swallow, options.keep
        # Each model with each way comes up before one comes up again.
        self.models, self.ways, self.deck = options.models, options.ways, []
        self.world_of_files, self.answers = None, Answers()
        self.lives, self.moment, self.cuts = 0, None, []
        # From when to when each process lived, and whether it had the stream that comes and goes; at the end it stays.
        self.present, self.ending = [], False

    def mount(self, folder):
        return Disk(folder / "disk")

    def declared(self):
        if not self.sections:
            return {}
        there = self.random.random() < 0.6 or not self.present or self.ending
        self.there = there
        return {name: stream for name, stream in sometimes.STREAMS.items() if there or name != sometimes.NAME}

    async def prepare(self):
        await super().prepare()
        self.world_of_files = World.look(self.disk.folder)

    def environment(self):
        self.lives += 1
        own = {"LD_PRELOAD": self.shim, "POWERCUT_ROOT": self.disk.folder, "POWERCUT_LOG": self.record(), "POWERCUT_PORT": self.world}
        own |= {"POWERCUT_KILL": self.moment} if self.moment else {}
        own |= {"POWERCUT_SWALLOW": self.swallow} if self.swallow else {}
        return os.environ | {name: str(value) for name, value in own.items()}

    def record(self):
        return self.folder / f"record-{self.lives}"

    async def start(self, times=None, moment=None):
        self.moment = moment
        began = time.monotonic()
        await super().start(times)
        self.present.append([began, None, self.there])

    def follow(self):
        """Reads what the process that ended has done; the last of it."""
        last = None
        self.world_of_files.begin()
        self.answers.begin(self.world_of_files)
        for last in read(self.record()):
            self.answers.follow(last, self.world_of_files)
            self.world_of_files.follow(last)
        if last is None:
            raise RuntimeError("nothing was recorded: was the shim loaded?")
        return last

    async def cut(self, random):
        """Cuts the power, unless it has been cut, and lays on the disk what it may have."""
        at, hit = time.monotonic(), self.process.returncode is not None
        if not hit:
            self.process.send_signal(signal.SIGKILL)
        code = await self.process.wait()
        await self.reading
        if code != -signal.SIGKILL:
            self.refused(code)
        began = time.monotonic()
        last = self.follow()
        at = last.time if hit else at
        self.present[-1][1] = at
        self.killed.append(at)
        self.watch.kill(at)
        if not self.deck:
            self.deck = [(model, way) for model in self.models for way in self.ways]
            random.shuffle(self.deck)
        model, way = self.deck.pop()
        if self.keep:
            copy(self.disk.folder, self.folder / "before")
        told = self.world_of_files.cut(random, model, way)
        self.world_of_files.lay()
        told |= {"model": model, "way": way, "last": f"{last.what}/{last.kind}", "moment": self.moment if hit else "", "life": self.lives}
        self.cuts.append(told | {"seconds": round(time.monotonic() - began, 2)})
        copy(self.disk.folder, self.folder / "after")
        old = self.folder / f"record-{self.lives - 20}"
        if not self.keep:
            old.unlink(missing_ok=True)

    def alive(self):
        if self.process.returncode is not None:
            self.refused(self.process.returncode)

    def refused(self, code):
        """It ended by itself, most likely since it does not want its store."""
        errors = [line for line in self.last_words(40) if line.startswith("error: ")] or self.last_words(1)
        raise RuntimeError(f"the gateway ended with {code} by itself after cut {len(self.cuts)}: {errors[-1]}")

    async def stop(self):
        """Ends it in order; then the record, replayed as a whole, is the real folder byte for byte."""
        await super().stop()
        self.present[-1][1] = time.monotonic()
        self.follow()
        return self.world_of_files.differences()


def copy(source, target):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


class Run(storm.Run):
    streams = sometimes.STREAMS
    patience = 6

    def make(self, program, folder, ports, random):
        return PowerGateway(program, folder, ports, random, self.options)

    async def storm(self):
        self.rotating = asyncio.create_task(self.rotate())
        self.when, gateway = collections.Counter(), self.gateway
        cutting = random.Random(f"{self.options.seed}/cuts")
        left, more, number = self.options.cuts, MORE if self.options.cuts >= ENOUGH else 0, 0
        while left > 0:
            self.alive()
            await self.live_until_cut()
            await gateway.cut(cutting)
            left, number = left - 1, number + 1
            # Some more for steps that no cut has met.
            unmet = gateway.watch.unmet(STEPS)
            if left == 0 and more and unmet:
                left, more = 1, more - 1
            gateway.ending = left == 0
            moment = self.draw(left == 1 and unmet) if left else None
            await gateway.start(moment=moment)
            if number % 10 == 0 or left == 0:
                status = await get_json(self.receiver_port, "/status")
                say(f"{number} cuts, {sum(status['first'].values())} SETs delivered")
        self.rotating.cancel()

    def draw(self, step):
        """The operation or the word after which the next cut comes; for some there is none."""
        self.limit = self.options.life + 2
        if step:
            # It must come at last, on a slow machine too.
            self.limit = PATIENCE
            return self.step()
        if self.options.moment:
            return self.random.choice(self.options.moment.split("|"))
        dice = self.random.random()
        if dice > 0.9:
            return None
        if dice > 0.6:
            return self.step()
        kind, most = self.random.choice(STARTING if dice < 0.2 else MOMENTS)
        moment = f"{kind}:{self.random.randint(1, most)}"
        if dice < 0.4:
            return moment
        return f"{moment},{self.then()}"

    def then(self):
        """What is half done is met by what the writer does next."""
        then, most = self.random.choice(THEN)
        return f"{then}:{self.random.randint(1, most)}"

    def step(self):
        """The moment in which the step is begun that the fewest cuts have met, or soon after."""
        step = self.watch.rarest(sorted(STEPS))
        self.watch.missed[step] += 1
        if step in ("key published", "key signs"):
            # A key signs when its publication has reached everybody.
            self.limit += 2 * scene.MAX_AGE
        said = SAID[step]
        if step == "held swept":
            said = f'"swept":{self.random.choice([2, 4, 6, 8])}'
        return f"said/{said}:1" + self.random.choice(["", "," + self.then()])

    async def live_until_cut(self):
        """Lets the gateway live until its moment has come, or for a random time."""
        gateway = self.gateway
        if gateway.moment:
            if "key" in gateway.moment:
                # Where the moment came before that, it is over.
                with contextlib.suppress(RuntimeError):
                    await gateway.ready()
                    self.asked.set()
            if not await self.cut_by_itself():
                self.when["at random"] += 1
                return
            await gateway.reading
            ready = gateway.watch.ready > gateway.since
            self.when["while starting" if not ready else "in a step" if "said" in gateway.moment else "at an operation"] += 1
            return
        await gateway.ready()
        await asyncio.sleep(self.random.uniform(0.2, self.options.life))
        await self.look()
        self.when["at random"] += 1

    async def cut_by_itself(self):
        """Waits for the moment; false where it has not come in the time that the gateway is given from when it is ready."""
        gateway, end = self.gateway, time.monotonic() + 60
        while gateway.process.returncode is None and time.monotonic() < end:
            if gateway.watch.ready > gateway.since:
                end = min(end, gateway.watch.ready + self.limit)
            await asyncio.sleep(0.01)
        return gateway.process.returncode is not None

    async def whole(self):
        told = await self.until_restarted()
        counted, faults = await self.until_ended()
        return told | {"tally": told["tally"] | counted, "faults": told["faults"] + faults}


def judge(test, told):
    """Compares the books; returns the faults."""
    folder, gateway = test.folder, test.gateway
    accepted, received, heard = (storm.book(folder / f"{name}.jsonl") for name in ("accepted", "received", "acknowledged"))
    answers = [(line["sent"], line["at"]) for line in accepted]
    seen = checker.Seen(told["after"], heard, gateway.killed, test.full, answers, test.views, test.quiet)
    own = [line for line in received if line["stream"] != sometimes.NAME]
    faults = told["faults"] + checker.check(accepted, own, scene.STREAMS, scene.BATCHED, seen)
    faults += sometimes.check(accepted, [line for line in received if line["stream"] == sometimes.NAME], gateway.present, told["after"])
    faults += storm.changed(sometimes.STREAMS, told["before"], told["after"])
    log = (folder / "gateway.log").read_text(encoding="utf-8", errors="replace")
    faults += ["the gateway panicked; see gateway.log"] if "panicked" in log else []
    faults += gateway.answers.faults
    return faults, checker.count(accepted, received, told["tally"], seen)


# What must have occurred, by the names of the table.
MUST = ("whole", "missing", "torn", "late", "entries done", "entries missing", "shorter")


class Table:
    """What was tried, how often, and what fired."""

    def __init__(self, options):
        self.models, self.ways = options.models, options.ways
        self.count = collections.Counter()

    def add(self, test, counts):
        watch, gateway = test.watch, test.gateway
        for name, number in test.when.items():
            self.count["cut", name] += number
        for cut in gateway.cuts:
            self.count["model", f"{cut['model']}, {cut['way']}"] += 1
            self.count["cut at", cut["last"]] += 1
            for name in MUST:
                self.count["disk", name] += cut[name]
        for step in sorted(STEPS):
            self.count["step", step] += watch.happened[step]
            self.count["cut in step", step] += watch.killed[step]
        self.count["order", "answers after their flush"] += gateway.answers.count
        self.count["order", "marks"] += gateway.answers.marks
        for name in ("accepted", "delivered", "retried", "repeats", "acknowledgements lost in a kill", "refused"):
            self.count["books", name] += counts[name]

    def show(self):
        groups = collections.defaultdict(list)
        for (group, name), number in self.count.items():
            groups[group].append((name, number))
        for group, rows in groups.items():
            say(f"{group}: " + ", ".join(f"{name} {number}" for name, number in sorted(rows)))

    def proof(self, faults):
        """The line of the proof's table."""
        count, steps = self.count, [number for (group, _), number in self.count.items() if group == "cut in step"]
        cuts = sum(number for (group, _), number in count.items() if group == "cut")
        fired = ", ".join(f"{name} {count['disk', name]}" for name in ("missing", "torn", "late", "entries missing"))
        say(
            f"proof: power cuts | tried {cuts} cuts, {count['books', 'accepted']} events, {count['order', 'answers after their flush']} answers after their flush"
            f" | fired {fired}, cut in a step {sum(steps)} | found {faults}"
        )

    def never(self):
        """What must occur in a run that is long enough, and did not."""
        must = [("disk", name) for name in MUST] + [("step", step) for step in STEPS] + [("cut in step", step) for step in STEPS]
        must += [("cut", name) for name in ("at random", "in a step", "while starting", "at an operation")]
        must += [("model", f"{model}, {way}") for model in self.models for way in self.ways]
        must += [("order", "answers after their flush"), ("order", "marks")]
        return [f"{group}: {name}" for group, name in must if not self.count[group, name]]


async def play_round(options, folder, table):
    test = Run(options, folder)
    try:
        told = await test.whole()
        faults, counts = judge(test, told)
        table.add(test, counts)
    except Exception:
        for line in test.gateway.last_words():
            say(f"gateway: {line}")
        for cut in test.gateway.cuts[-3:]:
            say(f"cut: {json.dumps(cut)}")
        raise
    finally:
        await test.clear()
    for fault in faults[:40]:
        say(f"FAULT {fault}")
    return len(faults)


def run(options, folder):
    began, table, left, seed = time.monotonic(), Table(options), options.cuts, options.seed
    faults = 0
    try:
        while left > 0 and not faults:
            options.cuts = options.kills = min(left, ROUND)
            place = folder / f"seed-{options.seed}"
            place.mkdir()
            faults = asyncio.run(play_round(options, place, table))
            if not faults and not options.keep:
                shutil.rmtree(place)
            left -= options.cuts
            options.seed += 1
    finally:
        table.show()
    never = table.never() if sum(number for (group, _), number in table.count.items() if group == "cut") >= ENOUGH else []
    for name in never:
        say(f"TOO LITTLE never: {name}")
    say(f"{faults} faults in {time.monotonic() - began:.0f} s, seed {seed}")
    table.proof(faults)
    return not faults and not never


def main():
    parser = arguments(seed=True)
    parser.add_argument("--shim", type=pathlib.Path, required=True)
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--rate", type=float, default=250.0)
    parser.add_argument("--life", type=float, default=2.0, help="the longest that the gateway lives, in seconds")
    swallow = ["all", "directory", "watermark", "journal"]
    parser.add_argument("--swallow", choices=swallow, help="plants a fault: flushes that are not recorded")

    def words(text):
        return text.split(",")

    parser.add_argument("--models", type=words, default=list(MODELS), help="models of the file system, with commas between")
    parser.add_argument("--ways", type=words, default=list(WAYS), help="what becomes of writes that were not flushed, with commas between")
    parser.add_argument("--moment", help="each cut comes after one of these, as the shim's POWERCUT_KILL has them, with | between")
    options = parser.parse_args()
    options.shim = options.shim.absolute()
    if options.cuts < 1:
        parser.error("at least one cut")
    say(f"{options.cuts} cuts, seed {options.seed}")
    play("powercut", options, lambda folder: run(options, folder))


if __name__ == "__main__":
    main()
