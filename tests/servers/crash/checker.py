"""Compares the books of the crash test: what was accepted, what was received, what the gateway says.

Nothing here knows how the gateway works inside; every rule is a promise of its documentation.
"""

import collections
from typing import NamedTuple

# Less than this has not shown anything.
LEAST = {
    "accepted": 40,
    "received": 40,
    "keys": 20,
    "retried": 1,
    "answers lost": 1,
    "answered 500": 1,
    "answered 503": 1,
    "dropped": 1,
    "refused": 1,
    "polled": 10,
    "by socket": 10,
    "pushed by the batch": 10,
    "left unanswered": 1,
    "hang-ups": 1,
    "sockets": 0.5,
    "acknowledged by poll": 10,
    "repeats": 1,
    "posts broken": 0.5,
}
# Whatever happens once in a run, however few kills it has.
ONCE = {"keys", "retried", "answers lost", "answered 500", "answered 503", "dropped", "refused", "repeats", "left unanswered", "hang-ups"}


# How long before a kill an acknowledgement may have been heard and still be lost: `router.flush` and `store.flush`
# at their defaults, and what a busy machine adds to them: one round of the writer that has housekeeping to do, and one that then flushes.
FLUSH = 0.02 + 0.05 + 0.93

# What the clocks of three processes may differ by when ages are judged.
SLACK = 0.5


class Seen(NamedTuple):
    """What the controller saw of the gateway.

    gateway: what it says of each stream at the end: owed, acknowledged, parked, dropped, waiting.
    heard:   acknowledgements that it answered, and when.
    kills:   when it was killed.
    full:    from when to when its disk was full.
    answers: when each event that it accepted was sent, and when the answer came.
    views:   what it said of each stream during the run, and when.
    quiet:   the last of them before those who were away came back, when nothing had been accepted for two rounds of housekeeping.
    """

    gateway: dict
    heard: list = []
    kills: list = []
    full: list = []
    answers: list = []
    views: list = []
    quiet: dict = {}


def check(accepted, received, streams, batched, seen):
    """Returns the faults found.

    accepted: lines of the producer's book, in the order of acceptance within each key.
    received: lines of the receiver's book; `n` and `end` say when a request arrived and when it was answered.
    streams:  stream -> `kinds` of events that it wants, and its `retention`: none, an `age` or a number of `sets`.
    batched:  those of them whose SETs arrive many at once.
    """
    faults = []
    events = {}
    for line in accepted:
        if line["id"] in events:
            faults.append(f"the producer wrote {line['id']} twice")
        events[line["id"]] = line
    for line in received:
        for fault in line["faults"]:
            faults.append(f"{line['stream']}: request {line['n']}: {fault}")
    whole = [line for line in received if "jti" in line]
    faults += identities(events, whole)
    for stream, terms in streams.items():
        own = [line for line in whole if line["stream"] == stream]
        owed = [line for line in accepted if line["kind"] in terms["kinds"]]
        if terms.get("retention"):
            faults += dropped(stream, owed, own, seen, terms["retention"])
            faults += strangers(stream, owed, own)
            # What was dropped keeps nobody waiting, whether it came and was left unanswered before or never came.
            ended = ends(own)
            owed = [line for line in owed if line["id"] in ended]
        else:
            faults += books(stream, owed, own, seen.gateway.get(stream))
            faults += strangers(stream, owed, own) + completeness(stream, owed, own)
        faults += order(stream, owed, own, stream in batched)
    faults += sums(streams, seen)
    faults += repeats(whole, seen)[1]
    unknown = {line["stream"] for line in whole} - set(streams)
    faults += [f"{stream} is no stream of this test" for stream in sorted(unknown)]
    return faults


def identities(events, received):
    """One jti is one SET of one stream with one payload; all copies of an event share its txn."""
    faults, of_jti, of_event = [], {}, {}
    for line in received:
        told = (line["stream"], line["id"], line["payload"])
        first = of_jti.setdefault(line["jti"], told)
        if first != told:
            faults.append(f"jti {line['jti']} names two SETs: {first} and {told}")
        other = of_event.setdefault((line["stream"], line["id"]), line["jti"])
        if other != line["jti"]:
            faults.append(f"{line['stream']}: event {line['id']} came as {other} and as {line['jti']}")
        event = events.get(line["id"])
        if event is None:
            faults.append(f"{line['stream']}: event {line['id']} was never accepted")
            continue
        for name in ("txn", "event", "key", "seq"):
            if line[name] != event[name]:
                faults.append(f"{line['stream']}: event {line['id']} has {name} {line[name]!r}, accepted was {event[name]!r}")
    return faults


def ends(own):
    """What was taken or refused, and with which line."""
    return {line["id"]: line for line in own if line.get("taken") or line["action"] == "400"}


def completeness(stream, owed, own):
    """Everything owed was taken or refused."""
    ended = ends(own)
    return [f"{stream}: event {line['id']} was accepted and never delivered" for line in owed if line["id"] not in ended]


