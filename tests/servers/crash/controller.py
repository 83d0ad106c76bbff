"""Runs the crash test: starts gateway, receivers and producer, kills the gateway at random moments and in the middle of what it does
with its store, fills its disk, rotates its keys, and compares the books."""

import asyncio
import json
import pathlib
import random
import signal
import sys
import time

import checker
import rounds
import scene
from gateway import Gateway
from http11 import Client, Closed, get_json
from watch import STEPS

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from running import arguments, free_ports, play, say  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent

# A run with fewer kills cannot meet every step with one.
ENOUGH = 40
# Steps that a kill waits for; what becomes of a full disk and of keys has its own moments.
AIMED = STEPS - {"disk full", "open again"}
FULL_BY = {step for step in AIMED if step.startswith("segment full")}
SHORT, LONG = 0.01, 0.5
# So many more kills, and so many seconds before each, for steps that no kill has met.
MORE, PATIENCE = 20, 15


class Run:
    streams = scene.STREAMS
    # Seconds that retention may take beyond two of its rounds.
    patience = 1

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.random = random.Random(options.seed)
        ports = free_ports(3)
        self.receiver_port = ports[2]
        self.gateway = self.make(options.gateway, folder, ports, random.Random(f"{options.seed}/config"))
        self.watch = self.gateway.watch
        self.receiver = self.producer = self.rotating = None
        self.asked = asyncio.Event()
        self.kills = {"at random": 0, "in a step": 0, "while starting": 0, "on a full disk": 0}
        # What the gateway said of its streams, and when; from when to when its disk was full.
        self.views, self.full = [], []

    def make(self, *how):
        return Gateway(*how)

    async def helper(self, name, *words):
        return await asyncio.create_subprocess_exec(
            sys.executable, "-B", "-u", str(HERE / name), *words, stdout=asyncio.subprocess.PIPE, stderr=None
        )

    async def start_helpers(self):
        await self.start_receiver()
        self.producer = await self.produce("--seed", str(self.options.seed), "--rate", str(self.options.rate))

    async def start_receiver(self):
        streams = {name: {k: v for k, v in stream.items() if k != "kinds"} for name, stream in self.streams.items()}
        self.receiver = await self.helper(
            "receiver.py", "--port", str(self.receiver_port), "--gateway-port", str(self.gateway.world), "--issuer", self.gateway.issuer,
            "--streams", json.dumps(streams), "--book", str(self.folder / "received.jsonl"),
            "--acknowledgements", str(self.folder / "acknowledged.jsonl"), "--token-file", str(self.folder / "receiver.token"), "--seed", str(self.options.seed),
        )  # fmt: skip
        await asyncio.wait_for(self.receiver.stdout.readline(), 10)

    async def produce(self, *words):
        return await self.helper(
            "producer.py", "--port", str(self.gateway.world), "--receiver-port", str(self.receiver_port), "--path", "/events",
            "--token-file", str(self.folder / "producer.token"), "--book", str(self.folder / "accepted.jsonl"), "--slowest", "all-rs256", *words,
        )  # fmt: skip

    async def retire(self):
        """Takes the keys that sign no more out of the published set; which they were, and the faults found."""
        gateway = self.gateway
        states = gateway.keys(await gateway.command("keys", "list", "--json"))
        retired = [kid for kid, state in states.items() if state == "retiring"]
        retired = retired[:: max(1, len(retired) // 6)]
        for kid in retired:
            await gateway.command("keys", "revoke", kid, "--yes")
        published = {key["kid"] for key in (await get_json(gateway.world, "/jwks.json"))["keys"]}
        faults = [f"key {kid} is {state} and not published" for kid, state in states.items() if kid not in published and state in ("current", "next")]
        return retired, faults + [f"key {kid} was revoked and is published" for kid in retired if kid in published]

    def alive(self):
        for name, process in [("receiver", self.receiver), ("producer", self.producer)]:
            if process.returncode is not None:
                raise RuntimeError(f"the {name} ended with {process.returncode}")
        if self.rotating is not None and self.rotating.done():
            self.rotating.result()

    async def look(self):
        """Writes down what the gateway says of its streams."""
        try:
            streams, metrics = await self.gateway.streams(), await self.gateway.metrics()
        except (Closed, OSError):
            return None
        fields = ("owed", "acknowledged", "parked_total", "dropped", "waiting")
        kept = {name: {field: stream[field] for field in fields} for name, stream in streams.items()}
        self.views.append({"at": time.monotonic(), "streams": kept, "metrics": metrics})
        return streams

    async def storm(self):
        """Kills the gateway: at random moments, in the middle of a step, while it is starting, on a full disk."""
        self.rotating = asyncio.create_task(self.rotate())
        filled = {self.options.kills * part // 100 for part in (30, 65)}
        for number in range(1, self.options.kills + 1):
            self.alive()
            if number in filled:
                await self.fill_up(dies=number == max(filled))
            elif number % 7 == 0:
                await asyncio.sleep(self.random.uniform(0.0, 0.4))
                self.gateway.alive()
                self.kills["while starting"] += 1
            else:
                await self.gateway.ready()
                await self.live(number % 7 in (1, 2, 4, 5))
            await self.gateway.kill()
            await self.gateway.start()
            if number % 10 == 0 or number == self.options.kills:
                status = await get_json(self.receiver_port, "/status")
                say(f"{number} kills, {sum(status['first'].values())} SETs delivered, {status['requests']} requests")
        await self.meet_the_rest()
        self.rotating.cancel()

    async def meet_the_rest(self):
        """Kills the gateway in each step that no kill has met so far, a few times at most."""
        for _ in range(MORE if self.options.kills >= ENOUGH else 0):
            if not (unmet := self.watch.unmet(AIMED)):
                break
            await self.gateway.ready()
            self.alive()
            step = self.watch.rarest(unmet)
            say(f"one more kill, for: {step}")
            if step == "key published":
                self.asked.set()
            if step in FULL_BY - self.gateway.full_by:
                came = False  # the next start draws other limits
            else:
                came = await self.watch.wait(step, PATIENCE)
            self.gateway.alive()
            self.kills["in a step" if came else "at random"] += 1
            await self.gateway.kill()
            await self.gateway.start()

    async def live(self, aim):
        """Lets the gateway live: until a step that few kills have met, or for a random time."""
        at = time.monotonic() + self.random.uniform(0.2, self.options.life)
        if aim:
            step = self.watch.rarest(sorted(AIMED - FULL_BY | self.gateway.full_by))
            if step == "key published":
                self.asked.set()
            came = await self.watch.wait(step, self.options.life + self.gateway.every)
            self.kills["in a step" if came else "at random"] += 1
            # At once, soon, or some time after it: what was half done then is found at the next start.
            await asyncio.sleep(self.random.uniform(0, self.random.choice([0, SHORT, LONG])))
        else:
            await asyncio.sleep(max(0, at - time.monotonic()))
            await self.look()
            self.kills["at random"] += 1
        self.gateway.alive()

    async def fill_up(self, dies):
        """Fills the disk up to the reserve, and then to the last byte. The gateway lives through it, or dies and starts again without
        room; either way it goes on when there is some."""
        gateway, disk = self.gateway, self.gateway.disk
        await gateway.ready()
        began = time.monotonic()
        disk.fill(leave=scene.RESERVE // 2)
        await self.until(lambda: gateway.accepts(), False, "with the reserve alone it takes no events")
        disk.empty()
        await self.until(lambda: gateway.accepts(), True, "with room it takes events again")
        met = self.watch.happened["disk full"]
        disk.fill()
        full = asyncio.create_task(self.keep_full())
        try:
            await self.until(lambda: gateway.accepts(), False, "on a full disk it takes no events")
            # The reserve alone shuts intake; what receivers acknowledge is what finds no room.
            if self.watch.happened["disk full"] == met:
                await self.watch.wait("disk full", 10)
            await asyncio.sleep(self.random.uniform(0.5, 2.0))
            gateway.alive()
            if dies:
                await gateway.kill()
                self.kills["on a full disk"] += 1
                self.watch.killed["disk full"] += 1
                await gateway.start()
                await asyncio.sleep(self.random.uniform(0.5, 2.0))
        finally:
            full.cancel()
            disk.empty()
        if not dies:
            await self.until(lambda: gateway.accepts(), True, "with room it takes events again without a restart")
            self.full.append((began, time.monotonic()))
            # The kill that follows at once finds it just open again.
            self.kills["in a step"] += 1
            self.watch.killed["open again"] += 1
            return
        try:
            await gateway.ready()
        except RuntimeError:
            if gateway.process.returncode is None:
                raise
            say(f"on a full disk the start ended with {gateway.process.returncode}")
            await gateway.reading
            await gateway.start()
            await gateway.ready()
        await self.until(lambda: gateway.accepts(), True, "with room again it takes events")
        self.full.append((began, time.monotonic()))

    async def keep_full(self):
        """What the gateway frees meanwhile is taken as well."""
        while True:
            await asyncio.sleep(0.1)
            self.gateway.disk.fill()

    async def until(self, ask, wanted, what, within=30):
        end = time.monotonic() + within
        while await ask() is not wanted:
            self.gateway.alive()
            if time.monotonic() > end:
                raise RuntimeError(f"in {within} s it did not come true that {what}")
            await asyncio.sleep(0.05)

    async def rotate(self):
        """Rotates the signing keys now and then or when it is asked to, whether the gateway lives or not."""
        while True:
            try:
                await asyncio.wait_for(self.asked.wait(), self.random.uniform(4, 8))
            except asyncio.TimeoutError:
                pass
            self.asked.clear()
            # It may be killed meanwhile, or a next key may still wait for its time.
            await self.gateway.command("keys", "rotate", quiet=True)

    async def drain(self):
        """Stops the producer, lets everybody come who was away, and waits until nothing waits any more."""
        await self.gateway.ready()
        self.producer.send_signal(signal.SIGTERM)
        tally = await self.end(self.producer, "producer")
        # Until retention has done what it does.
        await asyncio.sleep(2 * self.gateway.every + self.patience)
        if await self.look() is None:
            raise RuntimeError("the gateway does not say how its streams are")
        self.quiet = self.views[-1] | {"every": self.gateway.every + (self.patience - 1) / 2}
        await self.tell("/revive")
        began, last, moved = time.monotonic(), None, time.monotonic()
        ends = {}
        while True:
            streams = await self.gateway.streams()
            waiting = {name: stream["waiting"] for name, stream in streams.items()}
            ends |= {name: time.monotonic() - began for name, number in waiting.items() if number}
            if not any(waiting.values()):
                break
            if waiting != last:
                last, moved = waiting, time.monotonic()
            if time.monotonic() - moved > 60 or time.monotonic() - began > 240:
                say(f"does not drain: {json.dumps(streams)}")
                break
            await asyncio.sleep(0.5)
        times = ", ".join(f"{name} {end:.0f}" for name, end in sorted(ends.items(), key=lambda one: one[1]))
        say(f"drained in {time.monotonic() - began:.1f} s ({times})")
        return tally

    async def tell(self, path):
        """Tells the receiver to come back, or to be calm."""
        client = Client(self.receiver_port, 30)
        try:
            await client.request("POST", path)
        finally:
            client.close()

    async def end(self, process, name):
        """What a helper prints as it ends."""
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        if process.returncode != 0:
            raise RuntimeError(f"the {name} ended with {process.returncode}")
        return json.loads(out.decode().strip().splitlines()[-1])

    async def until_restarted(self):
        """The run from its beginning to a restart with nothing owed; what the producer counted, and what the gateway said before and after."""
        gateway = self.gateway
        await gateway.prepare()
        await gateway.start()
        await gateway.ready()
        await self.start_helpers()
        await self.storm()
        tally = await self.drain()
        before = await gateway.streams()
        faults = await gateway.stop()
        await gateway.start(scene.CALM)
        await gateway.ready()
        return {"tally": tally, "faults": faults, "before": before, "after": await gateway.streams()}

    async def until_ended(self):
        """Ends gateway and receiver; what the receiver counted, and the faults found then."""
        faults = await self.gateway.stop()
        self.receiver.send_signal(signal.SIGTERM)
        return await self.end(self.receiver, "receiver"), faults

    async def whole(self):
        """The run from its beginning to its end; what the helpers counted, and what the gateway said."""
        gateway, told = self.gateway, await self.until_restarted()
        # Nothing is owed now, and the counters of this process are new.
        retired, faults = await self.retire()
        await self.tell("/calm")
        faults += await rounds.play(self) if self.options.rounds else []
        final, metrics = await gateway.streams(), await gateway.metrics()
        counted, last = await self.until_ended()
        told |= {"final": final, "metrics": metrics, "retired": retired}
        return told | {"tally": told["tally"] | counted, "faults": told["faults"] + faults + last}

    async def clear(self):
        """Ends what still runs."""
        if self.rotating is not None:
            self.rotating.cancel()
        for process in (self.gateway.process, self.producer, self.receiver):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()


def book(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def changed(streams, before, after):
    """The counts that a restart changed."""
    fields = ("owed", "acknowledged", "parked", "dropped", "waiting")
    differ = [(name, field) for name in streams for field in fields if before.get(name, {}).get(field) != after.get(name, {}).get(field)]
    return [f"{name}: {field} was {before.get(name)} and is {after.get(name)} after a restart" for name, field in differ]


def judge(test, told):
    """Compares the books; faults, and reasons why the run shows nothing."""
    folder, watch = test.folder, test.watch
    accepted, received = book(folder / "accepted.jsonl"), book(folder / "received.jsonl")
    heard = book(folder / "acknowledged.jsonl")
    before, after = told["before"], told["after"]
    answers = [(line["sent"], line["at"]) for line in accepted]
    seen = checker.Seen(told["final"], heard, test.gateway.killed, test.full, answers, test.views, test.quiet)
    faults = told["faults"] + checker.check(accepted, received, scene.STREAMS, scene.BATCHED, seen)
    faults += changed(scene.STREAMS, before, after)
    faults += checker.metrics(after, told["final"], told["metrics"])
    log = (folder / "gateway.log").read_text(encoding="utf-8", errors="replace")
    tokens = [(folder / f"{name}.token").read_text(encoding="utf-8").strip() for name in ("producer", "receiver")]
    faults += ["the gateway panicked; see gateway.log"] if "panicked" in log else []
    faults += ["a token is in the log"] if any(token in log for token in tokens) else []
    faults += ["a subject is in the log"] if "key-0-" in log else []
    counts = checker.count(accepted, received, told["tally"], seen)
    kills = test.options.kills
    few = checker.too_little(counts, kills)
    few += [f"never: {step}" for step in sorted(STEPS) if not watch.happened[step]]
    few += [f"no kill met: {step}" for step in watch.unmet(STEPS) if kills >= ENOUGH]
    signed = {line["kid"] for line in received if "jti" in line}
    faults += [f"key {line['kid']} signs after it was revoked" for line in received if line.get("kind") == "bulk" and line["kid"] in told["retired"]]
    few += [] if signed & set(told["retired"]) else ["no key that had signed was retired"]
    say(", ".join(f"{name} {number}" for name, number in test.kills.items()))
    say(", ".join(f"{name} {number}" for name, number in counts.items()))
    say("steps (met by a kill): " + ", ".join(f"{name} {watch.happened[name]} ({watch.killed[name]})" for name in sorted(STEPS)))
    say("producer: " + ", ".join(f"{name} {number}" for name, number in sorted(told["tally"].items())))
    return faults, few


async def run(options, folder):
    began, good = time.monotonic(), False
    test = Run(options, folder)
    try:
        told = await test.whole()
        faults, few = judge(test, told)
        good = not faults and not few
    except Exception:
        for line in test.gateway.last_words():
            say(f"gateway: {line}")
        raise
    finally:
        await test.clear()
        test.gateway.disk.close(keep=None if good else folder / "kept")
    for fault in faults[:40]:
        say(f"FAULT {fault}")
    for reason in few:
        say(f"TOO LITTLE {reason}")
    say(f"{len(faults)} faults in {time.monotonic() - began:.0f} s, seed {options.seed}")
    return good


def main():
    parser = arguments(seed=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rate", type=float, default=400.0)
    parser.add_argument("--life", type=float, default=4.0, help="the longest that the gateway lives, in seconds")
    parser.add_argument("--no-rounds", dest="rounds", action="store_false")
    options = parser.parse_args()
    if options.kills < 1:
        parser.error("at least one kill")
    say(f"{options.kills} kills, seed {options.seed}")
    play("crash", options, lambda folder: asyncio.run(run(options, folder)))


if __name__ == "__main__":
    main()
