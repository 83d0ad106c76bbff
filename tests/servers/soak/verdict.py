"""The verdict on a soak: what is wrong, why a run shows nothing, and the table of what was tried."""

import collections
import time

import books
import layout as scene
from running import say

# A run shorter than this has wider bounds: what is warm after minutes is not after seconds.
SHORT = 600

# So many of each in a run, or it shows nothing; those in the second are for each minute.
LEAST = {
    "accepted": 200, "delivered": 2000, "deaths": 5, "came again": 20, "dropped": 5, "parked": 5, "repeats": 1, "refused": 3, "kills": 3,
    "stops": 1, "looks": 3,
}  # fmt: skip
EACH_MINUTE = {"accepted": 20, "delivered": 250, "kills": 1.5, "came again": 20, "deaths": 5}
EACH_METHOD = 100


def flat(marks, seconds, streams):
    """What grew beyond its bound. The warm mark and that at the end of the life are of one process, the last one is of a process that has just
    started; each was taken with nothing owed."""
    short = seconds < SHORT
    warm, end, last = (marks[name] for name in ("warm", "end of the life", "end"))
    part, more = (0.6, 64 << 20) if short else (0.2, 24 << 20)
    bounds = {
        "memory": warm["memory"] * (1 + part) + more,
        # Threads that wait for the disk end some time after they are done.
        "threads": warm["threads"] + 24,
        "descriptors": warm["descriptors"] + 64,
        "tasks": warm["tasks"] + 64,
        "timers": streams + scene.PROCESSES * scene.HOUSES,
        "disk": warm["disk"] + (128 << 20),
        "deleted": warm["deleted"] + (16 << 20),
    }
    faults = []
    # A process that has just started has no reason to take more than one that was warm.
    for when, mark in [("at the end of its life", end), ("at the end of the run", last)]:
        for name, most in bounds.items():
            if mark[name] > most:
                faults.append(f"{name} was {warm[name]} when warm and is {mark[name]} {when}, at most {most:.0f} was expected")
    return faults + [f"the gateway does not tell its {name}" for name in ("tasks", "timers") if warm[name] < 0]


def judge(soak):
    """Compares the books; returns faults, reasons why the run shows nothing, and what happened."""
    folder = soak.folder
    accepted = books.Accepted(books.read_accepted(folder / "accepted.book"))
    check = books.Check(soak.layout.streams, accepted, soak.gateway.killed)
    for number in range(scene.PROCESSES):
        check.read(books.read_came(folder / f"receivers-{number}.book"))
    faults = soak.faults + check.close(soak.final)
    faults += flat(soak.marks, 60 * soak.options.minutes, len(soak.layout.streams))
    tally = soak.tally()
    counts = collections.Counter({"accepted": accepted.count} | check.counts | soak.counts)
    counts.update({name: tally[name] for name in ("deaths", "repeats", "refused")})
    if accepted.count != tally["accepted"]:
        faults.append(f"the producers counted {tally['accepted']} events and wrote down {accepted.count}")
    minutes = soak.options.minutes
    least = {name: max(LEAST.get(name, 0), EACH_MINUTE.get(name, 0) * minutes) for name in LEAST | EACH_MINUTE}
    few = [f"only {counts[name]} {name}, at least {number:.0f} are needed to show anything" for name, number in least.items() if counts[name] < number]
    few += [f"only {check.of_way[way]} SETs by {way}" for way in scene.WAYS if check.of_way[way] < EACH_METHOD]
    return faults, few, counts, check.of_way, tally


def table(soak, counts, ways, tally):
    layout, gateway = soak.layout, soak.gateway
    never = counts["owed"] - counts["delivered"] - counts["parked"]
    answers = ", ".join(f"{name} {tally[name]}" for name in ("500", "503", "400", "drop", "lost", "late", "left"))
    rows = {
        "streams": f"{len(layout.streams)}, {layout.fan_out():.1f} for each event, {len(layout.subjects)} subjects, {len(layout.issuers)} issuers",
        "load": f"{soak.sets:.0f} SETs/s, {soak.rate:.1f} events/s; the producers paused {counts['pauses']} times",
        "events": f"{counts['accepted']} accepted, {tally['refused']} refused, {tally['repeats']} repeated, {tally['broken']} requests broken",
        "owed": f"{counts['owed']} = {counts['delivered']} taken + {counts['parked']} parked + {never} that never came; dropped {counts['dropped']}",
        "by method": ", ".join(f"{way} {ways[way]}" for way in scene.WAYS),
        "SETs": f"{counts['came']} came, {counts['came again']} of them again",
        "receivers": f"{tally['deaths']} deaths, {tally['hang-ups'] + tally['hang-ups while waiting']} hang-ups, {tally['sockets']} sockets",
        "answers": answers,
        "kills": f"{counts['kills']}, {counts['kills while starting']} of them while starting; {counts['stops']} stops, {gateway.starts} starts",
        "starts": f"ready after {max(gateway.ready_after):.1f} s at most",
        "looks": f"{counts['looks']}, the sums held at each; {gateway.searched.bytes >> 20} MiB of log searched, at levels {', '.join(sorted(gateway.levels))}",
    }
    for name, text in rows.items():
        say(f"{name:<11} {text}")
    for name in next(iter(soak.marks.values())):
        size = name in ("memory", "disk", "deleted")
        shown = ", ".join(f"{mark} {one[name] >> 20 if size else one[name]}" for mark, one in soak.marks.items())
        say(f"{name:<11} {shown}{' MiB' if size else ''}")


def again(options):
    """The command that repeats a run."""
    return f"again: cargo xtask soak --minutes {options.minutes:g} --streams {options.streams} --seed {options.seed}"


def give(soak):
    """Prints the table and what is wrong; whether the run was good."""
    options = soak.options
    faults, few, counts, ways, tally = judge(soak)
    table(soak, counts, ways, tally)
    for fault in faults[:40]:
        say(f"FAULT {fault}")
    for reason in few:
        say(f"TOO LITTLE {reason}")
    say(f"{len(faults)} faults in {time.monotonic() - soak.began:.0f} s, seed {options.seed}")
    if faults or few:
        say(again(options))
    tried = f"{counts['accepted']} events, {counts['delivered']} SETs, {options.streams} streams, {options.minutes:g} minutes"
    fired = ", ".join(f"{counts[name]} {name}" for name in ("kills", "stops", "deaths", "came again", "dropped", "parked"))
    options.proof = f"tried {tried} | fired {fired} | found {len(faults)}"
    return not faults and not few
