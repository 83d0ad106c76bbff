"""Proves by the order of the record what the store promises of its flushes.

An answer that an event is accepted leaves after the flush of the journal that covers the event: the shim records an answer before it leaves,
and a flush when it has returned, so where the flush stands first, it was first. And the watermark is flushed once a second while
it is written.
"""

import re

STATUS = re.compile(rb"^HTTP/1\.1 (\d{3})")
TXN = re.compile(rb'"txn": ?"([^"]{8,})"')
# Seconds between two flushes of the watermark, and what a busy machine adds to them.
FLUSHED_EVERY = 1.0 + 1.0


class Answers:
    """Follows the records of one process after the other."""

    def __init__(self):
        # Events on the disk; and those that are written, with the journal and the record.
        self.covered, self.waiting = set(), {}
        self.count = self.marks = 0
        self.faults = []

    def begin(self, world):
        """A process starts: what was written and not flushed before is on the disk if the cut left it there."""
        for path, node in world.files():
            if self.waiting and path.endswith(".jnl"):
                there = set(TXN.findall(b"".join(block for _, block in sorted(node.blocks.items()))))
                self.covered |= there & set(self.waiting)
        # Journal -> the end of what was written last, and where that ends. Connection -> status of what is being answered.
        self.waiting, self.tails, self.status = {}, {}, {}
        self.due, self.flushed = None, None

    def follow(self, entry, world):
        match entry.what, entry.kind:
            case "write", "journal":
                self.written(entry, id(world.descriptors[entry.a]))
            case "flushed", "journal":
                journal = id(world.descriptors[entry.a])
                done = [txn for txn, (where, number) in self.waiting.items() if where == journal and number < entry.b]
                self.covered.update(done)
                for txn in done:
                    del self.waiting[txn]
            case "write", "watermark":
                self.mark(entry)
            case "flush", "watermark":
                self.flushed, self.due = entry.time, None
            case "sent", _:
                self.sent(entry)

    def written(self, entry, journal):
        # A text may lie in two writes that follow each other.
        tail, end = self.tails.get(journal, (b"", None))
        text = (tail if end == entry.b else b"") + entry.first
        self.tails[journal] = (text[-100:], entry.b + len(entry.first))
        for txn in TXN.findall(text):
            if txn not in self.covered:
                self.waiting.setdefault(txn, (journal, entry.number))

    def mark(self, entry):
        self.marks += 1
        if self.due is not None:
            self.faults.append(f"the watermark was written at record {self.due} and not flushed, {FLUSHED_EVERY} s after its last flush")
        late = self.flushed is not None and entry.time > self.flushed + FLUSHED_EVERY
        # The first is that of the opening, which is always flushed.
        self.due = entry.number if late or self.flushed is None else None

    def sent(self, entry):
        status = STATUS.match(entry.first)
        if status:
            self.status[entry.a] = status[1]
        if not self.status.get(entry.a, b"").startswith(b"2"):
            return
        for txn in TXN.findall(entry.first):
            self.count += 1
            if txn not in self.covered:
                where = "before the flush that covers it" if txn in self.waiting else "and was never written"
                self.faults.append(f"event {txn.decode()} was answered at record {entry.number} {where}")
