"""The receivers of the soak: one process acts for some hundred streams. They verify every SET with PyJWT against the published key sets, die and
come back, and write down what came and how it ended.

Commands come as lines of the standard input: `storm` lets receivers die and fail, `well` lets them do neither, `calm` brings back those as well that
are dead while there is load, `end` ends the process.
"""

import argparse
import asyncio
import collections
import json
import pathlib
import sys
import time
import types

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "crash"))
from poller import Poller  # noqa: E402
from receiver import Keys, Receiver  # noqa: E402
from subscriber import Subscriber  # noqa: E402

import books  # noqa: E402
from layout import HOUSES, PATIENCE, Layout, key_of, number_of  # noqa: E402

# Houses whose receivers are dead while there is load, and those that are away for longer than their SETs are kept.
DEAD, LONG = 0, 1
# Of the others so many are dead at once, at most; how many seconds lie between two deaths, how long each takes.
AT_ONCE, BETWEEN, AWAY = 3, (0.5, 2.5), (1.0, 6.0)


Keys.patience = PATIENCE


class Visitor(Subscriber):
    lasts = (5.0, 40.0)


class Single(Poller):
    patience = PATIENCE

    def __init__(self, receiver, stream, port, token):
        super().__init__(receiver, stream, port, token, connections=1)


class Puller(Single):
    """Comes by push-pull over HTTP, at the WebSocket's URL."""

    way = "pushpull"

    def __init__(self, receiver, stream, port, token):
        super().__init__(receiver, stream, port, token)
        self.path = receiver.below(stream, f"/websocket/{stream}")

    def ask(self, dice, said):
        ask = {name: what for name, what in said.items() if what}
        if dice < 0.6:
            ask["maxResponseEvents"] = 0 if dice < 0.2 else self.random.randint(1, 60)
        return ask


