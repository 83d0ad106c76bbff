"""What pollers, subscribers and the receiver of multi-SET push have in common: many SETs at once, each with an answer of its own.

A SET is acknowledged, refused, or left without a word once, so that it comes again.
"""

import asyncio


class Batches:
    """One stream whose SETs arrive by the batch."""

    def __init__(self, receiver, stream, leave=0.01):
        self.receiver, self.stream, self.leave = receiver, stream, leave
        self.random = receiver.random
        self.left, self.acks, self.refusals = set(), [], {}

    async def take(self, sets, **more):
        """Judges the SETs of one message in its order and writes them down; tells how many were left."""
        left = 0
        for number, (name, token) in enumerate(sets.items()):
            if number % 8 == 7:
                # Others wait for their turn, and clocks are read late meanwhile.
                await asyncio.sleep(0)
            line = await self.receiver.judge(self.stream, token)
            if line.get("jti") != name:
                line["faults"].append(f"listed as {name!r}, and is {line.get('jti')!r}")
            line |= more
            if line.get("refuse"):
                line["action"] = "400"
                self.refusals[name] = {"err": "invalid_request", "description": "the crash test refuses this one"}
            elif not self.receiver.calm and name not in self.left and self.random.random() < self.leave:
                line["action"] = "left"
                self.left.add(name)
                left += 1
            else:
                line["action"], line["taken"] = "ack", True
                if name not in self.acks:
                    self.acks.append(name)
            self.receiver.write(line)
        return left

    def say(self, some=False):
        """What there is to say, or some of it; it stays until `said`."""
        acks = list(self.acks)
        if some and len(acks) > 1:
            acks = self.random.sample(acks, self.random.randint(1, len(acks)))
        return {"ack": acks, "setErrs": dict(self.refusals)}

    def said(self, what):
        """The other side has heard this."""
        told = set(what["ack"])
        self.acks = [one for one in self.acks if one not in told]
        for one in what["setErrs"]:
            self.refusals.pop(one, None)

    async def rest(self):
        """While the gateway is away."""
        await asyncio.sleep(self.random.uniform(0.01, 0.1))
