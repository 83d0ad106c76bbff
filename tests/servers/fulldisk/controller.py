"""Fills a small file system by nothing but events: the gateway refuses more, delivers inside its reserve, frees what was acknowledged and takes
events again, in the same process, while nobody deletes a file for it."""

import asyncio
import json
import pathlib
import sys
import time

CRASH = pathlib.Path(__file__).resolve().parents[1] / "crash"
sys.path[:0] = [str(CRASH), str(CRASH.parent)]
import checker  # noqa: E402
import controller as storm  # noqa: E402
import scene  # noqa: E402
from disk import Disk  # noqa: E402
from gateway import Gateway  # noqa: E402
from http11 import Client  # noqa: E402
from running import arguments, play, say  # noqa: E402

# Both receivers are away until they are called; what they are owed fills the disk.
STREAMS = {
    name: scene.whole(scene.STREAMS[name] | {"kinds": ["bulk"], "presence": "dead", "retention": {}}) for name in ("all-rs256", "polled")
}
DISK, RESERVE = 320 << 20, 96 << 20
# Far more events than there is room for: 24 to 48 kB each.
EVENTS = 100_000
# Seconds until the disk is full, until there is room again, until all is delivered.
FILLS, FREES = 900, 600
# Seconds that intake is closed before the disk counts as full.
STAYS = 6
# Segments of 4 MB, a round of housekeeping each second, settled records are not kept.
TIMES = ((65_536, 4 << 20), 1, 0)


class FullGateway(Gateway):
    reserve, budget, pressed = RESERVE, 1 << 40, 1 << 40

    def mount(self, folder):
        return Disk(folder / "disk", DISK)

    def declared(self):
        return STREAMS if self.sections else {}


