"""Shows what the disk may have after a power cut and what it never has, and that the proof by order finds what is out of order."""

import os
import pathlib
import random
import subprocess
import sys
import tempfile

from answers import Answers
from folder import MODELS, SECTOR, WAYS, File, Folder, World
from record import Entry, read

ROOT = "/world"
SEEDS = 300


class Story:
    """A world to which things happen, one after the other."""

    def __init__(self):
        self.world, self.number, self.answers = World(ROOT), 0, Answers()
        self.answers.begin(self.world)

    def do(self, what, a=0, b=0, first=b"", second=b"", kind="", time=0.0):
        self.number += 1
        first = first.encode() if isinstance(first, str) else first
        entry = Entry(self.number, time, 1, what, kind, a, b, first, second.encode() if isinstance(second, str) else second)
        self.answers.follow(entry, self.world)
        self.world.follow(entry)
        return self.number

    def open(self, path, handle, flags=os.O_RDWR | os.O_CREAT, kind=""):
        self.do("open", handle, 0o100644 << 32 | flags, ROOT + path, kind=kind)

    def write(self, handle, at, data):
        self.do("write", handle, at, data)

    def flush(self, handle, kind="", time=0.0):
        self.do("flushed", handle, self.do("flush", handle, kind=kind, time=time), kind=kind, time=time)

    def flush_folder(self, path):
        self.open(path, 99, os.O_RDONLY)
        self.flush(99)
        self.do("close", 99)


def made(path="/file"):
    """A file that is there, empty, with its entry on the disk."""
    story = Story()
    story.open(path, 3)
    story.flush(3)
    story.flush_folder("")
    return story


def outcomes(tell, look, ways=WAYS, models=MODELS):
    """What the disk has, over many cuts of one story."""
    found = set()
    for seed in range(SEEDS):
        story = tell()
        dice = random.Random(seed)
        story.world.cut(dice, dice.choice(models), dice.choice(ways))
        found.add(look(story.world))
    return found


def content(world, name="file"):
    node = world.top.now.get(name)
    if node is None:
        return None
    text = bytearray(node.size)
    for number, block in node.blocks.items():
        part = block[: max(0, node.size - number * 4096)]
        text[number * 4096 : number * 4096 + len(part)] = part
    return bytes(text)


def flushed_stays():
    def tell():
        story = made()
        story.write(3, 0, b"a" * 2000)
        story.flush(3)
        return story

    assert outcomes(tell, content) == {b"a" * 2000}


def what_began_during_a_flush_is_not_covered():
    def tell():
        story = made()
        began = story.do("flush", 3)
        story.write(3, 0, b"a")
        story.do("flushed", 3, began)
        return story

    assert outcomes(tell, content) == {b"", b"a", b"\0"}, outcomes(tell, content)


def a_write_is_whole_missing_or_torn_at_sectors():
    def tell():
        story = made()
        story.write(3, 0, b"o" * 4 * SECTOR)
        story.flush(3)
        story.write(3, 0, b"n" * 4 * SECTOR)
        return story

    found = outcomes(tell, content)
    assert all(text[at : at + SECTOR] in (b"o" * SECTOR, b"n" * SECTOR) for text in found for at in range(0, 4 * SECTOR, SECTOR))
    # Each sector by itself: of sixteen ways few remain unseen.
    assert len(found) >= 12 and len({text[SECTOR - 1 :: SECTOR] for text in found}) == len(found), len(found)


def a_later_write_may_be_there_without_an_earlier_one():
    def tell():
        story = made()
        story.write(3, 0, b"o" * 2 * SECTOR)
        story.flush(3)
        story.write(3, 0, b"1" * SECTOR)
        story.write(3, SECTOR, b"2" * SECTOR)
        return story

    assert b"o" * SECTOR + b"2" * SECTOR in outcomes(tell, content)