def strangers(stream, owed, own):
    """Nothing came that is not owed, and nothing was refused that was not to be."""
    came = {line["id"] for line in own}
    wanted = {line["id"] for line in owed}
    faults = [f"{stream}: event {one} came and is not this stream's" for one in sorted(came - wanted)]
    for line in own:
        if line["action"] == "400" and not line["refuse"]:
            faults.append(f"{stream}: event {line['id']} was refused without reason")
    return faults


def order(stream, owed, own, batched=False):
    """When a SET first arrives, every earlier SET of its key has been taken or refused; of a batch, it has arrived."""
    before, last = {}, {}
    for line in owed:
        before[line["id"]] = last.get(line["key"])
        last[line["key"]] = line["id"]
    faults, seen, ended = [], set(), set()
    timeline = [(line["n"], True, line) for line in own] + [(line["end"], False, line) for line in own]
    for _, arrives, line in sorted(timeline, key=lambda moment: moment[0]):
        one = line["id"]
        if not arrives:
            if line.get("taken") or line["action"] == "400":
                ended.add(one)
        elif one not in seen:
            earlier = before.get(one)
            if earlier is not None and earlier not in (seen if batched else ended):
                faults.append(f"{stream}: {one} ({line['key']} {line['seq']}) came before {earlier} was taken")
            seen.add(one)
    return faults


def repeats(received, seen):
    """What was acknowledged comes again only if it was asked for before that was heard, or if a kill followed at once; on a full disk
    nothing can be written down, so that a kill there may follow later. On a busy machine the writer may stand longer: then no event either
    is answered that was sent later than this.

    Returns how long before a kill the lost acknowledgements had been heard, and the faults.
    """
    known = collections.defaultdict(list)
    for line in seen.heard:
        known[line["stream"], line["jti"]].append((line["at"], line["said"]))
    excused, faults = [], []

    def lost(at, kill):
        full = any(begin <= at + FLUSH and kill <= end + FLUSH for begin, end in seen.full)
        return kill <= at + FLUSH or full or not any(at + FLUSH <= sent and answered <= kill for sent, answered in seen.answers)

    for line in received:
        asked = line.get("asked")
        before = [one for one in known.get((line["stream"], line["jti"]), ()) if asked is not None and one[0] < asked]
        if not before:
            continue
        # The gateway knew it at some moment between these two: whoever listens may be slow.
        at, said = max(before)
        kill = next((kill for kill in sorted(seen.kills) if said <= kill <= asked and lost(at, kill)), None)
        if kill is not None:
            excused.append(max(kill - at, 0))
        else:
            faults.append(f"{line['stream']}: {line['jti']} came again, acknowledged {asked - at:.3f} s before it was asked for")
    return excused, faults


def books(stream, owed, own, gateway):
    """owed = acknowledged + parked + dropped + waiting, and each of them is what really happened."""
    if gateway is None:
        return [f"the gateway does not list {stream}"]
    refused = {line["jti"] for line in own if line["action"] == "400"}
    taken = {line["jti"] for line in own if line.get("taken")} - refused
    facts = {"owed": len(owed), "acknowledged": len(taken), "parked": len(refused), "dropped": 0, "waiting": 0}
    faults = []
    for name, number in facts.items():
        if gateway.get(name) != number:
            faults.append(f"{stream}: the gateway says {name} {gateway.get(name)}, the books say {number}")
    total = sum(gateway.get(name) or 0 for name in ("acknowledged", "parked", "dropped", "waiting"))
    if gateway.get("owed") != total:
        faults.append(f"{stream}: owed {gateway.get('owed')} is not the sum {total}")
    return faults


def sums(streams, seen):
    """At every look owed = acknowledged + parked + dropped + waiting, and neither what is owed nor what is dropped becomes less."""
    faults, most = [], collections.Counter()
    for view in seen.views:
        faults += [f"at {view['at']:.3f}: {fault}" for fault in law(figures(view["metrics"]))]
        for stream in streams:
            told = view["streams"].get(stream)
            if told is None:
                faults.append(f"{stream} is not listed at {view['at']:.3f}")
                continue
            total = sum(told[name] for name in ("acknowledged", "parked_total", "dropped", "waiting"))
            if told["owed"] != total:
                faults.append(f"{stream}: at {view['at']:.3f} owed {told['owed']} is not the sum {total}")
            for name in ("owed", "dropped"):
                if told[name] < most[stream, name]:
                    faults.append(f"{stream}: at {view['at']:.3f} {name} fell from {most[stream, name]} to {told[name]}")
                most[stream, name] = told[name]
    return faults


def metrics(before, after, page):
    """What the counters of one process say is what became of its streams meanwhile, and owed = acknowledged + parked + dropped + waiting.

    before, after: what it said of its streams, the first time when nothing was owed yet.
    page:          its metrics then, by name with labels.
    """
    faults, numbers = [], figures(page)
    for name, number in numbers.items():
        field = "parked_total" if name == "parked" else name
        more = sum(stream[field] - before[one][field] for one, stream in after.items())
        if number != more:
            faults.append(f"the metrics say {name} {number:.0f}, the streams say {more}")
    return faults + law(numbers)


