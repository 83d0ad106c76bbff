"""Reads the log of the gateway as it comes: what happened in the run, what was under way when it was killed, and whoever waits for it."""

import asyncio
import collections
import json
import time

# A kill so many seconds after a step began or ended counts as one during it: what follows it may be half done as well.
CLOSE = 0.05

# What must happen in a run, and must be met by a kill.
STEPS = {
    "segment full by records",
    "segment full by bytes",
    "cursors folded",
    "condensed",
    "trimmed",
    "held swept",
    "cleared away",
    "retained by age",
    "retained by number",
    "key published",
    "key signs",
    "disk full",
    "open again",
}
RULES = {"too_old": "retained by age", "too_many": "retained by number"}


def steps(line, segment_bytes):
    """The steps that a line of the log tells of."""
    match line.get("message", ""):
        case "a segment is full":
            return ["segment full by bytes" if line["bytes"] >= segment_bytes else "segment full by records"]
        case "cursors are written down":
            return ["cursors folded"]
        case "segments are given up":
            given = {"trimmed": line["gone"], "condensed": line["condensed"], "held swept": line["swept"]}
            return [step for step, number in given.items() if number]
        case "segments were given up and are cleared away":
            return ["cleared away"] if line["segments"] else []
        case "a stream passed its limit; its oldest SETs were dropped":
            # What is cut for the budget is missing in the books.
            return [RULES[line["rule"]]] if line["rule"] in RULES else []
        case "a next signing key is published":
            return ["key published"]
        case "signing keys moved on":
            return ["key signs"]
        case "the store could not write":
            return ["disk full"]
        case "the store is open again":
            return ["open again"]
    return []


class Watch:
    def __init__(self, log):
        self.log = log
        self.happened, self.killed = collections.Counter(), collections.Counter()
        self.dropped = collections.Counter()
        self.last, self.waiters, self.missed = {}, {}, collections.Counter()
        self.moments = collections.defaultdict(list)
        self.segment_bytes = 0
        # When the gateway was ready last.
        self.ready = 0.0

    async def read(self, stream):
        """Reads until the process has ended."""
        while line := await stream.readline():
            self.log.write(line)
            self.log.flush()
            if not line.startswith(b"{"):
                continue
            try:
                told = json.loads(line)
            except ValueError:
                continue  # cut off by a kill
            if told.get("message") == "the gateway is ready":
                self.ready = time.monotonic()
            if told.get("message", "").startswith("a stream passed its limit"):
                self.dropped[told["stream"]] += told["dropped"]
            for step in steps(told, self.segment_bytes):
                self.happened[step] += 1
                self.last[step] = time.monotonic()
                self.moments[step].append(self.last[step])
                waiter = self.waiters.pop(step, None)
                if waiter and not waiter.done():
                    waiter.set_result(None)

    async def wait(self, step, within):
        """Waits for a step; tells whether it came."""
        waiter = self.waiters[step] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(waiter, within)
            return True
        except asyncio.TimeoutError:
            self.waiters.pop(step, None)
            self.missed[step] += 1
            return False

    def kill(self, at):
        """Counts what the kill at this moment has met."""
        for step, last in self.last.items():
            if at - last <= CLOSE:
                self.killed[step] += 1

    def unmet(self, among):
        """The steps that no kill has met."""
        return [step for step in sorted(among) if not self.killed[step]]

    def rarest(self, among):
        """The step that the fewest kills have met and were in vain waited for."""
        return min(among, key=lambda step: (self.killed[step] + self.missed[step], self.happened[step]))
