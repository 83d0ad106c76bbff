"""After the storm: rounds of large events, all of them acknowledged. What the store takes on the disk does not grow with them."""

import asyncio
import pathlib
import sys
import time

import scene
from disk import deleted

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from running import say  # noqa: E402

ROUNDS = 6
EVENTS = 700
# Seconds that the store gets after a round to come back to its budget: it writes out what keeps its journals, and they are 64 MB each.
BACK = 30
# Deleted files that the engine may still hold for a moment.
HELD = 16 << 20


async def play(test):
    """Returns the faults found."""
    gateway, sizes = test.gateway, []
    for number in range(ROUNDS):
        producer = await test.produce("--seed", f"{test.options.seed + 1 + number}", "--prefix", f"key-round{number}", "--bulk", str(EVENTS))
        await test.end(producer, "producer of large events")
        await settled(gateway)
        await asyncio.sleep(2 * gateway.every + 0.5)
        end = time.monotonic() + BACK
        while gateway.disk.taken() > scene.PRESSED and time.monotonic() < end:
            await asyncio.sleep(0.1)
        held, files = deleted(gateway.process.pid)
        sizes.append((gateway.disk.taken(), held, files))
        if gateway.disk.taken() > scene.PRESSED:
            largest = sorted(gateway.disk.parts().items(), key=lambda part: -part[1])[:6]
            say("too much on the disk: " + ", ".join(f"{part} {taken >> 20} MiB" for part, taken in largest))
    shown = "; ".join(f"{taken >> 20} MiB, {held >> 20} MiB in {files} deleted files" for taken, held, files in sizes)
    say(f"on the disk after each round: {shown}")
    return judge(sizes)


def judge(sizes):
    """The faults in what was measured after each round: bytes of files, bytes of deleted files that are open, and their number."""
    faults = []
    (_, held, _), (_, last_held, files) = sizes[0], sizes[-1]
    most = max(taken for taken, _, _ in sizes)
    if most > scene.PRESSED:
        faults.append(f"the store took {most} bytes {BACK} s after all was acknowledged, its budget is {scene.PRESSED}")
    if last_held > held + HELD:
        faults.append(f"{files} deleted files are open, {last_held} bytes; after the first round it was {held}")
    return faults


async def settled(gateway, within=120):
    end = time.monotonic() + within
    while any(stream["waiting"] for stream in (await gateway.streams()).values()):
        if time.monotonic() > end:
            raise RuntimeError(f"large events still wait after {within} s")
        await asyncio.sleep(0.1)
