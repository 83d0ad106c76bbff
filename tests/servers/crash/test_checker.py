"""Plants each fault in honest books and demands that the checker finds it."""

import copy
import sys

import rounds
from checker import LEAST, Seen, check, count, metrics, too_little
from watch import steps

STREAMS = {
    "all": {"kinds": ["even", "odd"]},
    "some": {"kinds": ["even"]},
    "polled": {"kinds": ["even"]},
    "counted": {"kinds": ["odd"], "retention": {"sets": 5}},
    "aged": {"kinds": ["odd"], "retention": {"age": 100}},
}
BATCHED = {"polled"}
KILLS = [1000.0, 2005.0, 3003.0]
# Events that were accepted beside those below: when they were sent, and when the answer came.
ANSWERS = [(998.0, 998.1), (1998.0, 1998.1), (3000.5, 3003.5)]
# The disk was full, and the second kill was then.
FULL = [(2000.0, 2010.0)]


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
                "kind": "odd" if number % 2 else "even",
                "sent": 10.0 * number,
                "at": 10.0 * number + 0.1,
                "txn": f"t{number}",
                "event": f"hash-{number}",
            }
        )
    for stream, terms in STREAMS.items():
        for event in accepted:
            # Those that keep little have the last five: e15, e17, e19, e21 and e23.
            gone = "retention" in terms and int(event["id"][1:]) < 15
            if event["kind"] in terms["kinds"] and not gone:
                first = {"all": "500", "some": "500", "polled": "left"}.get(stream) if event["id"] == "e4" else None
                arrive(received, stream, event, first)
    gateway = {
        "all": {"owed": 24, "acknowledged": 23, "parked": 1, "dropped": 0, "waiting": 0},
        "some": {"owed": 12, "acknowledged": 12, "parked": 0, "dropped": 0, "waiting": 0},
        "polled": {"owed": 12, "acknowledged": 12, "parked": 0, "dropped": 0, "waiting": 0},
        "counted": {"owed": 12, "acknowledged": 5, "parked": 0, "dropped": 7, "waiting": 0},
        "aged": {"owed": 12, "acknowledged": 5, "parked": 0, "dropped": 7, "waiting": 0},
    }
    VIEWS[:] = [view(100.0, 5, 0, 5), view(236.0, 12, 7, 5)]
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
    # These came before they were dropped, and were left unanswered.
    for stream in ("counted", "aged"):
        arrive(received, stream, next(event for event in accepted if event["id"] == "e13"))
        line_of(received, stream, "e13").update(action="left", taken=False)
    # This one was heard just before a kill and came again.
    again = line_of(received, "polled", "e22")
    received.append(again | {"n": 10_010, "end": 10_015, "asked": 1001.0})
    heard("e22").update(said=999.9, at=999.95)
    # This one was heard on a full disk, on which nothing can be written down, and came again after a kill there.
    again = line_of(received, "polled", "e18")
    received.append(again | {"n": 10_030, "end": 10_035, "asked": 2006.0})
    heard("e18").update(said=2001.0, at=2001.1)
    # This one was heard while the writer stood: what was sent since then was not answered before the kill.
    again = line_of(received, "polled", "e16")
    received.append(again | {"n": 10_040, "end": 10_045, "asked": 3004.0})
    heard("e16").update(said=3000.1, at=3000.2)
    # This one came again because it had been asked for before its acknowledgement was heard.
    again = line_of(received, "polled", "e20")
    received.append(again | {"n": 10_020, "end": 10_025, "asked": again["asked"] + 0.05})
    return accepted, received, gateway


HEARD, VIEWS = [], []


