"""Plants each fault in honest books and demands that the comparison finds it."""

import copy
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "crash"), str(HERE.parent)]

import books  # noqa: E402
import layout  # noqa: E402
from books import HEAD_CAME, HEAD_ENDED, REFUSED, TAKEN, UNHEARD  # noqa: E402
from many import Log  # noqa: E402
from verdict import flat  # noqa: E402

NONE = {"owed": 0, "acknowledged": 0, "parked_total": 0, "dropped": 0, "waiting": 0}
STREAMS = {
    "pushed": {"number": 0, "way": "push", "subjects": [1, 2], "retention": {}},
    "polled": {"number": 1, "way": "poll", "subjects": [1], "retention": {}},
    "counted": {"number": 2, "way": "push", "subjects": [2], "retention": {"sets": 3}},
    "aged": {"number": 3, "way": "push", "subjects": [2], "retention": {"age": 5}},
}
KILLS = [500.0]


def accepted():
    """Ten events of each of two subjects, of which event 4 of subject 1 is to be refused. Event N was sent at 10 N."""
    return [[subject, number, 1000 * subject + number, 7, 10.0 * number, 10.0 * number + 0.1, subject == 1 and number == 4]
            for number in range(1, 11) for subject in (1, 2)]  # fmt: skip


def honest():
    came = []
    for number in range(1, 11):
        for name, stream in STREAMS.items():
            for subject in stream["subjects"]:
                # Those with a rule were away until event 8.
                if not stream["retention"] or number >= 8:
                    came.append(arrives(name, subject, number))
                    if (name, number) == ("pushed", 5):
                        came.append(arrives(name, subject, number))
                    came.append(ends(name, subject, number, REFUSED if (subject, number) == (1, 4) else TAKEN))
    told = {
        "pushed": NONE | {"owed": 20, "acknowledged": 19, "parked_total": 1},
        "polled": NONE | {"owed": 10, "acknowledged": 9, "parked_total": 1},
        "counted": NONE | {"owed": 10, "acknowledged": 3, "dropped": 7},
        "aged": NONE | {"owed": 10, "acknowledged": 3, "dropped": 7},
    }
    return accepted(), came, told


def arrives(name, subject, number):
    stream = STREAMS[name]["number"]
    one = 10_000 * (stream + 1) + 100 * subject + number
    return [HEAD_CAME, [stream, subject, number, one, one + 1, 1000 * subject + number, 7, 10.0 * number + 1]]


def ends(name, subject, number, how):
    return [HEAD_ENDED, [STREAMS[name]["number"], subject, number, how, 10.0 * number + 1]]


def find(came, head, name, subject, number):
    return next(place for place, (kind, record) in enumerate(came) if kind == head and record[:3] == [STREAMS[name]["number"], subject, number])


def record(came, head, name, subject, number):
    return came[find(came, head, name, subject, number)][1]


def without(came, name, subject, number):
    return [one for one in came if one[1][:3] != [STREAMS[name]["number"], subject, number]]


def lost(a, c, t):
    c[:] = without(c, "pushed", 2, 10)


def lost_in_both_books(a, c, t):
    c[:] = without(c, "pushed", 2, 10)
    t["pushed"].update(acknowledged=18, dropped=1)


def never_came_and_was_booked(a, c, t):
    del c[find(c, HEAD_CAME, "polled", 1, 10)]


def never_accepted(a, c, t):
    a.pop()
    a.pop()


def accepted_with_a_gap(a, c, t):
    del a[6]


def not_its_stream(a, c, t):
    c.append(arrives("pushed", 1, 10))
    c[-1][1][0] = STREAMS["counted"]["number"]


def another_jti(a, c, t):
    c.append(arrives("pushed", 1, 3))
    c[-1][1][3] += 50


def another_payload(a, c, t):
    c.append(arrives("pushed", 1, 3))
    c[-1][1][4] += 1


def one_jti_twice(a, c, t):
    record(c, HEAD_CAME, "polled", 1, 9)[3] = record(c, HEAD_CAME, "polled", 1, 10)[3]


def another_txn(a, c, t):
    record(c, HEAD_CAME, "polled", 1, 9)[5] += 1


def another_event(a, c, t):
    record(c, HEAD_CAME, "polled", 1, 9)[6] += 1


def before_the_earlier_one_was_taken(a, c, t):
    c.append(c.pop(find(c, HEAD_ENDED, "pushed", 2, 6)))


def out_of_order(a, c, t):
    one, other = find(c, HEAD_CAME, "polled", 1, 6), find(c, HEAD_CAME, "polled", 1, 7)
    c[one], c[other] = c[other], c[one]


def a_dropped_one_came_later(a, c, t):
    c += [arrives("counted", 2, 7), ends("counted", 2, 7, TAKEN)]


def refused_without_reason(a, c, t):
    record(c, HEAD_ENDED, "polled", 1, 6)[3] = REFUSED
    t["polled"].update(acknowledged=8, parked_total=2)


