"""Has operations of a gateway under load on its store fail: writes, flushes, reads, files that are made or renamed. It must open its store again
or end as it says, start again without the fault, and the books of producers and receivers must agree."""

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
from http11 import Client, Closed  # noqa: E402
from running import arguments, play, say  # noqa: E402

from plan import AGAIN, ENDS, KINDS, ON, Page, early  # noqa: E402

STORE = 7
# Seconds: for an operation to come, for what follows from it, for how long a disk stays full, and what the end of the process may take.
COMES, STARTS, FOLLOWS, FULL, ENDING = 10, 90, 60, (1.0, 3.0), 30
# So often a kind is tried that has not come.
TRIES = 4
# What the last words of a process that ends must have: what failed, as the system says it, and what to do.
# Of what a worker of the engine met, the engine says no more.
FAILED = ("Input/output error", "No space left", "the engine stopped after an earlier failure")
SAYS = {"what failed": FAILED, "what to do": ("setgate store check", "see to the disk")}
# The engine tidies up its own list of keyspaces without telling whether that succeeded; where it did not, the list is as it was.
OWN_LIST = "/engine/keyspaces/0"


class Folder:
    """The disk, of which only the store's part fails."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def close(self):
        pass


class FailingGateway(Gateway):
    """The gateway with a shim between it and its store."""

    def __init__(self, program, folder, ports, random, options):
        super().__init__(program, folder, ports, random)
        self.shim, self.lives = options.shim, 0
        self.page, self.told = Page(folder / "plan"), folder / "faults"
        self.told.touch()

    def mount(self, folder):
        return Folder(folder / "disk")

    def environment(self):
        own = {"LD_PRELOAD": self.shim, "DISKERRORS_ROOT": self.disk.folder / "store", "DISKERRORS_PLAN": self.folder / "plan"}
        return os.environ | {name: str(value) for name, value in (own | {"DISKERRORS_LOG": self.told}).items()}

    async def ready(self, within=90.0):
        """Waits for it, also where a busy machine keeps one answer waiting for long."""
        end = time.monotonic() + within
        while True:
            try:
                return await super().ready(max(1.0, end - time.monotonic()))
            except RuntimeError as error:
                if "had no answer" not in str(error) or time.monotonic() > end:
                    raise

    def faults(self, since=0):
        """What was made to fail, and flushes that were tried again: when, what, of which kind of file, its path."""
        lines = self.told.read_text(encoding="utf-8").splitlines()[since:]
        parts = [line.split(" ", 4) for line in lines]
        return [(int(at) / 1e9, *rest) for at, *rest in parts]

    async def end(self, how=None):
        """Notes that the process is over; where it is not, ends it that way."""
        if self.process.returncode is None and how is not None:
            self.process.send_signal(how)
        code = await asyncio.wait_for(self.process.wait(), ENDING)
        await self.reading
        at = time.monotonic()
        self.killed.append(at)
        self.watch.kill(at)
        return code


class Run(storm.Run):
    patience = 3

    def make(self, program, folder, ports, random):
        return FailingGateway(program, folder, ports, random, self.options)

    async def storm(self):
        self.rotating = asyncio.create_task(self.rotate())
        self.faults, self.rounds, self.windows = [], [], []
        tries, left = collections.Counter(), []
        kinds = [one for one in KINDS if one.name in self.options.only] if self.options.only else list(KINDS)
        number = 0
        while number < self.options.runs or (left and number >= len(kinds) and tries[left[0].name]):
            number += 1
            if not left:
                left = self.random.sample(kinds, len(kinds))
            # What has not come is tried again before a run ends.
            kind = left.pop() if number <= self.options.runs else left.pop(0)
            began = time.monotonic()
            outcome = await self.try_kind(kind, tries[kind.name])
            self.rounds.append((kind, outcome))
            tries[kind.name] += outcome is None
            if outcome is None and tries[kind.name] < TRIES:
                left.insert(0, kind)
            if self.options.verbose or number % 10 == 0 or number >= self.options.runs:
                fired = sum(outcome is not None for _, outcome in self.rounds)
                say(f"{number} tried, {fired} fired; {kind.name}: {outcome} ({time.monotonic() - began:.1f} s)")
        self.rotating.cancel()

    async def try_kind(self, kind, tries):
        """Has one operation fail and sees what follows; None where none came."""
        self.alive()
        gateway = self.gateway
        await gateway.ready()
        await self.until(lambda: gateway.accepts(), True, "without a fault it takes events")
        await asyncio.sleep(self.random.uniform(0.1, 0.6))
        known, self.spoken = len(gateway.faults()), (self.folder / "gateway.log").stat().st_size
        skip = self.random.randint(0, kind.most >> tries)
        if kind.op == "room":
            skip = scene.RESERVE // 2
        if kind.start:
            await gateway.end(signal.SIGKILL)
            gateway.page.tell(kind.line(skip))
            await gateway.start()
        else:
            gateway.page.tell(kind.line(skip))
        try:
            if not await self.fires(known, kind):
                return None
            at, *what = gateway.faults(known)[0]
            outcome = await self.follow(kind, at)
        finally:
            gateway.page.tell()
        told = f"{kind.name} (after {skip}, {' '.join(what[1:])})"
        if outcome not in kind.may and not (outcome == ON and (what[-1] + "/").startswith(OWN_LIST + "/")):
            self.faults.append(f"{told}: it {outcome}; {self.said()}")
        again = [path for _, what, _, _, path in gateway.faults(known) if what == "again"]
        self.faults += [f"{told}: the flush of {path} failed and was tried again" for path in again[:1]]
        ended = gateway.process.returncode is not None
        self.close_window(kind, at)
        if ended:
            await gateway.start()
            try:
                await gateway.ready()
            except RuntimeError as error:
                raise RuntimeError(f"after {told} it does not start again: {error}; {self.said()}") from error
        return outcome

    async def fires(self, known, kind):
        end = time.monotonic() + (STARTS if kind.start else COMES)
        while not any(what == "fired" for _, what, *_ in self.gateway.faults(known)):
            ready = kind.start and self.gateway.watch.ready > self.gateway.since
            if time.monotonic() > end or ready or self.gateway.process.returncode is not None:
                # It may have come between the look and the moment.
                return any(what == "fired" for _, what, *_ in self.gateway.faults(known))
            await asyncio.sleep(0.02)
        return True

    async def follow(self, kind, at):
        """What follows from the fault."""
        gateway = self.gateway
        if kind.op == "room":
            await self.only_intake_is_closed()
        if kind.mode == "full":
            await asyncio.sleep(self.random.uniform(*FULL))
            if gateway.process.returncode is None and not kind.start:
                await self.until(lambda: gateway.accepts(), False, "on a full disk it takes no events")
            gateway.page.tell()
        end = time.monotonic() + FOLLOWS
        while gateway.process.returncode is None:
            if time.monotonic() > end:
                return "neither took events again nor ended"
            if gateway.watch.ready >= gateway.since and await self.takes_events(at + 0.5):
                again = any(moment > at for moment in gateway.watch.moments["open again"])
                return AGAIN if again else ON
            await asyncio.sleep(0.05)
        code = await gateway.end()
        if code != STORE:
            return f"ended with {code}"
        words = self.last_error()
        missing = [what for what, texts in SAYS.items() if not any(text in words for text in texts)]
        return f"ended with 7 and does not say {' and '.join(missing)}" if missing else ENDS

    async def takes_events(self, since):
        """Whether an event was accepted that was sent after that moment."""
        lines = self.accepted()
        return bool(lines) and lines[-1]["sent"] > since and await self.gateway.accepts() is True

    def accepted(self):
        """The newest lines of the producer's book."""
        if not (self.folder / "accepted.jsonl").exists():
            return []
        with open(self.folder / "accepted.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4000))
            lines = file.read().split(b"\n")[1:]
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    async def only_intake_is_closed(self):
        """With only the reserve left `/readyz` stays up, polls are answered and acknowledgements taken, and no event is."""
        gateway = self.gateway
        await self.until(lambda: gateway.accepts(), False, "with the reserve alone it takes no events")
        closed = time.monotonic()
        token = (self.folder / "receiver.token").read_text(encoding="utf-8").strip()
        fields = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        poll = json.dumps({"maxEvents": 0, "returnImmediately": True, "ack": ["acknowledged-before"]}).encode()
        while time.monotonic() < closed + 2:
            asks = [(gateway.operator, "GET", "/readyz", {}, b""), (gateway.world, "POST", "/poll/polled", fields, poll)]
            for port, method, path, head, body in asks:
                client = Client(port, 30)
                status, _, answer = await client.request(method, path, head, body)
                client.close()
                if status != 200:
                    self.faults.append(f"with only the reserve left {path} is answered {status} {answer[:200]!r}")
            await asyncio.sleep(0.2)
        events = [line for line in self.accepted() if line["sent"] > closed]
        self.faults += [f"with only the reserve left {len(events)} events were accepted"] if events else []
        gateway.page.tell()
        await self.until(lambda: gateway.accepts(), True, "with room it takes events again")

    def close_window(self, kind, at):
        """From when to when no event may have been answered."""
        moments = self.gateway.watch.moments
        stopped = at if kind.answered else next((one for one in moments["disk full"] if one > at), None)
        openings = [one for one in moments["open again"] if one > at]
        if self.gateway.process.returncode is not None:
            openings = [self.gateway.killed[-1]]
        if stopped is not None and openings:
            self.windows.append((kind.name, stopped, openings[0], openings[-1]))

    def last_error(self):
        """The last thing that was said as a command says why it ended, or else as an error in the log."""
        text = (self.folder / "gateway.log").read_bytes()[self.spoken :].decode(errors="replace")
        # What commands say that ask the gateway goes there as well.
        lines = [line for line in text.splitlines() if "503 Service Unavailable" not in line and "admin listener" not in line]
        starts = [number for number, line in enumerate(lines) if line.startswith("error: ")] or [
            number for number, line in enumerate(lines) if '"ERROR"' in line
        ]
        return " ".join(lines[starts[-1] : starts[-1] + 2]) if starts else ""

    def said(self):
        return "it said last: " + (self.last_error() or "nothing")[-600:]

    async def whole(self):
        told = await self.until_restarted()
        counted, faults = await self.until_ended()
        return told | {"tally": told["tally"] | counted, "faults": told["faults"] + faults}


def judge(test, told):
    """Compares the books; returns the faults and the counts."""
    folder, gateway = test.folder, test.gateway
    accepted, received, heard = (storm.book(folder / f"{name}.jsonl") for name in ("accepted", "received", "acknowledged"))
    answers = [(line["sent"], line["at"]) for line in accepted]
    # What a receiver acknowledges while nothing can be written down may come again.
    heard = [line for line in heard if not any(stopped - checker.FLUSH < line["at"] and line["said"] < last for _, stopped, _, last in test.windows)]
    seen = checker.Seen(told["after"], heard, gateway.killed, test.full, answers, test.views, test.quiet)
    faults = test.faults + told["faults"] + checker.check(accepted, received, scene.STREAMS, scene.BATCHED, seen)
    faults += storm.changed(scene.STREAMS, told["before"], told["after"]) + early(accepted, test.windows)
    log = (folder / "gateway.log").read_text(encoding="utf-8", errors="replace")
    faults += ["the gateway panicked; see gateway.log"] if "panicked" in log else []
    return faults, checker.count(accepted, received, told["tally"], seen)


def table(test, counts):
    """What was tried, what fired, what followed; the names of what never fired."""
    fired, followed = collections.Counter(), collections.defaultdict(collections.Counter)
    for kind, outcome in test.rounds:
        fired[kind.name] += outcome is not None
        followed[kind.name][outcome or "did not come"] += 1
    for name in sorted(followed):
        say(f"{name}: " + ", ".join(f"{what} {number}" for what, number in sorted(followed[name].items())))
    names = ("accepted", "delivered", "retried", "repeats", "acknowledgements lost in a kill", "refused")
    say("books: " + ", ".join(f"{name} {counts[name]}" for name in names))
    parts = collections.Counter()
    for kind, outcome in test.rounds:
        if outcome is not None:
            parts[kind.op] += 1
    tried = {kind.name for kind, _ in test.rounds}
    everything = len(test.rounds) >= len(KINDS) and not test.options.only
    return parts, [one.name for one in KINDS if not fired[one.name] and (everything or one.name in tried)]


async def plant(options, folder):
    """Lets the disk lose what it has confirmed, once, and demands that this is seen after a kill. Without it the rest shows nothing."""
    began, test = time.monotonic(), Run(options, folder)
    gateway, seen = test.gateway, None
    try:
        await gateway.prepare()
        await gateway.start()
        await gateway.ready()
        await test.start_helpers()
        while not test.accepted():
            await asyncio.sleep(0.1)
        gateway.page.tell(f"{options.plant} journal 5 10 1 quiet")
        while not gateway.faults():
            gateway.alive()
            await asyncio.sleep(0.01)
        at = gateway.faults()[0][0]
        while (gateway.process.returncode is None) and not any(line["at"] > at + 0.05 for line in test.accepted()):
            await asyncio.sleep(0.01)
        await gateway.end(signal.SIGKILL)
        try:
            await gateway.start()
            await gateway.ready()
            test.faults, test.windows = [], []
            told = {"tally": await test.drain(), "faults": [], "before": {}, "after": await gateway.streams()}
            seen = (judge(test, told)[0] or [None])[0]
        except RuntimeError as error:
            test.spoken = 0
            seen = f"{error}; {test.said()}"
    finally:
        await test.clear()
    say(f"planted: a {options.plant} of a journal was confirmed and lost; {time.monotonic() - began:.0f} s later: {seen or 'NOT FOUND'}")
    return seen is not None


async def play_round(options, folder):
    began, test = time.monotonic(), Run(options, folder)
    faults, few = [], []
    try:
        told = await test.whole()
        faults, counts = judge(test, told)
        parts, few = table(test, counts)
    except Exception:
        for line in test.gateway.last_words():
            say(f"gateway: {line}")
        for fault in getattr(test, "faults", [])[:40]:
            say(f"FAULT {fault}")
        raise
    finally:
        await test.clear()
    for fault in faults[:40]:
        say(f"FAULT {fault}")
    for name in few:
        say(f"TOO LITTLE never: {name}")
    say(f"{len(faults)} faults in {time.monotonic() - began:.0f} s, seed {options.seed}")
    shown = ", ".join(f"{name} {number}" for name, number in sorted(parts.items()))
    print(f"proof: disk errors | tried {len(test.rounds)} faults | fired {shown} | found {len(faults)}", flush=True)
    return not faults and not few


def main():
    parser = arguments(seed=True)
    parser.add_argument("--shim", type=pathlib.Path, required=True)
    parser.add_argument("--runs", type=int, default=len(KINDS), help="faults, one after another")
    parser.add_argument("--rate", type=float, default=250.0)
    parser.add_argument("--only", type=lambda text: text.split("|"), default=[], help="only these kinds, with | between")
    parser.add_argument("--plant", choices=["write", "flush"], help="only shows that a write or flush which is lost is found")
    parser.add_argument("--verbose", action="store_true", help="a line for each fault")
    options = parser.parse_args()
    options.shim = options.shim.absolute()
    if options.runs < 1:
        parser.error("at least one fault")
    if options.plant:
        play("diskerrors-planted", options, lambda folder: asyncio.run(plant(options, folder)))
    say(f"{options.runs} faults, seed {options.seed}")
    play("diskerrors", options, lambda folder: asyncio.run(play_round(options, folder)))


if __name__ == "__main__":
    main()