def view(at, odd, dropped, waiting):
    """What the gateway says while those who keep little are away; the others are not of interest here."""
    told = {name: {"owed": 4, "acknowledged": 3, "parked_total": 1, "dropped": 0, "waiting": 0} for name in STREAMS}
    for name in ("counted", "aged"):
        told[name] = {"owed": odd, "acknowledged": 0, "parked_total": 0, "dropped": dropped, "waiting": waiting}
    page = {'setgate_deliveries_owed_total{origin="before"}': 3, 'setgate_deliveries_owed_total{origin="event"}': 2}
    page |= {"setgate_deliveries_waiting": 4, 'setgate_deliveries_dropped_total{method="poll",rule="too_old"}': 1}
    return {"at": at, "streams": told, "every": 1, "metrics": page}


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
    heard("e22").update(said=996.8, at=996.9)


def came_again_after_a_kill_that_came_later(a, r, g):
    line_of(r, "polled", "e22", 1)["asked"] = 999.96 - 0.55
    heard("e22").update(said=999.3, at=999.4)


def came_again_after_a_second_acknowledgement(a, r, g):
    HEARD.append(heard("e22") | {"said": 1001.5, "at": 1001.6})
    r.append(line_of(r, "polled", "e22") | {"n": 10_030, "end": 10_035, "asked": 1002.0})


def came_again_though_the_disk_was_not_full(a, r, g):
    heard("e18").update(said=1996.0, at=1996.1)


def came_again_though_the_writer_went_on(a, r, g):
    heard("e16").update(said=2996.8, at=2996.9)
    ANSWERS.append((2998.0, 2998.1))


def never_came_and_not_dropped(a, r, g):
    r.remove(line_of(r, "counted", "e21"))


def more_dropped_than_missing(a, r, g):
    g["counted"].update(dropped=8, acknowledged=4)


def fresh_ones_dropped(a, r, g):
    # e15 was sent at 150.
    VIEWS[1]["streams"]["aged"].update(dropped=8, waiting=4)


def fewer_kept_than_promised(a, r, g):
    VIEWS[1]["streams"]["counted"].update(dropped=8, waiting=4)


def more_kept_than_promised(a, r, g):
    VIEWS[1]["streams"]["counted"].update(dropped=6, waiting=6)


def old_ones_kept(a, r, g):
    VIEWS[1] = view(400.0, 12, 7, 5)


def dropped_falls(a, r, g):
    VIEWS.insert(1, view(230.0, 12, 8, 4))
    VIEWS[1]["streams"]["aged"].update(dropped=7, waiting=5)


def sum_wrong_meanwhile(a, r, g):
    VIEWS[0]["streams"]["all"]["owed"] = 5


def metrics_wrong_meanwhile(a, r, g):
    VIEWS[0]["metrics"]["setgate_deliveries_waiting"] = 5


def unlisted_meanwhile(a, r, g):
    del VIEWS[0]["streams"]["all"]


def out_of_order_after_dropping(a, r, g):
    first, second = line_of(r, "counted", "e15"), line_of(r, "counted", "e21")
    for time in ("n", "end"):
        first[time], second[time] = second[time], first[time]


def came_again_with_other_bytes(a, r, g):
    line_of(r, "polled", "e22", 1)["payload"] = "other bytes"


