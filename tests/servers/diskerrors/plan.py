"""What is made to fail: the kinds of faults, what may follow from each, and the page of memory by which the shim is told."""

import errno
import mmap
import os
from typing import NamedTuple

IO, ROOM = errno.EIO, errno.ENOSPC
ONCE, ALWAYS = 1, -1

# What may follow. The process goes on as if nothing were, opens its store again, or ends with exit code 7; a start is refused with 7.
ON, AGAIN, ENDS = "went on", "opened again", "ended with 7"
EITHER = {ON, AGAIN, ENDS}


class Kind(NamedTuple):
    """One kind of fault.

    start:    it comes while the gateway starts.
    most:     up to how many of these operations pass first.
    may:      what may follow.
    answered: from the fault itself on no event may be answered; else from when the gateway says that it could not write.
    """

    name: str
    op: str
    file: str
    error: int
    times: int = ONCE
    mode: str = "plain"
    start: bool = False
    most: int = 3
    may: frozenset = frozenset(EITHER)
    answered: bool = False

    def line(self, skip):
        return f"{self.op} {self.file} {self.error} {skip} {self.times} {self.mode}"


def kind(name, op, file, error, may=EITHER, **more):
    return Kind(name, op, file, error, may=frozenset(may), **more)


# A flush that the disk does not confirm ends the process, whatever file it is of.
KINDS = [
    kind("journal flush", "flush", "journal", IO, {ENDS}, most=30, answered=True),
    kind("journal flush, again and again", "flush", "journal", IO, {ENDS}, times=ALWAYS, most=30, answered=True),
    kind("journal write", "write", "journal", IO, {AGAIN, ENDS}, most=30, answered=True),
    kind("journal write, half", "write", "journal", IO, {AGAIN, ENDS}, mode="half", most=30, answered=True),
    kind("journal write, again and again", "write", "journal", IO, {ENDS}, times=ALWAYS, most=30, answered=True),
    kind("journal write, full", "write", "journal", ROOM, {AGAIN}, times=ALWAYS, mode="full", most=30, answered=True),
    kind("journal write, no room once", "write", "journal", ROOM, {AGAIN}, most=30, answered=True),
    kind("watermark flush", "flush", "watermark", IO, {ENDS}, most=2),
    kind("watermark write", "write", "watermark", IO, {AGAIN, ENDS}, most=30),
    kind("watermark write, again and again", "write", "watermark", IO, {ENDS}, times=ALWAYS, most=30),
    kind("table write", "write", "table", IO, {AGAIN, ENDS}, most=20),
    kind("table write, full", "write", "table", ROOM, {AGAIN}, times=ALWAYS, mode="full", most=20),
    kind("table flush", "flush", "table", IO, {ENDS}, most=6),
    kind("table made, full", "create", "table", ROOM, {AGAIN}, times=ALWAYS, mode="full", most=6),
    kind("table made", "create", "table", IO, {AGAIN, ENDS}, most=6),
    kind("table read", "read", "table", IO, most=6),
    kind("list write", "write", "list", IO, {AGAIN, ENDS}, most=6),
    kind("list flush", "flush", "list", IO, {ENDS}, most=6),
    kind("list made, full", "create", "list", ROOM, {AGAIN}, times=ALWAYS, mode="full", most=6),
    kind("list renamed", "rename", "list", IO, {AGAIN, ENDS}, most=4),
    kind("folder flush", "flush", "folder", IO, {ENDS}, most=8),
    kind("only the reserve is free", "room", "any", 0, {ON}),
    kind("journal read at the start", "read", "journal", IO, {ENDS}, times=ALWAYS, start=True),
    kind("journal flush at the start", "flush", "journal", IO, {ENDS}, start=True, most=2),
    kind("journal write at the start", "write", "journal", IO, {AGAIN, ENDS}, start=True, most=1),
    kind("watermark read at the start", "read", "watermark", IO, {ENDS}, times=ALWAYS, start=True, most=0),
    kind("one slot of the watermark read at the start", "read", "watermark", IO, {ENDS}, start=True, most=1),
    kind("watermark flush at the start", "flush", "watermark", IO, {ENDS}, start=True, most=0),
    kind("watermark write at the start", "write", "watermark", IO, {AGAIN, ENDS}, start=True, most=0),
    kind("table read at the start", "read", "table", IO, start=True, most=12),
    kind("list read at the start", "read", "list", IO, {ENDS}, start=True, most=8),
    kind("copy aside at the start", "write", "aside", IO, {ENDS}, start=True, most=2),
    kind("flush of the copy aside at the start", "flush", "aside", IO, {ENDS}, start=True, most=0),
    kind("identity read at the start", "read", "instance", IO, {ENDS}, start=True, most=0),
    kind("identity write at the start", "write", "instance", IO, {ENDS}, start=True, most=0),
    kind("identity flush at the start", "flush", "instance", IO, {ENDS}, start=True, most=0),
    kind("identity renamed at the start", "rename", "instance", IO, {ENDS}, start=True, most=0),
    kind("folder flush at the start", "flush", "folder", IO, {ENDS}, start=True, most=2),
    kind("full at the start", "write", "journal", ROOM, {AGAIN, ON}, times=ALWAYS, mode="full", start=True, most=1),
]  # fmt: skip


class Page:
    """The page that the shim reads."""

    def __init__(self, path):
        path.write_bytes(bytes(mmap.PAGESIZE))
        self.number, self.fd = 0, os.open(path, os.O_RDWR)

    def tell(self, line=""):
        """Gives a plan; with nothing in it nothing fails any more."""
        self.number += 1
        os.pwrite(self.fd, line.encode() + b"\0", 8)
        os.pwrite(self.fd, self.number.to_bytes(8, "little"), 0)


def early(accepted, windows):
    """Events that were answered while the store could not write."""
    faults = []
    for name, stopped, opened, _ in windows:
        some = [line["id"] for line in accepted if line["sent"] > stopped and line["at"] < opened]
        faults += [f"{name}: {len(some)} events were accepted although nothing could be written: {some[:3]}"] if some else []
    return faults
