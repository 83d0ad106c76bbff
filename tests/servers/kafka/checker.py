"""Compares what was accepted with a topic that was read back completely. Nothing here knows how the gateway works inside.

A line of what was accepted has `id`, `txn`, `subject` and `seq` in the order of acceptance; a line of what was read has the same,
and `jti`, `payload` (the bytes that must be the same in each copy), `partition` and `offset`.
"""

import collections


def check(stream, accepted, read, gateway=None):
    """Returns the faults found in one stream."""
    events = {line["txn"]: line for line in accepted}
    faults = [] if len(events) == len(accepted) else ["two accepted events have the same txn"]
    faults += copies(events, read)
    came = {line["txn"] for line in read}
    faults += [f"event {txn} was accepted and is missing" for txn in sorted(set(events) - came)]
    faults += [f"event {txn} came and was never accepted" for txn in sorted(came - set(events))]
    faults += order(accepted, read)
    if gateway is not None:
        faults += books(len(accepted), gateway)
    return [f"{stream}: {fault}" for fault in faults]


def copies(events, read):
    """An event is one SET: another copy has the same `jti` and the same bytes, and says what was accepted."""
    faults, of_jti, of_txn = [], {}, {}
    for line in read:
        payload = line["txn"], line["payload"]
        if of_jti.setdefault(line["jti"], payload) != payload:
            faults.append(f"jti {line['jti']} names two SETs")
        if of_txn.setdefault(line["txn"], line["jti"]) != line["jti"]:
            faults.append(f"event {line['txn']} came as {of_txn[line['txn']]} and as {line['jti']}")
        event = events.get(line["txn"])
        for name in ("subject", "seq"):
            if event is not None and event[name] != line[name]:
                faults.append(f"event {line['txn']} has {name} {line[name]!r}, accepted was {event[name]!r}")
    return faults


def order(accepted, read):
    """A subject lies in one partition, and first arrivals there have the order of acceptance. A repeat may come later."""
    wanted, firsts, places = collections.defaultdict(list), collections.defaultdict(list), collections.defaultdict(set)
    for line in accepted:
        wanted[line["subject"]].append(line["txn"])
    seen = set()
    for line in sorted(read, key=lambda one: (one["partition"], one["offset"])):
        places[line["subject"]].add(line["partition"])
        if line["txn"] not in seen:
            seen.add(line["txn"])
            firsts[line["subject"]].append(line["txn"])
    faults = [f"subject {subject} lies in partitions {sorted(found)}" for subject, found in places.items() if len(found) > 1]
    for subject, txns in wanted.items():
        # What is missing is told elsewhere.
        expected = [txn for txn in txns if txn in seen]
        found = [txn for txn in firsts[subject] if txn in set(txns)]
        wrong = next(((one, two) for one, two in zip(found, expected) if one != two), None)
        if wrong:
            faults.append(f"subject {subject}: {wrong[0]} came where {wrong[1]} was due")
    return faults


def books(owed, gateway):
    """owed = acknowledged + parked + dropped + waiting."""
    faults = []
    for name, number in {"owed": owed, "acknowledged": owed, "parked": 0, "dropped": 0, "waiting": 0}.items():
        if gateway.get(name) != number:
            faults.append(f"the gateway says {name} {gateway.get(name)}, the books say {number}")
    return faults


def repeats(read):
    """How many records are copies of an earlier one."""
    return len(read) - len({line["jti"] for line in read})


def line(record, claims):
    """A record as this checker reads it: from our own events, whose payload says the subject and the sequence."""
    (body,) = claims["events"].values()
    return {
        "txn": claims["txn"], "jti": claims["jti"], "subject": body["subject_name"], "seq": body["seq"],
        "payload": {name: value for name, value in claims.items()}, "partition": record.partition, "offset": record.offset,
    }  # fmt: skip


def book(events):
    """Events as they were posted, as this checker reads them."""
    lines = []
    for event in events:
        (body,) = event["events"].values()
        lines.append({"id": event["id"], "txn": event["txn"], "subject": body["subject_name"], "seq": body["seq"]})
    return lines
