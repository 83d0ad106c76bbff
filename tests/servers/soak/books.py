"""The books of the soak, which are written outside the gateway, and their comparison with what it says.

A record has a fixed size, so that an hour of books is some hundred megabytes, and they are read once, in the order in which they were written. Each
subject has its events numbered from one, and a stream that wants one of them wants all: what is missing is seen at once.
"""

import array
import collections
import hashlib
import struct

# Subject, number in its order, txn, what it carries, when it was sent and accepted, whether it is to be refused.
ACCEPTED = struct.Struct("<HIQQddB")
# Stream, subject, number, jti, payload, txn, what it carries, when it came; behind the byte that says what a record is.
CAME = struct.Struct("<HHIQQQQd")
# Stream, subject, number, how it ended, and when.
ENDED = struct.Struct("<HHIBd")
HEAD_CAME, HEAD_ENDED = b"c", b"e"
# It was taken and the answer went out; it was refused; it was taken, and nobody heard the answer.
TAKEN, REFUSED, UNHEARD = 1, 2, 3

# How long after its answer an acknowledgement may be lost in a kill, and what clocks may differ by.
FLUSH, SLACK = 1.0, 0.5


def short(text):
    """A text as the books have it."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def read_accepted(path):
    with open(path, "rb") as file:
        while len(some := file.read(ACCEPTED.size * 4096)) >= ACCEPTED.size:
            yield from ACCEPTED.iter_unpack(some[: len(some) // ACCEPTED.size * ACCEPTED.size])


def read_came(path):
    """Each record of a book of receivers, with its head."""
    with open(path, "rb") as file:
        while head := file.read(1):
            form = CAME if head == HEAD_CAME else ENDED
            yield head, form.unpack(file.read(form.size))


class Accepted:
    """What the producers had accepted: `of[subject]` has txn, content, times and whether it is to be refused, by number."""

    def __init__(self, records):
        self.of, self.faults, self.count = collections.defaultdict(list), [], 0
        for subject, number, txn, event, sent, at, refuse in records:
            own = self.of[subject]
            if number != len(own) + 1:
                self.faults.append(f"the producer wrote event {number} of subject {subject} after {len(own)}")
            own.append((txn, event, sent, at, refuse))
            self.count += 1


class Lane:
    """One subject of one stream."""

    __slots__ = ("jti", "payload", "ended", "late", "before")

    def __init__(self):
        # By number, of which the first has place 0: jti and payload of what came, and how it ended; which may have been dropped although
        # they were taken.
        self.jti, self.payload, self.ended, self.late = array.array("Q"), array.array("Q"), bytearray(), set()
        # The last that came for the first time.
        self.before = 0

    def has(self, number):
        return number <= len(self.jti) and self.jti[number - 1] != 0

    def end_of(self, number):
        return self.ended[number - 1] if 0 < number <= len(self.ended) else 0

    def keep(self, number, jti, payload):
        more = number - len(self.jti)
        if more > 0:
            self.jti.extend([0] * more)
            self.payload.extend([0] * more)
            self.ended.extend([0] * more)
        self.jti[number - 1], self.payload[number - 1] = jti, payload


class Check:
    """Reads the books of receivers and finds what is wrong with them."""

    def __init__(self, streams, accepted, kills):
        self.accepted, self.kills = accepted, sorted(kills)
        self.streams = {stream["number"]: (name, stream) for name, stream in streams.items()}
        self.lanes = collections.defaultdict(dict)
        self.faults, self.counts, self.of_way = list(accepted.faults), collections.Counter(), collections.Counter()
        self.wanted = {number: set(stream["subjects"]) for number, (_, stream) in self.streams.items()}

    def fault(self, text):
        self.counts["faults"] += 1
        if len(self.faults) < 200:
            self.faults.append(text)

    def read(self, records):
        for head, record in records:
            if head == HEAD_CAME:
                self.came(*record)
            else:
                self.end(*record)

    def came(self, stream, subject, number, jti, payload, txn, event, at):
        name, terms = self.streams[stream]
        which = f"{name}: event {number} of subject {subject}"
        if subject not in self.wanted[stream]:
            return self.fault(f"{which} came and is not this stream's")
        events = self.accepted.of[subject]
        if not 0 < number <= len(events):
            return self.fault(f"{which} was never accepted")
        if events[number - 1][:2] != (txn, event):
            self.fault(f"{which} has another txn or content than was accepted")
        lane = self.lanes[stream].setdefault(subject, Lane())
        self.counts["came"] += 1
        if lane.has(number):
            self.counts["came again"] += 1
            if (lane.jti[number - 1], lane.payload[number - 1]) != (jti, payload):
                self.fault(f"{which} came again under another jti or with another payload")
            return None
        lane.keep(number, jti, payload)
        self.of_way[terms["way"]] += 1
        self.order(which, terms, lane, number)
        return None

    def order(self, which, terms, lane, number):
        """What comes for the first time comes after every earlier one of its subject: these have come, and where they are not given by the batch
        they have ended as well. Where a rule drops, what did not end never comes any more."""
        if number < lane.before:
            self.fault(f"{which} came after event {lane.before}")
        elif terms["retention"]:
            lane.before = number
        else:
            if number != lane.before + 1:
                self.fault(f"{which} came before event {lane.before + 1}")
            elif terms["way"] == "push" and lane.before and not lane.end_of(lane.before):
                self.fault(f"{which} came before event {lane.before} was taken")
            lane.before = number
        return None

    def end(self, stream, subject, number, how, at):
        name, terms = self.streams[stream]
        lane = self.lanes[stream].get(subject)
        which = f"{name}: event {number} of subject {subject}"
        if lane is None or not lane.has(number):
            return self.fault(f"{which} was taken and never came")
        events = self.accepted.of[subject]
        if (how == REFUSED) != bool(events[number - 1][4]):
            self.fault(f"{which} was {'refused' if how == REFUSED else 'taken'} against what it says")
        if not lane.end_of(number) and terms["retention"] and number < lane.before:
            self.fault(f"{which} was taken after event {lane.before} had come")
        if lane.end_of(number) in (0, UNHEARD):
            lane.ended[number - 1] = how
            if "age" in terms["retention"]:
                sent = events[number - 1][2]
                lost = any(at - SLACK <= kill <= at + FLUSH for kill in self.kills)
                late = how == UNHEARD or lost or at > sent + terms["retention"]["age"] - SLACK
                lane.late.add(number) if late else lane.late.discard(number)
        return None

    def close(self, told):
        """Compares the sums with what the gateway says of its streams, and returns all faults."""
        names = array.array("Q")
        for stream, (name, terms) in self.streams.items():
            owed = sum(len(self.accepted.of[subject]) for subject in terms["subjects"])
            ends, late = collections.Counter(), 0
            for lane in self.lanes[stream].values():
                ends["refused"] += lane.ended.count(REFUSED)
                ends["taken"] += lane.ended.count(TAKEN) + lane.ended.count(UNHEARD)
                late += len(lane.late)
                names.extend(jti for jti in lane.jti if jti)
            self.counts["owed"] += owed
            self.counts["delivered"] += ends["taken"]
            self.counts["parked"] += ends["refused"]
            self.sums(name, terms, told.get(name), owed, ends, late)
        names = sorted(names)
        twice = sum(one == other for one, other in zip(names, names[1:]))
        if twice:
            self.fault(f"{twice} jti name more than one SET")
        return self.faults

    def sums(self, name, terms, gateway, owed, ends, late):
        if gateway is None:
            return self.fault(f"the gateway does not list {name}")
        never = owed - ends["taken"] - ends["refused"]
        if never and not terms["retention"]:
            first = next(
                (subject, number)
                for subject in terms["subjects"]
                for number in range(1, len(self.accepted.of[subject]) + 1)
                if not self.lanes[terms["number"]].get(subject, Lane()).end_of(number)
            )
            self.fault(f"{name}: {never} events were accepted and never delivered, the first is event {first[1]} of subject {first[0]}")
        dropped = gateway["dropped"]
        self.counts["dropped"] += dropped
        if not never <= dropped <= never + late:
            self.fault(f"{name}: the gateway says dropped {dropped}, the books say {never}" + f" to {never + late}" * bool(late))
        over = dropped - never
        facts = {"owed": owed, "acknowledged": ends["taken"] - over, "parked_total": ends["refused"], "waiting": 0}
        for field, number in facts.items():
            if gateway[field] != number:
                self.fault(f"{name}: the gateway says {field} {gateway[field]}, the books say {number}")
        return None
