"""Plants each fault in honest books and demands that the checker finds it."""

import copy
import sys

from checker import LEAST, check, count, too_little

STREAMS = {"all": False, "some": True, "polled": True}
BATCHED = {"polled"}
KILLS = [1000.0]


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
                first = {"all": "500", "some": "500", "polled": "left"}[stream] if event["id"] == "e4" else None
                arrive(received, stream, event, first)
    gateway = {
        "all": {"owed": 24, "acknowledged": 23, "parked": 1, "dropped": 0, "waiting": 0},
        "some": {"owed": 12, "acknowledged": 12, "parked": 0, "dropped": 0, "waiting": 0},
        "polled": {"owed": 12, "acknowledged": 12, "parked": 0, "dropped": 0, "waiting": 0},
    }
    # e10 of key 1 stands in the answer that had e4, of the same key, and e4 was left once.
    line_of(received, "polled", "e10").update(n=line_of(received, "polled", "e4")["n"] + 1)
    for line in received:
        if line["stream"] == "polled":
            line["asked"] = line["n"] / 10
    HEARD[:] = [
        {"stream": line["stream"], "jti": line["jti"], "said": line["asked"] + 0.05, "at": line["asked"] + 0.1}
        for line in received
        if line["stream"] == "polled" and line.get("taken")
    ]
    # This one was heard just before a kill and came again.
    again = line_of(received, "polled", "e22")
    received.append(again | {"n": 10_010, "end": 10_015, "asked": 1001.0})
    heard("e22").update(said=999.9, at=999.95)
    # This one came again because it had been asked for before its acknowledgement was heard.
    again = line_of(received, "polled", "e20")
    received.append(again | {"n": 10_020, "end": 10_025, "asked": again["asked"] + 0.05})
    return accepted, received, gateway


HEARD = []


def heard(identifier):
    return next(line for line in HEARD if line["jti"] == f"polled-{identifier}")


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


def batch_out_of_order(a, r, g):
    first, second = line_of(r, "polled", "e4"), line_of(r, "polled", "e10")
    first["n"], second["n"] = second["n"], first["n"]


def never_came_again(a, r, g):
    r.remove(line_of(r, "polled", "e4", 1))


def came_again_without_a_kill(a, r, g):
    line_of(r, "polled", "e20", 1)["asked"] = heard("e20")["at"] + 0.01


def came_again_though_long_written_down(a, r, g):
    heard("e22").update(said=998.8, at=998.9)


def came_again_after_a_kill_that_came_later(a, r, g):
    line_of(r, "polled", "e22", 1)["asked"] = 999.96 - 0.55
    heard("e22").update(said=999.3, at=999.4)


def came_again_after_a_second_acknowledgement(a, r, g):
    HEARD.append(heard("e22") | {"said": 1001.5, "at": 1001.6})
    r.append(line_of(r, "polled", "e22") | {"n": 10_030, "end": 10_035, "asked": 1002.0})


def came_again_with_other_bytes(a, r, g):
    line_of(r, "polled", "e22", 1)["payload"] = "other bytes"


FAULTS = [
    batch_out_of_order,
    never_came_again,
    came_again_without_a_kill,
    came_again_though_long_written_down,
    came_again_after_a_kill_that_came_later,
    came_again_after_a_second_acknowledgement,
    came_again_with_other_bytes,
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
    def found(*books):
        return check(*books, STREAMS, BATCHED, HEARD, KILLS)

    wrong = [f"honest books: {fault}" for fault in found(*honest())]
    counts = count(*honest()[:2], {}, HEARD, KILLS)
    if (counts["acknowledgements lost in a kill"], counts["ms before it at most"]) != (1, 50):
        wrong.append(f"honest books: {counts}")
    for plant in FAULTS:
        accepted, received, gateway = copy.deepcopy(honest())
        plant(accepted, received, gateway)
        if not found(accepted, received, gateway):
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