def in_one_sector_a_later_write_brings_the_earlier_one():
    def tell():
        story = made()
        story.write(3, 0, b"o" * SECTOR)
        story.flush(3)
        story.write(3, 0, b"1")
        story.write(3, 1, b"2")
        return story

    starts = {text[:2] for text in outcomes(tell, content)}
    assert starts == {b"oo", b"1o", b"12"}, starts


def what_was_never_written_reads_as_zeros():
    def tell():
        story = made()
        story.do("size", 3, 3000)
        story.flush(3)
        story.write(3, 2900, b"x" * 10)
        return story

    found = outcomes(tell, content)
    assert found == {bytes(3000), bytes(2900) + b"x" * 10 + bytes(90)}, {len(text) for text in found}


def a_file_has_a_size_that_it_had():
    def tell():
        story = made()
        story.write(3, 0, b"a" * 100)
        story.flush(3)
        story.write(3, 100, b"b" * 900)
        story.do("size", 3, 50)
        return story

    found = outcomes(tell, content)
    assert {len(text) for text in found} == {50, 100, 1000}
    assert all(text[:50] == b"a" * 50 for text in found)


def what_was_cut_off_never_comes_back():
    def tell():
        story = made()
        story.write(3, 0, b"a" * 2000)
        story.flush(3)
        story.do("size", 3, 0)
        story.flush(3)
        story.write(3, 1000, b"b")
        return story

    assert all(b"a" not in text for text in outcomes(tell, content))


def a_new_file_may_be_missing_until_its_folder_is_flushed():
    def tell(folder=False, file=False):
        story = Story()
        story.open("/file", 3)
        if file:
            story.flush(3)
        if folder:
            story.flush_folder("")
        return story

    assert outcomes(tell, content) == {None, b""}
    assert outcomes(lambda: tell(folder=True), content) == {b""}
    assert outcomes(lambda: tell(file=True), content, models=["apart"]) == {b""}
    assert outcomes(lambda: tell(file=True), content, models=["strict"]) == {None, b""}


def a_rename_is_done_or_not():
    def tell():
        story = made()
        story.write(3, 0, b"old")
        story.flush(3)
        story.open("/new", 4)
        story.write(4, 0, b"new")
        story.flush(4)
        story.flush_folder("")
        story.do("rename", 0, 0, ROOT + "/new", ROOT + "/file")
        return story

    def look(world):
        return content(world), content(world, "new")

    assert outcomes(tell, look) == {(b"old", b"new"), (b"new", None)}


def a_removed_file_may_still_be_there_until_its_folder_is_flushed():
    def tell(flush=False):
        story = made()
        story.do("unlink", 0, 0, ROOT + "/file")
        if flush:
            story.flush_folder("")
        return story

    assert outcomes(tell, content) == {None, b""}
    assert outcomes(lambda: tell(True), content) == {None}


def entries_come_in_their_order_only_where_the_file_system_keeps_it():
    def tell():
        story = made()
        for handle, name in enumerate("ab", 5):
            story.open(f"/{name}", handle)
        return story

    def look(world):
        return "a" in world.top.now, "b" in world.top.now

    assert outcomes(tell, look, models=["ordered"]) == {(False, False), (True, False), (True, True)}
    assert (False, True) in outcomes(tell, look, models=["apart"])


def a_folder_that_is_missing_takes_along_what_is_in_it():
    def tell():
        story = made()
        story.do("mkdir", 0, 0o755, ROOT + "/folder")
        story.open("/folder/inner", 5)
        story.flush(5)
        story.flush_folder("/folder")
        return story

    def look(world):
        folder = world.top.now.get("folder")
        return folder and tuple(folder.now)

    assert outcomes(tell, look, models=["strict"]) == {None, ("inner",)}


