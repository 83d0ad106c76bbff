"""Plants each fault in honest books and demands that the checker finds it."""

import copy
import sys

from checker import LEAST, check, count, too_little

STREAMS = {"all": False, "some": True}


def honest():
    accepted, received = [], []
    for number in range(24):
        key = f"key-{number % 3}"
        accepted.append(
            {
                "id": f"e{number}",
                "key": key,
                "seq": number // 3 + 1,
                "refuse": number == 7,
                "wanted": number % 2 == 0,
                "txn": f"t{number}",
                "event": f"hash-{number}",
            }
        )
    for stream, only_wanted in STREAMS.items():
        for event in accepted:
            if event["wanted"] or not only_wanted:
                arrive(received, stream, event, "500" if event["id"] == "e4" else None)
    gateway = {
        "all": {"owed": 24, "acknowledged": 23, "parked": 1, "dropped": 0, "waiting": 0},
        "some": {"owed": 12, "acknowledged": 12, "parked": 0, "dropped": 0, "waiting": 0},
    }
    return accepted, received, gateway


def arrive(received, stream, event, first=None):
    line = {name: event[name] for name in ("id", "key", "seq", "refuse", "txn", "event")}
    line |= {"stream": stream, "jti": f"{stream}-{event['id']}", "payload": f"bytes-{stream}-{event['id']}", "faults": []}
    for action in [first, "400" if event["refuse"] else "202"]:
        if action:
            n = 10 * len(received)
            received.append(line | {"n": n, "end": n + 5, "action": action} | ({"taken": True} if action == "202" else {}))


def line_of(received, stream, identifier, nth=0):
    return [line for line in received if line["stream"] == stream and line["id"] == identifier][nth]


def lost(a, r, g):
    r.remove(line_of(r, "some", "e10"))


def lost_and_booked(a, r, g):
    r.remove(line_of(r, "some", "e10"))
    g["some"].update(owed=12, acknowledged=11, dropped=1)


def never_accepted(a, r, g):
    a.remove(next(line for line in a if line["id"] == "e20"))


def wrong_stream(a, r, g):
    r.append(line_of(r, "all", "e3") | {"stream": "some", "jti": "some-e3"})


def two_jtis(a, r, g):
    r.append(line_of(r, "all", "e3") | {"jti": "another"})


def one_jti_two_events(a, r, g):
    line_of(r, "all", "e3")["jti"] = "all-e5"


def one_jti_two_streams(a, r, g):
    line_of(r, "some", "e4")["jti"] = "all-e4"
    line_of(r, "some", "e4", 1)["jti"] = "all-e4"


def payload_changed(a, r, g):
    line_of(r, "all", "e4", 1)["payload"] = "other bytes"


def event_changed(a, r, g):
    line_of(r, "all", "e5")["event"] = "other"


def txn_changed(a, r, g):
    line_of(r, "all", "e5")["txn"] = "other"


def out_of_order(a, r, g):
    first, second = line_of(r, "all", "e9"), line_of(r, "all", "e12")
    for time in ("n", "end"):
        first[time], second[time] = second[time], first[time]


def overtaken_while_retried(a, r, g):
    # e4 is answered 500 first; e7 of the same key arrives before the repeat.
    repeat = line_of(r, "all", "e4", 1)["n"]
    line_of(r, "all", "e7").update(n=repeat - 3, end=repeat - 2)


def overtaken_while_under_way(a, r, g):
    # e9 is answered late; e12 of the same key arrives before that.
    line_of(r, "all", "e9")["end"] = line_of(r, "all", "e12")["n"] + 1


def faulty(a, r, g):
    line_of(r, "all", "e5")["faults"].append("signature: wrong")


def waiting(a, r, g):
    g["all"].update(waiting=1, acknowledged=22)


def dropped(a, r, g):
    g["all"].update(dropped=1, acknowledged=22)


def sum_wrong(a, r, g):
    g["all"].update(owed=25)


def unlisted(a, r, g):
    del g["some"]


def refused_without_reason(a, r, g):
    line = line_of(r, "all", "e5")
    line["action"] = "400"
    del line["taken"]
    g["all"].update(parked=2, acknowledged=22)


FAULTS = [
    lost,
    lost_and_booked,
    never_accepted,
    wrong_stream,
    two_jtis,
    one_jti_two_events,
    one_jti_two_streams,
    payload_changed,
    event_changed,
    txn_changed,
    out_of_order,
    overtaken_while_retried,
    overtaken_while_under_way,
    faulty,
    waiting,
    dropped,
    sum_wrong,
    unlisted,
    refused_without_reason,
]


def main():
    wrong = [f"honest books: {fault}" for fault in check(*honest(), STREAMS)]
    for plant in FAULTS:
        accepted, received, gateway = copy.deepcopy(honest())
        plant(accepted, received, gateway)
        if not check(accepted, received, gateway, STREAMS):
            wrong.append(f"the checker does not see: {plant.__name__}")
    if not too_little(count([], [], {}), 50):
        wrong.append("empty books are enough for the checker")
    if len(too_little(count([], [], {}), 50)) != len(LEAST):
        wrong.append("an empty run meets some of the minimums")
    for line in wrong:
        print(line)
    print(f"checker: {len(FAULTS) + 2 - len(wrong)} passed, {len(wrong)} failed")
    sys.exit(bool(wrong))


main()
