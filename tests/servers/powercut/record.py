"""Reads the record that the shim makes: one change or flush after the other, in the order of the disk's cache."""

import struct
from typing import NamedTuple

HEAD = struct.Struct("<IIQQIHHqqII")
MAGIC = 0x54554350
OPERATIONS = [
    "", "open", "close", "write", "size", "rename", "unlink", "rmdir", "mkdir", "link", "flush", "flushed", "dup", "mode", "sent",
    "strange", "start",
]  # fmt: skip
CLASSES = ["", "directory", "journal", "watermark", "table", "list", "aside", "secret", "other"]


class Entry(NamedTuple):
    """One operation: what it was done to, and two numbers and up to two texts that depend on what it is."""

    number: int
    time: float
    thread: int
    what: str
    kind: str
    a: int
    b: int
    first: bytes
    second: bytes


def read(path):
    """Yields what was recorded. What a kill cut off at the end was not done, as far as anybody can know."""
    with open(path, "rb") as file:
        while True:
            head = file.read(HEAD.size)
            if len(head) < HEAD.size:
                return
            magic, length, number, nanoseconds, thread, what, kind, a, b, first, second = HEAD.unpack(head)
            if magic != MAGIC or length != HEAD.size + first + second:
                raise ValueError(f"{path} is no record at byte {file.tell() - HEAD.size}")
            body = file.read(first + second)
            if len(body) < first + second:
                return
            yield Entry(number, nanoseconds / 1e9, thread, OPERATIONS[what], CLASSES[kind], a, b, body[:first], body[first:])