class Run(storm.Run):
    streams = STREAMS

    def make(self, *how):
        self.faults, self.rounds = [], []
        return FullGateway(*how)

    async def post(self):
        """Posts one event that no stream wants; status and answer."""
        event = {"sub_id": {"format": "opaque", "id": "nobody"}, "events": {scene.KINDS["wanted"]: {}}}
        token = (self.folder / "producer.token").read_text(encoding="utf-8").strip()
        client = Client(self.gateway.world, 20)
        try:
            head = {"authorization": f"Bearer {token}", "content-type": "application/json"}
            status, _, body = await client.request("POST", "/events", head, json.dumps(event).encode())
        finally:
            client.close()
        return status, body.decode()

    async def readyz(self):
        client = Client(self.gateway.operator, 20)
        try:
            status, _, body = await client.request("GET", "/readyz")
        finally:
            client.close()
        return status, body.decode()

    def lines(self, name):
        try:
            with open(self.folder / name, "rb") as file:
                return sum(1 for _ in file)
        except FileNotFoundError:
            return 0

    async def storm(self):
        pid = self.gateway.process.pid
        for number in range(1, self.options.rounds + 1):
            await self.round(number)
        if self.gateway.process.pid != pid or self.gateway.process.returncode is not None:
            self.faults.append("it is not the same process any more")

    async def round(self, number):
        gateway, disk, began = self.gateway, self.gateway.disk, time.monotonic()
        trimmed = self.watch.happened["trimmed"]
        if number % 2 == 0:
            # A part of the disk is others' from now on, to the end of the run.
            disk.fill(leave=DISK // 2 + RESERVE // 2)
        accepted = self.lines("accepted.jsonl")
        self.producer = await self.produce("--seed", f"{self.options.seed + number}", "--prefix", f"key-{number}", "--bulk", str(EVENTS))
        await self.fill()
        filled = time.monotonic()
        taken = self.lines("accepted.jsonl") - accepted
        await self.refuses()
        before = [self.lines(name) for name in ("received.jsonl", "acknowledged.jsonl")]
        await self.tell("/revive")
        looks = await self.until_it_opens()
        after = [self.lines(name) for name in ("received.jsonl", "acknowledged.jsonl")]
        opened = time.monotonic()
        # It ends when what it has begun was accepted.
        self.producer.terminate()
        out, _ = await asyncio.wait_for(self.producer.communicate(), FREES)
        if self.producer.returncode != 0 or not json.loads(out).get("overload", 0) + json.loads(out).get("item_later", 0):
            raise RuntimeError(f"the producer ended with {self.producer.returncode}: {out.decode()[-300:]}")
        received, acknowledged = (there - here for here, there in zip(before, after))
        figures = {"accepted": taken, "looks": looks, "received": received, "acknowledged": acknowledged}
        figures["trimmed"] = self.watch.happened["trimmed"] - trimmed
        self.faults += [f"round {number}: none were {name}" for name, value in figures.items() if not value]
        self.rounds.append(figures)
        shown = ", ".join(f"{name} {value}" for name, value in figures.items())
        say(f"round {number}: full after {filled - began:.0f} s, open again {opened - filled:.0f} s later; {shown}")
        await self.settled()
        await self.tell("/leave")

    async def fill(self):
        """Waits until intake is closed and stays so: what the store can free by itself is freed."""
        closed, end = None, time.monotonic() + FILLS
        while closed is None or time.monotonic() < closed + STAYS:
            self.gateway.alive()
            if time.monotonic() > end:
                raise RuntimeError(f"in {FILLS} s the disk was not full")
            closed = None if await self.gateway.accepts() else closed or time.monotonic()
            await asyncio.sleep(0.1)

    async def refuses(self):
        """It says that it is full, and how; readiness does not depend on it."""
        status, body = await self.post()
        if status != 503 or "store.reserve_bytes" not in body:
            self.faults.append(f"on a full disk an event is answered {status}: {body[:300]}")
        store = await self.gateway.admin("/store")
        if store["free"] >= RESERVE:
            self.faults.append(f"intake is closed with {store['free']} bytes free")

    async def until_it_opens(self):
        """Looks on until events are taken again; how often the gateway was looked at while it took none."""
        looks, end = 0, time.monotonic() + FREES
        while await self.gateway.accepts() is not True:
            self.gateway.alive()
            status, body = await self.readyz()
            if status != 200:
                self.faults.append(f"while only intake is closed /readyz is {status}: {body[:200]}")
            looks += 1
            if time.monotonic() > end:
                raise RuntimeError(f"in {FREES} s no room was made: {await self.gateway.admin('/store')}")
            await asyncio.sleep(0.1)
        return looks

    async def settled(self):
        end = time.monotonic() + FREES
        while any(stream["waiting"] for stream in (await self.gateway.streams()).values()):
            if time.monotonic() > end:
                raise RuntimeError(f"in {FREES} s not all was delivered")
            await asyncio.sleep(0.2)

    async def whole(self):
        gateway = self.gateway
        await gateway.prepare()
        await gateway.start(TIMES)
        await gateway.ready()
        await self.start_receiver()
        await self.storm()
        await self.tell("/revive")
        before = await gateway.streams()
        await gateway.stop()
        await gateway.start(TIMES)
        await gateway.ready()
        after = await gateway.streams()
        tally, _ = await self.until_ended()
        return before, after, tally


def judge(test, before, after):
    """Compares the books."""
    accepted, received, heard = (storm.book(test.folder / f"{name}.jsonl") for name in ("accepted", "received", "acknowledged"))
    answers = [(line["sent"], line["at"]) for line in accepted]
    seen = checker.Seen(after, heard, [], [], answers)
    faults = test.faults + checker.check(accepted, received, STREAMS, {"polled"}, seen)
    faults += storm.changed(STREAMS, before, after)
    log = (test.folder / "gateway.log").read_text(encoding="utf-8", errors="replace")
    return faults + (["the gateway panicked; see gateway.log"] if "panicked" in log else []), len(accepted)


async def play_round(options, folder):
    began, good, test = time.monotonic(), False, Run(options, folder)
    try:
        before, after, _ = await test.whole()
        faults, accepted = judge(test, before, after)
        good = not faults
    except Exception:
        for line in test.gateway.last_words():
            say(f"gateway: {line}")
        raise
    finally:
        await test.clear()
        test.gateway.disk.close(keep=None if good else folder / "kept")
    for fault in faults[:40]:
        say(f"FAULT {fault}")
    say(f"{len(faults)} faults in {time.monotonic() - began:.0f} s, seed {options.seed}")
    fired = ", ".join(f"{name} {sum(one[name] for one in test.rounds)}" for name in ("acknowledged", "trimmed", "looks"))
    print(f"proof: full disk | tried {len(test.rounds)} times with {accepted} events | fired {fired} | found {len(faults)}", flush=True)
    return good


def main():
    parser = arguments(seed=True)
    parser.add_argument("--rounds", type=int, default=2, help="how often the disk is filled")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("at least one round")
    say(f"a disk of {DISK >> 20} MiB is filled {options.rounds} times, seed {options.seed}")
    play("fulldisk", options, lambda folder: asyncio.run(play_round(options, folder)))


if __name__ == "__main__":
    main()