def the_real_folder_becomes_what_was_chosen():
    with tempfile.TemporaryDirectory() as place:
        root = pathlib.Path(place).resolve()
        (root / "kept").write_bytes(b"k" * 10_000)
        (root / "gone").write_bytes(b"g")
        (root / "folder").mkdir()
        (root / "folder/inner").write_bytes(b"i")
        world = World.look(root)
        before = os.stat(root / "folder").st_ino
        world.top.now["kept"].touched = True
        del world.top.now["gone"]
        world.top.now["made"] = File(0o600)
        world.top.now["made"].write(1, 5000, b"m")
        world.top.now["made"].flushed(2)
        world.top.now["new"] = Folder()
        world.lay()
        assert sorted(os.listdir(root)) == ["folder", "kept", "made", "new"]
        assert (root / "made").read_bytes() == bytes(5000) + b"m" and os.stat(root / "made").st_mode & 0o777 == 0o600
        assert (root / "kept").read_bytes() == b"k" * 10_000
        assert os.stat(root / "folder").st_ino == before and not world.differences()
        (root / "kept").write_bytes(b"k" * 9_999 + b"x")
        assert len(world.differences()) == 1


def the_shim_records_all_that_a_process_does(shim):
    """Python does what a store does, and more; the record, replayed, is the real folder."""
    doing = """
import os, sys
os.chdir(sys.argv[1])
handle = os.open("one", os.O_RDWR | os.O_CREAT, 0o600)
os.write(handle, b"a" * 5000); os.pwrite(handle, b"b" * 10, 100); os.writev(handle, [b"c", b"d" * 600])
os.pwritev(handle, [b"p", b"q"], 9000)
os.ftruncate(handle, 20_000); os.fdatasync(handle)
other = os.dup(handle); os.close(handle); os.lseek(other, 0, 0); os.write(other, b"e"); os.fsync(other)
os.mkdir("folder"); os.rename("one", "folder/two"); os.link("folder/two", "folder/three"); os.unlink("folder/three")
target = os.open("copy", os.O_RDWR | os.O_CREAT)
os.copy_file_range(other, target, 3000, 50); os.lseek(other, 0, 0); os.sendfile(target, other, 0, 700)
appended = os.open("copy", os.O_WRONLY | os.O_APPEND); os.write(appended, b"f" * 9)
os.posix_fallocate(target, 0, 8192); os.fchmod(target, 0o640)
short = os.open("folder/two", os.O_WRONLY | os.O_TRUNC); os.write(short, b"g")
folder = os.open("folder", os.O_RDONLY); os.fsync(folder)
os.open("gone", os.O_CREAT | os.O_WRONLY, dir_fd=os.open(".", os.O_RDONLY)); os.unlink("gone")
os.mkdir("empty"); os.rmdir("empty")
"""
    with tempfile.TemporaryDirectory() as place:
        root, log = pathlib.Path(place).resolve() / "root", pathlib.Path(place) / "log"
        root.mkdir()
        world = World.look(root)
        own = os.environ | {"LD_PRELOAD": str(shim), "POWERCUT_ROOT": str(root), "POWERCUT_LOG": str(log)}
        subprocess.run([sys.executable, "-I", "-S", "-c", doing, str(root)], env=own, check=True)
        entries = list(read(log))
        for entry in entries:
            world.follow(entry)
        assert not world.differences(), world.differences()
        assert [entry.what for entry in entries].count("flushed") == 3, [entry.what for entry in entries]


def the_shim_kills_where_it_is_told(shim):
    doing = "import os, sys\nos.chdir(sys.argv[1])\nfor one in 'abc': os.mkdir(one); os.rename(one, one * 2)"
    for moment, left in [("mkdir/*:2", ["aa", "b"]), ("mkdir/*:1,rename/*:2", ["aa", "bb"]), ("rename/*:9", ["aa", "bb", "cc"])]:
        with tempfile.TemporaryDirectory() as place:
            root = pathlib.Path(place).resolve()
            own = os.environ | {"LD_PRELOAD": str(shim), "POWERCUT_ROOT": str(root), "POWERCUT_LOG": f"{root}.log", "POWERCUT_KILL": moment}
            subprocess.run([sys.executable, "-I", "-S", "-c", doing, str(root)], env=own, check=False)
            os.unlink(f"{root}.log")
            assert sorted(os.listdir(root)) == left, (moment, os.listdir(root))