class Receivers(Receiver):
    ways = {"poll": Single, "websocket": Visitor, "pushpull": Puller}

    def __init__(self, options):
        self.layout = Layout.read(options.layout)
        streams = self.layout.of_process(options.process)
        terms = types.SimpleNamespace(
            issuer=None,
            gateway_port=self.layout.world,
            streams=json.dumps(streams),
            book=options.book.with_suffix(".faults"),
            acknowledgements="/dev/null",
            token_file=options.token_file,
            seed=f"{self.layout.seed}/receivers/{options.process}",
        )
        super().__init__(terms)
        self.records = open(options.book, "wb", buffering=1 << 20)
        # Whoever writes down what never came, or prints what is none of its business, must be found out.
        self.plant = options.plant
        self.calm = self.revived = True
        self.ports = self.layout.ports[options.process]
        self.servers, self.open = {}, collections.defaultdict(set)
        self.tasks = {}
        self.houses = collections.defaultdict(list)
        for caller in self.callers:
            self.houses[streams[caller.stream]["house"]].append(caller)
        self.dead, self.back = set(), set()
        self.last = {}

    # What is written down.

    async def judge(self, stream, token):
        line = await super().judge(stream, token)
        if "jti" in line:
            subject, terms = number_of(line["key"]), self.streams[stream]
            record = (terms["number"], subject, line["seq"], books.short(line["jti"]), int(line["payload"][:16], 16))
            record += (books.short(line["txn"]), int(line["event"][:16], 16), time.monotonic())
            self.records.write(books.HEAD_CAME + books.CAME.pack(*record))
            self.tally["came"] += 1
            self.tally[terms["way"]] += 1
            self.tally["came again"] += line["seq"] <= self.last.get((stream, subject), 0)
            self.last[stream, subject] = max(line["seq"], self.last.get((stream, subject), 0))
            if self.plant == "taken" and self.tally["came"] == 2000:
                self.records.write(books.HEAD_ENDED + books.ENDED.pack(terms["number"], subject, line["seq"] + 1, books.TAKEN, time.monotonic()))
        return line

    def write(self, line):
        action = line.get("action")
        how = books.REFUSED if action == "400" else books.UNHEARD if action == "lost" else books.TAKEN if line.get("taken") else None
        self.tally[action] += 1
        if how is not None and "jti" in line and not (self.plant == "forgotten" and self.tally["ended"] == 2000):
            subject = number_of(line["key"])
            record = (self.streams[line["stream"]]["number"], subject, line["seq"], how, time.monotonic())
            self.records.write(books.HEAD_ENDED + books.ENDED.pack(*record))
        self.tally["ended"] += how is not None
        if line["faults"]:
            self.tally["faults"] += 1
            if self.tally["faults"] <= 50:
                self.book.write(json.dumps(line) + "\n")
                self.book.flush()

    def heard(self, stream, jtis, said, at):
        self.tally["heard"] += len(jtis)

    def request(self, stream, fields, kind):
        faults = super().request(stream, fields, kind)
        return faults if fields[":path"] == self.streams[stream]["path"] else [*faults, f"path {fields[':path']!r}"]

    def subject(self, identifier):
        return key_of(identifier)

    def away(self, stream):
        return self.streams[stream]["house"] in self.dead

    # Life and death.

    async def run(self):
        for house in range(HOUSES):
            await self.revive(house)
        reaper = asyncio.create_task(self.reap())
        print("ready", flush=True)
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        told = asyncio.create_task(self.tell(reaper))
        while (word := (await commands.readline()).decode().strip()) not in ("end", ""):
            await self.turn(word)
            self.say({"is": word})
        told.cancel()
        reaper.cancel()
        for house in range(HOUSES):
            await self.die(house)
        self.records.close()
        self.book.close()
        self.say({"is": "ended"})

    async def turn(self, word):
        self.calm = self.revived = word != "storm"
        if word == "calm":
            for house in sorted(self.dead):
                await self.revive(house)
        else:
            await self.die(DEAD)

    async def reap(self):
        """Lets receivers die and come back, as long as there is no calm."""
        while True:
            await asyncio.sleep(self.random.uniform(*BETWEEN))
            alive = [house for house in range(LONG, HOUSES) if house not in self.dead]
            if self.calm or len(self.dead - {DEAD}) >= AT_ONCE:
                continue
            house = LONG if LONG in alive and self.random.random() < 0.4 else self.random.choice(alive)
            away = self.random.uniform(*AWAY) * (2 if house == LONG else 1)
            await self.die(house)
            self.tally["deaths"] += 1
            task = asyncio.create_task(self.later(house, away))
            self.back.add(task)
            task.add_done_callback(self.back.discard)

    async def later(self, house, away):
        await asyncio.sleep(away)
        if house in self.dead:
            await self.revive(house)

    async def die(self, house):
        """Nobody listens any more, connections are cut, and whoever comes for SETs is gone in the middle of whatever it does."""
        self.dead.add(house)
        if server := self.servers.pop(house, None):
            server.close()
        for writer in list(self.open[house]):
            writer.close()
        gone = [self.tasks.pop(caller) for caller in self.houses[house] if caller in self.tasks]
        left = set(gone)
        while left:
            # A task that was just told what it waited for may miss that it is to end.
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=0.5)
        for task in gone:
            self.fell(None if task.cancelled() else task.exception())

    async def revive(self, house):
        def serve(reader, writer):
            return self.serve_house(house, reader, writer)

        for _ in range(200):
            try:
                self.servers[house] = await asyncio.start_server(serve, "127.0.0.1", self.ports[house], limit=1 << 20, backlog=512)
                break
            except OSError:
                await asyncio.sleep(0.05)
        self.dead.discard(house)
        for caller in self.houses[house]:
            self.tasks[caller] = asyncio.create_task(caller.run())

    async def serve_house(self, house, reader, writer):
        self.open[house].add(writer)
        try:
            await self.serve(reader, writer)
        finally:
            self.open[house].discard(writer)

    def fell(self, result):
        if isinstance(result, Exception):
            self.write({"stream": "", "faults": [f"a receiver ended with {result!r}"]})

    async def tell(self, reaper):
        while True:
            self.say({})
            if reaper.done():
                self.fell(reaper.exception())
            for caller, task in self.tasks.items():
                if task.done():
                    self.fell(task.exception())
                    self.tasks[caller] = asyncio.create_task(caller.run())
            await asyncio.sleep(1)

    def say(self, more):
        print(json.dumps({"tally": {str(name): number for name, number in self.tally.items()}} | more), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layout", type=pathlib.Path, required=True)
    parser.add_argument("--process", type=int, required=True)
    parser.add_argument("--book", type=pathlib.Path, required=True)
    parser.add_argument("--token-file", type=pathlib.Path, required=True)
    parser.add_argument("--plant", choices=["taken", "forgotten"])
    options = parser.parse_args()

    async def run():
        await Receivers(options).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