def dropped_too_few(a, c, t):
    t["counted"].update(dropped=6, acknowledged=4)


def dropped_too_many(a, c, t):
    t["aged"].update(dropped=8, acknowledged=2)


def still_waiting(a, c, t):
    t["polled"].update(acknowledged=8, waiting=1)


def not_listed(a, c, t):
    del t["polled"]


def owed_too_much(a, c, t):
    t["pushed"].update(owed=21, acknowledged=20)


FAULTS = [value for value in list(globals().values()) if getattr(value, "__code__", None) and value.__code__.co_varnames[:3] == ("a", "c", "t")]


def late(a, c, t):
    """It was taken when it was nearly too old, and its acknowledgement came too late."""
    record(c, HEAD_ENDED, "aged", 2, 9)[4] = 94.8
    t["aged"].update(dropped=8, acknowledged=2)


def unheard(a, c, t):
    """It was taken and nobody heard the answer."""
    record(c, HEAD_ENDED, "aged", 2, 9)[3] = UNHEARD
    t["aged"].update(dropped=8, acknowledged=2)


def unheard_and_heard_later(a, c, t):
    record(c, HEAD_ENDED, "pushed", 2, 9)[3] = UNHEARD
    c += [arrives("pushed", 2, 9), ends("pushed", 2, 9, TAKEN)]


FINE = [late, unheard, unheard_and_heard_later]

MEASURED = {"memory": 100 << 20, "threads": 10, "descriptors": 300, "tasks": 900, "timers": 500, "disk": 50 << 20, "deleted": 0}


def check(a, c, t, folder):
    """Writes the books and reads them, as a run does."""
    (folder / "accepted").write_bytes(b"".join(books.ACCEPTED.pack(*one) for one in a))
    forms = {HEAD_CAME: books.CAME, HEAD_ENDED: books.ENDED}
    (folder / "came").write_bytes(b"".join(head + forms[head].pack(*one) for head, one in c))
    found = books.Check(STREAMS, books.Accepted(books.read_accepted(folder / "accepted")), KILLS)
    found.read(books.read_came(folder / "came"))
    return found.close(t)


def measured():
    """What must be found in measurements, and what must not."""
    wrong = []
    marks = {name: dict(MEASURED) for name in ("warm", "end of the life", "end")}
    if found := flat(marks, 3600, 1000):
        wrong.append(f"flat measurements: {found}")
    for mark in ("end of the life", "end"):
        for name, number in MEASURED.items():
            grown = copy.deepcopy(marks)
            grown[mark][name] = 3 * number + (200 << 20 if name in ("memory", "disk", "deleted") else 2000)
            if len(flat(grown, 3600, 1000)) != 1:
                wrong.append(f"{name} that grows until the {mark}: {flat(grown, 3600, 1000)}")
    return wrong


def logged(folder):
    """A secret is found wherever it is in the log, also where one reading ends in the middle of it."""
    wrong = []
    for begin in ("", "x" * 100, "x" * 4000 + "\n"):
        path = folder / "log"
        path.write_text(begin + "here is can", encoding="utf-8")
        log = Log(path, {"a canary": b"canary1"})
        log.search()
        with open(path, "a", encoding="utf-8") as file:
            file.write("ary1, and more\n")
        log.search()
        if len(log.faults) != 1:
            wrong.append(f"a canary behind {len(begin)} bytes: {log.faults}")
    return wrong


def drawn():
    """Each event goes to so many streams, each stream gets events, and a layout is the same whenever it is drawn."""
    ports = [list(range(layout.HOUSES)), list(range(layout.HOUSES))]
    one = layout.draw(1, 1000, 80, ports)
    to = [0] * len(one.subjects)
    for stream in one.streams.values():
        for subject in stream["subjects"]:
            to[subject] += 1
    wrong = [] if layout.LEAST <= min(to) <= max(to) <= layout.MOST else [f"an event goes to {min(to)} to {max(to)} streams"]
    wrong += [] if one == layout.draw(1, 1000, 80, ports) else ["two layouts of one seed differ"]
    empty = [name for name, stream in one.streams.items() if not stream["subjects"]]
    wrong += [f"{len(empty)} streams get nothing"] if len(empty) > 20 else []
    rules = [{"sets", "age"} & set(stream["retention"]) for stream in one.streams.values()]
    return wrong + ([] if {"sets"} in rules and {"age"} in rules else ["no stream has a rule"])


def main():
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if found := check(*honest(), folder):
            wrong.append(f"honest books: {found}")
        for plant in FAULTS + FINE:
            a, c, t = copy.deepcopy(honest())
            plant(a, c, t)
            found = check(a, c, t, folder)
            if bool(found) == (plant in FINE):
                wrong.append(f"{plant.__name__}: {found}")
        wrong += measured() + logged(folder) + drawn()
    for line in wrong:
        print(f"FAULT {line}")
    print(f"books of the soak: {len(FAULTS) + len(FINE) + 4 - len(wrong)} right, {len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