ANSWER = b'HTTP/1.1 202 Accepted\r\n\r\n{"txn":"0123456789"}'


def journal():
    story = Story()
    story.open("/0.jnl", 3, kind="journal")
    story.do("write", 3, 0, b'{"x":1,"txn":"0123456789"}', kind="journal")
    return story


def an_answer_after_its_flush_is_right():
    story = journal()
    story.flush(3, kind="journal")
    story.do("sent", 7, first=ANSWER)
    assert story.answers.count == 1 and not story.answers.faults


def an_answer_before_its_flush_is_found():
    story = journal()
    began = story.do("flush", 3, kind="journal")
    story.do("sent", 7, first=ANSWER)
    story.do("flushed", 3, began, kind="journal")
    assert len(story.answers.faults) == 1


def an_answer_after_a_flush_that_began_too_early_is_found():
    story = Story()
    story.open("/0.jnl", 3, kind="journal")
    began = story.do("flush", 3, kind="journal")
    story.do("write", 3, 0, b'{"txn":"0123456789"}', kind="journal")
    story.do("flushed", 3, began, kind="journal")
    story.do("sent", 7, first=ANSWER)
    assert len(story.answers.faults) == 1


def an_answer_about_what_was_never_written_is_found():
    story = journal()
    story.flush(3, kind="journal")
    story.do("sent", 7, first=ANSWER.replace(b"0123", b"3210"))
    assert len(story.answers.faults) == 1


def a_refusal_needs_no_flush():
    story = journal()
    story.do("sent", 7, first=ANSWER.replace(b"202 Accepted", b"409 Conflict"))
    assert not story.answers.count and not story.answers.faults


def what_a_cut_left_there_may_be_answered_by_the_next_process():
    for way, faults in [("everything", 0), ("nothing", 1)]:
        story = journal()
        story.flush_folder("")
        story.world.cut(random.Random(1), "ordered", way)
        story.answers.begin(story.world)
        story.do("sent", 7, first=ANSWER)
        assert len(story.answers.faults) == faults, (way, story.answers.faults)


def a_txn_in_two_writes_is_seen():
    story = Story()
    story.open("/0.jnl", 3, kind="journal")
    story.do("write", 3, 0, b'{"txn":"01234', kind="journal")
    story.do("write", 3, 13, b'56789"}', kind="journal")
    story.flush(3, kind="journal")
    story.do("sent", 7, first=ANSWER)
    assert story.answers.count == 1 and not story.answers.faults


def marks(*flushes):
    story = Story()
    story.open("/watermark", 3, kind="watermark")
    for tenth in range(60):
        story.do("write", 3, 0, b"m", kind="watermark", time=tenth / 10)
        if tenth in flushes:
            story.flush(3, kind="watermark", time=tenth / 10)
    return story.answers.faults


def marks_are_flushed_every_second():
    assert not marks(0, 15, 30, 45)
    assert marks() and marks(0) and marks(0, 15, 30)


def main():
    shim = pathlib.Path(sys.argv[1]).absolute()
    failed, passed = 0, 0
    for name, test in list(globals().items()):
        if not callable(test) or getattr(test, "__module__", "") != "__main__" or name in HELPERS:
            continue
        try:
            test(shim) if test.__code__.co_argcount else test()
            passed += 1
        except Exception as error:
            failed += 1
            print(f"{name}: {type(error).__name__} {error}")
    print(f"power cuts: {passed} passed, {failed} failed")
    sys.exit(bool(failed) or not passed)


HELPERS = {"Story", "made", "outcomes", "content", "journal", "marks", "main"}
main()
