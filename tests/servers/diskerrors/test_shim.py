"""What the shim makes of each plan, seen in a process that does one of each; and what the judge finds in planted books."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from plan import KINDS, Page, early  # noqa: E402

# Does one thing after another below the folder and prints what came of each.
PROCESS = """
import json, os, sys
root = sys.argv[1]
def tried(work):
    try:
        return work()
    except OSError as error:
        return -error.errno
journal, table = os.path.join(root, "engine/0.jnl"), os.path.join(root, "engine/keyspaces/1/tables/1")
fd = os.open(journal, os.O_RDWR | os.O_CREAT)
told = {"first": tried(lambda: os.write(fd, b"aaaa")), "flush": tried(lambda: os.fsync(fd) or 0)}
told["write"] = tried(lambda: os.write(fd, b"bbbb"))
told["second flush"] = tried(lambda: os.fsync(fd) or 0)
told["third flush"] = tried(lambda: os.fsync(fd) or 0)
told["read"] = tried(lambda: len(os.pread(fd, 100, 0)))
told["create"] = tried(lambda: os.close(os.open(table, os.O_WRONLY | os.O_CREAT)) or 0)
told["rename"] = tried(lambda: os.rename(journal, os.path.join(root, "engine/keyspaces/1/current")) or 0)
told["free"] = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
told["size"] = os.fstat(fd).st_size
print(json.dumps(told))
"""
WELL = {"first": 4, "flush": 0, "write": 4, "second flush": 0, "third flush": 0, "read": 8, "create": 0, "rename": 0, "size": 8}
IO, ROOM = -errno.EIO, -errno.ENOSPC

# Each plan, and what is different then.
PLANS = {
    "": {},
    f"write journal {errno.EIO} 1 1 plain": {"write": IO, "read": 4, "size": 4},
    f"write any {errno.EIO} 1 1 half": {"write": 2, "read": 6, "size": 6},
    f"write journal {errno.EIO} 1 1 quiet": {"read": 4, "size": 4},
    f"write journal {errno.ENOSPC} 1 -1 full": {"write": ROOM, "read": 4, "create": ROOM, "size": 4, "free": 0},
    f"flush journal {errno.EIO} 1 1 plain": {"second flush": IO, "read": 4, "size": 4},
    f"flush journal {errno.EIO} 1 1 quiet": {"read": 4, "size": 4},
    f"flush watermark {errno.EIO} 0 1 plain": {},
    f"read journal {errno.EIO} 0 1 plain": {"read": IO},
    f"create table {errno.EIO} 0 1 plain": {"create": IO},
    f"rename list {errno.EIO} 0 1 plain": {"rename": IO},
    "room any 0 4096 1 plain": {"free": 4096},
}


def the_shim_does_what_a_plan_says(shim):
    for plan, other in PLANS.items():
        with tempfile.TemporaryDirectory() as place:
            place = pathlib.Path(place)
            root = place / "store"
            (root / "engine/keyspaces/1/tables").mkdir(parents=True)
            page = Page(place / "plan")
            page.tell(plan)
            own = {"LD_PRELOAD": shim, "DISKERRORS_ROOT": root, "DISKERRORS_PLAN": place / "plan", "DISKERRORS_LOG": place / "log"}
            own = os.environ | {name: str(value) for name, value in own.items()}
            done = subprocess.run([sys.executable, "-c", PROCESS, str(root)], env=own, capture_output=True, text=True, check=True)
            told = json.loads(done.stdout)
            wanted = WELL | {"free": told["free"]} | other
            # The room of a real disk is not known.
            assert told == wanted, f"{plan}: {told} and not {wanted}"
            log = (place / "log").read_text()
            assert ("fired" in log) == bool(plan) - ("watermark" in plan), f"{plan}: {log}"
            assert ("again flush journal" in log) == ("flush journal" in plan and "quiet" not in plan), f"{plan}: {log}"


def an_event_that_is_answered_while_nothing_can_be_written_is_found(_):
    line = {"id": "1", "sent": 5.0, "at": 6.0}
    assert early([line], [("a fault", 4.0, 7.0, 7.0)])
    for stopped, opened in [(5.5, 7.0), (4.0, 5.5), (7.0, 9.0)]:
        assert not early([line], [("a fault", stopped, opened, opened)])


def each_kind_has_a_name_of_its_own(_):
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names)


def main():
    tests = [the_shim_does_what_a_plan_says, an_event_that_is_answered_while_nothing_can_be_written_is_found, each_kind_has_a_name_of_its_own]
    for test in tests:
        test(pathlib.Path(sys.argv[1]).absolute())
    print(f"  {len(tests)} tests of the disk-error shim and its judge", flush=True)


if __name__ == "__main__":
    main()