FAULTS = [
    batch_out_of_order,
    never_came_again,
    came_again_without_a_kill,
    came_again_though_long_written_down,
    came_again_after_a_kill_that_came_later,
    came_again_after_a_second_acknowledgement,
    came_again_though_the_disk_was_not_full,
    came_again_though_the_writer_went_on,
    never_came_and_not_dropped,
    more_dropped_than_missing,
    fresh_ones_dropped,
    fewer_kept_than_promised,
    more_kept_than_promised,
    old_ones_kept,
    dropped_falls,
    sum_wrong_meanwhile,
    metrics_wrong_meanwhile,
    unlisted_meanwhile,
    out_of_order_after_dropping,
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


# What was measured after the rounds of a soak, and how many faults it has.
SOAKS = [
    ([(100 << 20, 0, 0), (170 << 20, 4 << 20, 2), (101 << 20, 0, 0)], 0),
    ([(30 << 20, 0, 0), (90 << 20, 0, 0), (170 << 20, 0, 0)], 0),
    ([(30 << 20, 0, 0), (180 << 20, 0, 0), (100 << 20, 0, 0)], 1),
    ([(100 << 20, 0, 0), (100 << 20, 40 << 20, 20), (100 << 20, 80 << 20, 40)], 1),
]
# Lines of the log, and what they tell of where a segment has 1000 bytes.
LINES = [
    ({"message": "a segment is full", "bytes": 1000}, ["segment full by bytes"]),
    ({"message": "a segment is full", "bytes": 999}, ["segment full by records"]),
    ({"message": "segments are given up", "gone": 2, "condensed": 0, "swept": 4}, ["trimmed", "held swept"]),
    ({"message": "segments are given up", "gone": 0, "condensed": 1, "swept": 0}, ["condensed"]),
    ({"message": "segments were given up and are cleared away", "segments": 0}, []),
    ({"message": "the gateway is ready"}, []),
]


# What a process said of its streams at first and at last, and its metrics then.
PAGE = (
    {"all": {"owed": 9, "acknowledged": 5, "parked_total": 3, "dropped": 1, "waiting": 0}},
    {"all": {"owed": 20, "acknowledged": 10, "parked_total": 5, "dropped": 2, "waiting": 3}},
    {
        "setgate_deliveries_owed_total": 11,
        'setgate_deliveries_acknowledged_total{method="push",receipt="receiver"}': 4,
        'setgate_deliveries_acknowledged_total{method="poll",receipt="receiver"}': 1,
        'setgate_deliveries_parked_total{method="push",code="invalid_request"}': 2,
        'setgate_deliveries_dropped_total{method="push",rule="too_old"}': 1,
        "setgate_deliveries_waiting": 3,
    },
)


def seen(gateway):
    return Seen(gateway, HEARD, KILLS, FULL, ANSWERS, VIEWS, VIEWS[1] if len(VIEWS) == 2 else {})


def main():
    def found(*books):
        accepted, received, gateway = books
        return check(accepted, received, STREAMS, BATCHED, seen(gateway))

    wrong = [f"honest books: {fault}" for fault in found(*honest())]
    accepted, received, gateway = honest()
    counts = count(accepted, received, {}, seen(gateway))
    if (counts["acknowledgements lost in a kill"], counts["ms before it at most"]) != (3, 3900):
        wrong.append(f"honest books: {counts}")
    for plant in FAULTS:
        accepted, received, gateway = copy.deepcopy(honest())
        plant(accepted, received, gateway)
        if not found(accepted, received, gateway):
            wrong.append(f"the checker does not see: {plant.__name__}")
    for sizes, faults in SOAKS:
        if len(rounds.judge(sizes)) != faults:
            wrong.append(f"the soak finds {rounds.judge(sizes)} in {sizes}")
    for line, found_in_it in LINES:
        if steps(line, 1000) != found_in_it:
            wrong.append(f"{line} tells of {steps(line, 1000)}")
    if metrics(*PAGE):
        wrong.append(f"honest metrics: {metrics(*PAGE)}")
    for name in PAGE[2]:
        if not metrics(*PAGE[:2], PAGE[2] | {name: PAGE[2][name] + 1}):
            wrong.append(f"the checker does not see that {name} is wrong")
    nothing = count([], [], {}, seen({}))
    if not too_little(nothing, 50):
        wrong.append("empty books are enough for the checker")
    if len(too_little(nothing, 50)) != len(LEAST):
        wrong.append("an empty run meets some of the minimums")
    for line in wrong:
        print(line)
    print(f"checker: {len(FAULTS) + len(SOAKS) + len(LINES) + len(PAGE[2]) + 4 - len(wrong)} passed, {len(wrong)} failed")
    sys.exit(bool(wrong))


main()