def figures(page):
    """The five figures of all streams together, out of the metrics."""
    found = dict.fromkeys(("owed", "acknowledged", "parked", "dropped", "waiting"), 0)
    for name in found:
        metric = f"setgate_deliveries_{name}" + ("" if name == "waiting" else "_total")
        found[name] = sum(value for known, value in page.items() if known.partition("{")[0] == metric)
    return found


def law(numbers):
    """owed = acknowledged + parked + dropped + waiting; what waited when the process began is among what is owed."""
    total = sum(numbers[name] for name in ("acknowledged", "parked", "dropped", "waiting"))
    return [] if numbers["owed"] == total else [f"in the metrics owed {numbers['owed']:.0f} is not the sum {total:.0f}"]


def dropped(stream, owed, own, seen, rule):
    """What never came was dropped, nothing else was, and never what the rule keeps."""
    told = seen.gateway.get(stream)
    if told is None:
        return [f"the gateway does not list {stream}"]
    faults = []
    ended = ends(own)
    never = [line for line in owed if line["id"] not in ended]
    # What was taken late may have been dropped before its acknowledgement was there, or that one was lost in a kill.
    first = {}
    for line in seen.heard:
        first.setdefault((line["stream"], line["jti"]), line["at"])
    late = 0
    for line in owed:
        end = ended.get(line["id"])
        if end and "age" in rule:
            at = first.get((stream, end["jti"]))
            late += at is None or at > line["sent"] + rule["age"] - SLACK or any(at - SLACK <= kill <= at + FLUSH for kill in seen.kills)
    if told.get("owed") != len(owed):
        faults.append(f"{stream}: the gateway says owed {told.get('owed')}, the books say {len(owed)}")
    total = sum(told.get(name) or 0 for name in ("acknowledged", "parked", "dropped", "waiting"))
    if told.get("owed") != total:
        faults.append(f"{stream}: owed {told.get('owed')} is not the sum {total}")
    if told.get("waiting"):
        faults.append(f"{stream}: {told['waiting']} are waiting")
    number = told.get("dropped", 0)
    if number < len(never):
        faults.append(f"{stream}: {len(never)} events never came and {number} were dropped: {sorted(line['id'] for line in never)[:3]}")
    if number > len(never) + late:
        faults.append(f"{stream}: {number} were dropped, but only {len(never)} never came and {late} came late")
    for view in seen.views:
        now = view["streams"].get(stream, {})
        number = now.get("dropped", 0)
        if "age" in rule:
            old = sum(line["sent"] <= view["at"] - rule["age"] + SLACK for line in owed)
            if number > old:
                faults.append(f"{stream}: at {view['at']:.3f} {number} were dropped, and only {old} were older than {rule['age']} s")
        elif number and now["owed"] - number < rule["sets"]:
            faults.append(f"{stream}: at {view['at']:.3f} {number} of {now['owed']} were dropped, {rule['sets']} are to be kept")
    if seen.quiet:
        now = seen.quiet["streams"].get(stream, {})
        kept = rule.get("sets", 0)
        if "age" in rule:
            since = seen.quiet["at"] - rule["age"] - 2 * seen.quiet["every"] - 1
            kept = sum(line["at"] >= since for line in owed)
        if now.get("waiting", 0) > kept:
            faults.append(f"{stream}: {now['waiting']} waited where {kept} are kept")
    return faults


def count(accepted, received, tally, seen):
    """What happened in the run."""
    actions = collections.Counter(line.get("action") for line in received)
    ways = collections.Counter(line.get("way") for line in received)
    lost = repeats([line for line in received if "jti" in line], seen)[0]
    arrivals = collections.Counter(line["jti"] for line in received if "jti" in line)
    return {
        "accepted": len(accepted),
        "received": len(received),
        "keys": len({line["key"] for line in accepted}),
        "delivered": len(arrivals),
        "retried": sum(1 for number in arrivals.values() if number > 1),
        "answers lost": actions["lost"],
        "answered 500": actions["500"],
        "answered 503": actions["503"],
        "dropped": actions["drop"],
        "answered late": actions["late"],
        "refused": actions["400"],
        "polled": ways["poll"],
        "by socket": ways["socket"],
        "pushed by the batch": ways["multipush"],
        "left unanswered": actions["left"],
        "hang-ups": tally.get("hang-ups", 0),
        "hang-ups while waiting": tally.get("hang-ups while waiting", 0),
        "sockets": tally.get("sockets", 0),
        "acknowledged by poll": len(seen.heard),
        "acknowledgements lost in a kill": len(lost),
        "ms before it at most": round(1000 * max(lost, default=0)),
        "repeats": tally.get("repeats", 0),
        "posts broken": tally.get("broken", 0),
    }


def too_little(counts, kills):
    """Reasons why this run shows nothing."""
    found = []
    for name, least in LEAST.items():
        least = least if name in ONCE else least * kills
        if counts[name] < least:
            found.append(f"only {counts[name]} {name}, at least {least:.0f} are needed to show anything")
    return found
